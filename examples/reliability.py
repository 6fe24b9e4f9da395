"""Laws that a registration should keep whatever the pair: measured on real scans, for every method.

python examples/reliability.py DATA OUT [--pairs 2] [--oasis 1] [--methods NAME ...] [--page examples/RELIABILITY.md]

DATA holds ixi (split test, stripped by its labels, 2 mm) and oasis (split bench, 1 mm): folders with t1, seg and
splits.csv. A method is the name of one, or `NAME+EFFORT` with a refinement after it. OUT gets reliability.json: laws
that are there are not measured again (`--again` does), and the page is made of them. Distances are of mapped points,
over the voxels of the fixed brain at 2 mm.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from scipy import ndimage
from torch import Tensor

from neuroreg.benchmark_pairs import folder_pairs
from neuroreg.io.images import read_image, read_labels
from neuroreg.pipeline import resources
from neuroreg.pipeline.align import Alignment, align
from neuroreg.pipeline.config import RegisterConfig
from neuroreg.pipeline.engine import Engine, load_engine
from neuroreg.pipeline.inputs import Inputs
from neuroreg.pipeline.record import Clock, silent
from neuroreg.preprocess.brain import close_and_fill
from neuroreg.preprocess.conform import conform
from neuroreg.transforms import Affine, resample
from neuroreg.volume import Geometry, Volume

METHODS = (
    "affine", "jointaffine", "gaussnewton", "neuroreg", "neuroreg+mid",
    "voxelmorph", "ldgnet", "dualflow", "dualprnet", "simcnn",
)  # fmt: skip
ON_OASIS = ("affine", "jointaffine", "gaussnewton", "neuroreg", "neuroreg+mid")
IDENTITY = Affine(torch.eye(4, dtype=torch.float64))
AXIS = (0.48, -0.64, 0.6)
WAY = (0.6, 0.0, -0.8)
STRIPPED_VOXELS = 2
Figures = dict[str, float | str]


@dataclass(frozen=True)
class Pair:
    """Two brains."""

    name: str
    fixed: Volume
    moving: Volume


@cache
def engine(name: str, device: str = "cpu") -> tuple[RegisterConfig, Engine]:
    """A method made ready."""
    method, _, effort = name.partition("+")
    files = {"fixed": Path("fixed"), "moving": Path("moving")}
    config = RegisterConfig(**files, method=method, refine=effort or None, device=device)
    return config, load_engine(config)


def register(name: str, fixed: Volume, moving: Volume, device: str = "cpu") -> Alignment:
    """The maps between two images, by the stages of `neuroreg register`."""
    inputs = Inputs({}, fixed, moving, None, None, ())
    return align(*engine(name, device)[:1], inputs, engine(name, device)[1], Clock(silent))


def motion(degrees: float, shift_mm: float, about: Tensor) -> Affine:
    """A turn about an oblique axis through a point (3,) LPS mm, then a shift along another oblique line."""
    x, y, z = (math.radians(degrees) * part for part in AXIS)
    turn = torch.linalg.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64))
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = turn
    matrix[:3, 3] = about - turn @ about + shift_mm * torch.tensor(WAY, dtype=torch.float64)
    return Affine(matrix)


def carried(image: Volume, move: Affine) -> Volume:
    """The same voxels where the motion takes them: only the header changes."""
    return relaid(image.data, move.matrix @ image.geometry.voxel_to_world)


def relaid(data: Tensor, matrix: Tensor) -> Volume:
    """data (1, Z, Y, X) on the grid of a voxel-to-LPS matrix (4, 4)."""
    spacing = matrix[:3, :3].norm(dim=0)
    x, y, z = matrix[:3, 3].tolist()
    cosines = tuple((matrix[:3, :3] / spacing).reshape(-1).tolist())
    return Volume(data, Geometry(tuple(data.shape[:0:-1]), tuple(spacing.tolist()), (x, y, z), cosines))


def regridded(image: Volume, move: Affine, spacing: tuple[float, float, float] | None = None) -> Volume:
    """The moved image read anew on a grid along the world's axes by cubic splines; ``spacing`` mm, by default its own.

    A linear reading would blur by how far each voxel lies from the old ones: that is no motion of a head.
    """
    place = carried(image, move).geometry
    ends = torch.cartesian_prod(*(torch.tensor([0.0, n - 1.0], dtype=torch.float64) for n in place.size))
    corners = ends @ place.voxel_to_world[:3, :3].T + place.voxel_to_world[:3, 3]
    low, high = corners.amin(dim=0), corners.amax(dim=0)
    steps = spacing or (min(image.geometry.spacing),) * 3
    size = [math.ceil(float(high[a] - low[a]) / steps[a]) + 1 for a in range(3)]
    x, y, z = low.tolist()
    grid = Geometry((size[0], size[1], size[2]), steps, (x, y, z))
    back = (place.world_to_voxel @ grid.voxel_to_world).numpy()
    turn, first = back[:3, :3][::-1, ::-1], back[:3, 3][::-1]
    cubic = ndimage.affine_transform(
        image.data[0].double().numpy(), turn, first, output_shape=grid.shape, order=3
    )
    inside = resample(image, move.inverse(), grid).data > 0  # the background stays what it is: splines ring
    return Volume(torch.from_numpy(cubic).to(torch.float32)[None].clamp_min(0) * inside, grid)


def stored(image: Volume, axes: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> Volume:
    """The same head with its voxel axes in another order, some of them run the other way."""
    data = image.data.permute(0, *(3 - axes[k] for k in (2, 1, 0)))
    matrix = image.geometry.voxel_to_world[:, [*axes, 3]].clone()
    for axis, flip in enumerate(flips):
        if flip:
            data = data.flip(3 - axis)
            matrix[:, 3] += matrix[:, axis] * (data.shape[3 - axis] - 1)
            matrix[:, axis] *= -1
    return relaid(data.contiguous(), matrix)


def brain_points(found: Alignment) -> Tensor:
    """LPS mm (N, 3) of the fixed brain's voxels at 2 mm."""
    return found.coarse.fixed_grid.points()[found.coarse.fixed_mask[0, 0]]


