"""neuroreg bids: the levels, the labels, and what the validators of BIDS say of its derivatives."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bids_phantoms import MANY, PLAIN, empty_dataset, phantom_dataset, read_once

from neuroreg.cli import bids, run
from neuroreg.cli.bids import spread
from neuroreg.cohort import bids_sidecars, process
from neuroreg.cohort.case import Cohort
from neuroreg.methods import METHODS
from neuroreg.registry import Entry

TESTS = Path(__file__).parent


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that register nothing: the image they leave cannot be read. The dataset is read once."""
    monkeypatch.setattr(process, "PROGRAM", (sys.executable, "-S", "-E", str(TESTS / "fake_worker.py")))
    monkeypatch.setitem(METHODS, "toy", Entry("pipeline_phantoms:Toy", "for tests"))
    read_once(monkeypatch)
    monkeypatch.setattr(bids_sidecars, "skull_stripped", lambda path: False)


@pytest.mark.usefixtures("pretend")
def test_participants_then_the_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = empty_dataset(tmp_path / "raw", MANY)
    out = raw / "derivatives" / "neuroreg"
    words = ["bids", str(raw), str(out), "participant", "--to", "first-session", "--method", "toy"]
    words += ["--outputs", "image"]
    assert run([*words, "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("4 cases, 4 to make, about")
    assert not out.parent.exists(), "a dry run makes nothing, a real one the folder derivatives"
    assert run([*words, "--shard", "1/2", "--strict-qc"]) == 0
    assert run([*words, "--shard", "2/2", "-q"]) == 0
    assert not (out / "summary.json").exists()
    assert run(words) == 73
    assert "4 of 4 cases are there already" in capsys.readouterr().err

    group = ["bids", str(raw), str(out), "group"]
    assert run([*group, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["status"], said["counts"]["ok"], said["faults"]) == ("ok", 4, [])
    assert len(json.loads((out / "summary.json").read_text())["cases"]) == 4
    assert (out / "group.html").is_file()

    moved = out / "sub-02/ses-2/anat/sub-02_ses-2_rec-norm_space-ses1_T1w.nii.gz"
    moved.write_bytes(b"damaged")
    assert run([*group, "-q"]) == 8
    assert run([*words, "--resume", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert said["command"] == "bids"
    assert said["made_again"] == {
        "sub-02_ses-2_rec-norm_T1w-to-ses1": "moved.nii.gz is not what the run left"
    }
    assert run(group) == 0
    assert capsys.readouterr().out == f"{out / 'group.html'}\n"


@pytest.mark.usefixtures("pretend")
def test_labels_as_every_bids_app_takes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = empty_dataset(tmp_path / "raw", MANY)
    words = ["bids", str(raw), str(tmp_path / "out"), "participant", "--method", "toy", "--json", "--dry-run"]
    for labels, ids in (
        (["--participant_label", "02", "sub-A3", "--session-label", "1"], ["sub-02_ses-1", "sub-A3_ses-1"]),
        (["--participant-label=01", "--run-label", "02", "--space", "x"], ["sub-01_ses-1_run-2", "..."]),
    ):
        assert run([*words, *labels]) == 0
        found = json.loads(capsys.readouterr().out)["ids"]
        assert len(found) == 2
        assert all(name.startswith(start) for name, start in zip(found, ids, strict=True) if start != "...")
    assert all(name.endswith("_T1w-to-x") for name in found)


@pytest.mark.usefixtures("pretend")
def test_brains_are_found_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohorts: list[Cohort] = []
    monkeypatch.setattr(bids, "execute", lambda cohort, *given, **more: cohorts.append(cohort))
    raw = empty_dataset(tmp_path / "raw", PLAIN)
    words = ["bids", str(raw), str(tmp_path / "out"), "participant", "--method", "affine"]
    for more in ([], ["--find-brain"], ["--no-find-brain"]):
        assert run([*words, *more]) == 0
    assert [{case.config.find_brain for case in one.cases} for one in cohorts] == [{True}, {True}, {False}]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--run-label", "one"], 2, "a run is a whole number, got 'one'"),
        (["--participant-label", "03"], 66, "no T1w image of sub-03"),
        (["--space", "a-b"], 2, "a space is called by letters and digits alone"),
        (["--to", "first-session"], 66, "no T1w image of a later session; raw; without sessions"),
        (["--to", "gone.nii.gz"], 66, "no such file; gone.nii.gz"),
        (["--resume", "--overwrite"], 2, "--resume keeps what is done"),
        (["03"], 2, "unexpected extra argument"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    words: list[str], code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = empty_dataset(tmp_path / "raw", PLAIN)
    assert run(["bids", str(raw), str(tmp_path / "out"), "participant", "--method", "affine", *words]) == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_group_level_needs_participants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = empty_dataset(tmp_path / "raw", PLAIN)
    assert run(["bids", str(raw), str(tmp_path / "out"), "group"]) == 66
    assert "run the participant level first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("in out participant --participant-label 01 02", "--participant-label 01 --participant-label 02"),
        (
            "in out participant --run_label 1 2 -q --jobs 2",
            "--run_label 1 --run_label 2 -q --jobs 2",
        ),
        ("--participant-label 01 in out participant", None),
        ("in out participant --set a=1 b=2", None),
        ("in out participant --run-label 1 --run-label 2", None),
    ],
)
def test_several_words_after_a_label_option(words: str, expected: str | None) -> None:
    found = spread(words.split())
    assert found == (words.split() if expected is None else ["in", "out", "participant", *expected.split()])


def validators() -> list[list[str]]:
    """Every validator there is: NEUROREG_BIDS_VALIDATOR holds commands, one a line."""
    named = [shlex.split(line) for line in os.environ.get("NEUROREG_BIDS_VALIDATOR", "").splitlines() if line]
    present = (shutil.which(name) for name in ("bids-validator", "bids-validator-deno"))
    return named or [[path] for path in present if path is not None]


@pytest.mark.slow
@pytest.mark.skipif(not validators(), reason="no bids-validator on PATH or in NEUROREG_BIDS_VALIDATOR")
@pytest.mark.parametrize(
    ("names", "to", "out"),
    [
        (MANY, "first-session", "out"),
        (MANY[:3], "fixed.nii.gz", "out"),
        (PLAIN, "template", "raw/derivatives/neuroreg"),
    ],
    ids=["sessions", "image", "template"],
)
def test_the_validators_accept_the_derivatives(
    names: tuple[str, ...], to: str, out: str, tmp_path: Path
) -> None:
    raw = phantom_dataset(tmp_path / "raw", names)
    (raw / "derivatives").mkdir()
    for level in ("participant", "group"):
        words = ["bids", "raw", out, level, "--to", to, "--method", "affine", "--outputs", "standard"]
        done = subprocess.run(
            [sys.executable, str(TESTS / "toy_cli.py"), *words],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    for command in validators():
        for dataset in (raw, tmp_path / out):
            judged = subprocess.run(
                [*command, str(dataset), "--ignoreWarnings"], capture_output=True, text=True, check=False
            )
            assert judged.returncode == 0, judged.stdout + judged.stderr
