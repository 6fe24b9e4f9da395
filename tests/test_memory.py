"""Memory by content: made once for equal parts, anew for any difference, few are kept and the oldest use goes first."""

import pytest
import torch

from neuroreg.memory import Memory, content


def test_equal_parts_are_made_once_and_the_oldest_use_goes_first() -> None:
    made: list[str] = []
    memory: Memory[str] = Memory(2)

    def ask(name: str) -> str:
        return memory.recall((name, torch.tensor([1.0])), lambda: made.append(name) or name.upper())

    assert [ask(name) for name in "abaca"] == ["A", "B", "A", "C", "A"]
    assert made == ["a", "b", "c"], "a was used again, so c took the place of b"
    ask("b")
    assert made == ["a", "b", "c", "b"]


def test_nothing_is_kept_without_room_nor_when_making_fails() -> None:
    memory: Memory[int] = Memory(0)
    assert [memory.recall(("x",), lambda n=n: n) for n in (1, 2)] == [1, 2]
    memory.keep(1)
    with pytest.raises(ZeroDivisionError):
        memory.recall(("x",), lambda: 1 // 0)
    assert [memory.recall(("x",), lambda n=n: n) for n in (3, 4)] == [3, 3]
    memory.keep(0)
    assert memory.recall(("x",), lambda: 5) == 5


def test_content_tells_values_shapes_types_and_places_apart() -> None:
    base = torch.arange(6.0)
    parts = [
        (base,), (base.reshape(2, 3),), (base.double(),), (base + 1,), (base, 1), (1, base), ("1", base), (base, base),
    ]  # fmt: skip
    assert len({content(*one) for one in parts}) == len(parts)
    assert content(base.reshape(2, 3).T) == content(base.reshape(2, 3).T.contiguous()), (
        "by values, not by strides"
    )
