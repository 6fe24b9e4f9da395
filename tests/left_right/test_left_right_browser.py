"""Both pages in a real Chromium, offline: on the screen the balls lie towards the letters of their sides."""

import io
from pathlib import Path
from typing import Any

import left_right_phantoms as phantoms
import numpy as np
import pytest
from left_right_pages import FRONT, LETTERS, TOP, finished_run
from numpy.typing import NDArray
from scipy import ndimage

from neuroreg.cli import run

pytestmark = pytest.mark.slow

_RECORD = """() => {
  window.drawn = [];
  const prototype = niivue.Niivue.prototype, draw = prototype.drawText;
  prototype.drawText = function (at, text, ...rest) {
    window.drawn.push([at[0], at[1], text]);
    return draw.call(this, at, text, ...rest);
  };
}"""
_RECTANGLES = """() => [...document.querySelectorAll("#compare .frame")].map((frame) => ({
  alt: frame.querySelector("img.fixed").alt,
  letters: [...frame.querySelectorAll(".letter")].map((letter) => {
    const box = letter.getBoundingClientRect();
    return [box.left + box.width / 2 + scrollX, box.top + box.height / 2 + scrollY, letter.textContent];
  }),
  box: (() => {
    const box = frame.querySelector("img.fixed").getBoundingClientRect();
    return [box.left + scrollX, box.top + scrollY, box.width, box.height];
  })(),
}))"""


@pytest.fixture(scope="module", params=[(10, 37), (44, 3)], ids=str)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = finished_run(tmp_path_factory.mktemp("screen"), *request.param)
    assert run(["report", str(folder), "--viewer", "-q"]) == 0
    return folder


def open_page(browser: Any, path: Path) -> Any:
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    context.set_offline(True)
    page = context.new_page()
    page.set_default_timeout(240_000)
    page.goto(path.as_uri())
    return page


def shot(png: bytes) -> NDArray[np.int64]:
    """(rows, columns) of a picture of the screen, the darkest of its three colours."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).min(axis=2).astype(np.int64)


def places(seen: NDArray[np.int64], letters: list[list[Any]], *, least: int) -> list[phantoms.Array]:
    """(x, y) of the patches of white, the letters themselves left out."""
    seen = seen.copy()
    for x, y, _ in letters:
        seen[max(0, int(y) - 18) : int(y) + 18, max(0, int(x) - 18) : int(x) + 18] = 0
    parts, count = ndimage.label(seen > 225)
    sizes = ndimage.sum_labels(parts > 0, parts, range(1, count + 1))
    found = [k + 1 for k, size in enumerate(sizes) if size >= least]
    return [np.array(ndimage.center_of_mass(parts == k))[::-1] for k in found]


def nearest(at: phantoms.Array, letters: list[list[Any]], pair: str) -> str:
    """Of two letters the one to which a place is nearer."""
    ends = {text: np.linalg.norm(at - (x, y)) for x, y, text in letters if text in pair}
    assert set(ends) == set(pair)
    return min(ends, key=ends.__getitem__)


@pytest.mark.parametrize("width", [400, 1000])
def test_the_report_on_the_screen(browser: Any, finished: Path, width: int) -> None:
    page = open_page(browser, finished / "report.html")
    page.set_viewport_size({"width": width, "height": 900})
    for mode in ("Fixed", "Moving"):
        page.keyboard.press("x" if mode == "Fixed" else "m")
        page.wait_for_timeout(300)
        screen = shot(page.screenshot(full_page=True))
        frames = page.evaluate(_RECTANGLES)[-3:]  # through the middle
        assert [frame["alt"].partition(" slice")[0].rpartition(", ")[2] for frame in frames] == list(LETTERS)
        for frame, view in zip(frames, LETTERS, strict=True):
            left, top, wide, high = frame["box"]
            inside = screen[int(top) : int(top + high), int(left) : int(left + wide)]
            letters = [[x - left, y - top, text] for x, y, text in frame["letters"]]
            assert {text for *_, text in letters} == set(LETTERS[view])
            found = places(inside, letters, least=int(0.002 * wide * high))
            sides = {
                (nearest(at, letters, LETTERS[view][:2]), nearest(at, letters, LETTERS[view][2:]))
                for at in found
            }
            reached = {side for pair in sides for side in pair}
            assert len(found) >= 2
            if "R" in LETTERS[view]:
                assert any(pair[0] == "R" for pair in sides)
            assert ("A" if view != "Coronal" else "S") in reached


@pytest.mark.parametrize("radiological", [True, False])
@pytest.mark.parametrize(
    ("view", "ball", "letter"),
    [("Axial", phantoms.RIGHT, "R"), ("Axial", FRONT, "A"), ("Coronal", phantoms.RIGHT, "R"), ("Coronal", TOP, "S"),
     ("Sagittal", FRONT, "A"), ("Sagittal", TOP, "S")],
)  # fmt: skip
def test_the_viewer_on_the_screen(
    browser: Any, finished: Path, view: str, ball: phantoms.Array, letter: str, radiological: bool
) -> None:
    page = open_page(browser, finished / "viewer.html")
    page.wait_for_selector("html[data-ready=yes]")
    page.evaluate(_RECORD)
    for name, value in zip(("Left", "Posterior", "Superior"), phantoms.lps(ball), strict=True):
        page.get_by_label(name, exact=True).fill(str(value))
    page.get_by_role("button", name="Go").click()
    page.evaluate("() => { window.drawn = []; }")
    page.get_by_label("Radiological").set_checked(radiological)
    page.get_by_role("button", name=view, exact=True).click()
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    letters = page.evaluate("() => window.drawn")[-4:]
    assert {text for *_, text in letters} == set(LETTERS[view])
    seen = shot(page.locator("canvas").screenshot())
    seen[:12], seen[-12:], seen[:, :12], seen[:, -12:] = 0, 0, 0, 0  # the page around its round corners
    scale = page.evaluate("() => document.querySelector('canvas').width") / seen.shape[1]
    letters = [[x / scale, y / scale, text] for x, y, text in letters]
    pair = next(two for two in (LETTERS[view][:2], LETTERS[view][2:]) if letter in two)
    found = places(seen, letters, least=60)
    assert found
    # The ball at which the crosshair stands is the one farthest from the middle along this pair of letters.
    middle = {text: np.array((x, y)) for x, y, text in letters}
    along = middle[letter] - middle[pair.replace(letter, "")]
    centre = (middle[letter] + middle[pair.replace(letter, "")]) / 2
    reach = [float((at - centre) @ along / np.linalg.norm(along)) for at in found]
    farthest = max(reach, key=abs)
    assert farthest > 20, f"{view}: the ball lies {-farthest:.0f} pixels away from {letter}"
    if "R" in pair:
        assert (middle["R"][0] < middle["L"][0]) == radiological
