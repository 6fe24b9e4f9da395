"""A disk that is full at random byte limits: exit 74, one line, and what was there before is there still.

python tests/campaigns/full_disk.py [--rounds 20] [--seed 0]

``--rounds`` limits for ``register`` with all its outputs (every other one over an older run), as many for the other
commands in turn, a few each for a disk without inodes, a full TMPDIR and a quota. The disks are real ones (tmpfs);
where nobody may mount, the largest size of a file is limited instead (RLIMIT_FSIZE), and the record says so.
"""

import argparse
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import crashing as crash
import record

LAW = (
    "Whenever the disk is full, however many bytes or inodes it has, a command ends with 74 and one line, every final "
    "path is as it was (older outputs byte for byte) and no temporary file is left; with room enough it succeeds. A "
    "batch keeps its whole cases, ends with 74, with 8 and those that failed, or with 75 before it begins, and goes on "
    "with --resume when there is room."
)
PAGE = 4096
NOBODY = 65534


@dataclass(frozen=True)
class Command:
    """A command, and where below the small disk its outputs lie."""

    name: str
    words: tuple[str, ...]
    output: str


@contextmanager
def small_disk(place: Path, options: str) -> Iterator[Path]:
    """A tmpfs. Raises OSError where that may not be."""
    place.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise OSError(f"no small disk can be mounted here: {done.stderr.strip()[-120:]}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def commands(disk: Path) -> dict[str, Command]:
    """The commands that are tried, to run in the folder that ``prepare`` has filled."""

    def one(name: str, *words: str, output: str) -> Command:
        return Command(name, (*crash.TOY, *words), output)

    out = str(disk / "out")
    pair = ("fixed.nii.gz", "moving.nii.gz")
    return {
        command.name: command
        for command in (
            one("register", "register", *pair, "-o", out, *crash.TOY_METHOD, output="out"),
            one("convert", "convert", "fixed.nii.gz", f"{out}.mha", output="out.mha"),
            one("apply", "apply", "run/transform.h5", "--to", "fixed.nii.gz", "moving.nii.gz", "again.nii.gz",
                "-o", out, output="out"),
            one("evaluate --csv", "evaluate", "fixed_seg.nii.gz", "fixed_seg.nii.gz", "--csv", f"{out}.csv",
                output="out.csv"),
            one("report --group", "report", "--group", "cohort", "-o", f"{out}.html", output="out.html"),
            one("compose", "compose", "run/transform.h5", "run/affine.mat", "-o", f"{out}.h5", output="out.h5"),
            one("batch", "batch", "cases.csv", "-o", out, "--affine", "none", "--outputs", "image,transform",
                "--jobs", "1", "-q", output="out"),
        )
    }  # fmt: skip


def prepare(folder: Path) -> Path:
    """The inputs of all commands: a pair, a finished run, a cohort of it."""
    crash.pair(folder)
    done = crash.call((*crash.TOY, *crash.TOY_REGISTER), folder)
    if done.returncode:
        raise SystemExit(f"the undisturbed run failed: {done.stderr}")
    (folder / "out").rename(folder / "run")
    shutil.copytree(folder / "run", folder / "cohort" / "one")
    shutil.copyfile(folder / "moving.nii.gz", folder / "again.nii.gz")
    return folder


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder (None) below."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
            for path in sorted(folder.rglob("*"))}  # fmt: skip


