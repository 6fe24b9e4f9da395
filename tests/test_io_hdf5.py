"""The HDF5 writer and reader, against the library, ITK and a published checksum."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from neuroreg.errors import DataError
from neuroreg.io.hdf5 import lookup3, write_hdf5
from neuroreg.io.hdf5_reader import read_hdf5
from neuroreg.io.transforms import read_transform


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


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    single, double = np.arange(7, dtype="f4") / 3, np.arange(12, dtype="f8") / 7
    write_hdf5({"a": {"text": "some words", "b": {"single": single, "double": double}}}, tmp_path / "a.h5")
    back = read_hdf5(tmp_path / "a.h5", "a")
    assert back["text"] == "some words"
    for name, values in (("single", single), ("double", double)):
        assert back["b"][name].dtype == values.dtype
        assert np.array_equal(back["b"][name], values)
    with pytest.raises(DataError, match="it has no z"):
        read_hdf5(tmp_path / "a.h5", "z")


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_any_damage_to_our_own_files_is_noticed(tmp_path: Path, step: int) -> None:
    path = tmp_path / "a.h5"
    write_hdf5({"a": {"text": "some words", "values": np.arange(60, dtype="f8")}}, path)
    whole = path.read_bytes()
    places = [*range(400), *range(4100, len(whole))]  # between them lies unused heap: zeros
    for place in places[::step]:
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        with pytest.raises(DataError):
            read_hdf5(path, "a")


@pytest.mark.parametrize("count", [1, 8, 9, 20])  # more than eight members are stored in another way
def test_composites_of_many_transforms(count: int, tmp_path: Path) -> None:
    composite = sitk.CompositeTransform(3)
    for number in range(count):
        composite.AddTransform(
            sitk.Euler3DTransform((3.0, 2.0, number), 0.1, 0.02 * number, 0.3, (1.0, 2.0, 3.0))
        )
    sitk.WriteTransform(composite, str(tmp_path / "t.h5"))
    ours = read_transform(tmp_path / "t.h5")
    points = np.random.default_rng(0).normal(size=(5, 3)) * 50
    expected = [composite.TransformPoint(point) for point in points.tolist()]
    assert ours(torch.from_numpy(points)).numpy() == pytest.approx(np.array(expected), abs=1e-9)


@pytest.mark.oracle
@pytest.mark.parametrize("version", ["earliest", "v108", "latest"])
@pytest.mark.parametrize("packed", [False, True])
def test_files_of_other_versions_of_the_library(version: str, packed: bool, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    values = np.random.default_rng(0).normal(size=2500).astype("f4")
    options = {"chunks": (1000,), "compression": 5} if packed else {}
    with h5py.File(tmp_path / "a.h5", "w", libver=version) as made:
        made.create_dataset("g/values", data=values, **options)
        made.create_dataset("g/h/kind", data=np.array(["AffineTransform"], h5py.string_dtype("ascii")))
        made["g/h/fixed"] = np.array([b"short"])
        made["g/many"] = np.arange(3.0)
        for number in range(30 if version == "earliest" else 7):
            made[f"g/h/{number}"] = np.arange(4.0) + number
    if version == "latest" and packed:  # its index of chunks is of a later kind: refused, never guessed
        with pytest.raises(DataError, match="layout"):
            read_hdf5(tmp_path / "a.h5", "g")
        return
    back = read_hdf5(tmp_path / "a.h5", "g")
    assert np.array_equal(back["values"], values)
    assert (back["h"]["kind"], back["h"]["fixed"]) == ("AffineTransform", "short")
    assert np.array_equal(back["h"]["6"], np.arange(4.0) + 6)
