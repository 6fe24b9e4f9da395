"""Sides that come again: the same as made anew, whatever was done to an earlier copy, and never for other content."""

from collections.abc import Iterator

import pipeline_phantoms as phantoms
import pytest
import torch

from neuroreg.preprocess import conform as conforming
from neuroreg.preprocess.conform import Conformed, conform
from neuroreg.preprocess.recall import SIDES
from neuroreg.volume import Volume


@pytest.fixture(autouse=True)
def kept() -> Iterator[None]:
    SIDES.keep(2)
    yield
    SIDES.keep(0)


def pair(*, gain: float = 1.0, spacing_mm: float = 4.0) -> Conformed:
    """A head on two grids; ``gain`` makes the fixed one another image."""
    fixed, moving = phantoms.grid(), phantoms.grid(degrees=-7.0)
    first = phantoms.head(fixed.points())[None] * gain
    return conform(
        Volume(first, fixed),
        Volume(phantoms.head(moving.points())[None], moving),
        spacing_mm=spacing_mm,
        divisor=8,
    )


def same(one: Conformed, other: Conformed) -> bool:
    return torch.equal(one.fixed, other.fixed) and torch.equal(one.fixed_mask, other.fixed_mask)


def test_a_side_comes_again_as_it_was_and_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    real = conforming._conform_one
    monkeypatch.setattr(conforming, "_conform_one", lambda *given: made.append(given) or real(*given))
    first = pair()
    expected = first.fixed.clone()
    first.fixed.zero_()  # whoever got it may do with it what he likes
    second = pair()
    assert torch.equal(second.fixed, expected)
    assert len(made) == 3, "the fixed side once, the moving one for each pair"
    SIDES.keep(0)
    assert same(pair(), second)


def test_other_content_and_other_grids_are_other_sides() -> None:
    plain, coarse = pair(), pair(spacing_mm=5.0)
    assert plain.fixed_grid != coarse.fixed_grid
    fixed = phantoms.grid()
    louder = phantoms.head(fixed.points())[None]
    louder[louder > 400] *= 2
    other = conform(Volume(louder, fixed), Volume(louder, fixed), spacing_mm=4.0, divisor=8)
    assert not torch.equal(other.fixed, plain.fixed)
    assert same(pair(), plain)
