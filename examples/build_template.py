"""Build the template from the labelled heads of the training split.

    python examples/build_template.py ../shared/data/ixi

The folder holds t1/, seg/ and splits.csv; the names of the labels are read from --names. What has been computed is
kept in --cache, so the command can be stopped and run again.
"""

import argparse
import sys
from pathlib import Path

import torch

from neuroreg.io.files import sha256
from neuroreg.io.tables import read_label_names
from neuroreg.training.data import load_pack
from neuroreg.training.prepare import pack
from neuroreg.training.publish import put_record
from neuroreg.training.template import build, overlap, save

NAME = "template-ixi2mm"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--names", type=Path, help="default: labels/dlmuse.csv beside the folder")
    parser.add_argument("--packed", type=Path, default=Path("runs/ixi2mm-train.npz"))
    parser.add_argument("--cache", type=Path, default=Path("runs") / NAME)
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument(
        "--check", type=Path, help="packed subjects on which to measure the overlap of regions"
    )
    parser.add_argument("--subset", type=int, default=20, help="subjects in all rounds but the last")
    parser.add_argument("--rounds", type=int, default=10, help="at most so many rounds on the subset")
    given = parser.parse_args()
    torch.set_num_threads(1)  # small matrices: more threads only wait for one another
    names_file = given.names or given.data.parent / "labels" / "dlmuse.csv"
    if not given.packed.is_file():
        pack(given.data, "train", given.packed, names=names_file, progress=lambda done, all_: None)
    data, names = load_pack(given.packed), read_label_names(names_file)
    template = build(
        data, given.cache, named=set(names), subset=given.subset, rounds=given.rounds, progress=_say
    )
    target = given.weights / f"{NAME}.safetensors"
    save(template, target, names=names)
    sharpness = [round(value, 5) for value in template.sharpness]
    numbers: dict[str, object] = {
        "sharpness_per_round": sharpness,
        "regions": int((template.labels.unique() > 0).sum()),
        "brain_litres": round(float(template.mask.sum()) * 8e-6, 3),
    }
    if given.check is not None:
        dice = overlap(template, load_pack(given.check), progress=_say)
        numbers["dice_affine"], numbers["dice_aligned"] = (round(value, 4) for value in dice)
    record = {
        "name": NAME,
        "kind": "template",
        "file": target.name,
        "sha256": sha256(target),
        "card": f"{NAME}.md",
        "licence": "CC BY-SA 3.0",
        "training_data": f"IXI (brain-development.org), training split, {template.subjects} subjects; "
        "labels from the NiChart project",
        "spacing_mm": 2.0,
        "numbers": numbers,
    }
    put_record(given.weights / "manifest.json", record)
    print(f"{target}: {template.subjects} subjects, {numbers}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
