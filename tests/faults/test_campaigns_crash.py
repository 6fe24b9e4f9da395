"""The campaigns of kills, full disks, two writers and odd files, a few rounds each: the scripts must not rot."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ODD = ROOT.parent / "shared" / "data" / "odd"


def held(script: str, code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line with a campaign in a process of its own: it forks, which a process of tests cannot."""
    folder.chmod(0o755)
    lines = f"import sys; sys.path.insert(0, {str(ROOT / 'tests' / 'campaigns')!r})\n"
    lines += f"from pathlib import Path; import {script}; folder = Path({str(folder)!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 77), done.stdout + done.stderr
    return done


@pytest.mark.faults
def test_54_kills(tmp_path: Path) -> None:
    held("kills", "tally = kills.campaign(2, 1, folder)\nsys.exit(bool(tally.faults))", tmp_path)


@pytest.mark.faults
def test_49_full_disks(tmp_path: Path) -> None:
    code = """
import full_disk
trial = full_disk.Trial(folder, 1)
try:
    trial.at_limit("register", over=True)
    trial.at_limit("convert")
except OSError as error:
    print(error)
    sys.exit(77)
sys.exit(bool(trial.faults))
"""
    done = held("full_disk", code, tmp_path)
    if done.returncode == 77:
        pytest.skip(done.stdout)


@pytest.mark.faults
def test_57_two_writers(tmp_path: Path) -> None:
    held("two_writers", "tally = two_writers.campaign(3, 1, folder)\nsys.exit(bool(tally.faults))", tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not ODD.is_dir(), reason="../shared/data/odd is not here")
def test_odd_files(tmp_path: Path) -> None:
    code = (
        f"tally = odd_files.campaign(Path({str(ODD)!r}), folder, affines=False)\nsys.exit(bool(tally.faults))"
    )
    held("odd_files", code, tmp_path)
