"""Devices and memory: what is not there is said before anything is computed."""

import pytest
import torch

from neuroreg.errors import BusyError, UnavailableError, UsageError
from neuroreg.io import files
from neuroreg.pipeline.resources import choose_device, preflight, set_up


def test_auto_takes_what_there_is() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == torch.device("cpu")


def test_an_explicit_device_never_falls_back() -> None:
    with pytest.raises(UnavailableError, match="cuda:77 is not available"):
        choose_device("cuda:77")
    if not torch.backends.mps.is_available():
        with pytest.raises(UnavailableError):
            choose_device("mps")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "CPU", "", "cpu:0:0"])
def test_an_unknown_device_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="give auto, cpu"):
        choose_device(name)


def test_memory_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "available_memory", lambda: 2**30)
    preflight(2**30, what="it")
    with pytest.raises(BusyError, match=r"it needs about 3.0 GiB of memory, 1.0 GiB are free"):
        preflight(3 * 2**30, what="it")
    monkeypatch.setattr(files, "available_memory", lambda: None)
    preflight(2**60, what="it")


def test_threads_are_limited() -> None:
    before = torch.get_num_threads()
    try:
        assert set_up(threads=1, deterministic=False) == 1
    finally:
        torch.set_num_threads(before)
