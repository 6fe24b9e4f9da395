"""The benchmark: measuring a process, running and resuming a table, and the summary by hand."""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import save_file

from neuroreg.benchmark import BenchmarkConfig, Row, forget_failures, read_result, read_rows, run_benchmark
from neuroreg.benchmark_contenders import Contender, parse_contender, parse_contenders
from neuroreg.benchmark_external import METHODS as EXTERNAL
from neuroreg.benchmark_pairs import LabelledPair, common_ids, folder_pairs, manifest_pairs, with_fewer_slices
from neuroreg.benchmark_summary import summarise, to_markdown, to_record
from neuroreg.checkpoints import find
from neuroreg.cli import run
from neuroreg.errors import DataError, NoInputError, UsageError
from neuroreg.io.files import sha256
from neuroreg.io.images import read_image
from neuroreg.io.tables import read_csv, write_csv
from neuroreg.transforms import resample

SPACING = (2.5, 3.0, 2.75)
SHIFT = 2  # voxels along x between the two label maps
IDS = (3, 8)
OPTIONS = ("--method", "x")  # starts like a formula: the CSV writer marks such cells


def measured(folder: Path, program: list[str], *, timeout_s: float = 60) -> dict[str, float]:
    result = folder / "result.json"
    launcher = [sys.executable, "-m", "neuroreg.benchmark_process", str(result), str(timeout_s), "--"]
    subprocess.run([*launcher, *program], check=True)
    return json.loads(result.read_text())


def test_a_process_is_measured_without_its_caller(tmp_path: Path) -> None:
    # This process has torch loaded, several hundred MB; a bare interpreter takes about 10.
    ballast = "x = bytearray(200_000_000); x[::4096] = b'1' * len(x[::4096])"
    assert measured(tmp_path, [sys.executable, "-S", "-c", "pass"])["peak_mb"] < 60
    found = measured(tmp_path, [sys.executable, "-S", "-c", ballast])
    assert 200 < found["peak_mb"] < 280
    assert found["code"] == 0
    assert 0 < found["cpu_s"] <= found["wall_s"] + 0.5


