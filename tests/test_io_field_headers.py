"""What the header of a displacement field leaves in doubt is said, or refused."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from nifti_bytes import patched

from neuroreg.cli import run
from neuroreg.errors import BusyError, DataError
from neuroreg.io import field_headers
from neuroreg.io.field_headers import field_notes
from neuroreg.io.transforms import read_field, write_field
from neuroreg.transforms import DisplacementField
from neuroreg.volume import Geometry

FIELD = DisplacementField(torch.rand(3, 5, 6, 7), Geometry((7, 6, 5), (2.0, 3.0, 4.0), (1.0, 2.0, 3.0)))


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Path]:
    """The field in a file with other header fields."""

    def make(**fields: object) -> Path:
        path = tmp_path / "f.nii.gz"
        write_field(FIELD, path, overwrite=True)
        path.write_bytes(gzip.compress(patched(gzip.decompress(path.read_bytes()), **fields)))
        return path

    return make


def test_a_sound_field_has_no_notes(made: Callable[..., Path], tmp_path: Path) -> None:
    assert field_notes(made()) == ()
    assert field_notes(tmp_path / "any.h5") == ()


def test_a_note_reaches_convert_and_doctor(
    made: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = made(vox_offset=0.0)
    assert torch.equal(read_field(path).data, FIELD.data)
    for words in (["doctor", str(path)], ["convert", str(path), str(path.with_name("o.h5"))]):
        assert run(words) == 0
        assert "warning: f.nii.gz: vox_offset is 0" in capsys.readouterr().err


@pytest.mark.parametrize("unit", [1, 3])
def test_another_unit_is_refused(made: Callable[..., Path], unit: int) -> None:
    with pytest.raises(DataError, match="unit of the displacements"):
        read_field(made(xyzt_units=unit))


def test_too_little_memory_is_said_before_it_is_used(
    made: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(field_headers, "available_memory", lambda: 1000)
    with pytest.raises(BusyError):
        read_field(made())
