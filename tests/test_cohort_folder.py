"""A cohort as a folder of images."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from neuroreg.cohort.case import Cohort
from neuroreg.cohort.folder import every_pair, find_images, natural, onto_fixed
from neuroreg.cohort.manifest import read_manifest
from neuroreg.cohort.shared import TEMPLATE
from neuroreg.errors import NoInputError, UsageError
from neuroreg.io.tables import write_csv


def fill(folder: Path, names: Sequence[str]) -> Path:
    """A folder with files of these names, which need only be there."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(name.encode())
    return folder


def names_of(cohort: Cohort) -> list[tuple[str, str, str]]:
    """(id, moving, fixed) of each case."""
    return [(case.id, case.config.moving.name, case.config.fixed.name) for case in cohort.cases]


def read_again(cohort: Cohort, path: Path) -> Cohort:
    """The cases that the rows of a cohort ask for, from a table elsewhere."""
    columns = list(dict.fromkeys(name for case in cohort.cases for name in case.row))
    write_csv(path, columns, [case.row for case in cohort.cases])
    return read_manifest(path, {}, output=path.parent / "out")


def places(cohort: Cohort) -> list[tuple[str, Path, Path]]:
    """Where the files of each case are, by whatever name."""
    return [(case.id, case.config.fixed.resolve(), case.config.moving.resolve()) for case in cohort.cases]


def test_every_pair_in_natural_order_with_the_fixed_image_shared_by_neighbours(tmp_path: Path) -> None:
    folder = fill(tmp_path / "in", ["s10.nii.gz", "s9.nii", "S1.mha", "notes.txt", ".x.nii", "._s9.nii"])
    (folder / "more.nii").mkdir()
    cohort = every_pair(folder, {"seed": 4, "affine": "none"})
    assert names_of(cohort) == [
        ("s9_to_S1", "s9.nii", "S1.mha"),
        ("s10_to_S1", "s10.nii.gz", "S1.mha"),
        ("S1_to_s9", "S1.mha", "s9.nii"),
        ("s10_to_s9", "s10.nii.gz", "s9.nii"),
        ("S1_to_s10", "S1.mha", "s10.nii.gz"),
        ("s9_to_s10", "s9.nii", "s10.nii.gz"),
    ]
    assert (cohort.notes, cohort.prepare) == ([], None)
    assert {(case.config.seed, case.config.affine, case.config.output) for case in cohort.cases} == {
        (4, "none", None)
    }
    assert cohort.cases[0].row == {
        "id": "s9_to_S1", "fixed": "S1.mha", "moving": "s9.nii", "root": str(folder),
    }  # fmt: skip
    assert places(read_again(cohort, tmp_path / "failed.csv")) == places(cohort)


def test_label_maps_and_halves_are_no_images(tmp_path: Path) -> None:
    folder = fill(
        tmp_path / "in",
        [
            *("a.nii", "a_seg.nii.gz", "a_labels.nii", "b-mask.mha", "b_brain_Mask.nii", "x_dseg.nii.gz"),
            *("b.hdr", "b.img", "c.hdr", "c.IMG", "d.img", "maskenball.nii", "seg.nii", "r.nhdr", "r.raw"),
        ],
    )
    images, notes = find_images(folder)
    assert [path.name for path in images] == [
        "a.nii", "b.hdr", "c.hdr", "maskenball.nii", "r.nhdr", "seg.nii",
    ]  # fmt: skip
    assert notes == [
        "left out as label maps or masks: a_labels.nii, a_seg.nii.gz, b-mask.mha, b_brain_Mask.nii, x_dseg.nii.gz",
        "left out without their headers: d.img",
    ]


def test_natural_order_is_an_order() -> None:
    ordered = ["1.nii", "2a.nii", "10.nii", "A1.nii", "a1.nii", "a01b.nii", "a2.nii", "a10.nii", "b.nii"]
    for seed in range(5):
        mixed = [Path(name) for name in ordered]
        random.Random(seed).shuffle(mixed)
        assert [path.name for path in sorted(mixed, key=natural)] == [
            "1.nii", "2a.nii", "10.nii", "A1.nii", "a1.nii", "a01b.nii", "a2.nii", "a10.nii", "b.nii",
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (["a.nii", "a.nii.gz"], "'a_to_a' would be the id of two cases"),
        (["a.nii", "A.nii", "b.nii"], "would be the id of two cases"),
        (["a.nii", "a_to_b.nii", "b.nii", "b_to_b.nii"], "'a_to_b_to_b' would be the id of two cases"),
        (["a.nii", "caf\u00e9.nii"], "'a_to_caf\u00e9' cannot be the id of a case"),
        (["a b.nii", "c.nii"], "cannot be the id"),
        (["a" * 31 + ".nii", "b" * 30 + ".nii"], "cannot be the id"),
        (["only.nii", "only_seg.nii"], "the folder has fewer"),
    ],
)
def test_names_that_make_no_ids(tmp_path: Path, names: Sequence[str], part: str) -> None:
    folder = fill(tmp_path / "in", names)
    with pytest.raises(UsageError) as caught:
        every_pair(folder, {})
    assert part in str(caught.value)
    if "id" in part.split():
        assert "write a manifest with ids of your own" in str(caught.value)


