"""Markdown of models in the page: its elements, what must never become one, and texts that grow."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page

RENDER = """async (texts) => {
  const { render } = await import("/web/markdown.js");
  const home = document.createElement("div");
  for (const text of texts) render(home, text);
  return home.innerHTML;
}"""

TEXT = """# Title

A **bold *and* slanted** `code` line,
second line with https://heddle.example/a_b_c. And [a link](https://heddle.example/x?y=1&z=2).

1. one
   - inner **x**
   - inner

     more
2. two
3) three

```python
def f(a: int) -> str:  # **not bold**
    return "<b>"
```

> quoted
> - list

| a | b |
|:-:|--:|
| `x` | 1 |

---
~~gone~~ snake_case_name 2 * 3 * 4 \\*escaped\\*
"""


def html(page: Page, *texts: str) -> str:
    return str(page.evaluate(RENDER, list(texts)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "<p>plain</p>"),
        ("a\nb\n\nc", "<p>a<br>b</p><p>c</p>"),
        ("# T", "<h3>T</h3>"),
        (
            "**a** __b__ *c* _d_ ~~e~~",
            "<p><strong>a</strong> <strong>b</strong> <em>c</em> <em>d</em> <del>e</del></p>",
        ),
        ("**a *b* c**", "<p><strong>a <em>b</em> c</strong></p>"),
        ("`a*b*` ``x`y``", "<p><code>a*b*</code> <code>x`y</code></p>"),
        ("a_b_c 2 * 3 * 4 ** 5", "<p>a_b_c 2 * 3 * 4 ** 5</p>"),
        ("**open *and open `too", "<p>**open *and open `too</p>"),
        ("\\*a\\*", "<p>*a*</p>"),
        ("- a\n- b", "<ul><li>a</li><li>b</li></ul>"),
        ("1. a\n  - b\n2. c", "<ol><li>a<ul><li>b</li></ul></li><li>c</li></ol>"),
        ("3. a", '<ol start="3"><li>a</li></ol>'),
        ("- a\n1. b", "<ul><li>a</li></ul><ol><li>b</li></ol>"),
        ("> a\n> b", "<blockquote><p>a<br>b</p></blockquote>"),
        ("***", "<hr>"),
        ("a | b", "<p>a | b</p>"),
    ],
)
def test_elements(page: Page, text: str, expected: str) -> None:
    assert html(page, text) == expected


def test_code_and_tables(page: Page) -> None:
    found = html(page, "~~~c\nint x; // ```\n~~~\n|a|b|\n|-|:-:|\n|1|2|3|")
    assert "<span>c</span>" in found
    assert '<pre tabindex="0"><code>int x; // ```</code></pre>' in found
    assert '<td class="left">1</td><td class="center">2</td></tr>' in found


def test_links_go_to_the_web_alone(page: Page) -> None:
    found = html(page, "[a](https://heddle.example/) <https://heddle.example/b>, [m](mailto:a@heddle.example)")
    assert found.count('target="_blank" rel="noopener noreferrer nofollow"') == 3
    for address in ("javascript:alert(1)", "JaVaScRiPt:alert(1)", "data:text/html,x", "vbscript:x", "//elsewhere", "x"):
        assert "href" not in html(page, f"[a]({address})")


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<a href='javascript:alert(1)'>x</a>",
        "`<svg onload=alert(1)>`",
        '```"><img src=x onerror=alert(1)>\n</code><script>alert(1)</script>\n```',
        '[x](https://a.example/"onmouseover="alert(1))',
        "| <img src=x onerror=alert(1)> |\n|---|\n| <script>alert(1)</script> |",
        "![x](https://elsewhere.example/pixel.png)",
        "# <iframe src=//elsewhere.example>",
    ],
)
def test_text_stays_text(page: Page, text: str) -> None:
    count = """async (text) => {
      const { render } = await import("/web/markdown.js");
      const home = document.body.appendChild(document.createElement("div"));
      render(home, text);
      const bad = home.querySelectorAll("script, img, svg, iframe, object, [onerror], [onload], [onmouseover]").length;
      home.remove();
      return bad;
    }"""
    assert page.evaluate(count, text) == 0  # dialogs and requests to elsewhere fail the fixture


def test_growing_texts_end_as_whole_ones(page: Page) -> None:
    grown = html(page, *(TEXT[:i] for i in range(len(TEXT) + 1)))
    assert grown == html(page, TEXT)
    assert html(page, TEXT, "short") == "<p>short</p>"
    for tag in ("<h3>", "<strong>", "<em>", "<ol", "<ul>", "<pre", "<blockquote>", "<table>", "<hr>", "<del>"):
        assert tag in grown


@pytest.mark.parametrize(
    "unit",
    [
        "*",
        "**a ",
        "_a ",
        "`",
        "`` ` ",
        "[",
        "[a](",
        "> ",
        "- ",
        " ",
        "# ",
        "|",
        "|-",
        "~~a",
        "http://",
        "\\",
        "1. ",
        "   -",
        "*a_",
    ],
)
def test_no_text_takes_long(page: Page, unit: str) -> None:
    page.set_default_timeout(5000)
    for text in (unit * 20_000, "a" + unit * 20_000 + "\n" + "|" + "-" * 999, "# " + unit * 5000 + "x"):
        assert html(page, text) is not None
    deep = "".join("  " * i + unit + "\n" for i in range(200))
    assert html(page, deep) is not None
