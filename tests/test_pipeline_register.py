"""The verb register, end to end on phantoms with toy methods whose field is known."""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pipeline_phantoms as phantoms
import pytest
import SimpleITK as sitk
import torch

from neuroreg.errors import DataError, InternalError, UsageError, WriteError
from neuroreg.io.images import read_image, write_image
from neuroreg.io.transforms import read_transform, write_transform
from neuroreg.methods import METHODS
from neuroreg.methods.gaussnewton import ITERATIONS
from neuroreg.pipeline import align, outputs
from neuroreg.pipeline.case import Case
from neuroreg.pipeline.config import RegisterConfig, resolve
from neuroreg.pipeline.engine import load_engine
from neuroreg.pipeline.register import plan, register
from neuroreg.registry import Entry
from neuroreg.transforms import Affine, Chain, DisplacementField
from neuroreg.volume import Volume

STANDARD = [
    "moved.nii.gz",
    "displacement.nii.gz",
    "transform.h5",
    "inverse.h5",
    "affine.mat",
    "jacobian.nii.gz",
]


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    phantoms.leave_sides_unjudged(monkeypatch)
    for name in ("Toy", "OutOfMemoryToy", "BrokenToy", "NotANumberToy"):
        monkeypatch.setitem(METHODS, name.lower(), Entry(f"pipeline_phantoms:{name}", "for tests"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return phantoms.save_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def shift_file(tmp_path: Path) -> Path:
    """The affine that is true for the phantoms, with some scaling to make its Jacobian known: det = 1.056."""
    matrix = torch.diag(torch.tensor([1.1, 0.8, 1.2, 1.0], dtype=torch.float64))
    matrix[:3, 3] = torch.tensor(phantoms.SHIFT_MM, dtype=torch.float64) + torch.tensor([-0.5, -1.6, -2.4])
    write_transform(Affine(matrix), tmp_path / "start.mat")
    return tmp_path / "start.mat"


def config(pair: tuple[Path, Path], folder: Path, **settings: Any) -> RegisterConfig:
    below = {
        "method": "toy",
        "affine": "none",
        "threads": 1,
        "fixed": pair[0],
        "moving": pair[1],
        "output": folder,
    }
    return RegisterConfig(**{**below, **settings})


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_promised_file_is_left_and_the_record_is_the_commit_mark(
    pair: tuple[Path, Path], tmp_path: Path, shift_file: Path
) -> None:
    done = register(config(pair, tmp_path / "out", affine=str(shift_file)))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted([*STANDARD, "run.json"])
    assert list(done.outputs) == STANDARD
    for name, described in done.outputs.items():
        assert described == {
            "sha256": sha256(tmp_path / "out" / name),
            "bytes": (tmp_path / "out" / name).stat().st_size,
        }
    on_disk = json.loads((tmp_path / "out" / "run.json").read_text())
    assert on_disk == done.model_dump(mode="json")
    assert on_disk["inputs"]["moving"] == {"name": "moving.nii.gz", "sha256": sha256(pair[1])}
    assert str(tmp_path) not in json.dumps(on_disk)
    assert on_disk["seconds"]["total"] >= max(v for k, v in on_disk["seconds"].items() if k != "total")


def test_other_programs_apply_the_files_as_we_do(
    pair: tuple[Path, Path], tmp_path: Path, shift_file: Path
) -> None:
    folder = tmp_path / "out"
    register(config(pair, folder, affine=str(shift_file)))
    fixed, moving = (sitk.ReadImage(str(path), sitk.sitkFloat64) for path in pair)
    ours = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "moved.nii.gz")))
    composite = sitk.ReadTransform(str(folder / "transform.h5"))
    theirs = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, composite, sitk.sitkLinear, 0.0))
    rim = np.abs(ours - theirs) > 1e-2  # a point on the very edge may fall on either side of it
    assert rim.sum() <= 5
    assert ours.std() > 50

    rng = np.random.default_rng(1)
    inverse = sitk.ReadTransform(str(folder / "inverse.h5"))
    field = sitk.DisplacementFieldTransform(
        sitk.ReadImage(str(folder / "displacement.nii.gz"), sitk.sitkVectorFloat64)
    )
    jacobian = sitk.ReadImage(str(folder / "jacobian.nii.gz"))
    for index in rng.integers(8, 26, (40, 3)).tolist():
        point = np.array(fixed.TransformIndexToPhysicalPoint(index))
        moved = np.array(composite.TransformPoint(point))
        assert np.abs(np.array(field.TransformPoint(point)) - moved).max() < 1e-3
        assert np.abs(np.array(inverse.TransformPoint(moved)) - point).max() < 0.05
        axes = np.array(fixed.GetDirection()).reshape(3, 3) * np.array(fixed.GetSpacing())
        ends = [
            [np.array(composite.TransformPoint(point + s * axes[:, k])) for k in range(3)] for s in (1, -1)
        ]
        slope = np.array([(a - b) / 2 for a, b in zip(*ends, strict=True)]).T
        assert jacobian[index] == pytest.approx(np.linalg.det(slope) / np.linalg.det(axes), abs=2e-3)


