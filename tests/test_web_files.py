"""The files of the web page, without a browser: they are served as they should be, and need nothing from elsewhere."""

from __future__ import annotations

import re

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from heddle.runtime.server.page import FOLDER, PREFIX, TYPES, page_routes

FILES = sorted(path.name for path in FOLDER.iterdir())
TEXTS = {name: (FOLDER / name).read_text() for name in FILES}
SCRIPTS = [name for name in FILES if name.endswith(".js")]
NAMESPACE = "http://www.w3.org/2000/svg"  # a name, which nobody fetches


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(Starlette(routes=page_routes()))


@pytest.mark.parametrize("path", ["/", *(PREFIX + name for name in FILES)])
def test_files_are_served_with_types_and_a_policy(client: TestClient, path: str) -> None:
    name = path.removeprefix(PREFIX) if path != "/" else "index.html"
    found = client.get(path)
    assert (found.status_code, found.content) == (200, (FOLDER / name).read_bytes())
    assert found.headers["content-type"] == TYPES["." + name.rpartition(".")[2]]
    assert found.headers["x-content-type-options"] == "nosniff"
    policy = dict(part.split(" ", 1) for part in found.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    again = client.get(path, headers={"if-none-match": found.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = client.head(path)
    assert (head.status_code, head.content) == (200, b"")


def test_nothing_else_of_the_machine_is_served(client: TestClient) -> None:
    for path in ("/web/", "/web/../page.py", "/web/%2e%2e/page.py", "/web/page.py", "/web//etc/passwd"):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize("name", FILES)
def test_no_file_reaches_out(name: str) -> None:
    text = TEXTS[name].replace(NAMESPACE, "")
    assert not re.search(r"(?:https?:)?//[\w-]+\.\w", text), "an address of another server"
    assert not re.search(r"@import|url\(", text)


def test_the_page_has_nothing_inline_and_all_it_asks_for_is_there() -> None:
    page = TEXTS["index.html"]
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    wanted = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert {"web/main.js", "web/style.css"} <= set(wanted)
    assert {name.removeprefix("web/") for name in wanted} <= set(FILES)
    for name in SCRIPTS:
        modules = re.findall(r'from "\./([\w.]+)"', TEXTS[name])
        assert set(modules) <= set(FILES), f"{name} imports what is not there"
    asked = set(re.findall(r'\$\("([\w-]+)"\)', TEXTS["main.js"]))
    assert asked <= set(re.findall(r'id="([\w-]+)"', page)), "main.js looks for an element that the page lacks"


@pytest.mark.parametrize("name", SCRIPTS)
def test_text_never_becomes_markup(name: str) -> None:
    found = re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc", TEXTS[name]
    )
    assert not found, f"{name} uses {found}"
