"""The short scripts of examples/: each runs on a toy (the benchmark and the template have their own tests)."""

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pipeline_phantoms as phantoms
import pytest
import test_pipeline_head_mask as heads
import torch
import yaml
from training_phantoms import recipe as toy_recipe
from training_phantoms import save_pack, toy_set

from neuroreg.checkpoints import read_metadata
from neuroreg.cli import run
from neuroreg.io.images import write_image
from neuroreg.io.tables import read_csv, read_groups
from neuroreg.io.transforms import write_transform
from neuroreg.pipeline import template as templates
from neuroreg.pipeline.evaluate import parse_ids
from neuroreg.training.run import build
from neuroreg.transforms import Affine, DisplacementField, resample
from neuroreg.volume import Geometry

ROOT = Path(__file__).parents[1]


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with weights/toy.yaml, runs/toy from six steps, and the packs."""
    monkeypatch.chdir(tmp_path)
    save_pack(toy_set(), tmp_path / "train.npz")
    save_pack(toy_set(2), tmp_path / "val.npz")
    (tmp_path / "weights").mkdir()
    contents = json.loads(toy_recipe().model_dump_json())
    (tmp_path / "weights" / "toy.yaml").write_text(yaml.safe_dump(contents), encoding="utf-8")
    (tmp_path / "weights" / "manifest.json").write_text('{"schema": 1, "defaults": {}, "models": []}')
    assert run(["train", "weights/toy.yaml", "--quiet", "--device", "cpu", "--threads", "1"]) == 0
    return tmp_path


Example = Callable[..., str]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Example:
    """Run ``examples/<name>`` in this process, as ``python <name> ...`` would in ``folder``; what it prints."""

    def started(name: str, folder: Path, *arguments: str) -> str:
        capsys.readouterr()
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        try:
            runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        except SystemExit as ended:
            if ended.code:
                raise
        return capsys.readouterr().out

    return started


def test_published_weights_are_found_by_name_and_measured(
    trained: Path, example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    example("publish_weights.py", trained, "weights/toy.yaml", "runs/toy")
    manifest = json.loads((trained / "weights" / "manifest.json").read_text())
    (record,) = manifest["models"]
    assert manifest["defaults"] == {"neuroreg": "toy"}
    assert record["method"] == "neuroreg"
    assert record["steps"] in (3, 6)
    assert record["budget"] == 6
    monkeypatch.setenv("NEUROREG_HOME", str(trained / "weights"))
    assert run(["models", "verify"]) == 0
    recipe = trained / "weights" / "toy.yaml"
    contents = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({**contents, "initial": "runs/not-here/best.safetensors"}))
    out = json.loads(example("measure_weights.py", trained, "weights/toy.safetensors", "val.npz", "2"))
    assert 0 < out["dice_affine"] < 1
    assert 0 < out["dice"] < 1
    assert out["pairs"] == 2
    assert out["folded_percent"] == 0


def test_what_is_left_to_train_is_listed_and_done(
    trained: Path, example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = yaml.safe_load((trained / "weights" / "toy.yaml").read_text())
    (trained / "examples" / "ablations").mkdir(parents=True)
    for name, folder in (("later", "weights"), ("less", "examples/ablations")):
        text = yaml.safe_dump({**contents, "name": name, "initial": "toy", "gpu": {"steps": 9}})
        (trained / folder / f"{name}.yaml").write_text(text)
    asked = ("train_all.py", trained, "data", "--device", "cpu", "--ablations")
    assert example(*asked, "--dry-run").splitlines() == [
        "toy: publish (no weights are published; runs/toy is finished)",
        "later: train 6 steps and publish (no weights are published; not begun)",
        "less: train 6 steps (not begun)",
    ]
    started: list[list[str]] = []

    def note(command: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
        started.append([Path(word).name for word in command[1:4]])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", note)
    example(*asked)
    publish, train = ["publish_weights.py", "{}.yaml", "{}"], ["-m", "neuroreg", "train"]
    assert started == [[w.format("toy") for w in publish], train, [w.format("later") for w in publish], train]
    monkeypatch.undo()
    example("publish_weights.py", trained, "weights/toy.yaml", "runs/toy")
    assert "toy: nothing to do (published)" in example(*asked, "--dry-run")


def test_a_reproduction_goes_on_where_it_was_and_its_page_needs_rows_alone(
    trained: Path, example: Example
) -> None:
    shutil.copy(trained / "val.npz", trained / "runs" / "ixi2mm-test.npz")
    contestants = {
        "toy": {"recipe": "weights/toy.yaml", "pairs": 1},
        "toy-few": {"recipe": "weights/toy.yaml", "slices": 4},
        "nothing": {"recipe": "weights/none.yaml"},
        "affine": {"method": "affine", "options": {"dof": 6}},
    }
    better = {"says": "Whole images are better", "paper": "yes", "order": ["toy", "toy-few"]}
    contents = {"methods": contestants, "papers": [{"title": "Toy", "claims": [better]}]}
    (trained / "claims.yaml").write_text(yaml.safe_dump(contents))
    page, step = trained / "page.md", read_metadata(trained / "runs" / "toy" / "best.safetensors")["step"]
    asked = ["reproduce.py", trained, "data", "out", "--claims", "claims.yaml", "--page", str(page)]
    told = example(*asked, "--pairs", "0", "--ixi-pairs", "2", "--threads", "1")
    assert "nothing: left out: no such recipe" in told
    assert sum(line.startswith("IXI ") for line in told.splitlines()) == 5
    text = page.read_text()
    assert "| 1 | Whole images are better | yes | IXI | 1 |" in text
    assert "- `nothing`: no such recipe" in text
    learned = sum(p.numel() for p in build(toy_recipe()).network.parameters())
    assert f"| `toy` | {step} | {learned:,} | 1 |" in text
    (trained / "runs" / "toy" / "best.safetensors").unlink()
    page.unlink()
    assert example(*asked, "--page-only") == f"{page}\n"
    assert page.read_text() == text
    assert "IXI 1 of" not in example(*asked, "--pairs", "0", "--ixi-pairs", "2", "--threads", "1")


@pytest.mark.slow
def test_the_affine_is_led_astray_by_neither_turns_nor_axis_orders(tmp_path: Path, example: Example) -> None:
    images, labels = phantoms.save_pair(tmp_path), phantoms.save_labels(tmp_path)
    lines = example(
        "affine_robustness.py", tmp_path, *map(str, (*images, *labels)), "--starts", "1"
    ).splitlines()
    *rows, summary = (json.loads(line) for line in lines)
    assert [row["change"] for row in rows[:3]] == ["none", "start 0", "RAS"]
    assert summary["runs"] == len(rows) - 1 == 8
    assert summary["failures"] == 0
    assert summary["apart_max_mm"] < 0.5
    assert rows[0]["dice"] > 0.85


def save_dataset(folder: Path) -> None:
    """Two labelled heads as the data folders have them."""
    images, labels = phantoms.save_pair(folder), phantoms.save_labels(folder)
    for kind, files in (("t1", images), ("seg", labels)):
        (folder / kind).mkdir()
        for name, file in zip("ab", files, strict=True):
            shutil.copy(file, folder / kind / f"{name}.nii.gz")
    (folder / "splits.csv").write_text("id,split\na,test\nb,test\n")


def test_affines_of_a_folder_are_measured_once_each_and_summed_up(tmp_path: Path, example: Example) -> None:
    save_dataset(tmp_path)
    asked = (
        "affine_heads.py",
        tmp_path,
        "rows.csv",
        "--ixi",
        str(tmp_path),
        "--pairs",
        "1",
        "--methods",
        "affine",
    )
    first = example(*asked).splitlines()
    assert [line.split()[:5] for line in first[:2]] == [
        ["ixi", "a", "b", turn, "affine"] for turn in ("0", "30")
    ]
    rows = (tmp_path / "rows.csv").read_text()
    assert all(float(line.split(",")[5]) > 0.85 for line in rows.splitlines()[1:])
    again = example(*asked).splitlines()
    assert again == first[2:]
    assert (tmp_path / "rows.csv").read_text() == rows
    assert "affine" in again[0]
    assert "1 pairs" in again[0]


@pytest.mark.slow
def test_left_and_right_are_learned_and_put_into_the_manifest(trained: Path, example: Example) -> None:
    said = example(
        "train_sides.py", trained, "nowhere", "--packed", "train.npz", "--varied", "0", "--check", "val.npz"
    )
    record = json.loads((trained / "weights/manifest.json").read_text())["models"][-1]
    assert (record["name"], record["kind"]) == ("sides-ixi2mm", "sides")
    assert record["numbers"]["val_found"].endswith("of 2")
    assert "sides-ixi2mm.safetensors" in said


def test_the_groups_of_the_example_are_mirrored_and_tissues_part() -> None:
    groups = {
        name: set(labels) for name, labels in read_groups(ROOT / "examples" / "muse-groups.csv").items()
    }
    sides = {name.removesuffix(" right") for name in groups if name.endswith(" right")}
    assert {f"{side} lobe" for side in ("Frontal", "Parietal", "Temporal", "Occipital", "Limbic")} < sides
    for name in sides - {"Deep grey matter"}:  # cortex and cerebellum: the left label is the next number
        assert {label + 1 for label in groups[f"{name} right"]} == groups[f"{name} left"]
    for names in (sides, {"Grey matter", "White matter", "Cerebrospinal fluid"}):
        found = [
            label
            for name in groups
            if name.rsplit(" ", 1)[0] in names or name in names
            for label in groups[name]
        ]
        assert len(found) == len(set(found))
    cortex = set().union(*(groups[f"{name} {side}"] for name in sides for side in ("right", "left"))) - {
        40,
        41,
    }
    assert groups["Grey matter"] == cortex | groups["Cerebellar vermis"]
    known = set().union(*groups.values())
    asked = set(parse_ids(str(ROOT / "examples" / "oasis-138-ids.txt")))
    assert asked - known == {42, 43, 63, 64, 69}  # rims, vessels and the optic chiasm belong to nothing here


SCALES = {"a1": 1.0, "a2": 1.02, "b1": 0.9, "b2": 0.9}
"""Two people scanned twice; each scan is the template so many times as large, about the world's origin"""


