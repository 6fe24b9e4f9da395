"""Datasets read: which images are cases, onto what, under which names; and what is refused."""

from pathlib import Path

import pytest
from bids_phantoms import MANY, PLAIN, describe, empty_dataset, read_once

from neuroreg.cohort.bids import Dataset, Selection, read_dataset, select
from neuroreg.cohort.bids_names import Placed, Scan, Target, by_label
from neuroreg.cohort.bids_targets import find_bids
from neuroreg.cohort.case import ID
from neuroreg.cohort.find import find_cohort
from neuroreg.errors import CannotCreateError, DataError, NoInputError, UnavailableError, UsageError
from neuroreg.io.tables import write_csv

SETTINGS = {"method": "affine"}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return empty_dataset(tmp_path_factory.mktemp("many") / "raw", MANY)


@pytest.fixture(scope="module")
def dataset(many: Path) -> Dataset:
    return read_dataset(many)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    read_once(monkeypatch)


def placed(dataset: Path, output: Path, to: str, **chosen: object) -> dict[str, tuple[str, str, str]]:
    """id -> (moving image, fixed image, space) of the cases found."""
    space = chosen.pop("space", None)
    cohort, layout = find_bids(dataset, output, SETTINGS, Selection(**chosen), to=to, space=space)
    assert all(ID.fullmatch(case.id) for case in cohort.cases)
    return {
        case.id: (
            case.config.moving.name,
            case.config.fixed.name,
            layout.output(case, "moved.nii.gz").name.partition("_space-")[2].partition("_")[0],
        )
        for case in cohort.cases
    }


def test_every_t1w_image_of_every_session_and_run_goes_to_the_template(many: Path, tmp_path: Path) -> None:
    found = placed(many, tmp_path / "out", "template")
    assert {moving for moving, _, _ in found.values()} == {Path(name).name for name in MANY}
    assert found["sub-01_ses-1_run-2_T1w-to-neuroregIXI2mm"] == (
        "sub-01_ses-1_run-2_T1w.nii.gz",
        "template-ixi2mm.nii.gz",
        "neuroregIXI2mm",
    )
    assert list(found)[-1].startswith("sub-A3"), "in the natural order of labels"


def test_later_sessions_go_to_the_first_run_of_the_first_session(many: Path, tmp_path: Path) -> None:
    first = "sub-01_ses-1_run-1_T1w.nii.gz"
    expected = {
        "sub-01_ses-2_T1w-to-ses1": ("sub-01_ses-2_T1w.nii.gz", first, "ses1"),
        "sub-01_ses-10_acq-fast_run-01_T1w-to-ses1": (
            "sub-01_ses-10_acq-fast_run-01_T1w.nii.gz",
            first,
            "ses1",
        ),
        "sub-01_ses-10_acq-fast_run-02_T1w-to-ses1": (
            "sub-01_ses-10_acq-fast_run-02_T1w.nii.gz",
            first,
            "ses1",
        ),
        "sub-02_ses-2_rec-norm_T1w-to-ses1": (
            "sub-02_ses-2_rec-norm_T1w.nii.gz",
            "sub-02_ses-1_T1w.nii.gz",
            "ses1",
        ),
    }
    out = tmp_path / "out"
    assert placed(many, out, "first-session") == expected
    cohort, _ = find_bids(many, out, SETTINGS, Selection(), to="first-session")
    assert cohort.notes == ("no later session, nothing to do: sub-A3",)
    chosen = placed(many, out, "first-session", sessions=["10"], runs=[2], space="baseline")
    assert chosen == {
        "sub-01_ses-10_acq-fast_run-02_T1w-to-baseline": (
            "sub-01_ses-10_acq-fast_run-02_T1w.nii.gz",
            first,
            "baseline",
        )
    }, "the first session is that of the dataset, not of what was chosen"
    with pytest.raises(NoInputError, match="no T1w image of a later session"):
        placed(many, out, "first-session", participants=["A3"])


def test_sessions_are_taken_in_the_order_of_their_labels_and_said_so(tmp_path: Path) -> None:
    names = [f"sub-1/ses-{s}/anat/sub-1_ses-{s}_T1w.nii" for s in ("pre", "post", "day10", "day9")]
    root = empty_dataset(tmp_path / "raw", names)
    cohort, _ = find_bids(root, tmp_path / "out", SETTINGS, Selection(), to="first-session")
    assert cohort.notes == ("the sessions are taken in this order: day9, day10, post, pre",)
    assert {case.config.fixed.name for case in cohort.cases} == {"sub-1_ses-day9_T1w.nii"}