def test_a_process_that_hangs_is_killed(tmp_path: Path) -> None:
    found = measured(tmp_path, [sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=1)
    assert found["code"] == -9
    assert found["wall_s"] < 20


def test_a_stopped_launcher_stops_its_program(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(60)"
    launcher = [sys.executable, "-m", "neuroreg.benchmark_process", str(tmp_path / "result.json"), "60", "--"]
    process = subprocess.Popen([*launcher, sys.executable, "-S", "-c", code, str(note)])
    while not note.exists() or not note.read_text():
        time.sleep(0.05)
    process.terminate()
    assert process.wait() == 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_a_caller_that_is_killed_outright_takes_its_program_with_it(tmp_path: Path) -> None:
    note, result = tmp_path / "pid", tmp_path / "result.json"
    code = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(60)"
    program = [sys.executable, "-S", "-c", code, str(note)]
    launcher = [sys.executable, "-m", "neuroreg.benchmark_process", str(result), "60", "--", *program]
    start = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    with subprocess.Popen([sys.executable, "-S", "-c", start, *launcher]) as caller:
        while not note.exists() or not note.read_text():
            time.sleep(0.05)
        caller.kill()
    deadline = time.monotonic() + 20
    while not result.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def write_labels(path: Path, shift: int) -> Path:
    """Two boxes, id 3 of 4 x 5 x 6 voxels and id 8 of 3 x 3 x 3, ``shift`` voxels further along x; id 5 in one map."""
    labels = np.zeros((20, 22, 24), dtype=np.int16)  # (z, y, x)
    labels[4:8, 5:10, 3 + shift : 9 + shift] = 3
    labels[12:15, 12:15, 12 + shift : 15 + shift] = 8
    if shift:
        labels[0, 0, 0] = 5
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing(SPACING)
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def pair(tmp_path: Path) -> LabelledPair:
    fixed, moving = write_labels(tmp_path / "f.nii.gz", 0), write_labels(tmp_path / "m.nii.gz", SHIFT)
    return LabelledPair("f", "m", fixed, moving, fixed, moving)


def copying(transform: Path) -> list[str]:
    """A program that leaves ``transform`` as its result and takes note of having run."""
    code = (
        "import pathlib, shutil, sys; out = pathlib.Path(sys.argv[2]); out.mkdir(); "
        "shutil.copy(sys.argv[1], out / 'affine.mat'); (out / 'stages.json').write_text('{\"deformable\": 1.5}')"
    )
    return [sys.executable, "-S", "-c", code, str(transform)]


@pytest.fixture
def stubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Programs by contender name: the right shift, half of it, and one that fails."""
    programs = {}
    for name, voxels in (("right", SHIFT), ("half", SHIFT / 2)):
        affine = sitk.AffineTransform(3)
        affine.SetTranslation((voxels * SPACING[0], 0.0, 0.0))
        sitk.WriteTransform(affine, str(tmp_path / f"{name}.mat"))
        programs[name] = copying(tmp_path / f"{name}.mat")
    programs["broken"] = [sys.executable, "-S", "-c", "raise SystemExit('no licence, no result')"]
    monkeypatch.setattr(
        Contender, "command", lambda self, fixed, moving, out, threads: [*programs[self.name], str(out)]
    )
    return programs


def box_assd(size: tuple[int, int, int], voxels: int) -> float:
    """ASSD of a box (z, y, x) and the same box ``voxels`` further along x, from all distances of their surfaces."""
    inside = np.argwhere(np.ones(size))
    surface = inside[((inside == 0) | (inside == np.array(size) - 1)).any(axis=1)] * np.array(SPACING[::-1])
    moved = surface + np.array([0, 0, voxels * SPACING[0]])
    apart = np.linalg.norm(surface[:, None] - moved[None], axis=2)
    return float(np.concatenate((apart.min(0), apart.min(1))).mean())


def test_rows_of_three_programs(pair: LabelledPair, stubs: dict[str, list[str]], tmp_path: Path) -> None:
    contenders = (Contender("right", ("--set", "a=1")), Contender("broken", None), Contender("half", None))
    config = BenchmarkConfig((pair,), contenders, tmp_path / "out")
    lines: list[str] = []
    rows, ids = run_benchmark(config, progress=lines.append)
    assert ids == IDS
    right, broken, half = rows
    assert (right.status, right.dice, right.folded_percent, right.ndv_percent) == ("ok", 1.0, 0.0, 0.0)
    # One voxel short along x: 5 of 6 planes of the large box overlap, 2 of 3 of the small one.
    assert half.dice == pytest.approx((5 / 6 + 2 / 3) / 2)
    assert half.dice_affine == half.dice  # this program leaves an affine alone
    assert half.gm_dice is None
    assert (half.deformable_s, half.affine_s) == (1.5, None)
    assert (half.stage_seconds, half.device) == ({"deformable": 1.5}, "cpu")
    assert right.assd_mm == 0
    assert half.assd_mm == pytest.approx((box_assd((4, 5, 6), 1) + box_assd((3, 3, 3), 1)) / 2)
    assert broken.status == "failed (1): no licence, no result"
    assert broken.dice is None
    assert len(lines) == 3
    assert not (tmp_path / "out/work/right/m_to_f").exists()
    assert read_rows(tmp_path / "out/rows.csv") == list(rows)
    assert (forget_failures(tmp_path / "out"), forget_failures(tmp_path)) == (1, 0)
    assert read_rows(tmp_path / "out/rows.csv") == [right, half]


def test_finished_rows_are_not_measured_again(
    pair: LabelledPair, stubs: dict[str, list[str]], tmp_path: Path
) -> None:
    config = BenchmarkConfig((pair,), (Contender("right", OPTIONS),), tmp_path / "out", ids=IDS, keep=True)
    first, _ = run_benchmark(config)
    assert (tmp_path / "out/work/right/m_to_f/out/affine.mat").exists()
    stubs["right"] = stubs["broken"]
    again = replace(config, contenders=(Contender("right", OPTIONS), Contender("half", None)))
    rows, _ = run_benchmark(again)
    assert rows[0] == first[0]
    assert rows[1].status == "ok"
    for other in (replace(config, threads=1), replace(config, ids=IDS[:1])):  # other measurements
        assert run_benchmark(other)[0][0].status.startswith("failed")
    assert run_benchmark(replace(config, ids=IDS[::-1]))[0] == first


def test_rows_of_an_older_benchmark_are_kept_without_the_new_figures(
    pair: LabelledPair, stubs: dict[str, list[str]], tmp_path: Path
) -> None:
    config = BenchmarkConfig((pair,), (Contender("half", None),), tmp_path / "out", ids=IDS)
    (row,), _ = run_benchmark(config)
    table = tmp_path / "out/rows.csv"
    (cells,) = read_csv(table)
    older = [name for name in cells if name not in ("assd_mm", "device", "stages", "regions")]
    write_csv(table, older, [cells], overwrite=True)
    stubs["half"] = stubs["broken"]
    (kept,), _ = run_benchmark(config)
    assert kept == replace(row, assd_mm=None, device="", stages="", regions="")
    lines = summarise([kept])
    assert (lines[0].assd_pairs, lines[0].assd_mm_mean, lines[0].stages) == (0, None, {})
    assert "1 results are of an older benchmark" in to_markdown(lines, IDS, 2, None)
    (mixed,) = summarise([kept, replace(row, fixed="g")])
    assert (mixed.assd_pairs, mixed.assd_mm_mean) == (1, row.assd_mm)
    with pytest.raises(DataError, match="the stages of half"):
        _ = replace(row, stages="[1").stage_seconds


def test_what_a_run_says_of_its_stages(
    pair: LabelledPair, stubs: dict[str, list[str]], tmp_path: Path
) -> None:
    said = {
        "device": "cuda:0",
        "seconds": {"read": 1.0, "affine": 2.0, "neuroreg": 3.0, "refine": 0.5, "total": 7},
    }
    code = (
        "import pathlib, shutil, sys; out = pathlib.Path(sys.argv[3]); out.mkdir(); "
        "shutil.copy(sys.argv[1], out / 'affine.mat'); (out / 'run.json').write_text(sys.argv[2])"
    )
    stubs["right"] = [sys.executable, "-S", "-c", code, str(tmp_path / "right.mat"), json.dumps(said)]
    config = BenchmarkConfig((pair,), (Contender("right", ()),), tmp_path / "out", ids=IDS)
    (row,), _ = run_benchmark(config)
    assert (row.stage_seconds, row.device) == (said["seconds"], "cuda:0")
    assert (row.affine_s, row.deformable_s) == (2.0, 3.5)
    assert read_rows(tmp_path / "out/rows.csv") == [row]
    table = to_markdown(summarise([row]), IDS, 2, None)
    assert "| method | read | affine | method | refine | total |" in table
    assert "| right | 1.00 | 2.00 | 3.00 | 0.50 | 7.00 |" in table


def test_other_weights_are_another_measurement(
    pair: LabelledPair, stubs: dict[str, list[str]], tmp_path: Path
) -> None:
    files = []
    for value in (1.0, 2.0):
        files.append(tmp_path / f"net{value:.0f}" / "best.safetensors")
        files[-1].parent.mkdir()
        metadata = {"method": "neuroreg", "config": "{}"}
        save_file({"a": torch.full((2,), value)}, files[-1], metadata=metadata)
    contender = parse_contender(f"neuroreg@{files[0]}")
    assert contender == Contender("net1", ("--method", "neuroreg", "--weights", str(files[0])))
    assert contender.shown == "--method neuroreg --weights best.safetensors"
    assert contender.weights() == sha256(files[0])[:12]
    stubs["net1"] = stubs["right"]
    config = BenchmarkConfig((pair,), (contender,), tmp_path / "out", ids=IDS)
    (first,), _ = run_benchmark(config)
    stubs["net1"] = stubs["half"]
    assert run_benchmark(config)[0] == (first,)
    shutil.copy(files[1], files[0])  # trained again
    (second,), _ = run_benchmark(config)
    assert first.weights != second.weights == sha256(files[1])[:12]
    assert (first.dice, second.dice) == (1.0, pytest.approx(0.75))


def test_the_weights_of_a_line() -> None:
    by_name = Contender("a", ("--weights", "voxelmorph-ixi2mm", "--method", "voxelmorph"))
    assert (
        by_name.weights() == parse_contender("voxelmorph").weights() == find("voxelmorph-ixi2mm").sha256[:12]
    )
    assert Contender("b", ("--refine", "fast")).weights() == parse_contender("neuroreg").weights()
    none = (parse_contender("gaussnewton"), parse_contender("greedy"), Contender("c", ("--weights", "no.pt")))
    assert [contender.weights() for contender in none] == ["", "", ""]
    assert parse_contender("fine=--set 'a=b@c'").arguments == ("--set", "a=b@c")
    with pytest.raises(UsageError, match="Unknown method 'none'"):
        parse_contender("none@x.safetensors")


def test_tissues_are_measured_when_asked_for(
    pair: LabelledPair, stubs: dict[str, list[str]], tmp_path: Path
) -> None:
    maps = []
    for name, shift in (("ft", 0), ("mt", SHIFT)):
        tissue = np.zeros((20, 22, 24), dtype=np.int16)
        tissue[4:8, 5:10, 3 + shift : 9 + shift] = 2
        tissue[12:15, 12:15, 12 + shift : 15 + shift] = 3
        image = sitk.GetImageFromArray(tissue)
        image.SetSpacing(SPACING)
        maps.append(tmp_path / f"{name}.nii.gz")
        sitk.WriteImage(image, str(maps[-1]))
    config = BenchmarkConfig((pair,), (Contender("half", None),), tmp_path / "out", ids=IDS)
    (without,), _ = run_benchmark(config)
    asked = replace(config, pairs=(replace(pair, tissues=(maps[0], maps[1])),))
    (row,), _ = run_benchmark(asked)
    assert (without.gm_dice, row.dice) == (None, without.dice)
    assert (row.csf_dice, row.csf_assd_mm) == (None, None)
    assert row.gm_dice == pytest.approx(5 / 6)
    assert row.wm_dice == pytest.approx(2 / 3)
    assert row.wm_assd_mm == pytest.approx(box_assd((3, 3, 3), 1))
    assert run_benchmark(asked)[0] == (row,)
    assert read_rows(tmp_path / "out/rows.csv") == [row]


def test_methods_take_turns_within_a_pair(
    pair: LabelledPair, stubs: dict[str, list[str]], tmp_path: Path
) -> None:
    second = replace(pair, fixed_id="m", moving_id="f", fixed_labels=pair.moving_labels)
    order: list[str] = []
    contenders = (Contender("right", None), Contender("half", None))
    config = BenchmarkConfig((pair, second), contenders, tmp_path / "out", ids=IDS)
    run_benchmark(config, progress=lambda line: order.append(line.rsplit(":", 1)[0]))
    assert order == ["right: m to f", "half: m to f", "right: f to m", "half: f to m"]


def test_the_command_writes_the_table(
    pair: LabelledPair, stubs: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "pairs.csv"
    manifest.write_text("fixed,moving,fixed_labels,moving_labels\nf.nii.gz,m.nii.gz,f.nii.gz,m.nii.gz\n")
    options = ["--method", "right=", "--method", "half=--refine 3", "--reference", "half"]
    out = tmp_path / "table"
    assert run(["benchmark", "--manifest", str(manifest), "-o", str(out), *options, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [line["method"] for line in record["methods"]] == ["right", "half"]
    assert record["methods"][0]["dice_mean"] == 1.0
    assert record["methods"][0]["dice_difference"] == pytest.approx(1 - 0.75)
    assert record["ids"] == list(IDS)
    assert "| right | 1 | 0 | 1.0000 ±  |" in (out / "summary.md").read_text()
    assert "- `half`: neuroreg register --refine 3" in (out / "summary.md").read_text()
    assert (out / "dice_seconds.svg").stat().st_size > 10_000
    assert (out / "dice_seconds.png").read_bytes().startswith(b"\x89PNG")
    assert run(["benchmark", "-o", str(out), *options]) == 2
    assert run(["benchmark", str(manifest), "--manifest", str(manifest), *options]) == 2
    assert run(["benchmark", str(manifest)]) == 2
    assert run(["benchmark", str(manifest), *options, "--reference", "other"]) == 2


def test_the_command_by_position_goes_to_a_folder_named_after_the_data(
    pair: LabelledPair,
    stubs: dict[str, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "my pairs.csv").write_text(
        "fixed,moving,fixed_labels,moving_labels\nf.nii.gz,m.nii.gz,f.nii.gz,m.nii.gz\n"
    )
    monkeypatch.chdir(tmp_path)
    stubs["affine"], stubs["greedy"] = stubs["right"], stubs["half"]
    assert run(["benchmark", "my pairs.csv", "--methods", "affine, greedy", "-m", "half=--a 1,2"]) == 0
    assert "| greedy | 1 | 0 | 0.7500 ±  |" in capsys.readouterr().out
    assert [row.method for row in read_rows(tmp_path / "benchmark-my pairs/rows.csv")] == [
        "affine",
        "greedy",
        "half",
    ]


def test_contenders_by_name_and_by_options() -> None:
    assert parse_contender("greedy") == Contender("greedy", None)
    assert parse_contender("gaussnewton").arguments == ("--method", "gaussnewton")
    assert parse_contender("fine=--method neuroreg --set 'a=b c'").arguments == (
        "--method",
        "neuroreg",
        "--set",
        "a=b c",
    )
    with pytest.raises(UsageError, match="cannot name"):
        parse_contender("../x=--method affine")
    with pytest.raises(UsageError, match="Did you mean 'greedy'"):
        parse_contender("gredy")
    command = parse_contender("gaussnewton").command(Path("f"), Path("m"), Path("o"), 2)
    assert command[1:6] == ["-m", "neuroreg", "register", "f", "m"]
    assert "benchmark_external" in parse_contender("ants-syn").command(Path("f"), Path("m"), Path("o"), 2)[2]


def test_a_list_of_methods_and_lines_with_options() -> None:
    found = parse_contenders("affine, greedy,syn", ["fine=--set plan=[[16,1],[8,2]]", "affine"])
    assert [each.name for each in found] == ["affine", "greedy", "syn", "fine"]
    assert found[3].arguments == ("--set", "plan=[[16,1],[8,2]]")
    assert (found[1].arguments, found[2].arguments) == (None, ("--method", "syn"))
    assert found[1].told.startswith("the other program by itself: Greedy, affine then deformable")
    assert found[2].told == "neuroreg register --method syn"
    for names, lines, said in (
        ("affine,fine=--set a=1,2", [], "names alone"),
        ("affine,,syn", [], "missing"),
        (None, [], "no method"),
        ("affine", ["affine=--dof 6"], "two lines of the table are called 'affine'"),
    ):
        with pytest.raises(UsageError, match=said):
            parse_contenders(names, lines)


def scans(folder: Path, rows: list[tuple[str, str, str]]) -> Path:
    for name in ("t1", "seg"):
        (folder / name).mkdir()
    for scan, _, _ in rows:
        (folder / "t1" / f"{scan}.nii.gz").touch()
        (folder / "seg" / f"{scan}.nii.gz").touch()
    table = "\n".join(",".join(row) for row in [("id", "split", "person"), *rows])
    (folder / "splits.csv").write_text(table + "\n")
    return folder


def test_pairs_of_a_folder(tmp_path: Path) -> None:
    rows = [("1", "bench", "1"), ("2", "bench", "2"), ("3", "bench", "3"), ("4", "bench", "4")]
    rows += [("5", "retest", "5"), ("6", "retest", "6"), ("15", "retest", "5"), ("16", "retest", "6")]
    folder = scans(tmp_path, rows)
    found = [(pair.fixed_id, pair.moving_id) for pair in folder_pairs(folder, "bench")]
    assert len(found) == len(set(found)) == 12
    assert {pair[0] for pair in found[:4]} == {pair[1] for pair in found[:4]} == {"1", "2", "3", "4"}
    twice = {(pair.fixed_id, pair.moving_id) for pair in folder_pairs(folder, "retest")}
    assert twice == {("5", "15"), ("15", "5"), ("6", "16"), ("16", "6")}
    with pytest.raises(DataError, match="0 scans"):
        folder_pairs(folder, "train")


def test_a_moving_image_of_few_slices(pair: LabelledPair, tmp_path: Path) -> None:
    """The voxel axis that runs from front to back is the one that loses slices, whatever its place."""
    data = np.random.default_rng(0).uniform(1, 9, (16, 17, 25)).astype(np.float32)  # (z, y, x)
    image = sitk.GetImageFromArray(data)
    image.SetSpacing((4.0, 4.0, 4.0))
    # voxel x runs to the front, y up, z left
    image.SetDirection((0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    sitk.WriteImage(image, str(tmp_path / "head.nii.gz"))
    pair = replace(pair, moving=tmp_path / "head.nii.gz")
    few = with_fewer_slices(pair, tmp_path / "images", keep=4)
    assert (few.fixed, few.moving_id, few.moving_labels) == (pair.fixed, pair.moving_id, pair.moving_labels)
    before, after = (read_image(path).volume for path in (pair.moving, few.moving))
    assert after.geometry.same_grid(before.geometry)
    assert torch.allclose(after.data[..., ::8], before.data[..., ::8])
    middle = (before.data[..., 0] + before.data[..., 8]) / 2
    assert torch.allclose(after.data[..., 4], middle)
    written = few.moving.stat().st_mtime_ns
    assert with_fewer_slices(pair, tmp_path / "images", keep=4).moving.stat().st_mtime_ns == written


def test_manifests_are_checked(pair: LabelledPair, tmp_path: Path) -> None:
    manifest = tmp_path / "pairs.csv"
    manifest.write_text("fixed,moving,fixed_labels\nf.nii.gz,m.nii.gz,f.nii.gz\n")
    with pytest.raises(DataError, match="moving_labels"):
        manifest_pairs(manifest)
    manifest.write_text("fixed,moving,fixed_labels,moving_labels\nf.nii.gz,gone.nii.gz,f.nii.gz,m.nii.gz\n")
    with pytest.raises(NoInputError):
        manifest_pairs(manifest)
    manifest.write_text("fixed,moving,fixed_labels,moving_labels\n")
    with pytest.raises(DataError, match="no pairs"):
        manifest_pairs(manifest)
    assert common_ids((pair,)) == IDS


def test_files_of_one_name_in_several_folders_are_told_apart(pair: LabelledPair, tmp_path: Path) -> None:
    rows = ["fixed,moving,fixed_labels,moving_labels"]
    for scan in ("s1/anat", "s2/anat", "s1/again"):
        (tmp_path / scan).mkdir(parents=True)
        shutil.copy(pair.fixed, tmp_path / scan / "T1w.nii.gz")
        rows.append(f"f.nii.gz,{scan}/T1w.nii.gz,f.nii.gz,m.nii.gz")
    (tmp_path / "pairs.csv").write_text("\n".join([*rows, rows[1]]))
    found = [(each.fixed_id, each.moving_id) for each in manifest_pairs(tmp_path / "pairs.csv")]
    assert found == [("f", "s1-anat-T1w"), ("f", "s2-anat-T1w"), ("f", "again-T1w"), ("f", "s1-anat-T1w")]


def test_the_summary_by_hand() -> None:
    reference = [
        Row("base", "", str(k), "x", 2, "ok", dice=0.5 + k / 100, wall_s=10.0 + k, cpu_s=8.0)
        for k in range(6)
    ]
    better = [
        Row(
            "ours",
            "-a",
            str(k),
            "x",
            2,
            "ok",
            dice=0.5 + k / 100 + (k + 1) / 1000,
            wall_s=2.0,
            cpu_s=4.0,
            peak_mb=100.0 + k,
        )
        for k in range(6)
    ]
    failed = [Row("ours", "-a", "9", "x", 2, "failed (1): boom")]
    base, ours = summarise([*reference, *better, *failed], reference="base")
    assert (ours.pairs, ours.failures) == (7, 1)
    assert base.dice_mean == pytest.approx(0.525)
    assert base.dice_sd == pytest.approx(np.std([0.5, 0.51, 0.52, 0.53, 0.54, 0.55], ddof=1))
    assert ours.dice_difference == pytest.approx(0.0035)
    assert ours.p_holm == pytest.approx(2 / 2**6)  # six wins of six
    assert ours.speed_up == pytest.approx(6.25)  # the median of 5, 5.5, ..., 7.5
    assert ours.cpu_saving == 2.0
    assert ours.peak_mb == 105.0
    assert base.folded_percent_mean is None
    # Ranked 10, 11, ..., 15: a quarter of the way from the first to the last is 11.25.
    assert base.wall_quartiles == pytest.approx((11.25, 12.5, 13.75))
    assert base.dice_quartiles == pytest.approx((0.5125, 0.525, 0.5375))
    table = to_markdown((base, ours), IDS, 2, "base")
    assert table.splitlines()[3].startswith("| ours | 7 | 1 | 0.5285 ± 0.")
    assert "2 regions" in table


def blobs(path: Path, shift: float) -> Path:
    """A lopsided smooth head on an oblique anisotropic grid."""
    z, y, x = np.meshgrid(*(np.arange(n, dtype=float) for n in (30, 34, 28)), indexing="ij")
    x = x - shift
    data = 900 * np.exp(-(((x - 13) / 6) ** 2) - ((y - 17) / 9) ** 2 - ((z - 14) / 7) ** 2)
    data += 600 * np.exp(-(((x - 10) / 2) ** 2) - ((y - 23) / 3) ** 2 - ((z - 17) / 3) ** 2)
    data += 300 * np.exp(-(((x - 17) / 3) ** 2) - ((y - 11) / 2) ** 2 - ((z - 10) / 3) ** 2)
    image = sitk.GetImageFromArray(data.astype(np.float32))
    image.SetSpacing(SPACING)
    image.SetOrigin((-30.0, 12.0, 5.0))
    image.SetDirection((0.8, 0.6, 0.0, 0.6, -0.8, 0.0, 0.0, 0.0, 1.0))
    sitk.WriteImage(image, str(path))
    return path


@pytest.mark.oracle
@pytest.mark.parametrize("name", sorted(EXTERNAL))
def test_what_other_programs_leave_reads_as_our_convention(name: str, tmp_path: Path) -> None:
    """p -> affine(p + u(p)) through what the worker left gives the program's own moved image."""
    pytest.importorskip("picsl_greedy" if "greedy" in name else "ants")
    fixed, moving = blobs(tmp_path / "a fixed.nii.gz", 0.0), blobs(tmp_path / "a moving.nii.gz", 2.3)
    out = tmp_path / "out"
    worker = [sys.executable, "-m", "neuroreg.benchmark_external", name, str(fixed), str(moving), str(out)]
    subprocess.run([*worker, "--threads", "1"], check=True, stdout=subprocess.DEVNULL)
    grid, source = read_image(fixed).volume, read_image(moving).volume
    transform = read_result(out)
    ours = resample(source, transform, grid.geometry).data[0].numpy()
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "moved.nii.gz")))
    # At the rim of the moving image Greedy fades to 0, where ITK and we repeat the border for half a voxel.
    core = torch.zeros_like(source.data)
    core[:, 1:-1, 1:-1, 1:-1] = 1.0
    inside = resample(source.with_data(core), transform, grid.geometry).data[0].numpy() > 0.999
    assert inside.mean() > 0.3
    assert np.abs(ours - theirs)[inside].max() < 2.0  # of 900
    assert np.corrcoef(theirs[inside], grid.data[0].numpy()[inside])[0, 1] > 0.95