def about_origin(scale: float) -> Affine:
    return Affine(torch.diag(torch.tensor([scale, scale, scale, 1.0], dtype=torch.float64)))


@pytest.fixture
def cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> templates.Template:
    """Scans of SCALES in t1/, seg/ and splits.csv, made of a coarse template, which the examples then load."""
    fine = templates.load_template()
    image, labels, mask = (
        replace(volume, data=volume.data[:, ::4, ::4, ::4].contiguous(), geometry=volume.geometry.level(2))
        for volume in (fine.image, fine.labels, fine.mask)
    )
    coarse = templates.Template(image, labels, mask, fine.names)
    monkeypatch.setattr(templates, "load_template", lambda: coarse)
    for name in ("t1", "seg"):
        (tmp_path / name).mkdir()
    for scan, scale in SCALES.items():
        grid = Geometry((23, 25, 22), (7.0, 7.5, 8.0), (-77.0, -90.0, -84.0))
        for name, volume in (("t1", coarse.image), ("seg", coarse.labels)):
            moved = resample(volume, about_origin(1 / scale), grid)
            write_image(moved, tmp_path / name / f"{scan}.nii.gz")
    rows = "".join(f"{scan},retest,{scan[0]}\n" for scan in SCALES)
    (tmp_path / "splits.csv").write_text(f"id,split,person\n{rows}")
    return coarse


