"""What a safetensors file holds and whether a network can have it, each fault by name."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from neuroreg import tensors
from neuroreg.errors import DataError, NoInputError


def network() -> nn.Module:
    """With whole numbers among its buffers: how many batches were seen."""
    return nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2))


def test_the_layout_is_told_without_the_values(tmp_path: Path) -> None:
    save_file(
        {"a": torch.zeros(2, 3, dtype=torch.bfloat16), "b": torch.zeros((), dtype=torch.int64)},
        tmp_path / "a",
    )
    assert tensors.read_layout(tmp_path / "a") == {"a": ("BF16", (2, 3)), "b": ("I64", ())}


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_network_is_compared_by_names_shapes_and_kinds(tmp_path: Path, device: str) -> None:
    with torch.device(device):
        wanted = network()
    state = network().state_dict()
    save_file({name: t.half() if t.is_floating_point() else t for name, t in state.items()}, tmp_path / "a")
    tensors.check_fit(wanted, tmp_path / "a")
    save_file({**state, "1.num_batches_tracked": torch.tensor(1.0)}, tmp_path / "a")
    with pytest.raises(DataError, match="no whole numbers 1.num_batches_tracked"):
        tensors.check_fit(wanted, tmp_path / "a")
    save_file({**state, "0.bias": torch.ones(2, dtype=torch.int8)}, tmp_path / "a")
    with pytest.raises(DataError, match=r"no real numbers 0\.bias"):
        tensors.check_fit(wanted, tmp_path / "a")


def test_values_are_finite_as_they_will_be_used(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for value, dtype, is_fine in (
        (1e38, torch.float64, True), (1e39, torch.float64, False), (6e4, torch.float16, True),
        (float("inf"), torch.bfloat16, False), (2**40, torch.int64, True),
    ):  # fmt: skip
        save_file({"w": torch.tensor([0, value], dtype=dtype)}, path)
        if is_fine:
            assert tensors.load(path.read_bytes(), path)["w"].dtype == dtype
        else:
            with pytest.raises(DataError, match="not finite numbers in w"):
                tensors.load(path.read_bytes(), path)


def test_numbers_of_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    for dtype in (torch.complex64, torch.float8_e4m3fn):
        save_file({"w": torch.ones(2).to(dtype)}, tmp_path / "a")
        with pytest.raises(DataError, match="unknown type of number in w"):
            tensors.load((tmp_path / "a").read_bytes(), tmp_path / "a")


def test_what_cannot_be_read_is_no_input(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="cannot be read: No such file"):
        tensors.read_bytes(tmp_path / "none.safetensors")
    named = tmp_path / "a.PT"
    named.write_bytes(b"anything")
    with pytest.raises(DataError, match="pickle"):
        tensors.read_bytes(named)
