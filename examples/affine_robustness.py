"""How far the affine can be led astray: turned, shifted and re-stored moving images against the same pair as it is.

python examples/affine_robustness.py FIXED MOVING [FIXED_LABELS MOVING_LABELS]
python examples/affine_robustness.py --folder DATA --split retest --pairs 3

For every pair the affine is found once, then again with the moving image turned by --degrees about random axes and
shifted by --shift mm in random directions (--starts times), and stored in seven other axis orders. All answers describe
one head, so they should agree: printed are the mean distance over the fixed brain (mm) and the Dice of the labels.
A failure is a distance above 1 mm or a Dice that falls by more than .005.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from neuroreg.benchmark_pairs import folder_pairs
from neuroreg.io.images import read_image, read_labels
from neuroreg.methods.affine import AffineMethod
from neuroreg.metrics.segmentation import mean_dice
from neuroreg.preprocess.conform import Conformed, affine_to_world, conform
from neuroreg.transforms import Affine, resample
from neuroreg.volume import Geometry, Volume

ORDERS = ("RAS", "LPS", "PSR", "LIA", "SAR", "RPI", "PIR")
LARGEST_MM = 1.0
LARGEST_FALL = 0.005
TOWARDS = {
    "L": (0, 1),
    "R": (0, -1),
    "P": (1, 1),
    "A": (1, -1),
    "S": (2, 1),
    "I": (2, -1),
}  # LPS axis and sign


def turned(
    image: Volume, degrees: float, shift_mm: float, random: np.random.Generator
) -> tuple[Volume, Affine]:
    """The image moved in its space by a random rotation about its middle and a random shift, and that motion."""
    axis, way = (v / np.linalg.norm(v) for v in random.standard_normal((2, 3)))
    x, y, z = np.radians(degrees) * axis
    turn = torch.linalg.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64))
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3] = turn
    motion[:3, 3] = (
        image.geometry.centre_mm - turn @ image.geometry.centre_mm + shift_mm * torch.from_numpy(way)
    )
    return relaid(image, motion @ image.geometry.voxel_to_world), Affine(motion)


def stored(image: Volume, order: str) -> Volume:
    """The same head with its voxel axes running towards the three letters of ``order`` (RAS: right, anterior, up)."""
    matrix = image.geometry.voxel_to_world
    along = matrix[:3, :3].abs().argmax(dim=1).tolist()  # the voxel axis nearest to each world axis
    axes = [along[TOWARDS[letter][0]] for letter in order]
    data = image.data.permute(0, *(3 - axes[k] for k in (2, 1, 0)))
    matrix = matrix[:, [*axes, 3]].clone()
    for axis, letter in enumerate(order):
        world, sign = TOWARDS[letter]
        if float(matrix[world, axis]) * sign < 0:
            data = data.flip(3 - axis)
            matrix[:, 3] += matrix[:, axis] * (data.shape[3 - axis] - 1)
            matrix[:, axis] *= -1
    return relaid(image, matrix, data)


def relaid(image: Volume, matrix: torch.Tensor, data: torch.Tensor | None = None) -> Volume:
    """Data on the grid of a voxel-to-LPS matrix (4, 4)."""
    data = image.data if data is None else data.contiguous()
    spacing = matrix[:3, :3].norm(dim=0)
    cosines = (matrix[:3, :3] / spacing).reshape(-1).tolist()
    x, y, z = matrix[:3, 3].tolist()
    where = Geometry(tuple(data.shape[:0:-1]), tuple(spacing.tolist()), (x, y, z), tuple(cosines))
    return Volume(data, where, is_label=image.is_label)


def changes(
    moving: Volume, degrees: float, shift_mm: float, starts: int
) -> Iterator[tuple[str, Volume, Affine]]:
    """(what was done, the changed image, how it was moved)."""
    random = np.random.default_rng(0)
    for number in range(starts):
        yield f"start {number}", *turned(moving, degrees, shift_mm, random)
    for order in ORDERS:
        yield order, stored(moving, order), Affine(torch.eye(4, dtype=torch.float64))


@torch.inference_mode()
def find(fixed: Volume, moving: Volume) -> tuple[Affine, Conformed]:
    """The affine as ``neuroreg affine`` finds it, and the pair it was found on."""
    pair = conform(fixed, moving, spacing_mm=2.0, divisor=8)
    affine = AffineMethod().predict(pair.fixed, pair.moving).affine
    assert affine is not None
    return affine_to_world(affine, pair.fixed_grid, pair.moving_grid), pair


def dice(labels: tuple[Volume, Volume] | None, affine: Affine) -> float | None:
    """Mean Dice after the affine, labels read once by nearest neighbour."""
    if labels is None:
        return None
    fixed, moving = labels
    return mean_dice(fixed.data, resample(moving, affine, fixed.geometry).data)


def examine(
    paths: tuple[Path, ...], *, degrees: float, shift_mm: float, starts: int
) -> list[dict[str, object]]:
    """One row for the pair as it is and one for every change."""
    fixed, moving = (read_image(path).volume for path in paths[:2])
    labels = (read_labels(paths[2]).volume, read_labels(paths[3]).volume) if len(paths) == 4 else None
    begun = time.process_time()
    plain, pair = find(fixed, moving)
    best, points = dice(labels, plain), pair.fixed_grid.points()[pair.fixed_mask[0, 0]]
    name = f"{paths[1].name} to {paths[0].name}"
    rows: list[dict[str, object]] = [
        {"pair": name, "change": "none", "dice": best, "cpu_s": round(time.process_time() - begun, 2)}
    ]
    for what, changed, motion in changes(moving, degrees, shift_mm, starts):
        begun = time.process_time()
        found, _ = find(fixed, changed)
        spent = round(time.process_time() - begun, 2)
        found = Affine(motion.inverse().matrix @ found.matrix)
        apart, overlap = float((found(points) - plain(points)).norm(dim=-1).mean()), dice(labels, found)
        fell = best is not None and overlap is not None and overlap < best - LARGEST_FALL
        failed = apart > LARGEST_MM or fell
        rows.append(
            {
                "pair": name,
                "change": what,
                "dice": overlap,
                "cpu_s": spent,
                "apart_mm": apart,
                "failed": failed,
            }
        )
    return rows


def summary(rows: list[dict[str, object]]) -> dict[str, object]:
    """What the rows say together."""
    changed = [row for row in rows if row["change"] != "none"]
    plain = {row["pair"]: row["dice"] for row in rows if row["change"] == "none"}
    falls = [float(plain[r["pair"]]) - float(r["dice"]) for r in changed if r["dice"] is not None]
    return {
        "pairs": len(plain),
        "runs": len(changed),
        "failures": sum(bool(row["failed"]) for row in changed),
        "apart_mean_mm": round(float(np.mean([row["apart_mm"] for row in changed])), 3),
        "apart_max_mm": round(float(np.max([row["apart_mm"] for row in changed])), 3),
        "dice_largest_fall": round(max(falls), 4) if falls else None,
        "cpu_s_mean": round(float(np.mean([row["cpu_s"] for row in rows])), 2),
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="*", type=Path, help="fixed, moving, and their labels")
    parser.add_argument("--folder", type=Path, help="a folder with t1, seg and splits.csv")
    parser.add_argument("--split", default="retest")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--starts", type=int, default=6)
    parser.add_argument("--degrees", type=float, default=40.0)
    parser.add_argument("--shift", type=float, default=40.0, help="mm")
    given = parser.parse_args()
    todo = [tuple(given.images)] if given.images else []
    if given.folder:
        found = folder_pairs(given.folder, given.split)
        chosen = [found[round(k * len(found) / given.pairs)] for k in range(min(given.pairs, len(found)))]
        todo += [(pair.fixed, pair.moving, pair.fixed_labels, pair.moving_labels) for pair in chosen]
    if not todo or any(len(paths) not in (2, 4) for paths in todo):
        parser.error("give FIXED MOVING [FIXED_LABELS MOVING_LABELS], or --folder")
    rows = []
    for paths in todo:
        for row in examine(paths, degrees=given.degrees, shift_mm=given.shift, starts=given.starts):
            rows.append(row)
            print(
                json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}),
                flush=True,
            )
    print(json.dumps(summary(rows)))


if __name__ == "__main__":
    main()
