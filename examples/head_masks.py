"""Registration of whole heads onto the template: with the brain found by --find-brain, and with the true brain mask.

python examples/head_masks.py DATA OUT [--split test] [--pairs 10] [--method neuroreg]

DATA holds ixi (whole heads) and oasis (stripped): folders with t1, seg and splits.csv. The true mask is the union of
the labels, closed and filled. Dice is the mean over the regions that the template has too; overlap the Dice of the
two masks, covered the share of the true brain inside the mask that was found; seconds those of finding it alone. OUT
gets rows.csv and the runs. Two stripped images of OASIS follow: in them nothing is looked for.
"""

import argparse
import csv
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from neuroreg.cohort.template import template_files
from neuroreg.io.images import read_image, read_labels, write_image
from neuroreg.io.tables import Cell, write_csv
from neuroreg.pipeline.head_mask import find_brain
from neuroreg.preprocess import brain
from neuroreg.volume import Volume

COLUMNS = ("id", "dice_true", "dice_found", "verdict", "overlap", "covered", "seconds", "reasons")
CLOSED_VOXELS = 2


def subjects(folder: Path, split: str) -> list[str]:
    """The ids of one split, in the order of the table."""
    with (folder / "splits.csv").open(encoding="utf-8") as table:
        return [row["id"] for row in csv.DictReader(table) if row["split"] == split]


def register(fixed: Path, folder: Path, name: str, out: Path, *options: str) -> dict[str, object]:
    """The whole record of one run of ``neuroreg register`` onto the template."""
    labels = fixed.with_name(fixed.name.replace(".nii.gz", "_labels.nii.gz"))
    words = [fixed, folder / "t1" / f"{name}.nii.gz", "-o", out, "--overwrite", "--outputs", "image"]
    words += ["--fixed-labels", labels, "--moving-labels", folder / "seg" / f"{name}.nii.gz", "-q", *options]
    subprocess.run(
        [sys.executable, "-m", "neuroreg", "register", *map(str, words)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    record: dict[str, object] = json.loads((out / "run.json").read_text(encoding="utf-8"))
    return record


def quality(record: dict[str, object], figure: str) -> float:
    """One figure of a run."""
    found = record["qc"]
    assert isinstance(found, dict)
    return round(float(found[figure]), 4)


def whole_head(fixed: Path, folder: Path, name: str, out: Path, method: str) -> dict[str, Cell]:
    """One row: the same head with the true mask and with the mask that is found."""
    head = read_image(folder / "t1" / f"{name}.nii.gz").volume
    labels = read_labels(folder / "seg" / f"{name}.nii.gz").volume
    true = brain.close_and_fill(labels.data > 0, radius=CLOSED_VOXELS)
    mask = out / f"{name}_true.nii.gz"
    write_image(Volume(true.to(torch.uint8), labels.geometry, is_label=True), mask, overwrite=True)
    clock = time.perf_counter()
    found = find_brain(head).data > 0
    seconds = time.perf_counter() - clock
    both = float((found & true).sum())
    given = register(
        fixed, folder, name, out / f"{name}_given", "--method", method, "--moving-mask", str(mask)
    )
    made = register(fixed, folder, name, out / f"{name}_made", "--method", method, "--find-brain")
    judged = made["qc"]
    assert isinstance(judged, dict)
    return {
        "id": name,
        "dice_true": quality(given, "dice_mean"),
        "dice_found": quality(made, "dice_mean"),
        "verdict": f"{judged['verdict']}",
        "overlap": round(2 * both / float(found.sum() + true.sum()), 4),
        "covered": round(both / float(true.sum()), 4),
        "seconds": round(seconds, 2),
        "reasons": "; ".join(map(str, judged["reasons"])),
    }


def stripped(fixed: Path, folder: Path, name: str, out: Path, method: str) -> str:
    """What --find-brain does to an image without a skull, in one line."""
    runs = [
        register(
            fixed, folder, name, out / f"{name}_{word or 'plain'}", "--method", method, *filter(None, [word])
        )
        for word in ("", "--find-brain")
    ]
    dice = [quality(run, "dice_mean") for run in runs]
    written = [run["outputs"] for run in runs]
    same = all(isinstance(one, dict) for one in written) and written[0] == written[1]
    said = "looked for" if runs[1].get("brain_weights") else "not looked for"
    return f"{name}: the brain was {said}, outputs {'the same' if same else 'DIFFER'}, Dice {dice[0]} and {dice[1]}"


def summary(rows: list[dict[str, Cell]]) -> Iterator[str]:
    """The means."""
    for name in COLUMNS[1:3] + COLUMNS[4:7]:
        values = np.array([float(str(row[name])) for row in rows])
        yield f"{name:10} mean {values.mean():.4f}, least {values.min():.4f}, most {values.max():.4f}"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--pairs", type=int, default=10, help="heads, each onto the template")
    parser.add_argument("--method", default="neuroreg")
    parser.add_argument("--stripped", type=int, default=2, help="images of OASIS")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    fixed, prepare = template_files(given.out)
    prepare()
    rows: list[dict[str, Cell]] = []
    for name in subjects(given.data / "ixi", given.split)[: given.pairs]:
        rows.append(whole_head(fixed, given.data / "ixi", name, given.out, given.method))
        write_csv(given.out / "rows.csv", COLUMNS, rows, overwrite=True)
        print(*rows[-1].values(), flush=True)
    for line in summary(rows):
        print(line)
    for name in subjects(given.data / "oasis", "bench")[: given.stripped] if given.stripped else ():
        print(stripped(fixed, given.data / "oasis", name, given.out, given.method), flush=True)


if __name__ == "__main__":
    main()
