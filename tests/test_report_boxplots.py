"""Box plots: the numbers behind the boxes, sides, hostile names, files."""

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from evaluate_phantoms import scores_of
from PIL import Image

from neuroreg.errors import CannotCreateError, DataError, UsageError
from neuroreg.report.boxplots import draw_boxplots, without_side

NAMES = ["Right Putamen", "Left Putamen", "3rd Ventricle"]
DICE = np.array([[0.5, 0.7, 0.9], [0.6, np.nan, 0.8], [0.7, 0.9, np.nan]])


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        ("Right Putamen", "Putamen"),
        ("Putamen_L", "Putamen"),
        ("lh.Putamen", "Putamen"),
        ("Frontal lobe left", "Frontal lobe"),
        ("R_Putamen", "Putamen"),
        ("Rolandic", None),
        ("Left", None),
        ("Ventral", None),
        ("3rd Ventricle", None),
    ],
)
def test_sides(name: str, rest: str | None) -> None:
    assert without_side(name) == rest


def test_regions_are_ordered_and_gaps_left_out(tmp_path: Path) -> None:
    boxes = draw_boxplots([scores_of("a", DICE, NAMES), scores_of("b", DICE / 2, NAMES)], tmp_path / "a.svg")
    assert boxes.structures == ("3rd Ventricle", "Left Putamen", "Right Putamen")
    assert boxes.methods == ("a", "b")
    assert [values.tolist() for values in boxes.values[0]] == [[0.9, 0.8], [0.45, 0.4]]
    root = ET.parse(tmp_path / "a.svg").getroot()
    assert not list(root.iter("{http://www.w3.org/2000/svg}text"))  # outlines: no font is needed
    first = (tmp_path / "a.svg").read_bytes()
    draw_boxplots(
        [scores_of("a", DICE, NAMES), scores_of("b", DICE / 2, NAMES)], tmp_path / "a.svg", overwrite=True
    )
    assert (tmp_path / "a.svg").read_bytes() == first
    with pytest.raises(CannotCreateError):
        draw_boxplots([scores_of("a", DICE, NAMES)], tmp_path / "a.svg")


def test_sides_merge_to_their_mean_in_each_pair(tmp_path: Path) -> None:
    boxes = draw_boxplots([scores_of("a", DICE, NAMES)], tmp_path / "a.png", merge_sides=True)
    assert boxes.structures == ("3rd Ventricle", "Putamen")
    assert boxes.values[1][0].tolist() == pytest.approx([0.6, 0.6, 0.8])
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] > 500


def test_hostile_names_are_letters(tmp_path: Path) -> None:
    names = ["$\\frac{1}{0}$", "<script>\x1b[31m\u202e", "脳" * 60]
    method = "$^{x$ <a href='#'>"
    draw_boxplots([scores_of(method, DICE, names), scores_of("b", DICE, names)], tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    ET.fromstring(text)
    assert "<script" not in text
    assert "<a " not in text


def test_groups_keep_their_order(tmp_path: Path) -> None:
    boxes = draw_boxplots([scores_of("a", DICE, NAMES, "group")], tmp_path / "a.svg", kind="group")
    assert boxes.structures == tuple(NAMES)


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        draw_boxplots([scores_of("a", DICE, NAMES)], tmp_path / "a.pdf")
    with pytest.raises(DataError, match="no Dice"):
        draw_boxplots([scores_of("a", DICE, NAMES)], tmp_path / "a.svg", kind="group")
    many = scores_of("a", np.full((2, 401), 0.5), [str(k) for k in range(401)])
    with pytest.raises(DataError, match="more than"):
        draw_boxplots([many], tmp_path / "a.svg")
    assert list(tmp_path.iterdir()) == []
