"""The report in a browser: headless Chromium, wide and narrow, light and dark.

Needs Debian's package `chromium`, which .ci/run installs.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sweep_folder import make_spec, write_run, write_sweep

from pspnet_lightning.report import gather, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")

VIEWS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]

# Every box of text that can be seen, with the colours it is drawn in; scrolled parts as they stand.
TEXTS = """() => {
  const shown = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; node = walker.nextNode();) {
    if (!node.textContent.trim() || node.parentElement.closest("title, style")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const own = node.parentElement;
    if (!own.checkVisibility()) continue;
    let back = own, layers = [];
    for (; back; back = back.parentElement) layers.push(getComputedStyle(back).backgroundColor);
    const style = getComputedStyle(own);
    const svg = own.closest("svg") !== null;
    for (const box of range.getClientRects()) {
      if (box.width < 1 || box.height < 1) continue;
      shown.push({
        text: node.textContent.trim().slice(0, 40), left: box.left, right: box.right, top: box.top + scrollY,
        bottom: box.bottom + scrollY, ink: svg ? style.fill : style.color, opacity: style.opacity, layers,
        scrolled: own.closest(".scroll, pre") !== null,
      });
    }
  }
  return shown;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with playwright.sync_playwright() as engine:
        found = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # a root in a container
        yield found
        found.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A usual sweep, one that is hard to lay out, a single run, and one that failed."""
    folder = tmp_path_factory.mktemp("reports")
    write_sweep(folder / "usual")
    spec = make_spec(60)
    for number in range(14):
        words = [f"model.bins=[{','.join(map(str, range(1, number + 2)))}]", f"data.lr={0.0123456789 * (number + 1)}"]
        write_run(folder / "hard" / str(number), words, [0.5 + number / 100] * 60, spec=spec, losses=(1.0,) * 40)
    error = "OSError: " + "/a/very/long/path/without/any/space" * 8
    write_run(folder / "hard" / "14", ["model.bins=[1]", "data.lr=1e-9"], None, error=error)
    write_run(folder / "one", ["seed=3"], [0.5, 0.7])
    write_run(folder / "failed", ["seed=3"], None, error=error)
    return {
        name: write_report(gather(folder / name), folder / f"{name}_report")[0]
        for name in ("usual", "hard", "one", "failed")
    }


@pytest.mark.parametrize("name", ["usual", "hard", "one", "failed"])
@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_the_page(browser: Any, reports: dict[str, Path], name: str, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(reports[name].as_uri())
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    assert [url for url in requests if not url.startswith("data:")] == [reports[name].as_uri()]
    assert complaints == []
    # As wide as the window and no wider; what is wider scrolls in its own box.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    texts = page.evaluate(TEXTS)
    assert len(texts) > 30
    for text in texts:
        assert text["scrolled"] or (text["left"] >= 0 and text["right"] <= width + 0.5), text
        assert contrast(text) >= 4.5, text
    assert overlaps(texts) == []
    page.close()


def test_the_checks_would_notice(browser: Any) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.set_content("<body style='background: white'><p style='height: 4px; color: #999'>one</p><p>two</p></body>")
    page.add_style_tag(content="p { margin: 0; font-size: 16px; }")
    texts = page.evaluate(TEXTS)
    assert len(overlaps(texts)) == 1
    assert [contrast(text) < 4.5 for text in texts] == [True, False]
    page.close()


def overlaps(texts: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Pairs of texts that cover each other by more than a pixel both ways."""
    found = []
    ordered = sorted(texts, key=lambda text: text["top"])
    for index, one in enumerate(ordered):
        for other in ordered[index + 1 :]:
            if other["top"] > one["bottom"] - 1:
                break
            across = min(one["right"], other["right"]) - max(one["left"], other["left"])
            down = min(one["bottom"], other["bottom"]) - other["top"]
            if across > 1 and down > min(3.0, 0.2 * (one["bottom"] - one["top"])):
                found.append((one["text"], other["text"]))
    return found


def contrast(text: dict[str, Any]) -> float:
    """WCAG's contrast of a text with what lies below it, 1 to 21."""
    back = (255.0, 255.0, 255.0)
    for layer in reversed(text["layers"]):
        back = _over(layer, back)
    red, green, blue, alpha = _colour(text["ink"])
    ink = _over(f"rgba({red}, {green}, {blue}, {alpha * float(text['opacity'])})", back)
    light, dark = sorted((_luminance(ink), _luminance(back)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _colour(css: str) -> tuple[float, float, float, float]:
    parts = [float(part) for part in css[css.index("(") + 1 : -1].split(",")]
    return parts[0], parts[1], parts[2], parts[3] if len(parts) > 3 else 1.0


def _over(layer: str, back: tuple[float, float, float]) -> tuple[float, float, float]:
    red, green, blue, alpha = _colour(layer)
    mixed = [alpha * top + (1 - alpha) * below for top, below in zip((red, green, blue), back, strict=True)]
    return mixed[0], mixed[1], mixed[2]


def _luminance(colour: tuple[float, float, float]) -> float:
    linear = [value / 255 / 12.92 if value <= 10.31 else ((value / 255 + 0.055) / 1.055) ** 2.4 for value in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
