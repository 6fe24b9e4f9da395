"""The pictures: in every one the balls lie on the sides that its letters name; the 3-D page holds them where they are.

Besides the ball on the right there are one in the front and one on top, in the planes that a report shows.
"""

import base64
import io
import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import left_right_phantoms as phantoms
import numpy as np
import pytest
import SimpleITK as sitk
from left_right_pages import FRONT, LETTERS, TOP, finished_run, marked
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from neuroreg.cli import run


@dataclass
class Picture:
    """One <figure>: its pictures by what their alternative text says, and its letters."""

    images: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    letters: dict[str, str] = field(default_factory=dict)


class Page(HTMLParser):
    """The pictures of a report, and the small one in its head."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures: list[Picture] = []
        self.thumbnails: list[NDArray[np.int64]] = []
        self._side = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        classes = found.get("class", "").split()
        if tag == "figure":
            self.pictures.append(Picture())
        elif tag == "img" and self.pictures and "slice at" in found.get("alt", ""):
            self.pictures[-1].images[found["alt"].partition(" slice at")[0]] = pixels(found["src"])
        elif tag == "img" and found.get("src", "").startswith("data:image/jpeg"):
            self.thumbnails.append(pixels(found["src"]))
        elif tag == "meta" and found.get("name") == "neuroreg:thumbnail":
            self.thumbnails.append(pixels(found["content"]))
        elif tag == "span" and "letter" in classes:
            self._side = classes[-1]

    def handle_data(self, data: str) -> None:
        if self._side:
            self.pictures[-1].letters[self._side] = data
            self._side = ""


def pixels(uri: str) -> NDArray[np.int64]:
    """(rows, columns, 3) of a data URI."""
    content = base64.b64decode(uri.partition("base64,")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(np.int64)


def read_page(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def towards(seen: NDArray[np.bool_]) -> set[str]:
    """The sides of a picture, of west, east, north and south, towards which what is seen lies from its middle."""
    rows, columns = np.nonzero(seen)
    y, x = rows.mean() / seen.shape[0] - 0.5, columns.mean() / seen.shape[1] - 0.5
    found = {"west" if x < 0 else "east"} if abs(x) > 0.12 else set()
    return found | ({"north" if y < 0 else "south"} if abs(y) > 0.12 else set())


def brightest(picture: NDArray[np.int64]) -> list[NDArray[np.bool_]]:
    """The patches of white in a grey picture, each a mask; those of a few pixels do not count."""
    parts, count = ndimage.label(ndimage.uniform_filter(picture.min(axis=2).astype(float), 3) > 215)
    return [parts == k for k in range(1, count + 1) if (parts == k).sum() > 0.002 * parts.size]


@pytest.fixture(
    scope="module",
    params=[pytest.param((0, 31), marks=pytest.mark.faults), pytest.param((22, 7), marks=pytest.mark.oracle)],
    ids=str,
)
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with report.html and viewer.html; fixed and moving in unlike axis orders."""
    folder = finished_run(tmp_path_factory.mktemp("pages"), *request.param)
    assert run(["report", str(folder), "--viewer", "-q"]) == 0
    return folder


def test_the_balls_lie_where_the_letters_say(finished: Path) -> None:
    compared = [
        p for p in read_page(finished / "report.html").pictures if any("Moved" in alt for alt in p.images)
    ]
    assert len(compared) in (3, 6)
    for number, picture in enumerate(compared):
        for alt, shown in picture.images.items():
            name, _, view = alt.rpartition(", ")
            assert set(picture.letters.values()) == set(LETTERS[view])
            if name.startswith("Outlines"):
                continue
            found = [{picture.letters[side] for side in towards(patch)} for patch in brightest(shown)]
            # The balls on the right, in the front and on top: nothing else is as bright.
            assert all(letters <= {"R", "A", "S"} for letters in found), f"{alt}: {found}"
            if number >= len(compared) - 3:  # through the middle, where the balls are
                assert set().union(*found) == set(LETTERS[view]) & {"R", "A", "S"}, f"{alt}: {found}"


def test_growth_is_red_on_the_right(finished: Path) -> None:
    pages = read_page(finished / "report.html").pictures
    maps = [(alt, p) for p in pages for alt in p.images if alt.startswith(("Volume change", "Jacobian"))]
    assert {alt.rpartition(", ")[2] for alt, _ in maps} == {"Axial", "Coronal", "Sagittal"}
    for alt, picture in maps:
        if alt.endswith("Sagittal"):
            continue
        red, _, blue = np.moveaxis(picture.images[alt], 2, 0)
        assert {picture.letters[side] for side in towards(red > blue + 60)} == {"R"}
        assert {picture.letters[side] for side in towards(blue > red + 60)} == {"L"}


def test_the_small_picture_is_radiological_in_the_report_and_in_the_group(
    finished: Path, tmp_path: Path
) -> None:
    assert run(["report", "--group", str(finished.parent), "-o", str(tmp_path / "group.html"), "-q"]) == 0
    for path in (finished / "report.html", tmp_path / "group.html"):
        thumbnails = read_page(path).thumbnails
        if path.name == "group.html" and not thumbnails:
            uris = re.findall(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", path.read_text(encoding="utf-8"))
            thumbnails = [pixels(uri) for uri in uris]
        assert thumbnails, path.name
        for shown in thumbnails:
            sides = [towards(patch) for patch in brightest(shown)]
            assert {"west"} in sides, (
                f"{path.name}: {sides}"
            )  # the patient's right on the left of the picture
            assert {"north"} in sides
            assert not any("east" in side for side in sides)


def test_the_viewer_is_given_the_balls_where_they_are(finished: Path, tmp_path: Path) -> None:
    text = (finished / "viewer.html").read_text(encoding="utf-8")
    found = re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert found
    data = json.loads(found[1])
    layers = {layer["key"]: layer for layer in data["layers"]}
    for key in ("fixed", "moved", "jacobian", "fixed_labels", "moved_labels"):
        path = tmp_path / f"{key}.nii.gz"
        path.write_bytes(base64.b64decode(layers[key]["nifti"]))
        image = sitk.ReadImage(str(path))
        assert np.diag(np.array(image.GetDirection()).reshape(3, 3)).tolist() == [
            -1,
            -1,
            1,
        ]  # RAS, as the page says
        origin = np.array(data["grid"]["origin"])
        assert phantoms.lps(np.array(image.GetOrigin())) == pytest.approx(origin, abs=1e-2)
        at = {
            name: image.TransformPhysicalPointToIndex(phantoms.lps(p).tolist()) for name, p in PLACES.items()
        }
        values = {name: image[index] for name, index in at.items()}
        if key in ("fixed", "moved"):
            assert min(values["right"], values["front"], values["top"]) > 200
            assert values["left"] < 170
        elif key == "jacobian":
            assert values["right"] > 128 > values["left"]
        else:
            names = {code + 1: region["label"] for code, region in enumerate(data["regions"])}
            assert names[values["right"]] == phantoms.RIGHT_ID
            assert names[values["left"]] == phantoms.LEFT_ID


PLACES = {"right": phantoms.RIGHT, "left": phantoms.RIGHT * (-1, 1, 1), "front": FRONT, "top": TOP}


@pytest.mark.faults
def test_a_mirrored_head_fails_the_check_of_the_pictures(tmp_path: Path) -> None:
    folder = finished_run(tmp_path, 0, 31, made=lambda p: marked(p * (-1, 1, 1)))
    with pytest.raises(AssertionError, match="'L'"):
        test_the_balls_lie_where_the_letters_say(folder)
