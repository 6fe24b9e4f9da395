"""A method checked before its weights are read: what is refused is what loading it would refuse."""

from pathlib import Path

import pytest

from neuroreg import checkpoints
from neuroreg.errors import NeuroregError
from neuroreg.pipeline.config import RegisterConfig
from neuroreg.pipeline.engine import check_engine, load_engine


def config(**settings: object) -> RegisterConfig:
    """Settings of a pair that nobody reads."""
    return RegisterConfig.model_validate({"fixed": Path("f.nii"), "moving": Path("m.nii"), **settings})


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"method": "demon"}, "Did you mean 'demons'"),
        ({"method": "affine", "affine": "none"}, "does nothing"),
        ({"method": "demons", "weights": "neuroreg-ixi2mm"}, "has no weights"),
        ({"method": "dualprnet", "weights": "neuroreg-ixi2mm"}, "are for method 'neuroreg'"),
        ({"weights": "neuroreg-ixi2m"}, "Did you mean 'neuroreg-ixi2mm'"),
        ({"weights": "none.safetensors"}, "no such weights file"),
        ({"method": "demons", "options": {"sgma": 1}}, "Did you mean 'sigma'"),
        ({"method": "demons", "options": {"sigma": "x"}}, "option sigma"),
        ({"method": "affine", "affine": "jointaffine", "options": {"dof": 6}}, "jointaffine 'dof'"),
    ],
)
def test_what_is_refused_is_what_loading_would_refuse(settings: dict[str, object], part: str) -> None:
    told = []
    for verb in (check_engine, load_engine):
        with pytest.raises(NeuroregError) as caught:
            verb(config(**settings))
        told.append((type(caught.value), str(caught.value)))
    assert told[0] == told[1]
    assert part in told[0][1]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"refine": "best", "options": {"spacing_mm": 3.0}},
        {"method": "demons", "affine": "jointaffine", "options": {"sigma": 2.0}},
        {"method": "affine", "affine": "jointaffine"},
        {"method": "jointaffine"},
        {"method": "gaussnewton", "affine": "start.mat"},
    ],
)
def test_weights_are_not_read(settings: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> None:
        raise AssertionError("the tensors were read")

    monkeypatch.setattr(checkpoints, "load_into", fail)
    check_engine(config(**settings))
