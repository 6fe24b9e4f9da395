"""A minimal HDF5 writer: groups, float arrays and strings, nothing else. Standard: HDF5 file format, version 3.0.

SimpleITK writes composite transforms in double precision and stamps every object with the time of day and the
machine's operating system: the same run twice gives different bytes, and twice as many as needed. This file writes
the same structure in single precision where wanted, with no time and no machine in it. Any HDF5 library reads it:
superblock 2, object headers 2, compact links, contiguous data, variable-length strings in one global heap. HDF5 has
no checksum over such data, so a file carries its own, as a text that only ``hdf5_reader`` looks for.
"""

import re
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

Node: TypeAlias = "str | NDArray[np.float32] | NDArray[np.float64] | Mapping[str, Node]"

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_NONE = 0xFFFF_FFFF_FFFF_FFFF  # an undefined address
_SUPERBLOCK_BYTES = 48
_HEAP_BYTES = 4096  # the smallest global heap the library reads
HEAD_BYTES = _SUPERBLOCK_BYTES + _HEAP_BYTES
_MARK = b"neuroreg crc32 "  # one more text in the heap, which no object refers to: other readers never see it
_LINK_INFO, _DATASPACE, _DATATYPE, _FILL_VALUE, _LINK, _LAYOUT, _GROUP_INFO = (
    0x02,
    0x01,
    0x03,
    0x05,
    0x06,
    0x08,
    0x0A,
)
# class and version, bit field, size; then offset, precision, exponent at, its bits, mantissa at, its bits, bias
FLOAT_TYPES = {
    4: struct.pack("<B3BI2H4BI", 0x11, 0x20, 31, 0, 4, 0, 32, 23, 8, 0, 23, 127),
    8: struct.pack("<B3BI2H4BI", 0x11, 0x20, 63, 0, 8, 0, 64, 52, 11, 0, 52, 1023),
}
# a variable-length string, null-terminated, of bytes (unsigned integers of 8 bits)
_STRING_TYPE = struct.pack("<B3BI", 0x19, 1, 0, 0, 16) + struct.pack("<B3BI2H", 0x10, 0, 0, 0, 1, 0, 8)


def write_hdf5(tree: Mapping[str, Node], path: Path) -> None:
    """Write nested mappings of names to strings and float arrays; arrays are stored flat, in C order."""
    with path.open("xb") as stream:
        _Writer(stream).write(tree)


