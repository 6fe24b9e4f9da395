"""Fault 49 in a batch: the disk fills up in the middle of it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from test_batch import GOOD, batch, folder, outputs, write_manifest  # found by the line above

pytestmark = pytest.mark.faults
__all__ = ["folder"]  # the fixture


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB, too small for the outputs of all cases. Needs the right to mount."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=False)
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_49_a_disk_that_fills_up_stops_the_batch_and_the_resumed_one_is_whole(
    folder: Path, small_disk: Path
) -> None:
    write_manifest(folder / "full.csv", {**GOOD, "more": "toy", "most": "toy"})
    blocker = small_disk / "blocker"
    free = os.statvfs(small_disk)
    blocker.write_bytes(b"x" * int(free.f_bavail * free.f_bsize * 0.1))
    done = batch(folder, "full.csv", str(small_disk / "out"))
    assert done.returncode in (8, 74, 75), done.stderr
    assert "Traceback" not in done.stderr
    finished = {path.parent.name for path in (small_disk / "out").glob("*/run.json")}
    clean = outputs(folder / "clean")
    assert {
        n: d for n, d in outputs(small_disk / "out").items() if n.split("/")[0] in finished & GOOD.keys()
    } == {name: data for name, data in clean.items() if name.split("/")[0] in finished}
    assert not [p for p in (small_disk / "out").glob("*/*") if p.parent.name not in finished | {".work"}]
    blocker.unlink()
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    again = batch(folder, "full.csv", str(small_disk / "out"), "--resume")
    assert again.returncode == 0, again.stderr
    whole = outputs(small_disk / "out")
    assert {name: data for name, data in whole.items() if name in clean} == clean
