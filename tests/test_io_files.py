"""Paths, atomic writes and locks: the parts that the fault suite does not already break."""

import hashlib
import os
from pathlib import Path

import pytest

from neuroreg.errors import CannotCreateError, UsageError, WriteError
from neuroreg.io.files import (
    atomic_write,
    available_memory,
    check_name,
    check_output,
    output_lock,
    prepare_folder,
    sha256,
    suffix_of,
)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.nii.gz", ".nii.gz"), ("A.NII.GZ", ".nii.gz"), ("a.b.h5", ".h5"), ("a", "")],
)
def test_suffixes(name: str, suffix: str) -> None:
    assert suffix_of(Path(name)) == suffix


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def half(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt

    def refuse(temporary: Path) -> None:
        raise RuntimeError("ITK ERROR:\nsomething native")

    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "a.bin", half)
    with pytest.raises(WriteError, match="something native"):
        atomic_write(tmp_path / "a.bin", lambda t: t.write_bytes(b"x") and None, verify=refuse)
    assert os.listdir(tmp_path) == []


def test_the_folder_is_checked_before_anything_is_computed(tmp_path: Path) -> None:
    assert check_output(tmp_path / "a.nii") == tmp_path / "a.nii"
    for path in (tmp_path / "none" / "a.nii", Path("/proc/a.nii")):
        with pytest.raises(CannotCreateError):
            check_output(path)
    assert prepare_folder(tmp_path / "new").is_dir()
    assert prepare_folder(tmp_path / "new").is_dir()
    for folder in (tmp_path / "no" / "new", Path("/proc/new")):
        with pytest.raises(CannotCreateError):
            prepare_folder(folder)
    assert os.listdir(tmp_path) == ["new"]


def test_names_no_library_can_take() -> None:
    for name in ("a\0b", os.fsdecode(b"\xff")):
        with pytest.raises(UsageError):
            check_name(Path(name))


def test_the_lock_leaves_no_file(tmp_path: Path) -> None:
    with output_lock(tmp_path):
        assert len(os.listdir(tmp_path)) == 1
    assert os.listdir(tmp_path) == []


def test_memory_is_told_in_bytes() -> None:
    free = available_memory()
    assert free is None or free > 2**20
