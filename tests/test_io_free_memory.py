"""Free memory: the least of what every limit leaves, read from made-up files of the kernel's forms."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from neuroreg.io import files, free_memory
from neuroreg.io.free_memory import of_the_groups, of_the_machine, of_the_process

MB = 2**20


def put(folder: Path, **contents: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_the_machine(tmp_path: Path) -> None:
    put(tmp_path, meminfo="MemTotal:  9000 kB\nMemAvailable:    4000 kB\n")
    assert [*of_the_machine(tmp_path / "meminfo")] == [4000 * 1024]
    put(tmp_path, meminfo="MemTotal:  9000 kB\n")
    assert [*of_the_machine(tmp_path / "meminfo")] == []
    assert [*of_the_machine(tmp_path / "nothing")] == []


def test_every_group_up_to_the_top_counts_and_kept_files_do_not(tmp_path: Path) -> None:
    # A job of 100 MB that has used 90, of which 50 + 20 are files it has read: 100 - (90 - 70) are left.
    job = tmp_path / "slurm" / "job_7"
    put(tmp_path / "proc", cgroup="0::/slurm/job_7/step_0\n")
    put(job / "step_0", memory__max="max\n", memory__current=f"{90 * MB}\n")
    stat = f"anon {20 * MB}\nactive_file {50 * MB}\ninactive_file {20 * MB}\nfile {75 * MB}\n"
    put(job, memory__max=f"{100 * MB}\n", memory__current=f"{90 * MB}\n", memory__stat=stat)
    put(tmp_path / "slurm", memory__max=f"{60 * MB}", memory__current=f"{95 * MB}")
    assert [*of_the_groups(tmp_path / "proc", tmp_path)] == [80 * MB, 0]


def test_groups_of_version_1_and_a_path_that_is_only_the_hosts(tmp_path: Path) -> None:
    put(tmp_path / "proc", cgroup="7:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/\n")
    stat = f"active_file {1 * MB}\ntotal_active_file {3 * MB}\ntotal_inactive_file {4 * MB}\n"
    limit = {"memory__limit_in_bytes": f"{64 * MB}\n", "memory__usage_in_bytes": f"{40 * MB}\n"}
    put(tmp_path / "memory", **limit, memory__stat=stat)
    assert [*of_the_groups(tmp_path / "proc", tmp_path)] == [(64 - 40 + 7) * MB]
    assert [*of_the_groups(tmp_path / "nobody", tmp_path)] == []


def test_the_least_is_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, left in (("machine", [5 * MB]), ("groups", [7 * MB, 3 * MB]), ("process", [])):
        monkeypatch.setattr(free_memory, f"of_the_{name}", lambda left=left: iter(left))
    assert files.available_memory() == 3 * MB
    for name in ("machine", "groups"):
        monkeypatch.setattr(free_memory, f"of_the_{name}", lambda: iter(()))
    assert files.available_memory() is None


def test_the_limit_of_a_shell_counts() -> None:
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        assert [*of_the_process()] == []
    code = (
        "import resource as r; r.setrlimit(r.RLIMIT_AS, (2**32, 2**32)); "
        "from neuroreg.io.free_memory import of_the_process; print(*of_the_process())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 2**30 < int(done.stdout) < 2**32
