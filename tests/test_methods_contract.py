"""Every entry of METHODS keeps the contract; a new entry is tested before its author writes a test."""

import importlib.util

import pytest
import torch
from torch import Tensor

from neuroreg import field
from neuroreg.errors import UnavailableError, UsageError
from neuroreg.methods import METHODS
from neuroreg.methods.base import Batch, Method, MethodConfig, Prediction, TrainableMethod

HEAVY = {"syn", "greedy"}  # other programs: their import alone takes seconds
LIGHT = {
    "simcnn": {"active_percent": 0.1, "iterations": 1, "points": 8}
}  # the same network, asked less often
NAMES = [pytest.param(name, marks=pytest.mark.oracle if name in HEAVY else ()) for name in METHODS]


def make(name: str) -> Method:
    """The method with its default options, or a skip that says why."""
    entry = METHODS[name]
    module = entry.target.partition(":")[0]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not there")
    try:
        cls = entry.load()
    except UnavailableError as error:
        pytest.skip(str(error))
    assert isinstance(cls, type)
    torch.manual_seed(0)  # networks draw their first weights from the global generator
    method = cls(cls.Config(**LIGHT.get(name, {})))
    assert isinstance(method, Method)
    return method


def legal(divisor: int, least: tuple[int, int, int]) -> tuple[int, ...]:
    """The smallest legal grid with three different sides of at least ``least`` voxels."""
    sides = [-(-n // divisor) for n in least]
    return tuple((n + i) * divisor if len(set(sides)) < 3 else n * divisor for i, n in enumerate(sides))


def head(shape: tuple[int, ...], seed: int) -> Tensor:
    """(1, 1, D, H, W) in 0..1: a smooth lopsided blob with texture, zero near the rim."""
    index = field.identity(shape)
    noise = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(seed))
    at = [(index[:, a] - (n - 1) / 2) / (n / 2) for a, n in enumerate(shape)]
    fade = torch.sigmoid(12 * (0.5 - (at[0] / 1.05) ** 2 - at[1] ** 2 - (at[2] * 1.1 + 0.05) ** 2))
    return (fade[:, None] * (0.2 + field.smooth(noise, 1.0) + 0.3 * at[1][:, None])).clamp(0, 1)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_identity_of_equal_images(name: str) -> None:
    method = make(name)
    shape = legal(method.divisor, (24, 32, 28))
    image = head(shape, 1)
    start = Prediction(torch.zeros(1, 3, *shape), affine=torch.eye(3, 4)[None])
    with torch.no_grad():
        found = method.predict(image, image, start)
    grid = tuple(-(-n // 2**found.level) for n in shape)
    assert found.displacement.shape == (1, 3, *grid)
    assert found.displacement.dtype == torch.float32
    assert bool(torch.isfinite(found.displacement).all())
    if found.inverse is not None:
        assert found.inverse.shape == found.displacement.shape
    if found.affine is not None:
        assert found.affine.shape == (1, 3, 4)
        torch.testing.assert_close(found.affine.float(), torch.eye(3, 4)[None], atol=0.02, rtol=0)
    if not isinstance(method, TrainableMethod):  # a network promises nothing before it is trained
        inside = image > 0.1
        bound = 0.6 if name in HEAVY else 0.1  # Greedy roams half a voxel on grids as small as this
        assert float((found.at_level(0, shape).abs() * inside).max()) < bound


@pytest.mark.parametrize("name", NAMES)
def test_any_legal_grid(name: str) -> None:
    method = make(name)
    for least in ((16, 24, 20), (36, 28, 20)):
        shape = legal(method.divisor, least)
        with torch.no_grad():
            found = method.predict(head(shape, 1), head(shape, 2), None)
        assert found.at_level(0, shape).shape == (1, 3, *shape)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_parts(name: str) -> None:
    method = make(name)
    shape = legal(method.divisor, (20, 28, 24))
    fixed = torch.cat((head(shape, 1), head(shape, 2)))
    moving = torch.cat((head(shape, 3), head(shape, 4)))
    with torch.no_grad():
        try:
            both = method.predict(fixed, moving, None)
        except UsageError:
            return  # refused, clearly
        for b in range(2):
            one = method.predict(fixed[b : b + 1], moving[b : b + 1], None)
            torch.testing.assert_close(both.displacement[b : b + 1], one.displacement, atol=2e-2, rtol=0)
            if both.affine is not None and one.affine is not None:
                torch.testing.assert_close(both.affine[b : b + 1], one.affine, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_reaches_every_parameter(name: str) -> None:
    method = make(name)
    if not isinstance(method, TrainableMethod):
        pytest.skip(f"{name} has nothing to train")
    shape = legal(method.divisor, (16, 20, 24))
    fixed, moving = head(shape, 1), head(shape, 2)
    method.network.train()
    regions = [(60 * image).long() for image in (fixed, moving)]
    batch = Batch(fixed, moving, *regions, fixed > 0.05, torch.Generator().manual_seed(0))
    total = torch.stack(
        [term.float() for term in method.losses(method.predict(fixed, moving), batch).values()]
    ).sum()
    assert bool(torch.isfinite(total))
    total.backward()
    parameters = {key: p for key, p in method.network.named_parameters() if p.requires_grad}
    assert [key for key, p in parameters.items() if p.grad is None] == []
    assert [
        key for key, p in parameters.items() if p.grad is not None and float(p.grad.abs().max()) == 0.0
    ] == []
    trained = {id(p) for stage in method.stages(100, 1e-3) for p in stage.parameters}
    assert [key for key, p in parameters.items() if id(p) not in trained] == []


@pytest.mark.parametrize("name", METHODS)
def test_options_are_frozen_documented_and_closed(name: str) -> None:
    if name in HEAVY:
        pytest.importorskip({"syn": "ants", "greedy": "picsl_greedy"}[name])
    config = type(make(name)).Config
    assert issubclass(config, MethodConfig)
    assert [key for key, option in config.model_fields.items() if not option.description] == []
    with pytest.raises(ValueError, match="Extra inputs"):
        config(no_such_option=1)  # type: ignore[call-arg]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "neuroreg.methods.greedy", raising=False)
    monkeypatch.setitem(sys.modules, "picsl_greedy", None)
    with pytest.raises(UnavailableError, match=r"pip install 'neuroreg\[greedy\]'"):
        METHODS["greedy"].load()