class _Writer:
    """Lays objects one after the other, children before their parents, and the superblock last."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._strings: list[bytes] = []
        self._crc = 0

    def write(self, tree: Mapping[str, Node]) -> None:
        self._stream.write(bytes(HEAD_BYTES))
        root = self._group(tree)
        end = self._stream.tell()
        block = SIGNATURE + struct.pack("<4B4Q", 2, 8, 8, 0, 0, _NONE, end, root)
        self._strings.append(_MARK + bytes(8))
        head = block + struct.pack("<I", lookup3(block)) + self._heap()
        self._stream.seek(0)
        self._stream.write(head.replace(_MARK + bytes(8), _MARK + b"%08x" % zlib.crc32(head, self._crc)))

    def _group(self, children: Mapping[str, Node]) -> int:
        addresses = {name: self._node(child) for name, child in children.items()}
        messages = [(_LINK_INFO, struct.pack("<2B2Q", 0, 0, _NONE, _NONE)), (_GROUP_INFO, b"\0\0")]
        for name, address in addresses.items():
            text = name.encode("ascii")
            messages.append((_LINK, struct.pack("<3B", 1, 0, len(text)) + text + struct.pack("<Q", address)))
        return self._object(messages)

    def _node(self, node: Node) -> int:
        if isinstance(node, Mapping):
            return self._group(node)
        if isinstance(node, str):
            text = node.encode("ascii")
            self._strings.append(text)
            reference = struct.pack("<IQI", len(text), _SUPERBLOCK_BYTES, len(self._strings))
            return self._dataset(_STRING_TYPE, 1, memoryview(reference))
        flat = np.ascontiguousarray(node).reshape(-1)
        flat = flat.astype(flat.dtype.newbyteorder("<"), copy=False)
        return self._dataset(FLOAT_TYPES[flat.itemsize], flat.size, flat.view(np.uint8).data)

    def _dataset(self, datatype: bytes, count: int, data: memoryview) -> int:
        address = self._append(data)
        return self._object(
            [
                (_DATASPACE, struct.pack("<4BQ", 2, 1, 0, 1, count)),
                (_DATATYPE, datatype),
                (_FILL_VALUE, b"\x03\x0a"),  # allocated late, written if set, none set
                (_LAYOUT, struct.pack("<2B2Q", 3, 1, address, data.nbytes)),
            ]
        )

    def _object(self, messages: list[tuple[int, bytes]]) -> int:
        body = b"".join(struct.pack("<BHB", kind, len(data), 0) + data for kind, data in messages)
        header = (
            b"OHDR" + struct.pack("<2BI", 2, 2, len(body)) + body
        )  # flags 2: the size takes four bytes, no times
        return self._append(memoryview(header + struct.pack("<I", lookup3(header))))

    def _append(self, data: memoryview) -> int:
        padding = bytes(-self._stream.tell() % 8)
        address = self._stream.tell() + len(padding)
        for piece in (padding, data):
            self._crc = zlib.crc32(piece, self._crc)
            self._stream.write(piece)
        return address

    def _heap(self) -> bytes:
        heap = b"GCOL" + struct.pack("<4BQ", 1, 0, 0, 0, _HEAP_BYTES)
        for index, text in enumerate(self._strings, start=1):
            heap += struct.pack("<2HIQ", index, 1, 0, len(text)) + text + bytes(-len(text) % 8)
        free = _HEAP_BYTES - len(heap)
        if free < 16:
            raise ValueError(f"{len(self._strings)} strings do not fit into the heap of {_HEAP_BYTES} bytes")
        return heap + struct.pack("<2HIQ", 0, 0, 0, free) + bytes(free - 16)


def own_checksum(head: bytes, rest: memoryview) -> tuple[int, int] | None:
    """The CRC-32 a file of this writer carries (-1 if it was lost), and the one it has; None for other files.

    head: the first HEAD_BYTES; rest: what follows. The sum is over the rest, then the head with the sum as zeros.
    """
    if head[_SUPERBLOCK_BYTES : _SUPERBLOCK_BYTES + 4] != b"GCOL":  # only this writer begins with its texts
        return None
    found = re.search(_MARK + rb"([0-9a-f]{8})", head)
    if found is None:
        return -1, 0
    return int(found[1], 16), zlib.crc32(head.replace(found[0], _MARK + bytes(8)), zlib.crc32(rest))


def lookup3(data: bytes) -> int:
    """The 32-bit checksum HDF5 puts behind its metadata: hashlittle of Bob Jenkins' lookup3, initial value 0."""
    a = b = c = (0xDEADBEEF + len(data)) & 0xFFFF_FFFF
    padded = data + bytes(-len(data) % 12)
    words = struct.unpack(f"<{len(padded) // 4}I", padded)
    for start in range(0, len(words), 3):
        a, b, c = a + words[start], b + words[start + 1], c + words[start + 2]
        a, b, c = _final(a, b, c) if start + 3 == len(words) else _mix(a, b, c)
    return c


def _rotate(value: int, bits: int) -> int:
    value &= 0xFFFF_FFFF
    return (value << bits | value >> (32 - bits)) & 0xFFFF_FFFF


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    for first, second, third in ((4, 6, 8), (16, 19, 4)):
        a = (a - c) ^ _rotate(c, first)
        c += b
        b = (b - a) ^ _rotate(a, second)
        a += c
        c = (c - b) ^ _rotate(b, third)
        b += a
    return a & 0xFFFF_FFFF, b & 0xFFFF_FFFF, c & 0xFFFF_FFFF


def _final(a: int, b: int, c: int) -> tuple[int, int, int]:
    c = (c ^ b) - _rotate(b, 14)
    a = (a ^ c) - _rotate(c, 11)
    b = (b ^ a) - _rotate(a, 25)
    c = (c ^ b) - _rotate(b, 16)
    a = (a ^ c) - _rotate(c, 4)
    b = (b ^ a) - _rotate(a, 14)
    c = (c ^ b) - _rotate(b, 24)
    return a & 0xFFFF_FFFF, b & 0xFFFF_FFFF, c & 0xFFFF_FFFF
