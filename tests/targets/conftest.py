"""An artifact for all portable targets; headless Chromium, and a page of a server that follows a script.

`make test-targets` installs what is needed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from heddle.compiler.driver import compile_model
from heddle.schedules.target import PROFILES
from tests.conftest import ROOT
from tests.web_tools import Script, running, scripted

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def everywhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example model for every portable target of every architecture; copy it before damaging it."""
    output = tmp_path_factory.mktemp("everywhere") / "tinydoc.heddle"
    targets = [profile.name for profile in PROFILES.values() if profile.portable]
    return compile_model(ROOT / "examples" / "tinydoc", output, target=targets)


Launch = Callable[..., Browser]


@pytest.fixture(scope="session")
def launch() -> Iterator[Launch]:
    """Starts Chromium with these flags. A process can have one Playwright, so all browsers of the tests are of this one."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    assert found, f"none of {', '.join(NAMES)} is installed (Debian: apt-get install chromium)"
    with sync_playwright() as playwright:
        # Root has no sandbox; the pages are our own.
        yield lambda *flags: playwright.chromium.launch(executable_path=found, args=["--no-sandbox", *flags])


@pytest.fixture(scope="session")
def browser(launch: Launch) -> Iterator[Browser]:
    launched = launch()
    yield launched
    launched.close()


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def address(script: Script) -> Iterator[str]:
    with running(scripted(script)) as url:
        yield url


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page, open; at the end nothing may have gone wrong in it that the test did not provoke."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(10_000)
    errors: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type == "error" and "the server responded with a status of" not in message.text:
            errors.append(message.text)

    opened.on("console", note)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("dialog", lambda dialog: errors.append(f"dialog {dialog.message}"))
    elsewhere: list[str] = []
    opened.on("request", lambda sent: None if sent.url.startswith(address) else elsewhere.append(sent.url))
    opened.goto(address)
    yield opened
    context.close()
    assert (errors, elsewhere) == ([], [])
