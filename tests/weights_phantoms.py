"""A weights folder with one small untrained network, and files that somebody else may have made of it."""

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from neuroreg.methods import METHODS

SMALL: dict[str, object] = {"features": 4, "width": 8}
"""Options of the method ``neuroreg`` that make a network of 40 kB."""
DESCRIBED = {"method": "neuroreg", "config": json.dumps(SMALL)}


class Planted:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.touch, (self.trace,))


def small_tensors() -> dict[str, torch.Tensor]:
    method = METHODS["neuroreg"].load()
    found: dict[str, torch.Tensor] = method(method.Config(**SMALL)).network.state_dict()
    return found


def save_home(folder: Path, **changes: object) -> Path:
    """A weights folder with 'net' alone; ``changes`` go into its record."""
    folder.mkdir()
    save_file(small_tensors(), folder / "net.safetensors")
    digest = hashlib.sha256((folder / "net.safetensors").read_bytes()).hexdigest()
    record = {
        "name": "net",
        "method": "neuroreg",
        "file": "net.safetensors",
        "sha256": digest,
        "config": SMALL,
    }
    contents = {"schema": 1, "defaults": {"neuroreg": "net"}, "models": [{**record, **changes}]}
    (folder / "manifest.json").write_text(json.dumps(contents))
    return folder


def save_raw(
    path: Path, header: Mapping[str, object] | bytes, body: bytes = b"", *, length: int | None = None
) -> Path:
    """Safetensors by hand: the length of the header (or what is claimed), the header, the bytes of the tensors."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)
    return path
