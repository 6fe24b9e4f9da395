"""The fault catalogue, writing: a final path holds the old file or the whole new one, whatever happens."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from neuroreg.errors import BusyError, CannotCreateError, NeuroregError, UsageError, WriteError
from neuroreg.io.files import atomic_write, output_lock, remove_orphans
from neuroreg.io.images import read_image, read_labels, write_image
from neuroreg.io.transforms import read_transform, write_transform
from neuroreg.transforms import Affine, Chain, DisplacementField
from neuroreg.volume import Geometry, Volume

pytestmark = pytest.mark.faults

SIGKILLS = int(os.environ.get("NEUROREG_SIGKILLS", "32"))

GRID = Geometry((33, 30, 27), (2.0, 1.7, 2.4), (-31.0, 22.5, -17.25))
IMAGE = Volume(torch.rand((1, *GRID.shape), generator=torch.Generator().manual_seed(0)) * 300, GRID)
FIELD = DisplacementField(torch.randn((3, *GRID.shape), generator=torch.Generator().manual_seed(1)), GRID)
MATRIX = torch.eye(4, dtype=torch.float64)
MATRIX[0, 3] = 4.0
CHAIN = Chain((FIELD, Affine(MATRIX)))

WRITERS: dict[str, Callable[[Path], object]] = {
    "a.nii": lambda path: write_image(IMAGE, path, overwrite=True),
    "a.nii.gz": lambda path: write_image(IMAGE, path, overwrite=True),
    "a.mha": lambda path: write_image(IMAGE, path, overwrite=True),
    "a.nrrd": lambda path: write_image(IMAGE, path, overwrite=True),
    "f.nii.gz": lambda path: write_transform(FIELD, path, overwrite=True),
    "t.h5": lambda path: write_transform(CHAIN, path, overwrite=True),
    "t.mat": lambda path: write_transform(Affine(MATRIX), path, overwrite=True),
    "t.tfm": lambda path: write_transform(Affine(MATRIX), path, overwrite=True),
}


def limited(limit: int, act: Callable[[], object]) -> NeuroregError | None:
    """What ``act`` raises when no file may grow beyond ``limit`` bytes: as a full disk, without filling one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        act()
    except NeuroregError as error:
        return error
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    return None


@pytest.mark.parametrize("name", WRITERS)
def test_49_disk_full_at_many_byte_limits(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    whole = path.read_bytes()
    path.write_bytes(b"the old file")
    generator = np.random.default_rng(3)
    for limit in (0, 1, 347, len(whole) - 1, *generator.integers(0, len(whole), 16).tolist()):
        error = limited(min(limit, len(whole) - 1), lambda: WRITERS[name](path))
        assert isinstance(error, WriteError)
        assert error.exit_code == 74
        assert path.read_bytes() == b"the old file"
        assert os.listdir(tmp_path) == [name]
    assert limited(len(whole), lambda: WRITERS[name](path)) is None
    assert path.read_bytes() == whole


def test_50_missing_or_read_only_folder(tmp_path: Path) -> None:
    for folder in (tmp_path / "none", Path("/proc/self")):
        with pytest.raises(CannotCreateError) as caught:
            write_image(IMAGE, folder / "a.nii.gz")
        assert caught.value.exit_code == 73
    (tmp_path / "file").touch()
    with pytest.raises(CannotCreateError):
        write_image(IMAGE, tmp_path / "file" / "a.nii.gz")
    (tmp_path / "a.nii").mkdir()
    with pytest.raises(CannotCreateError, match="folder"):
        write_image(IMAGE, tmp_path / "a.nii", overwrite=True)
    assert list((tmp_path / "a.nii").iterdir()) == []


def test_51_an_existing_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"old")
    with pytest.raises(CannotCreateError, match="--overwrite") as caught:
        write_image(IMAGE, path)
    assert caught.value.exit_code == 73
    assert path.read_bytes() == b"old"
    write_image(IMAGE, path, overwrite=True)
    assert torch.equal(read_image(path).volume.data, IMAGE.data)


