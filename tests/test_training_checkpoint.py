"""The state of a run on disk, and the weights that are shipped."""

import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from neuroreg.errors import DataError
from neuroreg.training.checkpoint import Progress, load_state, save_state, save_weights

PROGRESS = Progress(0, 7, 12.5, 0.61, 5, 0.4, 0.35)


def network(seed: int) -> nn.Sequential:
    """With a normalisation: buffers, one of them an integer."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2), nn.Conv3d(2, 1, 1))


def step(net: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    x = torch.randn(2, 1, 5, 5, 5, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    net(x).square().mean().backward()
    optimizer.step()


def trained(seed: int, steps: int) -> tuple[nn.Sequential, torch.optim.AdamW]:
    net = network(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    for number in range(steps):
        step(net, optimizer, number)
    return net, optimizer


def load(path: Path, net: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    return load_state(path, net, [optimizer], "abc")


def test_what_is_saved_comes_back_and_learns_on_alike(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    net, optimizer = trained(0, 3)
    save_state(path, net, optimizer, PROGRESS, "abc")
    other, fresh = trained(1, 0)
    assert load_state(path, other, [fresh], "abc") == PROGRESS
    for _ in range(2):
        step(net, optimizer, 9)
        step(other, fresh, 9)
    for (name, one), (_, two) in zip(net.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(one, two), name


def test_a_state_before_the_first_step_can_be_loaded(tmp_path: Path) -> None:
    net, optimizer = trained(0, 0)
    save_state(tmp_path / "s", net, optimizer, Progress(), "abc")
    other, fresh = trained(1, 0)
    assert load_state(tmp_path / "s", other, [fresh], "abc") == Progress()
    assert torch.equal(other[0].weight, net[0].weight)


def test_the_state_of_another_recipe_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    save_state(tmp_path / "s", *trained(0, 1), PROGRESS, "abc")
    other, fresh = trained(1, 0)
    before = other[0].weight.clone()
    with pytest.raises(DataError, match=r"another recipe.*--restart"):
        load_state(tmp_path / "s", other, [fresh], "abd")
    assert torch.equal(other[0].weight, before)


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, *trained(0, 1), PROGRESS, "abc")
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"\x00" * 100):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"damaged; state\.safetensors"):
            load(path, *trained(1, 0))


def test_writing_leaves_no_other_file_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    for steps in (1, 2):
        save_state(path, *trained(0, steps), Progress(step=steps), "abc")
        assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]
    assert load(path, *trained(0, 0)).step == 2


def test_a_failed_write_keeps_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, *trained(0, 1), PROGRESS, "abc")

    def full(*_args: object, **_more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("neuroreg.training.checkpoint.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save_state(path, *trained(0, 2), Progress(step=9), "abc")
    assert load(path, *trained(0, 0)) == PROGRESS


def test_shipped_weights_are_half_precision_with_their_metadata(tmp_path: Path) -> None:
    net, _ = trained(0, 2)
    path = tmp_path / "best.safetensors"
    save_weights(path, net, {"name": "toy", "step": "2"})
    found = load_file(path)
    assert set(found) == set(net.state_dict())
    for name, value in net.state_dict().items():
        assert found[name].dtype == (torch.float16 if value.is_floating_point() else value.dtype)
        torch.testing.assert_close(found[name].to(value.dtype), value, rtol=1e-3, atol=1e-4)
    with safe_open(path, framework="pt") as stream:
        assert stream.metadata() == {"name": "toy", "step": "2"}


def test_the_moments_go_to_the_optimizer_of_their_stage(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    net, optimizer = trained(0, 2)
    save_state(path, net, optimizer, Progress(stage=1, step=2), "abc")
    other, fresh = trained(1, 0)
    idle = torch.optim.AdamW(other[:1].parameters(), lr=1e-2)
    assert load_state(path, other, [idle, fresh], "abc").stage == 1
    assert not idle.state_dict()["state"]
    for index, moments in optimizer.state_dict()["state"].items():
        assert torch.equal(fresh.state_dict()["state"][index]["exp_avg"], moments["exp_avg"])


def test_the_loss_scale_of_fp16_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    before, after = (torch.amp.GradScaler("cpu", init_scale=scale) for scale in (256.0, 65536.0))
    save_state(path, *trained(0, 1), PROGRESS, "abc", scaler=before)
    net, optimizer = trained(0, 0)
    load_state(path, net, [optimizer], "abc", scaler=after)
    assert after.state_dict() == before.state_dict()
    assert after.get_scale() == 256.0


def rewritten(path: Path, *, digest: bool = False, **metadata: str | None) -> None:
    """Other metadata for a state; without its sha256 unless told otherwise, as an older program would have left it."""
    with safe_open(path, framework="pt") as stream:
        said, tensors = dict(stream.metadata()), {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    kept = {key: value for key, value in {**said, **metadata}.items() if value is not None}
    if not digest:
        del kept["sha256"]
    save_file(tensors, path, metadata=kept)


def test_a_flipped_bit_of_a_state_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, *trained(0, 1), PROGRESS, "abc")
    whole, draw = path.read_bytes(), random.Random(5)
    for place in [draw.randrange(len(whole) * 8) for _ in range(40)] + [len(whole) * 8 - 1]:
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged|another recipe"):
            load(path, *trained(1, 0))


@pytest.mark.parametrize(
    "progress",
    [
        None, "", "{", "[]", "[" * 100_000, '{"stage": 1}', '{"stage": -1}', '{"step": -5}', '{"step": "3"}',
        '{"step": 2.5}', '{"step": true}', '{"seconds": "x"}', '{"best_dice": null}',
    ],
    ids=lambda text: str(text)[:20],
)  # fmt: skip
def test_a_state_that_says_nonsense_is_refused(tmp_path: Path, progress: str | None) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, *trained(0, 1), PROGRESS, "abc")
    rewritten(path)
    assert load(path, *trained(1, 0)) == PROGRESS  # an older program's is taken
    save_state(path, *trained(0, 1), PROGRESS, "abc")
    rewritten(path, digest=True, progress='{"step": 8}')
    with pytest.raises(DataError, match="damaged"):
        load(path, *trained(1, 0))
    rewritten(path, progress=progress)
    with pytest.raises(DataError, match=r"damaged; state\.safetensors; start again with --restart"):
        load(path, *trained(1, 0))


@pytest.mark.parametrize(
    "name", ["optimizer.0.exp_avg", "optimizer.99.step", "optimizer.x.step", "network.0.weight"]
)
def test_a_state_of_other_tensors_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, *trained(0, 1), PROGRESS, "abc")
    with safe_open(path, framework="pt") as stream:
        said = {key: value for key, value in stream.metadata().items() if key != "sha256"}
    save_file({**load_file(path), name: torch.zeros(2, 3)}, path, metadata=said)
    with pytest.raises(DataError, match="damaged"):
        load(path, *trained(1, 0))
