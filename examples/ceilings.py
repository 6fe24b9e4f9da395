"""How large, how fine, how thick and how small images may be: seconds, memory and what comes of it.

python examples/ceilings.py OUT [--only WORD ...] [--again] [--page examples/LIMITS.md]

The pair is that of `neuroreg demo`: the package's template and a subject made from it by a known map, both read on the
grids of the table, so that anybody can repeat it and the error in mm is known. Every command runs as a process of its
own, one at a time; its memory is that of the process and of all it starts, looked at twenty times a second. OUT gets
ceilings.json: rows that are there are not measured again (`--again` does), and the page is made of them. `--only` takes
the rows whose input or command holds one of the words.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from neuroreg.cohort.process import resident_mb
from neuroreg.io.images import write_image
from neuroreg.io.transforms import read_transform
from neuroreg.pipeline.demo import measure, synthesise
from neuroreg.pipeline.template import load_template
from neuroreg.transforms import Affine, Transform, resample
from neuroreg.volume import Geometry, Volume

PROGRAM = [sys.executable, "-m", "neuroreg"]
LOOK_S = 0.05
THICK = 5  # readings averaged across a thick slice
IDENTITY = Affine(torch.eye(4, dtype=torch.float64))
Row = dict[str, object]


@dataclass(frozen=True)
class Grid:
    """Sides and spacings along the axes of the image as it is, about its middle."""

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]

    def around(self, image: Geometry) -> Geometry:
        """The same sides and spacings with the directions and the middle of another grid."""
        turn = torch.tensor(image.direction, dtype=torch.float64).reshape(3, 3)
        half = [(n - 1) / 2 * h for n, h in zip(self.size, self.spacing, strict=True)]
        x, y, z = (image.centre_mm - turn @ torch.tensor(half, dtype=torch.float64)).tolist()
        return Geometry(self.size, self.spacing, (x, y, z), image.direction)

    def __str__(self) -> str:
        steps = self.spacing if len(set(self.spacing)) > 1 else self.spacing[:1]
        return f"{' x '.join(map(str, self.size))}, {' x '.join(f'{h:g}' for h in steps)} mm"


ISOTROPIC = Grid((192, 224, 192), (1.0, 1.0, 1.0))
FEW, MORE = Grid((512, 512, 7), (0.45, 0.45, 6.0)), Grid((512, 512, 28), (0.45, 0.45, 6.0))
TWENTY = Grid((512, 512, 20), (0.45, 0.45, 6.0))
AIR, HALF = Grid((512, 512, 512), (1.0, 1.0, 1.0)), Grid((512, 512, 512), (0.5, 0.5, 0.5))
FINE, TINY = Grid((480, 560, 480), (0.4, 0.4, 0.4)), Grid((24, 24, 24), (8.0, 8.0, 8.0))
PAIRS = {
    "1 mm": (ISOTROPIC, ISOTROPIC),
    "512^3, 1 mm": (AIR, AIR),
    "512^3, 0.5 mm": (HALF, HALF),
    "0.4 mm": (FINE, FINE),
    "7 slices fixed": (FEW, ISOTROPIC),
    "7 slices moving": (ISOTROPIC, FEW),
    "20 slices fixed": (TWENTY, ISOTROPIC),
    "20 slices moving": (ISOTROPIC, TWENTY),
    "28 slices fixed": (MORE, ISOTROPIC),
    "28 slices moving": (ISOTROPIC, MORE),
    "28 slices both": (MORE, MORE),
    "24^3 both": (TINY, TINY),
}
COMMANDS = ("register", "register --refine mid", "affine", "apply", "evaluate", "report")


@dataclass(frozen=True)
class Known:
    """The pair in full detail and the map between them."""

    fixed: Volume
    moving: Volume
    fixed_labels: Volume
    moving_labels: Volume
    fixed_mask: Volume
    truth: Transform


def known() -> Known:
    """The demo's pair."""
    template = load_template()
    subject, labels, mask, truth = synthesise(template, seed=0)
    moving = template.image.with_data((1000 * template.image.data).round())
    return Known(subject, moving, labels, template.labels, mask, truth)