def test_an_image_is_the_target_but_not_of_itself(many: Path, tmp_path: Path) -> None:
    outside = tmp_path / "MNI152_T1 1mm.nii.gz"
    outside.touch()
    assert {space for _, _, space in placed(many, tmp_path / "out", str(outside)).values()} == {"MNI152T11mm"}
    flow = tmp_path / "tpl-MNI152NLin2009cAsym_res-01_T1w.nii.gz"
    flow.touch()
    assert {space for _, _, space in placed(many, tmp_path / "out", str(flow)).values()} == {
        "MNI152NLin2009cAsym"
    }
    inside = many / MANY[0]
    found = placed(many, tmp_path / "out", str(inside))
    assert len(found) == len(MANY) - 1
    assert inside.name not in {moving for moving, _, _ in found.values()}
    with pytest.raises(NoInputError, match="no such file"):
        placed(many, tmp_path / "out", str(tmp_path / "gone.nii.gz"))
    with pytest.raises(UsageError, match="letters and digits"):
        placed(many, tmp_path / "out", str(inside), space="my space")
    nameless = tmp_path / "_.nii.gz"
    nameless.touch()
    with pytest.raises(UsageError, match="give --space"):
        placed(many, tmp_path / "out", str(nameless))


@pytest.mark.parametrize(
    ("chosen", "count"),
    [
        ({}, 8),
        ({"participants": ["sub-01", "A3"]}, 6),
        ({"participants": ["01"], "sessions": ["ses-1", "2"]}, 3),
        ({"runs": [1]}, 2),  # run-1 and run-01
        ({"sessions": ["10"], "runs": [2]}, 1),
    ],
)
def test_labels_choose(dataset: Dataset, chosen: dict, count: int) -> None:
    assert len(select(dataset, Selection(**chosen))) == count


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"participants": ["01", "1"]}, "no T1w image of sub-1; .*; there are: sub-01, sub-02, sub-A3"),
        ({"sessions": ["3"]}, "no T1w image of ses-3; .*; there are: ses-1, ses-2, ses-10"),
        ({"runs": [3]}, "no T1w image of run-3; .*; there are: run-1, run-2"),
        ({"participants": ["A3"], "sessions": ["2"]}, "no T1w image of the chosen ones is ses-2"),
    ],
)
def test_a_label_that_no_image_has_is_refused(dataset: Dataset, chosen: dict, said: str) -> None:
    with pytest.raises(NoInputError, match=said):
        select(dataset, Selection(**chosen))


def test_a_real_dataset_may_hold_odd_files(tmp_path: Path) -> None:
    odd = [
        "sub-01/anat/sub-01_T1w_defaced.nii.gz",
        "sub-01/anat/sub-01_part-phase_T1w.nii.gz",
        "sub-01/anat/sub-01_space-MNI_T1w.nii.gz",
        "sub-01/anat/sub-02_T1w.nii.gz",
        "sub-02/ses-1/anat/sub-02_T1w.nii.gz",
    ]
    other = [
        "sub-01/anat/sub-01_T2w.nii.gz",
        "sub-01/anat/sub-01_T1w.json",
        "sub-01/anat/.DS_Store",
        "sub-01/func/sub-01_task-rest_bold.nii.gz",
        "derivatives/other/sub-01/anat/sub-01_T1w.nii.gz",
        "sourcedata/sub-01/anat/sub-01_T1w.nii.gz",
        "code/run.py",
        "stray.txt",
    ]
    root = empty_dataset(tmp_path / "a dataset", [*PLAIN, *odd, *other])
    (root / "sub-01" / "anat" / "loop").symlink_to("..")
    with open(bytes(root / "sub-01" / "anat") + b"/sub-01_T1w_\xff.nii.gz", "wb"):
        pass
    dataset = read_dataset(root)
    assert [scan.relative for scan in dataset.scans] == list(PLAIN)
    assert [scan.session for scan in dataset.scans] == [None, None]
    (note,) = dataset.notes
    assert set(note.partition(": ")[2].split(", ")) == set(odd)


def test_links_to_content_that_is_elsewhere_are_named(tmp_path: Path) -> None:
    root = empty_dataset(tmp_path / "raw", PLAIN)
    (root / PLAIN[0]).unlink()
    (root / PLAIN[0]).symlink_to("../../.git/annex/objects/gone.nii.gz")
    dataset = read_dataset(root)
    assert len(dataset.scans) == 2
    assert dataset.notes == (
        f"these images are links to content that is not here (datalad get brings it): {PLAIN[0]}",
    )


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        (None, NoInputError, "it has no dataset_description.json; raw; write one"),
        ("{", DataError, "not valid JSON"),
        ("[]", DataError, "must say Name and BIDSVersion"),
        ('{"Name": "x"}', DataError, "must say Name and BIDSVersion"),
        (
            '{"Name": "x", "BIDSVersion": "1.8.0", "DatasetType": "derivative"}',
            DataError,
            "a dataset of derivatives",
        ),
        ('{"Name": "x", "BIDSVersion": "1.8.0"}', NoInputError, "no T1w image in the dataset"),
    ],
)
def test_what_is_no_raw_dataset_is_refused(
    tmp_path: Path, text: str | None, error: type[Exception], said: str
) -> None:
    root = empty_dataset(tmp_path / "raw", [])
    (root / "dataset_description.json").unlink()
    if text is not None:
        (root / "dataset_description.json").write_text(text)
    with pytest.raises(error, match=said):
        read_dataset(root)
    with pytest.raises(NoInputError, match="no such folder"):
        read_dataset(tmp_path / "gone")


