"""Publishing BIDS derivatives: names, sidecars, what a crash leaves, what is checked afterwards."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from bids_phantoms import MANY, empty_dataset, read_once
from pipeline_phantoms import grid, head

from neuroreg.cohort.bids import Selection
from neuroreg.cohort.bids_group import check_derivatives
from neuroreg.cohort.bids_layout import BidsLayout
from neuroreg.cohort.bids_targets import find_bids
from neuroreg.cohort.case import Case, Cohort
from neuroreg.cohort.template import template_files
from neuroreg.errors import CannotCreateError, DataError, NoInputError, WriteError
from neuroreg.io.images import write_image
from neuroreg.pipeline.finished import open_run
from neuroreg.pipeline.inputs import FILES
from neuroreg.volume import Volume

SETTINGS = {"method": "affine"}


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small image, as the bytes of a .nii.gz."""
    path = tmp_path_factory.mktemp("picture") / "moved.nii.gz"
    where = grid()
    write_image(Volume(head(where.points())[None], where), path)
    return path.read_bytes()


class Place:
    """A dataset, the derivatives of its later sessions, and runs that are finished but nowhere yet."""

    def __init__(self, raw: Path, folder: Path, picture: bytes) -> None:
        self.raw, self.out, self.picture = raw, folder / "out", picture
        self.cohort, self.layout = self.find("first-session")
        self.out.mkdir()
        assert self.cohort.prepare is not None
        self.cohort.prepare()
        self.runs = 0

    def find(self, to: str) -> tuple[Cohort, BidsLayout]:
        return find_bids(self.raw, self.out, SETTINGS, Selection(), to=to)

    @property
    def case(self) -> Case:
        """sub-01, session 2, onto session 1."""
        return self.cohort.cases[0]

    def work(self, text: str = "", leave: tuple[str, ...] = tuple(FILES)) -> Path:
        """A folder as a registration leaves it."""
        self.runs += 1
        folder = self.out / ".work" / f"run{self.runs}"
        folder.mkdir(parents=True)
        for role in leave:
            data = self.picture if role == "image" else f"{role}{text}".encode()
            (folder / FILES[role]).write_bytes(data)
        outputs = {
            path.name: {
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "bytes": path.stat().st_size,
            }
            for path in folder.iterdir()
        }
        (folder / "run.json").write_text(json.dumps({**RECORD, "outputs": outputs}), encoding="utf-8")
        return folder


RECORD = {
    "schema_version": 2, "command": "register", "argv": [], "started": "2026-01-01T00:00:00+00:00",
    "finished": "2026-01-01T00:00:01+00:00", "versions": {}, "machine": "", "device": "cpu", "threads": 1,
    "seed": 0, "deterministic": False, "config": {"method": "affine"}, "inputs": {}, "weights": None,
    "seconds": {"total": 1.0}, "qc": {"verdict": "pass", "reasons": []}, "warnings": [],
}  # fmt: skip


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return empty_dataset(tmp_path_factory.mktemp("dataset") / "raw", MANY)


@pytest.fixture
def place(raw: Path, tmp_path: Path, picture: bytes, monkeypatch: pytest.MonkeyPatch) -> Place:
    read_once(monkeypatch)
    return Place(raw, tmp_path, picture)


OWN = [f"neuroreg/sub-01_ses-2_T1w-to-ses1/{name}" for name in ("files.json", "report.html", "run.json")]
DATA = [
    "from-T1w_to-ses1_mode-image_desc-affine_xfm.mat",
    "from-T1w_to-ses1_mode-image_desc-displacement_xfm.nii.gz",
    "from-T1w_to-ses1_mode-image_xfm.h5",
    "from-ses1_to-T1w_mode-image_xfm.h5",
    "space-ses1_T1w.nii.gz",
    "space-ses1_jacobian.nii.gz",
]
PAIRS = [name for data in DATA for name in (data, data.partition(".")[0] + ".json")]
NAMES = sorted([*OWN, *(f"sub-01/ses-2/anat/sub-01_ses-2_{name}" for name in PAIRS)])


def files_of(place: Place) -> list[str]:
    """Everything below the output that belongs to cases."""
    found = [path.relative_to(place.out).as_posix() for path in place.out.rglob("*") if path.is_file()]
    return sorted(name for name in found if name.startswith(("sub-", "neuroreg/")))


