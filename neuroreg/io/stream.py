"""One pass over a file: hashes every byte, inflates on the way, checks every CRC, and ends where it should.

Neither SimpleITK nor nibabel checks the CRC of a .nii.gz, and SimpleITK fills a truncated one with zeros
(RELIABILITY findings 2 and 3), so the bytes are read here and handed on whole or not at all.
"""

import hashlib
import zlib
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from neuroreg.errors import DataError, NoInputError

_CHUNK = 1 << 20
_SLACK = 1 << 20  # bytes read beyond the declared end to tell padding from a second image; a bomb stops here
_MAX_HEADER = 1 << 26
_GZIP_MAGIC = b"\x1f\x8b"
GZIP, ZLIB = 31, 47  # zlib's window codes: gzip only; zlib or gzip, as MetaIO reads


class ByteStream:
    """A file read front to back, as it is or inflated from the current position on."""

    def __init__(self, path: Path, *, digest: "hashlib._Hash | None" = None) -> None:
        """Open ``path``; ``digest`` continues the hash of a header file. Raises NoInputError."""
        self.path = path
        self._digest = digest or hashlib.sha256()
        self._pending = b""
        self._inflater: zlib._Decompress | None = None
        self._container = 0
        try:
            self._file = path.open("rb")
            self.bytes_on_disk = path.stat().st_size
        except OSError as error:
            raise NoInputError(
                f"cannot open: {(error.strerror or '').lower()}",
                file=path,
                remedy="check the path and its permissions",
            ) from error
        if self.bytes_on_disk == 0:
            self._file.close()
            raise DataError("empty file", file=path, remedy="get the file again from its source")

    def __enter__(self) -> "ByteStream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def digest(self) -> "hashlib._Hash":
        """The hash of what has been read so far; of the whole file after ``finish``."""
        return self._digest

    def starts_with_gzip(self) -> bool:
        """Whether the next bytes are a gzip header. Reads ahead, loses nothing."""
        while len(self._pending) < 2 and self._refill():
            pass
        return self._pending[:2] == _GZIP_MAGIC

    def inflate(self, container: int) -> None:
        """From here on the bytes are packed: ``GZIP`` or ``ZLIB``."""
        self._container = container
        self._inflater = zlib.decompressobj(container)

    def read_line(self, *, limit: int = 65_536) -> bytes:
        """The next line of a text header without its end, b"" at the end of the file. Raises DataError."""
        while b"\n" not in self._pending:
            if len(self._pending) > limit:
                raise DataError("the header is not text", file=self.path, remedy="check what the file is")
            if not self._refill():
                line, self._pending = self._pending, b""
                return line
        line, _, self._pending = self._pending.partition(b"\n")
        return line.rstrip(b"\r")

    def read(self, count: int) -> bytes:
        """The next ``count`` bytes, fewer at the end."""
        buffer = bytearray(count)
        return bytes(buffer[: self._fill(memoryview(buffer))])

    def read_array(self, count: int) -> NDArray[np.uint8]:
        """The next ``count`` bytes (count,) uint8. Raises DataError when the file ends before."""
        self._check_plausible(count)
        array = np.empty(count, np.uint8)
        got = self._fill(array.data)
        if got < count:
            raise self._truncated(count, got)
        return array

    def skip(self, count: int, *, past_end: str = "") -> None:
        """Pass over ``count`` bytes. Raises DataError, ``past_end`` if given, when the file ends before."""
        buffer = memoryview(bytearray(min(count, _CHUNK)))
        left = count
        while left:
            got = self._fill(buffer[: min(left, len(buffer))])
            if got == 0 and past_end:
                raise DataError(past_end, file=self.path, remedy="get the file again from its source")
            if got == 0:
                raise self._truncated(count, count - left)
            left -= got

    def drain(self) -> None:
        """Read a header file to its end, so that all of it is hashed. Raises DataError when it is endless."""
        if len(self.read(_MAX_HEADER)) == _MAX_HEADER:
            raise self._overlong()

    def finish(self) -> tuple[str, ...]:
        """Check what follows the declared end: nothing, zeros (a note), or anything else (DataError)."""
        extra = self._rest_of_stream()
        after = self._pending if self._inflater is not None and self._inflater.eof else b""
        self._pending = b""
        while block := self._file.read(_CHUNK):
            self._digest.update(block)
            after += block if len(after) <= _SLACK else b""
            if len(after) > _SLACK:
                raise self._overlong()
        if any(extra) or any(after):
            raise DataError(
                "there are bytes after the end of the image",
                file=self.path,
                remedy="the file is damaged or two files were joined: get it again",
            )
        count = len(extra) + len(after)
        return (f"{count} zero bytes after the end of the image were ignored",) if count else ()

    def _rest_of_stream(self) -> bytes:
        buffer = bytearray(_SLACK + 1)
        got = self._fill(memoryview(buffer))
        if got > _SLACK:
            raise self._overlong()
        return bytes(buffer[:got])

    def _fill(self, view: memoryview) -> int:
        done = 0
        while done < len(view):
            block = self._next_block(len(view) - done)
            if not block:
                break
            view[done : done + len(block)] = block
            done += len(block)
        return done

    def _next_block(self, limit: int) -> bytes:
        if self._inflater is None:
            if not self._pending and not self._refill():
                return b""
            block, self._pending = self._pending[:limit], self._pending[limit:]
            return block
        while True:
            if self._inflater.eof and not self._next_member():
                return b""
            more = bool(self._pending) or self._refill()
            try:
                block = self._inflater.decompress(self._pending, min(limit, _CHUNK))
            except zlib.error as error:
                raise DataError(
                    f"the compressed data is damaged ({str(error).rpartition(': ')[2]})",
                    file=self.path,
                    remedy="get the file again from its source",
                ) from error
            self._pending = (
                self._inflater.unused_data if self._inflater.eof else self._inflater.unconsumed_tail
            )
            if block:
                return block
            if not more and not self._inflater.eof:
                raise DataError(
                    "the compressed data is cut off",
                    file=self.path,
                    remedy="get the file again from its source",
                )

    def _next_member(self) -> bool:
        # gzip allows several members in a row (bgzip and pigz make such files); zlib does not.
        if self._container != GZIP or not self.starts_with_gzip():
            return False
        self._inflater = zlib.decompressobj(GZIP)
        return True

    def _refill(self) -> bool:
        block = self._file.read(_CHUNK)
        self._digest.update(block)
        self._pending += block
        return bool(block)

    def _check_plausible(self, count: int) -> None:
        # Deflate cannot pack better than 1032 to 1, so a header that declares more lies; nothing is allocated.
        most = self.bytes_on_disk * (1 if self._inflater is None else 1100)
        if count > most:
            raise self._truncated(count, None)

    def _truncated(self, declared: int, got: int | None) -> DataError:
        found = f"it holds {self.bytes_on_disk} bytes" if got is None else f"only {got} are there"
        return DataError(
            f"the file is truncated: its header declares {declared} bytes of voxels, {found}",
            file=self.path,
            remedy="get the file again from its source",
        )

    def _overlong(self) -> DataError:
        return DataError(
            "the file goes on beyond the size its header declares",
            file=self.path,
            remedy="the header and the data do not belong together: get the file again",
        )
