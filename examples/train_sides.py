"""Learn to tell left from right: the discriminant that ``neuroreg register`` asks whether a brain is mirrored.

    python examples/train_sides.py ../shared/data/ixi

The folder holds t1/, seg/ and splits.csv; the names of the labels are read from --names. --check FILE.npz (packed by
neuroreg train --prepare, may be repeated) measures the scores of other subjects and of their mirror images.
"""

import argparse
import statistics
import sys
from pathlib import Path

import torch
from torch import Tensor

from neuroreg.io.files import sha256
from neuroreg.methods.affine import AffineMethod
from neuroreg.pipeline.sides import Sides, sides_score
from neuroreg.pipeline.template import load_template
from neuroreg.training.data import PackedSet, load_pack
from neuroreg.training.prepare import pack
from neuroreg.training.publish import LICENCE, TRAINING_DATA, put_record
from neuroreg.training.sides import learn_sides, save_sides, symmetric_template

NAME = "sides-ixi2mm"
ALIGNER = AffineMethod(AffineMethod.Config())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--names", type=Path, help="default: labels/dlmuse.csv beside the folder")
    parser.add_argument("--packed", type=Path, default=Path("runs/ixi2mm-train.npz"))
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--check", type=Path, action="append", default=[])
    parser.add_argument("--varied", type=int, default=2, help="random looks of each subject beside its own")
    given = parser.parse_args()
    torch.set_num_threads(1)  # small matrices: more threads only wait for one another
    names_file = given.names or given.data.parent / "labels" / "dlmuse.csv"
    if not given.packed.is_file():
        pack(given.data, "train", given.packed, names=names_file, progress=_say)
    data = load_pack(given.packed)
    with torch.inference_mode():
        template, grid = symmetric_template(load_template().image, align)
        weights = learn_sides(data, template, align, varied=given.varied, progress=_say)
    target = given.weights / f"{NAME}.safetensors"
    save_sides(template, weights, grid, target)
    sides = Sides(template, weights.to(torch.float16).float())
    numbers: dict[str, object] = {}
    for path in given.check:
        numbers |= check(load_pack(path), sides, path.stem.rpartition("-")[2])
    record = {
        "name": NAME, "kind": "sides", "file": target.name, "sha256": sha256(target), "card": f"{NAME}.md",
        "licence": LICENCE, "training_data": TRAINING_DATA, "spacing_mm": 2.0, "numbers": numbers,
    }  # fmt: skip
    put_record(given.weights / "manifest.json", record)
    print(f"{target}: {numbers}")


def align(fixed: Tensor, moving: Tensor) -> Tensor:
    affine = ALIGNER.predict(fixed, moving).affine
    assert affine is not None
    return affine


def check(data: PackedSet, sides: Sides, split: str) -> dict[str, object]:
    """Lowest and mean score of the subjects, highest of their mirror images."""
    images = [data.image(row) for row in range(len(data))]
    plain = [sides_score(image, sides, ALIGNER) for image in images]
    mirrored = [sides_score(image.flip(-1), sides, ALIGNER) for image in images]
    known = [score for score in plain if score is not None]
    turned = [score for score in mirrored if score is not None]
    found: dict[str, object] = {f"{split}_found": f"{len(known)} and {len(turned)} of {len(data)}"}
    if not known or not turned:
        return found
    return found | {
        f"{split}_mean": round(statistics.fmean(known), 3),
        f"{split}_lowest": round(min(known), 3),
        f"{split}_mirrored_highest": round(max(turned), 3),
    }


def _say(done: int, of: int) -> None:
    print(f"{done} of {of}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
