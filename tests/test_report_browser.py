"""The report in a real browser without a network: what the keys do, and that nothing is asked for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_report_page import _write

pytestmark = pytest.mark.slow
CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Any]:
    """The page, opened offline; at the end nothing must have been asked for and nothing gone wrong."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip("no Chromium on this machine")
    _write(tmp_path / "report.html")
    asked: list[str] = []
    with api.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        context = browser.new_context()
        context.set_offline(True)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: asked.append(message.text))
        page.on("pageerror", lambda error: asked.append(str(error)))
        page.goto((tmp_path / "report.html").as_uri())
        yield page
        browser.close()
    assert [url for url in asked if not url.startswith("data:")] == [(tmp_path / "report.html").as_uri()]


def _opacities(page: Any) -> list[str]:
    script = "getComputedStyle(document.querySelector('#compare .top.moved'))"
    return [page.evaluate(f"{script}.{name}") for name in ("visibility", "animationName", "display")]


def test_keys_change_what_is_shown(opened: Any) -> None:
    assert _opacities(opened)[:2] == ["visible", "none"]
    opened.keyboard.press("f")
    assert _opacities(opened)[1] == "flick"
    opened.keyboard.press("f")
    assert _opacities(opened)[1] == "none"
    opened.keyboard.press("x")
    assert _opacities(opened)[0] == "hidden"
    opened.keyboard.press("m")
    assert _opacities(opened)[0] == "visible"
    opened.keyboard.press("b")
    assert _opacities(opened)[2] == "none"
    assert opened.is_checked("input[name=stage][value=scanned]")


def test_the_slider_sets_the_squares_in_mm(opened: Any) -> None:
    opened.keyboard.press("c")
    opened.fill("#square", "30")
    mask, pixels = opened.evaluate(
        "(() => { const f = document.querySelector('#compare .frame');"
        " return [getComputedStyle(f.querySelector('.top.moved')).maskSize,"
        " 2 * 30 / Number(f.dataset.mm) * f.clientWidth / Number(f.dataset.width)]; })()"
    )
    assert float(mask.split("px")[0]) == pytest.approx(pixels, rel=1e-3)
    assert opened.inner_text("#square-mm") == "30 mm"


def test_outlines_come_and_go(opened: Any) -> None:
    shown = "getComputedStyle(document.querySelector('#compare .outlines')).display"
    assert opened.evaluate(shown) == "none"
    opened.keyboard.press("o")
    assert opened.evaluate(shown) != "none"
    assert opened.is_checked("#outlines")