def read_on(image: Volume, grid: Grid) -> Volume:
    """The image on a grid; slices thicker than its own voxels are averages across them, labels their middles."""
    onto = grid.around(image.geometry)
    if image.is_label or onto.spacing[2] <= 2 * image.geometry.spacing[2]:
        return resample(image, IDENTITY, onto)
    across = torch.tensor(onto.direction, dtype=torch.float64).reshape(3, 3)[:, 2] * onto.spacing[2]
    total = torch.zeros(1, *onto.shape)
    for k in range(THICK):
        x, y, z = (torch.tensor(onto.origin) + across * ((k + 0.5) / THICK - 0.5)).tolist()
        total += resample(image, IDENTITY, replace(onto, origin=(x, y, z))).data
    return Volume((total / THICK).round(), onto)


def files_of(pair: Known, grids: tuple[Grid, Grid], folder: Path) -> dict[str, Path]:
    """The four files of a pair on its grids, written when they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for side, grid in zip(("fixed", "moving"), grids, strict=True):
        for role, image in ((side, getattr(pair, side)), (f"{side}_labels", getattr(pair, f"{side}_labels"))):
            made[role] = folder / f"{role}.nii.gz"
            if not made[role].exists():
                kind = None if image.is_label else "int16"
                write_image(read_on(image, grid), made[role], pixel_type=kind)
    return made


def command(words: str, files: dict[str, Path], out: Path) -> list[str]:
    """The command line of one row; what it needs of an earlier one lies beside it."""
    run, name = out.parent / "register", words.split()[0]
    given = {
        "apply": [run / "transform.h5", "--to", files["fixed"], files["moving"], "-o", f"{out}.nii.gz"],
        "evaluate": [files["fixed_labels"], f"{out}-labels.nii.gz", "--csv", f"{out}.csv"],
        "report": [run, "--inputs", files["fixed"].parent],
    }.get(name, [files["fixed"], files["moving"], "-o", out])
    if name == "evaluate":
        given += ["--transform", run / "transform.h5", "--inverse", run / "inverse.h5"]
    end = ["--overwrite"] if name in ("evaluate", "report") else ["--overwrite", "--quiet"]
    return [name, *words.split()[1:], *map(str, given), *end]


def measured(words: list[str]) -> Row:
    """Seconds and the largest memory (MB) of a command and all it starts, its exit code, the last line it said."""
    begun, peak = time.monotonic(), 0.0
    with subprocess.Popen([*PROGRAM, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        os.set_blocking(process.stderr.fileno(), False)
        said = b""
        while process.poll() is None:
            peak = max(peak, resident_mb(process.pid))
            said += process.stderr.read() or b""
            time.sleep(LOOK_S)
        said += process.stderr.read() or b""
    lines = [line for line in said.decode(errors="replace").splitlines() if "error[" in line]
    return {
        "exit": process.returncode,
        "seconds": round(time.monotonic() - begun, 1),
        "peak_mb": round(peak),
        "said": lines[-1].removeprefix("neuroreg: ") if lines else "",
    }


def estimate_mb(words: list[str]) -> float | None:
    """What the command's own preflight counts with."""
    plan = subprocess.run([*PROGRAM, *words, "--dry-run", "--json"], capture_output=True, check=False)
    return json.loads(plan.stdout)["memory_mb"] if plan.returncode == 0 else None


def outcome(pair: Known, out: Path) -> Row:
    """Verdict of a run and its mean distance from the known map in the brain."""
    record = json.loads((out / "run.json").read_text())
    found = read_transform(out / ("affine.mat" if record["command"] == "affine" else "transform.h5"))
    error = measure(found, pair.truth, pair.moving_labels, pair.fixed_labels, pair.fixed_mask)
    sizes = [one["bytes"] for one in record["outputs"].values()]
    return {
        "verdict": record["qc"]["verdict"],
        "error_mm": round(error.mean_mm, 2),
        "disk_mb": round(sum(sizes) / 1e6),
        "stages": {k: round(v, 1) for k, v in record["seconds"].items()},
    }


