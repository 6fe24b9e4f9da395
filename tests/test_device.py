"""Devices: an unknown name is a mistake, an absent one is said, and an explicit one never falls back."""

import pytest
import torch

from neuroreg.device import choose_device
from neuroreg.errors import UnavailableError, UsageError


def test_auto_takes_what_there_is() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == torch.device("cpu")


def test_an_explicit_device_never_falls_back() -> None:
    with pytest.raises(UnavailableError, match="cuda:77 is not available"):
        choose_device("cuda:77")
    if not torch.backends.mps.is_available():
        with pytest.raises(UnavailableError):
            choose_device("mps")


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:x", "CPU", "", "cpu:0:0"])
def test_an_unknown_device_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="give auto, cpu"):
        choose_device(name)


def test_without_a_graphics_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(
        UnavailableError, match=r"cuda:0 is not available \(0 CUDA devices\); use --device auto"
    ):
        choose_device("cuda:0")