OASIS = Path(__file__).resolve().parents[1] / "../shared/data/oasis"
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.slow
@pytest.mark.skipif(not OASIS.is_dir(), reason="../shared/data/oasis is not here")
def test_the_written_ids_are_those_common_to_all_scans() -> None:
    from neuroreg.pipeline.evaluate import parse_ids

    pairs = folder_pairs(OASIS, "bench") + folder_pairs(OASIS, "retest")
    assert len(folder_pairs(OASIS, "bench")) == 30
    assert common_ids(pairs) == tuple(sorted(parse_ids(str(EXAMPLES / "oasis-138-ids.txt"))))


@pytest.mark.slow
@pytest.mark.skipif(not OASIS.is_dir(), reason="../shared/data/oasis is not here")
def test_the_example_makes_a_table(tmp_path: Path) -> None:
    out = tmp_path / "table"
    script = [shutil.which("bash") or "bash", str(EXAMPLES / "benchmark_oasis.sh"), str(OASIS), str(out)]
    subprocess.run(
        [*script, "--pairs", "1"], check=True, env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
    )
    rows = {row.method: row for row in read_rows(out / "rows.csv")}
    assert rows["greedy"].status == "ok"
    assert (out / "summary.md").exists()


def test_pairs_without_any_region_have_no_part_in_comparisons(pair: LabelledPair) -> None:
    def row(method: str, fixed: str, dice: float) -> Row:
        return Row(method, "", fixed, "m", 1, "ok", dice=dice, wall_s=1.0, cpu_s=1.0)

    rows = [row("a", "f", math.nan), row("a", "g", 0.5), row("b", "f", 0.9), row("b", "g", 0.75)]
    lines = {line.method: line for line in summarise(rows, reference="a")}
    assert lines["b"].dice_difference == pytest.approx(0.25)
    json.dumps(to_record(list(lines.values()), IDS, 1, "a"), allow_nan=False)