def rows(pair: Known, name: str, out: Path, todo: list[str]) -> Iterator[tuple[str, Row]]:
    """Every command of ``todo`` on one pair, in order; those that need a registration come after it."""
    folder = out / name.replace(" ", "-").replace("^", "").replace(",", "")
    files = files_of(pair, PAIRS[name], folder / "inputs")
    for words in todo:
        target = folder / words.replace(" --", "-").replace(" ", "-")
        line = command(words, files, target)
        if words in ("apply", "report") and not (folder / "register" / "run.json").exists():
            continue
        if words == "evaluate":
            if not (folder / "register" / "run.json").exists():
                continue
            moved = Path(f"{target}-labels.nii.gz")
            apply = ["apply", str(folder / "register" / "transform.h5"), "--to", str(files["fixed"])]
            measured([*apply, str(files["moving_labels"]), "--labels", "-o", str(moved), "--overwrite"])
        row = measured(line)
        if words.startswith(("register", "affine")):
            row["estimate_mb"] = estimate_mb(line)
            if row["exit"] == 0:
                row |= outcome(pair, target)
        yield words, row
    shutil.rmtree(folder, ignore_errors=True)


PAGE = """# Limits: what was tried

`python examples/ceilings.py OUT --page examples/LIMITS.md`

The pair of `neuroreg demo` (template and a subject made from it by a known map) on other grids; every command a
process of its own, {cores} cores that had other work too (seconds are upper bounds, good for nothing else), no GPU.
Memory is the largest of the process and all it starts; "counted" is what the command's own check of memory reckons
before it computes. The error is the mean distance from the known map in the
subject's brain; before any registration it is 41 mm. Exit codes are those of the README.

What is refused, with exit code 65 and before anything is computed: fewer than 16 voxels along an axis (so a slab of 7
slices, or a single slice), a field of view below 50 or above 600 mm, more than 768^3 voxels (`--max-voxels` raises it),
a head that spans more than 768 voxels of the network grid. With exit code 75: what the memory cannot hold. The limit
of a container, a batch job or `ulimit -v` counts as the machine's own memory does. Networks and refinement work on a
grid of 1 or 2 mm around the head, so their memory and time do not grow with the resolution or with air; what is written
on the fixed grid does: about 50 bytes a voxel of memory, most of the time, and for the displacement up to 12 bytes a
voxel of disk (`--outputs image,transform` leaves it out). The page shows at most 320 voxels along an axis.

| fixed | moving | command | exit | verdict | error mm | s | peak GB | counted GB | disk MB |
|---|---|---|---|---|---|---|---|---|---|
{rows}
{refused}
"""


def cell(row: Row, name: str, form: str = "", scale: float = 1.0) -> str:
    """One figure of a row, or nothing."""
    value = row.get(name)
    if value is None:
        return ""
    return format(value / scale, form) if isinstance(value, (int, float)) and form else str(value)


def page(found: dict[str, dict[str, Row]]) -> str:
    """The table of all rows, and what the refusals say."""
    lines, refused = [], {}
    for name, grids in PAIRS.items():
        for words, row in found.get(name, {}).items():
            figures = [
                str(row["exit"]), cell(row, "verdict"), cell(row, "error_mm", ".2f"), cell(row, "seconds", ".0f"),
                cell(row, "peak_mb", ".1f", 1e3), cell(row, "estimate_mb", ".1f", 1e3), cell(row, "disk_mb"),
            ]  # fmt: skip
            lines.append(" | ".join(["", *map(str, grids), f"`{words}`", *figures, ""]).strip())
            if row["said"]:
                refused[str(row["said"])] = None
    said = "\n".join(f"    {line}" for line in refused)
    return PAGE.format(
        cores=os.cpu_count(), rows="\n".join(lines), refused=f"\nThe refusals:\n\n{said}" if said else ""
    )


def main() -> None:
    """Measure what is asked for and missing, keep the rest, write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    kept = given.out / "ceilings.json"
    found: dict[str, dict[str, Row]] = json.loads(kept.read_text()) if kept.exists() else {}
    pair = known()
    for name in PAIRS:
        here = found.setdefault(name, {})
        todo = [
            words
            for words in COMMANDS
            if any(word in f"{name} {words}" for word in given.only) and (given.again or words not in here)
        ]
        for words, row in rows(pair, name, given.out, todo) if todo else ():
            here[words] = row
            print(name, words, json.dumps(row), file=sys.stderr, flush=True)
            kept.write_text(json.dumps(found, indent=1))
    text = page(found)
    print(text)
    if given.page:
        given.page.write_text(text)


if __name__ == "__main__":
    main()
