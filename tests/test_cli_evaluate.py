"""neuroreg evaluate from the command line: its three modes, exit codes, what it refuses to ignore."""

import csv
import json
from pathlib import Path

import pytest
from evaluate_phantoms import bar_dice, bars, save_labels, save_pairs

from neuroreg.cli import run


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "expected two label maps, FIXED and MOVED, got 0"),
        (["a.nii"], "expected two label maps, FIXED and MOVED, got 1"),
        (["a.nii", "b.nii", "c.nii"], "got 3"),
        (["--pairs", "t.csv"], "--pairs needs a folder"),
        (["--pairs", "t.csv", "-o", "out", "a.nii"], "--pairs names all the files"),
        (
            ["--pairs", "t.csv", "-o", "out", "--transform", "x.h5"],
            "--transform goes with one pair, not with --pairs",
        ),
        (["--compare"], "--compare needs tables"),
        (
            ["--compare", "a.csv", "--tolerance", "2"],
            "--tolerance goes with one pair and --pairs, not with --compare",
        ),
        (["a.nii", "b.nii", "--plot", "x.svg"], "--plot goes with --compare, not with one pair"),
        (["--compare", "a.csv", "--figures", "dicee"], "'dicee' is no figure"),
        (["--compare", "a.csv", "--by", "lobe"], "'lobe' after --by is unknown"),
        (["a.nii", "b.nii", "--tolerance", "-1"], "--tolerance"),
    ],
)
def test_what_cannot_be_meant_is_2(words: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert part in err
    assert err.count("\n") == 1


def test_one_pair_with_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fixed, moved = save_labels(tmp_path / "f.nii", bars()), save_labels(tmp_path / "m.nii", bars(1))
    (tmp_path / "g.csv").write_text("label,group\n7,both\n8,both\n")
    for name, x in (("a", 1), ("b", -2)):
        (tmp_path / f"{name}.csv").write_text(f"name,x,y,z\np,{x},0,0\n")
    words = ["eval", str(fixed), str(moved), "--groups", str(tmp_path / "g.csv"), "--tolerance", "0"]
    words += ["--fixed-landmarks", str(tmp_path / "a.csv"), "--moved-landmarks", str(tmp_path / "b.csv")]
    assert run([*words, "--json", "--threads", "1"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["landmarks"]["mean_mm"] == 3.0
    assert [roi["kind"] for roi in record["rois"]] == ["roi", "roi", "group", "group mean"]
    assert {roi["tolerance_mm"] for roi in record["rois"]} == {0.0}
    assert run(words) == 0
    assert "landmarks_mean_mm\t3" in capsys.readouterr().out


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return save_pairs(tmp_path, {"old": (1, 2, 3), "new": (0, 1, 1)})


def test_a_table_and_then_its_methods(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, groups = tmp_path / "out", tmp_path / "g.csv"
    groups.write_text("label,group\n7,both\n8,both\n")
    assert run(["evaluate", "--pairs", str(pairs), "-o", str(out), "--groups", str(groups)]) == 0
    shown = capsys.readouterr().out
    assert (
        f"old\tmean_dice\t3\t{sum((bar_dice(7, s) + bar_dice(8, s)) / 2 for s in (1, 2, 3)) / 3:.4g}" in shown
    )
    assert {path.name for path in out.iterdir()} == {
        "rois.csv", "pairs.csv", "summary.json", "summary.md",
        "boxplot-dice.svg", "boxplot-dice-groups.svg", "boxplot-hd95.svg", "boxplot-hd95-groups.svg",
    }  # fmt: skip
    assert all(str(out / name) in shown for name in ("rois.csv", "summary.json"))
    assert run(["evaluate", "--pairs", str(pairs), "-o", str(out), "--groups", str(groups)]) == 73
    capsys.readouterr()
    words = ["evaluate", "--compare", str(out / "rois.csv"), "--csv", str(tmp_path / "t.csv")]
    assert run([*words, "--plot", str(tmp_path / "p.png"), "--json"]) == 0
    streams = capsys.readouterr()
    record = json.loads(streams.out)
    assert (record["reference"], record["methods"]) == ("old", ["old", "new"])
    assert "only 3 pairs" in streams.err
    with (tmp_path / "t.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["level"] for row in rows] == ["mean", "roi", "roi", "group"]
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert run(["evaluate", "--compare", str(out / "rois.csv"), "--by", "mean,group-mean"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[1] for line in lines] == ["of", "mean of 2 regions", "both"]


def test_a_pair_that_fails_is_8_and_the_rest_is_there(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "seg" / "moved3.nii").write_bytes(b"no image")
    out = tmp_path / "out"
    assert run(["evaluate", "--pairs", str(pairs), "-o", str(out), "--json"]) == 8
    streams = capsys.readouterr()
    record = json.loads(streams.out)
    assert (record["status"], [case["id"] for case in record["failed"]]) == ("error", ["s2"])
    assert "1 of 6 pairs failed" in streams.err
    assert (out / "boxplot-dice.svg").exists()
    for path in (tmp_path / "seg").iterdir():
        path.write_bytes(b"no image")
    assert run(["evaluate", "--pairs", str(pairs), "-o", str(out), "--overwrite"]) == 8
    assert "boxplot-dice.svg was not drawn" in capsys.readouterr().err
    assert json.loads((out / "summary.json").read_text())["methods"] == []
