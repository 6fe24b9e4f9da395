"""SIGKILL at random moments: no half file at a final path, nothing that lives on, and the next start tidies up.

python tests/campaigns/kills.py [--rounds 200] [--seed 0]

Half of the rounds kill ``register``, half ``batch``; half of each the process alone, half all that it has started.
A third of the moments is drawn from the whole life of the command, the rest from the time in which it writes.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import crashing as crash
import record

LAW = (
    "After a SIGKILL at any moment every file at a final path is whole (that of the run, or the older one byte for "
    "byte), nothing lives on, and the same command started again succeeds, leaves what an undisturbed run leaves, and "
    "no temporary file or lock."
)
MUST_BE_NONE = (
    "partial files at final paths",
    "orphans after the next start",
    "processes that lived on",
    "next starts that went wrong",
)
BATCH = [
    "batch",
    "cases.csv",
    "-o",
    "out",
    "--affine",
    "none",
    "--outputs",
    "image,transform",
    "--jobs",
    "1",
    "-q",
]
NO_PAGE = "image,field,transform,inverse,affine,jacobian"
REAL = {
    method: f"register fixed.nii.gz moving.nii.gz -o out --method {method} --threads 1 -q".split()
    for method in ("jointaffine", "gaussnewton")
}


@dataclass
class Life:
    """An undisturbed run: what it leaves, and when it does what (seconds after its start)."""

    words: list[str]
    cold: bool
    """started as a user starts it, not as a fork of the campaign"""
    left: dict[str, bytes]
    whole_s: float
    writes_s: float
    """from the first file to the last in place"""
    places_s: float
    """from the first file at its final path to the last"""


@dataclass
class Tally:
    """What was counted."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def fault(self, kind: str, what: str) -> None:
        """Count one, and say it."""
        self.counts[kind] += 1
        self.faults.append(f"{kind}: {what}")
        print(f"FAULT {kind}: {what}", file=sys.stderr, flush=True)


def staging(out: Path) -> bool:
    """Whether ``register`` has begun to write a file."""
    return any(any(stage.iterdir()) for stage in listed(out, ".run.tmp-*") if stage.is_dir())


def placing(out: Path) -> bool:
    """Whether ``register`` has begun to put files in place."""
    return any(not path.name.startswith(".run.") for path in listed(out, ".*.tmp-*"))


def placed(out: Path) -> bool:
    """Whether ``register`` has put everything in place, when it had begun to."""
    return not listed(out, ".*.tmp-*")


def journal(out: Path, event: str) -> bool:
    """Whether the journal of a batch has such a line."""
    try:
        return f'"event":"{event}"'.encode() in (out / "journal.jsonl").read_bytes()
    except OSError:
        return False


def listed(folder: Path, pattern: str) -> list[Path]:
    """What matches now; a folder that goes away meanwhile is empty."""
    try:
        return list(folder.glob(pattern))
    except OSError:
        return []


SIGNS: dict[str, tuple[Callable[[Path], bool], ...]] = {
    "register": (staging, placing, placed),
    "batch": (
        lambda out: journal(out, "started"),
        lambda out: journal(out, "ok"),
        lambda out: journal(out, "end"),
    ),
}


def seen(sign: Callable[[Path], bool], out: Path) -> bool:
    """The sign, in a folder in which names come and go."""
    try:
        return sign(out)
    except OSError:
        return False


def life_of(words: list[str], folder: Path, *, cold: bool = False) -> Life:
    """Run once and watch."""
    out = folder / "out"
    signs = SIGNS["batch" if "batch" in words else "register"]
    begun, times = time.monotonic(), []
    process = crash.begin(words, folder, "", cold=cold)
    while process.poll() is None:
        if len(times) < len(signs) and seen(signs[len(times)], out):
            times.append(time.monotonic())
        time.sleep(0.001)
    end = time.monotonic()
    err = process.communicate()[1]
    if process.returncode:
        raise SystemExit(f"the undisturbed run failed: {err}")
    times += [end] * (
        len(signs) - len(times)
    )  # on a disk in memory files are in place faster than one can look
    return Life(words, cold, crash.contents(out), end - begun, times[2] - times[0], times[2] - times[1])