def test_ids_of_64_letters_are_taken(tmp_path: Path) -> None:
    cohort = every_pair(fill(tmp_path / "in", ["a" * 30 + ".nii", "b" * 30 + ".nii"]), {})
    assert {len(case.id) for case in cohort.cases} == {64}


def test_all_onto_one_that_is_left_out(tmp_path: Path) -> None:
    folder = fill(tmp_path / "in", ["m2.nii", "m10.nii", "f.nii", "f_mask.nii"])
    (tmp_path / "link").symlink_to(folder)
    cohort = onto_fixed(folder, tmp_path / "link" / "f.nii", {}, output=tmp_path / "out")
    assert names_of(cohort) == [("m2", "m2.nii", "f.nii"), ("m10", "m10.nii", "f.nii")]
    assert cohort.notes == [
        "left out as label maps or masks: f_mask.nii", "the fixed image f.nii is not moved onto itself",
    ]  # fmt: skip
    assert places(read_again(cohort, tmp_path / "failed.csv")) == places(cohort)
    settings = {"fixed_mask": folder / "f_mask.nii"}
    masked = onto_fixed(folder, folder / "f.nii", settings, output=tmp_path / "out")
    assert masked.cases[1].config.fixed_mask == folder / "f_mask.nii"
    with pytest.raises(UsageError, match="option fixed_mask belongs to one image"):
        every_pair(folder, settings)


def test_an_image_in_two_files_is_left_out_by_either_name(tmp_path: Path) -> None:
    folder = fill(tmp_path / "in", ["f.hdr", "f.img", "m.hdr", "m.img"])
    for name in ("f.hdr", "f.img"):
        cohort = onto_fixed(folder, folder / name, {}, output=tmp_path / "out")
        assert names_of(cohort) == [("m", "m.hdr", name)]


@pytest.mark.parametrize("link", [False, True])
def test_images_that_lie_elsewhere_are_found_again(tmp_path: Path, link: bool) -> None:
    store = fill(tmp_path / "store", ["f.nii", "x1.nii", "x2.nii"])
    folder = fill(tmp_path / "in", ["a.nii"])
    if link:
        for number in (1, 2):
            (folder / f"m{number}.nii").symlink_to(store / f"x{number}.nii")
    cohort = onto_fixed(folder, store / "f.nii", {}, output=tmp_path / "out")
    assert [case.id for case in cohort.cases] == (["a", "m1", "m2"] if link else ["a"])
    assert {case.row["root"] for case in cohort.cases} == {str(tmp_path)}
    assert places(read_again(cohort, store / "failed.csv")) == places(cohort)
    if link:
        pairs = every_pair(folder, {})
        assert places(read_again(pairs, store / "pairs.csv")) == places(pairs)


def test_all_onto_the_template(tmp_path: Path) -> None:
    folder = fill(tmp_path / "in", ["a.nii", "b.nii"])
    cohort = onto_fixed(folder, TEMPLATE, {}, output=tmp_path / "out")
    assert cohort.prepare is not None
    assert cohort.cases[0].config.fixed == tmp_path / "out" / "template" / "template-ixi2mm.nii.gz"
    assert cohort.cases[0].row == {"id": "a", "moving": "a.nii", "root": str(folder)}
    assert places(read_again(cohort, tmp_path / "failed.csv")) == places(cohort)


def test_folders_that_cannot_be_meant(tmp_path: Path) -> None:
    folder, out = fill(tmp_path / "in", ["template.nii"]), tmp_path / "out"
    with pytest.raises(UsageError, match="'template' cannot be the id"):
        onto_fixed(folder, TEMPLATE, {}, output=out)
    with pytest.raises(UsageError, match="no image to move"):
        onto_fixed(folder, folder / "template.nii", {}, output=out)
    with pytest.raises(NoInputError, match="no such folder"):
        onto_fixed(tmp_path / "none", TEMPLATE, {}, output=out)
    (folder / "gone.nii").symlink_to(tmp_path / "nowhere.nii")
    with pytest.raises(
        NoInputError, match=r"no such file \(gone.nii\)"
    ):  # a case must not get lost in silence
        every_pair(folder, {})
    with pytest.raises(UsageError, match="option seed"):
        every_pair(fill(tmp_path / "two", ["a.nii", "b.nii"]), {"seed": -1})