KILLS = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import numpy as np
import torch
import SimpleITK  # not once in every child
torch.set_num_threads(1)
import test_writing as t

def forked(act):  # a process of its own, made in a millisecond because all is imported
    child = os.fork()
    if child == 0:
        try:
            act()
        finally:
            os._exit(0)
    return child

def write_for_ever():
    while True:
        t.WRITERS[name](path)

folder, generator, orphans = Path({folder!r}), np.random.default_rng(4), 0
for name in t.WRITERS:
    os.waitpid(forked(lambda: t.WRITERS[name](folder / name)), 0)
whole = {{name: (folder / name).read_bytes() for name in t.WRITERS}}
for number in range({count}):
    name = list(t.WRITERS)[number % len(t.WRITERS)]
    path, before = folder / name, [None, b"the old file"][number // len(t.WRITERS) % 2]
    path.unlink(missing_ok=True)
    if before is not None:
        path.write_bytes(before)
    child = forked(write_for_ever)
    time.sleep(generator.uniform(0.0, 0.08))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert (path.read_bytes() if path.exists() else None) in (before, whole[name]), (number, name)
    orphans += len(set(os.listdir(folder)) - set(t.WRITERS))
    os.waitpid(forked(lambda: t.WRITERS[name](path)), 0)  # the next start clears what the dead left
    assert path.read_bytes() == whole[name], (number, name)
    assert sorted(set(os.listdir(folder)) - set(t.WRITERS)) == [], (number, name)
print({count}, "killed,", orphans, "temporary files left and cleared")
assert orphans > {count} // 5  # many were hit while they wrote
"""


def test_54_sigkill_at_random_moments(tmp_path: Path) -> None:
    code = KILLS.format(tests=str(Path(__file__).parent), folder=str(tmp_path), count=SIGKILLS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stderr


def test_54_orphans_of_the_living_are_kept(tmp_path: Path) -> None:
    def check(temporary: Path) -> None:
        temporary.write_bytes(b"new")
        assert remove_orphans(tmp_path) == 0
        assert temporary.exists()

    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    atomic_write(tmp_path / "a.txt", check)
    names: list[str] = []
    atomic_write(tmp_path / "b.txt", lambda temporary: (names.append(temporary.name), temporary.touch())[1])
    orphan = tmp_path / names[0].replace(f"-{os.getpid()}-", f"-{dead.pid}-")
    orphan.touch()
    (tmp_path / ".mine.tmp-notes").touch()
    assert remove_orphans(tmp_path) == 1
    assert sorted(os.listdir(tmp_path)) == [".mine.tmp-notes", "a.txt", "b.txt"]


def test_54_orphans_of_a_dead_process_of_our_own_number(tmp_path: Path) -> None:
    """In a container that is started again the host's name is the same, and every program has the number it had."""
    names: list[str] = []
    atomic_write(tmp_path / "a.txt", lambda temporary: (names.append(temporary.name), temporary.touch())[1])
    number, _, rest = names[0].partition(f"-{os.getpid()}-")
    for run, gone in ((rest[:8], 0), ("0" * 8, 1)):
        left = tmp_path / f"{number}-{os.getpid()}-{run}{rest[8:]}"
        left.touch()
        assert remove_orphans(tmp_path) == gone
        assert left.exists() == (not gone)
        left.unlink(missing_ok=True)


def test_57_a_second_run_is_turned_away(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from neuroreg.errors import BusyError
from neuroreg.io.files import output_lock
try:
    with output_lock(Path({str(tmp_path)!r})):
        pass
except BusyError as error:
    sys.exit(error.exit_code)
"""
    with output_lock(tmp_path):
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 75
        with pytest.raises(BusyError), output_lock(tmp_path):
            pass
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert os.listdir(tmp_path) == []


def test_57_two_writers_of_one_path_have_one_winner(tmp_path: Path) -> None:
    for number in range(20):
        path = tmp_path / f"{number}.txt"

        def slow(temporary: Path, path: Path = path) -> None:
            temporary.write_text("first")
            atomic_write(path, lambda other: other.write_text("second") and None)  # someone else is faster

        with pytest.raises(CannotCreateError):
            atomic_write(path, slow)
        assert path.read_text() == "second"
    assert len(os.listdir(tmp_path)) == 20


def test_58_a_symbolic_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.nii.gz").write_bytes(b"old")
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "real" / "a.nii.gz")
    write_image(IMAGE, tmp_path / "link.nii.gz", overwrite=True)
    assert (tmp_path / "link.nii.gz").is_symlink()
    assert torch.equal(read_image(tmp_path / "real" / "a.nii.gz").volume.data, IMAGE.data)
    assert os.listdir(tmp_path / "real") == ["a.nii.gz"]


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_59_the_umask_decides_the_mode(name: str, mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        WRITERS[name](tmp_path / name)
    finally:
        os.umask(before)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~mask


def test_60_the_temporary_name_keeps_its_suffix(tmp_path: Path) -> None:
    for name in ("x.nii.gz", "x.y.H5", "long" * 62 + ".nii.gz", "脳" * 80 + ".nii"):
        seen: list[Path] = []
        atomic_write(
            tmp_path / name, lambda temporary, seen=seen: (seen.append(temporary), temporary.touch())[1]
        )
        assert seen[0].name.endswith(name[name.index(".") if "nii" in name else -3 :])
        assert seen[0].name.startswith(".")
        assert seen[0].parent == tmp_path


def test_18_an_output_name_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        write_image(IMAGE, Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.nii")))


def test_28_values_beyond_the_type_are_clamped_and_noted(tmp_path: Path) -> None:
    data = IMAGE.data.clone()
    data[0, 0, 0, :3] = torch.tensor([300.0, -5.0, 254.6])
    notes = write_image(IMAGE.with_data(data), tmp_path / "a.nii", pixel_type="uint8")
    assert len(notes) == 1
    assert "clamped" in notes[0]
    back = read_image(tmp_path / "a.nii").volume.data
    assert back[0, 0, 0, :3].tolist() == [255.0, 0.0, 255.0]
    assert write_image(IMAGE, tmp_path / "b.nii", pixel_type="int16") == ()


def test_29_labels_are_written_exactly(tmp_path: Path) -> None:
    for largest, name in ((255, "uint8"), (256, "int16"), (16_777_217, "int32"), (2**40, "int64")):
        data = torch.zeros((1, *GRID.shape), dtype=torch.int64)
        data[0, 3, 4, 5] = largest
        write_image(Volume(data, GRID, is_label=True), tmp_path / "a.nii.gz", overwrite=True)
        back = read_labels(tmp_path / "a.nii.gz")
        assert back.pixel_type == name
        assert torch.equal(back.volume.data.long(), data)


def test_values_that_are_no_numbers_are_not_written(tmp_path: Path) -> None:
    data = IMAGE.data.clone()
    data[0, 1, 1, 1] = torch.nan
    with pytest.raises(WriteError, match="not finite"):
        write_image(IMAGE.with_data(data), tmp_path / "a.nii")
    bad = DisplacementField(FIELD.data / 0, GRID)
    for name in ("f.nii.gz", "f.h5"):
        with pytest.raises(WriteError, match="not finite"):
            write_transform(bad, tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_damaged_transform_files_are_refused(tmp_path: Path) -> None:
    for name in ("t.h5", "t.mat", "t.tfm"):
        WRITERS[name](tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        for content in (
            b"",
            whole[: len(whole) // 2],
            whole[:-1] if name == "t.mat" else b"?",
            b"not a transform\n" * 9,
        ):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(NeuroregError) as caught:
                read_transform(tmp_path / name)
            assert caught.value.exit_code == 65
