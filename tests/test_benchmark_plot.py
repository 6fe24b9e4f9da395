"""The picture of a benchmark: what it holds by hand, labels that cover nothing, hostile names, the same bytes twice."""

import itertools
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

from neuroreg.benchmark import Row
from neuroreg.benchmark_plot import Point, draw, points_of, write_plot
from neuroreg.benchmark_summary import summarise


def row(method: str, pair: int, dice: float | None, wall_s: float | None, arguments: str = "--x") -> Row:
    status = "ok" if dice is not None else "failed (1): boom"
    return Row(method, arguments, str(pair), "m", 2, status, dice=dice, wall_s=wall_s)


def test_points_by_hand() -> None:
    rows = [row("ours", k, 0.5 + k / 10, 2.0 + k) for k in range(3)]
    rows += [row("greedy", 0, 0.4, 50.0, ""), row("greedy-affine", 0, 0.3, 5.0), row("broken", 0, None, 9.0)]
    ours, greedy, options = points_of(summarise(rows))
    assert ours.seconds == pytest.approx((2.5, 3.0, 3.5))
    assert ours.dice == pytest.approx((0.55, 0.6, 0.65))
    assert (ours.ours, greedy.ours, options.ours) == (True, False, True)  # with options it is a run of ours
    assert greedy.seconds == (50.0, 50.0, 50.0)


def crowd(count: int) -> list[Point]:
    """Points closer together than their names are long."""
    random = np.random.default_rng(3)
    places = zip(random.uniform(8, 12, count), random.uniform(0.6, 0.65, count), strict=True)
    return [
        Point(f"a-method-{k}", (0.97 * s, s, 1.04 * s), (d - 0.004, d, d + 0.006), k % 2 == 0)
        for k, (s, d) in enumerate(places)
    ]


@pytest.mark.parametrize("count", [1, 12])
def test_no_label_covers_another_or_a_marker(count: int) -> None:
    points = crowd(count)
    figure = draw(points)
    (axes,) = figure.axes
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = {text.get_text(): text.get_window_extent(renderer) for text in axes.texts if text.get_text()}
    assert set(boxes) == {point.name for point in points}
    assert not [pair for pair in itertools.combinations(boxes.values(), 2) if pair[0].overlaps(pair[1])]
    for point in points:
        at = axes.transData.transform((point.seconds[1], point.dice[1]))
        marker = Bbox([at - 3, at + 3])
        assert not any(box.overlaps(marker) for box in boxes.values())
    frame = axes.get_window_extent(renderer)
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes.values())


def test_hostile_names_are_neither_formulas_nor_markup(tmp_path: Path) -> None:
    names = ("$x_{", "--><script>alert(1)</script>", "a\u202eb\x1b[31m", "%$#")
    (line,) = summarise([row("m", 0, 0.5, 3.0)])
    svg, png = write_plot(tmp_path, [replace(line, method=name) for name in names], subtitle="$\\frac{$")
    tags = {element.tag.rpartition("}")[2] for element in ElementTree.parse(svg).iter()}
    assert tags.isdisjoint({"script", "text", "a", "image", "foreignObject"})
    assert "path" in tags
    assert png.stat().st_size > 10_000
    first = svg.read_bytes(), png.read_bytes()
    write_plot(tmp_path, [replace(line, method=name) for name in names], subtitle="$\\frac{$")
    assert (svg.read_bytes(), png.read_bytes()) == first


def test_a_benchmark_without_results_has_an_empty_picture() -> None:
    (axes,) = draw(points_of(summarise([row("broken", 0, None, 1.0)]))).axes
    assert [text.get_text() for text in axes.texts] == ["no finished run"]