def apart(one: Tensor, two: Tensor, unit_mm: float = 1.0) -> Figures:
    """Distances of points (N, 3) mm, in units of ``unit_mm``."""
    lengths = (one - two).norm(dim=-1) / unit_mm
    return {"mean": float(lengths.mean()), "max": float(lengths.max())}


def worst(found: list[Figures]) -> Figures:
    """The largest of each figure."""
    return {key: max(one[key] for one in found) for key in found[0]}


Law = Callable[[str, Pair, Alignment], Figures]


def threads(name: str, pair: Pair, plain: Alignment) -> Figures:
    """Three times with 1, 2 and 4 threads, voxels of the network grid."""
    points, unit = brain_points(plain), engine(name)[1].method.spacing_mm
    before, rows = torch.get_num_threads(), []
    try:
        for count in (1, 2, 4):
            resources.set_up(threads=count, deterministic=False)
            again = register(name, pair.fixed, pair.moving)
            rows.append(apart(again.transform(points), plain.transform(points), unit))
    finally:
        resources.set_up(threads=before, deterministic=False)
    return worst(rows)


@torch.inference_mode()
def batch(name: str, pair: Pair, plain: Alignment) -> Figures:
    """The pair first and second of a batch with its own exchange, against alone: voxels, whole grid."""
    method = engine(name)[1].method
    done = conform(pair.fixed, pair.moving, spacing_mm=method.spacing_mm, divisor=method.divisor)
    sides = [max(a, b) for a, b in zip(done.fixed.shape[2:], done.moving.shape[2:], strict=True)]

    def padded(image: Tensor) -> Tensor:
        return torch.nn.functional.pad(
            image, [n for a in (4, 3, 2) for n in (0, sides[a - 2] - image.shape[a])]
        )

    one, two = padded(done.fixed), padded(done.moving)
    torch.manual_seed(0)
    alone = [method.predict(*images) for images in ((one, two), (two, one))]
    both = method.predict(torch.cat((one, two)), torch.cat((two, one)))
    gaps = [both.displacement[b] - alone[b].displacement[0] for b in range(2)]
    if both.affine is not None:
        ends = torch.tensor([n - 1.0 for n in sides])
        gaps += [
            (both.affine[b] - alone[b].affine[0]) @ torch.cat((ends, torch.ones(1)))[:, None]
            for b in range(2)
        ]
    lengths = [gap.norm(dim=0) for gap in gaps]
    return {
        "mean": float(max(x.mean() for x in lengths)),
        "max": float(max(x.max() for x in lengths)) * 2**both.level,
    }


def graphics_card(name: str, pair: Pair, plain: Alignment) -> Figures:
    """CPU against CUDA, voxels of the network grid."""
    if not torch.cuda.is_available():
        return {"note": "no GPU here"}
    points, unit = brain_points(plain), engine(name)[1].method.spacing_mm
    there = register(name, pair.fixed, pair.moving, "cuda")
    return apart(there.transform(points), plain.transform(points), unit)


