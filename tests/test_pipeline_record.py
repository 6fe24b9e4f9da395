"""What the record says, and what it keeps to itself."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from neuroreg.errors import DataError, NoInputError
from neuroreg.io.images import read_image
from neuroreg.pipeline.config import RegisterConfig
from neuroreg.pipeline.record import (
    Clock,
    describe_file,
    locate,
    read_record,
    scrub,
    scrubbed_argv,
    utc_now,
    versions,
)

CONFIG = RegisterConfig(
    fixed=Path("/data/Doe^John/f.nii.gz"),
    moving=Path("Doe/m.nii.gz"),
    affine="/data/Doe/a.mat",
    also=(Path("/data/Doe/t2.nii"),),
    options={"levels": (1, 2)},
)


def test_no_folder_of_a_patient_gets_into_the_record() -> None:
    settings = scrub(CONFIG, full=False)
    assert (settings["fixed"], settings["moving"], settings["affine"]) == ("f.nii.gz", "m.nii.gz", "a.mat")
    assert settings["also"] == ["t2.nii"]
    assert settings["options"] == {"levels": [1, 2]}
    words = scrubbed_argv(
        ["/usr/bin/neuroreg", "register", "/Doe/f.nii", "--fixed-mask=/Doe/k.nii", "--set", "a=1"]
    )
    assert words == ("neuroreg", "register", "f.nii", "--fixed-mask=k.nii", "--set", "a=1")
    assert scrubbed_argv(["/src/neuroreg/__main__.py", "demo"])[0] == "neuroreg"  # python -m neuroreg


def test_full_provenance_has_the_paths() -> None:
    assert scrub(CONFIG, full=True)["fixed"] == "/data/Doe^John/f.nii.gz"
    assert scrubbed_argv(["x", "/Doe/f.nii"], full=True) == ("x", "/Doe/f.nii")
    assert describe_file(Path("/Doe/f.nii"), "00", full=True)["path"] == "/Doe/f.nii"
    assert "path" not in describe_file(Path("/Doe/f.nii"), "00", full=False)


def test_bytes_that_are_no_text_survive_the_argv() -> None:
    assert scrubbed_argv(["a\udcff.nii"]) == ("a?.nii",)


def test_the_clock_adds_up_and_tells() -> None:
    told: list[str] = []
    clock = Clock(told.append)
    for stage in ("read", "write", "read"):
        with clock(stage):
            pass
    assert told == ["read", "write", "read"]
    assert list(clock.total()) == ["read", "write", "total"]
    assert clock.total()["total"] >= 0


def test_times_are_utc() -> None:
    assert utc_now().endswith("+00:00")
    assert set(versions()) == {"neuroreg", "python", "torch", "SimpleITK", "numpy"}


def test_an_unfinished_run_has_no_record(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no finished run"):
        read_record(tmp_path)
    (tmp_path / "run.json").write_text('{"command": "register"}')
    with pytest.raises(DataError, match="not a run record"):
        read_record(tmp_path)


def test_an_image_in_two_files_is_known_by_both(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 99, (20, 20, 20)).astype(np.int16))
    image.SetSpacing((5.0, 5.0, 5.0))
    sitk.WriteImage(image, str(tmp_path / "a.mhd"))
    recorded = {"name": "a.mhd", "sha256": read_image(tmp_path / "a.mhd").sha256}
    assert locate("fixed", recorded, [tmp_path], remedy="") == tmp_path / "a.mhd"
    data = bytearray((tmp_path / "a.raw").read_bytes())
    data[7] ^= 1
    (tmp_path / "a.raw").write_bytes(data)
    with pytest.raises(DataError, match="not the file of the recorded run"):
        locate("fixed", recorded, [tmp_path], remedy="")
