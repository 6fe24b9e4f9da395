"""Pictures of a map: lines where they belong, colours in order."""

import numpy as np
import torch

from neuroreg.report import figures, maps
from neuroreg.transforms import Affine
from neuroreg.volume import Geometry

GRID = Geometry((40, 50, 30), (2.0, 2.0, 2.0), (-40.0, -50.0, -30.0))


def test_brighter_is_more() -> None:
    ramp = np.linspace(0, 1, 32, dtype=np.float32)[None]
    luminance = maps.sequential(ramp)[0].astype(float) @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(luminance) > 0).all()


def test_amounts_are_pale_outside_and_grey_where_unknown() -> None:
    values = np.array([[0.0, 0.0, np.nan]], np.float32)
    inside = np.array([[1, 0, 1]], np.float32)
    dark, pale, unknown = maps.amount(values, inside, top=2.0)[0].astype(int)
    assert pale.sum() > dark.sum() + 300
    assert unknown.tolist() == [160, 160, 160]


def test_a_shift_moves_the_lines_of_the_grid_and_its_length_is_everywhere_the_same() -> None:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, 3] = torch.tensor([4.0, 0.0, 3.0])
    planes = maps.displaced_planes(Affine(matrix), GRID, (0.0, 0.0, 0.0))
    still = maps.displaced_planes(Affine(torch.eye(4, dtype=torch.float64)), GRID, (0.0, 0.0, 0.0))
    for (_, length), (_, zero) in zip(planes, still, strict=True):
        assert np.allclose(length, 5.0)
        assert np.allclose(zero, 0.0)
    (moved, _), (rest, _) = planes[0], still[0]  # axial: columns along x, rows along y
    assert np.allclose(moved - rest, [4.0, 0.0])
    lines = [
        np.all(maps.deformed_grid(ends, np.zeros(ends.shape[:2], np.float32)) > 0, axis=-1)
        for ends in (rest, moved)
    ]
    # A line of the still grid lies where x is a multiple of 6 mm: from column 20 (x = 0) on, every third column.
    columns = [set(np.flatnonzero(drawn.mean(axis=0) > 0.9).tolist()) for drawn in lines]
    assert {20, 23, 26} <= columns[0]
    assert {c for c in columns[1] if c < 37} == {c - 2 for c in columns[0] if 2 < c < 39}


def test_the_planes_are_those_of_the_slices() -> None:
    point = (3.0, -7.0, 5.0)
    for view in figures.VIEWS:
        points = figures.plane_points(view, GRID, point)
        assert bool((points[..., view.across] == point[view.across]).all())
        rows = points[:, 0, {2: 1, 1: 2, 0: 2}[view.across]]
        assert bool((rows.diff() < 0).all()) is view.upwards
