"""The template as files of a cohort."""

from pathlib import Path

import pytest
import torch

from neuroreg.cohort import template as files
from neuroreg.cohort.manifest import read_manifest
from neuroreg.errors import CannotCreateError
from neuroreg.io.images import read_image, read_labels, write_image
from neuroreg.io.tables import read_csv
from neuroreg.pipeline.template import Template
from neuroreg.volume import Geometry, Volume

NAMES = ("", "_labels", "_mask")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Template:
    """A template of a few voxels, in place of the shipped one."""
    grid = Geometry(
        (17, 18, 19), (5.0, 6.0, 7.0), (-30.0, 2.0, 1.0), (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    )
    labels = torch.arange(19 * 18 * 17).reshape(1, 19, 18, 17).remainder(300).to(torch.int16)
    made = Template(
        image=Volume(torch.rand(1, 19, 18, 17, generator=torch.Generator().manual_seed(1)), grid),
        labels=Volume(labels, grid, is_label=True),
        mask=Volume((labels > 7).to(torch.uint8), grid, is_label=True),
        names={4: "3rd Ventricle", 299: "=last"},
    )
    monkeypatch.setattr(files, "load_template", lambda: made)
    return made


def stamp(folder: Path) -> dict[str, tuple[int, int]]:
    """Name -> inode and time of change of every file."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_the_files_hold_the_template(small: Template, tmp_path: Path) -> None:
    image, prepare = files.template_files(tmp_path)
    assert not (tmp_path / "template").exists()
    prepare()
    assert image == tmp_path / "template" / "template-ixi2mm.nii.gz"
    assert sorted(stamp(image.parent)) == [
        "template-ixi2mm.nii.gz",
        "template-ixi2mm_labels.csv",
        "template-ixi2mm_labels.nii.gz",
        "template-ixi2mm_mask.nii.gz",
    ]
    for name, volume in zip(NAMES, (small.image, small.labels, small.mask), strict=True):
        path = image.with_name(f"template-ixi2mm{name}.nii.gz")
        found = (read_labels if name else read_image)(path).volume
        assert torch.equal(found.data.to(volume.data.dtype), volume.data)
        assert found.geometry.same_grid(volume.geometry)
    assert read_csv(image.with_name("template-ixi2mm_labels.csv")) == [
        {"id": "4", "name": "3rd Ventricle"},
        {"id": "299", "name": "'=last"},
    ]


def test_what_is_there_and_the_same_is_left_alone(small: Template, tmp_path: Path) -> None:
    image, prepare = files.template_files(tmp_path)
    prepare()
    before = stamp(image.parent)
    prepare()
    assert stamp(image.parent) == before
    image.with_name("template-ixi2mm_mask.nii.gz").unlink()
    prepare()
    after = stamp(image.parent)
    assert {name for name in after if after[name] != before[name]} == {"template-ixi2mm_mask.nii.gz"}


@pytest.mark.parametrize("name", ["", "_labels", "_mask", "_labels.csv"])
def test_another_file_of_that_name_is_refused_and_stays(small: Template, tmp_path: Path, name: str) -> None:
    image, prepare = files.template_files(tmp_path)
    prepare()
    path = image.with_name(f"template-ixi2mm{name}" + ("" if name.endswith("csv") else ".nii.gz"))
    path.unlink()
    path.write_bytes(b"something else")
    with pytest.raises(CannotCreateError, match="not the template of this version") as caught:
        prepare()
    assert caught.value.file == path.name
    assert path.read_bytes() == b"something else"
    if path.suffix == ".gz":
        path.unlink()
        other = {"": small.image, "_labels": small.labels, "_mask": small.mask}[name]
        moved = Geometry(
            other.geometry.size, other.geometry.spacing, (0.0, 0.0, 0.0), other.geometry.direction
        )
        write_image(Volume(other.data, moved, is_label=other.is_label), path)  # right voxels, wrong place
        with pytest.raises(CannotCreateError):
            prepare()


def test_two_parts_of_a_cohort_may_make_it_at_once(
    small: Template, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, prepare = files.template_files(tmp_path)
    write = files.write_image

    def late(volume: Volume, path: Path, **more: str) -> tuple[str, ...]:
        if not path.exists():
            write(volume, path)  # the other part was quicker
        return write(volume, path, **more)

    monkeypatch.setattr(files, "write_image", late)
    prepare()
    assert image.exists()


def test_a_manifest_without_fixed_images_brings_it_along(small: Template, tmp_path: Path) -> None:
    (tmp_path / "m.nii").write_bytes(b"1")
    (tmp_path / "cohort.csv").write_text("id,moving\na,m.nii\n")
    (tmp_path / "out").mkdir()
    cohort = read_manifest(tmp_path / "cohort.csv", {}, output=tmp_path / "out")
    fixed = cohort.cases[0].config.fixed
    assert not fixed.exists()
    assert cohort.prepare is not None
    cohort.prepare()
    assert read_image(fixed).volume.geometry.size == (17, 18, 19)


def test_the_shipped_template_becomes_files(tmp_path: Path) -> None:
    image, prepare = files.template_files(tmp_path)
    prepare()
    prepare()
    brain, labels = (
        read_image(image).volume,
        read_labels(image.with_name("template-ixi2mm_labels.nii.gz")).volume,
    )
    assert brain.geometry.same_grid(labels.geometry)
    assert brain.geometry.spacing == (2.0, 2.0, 2.0)
    named = {int(row["id"]) for row in read_csv(image.with_name("template-ixi2mm_labels.csv"))}
    assert {int(label) for label in labels.data.unique()} - {0} <= named
