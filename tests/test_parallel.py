"""Pieces side by side: the same answers as one after the other, whatever the number of threads."""

import threading
from collections.abc import Iterator

import pytest
import torch

from neuroreg import field
from neuroreg.methods.gaussnewton import GaussNewton
from neuroreg.parallel import ALONE, workers

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


def test_an_error_of_a_piece_is_raised_again() -> None:
    def fail(number: int) -> None:
        raise KeyError(number)

    with workers(CPU) as team, pytest.raises(KeyError):
        team.map(fail, range(5))
    assert torch.get_num_threads() == 3


def test_pieces_see_the_callers_inference_mode() -> None:
    with torch.inference_mode(), workers(CPU) as team:
        assert all(x.is_inference() for x in team.map(lambda n: torch.zeros(n), range(8)))


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


def test_a_volume_is_sampled_the_same_in_slabs_and_as_a_whole() -> None:
    generator = torch.Generator().manual_seed(4)
    image = torch.rand(1, 2, 7, 9, 8, generator=generator)
    index = 9.0 * torch.rand(1, 3, 12, 5, 6, generator=generator) - 1.0
    whole = field.sample(image, index)  # with gradients: not cut
    with torch.no_grad():
        assert torch.equal(field.sample(image, index), whole)
