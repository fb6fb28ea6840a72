"""The web page in headless Chromium: chat, settings, charts, keyboard, small screens."""

from __future__ import annotations

import re

from playwright.sync_api import Browser, Locator, Page, expect

from tests.web_tools import Script


def say(page: Page, text: str) -> None:
    page.fill("#input", text)
    page.press("#input", "Enter")


def finished(page: Page, answers: int = 1) -> Locator:
    """The last of so many answers, when it is complete."""
    turns = page.locator(".turn.assistant")
    expect(turns).to_have_count(answers)
    expect(page.locator("#send")).to_be_visible()
    return turns.last


def contents(body: dict[str, list[dict[str, str]]]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in body["messages"]]


def test_an_answer_streams_in_and_is_counted(page: Page, script: Script) -> None:
    script.text, script.delay = "one two three four five six seven " * 6, 0.02
    expect(page.locator("#model")).to_have_value("scripted")
    say(page, "Count.")
    body = page.locator(".turn.assistant .body")
    expect(body).to_contain_text("one two")
    assert len(body.inner_text()) < len(script.text), "it is shown while it comes"
    expect(page.locator("#stop")).to_be_visible()
    answer = finished(page)
    expect(answer.locator(".body")).to_have_text(script.text.strip())
    note = answer.locator(".note").inner_text()
    assert re.fullmatch(
        r"51 tokens · \d+\.\d tokens/s · first after [\d.]+ m?s · 9 prompt tokens \(5 cached\)", note
    ), note
    (sent,) = script.bodies
    assert sent == {
        "model": "scripted",
        "messages": [{"role": "user", "content": "Count."}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    say(page, "Again.")
    finished(page, 2)
    assert contents(script.bodies[1]) == [
        ("user", "Count."),
        ("assistant", script.text),
        ("user", "Again."),
    ]


def test_stopping_keeps_what_came_and_reaches_the_server(page: Page, script: Script) -> None:
    script.text, script.hold_after = "abcdefgh" * 4, 3
    say(page, "Go on.")
    expect(page.locator(".turn.assistant .body")).to_have_text("abcdefghabcd")
    page.keyboard.press("Escape")
    answer = finished(page)
    expect(answer.locator(".note")).to_contain_text("stopped")
    assert script.left.wait(10), "the server was not told"
    script.hold_after = None
    say(page, "And now?")
    finished(page, 2)
    assert ("assistant", "abcdefghabcd") in contents(script.bodies[1])
    script.hold_after = 0
    say(page, "Nothing yet.")
    page.click("#stop")
    finished(page, 3)
    script.hold_after = None
    say(page, "Last.")
    finished(page, 4)
    assert ("user", "Nothing yet.") not in contents(script.bodies[3]), "what got no answer is no part of it"


def test_another_answer_replaces_the_last(page: Page, script: Script) -> None:
    say(page, "What?")
    finished(page)
    script.text = "Another."
    page.click(".turn.assistant .again")
    expect(finished(page).locator(".body")).to_have_text("Another.")
    assert contents(script.bodies[0]) == contents(script.bodies[1])
    page.click("#new")
    expect(page.locator(".turn")).to_have_count(0)
    expect(page.locator("#empty")).to_be_visible()
    expect(page.locator("#input")).to_be_focused()


def test_settings_are_sent_and_kept(page: Page, script: Script) -> None:
    page.fill("[name=system]", "Be brief.")
    page.fill("[name=temperature]", "0.2")
    page.fill("[name=seed]", "7")
    page.fill("[name=stop]", "END\nstop here\n")
    page.fill("[name=api_key]", "secret")
    say(page, "Hi")
    finished(page)
    sent = script.bodies[0]
    fields = ("temperature", "seed", "stop", "top_p", "max_tokens")
    assert {name: sent.get(name) for name in fields} == {
        "temperature": 0.2,
        "seed": 7,
        "stop": ["END", "stop here"],
        "top_p": None,
        "max_tokens": None,
    }
    assert contents(sent)[0] == ("system", "Be brief.")
    assert script.keys == ["Bearer secret"]
    assert "secret" not in str(page.evaluate("() => Object.values(localStorage)"))
    page.reload()
    expect(page.locator("[name=temperature]")).to_have_value("0.2")
    expect(page.locator("[name=api_key]")).to_have_value("secret")
    expect(page.locator(".turn")).to_have_count(2)  # the conversation is still there
    page.fill("[name=temperature]", "-3")
    say(page, "Refused by the form")
    expect(page.locator(".turn")).to_have_count(2)
    page.click("text=Take all settings back")
    expect(page.locator("[name=system]")).to_have_value("")
    page.press("#input", "Enter")
    finished(page, 2)
    assert set(script.bodies[-1]) == {"model", "messages", "stream", "stream_options"}


def test_errors_are_shown_and_leave_no_trace(page: Page, script: Script) -> None:
    script.error = (400, "max_tokens is 0; <b>allowed</b> is 1 or more")
    say(page, "Bad")
    alert = finished(page).locator("[role=alert]")
    expect(alert).to_have_text("max_tokens is 0; <b>allowed</b> is 1 or more")
    script.error = None
    say(page, "Good")
    finished(page, 2)
    assert contents(script.bodies[1]) == [("user", "Good")]
    script.break_off = True
    say(page, "Half")
    expect(finished(page, 3).locator("[role=alert]")).to_have_text("The stream broke off.")
    expect(page.locator(".turn.assistant .body").last).to_have_text("Hello.")


def test_charts_follow_the_engine(page: Page, script: Script) -> None:
    charts = page.locator(".chart")
    expect(charts).to_have_count(3)
    numbers = page.locator(".chart b")
    expect(numbers.nth(0)).to_have_text("3")  # running
    expect(numbers.nth(1)).to_have_text("2")  # waiting
    expect(numbers.nth(2)).to_have_text("25 %")
    expect(numbers.nth(3)).to_have_text(re.compile(r"^\d{2,3}$"))  # 100 tokens a scrape, one about every second
    expect(numbers.nth(4)).to_have_text("0")
    expect(charts.nth(0).locator(".l0.line")).to_have_attribute("d", re.compile(r"^M[\d.]+ [\d.]+L"))
    page.click("#panel-toggle")
    page.wait_for_timeout(300)
    before = script.scrapes
    page.wait_for_timeout(1500)
    assert script.scrapes <= before + 1, "nobody looks"
    script.metrics = False
    page.click("#panel-toggle")
    expect(page.locator("#engine-note")).to_contain_text("No figures")


def test_the_keyboard_is_enough(page: Page, script: Script) -> None:
    expect(page.locator("#input")).to_be_focused()
    page.keyboard.type("first")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("second")
    page.keyboard.press("Enter")
    finished(page)
    assert contents(script.bodies[0]) == [("user", "first\nsecond")]
    page.keyboard.press("Alt+s")
    expect(page.locator("#panel")).to_be_hidden()
    page.keyboard.press("Alt+s")
    expect(page.locator("[name=system]")).to_be_focused()
    page.keyboard.press("Alt+n")
    expect(page.locator(".turn")).to_have_count(0)
    page.locator("header button").first.focus()
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("() => document.activeElement.id || document.activeElement.name"))
    assert {"theme", "panel-toggle", "log", "input", "send", "temperature", "api_key"} <= seen
    unnamed = page.evaluate(
        "() => [...document.querySelectorAll('button, input, textarea, select')]"
        ".filter((e) => !(e.labels?.length || e.textContent.trim() || e.ariaLabel)).length"
    )
    assert unnamed == 0


def test_light_dark_and_phones(browser: Browser, address: str, script: Script) -> None:
    script.text = "```\n" + "wide " * 80 + "\n```\n\n| a | b |\n|---|---|\n| " + "wide " * 60 + " | x |"
    context = browser.new_context(
        viewport={"width": 360, "height": 700}, is_mobile=True, has_touch=True, color_scheme="dark"
    )
    phone = context.new_page()
    phone.goto(address)
    expect(phone.locator("#panel")).to_be_hidden()
    phone.fill("#input", "Hi")
    phone.tap("#send")
    finished(phone)
    width = phone.evaluate("() => [document.documentElement.scrollWidth, window.innerWidth]")
    assert width[0] <= width[1], "the page itself never scrolls sideways"
    phone.tap("#panel-toggle")
    expect(phone.locator("[name=temperature]")).to_be_visible()
    assert phone.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
    phone.set_viewport_size({"width": 1100, "height": 700})
    phone.click("#theme")
    expect(phone.locator("#theme")).to_have_text("Theme: light")
    assert phone.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    context.close()
