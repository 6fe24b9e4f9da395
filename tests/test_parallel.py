"""Pieces side by side: the same answers as one after the other, whatever the number of threads."""

import threading
from collections.abc import Iterator

import pytest
import torch

from neuroreg import field
from neuroreg.methods.affine import AffineMethod
from neuroreg.methods.gaussnewton import GaussNewton
from neuroreg.methods.neuroreg import NeuroregConfig, NeuroregMethod
from neuroreg.parallel import ALONE, workers
from neuroreg.preprocess.conform import conform
from neuroreg.volume import Geometry, Volume

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_answers_come_in_the_order_of_the_pieces() -> None:
    seen = set()
    meet = threading.Barrier(3, timeout=20)  # passes only when three threads are at work

    def square(number: int) -> int:
        if number < 3:
            meet.wait()
        seen.add(threading.get_ident())
        return number * number

    with workers(CPU) as team:
        assert team.map(square, range(40)) == [n * n for n in range(40)]
        assert team.both(lambda: 1, lambda: "b") == (1, "b")
    assert len(seen) == 3


def test_one_thread_for_operations_inside_and_all_again_after() -> None:
    with workers(CPU) as team:
        assert set(team.map(lambda _: torch.get_num_threads(), range(30))) == {1}
    assert torch.get_num_threads() == 3


def test_the_first_error_is_raised_and_nothing_more_is_begun() -> None:
    meet = threading.Barrier(2, timeout=20)
    begun = []

    def fail(number: int) -> None:
        begun.append(number)
        if number < 2:
            meet.wait()  # both fail, whoever is quicker
        raise KeyError(number)

    with workers(CPU) as team:
        for _ in range(20):
            begun.clear()
            with pytest.raises(KeyError, match="0"):
                team.map(fail, range(2))
        begun.clear()
        with pytest.raises(KeyError):
            team.map(fail, [7] * 50)
    assert len(begun) <= 3
    assert torch.get_num_threads() == 3


def test_helpers_work_in_the_callers_modes() -> None:
    meet = threading.Barrier(3, timeout=20)

    def product(number: int) -> tuple[bool, bool, torch.dtype]:
        meet.wait()
        x = torch.ones(2, 2, requires_grad=not torch.is_inference_mode_enabled())
        y = x @ x
        return y.is_inference(), y.requires_grad, y.dtype

    with workers(CPU) as team:
        assert set(team.map(product, range(3))) == {(False, True, torch.float32)}
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            assert set(team.map(product, range(3))) == {(False, False, torch.bfloat16)}
        with torch.inference_mode():
            assert set(team.map(product, range(3))) == {(True, False, torch.float32)}


def test_a_piece_may_have_pieces_of_its_own() -> None:
    with workers(CPU) as team:
        assert team.map(lambda n: sum(team.map(lambda k: n * k, range(5))), range(6)) == [
            10 * n for n in range(6)
        ]


def test_other_devices_and_single_threads_need_no_helpers() -> None:
    with workers(torch.device("meta")) as team:
        assert team is ALONE
    torch.set_num_threads(1)
    with workers(CPU) as team:
        assert team is ALONE


def test_the_engine_finds_the_same_field_with_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neuroreg.methods.gaussnewton_level._CPU_CHUNK", 700)  # many pieces
    generator = torch.Generator().manual_seed(3)
    fixed, moving = (
        field.smooth(torch.rand(1, 1, 40, 48, 32, generator=generator), sigma) for sigma in (2.0, 2.2)
    )
    engine = GaussNewton(GaussNewton.Config(iterations=(3, 2, 2, 2)))
    several = engine.predict(fixed, moving).displacement
    torch.set_num_threads(1)
    assert torch.equal(several, engine.predict(fixed, moving).displacement)
    assert several.abs().max() > 0.1


@torch.inference_mode()
def test_a_pair_is_conformed_aligned_and_predicted_the_same_with_any_number_of_threads() -> None:
    generator = torch.Generator().manual_seed(5)
    head = torch.zeros(1, 1, 40, 44, 42)
    head[..., 6:-6, 8:-7, 7:-9] = 0.2 + torch.rand(28, 29, 26, generator=generator)
    first = field.smooth(head, 1.5)[0]
    grid = Geometry((42, 44, 40), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    pair = (Volume(first, grid), Volume(first.roll(2, 1), grid))

    def run() -> list[torch.Tensor]:
        done = conform(*pair, spacing_mm=2.0, divisor=16)
        start = AffineMethod().predict(done.fixed, done.moving)
        torch.manual_seed(6)
        method = NeuroregMethod(NeuroregConfig(spacing_mm=2.0, codes=4, features=4, width=8))
        found = method.predict(done.fixed, done.moving, start)
        assert start.affine is not None
        assert found.guides is not None
        return [done.fixed, done.moving, start.affine, found.displacement, *found.guides]

    several = run()
    torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(several, run(), strict=True))


def test_sampling_needs_as_many_places_as_volumes() -> None:
    with torch.no_grad(), pytest.raises(RuntimeError, match="batch"):
        field.sample(torch.rand(8, 1, 5, 5, 5), torch.rand(1, 3, 16, 5, 5))


def test_a_volume_is_sampled_the_same_in_slabs_and_as_a_whole() -> None:
    generator = torch.Generator().manual_seed(4)
    image = torch.rand(1, 2, 7, 9, 8, generator=generator)
    index = 9.0 * torch.rand(1, 3, 12, 5, 6, generator=generator) - 1.0
    whole = field.sample(image, index)  # with gradients: not cut
    with torch.no_grad():
        assert torch.equal(field.sample(image, index), whole)
