"""The laws of geometry on a few examples each."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("hypothesis")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "campaigns"))

import geometry_laws as campaign

from neuroreg.volume import Geometry, Volume

pytestmark = pytest.mark.faults

GRID = Geometry(
    (16, 17, 18), (4.0, 3.0, 2.0), (1.0, 2.0, 3.0), (0.6, -0.8, 0.0, 0.8, 0.6, 0.0, 0.0, 0.0, 1.0)
)


@pytest.mark.parametrize("law", campaign.LAWS)
def test_a_law(law: str) -> None:
    assert campaign.hold(law, 4, 11) == 4


def test_a_law_that_breaks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def moved(grid: Geometry) -> None:
        campaign.told("nothing", 1.0, 0.5)

    monkeypatch.setattr(campaign, "LAWS", {"broken": (moved, {"grid": campaign.grids()})})
    tried, broken = campaign.campaign(2, 0)
    assert tried == {"broken": 0}
    assert "at most 0.5 is lawful" in broken["broken"]


def test_the_tools_of_the_laws_are_right() -> None:
    ramp = campaign.Ramp((1.0, -0.5, 2.0))
    other = campaign.reordered(ramp.on(GRID), (2, 0, 1), (True, False, True))
    assert torch.allclose(other.data[0].double(), ramp(other.geometry.points()), atol=1e-4)
    cut = campaign.cropped(ramp.on(GRID), (1, -2, 0), (0, 3, -1))
    assert cut.geometry.size == (15, 16, 19)
    assert torch.allclose(cut.data[0, :-1, 2:].double(), ramp(cut.geometry.points())[:-1, 2:], atol=1e-4)
    turn = campaign.turned(0.3, -0.7, 0.2)
    assert np.allclose(turn @ turn.T, np.eye(3))
    assert np.allclose(
        campaign.turned(
            *(np.array(campaign.quaternion(turn)) / (1 - np.square(campaign.quaternion(turn)).sum()) ** 0.5)
        ),
        turn,
    )
    assert isinstance(campaign.brain_on(GRID), Volume)