def test_two_images_with_one_name_are_refused(tmp_path: Path) -> None:
    root = empty_dataset(tmp_path / "raw", ["sub-1/anat/sub-1_T1w.nii", "sub-1/anat/sub-1_T1w.nii.gz"])
    with pytest.raises(DataError, match=r"same outputs: sub-1_T1w.nii and sub-1_T1w.nii.gz"):
        read_dataset(root)


def test_without_pybids_the_cure_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bids.layout", None)
    with pytest.raises(UnavailableError, match=r"pip install 'neuroreg\[bids\]'"):
        read_dataset(empty_dataset(tmp_path / "raw", PLAIN))


def test_outputs_never_mix_with_another_dataset(many: Path, tmp_path: Path) -> None:
    for output in (many, many.parent):
        with pytest.raises(UsageError, match="would mix with the dataset"):
            placed(many, output, "template")
    other = describe(tmp_path / "other", GeneratedBy=[{"Name": "fmriprep"}])
    with pytest.raises(CannotCreateError, match="a dataset of something else"):
        placed(many, other, "template")


def test_settings_of_one_pair_are_refused(many: Path, tmp_path: Path) -> None:
    for name, to in (("moving_labels", "template"), ("fixed_mask", "first-session")):
        with pytest.raises(UsageError, match=f"option {name} belongs to one image"):
            find_bids(many, tmp_path / "out", {**SETTINGS, name: Path("x.nii.gz")}, Selection(), to=to)


def test_the_brains_of_raw_heads_are_found_unless_somebody_says_no(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(**more: object) -> set[bool]:
        cohort, _ = find_bids(many, tmp_path / "out", {**SETTINGS, **more}, Selection())
        assert {case.row.get("find_brain") == "yes" for case in cohort.cases} == {
            case.config.find_brain for case in cohort.cases
        }
        return {case.config.find_brain for case in cohort.cases}

    assert found() == found(find_brain=None) == {True}
    assert found(find_brain=False) == {False}
    monkeypatch.setenv("NEUROREG_FIND_BRAIN", "no")
    assert found() == {False}
    assert found(find_brain=True) == {True}


def scan(name: str) -> Scan:
    subject = name.partition("_")[0]
    return Scan(Path("raw") / name, f"{subject}/anat/{name}", subject.removeprefix("sub-"), None)


def test_names_follow_the_order_of_bids() -> None:
    one = Placed(
        scan("sub-1_acq-a_run-2_chunk-3_T1w.nii"), Target("here", Path("t.nii.gz"), "bids::t.nii.gz")
    )
    assert {name: str(path) for name, path in one.files.items()} == {
        "moved.nii.gz": "sub-1/anat/sub-1_acq-a_run-2_space-here_chunk-3_T1w.nii.gz",
        "displacement.nii.gz": "sub-1/anat/sub-1_acq-a_run-2_chunk-3_from-T1w_to-here_mode-image_desc-displacement_xfm"
        ".nii.gz",
        "transform.h5": "sub-1/anat/sub-1_acq-a_run-2_chunk-3_from-T1w_to-here_mode-image_xfm.h5",
        "inverse.h5": "sub-1/anat/sub-1_acq-a_run-2_chunk-3_from-here_to-T1w_mode-image_xfm.h5",
        "affine.mat": "sub-1/anat/sub-1_acq-a_run-2_chunk-3_from-T1w_to-here_mode-image_desc-affine_xfm.mat",
        "jacobian.nii.gz": "sub-1/anat/sub-1_acq-a_run-2_space-here_chunk-3_jacobian.nii.gz",
    }


def test_an_id_fits_whatever_the_name() -> None:
    target = Target("neuroregIXI2mm", Path("t.nii.gz"), "bids::t.nii.gz")
    names = [
        "sub-1_acq-a+b_T1w.nii.gz",
        "sub-1_acq-ab_T1w.nii.gz",
        f"sub-1_acq-{'x' * 40}_run-1_T1w.nii",
        f"sub-1_acq-{'x' * 40}_run-2_T1w.nii",
    ]
    ids = [Placed(scan(name), target).id for name in names]
    assert all(ID.fullmatch(name) for name in ids)
    assert len(set(ids)) == 4
    assert ids[1] == "sub-1_acq-ab_T1w-to-neuroregIXI2mm"


def test_labels_are_ordered_as_people_do() -> None:
    assert sorted(["10", "b", "2", "a10", "a9", "01"], key=by_label) == ["01", "2", "10", "a9", "a10", "b"]


@pytest.mark.parametrize("to", ["first-session", "template"])
def test_a_case_can_be_asked_for_again_by_a_manifest(to: str, many: Path, tmp_path: Path) -> None:
    cohort, _ = find_bids(many, tmp_path / "out", SETTINGS, Selection(), to=to)
    table = tmp_path / "failed.csv"
    write_csv(table, tuple(cohort.cases[0].row), [case.row for case in cohort.cases])
    again = find_cohort(table, SETTINGS, output=tmp_path / "out")
    wanted = [(case.id, case.config.fixed.resolve(), case.config.moving.resolve()) for case in cohort.cases]
    assert [
        (one.id, one.config.fixed.resolve(), one.config.moving.resolve()) for one in again.cases
    ] == wanted
