"""Memory and threads: what is not there is said before anything is computed."""

import pytest
import torch

from neuroreg.errors import BusyError
from neuroreg.io import files
from neuroreg.pipeline.resources import preflight, set_up


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