def order(name: str, pair: Pair, plain: Alignment) -> Figures:
    """Both files stored otherwise, three ways: mm."""
    points = brain_points(plain)
    ways = (((0, 1, 2), (True, True, False)), ((2, 0, 1), (False,) * 3), ((1, 0, 2), (False, True, True)))
    rows = []
    for axes, flips in ways:
        again = register(name, stored(pair.fixed, axes, flips), stored(pair.moving, axes, flips))
        rows.append(apart(again.transform(points), plain.transform(points)))
    return worst(rows)


def conjugated(name: str, plain: Alignment, move: Affine, pair: tuple[Volume, Volume]) -> Figures:
    """The map between moved images, taken back, against the map between the images."""
    points = brain_points(plain)
    moved = register(name, *pair)
    return apart(move.inverse()(moved.transform(move(points))), plain.transform(points))


def moved_by_header(degrees: float, shift_mm: float) -> Law:
    """Both heads moved by their headers alone: mm."""

    def law(name: str, pair: Pair, plain: Alignment) -> Figures:
        move = motion(degrees, shift_mm, pair.fixed.geometry.centre_mm)
        return conjugated(name, plain, move, (carried(pair.fixed, move), carried(pair.moving, move)))

    return law


def moved_and_regridded(name: str, pair: Pair, plain: Alignment) -> Figures:
    """Both heads moved and read anew: mm."""
    move = motion(10.0, 12.0, pair.fixed.geometry.centre_mm)
    return conjugated(name, plain, move, (regridded(pair.fixed, move), regridded(pair.moving, move)))


def exchange(name: str, pair: Pair, plain: Alignment) -> Figures:
    """There and back by two registrations: mm; beside it, what the run's own inverse misses by."""
    points = brain_points(plain)
    there = plain.transform(points)
    back = register(name, pair.moving, pair.fixed)
    own = apart(plain.inverse()(there), points)
    return {**apart(back.transform(there), points), "own_mean": own["mean"], "own_max": own["max"]}


def itself(name: str, pair: Pair, plain: Alignment) -> Figures:
    """A scan to itself: mm."""
    found = register(name, pair.fixed, pair.fixed)
    points = brain_points(found)
    return apart(found.transform(points), points)


def known_motion(spacing: tuple[float, float, float] | None, degrees: float, shift_mm: float) -> Law:
    """A scan to a moved copy of it on another grid: mm from the motion. ``spacing``: factors on the scan's own."""

    def law(name: str, pair: Pair, plain: Alignment) -> Figures:
        move = motion(degrees, shift_mm, pair.fixed.geometry.centre_mm)
        step = min(pair.fixed.geometry.spacing)
        steps = None if spacing is None else tuple(step * s for s in spacing)
        found = register(name, pair.fixed, regridded(pair.fixed, move, steps))
        points = brain_points(found)
        return apart(found.transform(points), move(points))

    return law


LAWS: Mapping[str, tuple[Law, str, str, float | None]] = {
    "threads": (threads, "1, 2 and 4 threads", "max", 1e-4),
    "batch": (batch, "alone and in a batch of 2", "max", None),
    "gpu": (graphics_card, "CPU and GPU", "max", 1e-3),
    "order": (order, "axes stored in other orders", "max", 1e-3),
    "itself": (itself, "a scan to itself", "max", 0.1),
    "copy": (known_motion(None, 12.0, 15.0), "to its moved copy, re-gridded", "mean", 0.2),
    "coarse copy": (known_motion((1.0, 1.2, 1.8), 12.0, 15.0), "the same, anisotropic", "mean", 0.2),
    "shift": (moved_by_header(0.0, 12.3), "both shifted by header", "mean", 0.1),
    "turn 5": (moved_by_header(5.0, 10.0), "both turned by 5 degrees by header", "mean", 0.1),
    "turn 20": (moved_by_header(20.0, 30.0), "both turned by 20 degrees by header", "mean", 0.1),
    "regrid": (moved_and_regridded, "both turned by 10 degrees and re-gridded", "mean", 0.1),
    "exchange": (exchange, "there and back by two runs", "mean", None),
}
"""Short name -> what measures it, its words, the figure that is judged and its bound."""


def pairs(data: Path, ixi: int, oasis: int) -> Iterator[Pair]:
    """The first pairs of either set."""
    for folder, split, count in (("ixi", "test", ixi), ("oasis", "bench", oasis)):
        for found in folder_pairs(data / folder, split)[:count] if count else ():
            images = []
            for scan, labels in ((found.fixed, found.fixed_labels), (found.moving, found.moving_labels)):
                image = read_image(scan).volume
                if folder == "ixi":
                    solid = close_and_fill(read_labels(labels).volume.data > 0, radius=STRIPPED_VOXELS)
                    image = image.with_data(image.data * solid)
                images.append(image)
            yield Pair(f"{folder} {found.moving_id} to {found.fixed_id}", *images)


