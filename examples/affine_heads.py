"""Affine alignment of heads and brains as they come: Dice and seconds of ours against antspyx.

python examples/affine_heads.py rows.csv --ixi DATA/ixi --oasis DATA/oasis [--pairs 6] [--degrees 0 30] [--threads 1]

Pairs of different people of one split (IXI: whole heads with face, 2 mm; OASIS: stripped, 1 mm), each as it is and with
the moving image turned by --degrees about a random axis of its own. Labels are moved once, by nearest neighbour, onto
the fixed image's own grid. Seconds are those of finding the map from images in memory: wall, and of all threads
together. One row per pair, turn and method; rows that the file has already are kept. Prints the mean of every method.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import torch

from neuroreg.benchmark_pairs import LabelledPair, common_ids, folder_pairs
from neuroreg.io.images import read_image, read_labels, write_image
from neuroreg.io.tables import read_csv, read_label_names, write_csv
from neuroreg.io.transforms import read_transform
from neuroreg.metrics.segmentation import mean_dice
from neuroreg.pipeline.align import COARSE_MM, find_affine
from neuroreg.pipeline.config import RegisterConfig
from neuroreg.pipeline.engine import Engine, load_engine
from neuroreg.preprocess.conform import conform
from neuroreg.transforms import Affine, Chain, Transform, resample
from neuroreg.validation import parse_pairs
from neuroreg.volume import Geometry, Volume

Finder = Callable[[Volume, Volume], Transform]


@dataclass(frozen=True)
class Row:
    """One method on one pair in one pose."""

    data: str
    fixed: str
    moving: str
    degrees: float
    method: str
    dice: float
    wall_s: float
    cpu_s: float

    @property
    def key(self) -> tuple[str, ...]:
        """What makes two rows the same measurement."""
        return (self.data, self.fixed, self.moving, f"{self.degrees:g}", self.method)


COLUMNS = tuple(column.name for column in fields(Row))


@torch.inference_mode()
def ours(engine: Engine, config: RegisterConfig, fixed: Volume, moving: Volume) -> Transform:
    """The affine as ``neuroreg affine`` finds it."""
    pair = conform(fixed, moving, spacing_mm=COARSE_MM, divisor=8)
    return find_affine(config, engine, pair, torch.device("cpu"))


def of_neuroreg(name: str, weights: str | None) -> Finder:
    """``neuroreg affine --method NAME``, loaded once; NAME:KEY=VALUE sets an option of it."""
    method, _, option = name.partition(":")
    config = RegisterConfig(
        fixed=Path("f"), moving=Path("m"), method="affine", affine=method, weights=weights, threads=1,
        options=parse_pairs([option]) if option else {},
    )  # fmt: skip
    return partial(ours, load_engine(config), config)


def of_ants(fixed: Volume, moving: Volume) -> Transform:
    """antspyx, ``type_of_transform='Affine'`` with its defaults."""
    import ants

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}.nii.gz" for name in ("fixed", "moving")]
        for volume, path in zip((fixed, moving), paths, strict=True):
            write_image(volume, path)
        images = [ants.image_read(str(path)) for path in paths]
        clock = time.perf_counter(), time.process_time()
        found = ants.registration(*images, type_of_transform="Affine", outprefix=f"{folder}/out")
        spent = time.perf_counter() - clock[0], time.process_time() - clock[1]
        path = Path(found["fwdtransforms"][0])
        return Timed((read_transform(path),), *spent)


@dataclass(frozen=True)
class Timed(Chain):
    """A map that knows how long its program took without the files around it."""

    wall_s: float = 0.0
    cpu_s: float = 0.0


def turned(image: Volume, degrees: float, seed: int) -> tuple[Volume, Affine]:
    """The image with a header that turns it about its middle, about a random axis; and that motion."""
    axis = np.random.default_rng(seed).standard_normal(3)
    x, y, z = np.radians(degrees) * axis / np.linalg.norm(axis)
    turn = torch.linalg.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64))
    old, middle = image.geometry, image.geometry.centre_mm
    motion = torch.eye(4, dtype=torch.float64)
    motion[:3, :3], motion[:3, 3] = turn, middle - turn @ middle
    cosines = turn @ torch.tensor(old.direction, dtype=torch.float64).reshape(3, 3)
    x, y, z = Affine(motion)(torch.tensor(old.origin)).tolist()
    where = Geometry(old.size, old.spacing, (x, y, z), tuple(cosines.reshape(-1).tolist()))
    return Volume(image.data, where), Affine(motion)


def measure(
    name: str, find: Finder, pair: LabelledPair, data: str, degrees: float, ids: tuple[int, ...], seed: int
) -> Row:
    """One row."""
    fixed, moving = read_image(pair.fixed).volume, read_image(pair.moving).volume
    shown, motion = (moving, Affine(torch.eye(4, dtype=torch.float64)))
    if degrees:
        shown, motion = turned(moving, degrees, seed)
    clock = time.perf_counter(), time.process_time()
    found = find(fixed, shown)
    spent = time.perf_counter() - clock[0], time.process_time() - clock[1]
    if isinstance(found, Timed):
        spent = found.wall_s, found.cpu_s
    labels, moving_labels = read_labels(pair.fixed_labels).volume, read_labels(pair.moving_labels).volume
    back = Chain((found, motion.inverse()))
    dice = mean_dice(labels.data, resample(moving_labels, back, labels.geometry).data, ids)
    seconds = (round(spent[0], 3), round(spent[1], 3))
    return Row(data, pair.fixed_id, pair.moving_id, degrees, name, round(dice, 5), *seconds)


def regions(folder: Path, names: Path, pairs: list[LabelledPair]) -> tuple[int, ...]:
    """The ids that every map of the pairs holds and that have a name."""
    known = read_label_names(names) if names.is_file() else {}
    return tuple(label for label in common_ids(pairs) if not known or label in known)


def read_rows(path: Path) -> list[Row]:
    """The rows of an earlier run."""
    if not path.exists():
        return []
    numbers = ("degrees", "dice", "wall_s", "cpu_s")
    return [Row(**{k: float(v) if k in numbers else v for k, v in row.items()}) for row in read_csv(path)]


def summary(rows: list[Row]) -> Iterator[str]:
    """The mean of every method on the pairs that all of them have."""
    for data, degrees in sorted({(row.data, row.degrees) for row in rows}):
        here = [row for row in rows if (row.data, row.degrees) == (data, degrees)]
        names = sorted({row.method for row in here})
        shared = set.intersection(*({(r.fixed, r.moving) for r in here if r.method == n} for n in names))
        for name in names:
            mine = [r for r in here if r.method == name and (r.fixed, r.moving) in shared]
            dice, wall, cpu = (np.mean([getattr(r, k) for r in mine]) for k in ("dice", "wall_s", "cpu_s"))
            yield (
                f"{data:8} {degrees:4.0f} deg {name:20} {len(mine):3} pairs  Dice {dice:.4f} "
                f"(least {min(r.dice for r in mine):.4f})  {wall:.2f} s, {cpu:.2f} CPU s"
            )


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path, help="the CSV to fill")
    parser.add_argument("--ixi", type=Path, help="folder with t1, seg and splits.csv; the labels beside it")
    parser.add_argument("--oasis", type=Path, help="likewise")
    parser.add_argument("--ixi-split", default="test")
    parser.add_argument("--pairs", type=int, default=6, help="of each data set")
    parser.add_argument("--degrees", type=float, nargs="+", default=[0.0, 30.0])
    parser.add_argument(
        "--methods", nargs="+", default=["affine", "jointaffine", "jointaffine:polish=4", "ants"]
    )
    parser.add_argument("--weights", help="of jointaffine: name or file")
    parser.add_argument("--threads", type=int, default=1, help="of ours; for antspyx set the environment's")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = {row.key: row for row in read_rows(given.rows)}
    finders: dict[str, Finder] = {}
    for data, folder, split, names in (
        ("ixi", given.ixi, given.ixi_split, "dlmuse.csv"),
        ("oasis", given.oasis, "bench", "neuromorphometrics.csv"),
    ):
        if folder is None:
            continue
        pairs = list(folder_pairs(folder, split))[: given.pairs]
        ids = regions(folder, folder.parent / "labels" / names, pairs)
        for number, pair in enumerate(pairs):
            for degrees in given.degrees:
                for name in given.methods:
                    if (data, pair.fixed_id, pair.moving_id, f"{degrees:g}", name) in rows:
                        continue
                    if name not in finders:
                        weights = given.weights if name.startswith("jointaffine") else None
                        finders[name] = of_ants if name == "ants" else of_neuroreg(name, weights)
                    row = measure(name, finders[name], pair, data, degrees, ids, seed=number)
                    rows[row.key] = row
                    write_csv(given.rows, COLUMNS, [asdict(r) for r in rows.values()], overwrite=True)
                    print(*row.key, f"{row.dice:.4f} {row.wall_s:.2f} s", flush=True)
    for line in summary(list(rows.values())):
        print(line)


if __name__ == "__main__":
    main()
