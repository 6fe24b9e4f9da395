"""The 3-D page in a real Chromium with the network off: it draws, asks for nothing, and left is left on the screen."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished_runs import MARKER_LPS
from numpy.typing import NDArray

from neuroreg.pipeline.finished import open_run
from neuroreg.report.viewer import write_viewer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def path(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("browser") / "viewer.html"
    write_viewer(open_run(finished_run), made)
    return made


@pytest.fixture
def open_page(browser: Any, path: Path) -> Iterator[Callable[..., Any]]:
    """Opens the page offline; at the end nothing but the file was asked for, and nothing was complained of."""
    asked: list[str] = []
    said: list[str] = []
    contexts = []

    def open_it(width: int = 900, height: int = 800, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        context.set_offline(True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        assert page.get_attribute("html", "data-ready") == "yes", page.inner_text("#message")
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert set(asked) == {path.as_uri()}
    assert said == []


def picture(page: Any) -> NDArray[np.uint8]:
    """(rows, columns, 3) of the canvas as a reader sees it."""
    from PIL import Image

    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    shot = Image.open(io.BytesIO(page.locator("canvas").screenshot()))
    return np.asarray(shot.convert("RGB"))


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def brightest(page: Any) -> float:
    """Where the marker lies across the picture, 0 left to 1 right."""
    grey = picture(page).astype(int).sum(axis=2)
    height, width = grey.shape
    inner = grey[height // 8 : -height // 8, width // 8 : -width // 8]  # without the letters
    saturated = np.argwhere(inner >= 3 * 250)
    return float((saturated[:, 1].mean() + width // 8) / width)


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (900, "dark"), (1500, "light")])
def test_it_draws_at_every_width(open_page: Callable[..., Any], width: int, scheme: str) -> None:
    page = open_page(width, 900, scheme)
    seen = picture(page)
    assert (seen.max(axis=2) > 30).mean() > 0.05  # a head, not a black field
    grey = (seen.std(axis=2) < 8).mean()
    assert 0.9 < grey < 1  # but for the crosshair
    page.get_by_label("Volume change", exact=True).check()
    assert (picture(page).std(axis=2) < 8).mean() < grey - 0.02  # in colours
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert "Radiological" in page.inner_text("#convention")


def test_left_is_left_on_the_screen(open_page: Callable[..., Any]) -> None:
    page = open_page()
    for name, value in zip(("Left", "Posterior", "Superior"), MARKER_LPS, strict=True):
        page.get_by_label(name, exact=True).fill(str(value))
    page.get_by_role("button", name="Go").click()
    page.get_by_role("button", name="Axial").click()
    assert brightest(page) > 0.55  # the patient's left on the right of the picture
    page.get_by_label("Radiological").uncheck()
    assert brightest(page) < 0.45
    assert "Neurological" in page.inner_text("#convention")


def test_the_crosshair_tells_what_is_there(open_page: Callable[..., Any]) -> None:
    page = open_page()
    page.locator("canvas").focus()
    for name, value in zip(("Left", "Posterior", "Superior"), (19.0, 0.0, 16.0), strict=True):
        page.get_by_label(name, exact=True).fill(str(value))
    page.keyboard.press("Enter")
    values = page.inner_text("#values")
    assert values.count("Left blob (16777217)") == 2
    assert page.inner_text("#ras").split(", ") == ["-19.0", "0.0", "16.0"] or "-19.0" in page.inner_text(
        "#ras"
    )
    assert "Left blob" in page.inner_text("#live")
    page.locator("canvas").focus()
    press(page, "ArrowUp", "Shift+PageUp")
    assert page.input_value("#y") == "-3.0"  # one voxel of 3 mm to the front
    assert page.input_value("#z") == "26.0"
    press(page, "ArrowLeft")
    assert page.input_value("#x") == "16.0"  # to the left of the picture is to the patient's right


def test_fixed_and_moved_change_places(open_page: Callable[..., Any]) -> None:
    page = open_page()
    fixed = picture(page)
    press(page, "s")
    assert page.inner_text("#flag") == "moved"
    moved = picture(page)
    assert np.abs(moved.astype(int) - fixed).mean() > 0.2
    press(page, "s")
    assert page.locator("#flag").is_hidden()
    assert np.abs(picture(page).astype(int) - fixed).mean() < 0.2
    press(page, "f")
    assert page.get_attribute("#flicker", "aria-pressed") == "true"
    seen = set()
    for _ in range(20):
        seen.add(page.inner_text("#flag"))
        page.wait_for_timeout(120)
    assert seen == {"fixed", "moved"}
    press(page, "f")
    assert page.get_attribute("#flicker", "aria-pressed") == "false"
