"""A careful HDF5 reader: groups, float arrays and strings. Standard: HDF5 file format, version 3.0.

The HDF5 library inside SimpleITK crashes on some damaged files and prints pages about others. Here no byte is used
before its place was checked against the length of the file, nothing is allocated beyond what the file can hold, and
what is not understood is refused. Read is what transform files are made of: superblocks 0 to 3, both kinds of
groups, contiguous, compact and chunked data, deflate.
"""

import math
import struct
import zlib
from pathlib import Path

import numpy as np

from neuroreg.io.hdf5 import FLOAT_TYPES, Node
from neuroreg.io.hdf5_skeleton import DATASPACE, DATATYPE, FILTERS, LAYOUT, Skeleton

_MOST_DEPTH = 4
_DEFLATE = 1
_DEFLATE_RATIO = 1100  # deflate cannot pack better than 1032 to 1


def read_hdf5(path: Path, member: str) -> Node:
    """What ``member`` of the root group holds: a group as a mapping, a string, or a flat array in native byte order.

    Raises DataError for files that are damaged, or use more of HDF5 than transform files do.
    """
    reader = _Reader(path.read_bytes(), path)
    return reader.member(member)


class _Reader(Skeleton):
    """Strings and arrays."""

    def member(self, name: str) -> Node:
        """The object called ``name`` in the root group."""
        children = self.children(self.messages(self.root()))
        if name not in children:
            raise self.damaged(f"it has no {name}")
        return self._node(children[name], 1)

    def _node(self, address: int, depth: int) -> Node:
        messages = self.messages(address)
        kinds = dict(messages)
        if {DATASPACE, DATATYPE, LAYOUT} <= kinds.keys():
            return self._dataset(kinds)
        if depth > _MOST_DEPTH:
            raise self.foreign("deeply nested groups")
        return {name: self._node(child, depth + 1) for name, child in self.children(messages).items()}

    def _dataset(self, kinds: dict[int, memoryview]) -> Node:
        count = self._element_count(kinds[DATASPACE])
        datatype = kinds[DATATYPE]
        kind, size = datatype[0] & 15 if datatype else -1, self.unpack("I", datatype, 4)[0]
        if kind == 1 and size in FLOAT_TYPES and datatype[8:20] == FLOAT_TYPES[size][8:20]:
            if datatype[1] & 0x41:
                raise self.foreign("numbers of another byte order")
            values = np.frombuffer(self._raw(kinds, count, size), f"<f{size}")
            return np.asarray(values, values.dtype.newbyteorder("="))
        if kind == 3 and count == 1:
            return self._text(self._raw(kinds, 1, size))
        if kind == 9 and size == 16 and count == 1 and datatype[1] & 15 == 1:
            length, heap, number = struct.unpack("<IQI", self._raw(kinds, 1, 16))
            return self._text(self._heap_object(heap, number)[:length])
        raise self.foreign("another kind of numbers")

    def _text(self, data: memoryview | bytearray) -> str:
        return bytes(data).partition(b"\0")[0].decode("latin-1")

    def _heap_object(self, heap: int, number: int) -> memoryview:
        if bytes(self.at(heap, 5)) != b"GCOL\1":
            raise self.damaged("a text is missing")
        whole, place = self.at(heap, self.numbers("Q", heap + 8)[0]), 16
        while place + 16 <= len(whole):
            index, _, _, size = struct.unpack_from("<2HIQ", whole, place)
            if index == number:
                return self.at(heap + place + 16, size)
            if index == 0:
                break
            place += 16 + size + -size % 8
        raise self.damaged("a text is missing")

    def _element_count(self, space: memoryview) -> int:
        version, rank, _ = self.unpack("3B", space)
        if version not in (1, 2) or rank > 8 or (version == 2 and self.unpack("B", space, 3)[0] > 1):
            raise self.foreign("another kind of arrays")
        return math.prod(self.unpack(f"{rank}Q", space, 8 if version == 1 else 4))

    def _raw(self, kinds: dict[int, memoryview], count: int, size: int) -> memoryview | bytearray:
        """The ``count * size`` bytes of a dataset."""
        layout, needed = kinds[LAYOUT], count * size
        version, kind = self.unpack("2B", layout)
        if version not in (3, 4) or (version == 4 and kind == 2) or (FILTERS in kinds and kind != 2):
            raise self.foreign("another layout")
        if kind == 2:
            return self._chunks(layout, kinds.get(FILTERS), count, size)
        if kind == 1:
            address, stored = self.unpack("2Q", layout, 2)
            data = self.at(address if needed else 0, stored)  # an empty array has no address
        else:
            stored = self.unpack("H", layout, 2)[0]
            data = layout[4 : 4 + stored]
        if kind > 2 or len(data) != needed:
            raise self.damaged(f"{needed} bytes are declared, {len(data)} are there")
        return data

    def _chunks(self, layout: memoryview, filters: memoryview | None, count: int, size: int) -> bytearray:
        rank, tree, side, width = self.unpack("BQ2I", layout, 2)
        if rank != 2 or width != size or side == 0 or (filters is not None and not self._is_deflate(filters)):
            raise self.foreign("another layout")
        if max(count, side) * size > len(self.content) * (_DEFLATE_RATIO if filters is not None else 1):
            raise self.damaged(f"{count * size} bytes are declared, it has {len(self.content)}")
        whole, seen = bytearray(count * size), set[int]()
        for data, start, masked in self._leaves(tree, 0):
            if start % side or start >= count or start in seen:
                raise self.damaged("a piece of the numbers lies elsewhere")
            block = data if filters is None or masked else self._inflate(data, side * size)
            if len(block) != side * size:
                raise self.damaged("a piece of the numbers is cut off")
            end = min(start + side, count)
            whole[start * size : end * size] = block[: (end - start) * size]
            seen.add(start)
        if len(seen) != -(-count // side):
            raise self.damaged("a piece of the numbers is missing")
        return whole

    def _leaves(self, node: int, depth: int) -> list[tuple[memoryview, int, int]]:
        """Bytes, first element and filter mask of every chunk below a node."""
        level, found = self.numbers("B", node + 5)[0], []
        for key, child in self.tree(node, kind=1, key=24, depth=depth):
            length, masked, start, _ = self.unpack("2I2Q", key)
            found += self._leaves(child, depth + 1) if level else [(self.at(child, length), start, masked)]
        return found

    def _is_deflate(self, filters: memoryview) -> bool:
        version, count = self.unpack("2B", filters)
        return (
            version in (1, 2)
            and count == 1
            and self.unpack("H", filters, 8 if version == 1 else 2) == (_DEFLATE,)
        )

    def _inflate(self, data: memoryview, most: int) -> bytes:
        try:
            return zlib.decompressobj().decompress(data, most)
        except zlib.error as error:
            raise self.damaged("its compressed numbers do not unpack") from error
