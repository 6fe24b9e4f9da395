import os
import subprocess
import sys
from pathlib import Path

import pytest

from neuroreg.errors import CannotCreateError, WriteError
from neuroreg.io import files
from neuroreg.io.together import new_folder, together

NAMES = ("a.nii.gz", "b.txt", "run.json")


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def make(stage: Path, *names: str, text: str = "new") -> None:
    for name in names:
        (stage / name).write_text(f"{text} {name}")


def half(stage: Path, error: BaseException) -> None:
    make(stage, NAMES[0])
    raise error


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A folder with an older run in it."""
    (tmp_path / "out").mkdir()
    make(tmp_path / "out", *NAMES, text="older")
    return tmp_path / "out"


def test_nothing_is_there_before_all_is(tmp_path: Path) -> None:
    with together(tmp_path, NAMES) as stage:
        make(stage, *NAMES)
        assert stage.parent == tmp_path
        assert [path for path in tmp_path.iterdir() if path != stage] == []
    assert texts(tmp_path) == {name: f"new {name}" for name in NAMES}


@pytest.mark.parametrize("error", [WriteError("full"), KeyboardInterrupt()])
def test_what_fails_leaves_an_older_run_as_it_was(older: Path, error: BaseException) -> None:
    before = texts(older)
    with pytest.raises(type(error)), together(older, NAMES, mark="run.json", overwrite=True) as stage:
        half(stage, error)
    assert texts(older) == before


@pytest.mark.parametrize("last", [0, 1, 2])
def test_when_putting_in_place_fails_the_older_files_come_back(
    older: Path, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (older / "b.txt").unlink()
    before, put, calls = texts(older), files.put_in_place, []

    def broken(temporary: Path, final: Path, *, overwrite: bool) -> None:
        calls.append(os.listdir(older))
        if len(calls) > last:
            raise WriteError("the disk is broken")
        put(temporary, final, overwrite=overwrite)

    monkeypatch.setattr(files, "put_in_place", broken)
    with pytest.raises(WriteError), together(older, NAMES, mark="run.json", overwrite=True) as stage:
        make(stage, *NAMES)
    assert texts(older) == before
    assert len(calls) == last + 1
    assert all("run.json" not in names for names in calls)  # the mark goes first and comes last


def test_without_overwrite_nothing_is_replaced(older: Path) -> None:
    (older / "a.nii.gz").unlink()
    before = texts(older)
    with pytest.raises(CannotCreateError), together(older, NAMES) as stage:
        make(stage, *NAMES)
    assert texts(older) == before


def test_a_file_that_somebody_makes_meanwhile_is_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = files.put_in_place

    def late(temporary: Path, final: Path, *, overwrite: bool) -> None:
        if final.name == "b.txt":
            final.write_text("theirs")
        put(temporary, final, overwrite=overwrite)

    monkeypatch.setattr(files, "put_in_place", late)
    with pytest.raises(CannotCreateError), together(tmp_path, NAMES) as stage:
        make(stage, *NAMES)
    assert texts(tmp_path) == {"b.txt": "theirs"}


def test_a_former_file_that_is_not_made_again_goes_away(older: Path) -> None:
    (older / "notes.txt").write_text("mine")
    with together(older, NAMES, mark="run.json", overwrite=True) as stage:
        make(stage, "a.nii.gz", "run.json")
    assert texts(older) == {"a.nii.gz": "new a.nii.gz", "run.json": "new run.json", "notes.txt": "mine"}


def test_a_link_stays_one_and_its_file_is_replaced(older: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (older / "b.txt").rename(tmp_path / "store" / "b.txt")
    (older / "b.txt").symlink_to(tmp_path / "store" / "b.txt")
    with together(older, NAMES, overwrite=True) as stage:
        make(stage, *NAMES)
    assert (older / "b.txt").is_symlink()
    assert texts(tmp_path / "store") == {"b.txt": "new b.txt"}
    assert sorted(os.listdir(older)) == sorted(NAMES)


def test_what_the_killed_leave_is_removed_with_all_that_is_in_it(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    with together(tmp_path, NAMES) as stage:
        left = tmp_path / stage.name.replace(f"-{os.getpid()}-", f"-{dead.pid}-")
        left.mkdir()
        make(left, *NAMES)
        assert files.remove_orphans(tmp_path) == 1
        assert stage.is_dir()
    assert os.listdir(tmp_path) == []


def test_a_folder_is_kept_only_when_all_goes_well(tmp_path: Path) -> None:
    with pytest.raises(WriteError), new_folder(tmp_path / "new"):
        raise WriteError("full")
    with new_folder(tmp_path / "kept"), together(tmp_path / "kept", NAMES) as stage:
        make(stage, *NAMES)
    with pytest.raises(WriteError), new_folder(tmp_path / "kept"):
        raise WriteError("full")
    assert os.listdir(tmp_path) == ["kept"]
