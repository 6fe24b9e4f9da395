"""How much memory there is to be had: of the machine, of the container or batch job, and of this process.

A job of SLURM or a container is killed at the limit of its control group, wherever in the tree of groups that was set;
what the kernel keeps of files it has read counts as used there, but is given back when it is needed.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_SELF = Path("/proc/self")
_KEPT_FILES = {
    "active_file",
    "inactive_file",
}  # of memory.stat; version 1 has those of all below as total_...
_NAMES = {
    2: ("memory.max", "memory.current", ""),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
}
"""Version of the control groups -> limit, use, and how the entries of memory.stat begin."""


def of_the_machine(table: Path = Path("/proc/meminfo")) -> Iterator[int]:
    """Bytes the kernel says it could give without swapping; nothing where that cannot be told."""
    with suppress(OSError, ValueError, KeyError):
        fields = dict(line.split(":", 1) for line in table.read_text().splitlines())
        yield int(fields["MemAvailable"].split()[0]) * 1024


def of_the_groups(process: Path = _SELF, groups: Path = _GROUPS) -> Iterator[int]:
    """Bytes left in every control group with a limit that this process is in, versions 1 and 2."""
    with suppress(OSError, ValueError):
        for line in (process / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            version = 2 if not controllers else 1
            if version == 1 and "memory" not in controllers.split(","):
                continue
            top = groups if version == 2 else groups / "memory"
            place = top / path.lstrip("/")
            # In a container the path is often that on its host: then only the top is there, which is the container's.
            for folder in (place, *place.parents):
                yield from _left(folder, version)
                if folder == top:
                    break


def _left(folder: Path, version: int) -> Iterator[int]:
    limit_name, use_name, begin = _NAMES[version]
    with suppress(OSError, ValueError):  # no such group, or "max", which is no number: there is no limit
        limit, used = (int((folder / name).read_text()) for name in (limit_name, use_name))
        kept = 0
        with suppress(OSError, ValueError):
            for line in (folder / "memory.stat").read_text().splitlines():
                name, value = line.split()
                kept += (
                    int(value) if name.removeprefix(begin) in _KEPT_FILES and name.startswith(begin) else 0
                )
        yield max(0, limit - max(0, used - kept))


def of_the_process(process: Path = _SELF) -> Iterator[int]:
    """Bytes of address space left under `ulimit -v`; nothing without such a limit."""
    with suppress(ImportError, OSError, ValueError, IndexError):
        import resource

        soft = resource.getrlimit(resource.RLIMIT_AS)[0]
        if soft != resource.RLIM_INFINITY:
            pages = int((process / "statm").read_text().split()[0])
            yield max(0, soft - pages * os.sysconf("SC_PAGE_SIZE"))
