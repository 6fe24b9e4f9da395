"""Starting weights: a smaller network inside a larger one behaves as before."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from neuroreg import checkpoints
from neuroreg.errors import DataError
from neuroreg.training.initial import load_initial


def saved(network: nn.Module, path: Path) -> checkpoints.WeightRecord:
    metadata = {"name": "small", "method": "neuroreg", "config": "{}"}
    save_file(
        {name: value.contiguous() for name, value in network.state_dict().items()}, path, metadata=metadata
    )
    return checkpoints.find(str(path))


def test_a_wider_network_begins_as_the_narrower_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = nn.Sequential(nn.Conv3d(2, 3, 3), nn.GroupNorm(1, 3))
    large = nn.Sequential(nn.Conv3d(5, 3, 3), nn.GroupNorm(1, 3), nn.Conv3d(3, 1, 1))
    own = large[2].weight.detach().clone()
    load_initial(large, saved(small, tmp_path / "small.safetensors"))
    x = torch.randn(1, 5, 4, 5, 6)
    torch.testing.assert_close(large[:2](x), small(x[:, :2]))
    assert torch.equal(large[2].weight, own)


@pytest.mark.parametrize(
    "network",
    [nn.Sequential(nn.Conv3d(1, 3, 3)), nn.Sequential(nn.Conv3d(2, 4, 3)), nn.Sequential(nn.ReLU())],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, network: nn.Module) -> None:
    record = saved(nn.Sequential(nn.Conv3d(2, 3, 3)), tmp_path / "small.safetensors")
    with pytest.raises(DataError, match="does not fit"):
        load_initial(network, record)