def test_a_finished_run_becomes_derivatives(place: Place) -> None:
    work = place.work()
    place.layout.publish(place.case, work)
    assert files_of(place) == NAMES
    assert not work.exists()
    assert place.layout.mark(place.case).name == "run.json"
    for name, described in json.loads(place.layout.mark(place.case).read_text())["outputs"].items():
        data = place.layout.output(place.case, name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == described["sha256"]


def test_a_published_run_is_read_back_where_its_files_lie(place: Place) -> None:
    place.layout.publish(place.case, place.work())
    run = open_run(place.layout.own(place.case))
    for name in run.recorded.outputs:
        found = run.output(name)
        assert found is not None
        assert found.samefile(place.layout.output(place.case, name))
    place.layout.output(place.case, "affine.mat").write_bytes(b"other")
    with pytest.raises(DataError, match="not the file the run left"):
        run.output("affine.mat")
    index = place.layout.own(place.case) / "files.json"
    for text in ("{", "[]", '{"moved.nii.gz": 1}'):
        index.write_text(text)
        with pytest.raises(DataError, match="the index of the outputs"):
            open_run(index.parent).output("moved.nii.gz")
        assert any("the index of the outputs" in fault for fault in check_derivatives(place.out).faults)


def sidecar(place: Place, end: str) -> dict:
    return json.loads((place.out / f"sub-01/ses-2/anat/sub-01_ses-2_{end}.json").read_text())


def test_sidecars_say_what_was_made_of_what(place: Place) -> None:
    place.layout.publish(place.case, place.work())
    scan = "bids:raw:sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz"
    first = "bids:raw:sub-01/ses-1/anat/sub-01_ses-1_run-1_T1w.nii.gz"
    transform = "bids::sub-01/ses-2/anat/sub-01_ses-2_from-T1w_to-ses1_mode-image_xfm.h5"
    moved = sidecar(place, "space-ses1_T1w")
    assert moved["Sources"] == [scan, transform]
    assert moved["SpatialReference"] == first
    assert moved["SkullStripped"] is True, "the phantom is an ellipsoid in empty space"
    there, back = (
        sidecar(place, f"from-{a}_to-{b}_mode-image_xfm") for a, b in (("T1w", "ses1"), ("ses1", "T1w"))
    )
    assert there["Sources"] == back["Sources"] == [scan, first]
    assert (there["SpatialReference"], back["SpatialReference"]) == (first, scan)
    assert "brings images from the space of the T1w image into space-ses1" in there["Description"]
    assert "brings images from space-ses1 into the space of the T1w image" in back["Description"]
    assert sidecar(place, "space-ses1_jacobian")["Sources"] == [transform]


def test_the_dataset_says_what_it_is_and_keeps_what_others_wrote(place: Place) -> None:
    said = json.loads((place.out / "dataset_description.json").read_text())
    assert said["DatasetType"] == "derivative"
    assert said["GeneratedBy"][0]["Name"] == "neuroreg"
    assert said["DatasetLinks"] == {"raw": os.path.relpath(place.raw, place.out)}
    assert said["SourceDatasets"] == [{"URL": "bids:raw:"}]
    (place.out / "dataset_description.json").write_text(json.dumps({**said, "Authors": ["A", "B"]}))
    (place.out / ".bidsignore").write_text("mine/\n")
    (place.out / "README").write_text("my words")
    cohort, _ = place.find(str(place.raw / MANY[0]))
    assert cohort.prepare is not None
    cohort.prepare()
    again = json.loads((place.out / "dataset_description.json").read_text())
    assert again == {**said, "Authors": ["A", "B"]}
    assert (place.out / ".bidsignore").read_text().splitlines()[:2] == ["mine/", "/neuroreg"]
    assert (place.out / "README").read_text() == "my words"


def test_a_second_dataset_does_not_go_into_the_same_derivatives(place: Place, tmp_path: Path) -> None:
    other = empty_dataset(tmp_path / "other", MANY)
    cohort, _ = find_bids(other, place.out, SETTINGS, Selection(), to="first-session")
    assert cohort.prepare is not None
    with pytest.raises(CannotCreateError, match=r"derivatives of another dataset \(raw is ../.*raw\)"):
        cohort.prepare()


def test_an_image_from_elsewhere_is_named_by_a_link(place: Place, tmp_path: Path) -> None:
    image = tmp_path / "my templates" / "MNI.nii.gz"
    image.parent.mkdir()
    image.write_bytes(place.picture)
    cohort, layout = place.find(str(image))
    assert cohort.prepare is not None
    cohort.prepare()
    layout.publish(cohort.cases[0], place.work())
    said = json.loads((place.out / "dataset_description.json").read_text())
    assert said["DatasetLinks"]["MNI"] == "../my%20templates"
    moved = place.out / "sub-01/ses-1/anat/sub-01_ses-1_run-1_space-MNI_T1w.json"
    assert json.loads(moved.read_text())["SpatialReference"] == "bids:MNI:MNI.nii.gz"


def test_the_template_lies_in_the_derivatives(place: Place) -> None:
    cohort, layout = place.find("template")
    assert cohort.prepare is not None
    cohort.prepare()
    image, _ = template_files(place.out)
    assert image.is_file()
    layout.publish(cohort.cases[0], place.work())
    name = "sub-01/ses-1/anat/sub-01_ses-1_run-1_space-neuroregIXI2mm_T1w.json"
    said = json.loads((place.out / name).read_text())
    assert said["SpatialReference"] == f"bids::{image.relative_to(place.out).as_posix()}"


def stopped(step: Callable[[], object]) -> object:
    raise KeyboardInterrupt


@pytest.mark.faults
def test_a_crash_between_any_two_steps_leaves_no_mark_and_the_next_run_completes(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps_of = BidsLayout._steps
    place.layout.publish(place.case, place.work("first"))
    count = len(steps_of(place.layout, place.case, place.work("never")))
    committed = count - 3  # the mark's rename; then fsync, and the folder to work in is deleted
    for crash in range(count):
        before = place.layout.mark(place.case).read_bytes()

        def broken(self: BidsLayout, case: Case, work: Path, crash: int = crash) -> list:
            return [*steps_of(self, case, work)[:crash], lambda: stopped(print)]

        monkeypatch.setattr(BidsLayout, "_steps", broken)
        with pytest.raises(KeyboardInterrupt):
            place.layout.publish(place.case, place.work(f"crash {crash}"))
        monkeypatch.setattr(BidsLayout, "_steps", steps_of)
        mark = place.layout.mark(place.case)
        if mark.exists():  # then every file is that of one run: the old one, or the new one
            assert (mark.read_bytes() == before) is (crash <= committed)
            assert check_derivatives(place.out).faults == []
        else:
            assert crash <= committed
            assert check_derivatives(place.out).bad
        place.layout.check(place.case)
        place.layout.publish(place.case, place.work(f"after {crash}"))
        assert files_of(place) == NAMES
        assert check_derivatives(place.out).faults == []


def test_a_crash_at_the_very_first_publishing_leaves_names_that_are_ours(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps_of = BidsLayout._steps
    for crash in (1, 4, 9, len(steps_of(place.layout, place.case, place.work())) - 4):
        monkeypatch.setattr(
            BidsLayout, "_steps", lambda *given, n=crash: [*steps_of(*given)[:n], lambda: stopped(print)]
        )
        case = place.cohort.cases[crash % len(place.cohort.cases)]
        with pytest.raises(KeyboardInterrupt):
            place.layout.publish(case, place.work())
        monkeypatch.setattr(BidsLayout, "_steps", steps_of)
        place.layout.check(case)
        place.layout.publish(case, place.work())
        assert place.layout.mark(case).exists()


def test_files_that_no_run_of_ours_made_are_never_replaced(place: Place) -> None:
    path = place.layout.output(place.case, "moved.nii.gz")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"somebody's")
    with pytest.raises(CannotCreateError, match="is there, and not of a run of ours") as caught:
        place.layout.check(place.case)
    assert caught.value.file == path.name
    path.unlink()
    place.layout.check(place.case)
    place.layout.publish(place.case, place.work())
    place.layout.check(place.case)
    path.unlink()
    path.mkdir()
    with pytest.raises(CannotCreateError, match="is there"):
        place.layout.check(place.case)
    with pytest.raises(WriteError, match="cannot be put in place"):
        place.layout.publish(place.case, place.work())
    assert not place.layout.mark(place.case).exists()


def test_a_run_with_fewer_outputs_leaves_none_of_the_former(place: Place) -> None:
    place.layout.publish(place.case, place.work())
    place.layout.publish(place.case, place.work(leave=("image", "affine")))
    kept = (
        "files.json",
        "run.json",
        "desc-affine_xfm.json",
        "desc-affine_xfm.mat",
        "_T1w.json",
        "_T1w.nii.gz",
    )
    assert files_of(place) == [name for name in NAMES if name.endswith(kept)]
    moved = sidecar(place, "space-ses1_T1w")
    assert moved["Sources"][1].endswith("_desc-affine_xfm.mat"), "the map that is there"


def test_the_group_level_finds_what_is_not_as_the_run_left_it(place: Place) -> None:
    for case in place.cohort.cases:
        place.layout.publish(case, place.work())
    checked = check_derivatives(place.out)
    assert (checked.bad, checked.counts["ok"], checked.faults) == (False, 4, [])
    first, second, third, fourth = place.cohort.cases
    place.layout.output(first, "transform.h5").write_bytes(b"other")
    place.layout.output(second, "inverse.h5").unlink()
    place.layout.output(third, "jacobian.nii.gz").with_name(
        "sub-01_ses-10_acq-fast_run-02_space-ses1_jacobian.json"
    ).write_text("{")
    place.layout.mark(fourth).unlink()
    (place.out / "sub-01" / "stray.txt").touch()
    (place.out / "dataset_description.json").unlink()
    checked = check_derivatives(place.out)
    assert checked.bad
    assert [fault.partition(": ")[2] for fault in checked.faults] == [
        "run the participant level again with --resume",
        "failed-io: sub-01_ses-10_acq-fast_run-01_from-ses1_to-T1w_mode-image_xfm.h5 is gone",
        "failed-io: sub-01_ses-10_acq-fast_run-02_space-ses1_jacobian.json is gone, or no JSON",
        "failed-io: sub-01_ses-2_from-T1w_to-ses1_mode-image_xfm.h5 is not what the run left",
        "killed: it was never finished",
        "",
    ]
    assert checked.faults[-1] == "no case knows sub-01/stray.txt"
    summary = json.loads(checked.summary.read_text())
    assert {case["id"]: case["state"] for case in summary["cases"]} == {
        first.id: "failed-io", second.id: "failed-io", third.id: "failed-io", fourth.id: "killed",
    }  # fmt: skip


def test_the_group_level_needs_something_to_sum_up(place: Place, tmp_path: Path) -> None:
    for folder, said in ((place.out, "no case was ever begun"), (tmp_path / "gone", "no such folder")):
        with pytest.raises(NoInputError, match=said):
            check_derivatives(folder)


def test_pybids_reads_the_derivatives(place: Place) -> None:
    from bids.layout import BIDSLayout

    for case in place.cohort.cases:
        place.layout.publish(case, place.work())
    layout = BIDSLayout(place.raw, validate=False, derivatives=place.out)
    try:
        found = layout.get(scope="derivatives", suffix="T1w", space="ses1", extension=".nii.gz")
        assert {(file.entities["subject"], file.entities["session"]) for file in found} == {
            ("01", "2"),
            ("01", "10"),
            ("02", "2"),
        }
        assert [int(file.entities["run"]) for file in found if file.entities["session"] == "10"] == [1, 2]
        assert found[0].get_metadata()["SpatialReference"].startswith("bids:raw:sub-0")
        (there,) = layout.get(
            scope="derivatives", subject="02", suffix="xfm", to="ses1", mode="image", extension=".h5"
        )
        assert there.entities["from"] == "T1w"
        assert there.get_metadata()["Sources"][0].endswith("rec-norm_T1w.nii.gz")
        assert layout.get(scope="raw", suffix="T1w", space="ses1") == []
    finally:
        for one in (layout, *layout.derivatives.values()):
            one.connection_manager.session.close()
            one.connection_manager.engine.dispose()
