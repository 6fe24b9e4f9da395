"""Slices must show left as left whatever the axes of the file: an asymmetric phantom on ugly grids."""

import base64
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from neuroreg.report import figures
from neuroreg.volume import Geometry, Volume

LEFT, FRONT, TOP = (30.0, 0.0, 0.0), (0.0, -36.0, 0.0), (0.0, 0.0, 25.0)


def _rotation(axis: int, degrees: float) -> torch.Tensor:
    a, b = [k for k in range(3) if k != axis]
    turn = torch.eye(3, dtype=torch.float64)
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn[a, a] = turn[b, b] = cosine
    turn[a, b], turn[b, a] = -sine, sine
    return turn


RAS = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))
PSR = torch.tensor([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
OBLIQUE = RAS @ _rotation(0, 17.0) @ _rotation(2, -11.0)


def phantom(direction: torch.Tensor, blob: tuple[float, float, float]) -> Volume:
    """A dim ellipsoid 90 x 110 x 80 mm around (7, -12, 31) mm with one bright ball at ``blob`` from its middle."""
    centre = torch.tensor([7.0, -12.0, 31.0], dtype=torch.float64)
    size, spacing = (68, 52, 44), (2.0, 2.6, 3.1)
    matrix = direction * torch.tensor(spacing, dtype=torch.float64)
    origin = centre - matrix @ torch.tensor([(n - 1) / 2 for n in size], dtype=torch.float64)
    geometry = Geometry(size, spacing, tuple(origin.tolist()), tuple(direction.reshape(-1).tolist()))
    points = geometry.points() - centre
    head = ((points / torch.tensor([45.0, 55.0, 40.0])) ** 2).sum(dim=-1) < 1
    ball = (points - torch.tensor(blob, dtype=torch.float64)).norm(dim=-1) < 9
    return Volume((0.4 * head + 0.6 * (ball & head)).to(torch.float32)[None], geometry)


def bright_place(plane: np.ndarray) -> tuple[float, float]:
    """Mean (row, column) of the brightest voxels, each as -1..1 from the middle of the picture."""
    rows, columns = np.nonzero(plane > 0.8)
    height, width = plane.shape
    return 2 * rows.mean() / (height - 1) - 1, 2 * columns.mean() / (width - 1) - 1


@pytest.mark.parametrize("direction", [torch.eye(3, dtype=torch.float64), RAS, PSR, OBLIQUE])
def test_left_is_right_of_the_picture_and_front_and_top_are_where_they_belong(
    direction: torch.Tensor,
) -> None:
    seen = {}
    for name, blob in (("left", LEFT), ("front", FRONT), ("top", TOP)):
        volume = phantom(direction, blob)
        grid = figures.display_grid(figures.foreground(volume), volume.geometry)
        middle = figures.centre(grid)
        point = (middle[0] if name == "left" else 7.0, middle[1], middle[2])
        seen[name] = figures.slices(volume, grid, point)
    axial, coronal, sagittal = range(3)
    assert bright_place(seen["left"][axial])[1] > 0.4
    assert bright_place(seen["left"][coronal])[1] > 0.4
    assert bright_place(seen["front"][axial])[0] < -0.4
    assert bright_place(seen["front"][sagittal])[1] < -0.4
    assert bright_place(seen["top"][coronal])[0] < -0.3
    assert bright_place(seen["top"][sagittal])[0] < -0.3
    letters = [view.letters for view in figures.VIEWS]
    assert letters == [("R", "L", "A", "P"), ("R", "L", "S", "I"), ("A", "P", "S", "I")]


def test_pixels_are_square_in_mm() -> None:
    volume = phantom(OBLIQUE, LEFT)
    grid = figures.display_grid(figures.foreground(volume), volume.geometry)
    axial, coronal, sagittal = figures.slices(volume, grid, figures.centre(grid))
    assert len(set(grid.spacing)) == 1
    assert (axial.shape[1], axial.shape[0]) == (grid.size[0], grid.size[1])
    assert (coronal.shape[1], coronal.shape[0]) == (grid.size[0], grid.size[2])
    assert (sagittal.shape[1], sagittal.shape[0]) == (grid.size[1], grid.size[2])
    # The ellipsoid is 90 x 110 x 80 mm and there are 6 mm of margin on every side.
    sides = [n * grid.spacing[0] for n in grid.size]
    assert sides == pytest.approx([102, 122, 92], abs=5)


@pytest.mark.parametrize(
    ("across", "point", "said"),
    [
        (0, (-12.04, 0.0, 0.0), "R 12.0 mm"),
        (0, (3.0, 0, 0), "L 3.0 mm"),
        (1, (0, -0.04, 0), "P 0.0 mm"),
        (2, (0, 0, -7.26), "I 7.3 mm"),
    ],
)
def test_a_plane_is_named_by_side_and_distance(
    across: int, point: tuple[float, float, float], said: str
) -> None:
    assert figures.place(across, point) == said


def test_window_spans_background_to_bright_tissue_and_survives_what_is_not_finite() -> None:
    volume = phantom(RAS, LEFT)
    broken = volume.data.clone()
    broken[0, 20, 20, 20:23] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    window = figures.window_of(volume.with_data(broken))
    assert window.low == 0.0
    assert 0.4 <= window.high <= 1.0
    shown = window.apply(np.array([[-5.0, np.nan, 0.2, 9.0]], dtype=np.float32))
    assert shown.tolist()[0][0] == 0.0
    assert shown.tolist()[0][3] == 1.0
    assert np.isfinite(shown).all()


def test_a_constant_image_is_shown_rather_than_refused() -> None:
    volume = Volume(torch.full((1, 9, 8, 7), 3.0), Geometry((7, 8, 9), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0)))
    window = figures.window_of(volume)
    assert window.high > window.low
    assert figures.foreground(volume).any()


def test_jacobian_colours_contraction_blue_expansion_red_folds_green() -> None:
    determinant = np.array([[0.5, 1.0, 2.0, -0.1, np.nan]], dtype=np.float32)
    folded, inside = (determinant <= 0).astype(np.float32), np.ones((1, 5), np.float32)
    blue, white, red, fold, unknown = figures.jacobian_map(determinant, folded, inside, reach=1.0)[0].astype(
        int
    )
    assert blue[2] > blue[0] + 80
    assert red[0] > red[2] + 80
    assert white.min() > 240
    assert tuple(fold) == figures.FOLD
    assert len(set(unknown.tolist())) == 1


def test_outside_the_mask_the_jacobian_is_paler() -> None:
    determinant = np.full((1, 2), 2.0, dtype=np.float32)
    within, without = figures.jacobian_map(
        determinant, 0 * determinant, np.array([[1.0, 0.0]], np.float32), reach=1.0
    )[0]
    assert without.astype(int).sum() > within.astype(int).sum() + 150


def test_histogram_counts_the_share_of_all_voxels_inside() -> None:
    jacobian = torch.tensor([1.001, 1.001, 2.001, -1.0, 50.0, 7.0]).reshape(1, 1, 1, 6)
    inside = torch.tensor([True, True, True, True, True, False]).reshape(1, 1, 1, 6)
    bins, ticks = figures.histogram(jacobian, inside)
    filled = {round(each.left, 4): each.percent for each in bins if each.percent > 0}
    # 96 bins over six octaves: 1 is the start of bin 48, 2 of bin 64; the fold has no logarithm; 50 is clamped to 8.
    assert filled == pytest.approx({0.5: 40.0, round(64 / 96, 4): 20.0, round(95 / 96, 4): 20.0})
    assert (ticks[0][1], ticks[3], ticks[6][1]) == ("\u2264 0.125", (0.5, "1"), "\u2265 8")


def test_the_difference_is_brighter_or_equal() -> None:
    first, second = np.zeros((4, 4), np.float32), np.ones((4, 4), np.float32)
    brighter, equal = figures.difference(first, second)[0, 0], figures.difference(first, first)[0, 0]
    assert brighter[0] > brighter[2]
    assert len(set(equal.tolist())) == 1


def test_an_overlay_is_the_edges_and_nothing_else() -> None:
    disk = (np.hypot(*(np.indices((61, 61)) - 30)) < 20).astype(np.float32)
    on_black = np.all(figures.edges(disk, np.zeros_like(disk)) == figures.FIXED_EDGE, axis=-1)
    assert np.array_equal(figures.overlay(disk)[..., 3] == 255, on_black)


def test_edges_follow_the_outline_of_the_first_image() -> None:
    disk = (np.hypot(*(np.indices((61, 61)) - 30)) < 20).astype(np.float32)
    drawn = np.all(figures.edges(disk, np.zeros_like(disk)) == figures.FIXED_EDGE, axis=-1)
    radius = np.hypot(*(np.argwhere(drawn) - 30).T)
    assert drawn.sum() > 2 * 3.14 * 20
    assert radius.min() > 12  # the second level lies a little inside the blurred rim
    assert radius.max() < 24


def test_png_is_the_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    head, _, body = figures.png(pixels).partition(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(body)))), pixels)