def need(found: Mapping[str, bytes | None]) -> int:
    """Bytes on a disk of whole pages."""
    return sum(-(-len(data) // PAGE) * PAGE for data in found.values() if data)


def of_cases(found: Mapping[str, bytes | None]) -> dict[str, bytes]:
    """The files of the finished cases of a batch."""
    return {path: data for path, data in found.items()
            if data is not None and path.count("/") == 2 and ".work" not in path}  # fmt: skip


class Trial:
    """One command after the other on disks that are too small."""

    def __init__(self, folder: Path, seed: int) -> None:
        crash.load()
        self.folder = prepare(folder)
        self.disk = folder / "disk"
        self.commands = commands(self.disk)
        self.draw = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.whole: dict[str, dict[str, bytes | None]] = {}
        """command -> what it leaves on a disk with room"""

    def clean(self, name: str) -> dict[str, bytes | None]:
        """What the command leaves when nothing is in its way."""
        if name not in self.whole:
            with small_disk(self.disk, "size=200m"):
                done = crash.call(self.commands[name].words, self.folder)
                if done.returncode:
                    raise SystemExit(f"the undisturbed {name} failed: {done.stderr}")
                self.whole[name] = tree(self.disk)
        return self.whole[name]

    def at_limit(self, name: str, *, over: bool = False) -> None:
        """One command on a disk of a random size, empty or with older outputs of its own on it."""
        older = self.older(name) if over else {}
        room = self.draw.randrange(0, int(need(self.clean(name)) * 1.1) + PAGE)
        size = need(older) + room // PAGE * PAGE
        with small_disk(self.disk, f"size={max(size, PAGE)}"):  # 0 would mean without limit
            self.put(older)
            self.filled(PAGE if size == 0 else 0)
            fits = size - need(older) >= need(self.clean(name))
            self.tried(name, over=over, fits=fits, what=f"{name}{' --overwrite' * over} at {size} bytes")

    def without_inodes(self, name: str, *, over: bool = False) -> None:
        """One command on a disk with room, but for few files."""
        older = self.older(name) if over else {}
        room = self.draw.randrange(0, len(self.clean(name)) + 2)
        with small_disk(self.disk, f"size=200m,nr_inodes={1 + len(older) + room}"):
            self.put(older)
            self.tried(name, over=over, fits=None, what=f"{name}{' --overwrite' * over} with {room} inodes")

    def full_tmpdir(self, name: str) -> None:
        """One command whose outputs have room, and whose TMPDIR has none."""
        with small_disk(self.folder / "full", "size=4k,nr_inodes=2") as full:
            (full / "all").write_bytes(b"x" * PAGE)
            with small_disk(self.disk, "size=200m"):
                self.tried(name, over=False, fits=True, what=f"{name} with a full TMPDIR", TMPDIR=str(full))

    def under_quota(self, name: str) -> None:
        """One command of a user with a quota (of a kernel that knows quotas on tmpfs)."""
        limit = self.draw.randrange(PAGE, need(self.clean(name)))
        with small_disk(self.disk, f"size=200m,mode=777,usrquota,usrquota_block_hardlimit={limit}"):
            self.tried(name, over=False, fits=False, what=f"{name} under a quota of {limit}", user=NOBODY)

    def older(self, name: str) -> dict[str, bytes | None]:
        """Outputs of an earlier run: whole files of other content where nobody reads them."""
        return {path: None if data is None else b"older " + data[: len(data) // 2]
                for path, data in self.clean(name).items()}  # fmt: skip

    def put(self, found: Mapping[str, bytes | None]) -> None:
        """Lay files and folders on the disk."""
        for path, data in found.items():
            if data is None:
                (self.disk / path).mkdir()
            else:
                (self.disk / path).write_bytes(data)

    def filled(self, size: int) -> None:
        """Take so much of the disk away."""
        if size:
            (self.disk / "blocker").write_bytes(b"x" * size)

    def tried(
        self, name: str, *, over: bool, fits: bool | None, what: str, user: int | None = None, **more: str
    ) -> None:
        """Run it and look; ``fits``: whether there is room, None: nobody knows."""
        before = tree(self.disk)
        words = [*self.commands[name].words, *(["--overwrite"] if over else [])]
        done = crash.call(words, self.folder, user=user, cold=bool(user or more), **more)
        after = tree(self.disk)
        self.counts[f"{name}: exit {done.returncode}"] += 1
        print(
            f"{what}: {done.returncode} {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr, flush=True
        )
        if name == "batch":
            self.judge_batch(done, after, what)
        elif done.returncode == 0:
            if fits is False:
                self.fault(what, "success without room")
            self.judge_whole(name, {path: data for path, data in after.items() if path != "blocker"}, what)
        elif done.returncode != 74 or fits is True or not crash.one_line(done.stderr, 74):
            self.fault(what, f"{done.returncode}: {done.stderr}")
        elif after != before:
            changed = sorted({path for path, _ in before.items() ^ after.items()})
            self.fault(what, f"not as before: {changed}")

    def judge_whole(self, name: str, after: Mapping[str, bytes | None], what: str) -> None:
        """A success must have left all."""
        if after.keys() != self.clean(name).keys():
            self.fault(what, f"success with other files: {sorted(after.keys() ^ self.clean(name).keys())}")
        if name == "register":
            left = {Path(path).name: data for path, data in after.items() if data is not None}
            for bad in crash.partial(left, left):
                self.fault(what, bad)

    def judge_batch(self, done: crash.Told, after: Mapping[str, bytes | None], what: str) -> None:
        """Whole cases or none; with room again the batch goes on to its end."""
        clean = of_cases(self.clean("batch"))
        if done.returncode not in (0, 8, 74, 75) or "Traceback" in done.stderr:
            self.fault(what, f"{done.returncode}: {done.stderr}")
        cases = {str(Path(path).parent) for path in after if path.endswith("/run.json")}
        cases = {case for case in cases if ".work" not in case}
        for case in cases:
            there = {Path(p).name: data or b"" for p, data in after.items() if str(Path(p).parent) == case}
            for bad in crash.partial(
                there, {Path(p).name: d for p, d in clean.items() if str(Path(p).parent) == case}
            ):
                self.fault(what, f"partial: {case}/{bad}")
        stray = [p for p in after if ".tmp-" in p or (p.startswith("out/.work/") and p != "out/.work/lock")]
        if stray:
            self.fault(what, f"left: {stray}")
        with suppress(OSError):
            (self.disk / "blocker").unlink()
        subprocess.run(["mount", "-o", "remount,size=200m,nr_inodes=100000", str(self.disk)], check=True)
        again = crash.call([*self.commands["batch"].words, "--resume"], self.folder)
        found = of_cases(tree(self.disk))
        if again.returncode or found.keys() != clean.keys():
            self.fault(what, f"the resumed batch: {again.returncode} {again.stderr}")

    def fault(self, what: str, why: str) -> None:
        """Note that the law does not hold."""
        self.faults.append(f"{what}: {why}")
        print(f"FAULT {what}: {why}", file=sys.stderr, flush=True)


def limited_files(trial: Trial, rounds: int) -> None:
    """Without the right to mount: no file may grow beyond a random size."""
    disk, name = trial.disk, "register"
    for _ in range(rounds):
        shutil.rmtree(disk, ignore_errors=True)
        disk.mkdir()
        limit = trial.draw.randrange(0, 1_000_000)
        done = subprocess.run(
            trial.commands[name].words, cwd=trial.folder, env=crash.environment(), text=True, capture_output=True,
            check=False, preexec_fn=lambda limit=limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        )  # fmt: skip
        trial.counts[f"{name}: exit {done.returncode}"] += 1
        if done.returncode != 74 or not crash.one_line(done.stderr, 74) or tree(disk):
            trial.fault(
                f"no file beyond {limit} bytes", f"{done.returncode} {done.stderr} {sorted(tree(disk))}"
            )


def campaign(rounds: int, seed: int, folder: Path) -> tuple[Trial, dict[str, str]]:
    """All trials; what could not be tried, and why."""
    trial, left_out = Trial(folder, seed), {}
    try:
        trial.clean("register")
    except OSError as error:
        limited_files(trial, rounds)
        return trial, {"small disks": str(error)}
    others = [name for name in trial.commands if name != "register"]
    for number in range(rounds):
        trial.at_limit("register", over=bool(number % 2))
    for number in range(rounds):
        name = others[number % len(others)]
        trial.at_limit(name, over=name != "batch" and number // len(others) % 2 == 1)
    few = max(1, rounds // 5)
    for number in range(few):
        for name in ("register", "apply", "batch"):
            trial.without_inodes(name, over=name != "batch" and bool(number % 2))
    for name in ("register", "batch", "report --group"):
        trial.full_tmpdir(name)
    try:
        for _ in range(few):
            trial.under_quota("register")
            trial.under_quota("convert")
    except OSError:
        left_out["quota"] = "this kernel knows none on disks in memory"
    return trial, left_out


def main() -> None:
    """Run, record, and fail when the law does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # for the user with the quota
        trial, left_out = campaign(given.rounds, given.seed, Path(folder))
    found = {
        "commands run": sum(trial.counts.values()),
        "faults": len(trial.faults),
        **dict(sorted(trial.counts.items())),
    }
    found |= {f"not tried: {what}": why for what, why in left_out.items()}
    record.save("full_disk", law=LAW, passed=not trial.faults, found=found, seconds=time.monotonic() - begun)
    sys.exit(bool(trial.faults))


if __name__ == "__main__":
    main()