def strike(life: Life, folder: Path, generator: random.Random, mark: str, *, everything: bool) -> str:
    """Start the command and kill it at a random moment; returns where in its life that was aimed at."""
    out = folder / "out"
    first, second, _ = SIGNS["batch" if "batch" in life.words else "register"]
    aim = generator.choice(("life", "writing", "placing"))
    process = crash.begin(life.words, folder, mark, cold=life.cold)
    if aim == "life":
        wait_s = generator.uniform(0.0, life.whole_s * 1.05)
    else:
        sign, span = (first, life.writes_s) if aim == "writing" else (second, life.places_s)
        while process.poll() is None and not seen(sign, out):
            time.sleep(0.001)
        wait_s = generator.uniform(0.0, span)
    until = time.monotonic() + wait_s
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.001)
    crash.kill(process, mark, everything=everything)
    return aim


def moment(found: dict[str, bytes], before: dict[str, bytes]) -> str:
    """When a register was hit, by what it left."""
    final = {name: data for name, data in found.items() if not name.startswith(".")}
    if final == before:
        return "while writing" if any(".tmp-" in name for name in found) else "before writing"
    return "after writing" if "run.json" in final else "while putting in place"


def kill_register(lives: Mapping[bool, Life], folder: Path, draw: random.Random, tally: Tally) -> None:
    """One round of ``register``: in an empty place, or over an older run (True of ``lives``)."""
    mark, out = f"{draw.getrandbits(64):x}", folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    over = draw.random() < 0.5
    if over:
        out.mkdir()
        older = older_run(lives[True])
        for name, data in older.items():
            (out / name).write_bytes(data)
    before = older if over else {}
    life = lives[over]
    words = life.words
    everything = draw.random() < 0.5
    aim = strike(life, folder, draw, mark, everything=everything)
    what = f"{' '.join(words)} aimed at {aim}"
    if not crash.gone(mark):
        tally.fault("processes that lived on", what)
    found = crash.contents(out)
    hit = moment(found, before)
    tally.counts[f"register: killed {hit}"] += 1
    for name in crash.partial(found, life.left, before):
        tally.fault("partial files at final paths", f"{name}, {what}, {hit}")
    tally.counts["temporary files the killed left"] += sum(
        not n.endswith(".lock") for n in crash.temporary(found)
    )
    final = any(not name.startswith(".") for name in found)
    if final and not over:  # refused, rightly: then the user says so
        process = crash.begin(words, folder, "", cold=life.cold)
        process.communicate()
        if process.returncode != 73:
            tally.fault("next starts that went wrong", f"not refused, {what}")
        life = lives[True]
    again(life.words, folder, life, tally, what)


def older_run(life: Life) -> dict[str, bytes]:
    """Other files of the same names, with a record that knows them."""
    found = {name: b"older " + data for name, data in life.left.items() if name != "run.json"}
    outputs = {name: {"sha256": crash.sha256(data)} for name, data in found.items()}
    return {**found, "run.json": json.dumps({"outputs": outputs}).encode()}


def again(words: list[str], folder: Path, life: Life, tally: Tally, what: str) -> None:
    """The next start: it succeeds, leaves what an undisturbed run leaves, and nothing else."""
    process = crash.begin(words, folder, "", cold=life.cold)
    err = process.communicate()[1]
    if process.returncode:
        tally.fault("next starts that went wrong", f"{process.returncode}, {what}: {err}")
        return
    found = crash.contents(folder / "out")
    orphans = crash.temporary(found)
    orphans += [str(p) for p in (folder / "out").rglob(".*") if p.is_dir() and p.name != ".work"]
    for name in orphans:
        tally.fault("orphans after the next start", f"{name}, {what}")
    if unlike := crash.differences(outputs(found), outputs(life.left)):
        tally.fault("next starts that went wrong", f"other outputs {unlike}, {what}")


def outputs(found: dict[str, bytes]) -> dict[str, bytes]:
    """The registrations; of a batch without its journal, summary and page, which tell of times."""
    nested = any("/" in name and not name.startswith(".") for name in found)
    return {
        name: data for name, data in found.items() if not name.startswith(".") and ("/" in name or not nested)
    }


