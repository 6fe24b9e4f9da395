"""Safetensors files: what they say, what they hold, and whether that fits a network. A pickle is never opened."""

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from neuroreg.errors import DataError, NoInputError

if TYPE_CHECKING:
    from torch import Tensor, nn

PICKLES = frozenset({".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle", ".pt2"})
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80")  # torch's zip container, a bare pickle stream
_MOST_BYTES = 2**30
"""of a weight file: a hundred times the largest of ours. A file may promise more than any memory holds."""
REAL = frozenset({"F16", "BF16", "F32", "F64"})
NUMBERS = REAL | {"BOOL", "U8", "I8", "I16", "I32", "I64"}
"""Types of numbers, as safetensors spells them, that can be checked and used exactly."""


def read_bytes(path: Path) -> bytes:
    """The whole of a file that is no pickle and no larger than weights can be. Raises DataError, NoInputError."""
    try:
        refuse_pickle(path)
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise DataError(
                f"{size / 1e9:.1f} GB are more than weights can have",
                file=path,
                remedy="check what the file is",
            )
        return path.read_bytes()
    except OSError as error:
        raise NoInputError(
            f"the weights cannot be read: {error.strerror}",
            file=path,
            remedy="check the path and its permissions",
        ) from error


def refuse_pickle(path: Path) -> None:
    """Raises DataError for a file that is a pickle by its name or its first bytes."""
    with path.open("rb") as stream:
        start = stream.read(9)
    # Safetensors begin with the length of a JSON header, whose lowest byte may well be that of a pickle.
    is_safe = start[8:] == b"{" and 8 + int.from_bytes(start[:8], "little") <= path.stat().st_size
    if path.suffix.lower() in PICKLES or (start.startswith(_PICKLE_STARTS) and not is_safe):
        raise DataError(
            "this is a pickle, which can run code when it is loaded; it was not opened",
            file=path,
            remedy="convert it to .safetensors where it came from",
        )


def read_layout(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name of every tensor -> its type of numbers and shape, read without the tensors. Raises DataError."""
    try:
        with safe_open(path, framework="numpy") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
            return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise unreadable(error, path) from error


def load(data: bytes, path: Path) -> "dict[str, Tensor]":
    """The tensors in the bytes of the file ``path``, by name, on the CPU in the type stored.

    Raises DataError when these are no safetensors, hold other types of numbers than ``NUMBERS``, or a value is not
    finite (as float32, where it is a float64).
    """
    from safetensors import torch as safetensors_torch

    strange = sorted(name for name, (kind, _) in read_layout(path).items() if kind not in NUMBERS)
    if strange:
        raise DataError(
            f"weights of an unknown type of number in {_some(strange)}",
            file=path,
            remedy="use safetensors of float32 or float16",
        )
    try:
        found: dict[str, Tensor] = safetensors_torch.load(data)
    except SafetensorError as error:
        raise unreadable(error, path) from error
    floats = {name: tensor.float() for name, tensor in found.items() if tensor.is_floating_point()}
    broken = [name for name, tensor in floats.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise DataError(
            f"weights that are not finite numbers in {_some(broken)}",
            file=path,
            remedy="train them again, or use other weights",
        )
    return found


def check_fit(network: "nn.Module", path: Path) -> None:
    """Compare the names, shapes and kinds of numbers alone: ``network`` may be one without values (device "meta").

    Raises DataError naming the first that differ.
    """
    stored, wanted = read_layout(path), network.state_dict()
    both = [name for name in wanted if name in stored]
    faults = {
        "missing": [name for name in wanted if name not in stored],
        "unexpected": sorted(name for name in stored if name not in wanted),
        "other shape": [
            f"{name} {stored[name][1]} for {tuple(wanted[name].shape)}"
            for name in both
            if stored[name][1] != tuple(wanted[name].shape)
        ],
        "no real numbers": [n for n in both if wanted[n].is_floating_point() and stored[n][0] not in REAL],
        "no whole numbers": [n for n in both if not wanted[n].is_floating_point() and stored[n][0] in REAL],
    }
    problems = [f"{word} {_some(names)}" for word, names in faults.items() if names]
    if problems:
        raise DataError(
            f"these weights do not fit this network: {', '.join(problems)}",
            file=path,
            remedy="use the method and options of the recipe that made them",
        )


def unreadable(error: Exception, path: Path) -> DataError:
    """What to raise for a file that the library of safetensors refuses."""
    return DataError(
        f"not a readable safetensors file: {first_line(error)}",
        file=path,
        remedy="get the file again from its source",
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(name if len(name) <= 80 else f"{name[:79]}…" for name in names[:3]) + more


def first_line(error: Exception) -> str:
    """What another library says, as one line of at most 160 letters."""
    return " ".join(str(error).split())[:160] or type(error).__name__