def leave_maps(command: list[str], template: templates.Template) -> None:
    """What a registration would: the true map, and an inverse that also swells person a to one side, b to the other."""
    scan, folder = Path(command[4]).name.split(".")[0], Path(command[command.index("-o") + 1])
    folder.mkdir()
    write_transform(about_origin(1 / SCALES[scan]), folder / "transform.h5")
    points = template.image.geometry.points()
    slope = 0.004 if scan[0] == "a" else -0.004  # of the determinant along x, per mm
    end = SCALES[scan] * points
    end[..., 0] += SCALES[scan] * slope * points[..., 0] ** 2 / 2
    u = (end - points).movedim(-1, 0).to(torch.float32)
    write_transform(DisplacementField(u, template.image.geometry), folder / "inverse.h5")


def test_two_scans_of_a_person_are_compared_once_each(
    cohort: templates.Template, tmp_path: Path, example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def register(command: list[str], **options: object) -> None:
        started.append(Path(command[4]).name)
        leave_maps(command, cohort)

    monkeypatch.setattr(subprocess, "run", register)
    asked = ("retest.py", tmp_path, ".", "out", "--method", "toy=--method affine")
    example(*asked)
    assert started == [f"{scan}.nii.gz" for scan in SCALES]
    page = (tmp_path / "out/RETEST.md").read_text()
    volumes, jacobians = (line.split(" | ") for line in page.splitlines() if line.startswith("| `toy`"))
    manual = next(line for line in page.splitlines() if line.startswith("| manual labels")).split(" | ")
    assert volumes[1] == "1.000"  # Dice: the true map
    assert volumes[2:8] == manual[2:8]
    assert volumes[8:] == ["1.00 |"]
    same, other, apart = map(float, jacobians[1:4])
    assert same == 1
    assert other < -0.9
    assert apart == pytest.approx(
        3 * np.log(1.02) / 2, abs=5e-4
    )  # of two people one has scans of unlike size
    rows = [row for row in read_csv(tmp_path / "out/regions.csv") if row["method"] == "toy"]
    assert {row["dice"] for row in rows} == {"1.0"}
    biggest = max(rows, key=lambda row: float(row["volume_mm3"]))
    size = float(biggest["volume_mm3"]) / 8**3 / np.mean([scale**3 for scale in SCALES.values()])
    assert size == pytest.approx(int((cohort.labels.data == int(biggest["id"])).sum()), rel=0.1)
    example(*asked)
    assert len(started) == 4
    assert (tmp_path / "out/RETEST.md").read_text() == page
    example(*asked[:-1], "toy=--method affine --dof 6")
    assert len(started) == 8


@pytest.mark.slow
def test_whole_heads_are_registered_with_the_brain_that_is_found(example: Example, tmp_path: Path) -> None:
    where = heads.grid((3.0, 2.6, 3.0), heads.PSR)
    scan, _ = heads.head(heads.pose(10.0), where)
    seg = resample(templates.load_template().labels, heads.pose(10.0), where)
    for name, volume in (("t1", scan), ("seg", seg)):
        (tmp_path / "ixi" / name).mkdir(parents=True)
        write_image(volume, tmp_path / "ixi" / name / "one.nii.gz")
    (tmp_path / "ixi" / "splits.csv").write_text("id,split\none,test\n", encoding="utf-8")
    words = (str(tmp_path), str(tmp_path / "out"), "--method", "affine", "--stripped", "0")
    assert "dice_found" in example("head_masks.py", tmp_path, *words)
    (row,) = read_csv(tmp_path / "out" / "rows.csv")
    assert row["id"] == "one"
    assert float(row["overlap"]) > 0.9
    assert float(row["covered"]) > 0.95
    assert float(row["dice_found"]) > float(row["dice_true"]) - 0.05


RATES = {
    "pairs": 40, "method": "toy", "outputs": "image", "cores": 2, "resume_s": 8.0,
    "journal_bytes": 700.0, "case_mb": 5.0, "stages_s": {"toy": 1.0, "total": 4.0},
    "ways": {
        "loop": {"wall_s": 200.0, "cpu_s": 300.0},
        "`neuroreg batch`": {"wall_s": 50.0, "cpu_s": 80.0},
    },
}  # fmt: skip


def test_the_page_of_throughput_does_its_sums() -> None:
    page = runpy.run_path(str(ROOT / "examples" / "throughput.py"))["page"]
    resident = [{"from": 0, "to": 50, "mb": 900.0}, {"from": 50, "to": 100, "mb": 905.0}]
    flat = {"cases": 100, "resident": resident, "wall_s": 200.0, "journal_s": 0.5}
    text = page({"command": "c", "throughput": RATES, "flat": flat})
    assert "| `neuroreg batch` | 50 | 80 | 2880 | 4.00 x |" in text  # 40 cases in 50 s
    assert "| 50 to 100 | 905 |" in text
    assert "0.50 s of 200 s (0.25 %)" in text
    assert "3.5 h, 50 GB of outputs" in text  # 10,000 x 50 s / 40; 10,000 x 5 MB
    assert "5.6 core hours, so 10 s" in text  # 2 CPU s a case, on 2,048 cores
    assert "1.5 CPU" in text  # three quarters of 2 s
    assert "33 min at the rate above" in text  # 8 s / 40 x 10,000


@pytest.mark.slow
def test_throughput_is_measured_on_a_toy(tmp_path: Path, example: Example) -> None:
    save_dataset(tmp_path)
    options = ("--pairs", "2", "--method", "affine", "--outputs", "affine", "--flat", "4")
    said = example("throughput.py", tmp_path, str(tmp_path), "out", *options, "--page", "page.md")
    assert "| `neuroreg batch --engine dask --workers 2` |" in said
    found = json.loads((tmp_path / "out" / "throughput.json").read_text())
    assert found["flat"]["exit_code"] == 0
    assert (tmp_path / "page.md").read_text().startswith("# Throughput")