def kill_batch(life: Life, folder: Path, draw: random.Random, tally: Tally) -> None:
    """One round of ``batch``."""
    mark, out = f"{draw.getrandbits(64):x}", folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    everything = draw.random() < 0.5
    aim = strike(life, folder, draw, mark, everything=everything)
    what = f"batch, {'all' if everything else 'the coordinator'} killed, aimed at {aim}"
    if not crash.gone(mark):
        tally.fault("processes that lived on", what)
    found = crash.contents(out)
    cases = {Path(name).parts[0] for name in outputs(found) if "/" in name}
    tally.counts[f"batch: killed with {len(cases)} of 3 cases done"] += 1
    tally.counts["temporary files the killed left"] += len(crash.temporary(found))
    for case in cases:
        clean = {Path(n).name: data for n, data in life.left.items() if n.startswith(f"{case}/")}
        there = {Path(n).name: data for n, data in found.items() if n.startswith(f"{case}/")}
        bad = crash.partial(there, clean) + sorted(clean.keys() - there.keys())
        for name in bad:
            tally.fault("partial files at final paths", f"{case}/{name}, {what}")
    for name in ("summary.json", "summary.csv", "failed.csv", "group.csv", "group.html"):
        if name in found and not whole_text(name, found[name]):
            tally.fault("partial files at final paths", f"{name}, {what}")
    again([*life.words, "--resume"], folder, life, tally, what)


def whole_text(name: str, data: bytes) -> bool:
    """Whether a table, a summary or a page has its end."""
    return data.rstrip().endswith(
        {"json": b"}", "html": b"</html>"}.get(name.rsplit(".")[-1], data.rstrip()[-1:])
    )


def campaign(
    rounds: int, seed: int, folder: Path, after: Callable[[int, Tally], None] = lambda number, tally: None
) -> Tally:
    """All rounds; every tenth of ``register`` with a real method and the program as users start it."""
    draw, tally = random.Random(seed), Tally()
    crash.load()
    crash.pair(folder)
    lives: dict[str, dict[bool, Life]] = {}
    for number in range(rounds):
        kind = ("register", "batch")[number % 2]
        kind = {8: "jointaffine", 18: "gaussnewton", 15: "batch, cold"}.get(number % 20, kind)
        if kind == "register" and number % 3:
            kind = "register without a page"
        if kind not in lives:
            lives[kind] = both_lives(kind, folder)
        if kind.startswith("batch"):
            kill_batch(lives[kind][False], folder, draw, tally)
        else:
            kill_register(lives[kind], folder, draw, tally)
        tally.counts[f"rounds of {kind}"] += 1
        print(f"{number + 1}/{rounds} {kind}", file=sys.stderr, flush=True)
        after(number + 1, tally)
    return tally


def both_lives(kind: str, folder: Path) -> dict[bool, Life]:
    """An undisturbed run of a kind of round, without --overwrite (False) and with it (True)."""
    cold, lives = kind in REAL or kind.endswith("cold"), {}
    toys = {"batch": [*crash.TOY, *BATCH], "register": [*crash.TOY, *crash.TOY_REGISTER]}
    words = [*crash.REAL, *REAL[kind]] if kind in REAL else toys[kind.replace(",", "").split()[0]]
    words = [*words, *(["--outputs", NO_PAGE] if kind.endswith("page") else [])]
    shutil.rmtree(folder / "out", ignore_errors=True)
    lives[False] = life_of(words, folder, cold=cold)
    if not kind.startswith("batch"):
        lives[True] = life_of([*words, "--overwrite"], folder, cold=cold)
    return lives


def main() -> None:
    """Run, record, and fail when the law does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    begun = time.monotonic()

    def save(number: int, tally: Tally) -> None:
        if (
            number % 10 == 0 or number == given.rounds
        ):  # a campaign that is stopped leaves what it has found so far
            found = {"SIGKILLs": number, **{name: tally.counts[name] for name in MUST_BE_NONE}}
            found |= dict(sorted(tally.counts.items()))
            record.save(
                "kills", law=LAW, passed=not tally.faults, found=found, seconds=time.monotonic() - begun
            )

    with tempfile.TemporaryDirectory() as folder:
        tally = campaign(given.rounds, given.seed, Path(folder), save)
    sys.exit(bool(tally.faults))


if __name__ == "__main__":
    main()
