"""The page as the real server serves it, with tinydoc behind it and an API key in front."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from heddle import AsyncLLM
from heddle.runtime.server.app import create_app
from heddle.runtime.server.settings import Settings
from tests.web_tools import running


@pytest.fixture(scope="module")
def server(tinydoc: Path) -> Iterator[str]:
    with (
        AsyncLLM(tinydoc, threads=2) as model,
        running(create_app(model, Settings(names=("tinydoc",), api_keys=("secret",)))) as url,
    ):
        yield url


def test_chat_and_charts_on_a_real_model(browser: Browser, server: str) -> None:
    page = browser.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server)
    expect(page.locator("#model")).to_have_text("needs an API key")
    expect(page.locator("#engine-note")).to_contain_text("API key")
    expect(page.locator("#health")).to_have_attribute("data-state", "ok")
    page.fill("[name=api_key]", "secret")
    page.press("[name=api_key]", "Tab")
    expect(page.locator("#model")).to_have_value("tinydoc")
    page.fill("[name=max_tokens]", "120")
    page.fill("[name=seed]", "3")
    page.fill("#input", "What is a page table?")
    page.press("#input", "Enter")
    expect(page.locator("#send")).to_be_visible()
    expect(page.locator(".turn.assistant .note")).to_have_text(
        re.compile(r"^\d+ tokens · [\d.]+ tokens/s · first after .* · \d+ prompt tokens")
    )
    first = page.locator(".turn.assistant .body").inner_text()
    assert first.strip()
    page.click(".turn.assistant .again")
    expect(page.locator("#send")).to_be_visible()
    assert page.locator(".turn.assistant .body").inner_text() == first, "a seed gives the same answer again"
    expect(page.locator(".chart b").nth(2)).to_have_text(re.compile(r"^\d+ %$"))
    expect(page.locator(".chart .line.l0").nth(2)).to_have_attribute("d", re.compile("L"))
    expect(page.locator("#engine-note")).to_have_text("")
    # What the model cannot do is said by the server.
    page.fill("#input", "far too long " * 2000)
    page.press("#input", "Enter")
    expect(page.locator("[role=alert]")).to_contain_text("context")
    assert errors == []
    page.close()
