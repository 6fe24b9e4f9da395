"""The skeleton of an HDF5 file, read with care: superblock, object headers, groups. HDF5 file format, version 3.0.

No byte is used before its place was checked against the length of the file, every checksum is compared, and what is
not understood is refused. Superblocks 0 to 3, both kinds of groups and object headers.
"""

import re
import struct
from pathlib import Path

from neuroreg.errors import DataError
from neuroreg.io.hdf5 import HEAD_BYTES, SIGNATURE, lookup3, own_checksum

DATASPACE, LINK_INFO, DATATYPE, LINK, LAYOUT, FILTERS = 0x01, 0x02, 0x03, 0x06, 0x08, 0x0B
_CONTINUATION, _SYMBOL_TABLE = 0x10, 0x11
_NONE = 0xFFFF_FFFF_FFFF_FFFF
_MOST_PIECES = 20_000  # more than any transform needs; where links run in a circle, reading ends here
_MOST_DEPTH = 4

Messages = list[tuple[int, memoryview]]


class Skeleton:
    """The bytes of one file; every look at them goes through ``at``."""

    def __init__(self, content: bytes, file: Path) -> None:
        self.content, self._file, self._pieces = memoryview(content), file, 0
        if content[: len(SIGNATURE)] != SIGNATURE:
            raise DataError("this is not an HDF5 transform file, or it is damaged", file=file,
                            remedy="get the file again from its source")  # fmt: skip
        known = own_checksum(content[:HEAD_BYTES], self.content[HEAD_BYTES:])
        if known is not None and known[0] != known[1]:
            raise self.damaged("its checksum is wrong")

    def damaged(self, why: str) -> DataError:
        """The error for a file whose parts do not fit together."""
        return DataError(
            f"the transform file is damaged: {why}",
            file=self._file,
            remedy="get the file again from its source",
        )

    def foreign(self, what: str) -> DataError:
        """The error for a sound file that uses more of HDF5 than transform files do."""
        return DataError(f"HDF5 with {what} is not read", file=self._file, remedy="write it again with ITK")

    def at(self, address: int, count: int) -> memoryview:
        """``count`` bytes from ``address`` on. Raises DataError where the file has none."""
        if not 0 <= address <= len(self.content) - count:
            raise self.damaged("it points beyond its own end")
        return self.content[address : address + count]

    def numbers(self, layout: str, address: int) -> tuple[int, ...]:
        """Little-endian numbers at ``address``, ``layout`` as in struct. Raises DataError."""
        return struct.unpack("<" + layout, self.at(address, struct.calcsize("<" + layout)))

    def _count_piece(self) -> None:
        self._pieces += 1
        if self._pieces > _MOST_PIECES:
            raise self.damaged("its parts refer to each other in a circle")

    def root(self) -> int:
        """The address of the root group's header."""
        version = self.numbers("B", 8)[0]
        if version in (0, 1):
            widths = self.numbers("2B", 13)
            start = 24 if version == 0 else 28
            base, _, end, _, _, address = self.numbers("6Q", start)
        elif version in (2, 3):
            widths, (base, _, end, address) = self.numbers("2B", 9), self.numbers("4Q", 12)
            self._check(0, 44)
        else:
            raise self.damaged(f"it is of version {version}")
        if widths != (8, 8) or base != 0:
            raise self.foreign("addresses of another kind")
        if end > len(self.content):
            raise self.damaged(f"it is cut off, {len(self.content)} bytes of {end} are there")
        return address

    def _check(self, address: int, count: int) -> None:
        """Compare the checksum behind ``count`` bytes of metadata."""
        if (
            count > 1 << 20
            or lookup3(bytes(self.at(address, count))) != self.numbers("I", address + count)[0]
        ):
            raise self.damaged("a checksum of its structure is wrong")

    def messages(self, address: int) -> Messages:
        """The messages of an object header, continuations included."""
        modern = bytes(self.at(address, 4)) == b"OHDR"
        if modern:
            version, flags = self.numbers("2B", address + 4)
            width = 1 << (flags & 3)
            place = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
            size = int.from_bytes(self.at(place, width), "little")
            blocks = [(place + width, size)]
            self._check(address, place + width + size - address)
        else:
            version, flags = self.numbers("2B", address)[0], 0
            blocks = [(address + 16, self.numbers("I", address + 8)[0])]
        if version != (2 if modern else 1):
            raise self.damaged("an object has no header")
        found: Messages = []
        while blocks:
            self._count_piece()
            for kind, data in self._block(*blocks.pop(0), modern=modern, ordered=bool(flags & 4)):
                if kind == _CONTINUATION:
                    blocks.append(self._continuation(data, modern=modern))
                found.append((kind, data))
        return found

    def _continuation(self, data: memoryview, *, modern: bool) -> tuple[int, int]:
        address, size = self.unpack("2Q", data)
        if not modern:
            return address, size
        if bytes(self.at(address, 4)) != b"OCHK" or size < 8:
            raise self.damaged("the rest of an object header is missing")
        self._check(address, size - 4)
        return address + 4, size - 8

    def _block(self, start: int, size: int, *, modern: bool, ordered: bool) -> Messages:
        self.at(start, size)
        head = (6 if ordered else 4) if modern else 8
        place, end, found = start, start + size, []
        while place + head <= end:
            self._count_piece()
            kind, length, flags = self.numbers("BHB" if modern else "HHB", place)
            data = self.at(place + head, length)
            if flags & 2 and kind in (DATASPACE, DATATYPE, FILTERS):
                raise self.foreign("shared messages")
            found.append((kind, data))
            place += head + length
        if place > end:
            raise self.damaged("a message is longer than its object header")
        return found

    def unpack(self, layout: str, data: memoryview, offset: int = 0) -> tuple[int, ...]:
        """Little-endian numbers within a message. Raises DataError where it is too short."""
        size = struct.calcsize("<" + layout)
        if len(data) < offset + size:
            raise self.damaged("a message is too short")
        return struct.unpack_from("<" + layout, data, offset)

    def children(self, messages: Messages) -> dict[str, int]:
        """Names and header addresses of what a group holds."""
        found: dict[str, int] = {}
        for kind, data in messages:
            if kind == LINK:
                found |= dict([self._link(data)[0]])
            elif kind == LINK_INFO:
                found |= self._many_links(data)
            elif kind == _SYMBOL_TABLE:
                tree, heap = self.unpack("2Q", data)
                found |= self._symbols(tree, self._heap_names(heap))
        return found

    def _link(self, data: memoryview) -> tuple[tuple[str, int], int]:
        """Name and address in a link message, and its length."""
        version, flags = self.unpack("2B", data)
        place = 2 + (1 if flags & 8 else 0) + (8 if flags & 4 else 0) + (1 if flags & 16 else 0)
        width = 1 << (flags & 3)
        self.unpack(f"{place + width}s", data)
        length = int.from_bytes(data[place : place + width], "little")
        end = place + width + length
        address = self.unpack("Q", data, end)[0]
        if version != 1 or (flags & 8 and data[2] != 0):
            raise self.foreign("soft links")
        return (self._name(data[place + width : end]), address), end + 8

    def _name(self, data: memoryview) -> str:
        name = bytes(data).decode("latin-1")
        if not re.fullmatch(r"[\w.-]{1,64}", name, re.ASCII):
            raise self.damaged("a part has no legible name")
        return name

    def _many_links(self, data: memoryview) -> dict[str, int]:
        """The links of a group of more than eight members: one after the other in a fractal heap's only block."""
        flags = self.unpack("2B", data)[1]
        heap = self.unpack("Q", data, 2 + (8 if flags & 1 else 0))[0]
        if heap == _NONE:
            return {}
        self._check(heap, 142)
        if bytes(self.at(heap, 5)) != b"FRHP\0" or self.numbers("H", heap + 7)[0] != 0:
            raise self.foreign("links of another kind")
        count, start = self.numbers("Q", heap + 70)[0], self.numbers("Q", heap + 112)[0]
        bits, block, rows = (self.numbers(c, heap + at)[0] for c, at in (("H", 128), ("Q", 132), ("H", 140)))
        if rows or bytes(self.at(block, 4)) != b"FHDB":
            raise self.foreign("so many parts")
        place, found, whole = 13 + (bits + 7) // 8, dict[str, int](), self.at(block, start)
        place += 4 if self.numbers("B", heap + 9)[0] & 2 else 0
        for _ in range(min(count, start)):
            (name, address), length = self._link(whole[place:])
            found[name] = address
            place += length
        return found

    def _heap_names(self, heap: int) -> memoryview:
        if bytes(self.at(heap, 5)) != b"HEAP\0":
            raise self.damaged("the names of a group are missing")
        size, _, address = self.numbers("3Q", heap + 8)
        return self.at(address, size)

    def _symbols(self, node: int, names: memoryview, depth: int = 0) -> dict[str, int]:
        self._count_piece()
        if bytes(self.at(node, 4)) == b"SNOD":
            found = {}
            for number in range(self.numbers("H", node + 6)[0]):
                name, address = self.numbers("2Q", node + 8 + 40 * number)
                if name >= len(names):
                    raise self.damaged("a part has no legible name")
                text = bytes(names[name : name + 65]).partition(b"\0")[0]
                found[self._name(memoryview(text))] = address
            return found
        found = {}
        for _, child in self.tree(node, kind=0, key=8, depth=depth):
            found |= self._symbols(child, names, depth + 1)
        return found

    def tree(self, node: int, *, kind: int, key: int, depth: int) -> list[tuple[memoryview, int]]:
        """Keys and children of one node of a version 1 B-tree."""
        self._count_piece()
        if (
            bytes(self.at(node, 4)) != b"TREE"
            or self.numbers("B", node + 4)[0] != kind
            or depth > _MOST_DEPTH
        ):
            raise self.damaged("an index is broken")
        count, step = self.numbers("H", node + 6)[0], key + 8
        entries = self.at(node + 24, count * step)
        return [
            (entries[n * step : n * step + key], self.unpack("Q", entries, n * step + key)[0])
            for n in range(count)
        ]