PAGE = """# Numerical reliability

`python examples/reliability.py DATA OUT --page examples/RELIABILITY.md`

{count} of stripped brains: {names}. Everything runs through the stages of `neuroreg register`, CPU, {cores} cores.
Figures are the worst over the pairs; the largest distance or the mean over the voxels of the fixed brain, as the
column says. Distances are in mm, of threads, batch and GPU in voxels of the method's own grid. `NAME+mid`: with
`--refine mid`. A figure beyond its bound is bold, an empty cell was not measured.

{tables}
Held exactly: threads, batches, the order in which a file stores its axes, and a motion of both heads that their headers
alone tell, of 5 and of 20 degrees: every image is read along its own axes, in the order and with the signs nearest to
the world's. Read anew on another grid, the affine follows a motion of the whole scene to a twentieth of a voxel. The
deformations do not: where tissue is uniform they fit the noise and the blur of that reading, and between unlike brains
a fold of the cortex may be matched to one neighbour or the other. Expect a deformation to change by some tenths of a mm
on average, and by mm in places, when the same scan is re-gridded: a bound of 0.2 mm is kept by the affine, and by
`gaussnewton` where the scan has 1 mm. A scan onto itself is left alone:
a deformation that drives images apart which the affine had brought together is left out, with a warning.

There and back: the mean distance of a point that is taken to the moving image by one run and back by another with the
images exchanged, and beside it what the inverse written by the first run misses by. No method here is symmetric by
construction, so the two differ: use `inverse.h5`, not a second run, where the inverse of a map is meant.
"""


def page(found: Mapping[str, Mapping[str, Mapping[str, Figures]]]) -> str:
    """The tables: one for each kind of data, a row for each method, a column for each law."""
    kinds: dict[str, list[str]] = {}
    for name in found:
        kinds.setdefault(name.split()[0], []).append(name)
    tables = []
    for kind, names in kinds.items():
        tables.append(f"## {kind.upper()}\n\n{table([found[name] for name in names])}\n")
    return PAGE.format(
        count=f"{len(found)} pairs", names=", ".join(found), cores=os.cpu_count(), tables="\n".join(tables)
    )


def table(pairs_of: list[Mapping[str, Mapping[str, Figures]]]) -> str:
    """One table, the worst of several pairs."""
    head = [
        f"{words}, {figure}" + (f" (<= {bound:g})" if bound is not None else "")
        for _, words, figure, bound in LAWS.values()
    ]
    lines = ["| method | " + " | ".join(head) + " |", "|" + "---|" * (len(head) + 1)]
    for name in METHODS:
        rows = [pair[name] for pair in pairs_of if name in pair]
        if rows:
            cells = [cell([row[law] for row in rows if law in row], law) for law in LAWS]
            lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(found: list[Figures], law: str) -> str:
    """The worst figure of some pairs, bold beyond the bound; a note instead where nothing was measured."""
    _, _, figure, bound = LAWS[law]
    values = [one[figure] for one in found if figure in one]
    if not values:
        return str(found[0]["note"]) if found else ""
    value = max(values)
    text = "0" if value == 0 else f"{value:.2g}" if value < 0.01 else f"{value:.3f}"
    text = f"**{text}**" if bound is not None and value > bound else text
    own = [one["own_mean"] for one in found if "own_mean" in one]
    return f"{text} ({max(own):.3f})" if own else text


def main() -> None:
    """Measure what is missing, keep the rest, write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--oasis", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=[*METHODS], choices=METHODS)
    parser.add_argument("--laws", nargs="+", default=[*LAWS], choices=[*LAWS])
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    kept = given.out / "reliability.json"
    found: dict[str, dict[str, dict[str, Figures]]] = json.loads(kept.read_text()) if kept.exists() else {}
    for pair in pairs(given.data, given.pairs, given.oasis):
        for name in given.methods:
            if pair.name.startswith("oasis") and name not in ON_OASIS:
                continue
            here = found.setdefault(pair.name, {}).setdefault(name, {})
            todo = [law for law in given.laws if given.again or law not in here]
            plain = register(name, pair.fixed, pair.moving) if todo else None
            for law in todo:
                begun = time.monotonic()
                here[law] = LAWS[law][0](name, pair, plain)
                spent = time.monotonic() - begun
                print(pair.name, name, law, here[law], f"{spent:.0f} s", file=sys.stderr, flush=True)
                kept.write_text(json.dumps(found, indent=1))
    text = page(found)
    print(text)
    if given.page:
        given.page.write_text(text)


if __name__ == "__main__":
    main()
