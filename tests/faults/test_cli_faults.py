"""The fault catalogue at the level of a whole command: one line, the right code, nothing at the final path.

The numbers are those of the catalogue. Faults of single files are tried where files are read and written.
"""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

import nifti_bytes  # noqa: E402  # beside the tests, found by the line above
import pipeline_phantoms as phantoms  # noqa: E402  # beside the tests, found by the line above

from neuroreg.cli import run  # noqa: E402
from neuroreg.io import files  # noqa: E402
from neuroreg.io.images import read_image, write_image  # noqa: E402
from neuroreg.methods import METHODS  # noqa: E402
from neuroreg.pipeline.template import load_template  # noqa: E402
from neuroreg.registry import Entry  # noqa: E402
from neuroreg.volume import Geometry, Volume  # noqa: E402

pytestmark = pytest.mark.faults

TOY = ["--method", "toy", "--affine", "none", "--threads", "1", "--outputs", "image,transform"]


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Toy", "OutOfMemoryToy", "BrokenToy"):
        monkeypatch.setitem(METHODS, name.lower(), Entry(f"pipeline_phantoms:{name}", "for tests"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    phantoms.save_pair(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Told:
    """Exit code and both streams of one command run in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *words: str) -> None:
        self.code = run([*words])
        self.out, self.err = capsys.readouterr()

    @property
    def error(self) -> str:
        """The one line of the error."""
        lines = [line for line in self.err.splitlines() if "error[" in line]
        assert len(lines) == 1
        assert lines[0].startswith(f"neuroreg: error[{self.code}]: ")
        return lines[0]


def register(capsys: pytest.CaptureFixture[str], *words: str, toy: list[str] = TOY) -> Told:
    return Told(capsys, "register", "fixed.nii.gz", "moving.nii.gz", "-o", "out", *toy, *words)


def record(folder: Path) -> Any:
    return json.loads((folder / "out" / "run.json").read_text())


def rewrite(path: Path, *, geometry: Geometry | None = None, data: Any = None) -> None:
    old = read_image(path).volume
    volume = Volume(old.data if data is None else data(old.data), geometry or old.geometry)
    write_image(volume, path, overwrite=True)


def test_all_is_well_without_a_fault(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = register(capsys)
    assert (told.code, told.out) == (0, "out\n")
    assert sorted(os.listdir("out")) == ["moved.nii.gz", "run.json", "transform.h5"]
    assert record(folder)["warnings"] == []


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (lambda path: path.unlink(), 66, "no such file"),  # 1
        (lambda path: path.write_bytes(b""), 65, "empty"),  # 2
        (
            lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
            65,
            "moving.nii.gz",
        ),  # 4
        (lambda path: (path.unlink(), path.mkdir()), 2, "folder"),  # 16
        (lambda path: rewrite(path, data=lambda x: x * 0 + 7), 65, "nothing to see"),  # 21
    ],
)
def test_bad_inputs_stop_the_command(
    folder: Path, capsys: pytest.CaptureFixture[str], make: Any, code: int, words: str
) -> None:
    make(folder / "moving.nii.gz")
    told = register(capsys)
    assert told.code == code
    assert words in told.error
    assert not (folder / "out").exists()
    assert Told(capsys, "register", "fixed.nii.gz", "moving.nii.gz", "--json", *TOY).out.startswith(
        '{"schema": 1'
    )


def test_1_of_two_bad_inputs_the_first_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("fixed", "moving"):
        (folder / f"{name}.nii.gz").write_bytes(b"")
    assert all("fixed.nii.gz" in register(capsys).error for _ in range(3))


def test_17_odd_names_work(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("sub[bold] $(rm -r x); ü.nii.gz", "x[red] '\"&.nii.gz"):
        (folder / name).write_bytes((folder / "moving.nii.gz").read_bytes())
        told = Told(capsys, "register", "fixed.nii.gz", name, *TOY)
        assert told.code == 0
        assert told.out == f"{name.removesuffix('.nii.gz')}_to_fixed\n"


def test_18_a_name_that_is_no_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = Told(capsys, "register", "fixed.nii.gz", "a\udcff.nii.gz", *TOY)
    assert told.code == 2
    assert "UTF-8" in told.error


def test_20_some_voxels_are_not_finite(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import nibabel

    image = nibabel.load(folder / "moving.nii.gz")
    data = image.get_fdata(dtype="float32")
    data[20, 20, 18:20] = float("nan")
    nibabel.save(nibabel.Nifti1Image(data, image.affine, image.header), folder / "moving.nii.gz")
    assert register(capsys).code == 0
    assert any("2 NaN or infinite voxels" in warning for warning in record(folder)["warnings"])


def test_34_memory_is_checked_before_computing(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "available_memory", lambda: 1_000_000)
    told = register(capsys)
    assert told.code == 75
    assert "memory" in told.error
    assert not (folder / "out").exists()


def other_handedness(folder: Path) -> None:
    """moving.nii.gz, its first axis run the other way; the head lies where it lay."""
    moving = read_image(folder / "moving.nii.gz").volume
    old = moving.geometry
    far = (old.voxel_to_world @ torch.tensor([old.size[0] - 1.0, 0, 0, 1], dtype=torch.float64))[:3]
    turned = torch.tensor(old.direction).reshape(3, 3) * torch.tensor([-1.0, 1.0, 1.0])
    same_head = Geometry(old.size, old.spacing, tuple(far.tolist()), tuple(turned.reshape(-1).tolist()))
    write_image(Volume(moving.data.flip(3), same_head), folder / "moving.nii.gz", overwrite=True)


def test_42_other_handedness_alone_is_ordinary(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other_handedness(folder)
    assert register(capsys).code == 0
    assert not any("handedness" in warning for warning in record(folder)["warnings"])


def test_42_other_handedness_is_remarked_where_a_header_leaves_it_in_doubt(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other_handedness(folder)
    whole = gzip.decompress((folder / "fixed.nii.gz").read_bytes())
    nifti_bytes.save(folder / "fixed.nii.gz", nifti_bytes.patched(whole, qform_code=0, sform_code=0))
    told = register(capsys, "--dry-run")  # without a frame the heads lie apart
    assert told.code == 0
    assert "handedness" in told.err


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_42_a_mirrored_brain_is_refused_its_pass(
    folder: Path, capsys: pytest.CaptureFixture[str], side: str
) -> None:
    brain = load_template().image
    for name in ("fixed", "moving"):
        data = brain.data.flip(3) if name == side else brain.data  # the header stays as it was
        write_image(Volume(data, brain.geometry), folder / f"{name}.nii.gz", overwrite=True)
    told = register(capsys, "--strict-qc", "--set", "amplitude=0")
    assert told.code == 3
    assert f"the {side} image seems to have left and right exchanged" in told.error
    assert record(folder)["qc"]["verdict"] == "fail"
    assert (record(folder)["qc"]["sides_fixed"] > 0.25) is (side == "moving")
    assert (folder / "out" / "run.json").exists()


def test_43_images_far_apart(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in folder.iterdir():
        path.unlink()
    phantoms.save_pair(folder, moving_offset_mm=(2000.0, 0.0, 0.0))
    told = register(capsys)  # --affine none leaves them where they are
    assert told.code == 65
    assert "do not overlap" in told.error
    assert not (folder / "out").exists()


def test_43_a_centre_start_brings_them_together(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in folder.iterdir():
        path.unlink()
    phantoms.save_pair(folder, moving_offset_mm=(2000.0, 0.0, 0.0))
    told = register(capsys, toy=["--method", "affine", "--threads", "1", "--outputs", "affine"])
    assert told.code == 0
    assert any("2000 mm apart" in warning for warning in record(folder)["warnings"])
    assert record(folder)["qc"]["ncc_after"] > 0.95


def test_44_another_contrast_is_remarked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(folder / "moving.nii.gz", data=lambda x: torch.where(x > 0, 1500.0 - x, 0.0))
    told = register(capsys, "--set", "amplitude=0", "--strict-qc")
    assert told.code == 3
    assert "contrast" in told.error


def test_45_labels_on_another_grid(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fixed_seg, moving_seg = phantoms.save_labels(folder)
    told = register(capsys, "--fixed-labels", str(moving_seg), "--moving-labels", str(fixed_seg))
    assert told.code == 65
    assert "grid" in told.error


def test_46_a_label_missing_on_one_side(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fixed_seg, moving_seg = phantoms.save_labels(folder)
    seg = read_image(moving_seg).volume
    gone = torch.where(seg.data == 23, 0, seg.data).to(torch.int32)
    write_image(Volume(gone, seg.geometry, is_label=True), moving_seg, overwrite=True)
    told = register(capsys, "--fixed-labels", str(fixed_seg), "--moving-labels", str(moving_seg))
    assert told.code == 0
    row = next(
        line for line in (folder / "out" / "rois.csv").read_text().splitlines() if line.startswith("23,")
    )
    assert "missing in moved" in row


def test_47_the_same_file_twice(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = Told(capsys, "register", "fixed.nii.gz", "./fixed.nii.gz", "-o", "out", *TOY)
    assert told.code == 0
    assert "same image" in told.err


def test_48_an_output_that_is_an_input(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "out").mkdir()
    (folder / "moving.nii.gz").rename(folder / "out" / "moved.nii.gz")
    before = (folder / "out" / "moved.nii.gz").read_bytes()
    for words in (["-o", "out"], ["-o", "out", "--overwrite"], ["-o", "fixed.nii.gz"]):
        told = Told(capsys, "register", "fixed.nii.gz", "out/moved.nii.gz", *words, *TOY)
        assert told.code == 2
        assert "overwrite an input" in told.error
    assert (folder / "out" / "moved.nii.gz").read_bytes() == before


def test_50_a_folder_that_cannot_be(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "file").write_text("x")
    for place, words in (("no/such/place", "does not exist"), ("file", "is a file"), ("file/below", "")):
        told = Told(capsys, "register", "fixed.nii.gz", "moving.nii.gz", "-o", place, *TOY)
        assert told.code == 73
        assert words in told.error


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_50_a_read_only_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "out").mkdir(mode=0o555)
    assert register(capsys).code == 73


def test_51_an_output_that_exists(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert register(capsys).code == 0
    before = (folder / "out" / "transform.h5").read_bytes()
    told = register(capsys, "--set", "amplitude=0.5")
    assert told.code == 73
    assert "--overwrite" in told.error
    assert (folder / "out" / "transform.h5").read_bytes() == before
    assert register(capsys, "--set", "amplitude=0.5", "--overwrite").code == 0
    assert (folder / "out" / "transform.h5").read_bytes() != before


def test_51_other_files_in_the_folder_stay(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "notes.txt").write_text("mine")
    assert register(capsys).code == 0
    assert (folder / "out" / "notes.txt").read_text() == "mine"


def test_49_a_full_disk_leaves_the_folder_as_it_was(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(
        signal.SIGXFSZ, signal.SIG_IGN
    )  # then writing fails with EFBIG, as a full disk with ENOSPC
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        told = register(capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert told.code == 74
    assert not (folder / "out").exists()


def test_58_an_output_that_is_a_link(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "out").mkdir()
    (folder / "store").mkdir()
    (folder / "store" / "m.nii.gz").write_text("old")
    (folder / "out" / "moved.nii.gz").symlink_to(folder / "store" / "m.nii.gz")
    assert register(capsys, "--overwrite").code == 0
    assert (folder / "out" / "moved.nii.gz").is_symlink()
    assert (folder / "store" / "m.nii.gz").stat().st_size > 1000


def test_62_no_such_graphics_card(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = register(capsys, "--device", "cuda:99")
    assert told.code == 69
    assert not (folder / "out").exists()


def test_62_a_full_graphics_card(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    def predict(self: Any, fixed: Any, moving: Any, start: Any = None) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return phantoms.Toy.predict(self, fixed, moving, start)

    monkeypatch.setattr(phantoms.OutOfMemoryToy, "predict", predict)
    words = ["--method", "outofmemorytoy", "--affine", "none", "--threads", "1", "--outputs", "transform"]
    assert register(capsys, toy=words).code == 0
    assert record(folder)["device"] == "cpu"
    assert any("the CPU was used" in warning for warning in record(folder)["warnings"])
    calls.clear()
    told = register(capsys, "--device", "cpu", "--overwrite", toy=words)  # an explicit device is not given up
    assert told.code == 75


def test_63_numbers_and_times_do_not_follow_the_locale(folder: Path) -> None:
    environment = {**os.environ, "LC_ALL": "de_DE.UTF-8", "TZ": "Asia/Kathmandu"}
    done = child("-o", "out", *TOY, environment=environment)
    done.communicate(timeout=120)
    assert done.returncode == 0
    found = record(folder)
    assert found["started"].endswith("+00:00")
    assert isinstance(found["seconds"]["total"], float)


def test_70_a_bug(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = register(capsys, toy=["--method", "brokentoy", "--affine", "none"])
    assert told.code == 70
    assert "no such thing" in told.error
    assert "Traceback" not in told.err
    assert not (folder / "out").exists()


def child(*words: str, environment: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    command = [sys.executable, str(TESTS / "toy_cli.py"), "register", "fixed.nii.gz", "moving.nii.gz", *words]
    environment = {**(environment or dict(os.environ)), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.fixture
def sleeping(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """A run that holds its folder and sleeps in its method."""
    started = child("-o", "out", *TOY, "--set", "seconds=60", "-v")
    until = time.monotonic() + 120
    while (
        time.monotonic() < until
        and started.poll() is None
        and not (folder / "out" / files.LOCK_NAME).exists()
    ):
        time.sleep(0.05)
    time.sleep(1.0)  # into the method
    yield started
    if started.poll() is None:
        started.kill()
    started.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_52_53_a_signal_leaves_nothing(
    folder: Path, sleeping: "subprocess.Popen[str]", number: signal.Signals, code: int
) -> None:
    start = time.monotonic()
    sleeping.send_signal(number)
    out, err = sleeping.communicate(timeout=30)
    assert sleeping.returncode == code
    crowded = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
    assert time.monotonic() - start < 5 * crowded
    assert out == ""
    assert "Traceback" not in err
    assert not (folder / "out").exists()


def test_54_after_a_kill_the_next_run_tidies_up(
    folder: Path, sleeping: "subprocess.Popen[str]", capsys: pytest.CaptureFixture[str]
) -> None:
    sleeping.kill()
    sleeping.wait(30)
    orphan = f".moved.tmp-{files._host()}-{sleeping.pid}-0123abcd.nii.gz"
    (folder / "out" / orphan).write_text("half")
    assert register(capsys).code == 0
    assert sorted(os.listdir(folder / "out")) == ["moved.nii.gz", "run.json", "transform.h5"]


def test_55_a_second_interrupt_ends_at_once(folder: Path) -> None:
    code = (
        "import os, signal, sys, time; sys.argv = ['neuroreg', 'methods'];"
        "from neuroreg import cli;"
        "from neuroreg.registry import Entry\n"
        "def command() -> None:\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT); time.sleep(9)\n"
        "    finally:\n"
        "        os.kill(os.getpid(), signal.SIGINT); time.sleep(9); print('too late')\n"
        "cli.slow = command; cli.COMMANDS['methods'] = Entry('neuroreg.cli:slow', ''); cli.main()"
    )
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60
    )
    assert (done.returncode, done.stdout) == (130, "")


def test_57_a_second_run_on_the_same_folder_is_turned_away(
    sleeping: "subprocess.Popen[str]", capsys: pytest.CaptureFixture[str]
) -> None:
    told = register(capsys)
    assert told.code == 75
    assert "another run" in told.error
    assert sleeping.poll() is None


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_56_started_without_standard_streams(tmp_path: Path, closed: str) -> None:
    phantoms.save_pair(tmp_path)
    toy = f"{sys.executable} {TESTS / 'toy_cli.py'}"
    words = f"{toy} register fixed.nii.gz moving.nii.gz -o out {' '.join(TOY)} --json {closed}"
    done = subprocess.run(["bash", "-c", words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert set(record["outputs"]) == {"moved.nii.gz", "transform.h5"}, "no stream has got into an output"
    read_image(tmp_path / "out" / "moved.nii.gz")
