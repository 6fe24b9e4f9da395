"""The HDF5 writer, against the library and a published checksum."""

from pathlib import Path

import numpy as np
import pytest

from neuroreg.io.hdf5 import lookup3, write_hdf5


def test_the_checksum_of_the_published_examples() -> None:
    assert lookup3(b"") == 0xDEADBEEF
    assert lookup3(b"Four score and seven years ago") == 0x17770551  # in the source of lookup3 itself


@pytest.mark.oracle
def test_the_library_reads_every_node(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    single, double = np.arange(7, dtype="f4") / 3, np.arange(12, dtype="f8").reshape(3, 4) / 7
    write_hdf5(
        {"a": {"text": "some words", "single": single}, "double": double, "b": {"c": {"t": ""}}},
        tmp_path / "a.h5",
    )
    with h5py.File(tmp_path / "a.h5") as found:
        assert found["a/text"][0] == b"some words"
        assert np.array_equal(found["a/single"][...], single)
        assert np.array_equal(found["double"][...], double.reshape(-1))
        assert found["b/c/t"][0] == b""


def test_too_many_strings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        write_hdf5({str(n): "x" * 40 for n in range(100)}, tmp_path / "a.h5")
