"""Small pictures out of reports: taken when they are pictures, and nothing else is."""

import base64
import html
import io
import os
import struct
import zlib
from pathlib import Path

import pytest
from group_phantoms import picture
from PIL import Image

from neuroreg.report.group_thumbnail import MAX_LETTERS, is_small_image, read_thumbnail


def _report(folder: Path, head: str) -> Path:
    path = folder / "report.html"
    path.write_text(f"<!DOCTYPE html><html><head>{head}</head><body></body></html>", encoding="utf-8")
    return path


def _meta(content: str) -> str:
    return f'<meta name="neuroreg:thumbnail" content="{html.escape(content)}">'


def _bomb() -> str:
    """A PNG header that says 30000 x 30000."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunk).decode()


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_a_picture_is_taken(kind: str, tmp_path: Path) -> None:
    uri = picture(kind, side=32)
    assert read_thumbnail(_report(tmp_path, "<style>a{}</style>" + _meta(uri))) == uri


def _wide() -> str:
    stream = io.BytesIO()
    Image.new("L", (2000, 2)).save(stream, "png")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://example.org/a.png",
        "data:text/html;base64,PHNjcmlwdD4=",
        "data:image/svg+xml;base64,PHN2Zy8+",
        "data:image/png;base64,AAAA",
        "data:image/png;base64,!!!!",
        "data:image/png;base64,AAA",
        picture("png", 8).replace("png", "jpeg"),
        picture("png", 8) + '" onerror="alert(1)',
        picture("png", 8) + "\n",
        picture("png", 180),
        _wide(),
        _bomb(),
    ],
    ids=lambda uri: uri[:40],
)
def test_what_is_no_small_picture_is_ignored(uri: str, tmp_path: Path) -> None:
    assert not is_small_image(uri)
    assert read_thumbnail(_report(tmp_path, _meta(uri))) is None


def test_the_large_one_is_refused_for_its_length() -> None:
    assert len(picture("png", 180)) > MAX_LETTERS


def test_only_the_head_counts_and_oddities_do_not_stop(tmp_path: Path) -> None:
    path = _report(tmp_path, "")
    path.write_text("<head></head>" + _meta(picture("png", 8)), encoding="utf-8")
    assert read_thumbnail(path) is None
    path.write_bytes(b"\xff\xfe\x00<head>" + _meta(picture("png", 8)).encode())
    assert read_thumbnail(path) == picture("png", 8)
    assert read_thumbnail(tmp_path / "absent.html") is None
    os.mkfifo(tmp_path / "pipe.html")  # would block for ever if it were opened
    assert read_thumbnail(tmp_path / "pipe.html") is None
