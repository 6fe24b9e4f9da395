"""Two processes at once on one output: exactly one wins, the other says so, and nothing is mixed.

python tests/campaigns/two_writers.py [--rounds 50] [--seed 0]

The two write different things, so that a mixture would show. They start at once or a moment apart.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import crashing as crash
import record

LAW = (
    "Of two processes on one output exactly one succeeds and the other ends with 75 or 73 and one line; the output is "
    "wholly that of the winner, and no temporary file or lock is left. Two that both may replace a file (convert "
    "--overwrite) leave the whole file of one of them."
)
BATCH = ["--affine", "none", "--outputs", "image,transform", "--jobs", "1", "-q"]
AMPLITUDES = ("0.7", "1.5")


@dataclass(frozen=True)
class Duel:
    """Two commands on one output in the folder of the campaign."""

    name: str
    words: tuple[list[str], list[str]]
    output: str
    over: bool = False
    """an older output is there, and both may replace it"""
    locked: bool = True
    """two at once are one too many, even where both may replace"""


@dataclass
class Tally:
    """What was counted, and where the law did not hold."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def fault(self, what: str) -> None:
        """Note it, and say it."""
        self.faults.append(what)
        print(f"FAULT {what}", file=sys.stderr, flush=True)


def duels() -> tuple[Duel, ...]:
    """What is tried, in turn."""
    toy = [*crash.TOY]
    files = ["--outputs", "image,field,transform,inverse,affine,jacobian"]
    one, other = (
        [*toy, *crash.TOY_REGISTER, *files, "--set", f"amplitude={amplitude}"] for amplitude in AMPLITUDES
    )
    first, second = (
        [*toy, "batch", f"cases{amplitude}.csv", "-o", "out", *BATCH] for amplitude in AMPLITUDES
    )
    fixed, moving = ([*toy, "convert", f"{side}.nii.gz", "out.nii.gz"] for side in ("fixed", "moving"))
    return (
        Duel("register", (one, other), "out"),
        Duel("convert", (fixed, moving), "out.nii.gz"),
        Duel("register --overwrite", ([*one, "--overwrite"], [*other, "--overwrite"]), "out", over=True),
        Duel("batch", (first, second), "out"),
        Duel("convert --overwrite", ([*fixed, "--overwrite"], [*moving, "--overwrite"]), "out.nii.gz",
             over=True, locked=False),
    )  # fmt: skip


def remove(path: Path) -> None:
    """A file or a folder, whether or not it is there."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def left(folder: Path, output: str) -> dict[str, bytes]:
    """The output: the files of a run or of the cases of a batch, or the one file; temporary files beside it too."""
    place = folder / output
    if place.is_dir():
        found = crash.contents(place)
        nested = any(name.endswith("/run.json") for name in found)
        return {
            name: data for name, data in found.items() if not nested or "/" in name or name.startswith(".")
        }
    beside = [path for path in folder.iterdir() if ".tmp-" in path.name]
    return {path.name: path.read_bytes() for path in (*beside, place) if path.is_file()}


def fight(duel: Duel, folder: Path, older: Path | None, draw: random.Random) -> list[tuple[int, str]]:
    """Both commands at once: exit code and error stream of each."""
    remove(folder / duel.output)
    if older is not None:
        (shutil.copytree if older.is_dir() else shutil.copyfile)(older, folder / duel.output)
    order = draw.sample((0, 1), 2)
    running = {}
    for number in order:
        running[number] = crash.begin(duel.words[number], folder, "", cold=False)
        time.sleep(draw.choice((0.0, draw.uniform(0.0, 0.05), draw.uniform(0.0, 0.4))))
    told = {number: running[number].communicate()[1] for number in order}
    return [(int(running[number].returncode or 0), told[number]) for number in (0, 1)]


def judge(
    duel: Duel, told: list[tuple[int, str]], found: dict[str, bytes], clean: list[dict[str, bytes]]
) -> list[str]:
    """What of the law does not hold."""
    faults = []
    codes = [code for code, _ in told]
    winners = [number for number in (0, 1) if codes[number] == 0]
    if len(winners) != 1 and (duel.locked or len(winners) != 2):
        faults.append(f"the exit codes are {codes}")
    for code, err in told:
        if code and not (code in (73, 75) and crash.one_line(err, code)):
            faults.append(f"the loser said {code}: {err}")
    for name in crash.temporary(found):
        faults.append(f"left: {name}")
    whole = {name: data for name, data in found.items() if not name.startswith(".")}
    if all(crash.differences(whole, clean[number]) for number in winners):
        faults.append("the output is not that of a winner")
    return faults


def campaign(
    rounds: int, seed: int, folder: Path, after: Callable[[int, Tally], None] = lambda number, tally: None
) -> Tally:
    """All rounds, the duels in turn."""
    draw, tally = random.Random(seed), Tally()
    crash.load()
    crash.pair(folder)
    for amplitude in AMPLITUDES:
        text = (folder / "cases.csv").read_text().splitlines()[:3]
        rows = [line.rpartition(",")[0] + f",amplitude={amplitude}" for line in text[1:]]
        (folder / f"cases{amplitude}.csv").write_text("\n".join([text[0], *rows]) + "\n")
    clean: dict[str, list[dict[str, bytes]]] = {}
    for number in range(rounds):
        duel = duels()[number % len(duels())]
        suffix = "".join(Path(duel.output).suffixes)
        older = folder / f"older {duel.name.replace(' ', '')}{suffix}"
        if duel.name not in clean:
            clean[duel.name] = [alone(words, duel, folder, older) for words in duel.words]
        told = fight(duel, folder, older if duel.over else None, draw)
        for fault in judge(duel, told, left(folder, duel.output), clean[duel.name]):
            tally.fault(f"{duel.name}: {fault}")
        codes = sorted(code for code, _ in told)
        tally.counts[f"{duel.name}: exit codes {codes[0]} and {codes[1]}"] += 1
        print(f"{number + 1}/{rounds} {duel.name} {codes}", file=sys.stderr, flush=True)
        after(number + 1, tally)
    return tally


def alone(words: list[str], duel: Duel, folder: Path, older: Path) -> dict[str, bytes]:
    """What a command leaves when it is alone; kept aside as what is there before, too."""
    place = folder / duel.output
    remove(place)
    process = crash.begin(words, folder, "", cold=False)
    err = process.communicate()[1]
    if process.returncode:
        raise SystemExit(f"the undisturbed {duel.name} failed: {err}")
    found = left(folder, duel.output)
    remove(older)
    place.rename(older)
    return {name: data for name, data in found.items() if not name.startswith(".")}


def main() -> None:
    """Run, record, and fail when the law does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    begun = time.monotonic()

    def save(number: int, tally: Tally) -> None:
        if (
            number % 5 == 0 or number == given.rounds
        ):  # a campaign that is stopped leaves what it has found so far
            found = {"rounds": number, "faults": len(tally.faults), **dict(sorted(tally.counts.items()))}
            seconds = time.monotonic() - begun
            record.save("two_writers", law=LAW, passed=not tally.faults, found=found, seconds=seconds)

    with tempfile.TemporaryDirectory() as folder:
        tally = campaign(given.rounds, given.seed, Path(folder), save)
    sys.exit(bool(tally.faults))


if __name__ == "__main__":
    main()