def test_the_jacobian_counts_the_affine(pair: tuple[Path, Path], tmp_path: Path, shift_file: Path) -> None:
    register(config(pair, tmp_path / "out", affine=str(shift_file), options={"amplitude": 0.0}))
    values = read_image_array(tmp_path / "out" / "jacobian.nii.gz")
    assert np.abs(values - 1.1 * 0.8 * 1.2).max() < 1e-4


def read_image_array(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_the_same_command_twice_gives_the_same_bytes(
    pair: tuple[Path, Path], tmp_path: Path, shift_file: Path
) -> None:
    first = register(config(pair, tmp_path / "a", affine=str(shift_file)))
    second = register(config(pair, tmp_path / "b", affine=str(shift_file)))
    assert first.outputs == second.outputs


def test_only_what_is_asked_for_is_computed(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("not asked for")

    monkeypatch.setattr(outputs, "total_field", refuse)
    monkeypatch.setattr(align.Alignment, "inverse", refuse)
    done = register(config(pair, tmp_path / "out", outputs="image,transform"))
    assert list(done.outputs) == ["moved.nii.gz", "transform.h5"]
    assert "inverse_consistency_mean_mm" not in done.qc.figures


def test_the_field_stays_on_its_native_grid(pair: tuple[Path, Path], tmp_path: Path) -> None:
    register(config(pair, tmp_path / "out", outputs="transform"))
    chain = read_transform(tmp_path / "out" / "transform.h5")
    assert isinstance(chain, Chain)
    field, affine = chain.parts
    assert isinstance(field, DisplacementField)
    assert field.geometry.spacing == (4.0, 4.0, 4.0)  # level 1 of the toy's 2 mm grid
    assert isinstance(affine, Affine)


def test_labels_are_moved_exactly_and_compared(pair: tuple[Path, Path], tmp_path: Path) -> None:
    fixed_seg, moving_seg = phantoms.save_labels(pair[0].parent)
    write_transform(_shift(), tmp_path / "shift.mat")
    done = register(
        config(
            pair,
            tmp_path / "out",
            affine=str(tmp_path / "shift.mat"),
            options={"amplitude": 0.0},
            fixed_labels=fixed_seg,
            moving_labels=moving_seg,
            outputs="affine",
        )
    )
    assert list(done.outputs) == ["affine.mat", "moved_labels.nii.gz", "rois.csv"]
    moved = read_image_array(tmp_path / "out" / "moved_labels.nii.gz")
    assert set(np.unique(moved)) == {0, 4, 23, 16_777_217}
    assert done.qc.figures["dice_mean"] is not None
    assert done.qc.figures["dice_mean"] > 0.8
    assert len((tmp_path / "out" / "rois.csv").read_text().splitlines()) == 4


def _shift() -> Affine:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, 3] = torch.tensor(phantoms.SHIFT_MM, dtype=torch.float64)
    return Affine(matrix)


def test_the_figures_of_a_known_map(pair: tuple[Path, Path], tmp_path: Path) -> None:
    write_transform(_shift(), tmp_path / "shift.mat")
    done = register(
        config(
            pair,
            tmp_path / "out",
            affine=str(tmp_path / "shift.mat"),
            options={"amplitude": 0.0},
            outputs="inverse",
        )
    )
    length = math.dist(phantoms.SHIFT_MM, (0, 0, 0))
    assert done.qc.figures["displacement_mean_mm"] == pytest.approx(length, abs=1e-5)
    assert done.qc.figures["residual_max_mm"] == pytest.approx(0.0, abs=1e-5)
    assert done.qc.figures["folded_percent"] == done.qc.figures["sd_log_jacobian"] == 0.0
    assert done.qc.figures["inverse_consistency_max_mm"] == pytest.approx(0.0, abs=1e-5)
    assert done.qc.figures["ncc_after"] > 0.95 > done.qc.figures["ncc_before"]
    assert done.qc.passed, done.qc.reasons


def test_also_moves_further_images(pair: tuple[Path, Path], tmp_path: Path) -> None:
    extra = tmp_path / "t2.x.nii.gz"
    extra.write_bytes(pair[1].read_bytes())
    done = register(config(pair, tmp_path / "out", also=(extra,), outputs="image"))
    assert done.outputs["t2.x_moved.nii.gz"]["sha256"] == done.outputs["moved.nii.gz"]["sha256"]
    twice = tmp_path / "other" / "t2.x.nii.gz"
    twice.parent.mkdir()
    twice.write_bytes(extra.read_bytes())
    with pytest.raises(UsageError, match="two images would be written"):
        register(config(pair, tmp_path / "second", also=(extra, twice)))


def test_a_mask_limits_what_is_registered(pair: tuple[Path, Path], tmp_path: Path) -> None:
    fixed = read_image(pair[0]).volume
    mask = torch.zeros_like(fixed.data, dtype=torch.uint8)
    mask[:, 10:24, 12:30, 10:28] = 1
    write_image(Volume(mask, fixed.geometry, is_label=True), tmp_path / "mask.nii.gz")
    seen: list[int] = []

    class Seeing(phantoms.Toy):
        def predict(self, fixed: torch.Tensor, moving: torch.Tensor, start: Any = None) -> Any:
            seen.append(int((fixed > 0).sum()))
            return super().predict(fixed, moving, start)

    phantoms.Seeing = Seeing  # type: ignore[attr-defined]
    METHODS["seeing"] = Entry("pipeline_phantoms:Seeing", "for tests")
    try:
        register(config(pair, tmp_path / "a", method="seeing", outputs="image"))
        register(
            config(
                pair, tmp_path / "b", method="seeing", outputs="image", fixed_mask=tmp_path / "mask.nii.gz"
            )
        )
    finally:
        del METHODS["seeing"]
    assert seen[1] < 0.5 * seen[0]
    write_image(Volume(mask * 0, fixed.geometry, is_label=True), tmp_path / "empty.nii.gz")
    with pytest.raises(DataError, match="mask is empty"):
        register(config(pair, tmp_path / "c", fixed_mask=tmp_path / "empty.nii.gz"))


def write_mask(folder: Path, like: Path, inside: torch.Tensor, name: str = "mask.nii.gz") -> Path:
    geometry = read_image(like).volume.geometry
    write_image(Volume(inside.to(torch.uint8)[None], geometry, is_label=True), folder / name, overwrite=True)
    return folder / name


def test_a_mask_blanks_nothing(pair: tuple[Path, Path], tmp_path: Path) -> None:
    inside = torch.zeros(read_image(pair[0]).volume.geometry.shape)
    inside[10:24, 12:30, 10:28] = 1
    mask = write_mask(tmp_path, pair[0], inside)
    plain = register(config(pair, tmp_path / "a", outputs="image,transform"))
    masked = register(config(pair, tmp_path / "b", outputs="image,transform", fixed_mask=mask))
    # the toy sees no intensities, so its map is the same, and so is all that is moved through it
    assert plain.outputs == masked.outputs


class Weighing(phantoms.Toy):
    """Keeps what it was given."""

    given: tuple[torch.Tensor, torch.Tensor, Any]

    def predict(
        self, fixed: torch.Tensor, moving: torch.Tensor, start: Any = None, *, weights: Any = None
    ) -> Any:
        type(self).given = (fixed, moving, weights)
        return super().predict(fixed, moving, start)


@pytest.fixture
def weighing(monkeypatch: pytest.MonkeyPatch) -> type[Weighing]:
    monkeypatch.setattr(phantoms, "Weighing", Weighing, raising=False)
    monkeypatch.setitem(METHODS, "weighing", Entry("pipeline_phantoms:Weighing", "for tests"))
    return Weighing


def test_masks_reach_methods_that_weigh_and_the_refinement(
    pair: tuple[Path, Path], tmp_path: Path, weighing: type[Weighing], monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = read_image(pair[1]).volume.geometry.shape
    inside = torch.ones(shape)
    inside[15:20, 15:20, 16:24] = 0  # a lesion of the moving head
    mask = write_mask(tmp_path, pair[1], inside)
    refined: list[Any] = []

    def refine(prediction: Any, fixed: torch.Tensor, moving: torch.Tensor, *, weights: Any, **_: Any) -> Any:
        refined.append(weights)
        return prediction

    monkeypatch.setattr("neuroreg.refine.refine", refine)
    register(
        config(pair, tmp_path / "a", method="weighing", outputs="affine", refine="fast", moving_mask=mask)
    )
    _, moving, weights = weighing.given
    spacing = torch.tensor(read_image(pair[1]).volume.geometry.spacing).prod()
    for found, voxel in ((weights, 8.0), (refined[0], 1.0)):
        assert found.fixed_mask is None
        left_out = float((found.moving_weight == 0).sum()) * voxel
        assert left_out == pytest.approx(5 * 5 * 8 * float(spacing), rel=0.15)
    assert float(moving[weights.moving_weight == 0].min()) > 0.1  # filled in, not cut out
    register(config(pair, tmp_path / "b", method="weighing", outputs="affine"))
    assert weighing.given[2] is None


def test_the_record_holds_every_option(pair: tuple[Path, Path], tmp_path: Path, shift_file: Path) -> None:
    done = register(config(pair, tmp_path / "a", affine=str(shift_file), options={"amplitude": 0.7}, refine="1",
                           outputs="affine"))  # fmt: skip
    read = json.loads((tmp_path / "a" / "run.json").read_text())["method_options"]
    assert read == done.method_options
    assert read["toy"] == {"spacing_mm": 2.0, "amplitude": 0.7, "seconds": 0.0}
    assert read["refine"]["iterations"] == [0, 0, 1, 1]
    assert read["refine"]["windows"] == [5, 19]
    assert "affine" not in read  # it came from a file
    engine = load_engine(config(pair, tmp_path / "b", method="gaussnewton", affine="affine"))
    options = engine.options(config(pair, tmp_path / "b", method="gaussnewton", affine="affine"))
    assert options["gaussnewton"]["iterations"] == list(ITERATIONS["mid"])
    assert options["gaussnewton"]["spacing_mm"] == 1.0
    assert options["affine"]["dof"] == 12


def test_affine_without_an_affine_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="without an affine does nothing"):
        plan(config(pair, tmp_path / "out", method="affine"))


def test_without_an_affine_none_is_looked_for(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(align, "_run", lambda method, *rest: toy_only(method, *rest))
    register(config(pair, tmp_path / "out", outputs="affine"))
    assert torch.equal(
        read_transform(tmp_path / "out" / "affine.mat").matrix, torch.eye(4, dtype=torch.float64)
    )


def toy_only(method: Any, pair: Any, start: Any, device: Any) -> Any:
    assert isinstance(method, phantoms.Toy)
    return method.predict(pair.fixed, pair.moving, start)


def test_method_affine_starts_from_a_file(pair: tuple[Path, Path], tmp_path: Path) -> None:
    near = torch.eye(4, dtype=torch.float64)
    near[:3, 3] = torch.tensor(phantoms.SHIFT_MM, dtype=torch.float64) + torch.tensor([3.0, -3.0, 2.0])
    write_transform(Affine(near), tmp_path / "near.mat")
    near_file = str(tmp_path / "near.mat")
    register(config(pair, tmp_path / "out", method="affine", affine=near_file, outputs="affine"))
    found = read_transform(tmp_path / "out" / "affine.mat")
    centre = torch.tensor([5.0, -8.0, 12.0], dtype=torch.float64)
    expected = centre + torch.tensor(phantoms.SHIFT_MM, dtype=torch.float64)
    assert float((found(centre) - expected).norm()) < 0.5


def test_a_whole_head_counts_against_a_deformation(tmp_path: Path) -> None:
    paths = phantoms.save_pair(tmp_path)
    heads = [read_image(path).volume for path in paths]
    torch.manual_seed(0)
    for image, path in zip(heads, paths, strict=True):  # no constant background
        write_image(image.with_data(image.data + 5.0 * torch.rand(image.data.shape)), path, overwrite=True)
    settings = {"options": {"amplitude": 0.0}, "outputs": "affine"}
    done = register(config(paths, tmp_path / "a", **settings))
    assert not done.qc.passed
    reasons = [text for text in done.qc.reasons if "more than the brain" in text]
    assert [name for name in ("fixed.nii.gz", "moving.nii.gz") for text in reasons if name in text] == [
        "fixed.nii.gz",
        "moving.nii.gz",
    ]
    assert set(reasons) <= set(done.warnings)
    mask = write_mask(tmp_path, paths[0], heads[0].data[0] > 0)
    done = register(config(paths, tmp_path / "b", fixed_mask=mask, **settings))
    left = [text for text in done.qc.reasons if "more than the brain" in text]
    assert len(left) == 1
    assert "moving.nii.gz" in left[0]
    done = register(config(paths, tmp_path / "c", method="affine", affine="affine", outputs="affine"))
    assert any("more than the brain" in text for text in done.warnings)
    assert not any("more than the brain" in text for text in done.qc.reasons)


def test_a_run_can_be_repeated_from_its_record(
    pair: tuple[Path, Path], tmp_path: Path, shift_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = register(config(pair, tmp_path / "a", affine=str(shift_file), options={"amplitude": 0.7}, seed=3))
    monkeypatch.chdir(pair[0].parent)
    (tmp_path / "a" / "start.mat").write_bytes(shift_file.read_bytes())
    again = resolve({"output": tmp_path / "b"}, tmp_path / "a" / "run.json")
    assert again.seed == 3
    assert again.options == {"amplitude": 0.7}
    assert register(again).outputs == first.outputs


def test_what_an_option_cannot_do_is_said(tmp_path: Path) -> None:
    pair = phantoms.save_pair(tmp_path)
    labels, _ = phantoms.save_labels(tmp_path)
    done = register(
        config(
            pair, tmp_path / "out", method="affine", affine="affine", refine="fast", fixed_labels=labels,
            outputs="affine",
        )
    )  # fmt: skip
    assert any("nothing to refine" in warning for warning in done.warnings)
    assert any("--moving-labels" in warning for warning in done.warnings)


def test_outputs_of_an_earlier_run_are_named(pair: tuple[Path, Path], tmp_path: Path) -> None:
    register(config(pair, tmp_path / "out", outputs="affine,transform"))
    done = register(config(pair, tmp_path / "out", outputs="affine", overwrite=True))
    (warning,) = (note for note in done.warnings if "earlier run" in note)
    assert warning.endswith("this one: transform.h5")


def test_voxels_without_a_number_do_not_make_a_head_a_brain(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = 100.0 + 10.0 * torch.rand(1, 40, 44, 36)
    whole[0, 20, 20, 20] = torch.nan
    head = sitk.GetImageFromArray(whole[0].numpy())
    head.SetSpacing((5.0, 5.0, 5.0))
    sitk.WriteImage(head, str(tmp_path / "head.nii.gz"))
    paths = (tmp_path / "head.nii.gz", tmp_path / "head.nii.gz")
    assert sum("more than the brain" in note for note in plan(config(paths, tmp_path / "o"))["warnings"]) == 2


def test_a_report_that_fails_is_a_warning(pair: tuple[Path, Path], tmp_path: Path) -> None:
    pages: list[Case] = []

    def reporter(path: Path, case: Case, *, overwrite: bool = False) -> None:
        pages.append(case)
        raise ValueError("no ink")

    done = register(config(pair, tmp_path / "out", outputs="report"), reporter=reporter)
    assert any("no ink" in warning for warning in done.warnings)
    assert (tmp_path / "out" / "run.json").exists()
    geometry = read_image(pair[0]).volume.geometry
    assert all(
        getattr(pages[0], name).geometry.same_grid(geometry)
        for name in ("fixed", "scanned", "before", "moved", "jacobian")
    )
    with pytest.raises(InternalError, match="no ink") as caught:
        register(config(pair, tmp_path / "strict", outputs="report", strict_report=True), reporter=reporter)
    assert caught.value.exit_code == 70
    assert not (tmp_path / "strict").exists()


def test_a_failing_write_leaves_nothing(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise WriteError("the disk is full")

    monkeypatch.setattr(outputs, "write_transform", full)
    with pytest.raises(WriteError):
        register(config(pair, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes.txt").write_text("mine")
    with pytest.raises(WriteError):
        register(config(pair, tmp_path / "kept"))
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["notes.txt"]
    before = {name: f"older {name}" for name in ("moved.nii.gz", "transform.h5", "run.json")}
    for name, text in before.items():
        (tmp_path / "kept" / name).write_text(text)
    with pytest.raises(WriteError):  # moved.nii.gz was written before the disk was full
        register(config(pair, tmp_path / "kept", overwrite=True))
    assert {p.name: p.read_text() for p in (tmp_path / "kept").iterdir()} == {**before, "notes.txt": "mine"}


def test_no_room_for_the_report_is_no_success(pair: tuple[Path, Path], tmp_path: Path) -> None:
    def reporter(path: Path, case: Case, *, overwrite: bool = False) -> None:
        raise WriteError("the disk is full")

    with pytest.raises(WriteError):
        register(config(pair, tmp_path / "out", outputs="report"), reporter=reporter)
    assert not (tmp_path / "out").exists()


def test_a_deformation_is_no_affine(pair: tuple[Path, Path], tmp_path: Path) -> None:
    register(config(pair, tmp_path / "out", outputs="transform"))
    with pytest.raises(DataError, match="holds a deformation"):
        register(config(pair, tmp_path / "b", affine=str(tmp_path / "out" / "transform.h5")))


def test_an_affine_that_mirrors_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    write_transform(Affine(mirror), tmp_path / "mirror.mat")
    with pytest.raises(DataError, match="mirrors"):
        register(config(pair, tmp_path / "out", affine=str(tmp_path / "mirror.mat")))


def test_refinement_has_its_own_grid_whatever_the_method_needs(
    pair: tuple[Path, Path], tmp_path: Path, shift_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phantoms.Toy, "divisor", 1)
    monkeypatch.setattr(phantoms.Toy, "spacing_mm", align.REFINE_MM)
    register(config(pair, tmp_path / "out", affine=str(shift_file), refine="1", outputs="affine"))


def test_a_field_of_nans_is_never_written(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no usable field"):
        register(config(pair, tmp_path / "out", method="notanumbertoy"))
    assert not (tmp_path / "out").exists()


def test_the_plan_checks_all_and_writes_nothing(pair: tuple[Path, Path], tmp_path: Path) -> None:
    planned = plan(config(pair, tmp_path / "out"))
    assert planned["outputs"] == [*STANDARD, "report.html", "run.json"]
    assert isinstance(planned["memory_mb"], int)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="Did you mean 'toy'"):
        plan(config(pair, tmp_path / "out", method="tooy"))


def test_an_option_of_the_method_is_checked(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'amplitude'"):
        plan(config(pair, tmp_path / "out", options={"amplitud": 1}))
    with pytest.raises(UsageError, match="option amplitude: Input should be a valid number"):
        plan(config(pair, tmp_path / "out", options={"amplitude": "big"}))
    with pytest.raises(UsageError, match="has no weights"):
        plan(config(pair, tmp_path / "out", weights="some"))


def test_labels_among_the_further_images_are_said(pair: tuple[Path, Path], tmp_path: Path) -> None:
    seg = pair[1].parent / "moving_seg.nii.gz"
    if not seg.exists():
        phantoms.save_labels(seg.parent)
    notes = plan(config(pair, tmp_path / "o", also=(seg,)))["warnings"]
    assert any("--moving-labels" in note for note in notes)
