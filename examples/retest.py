"""How well the measurements of two scans of one person agree: volumes of regions, and the local size of the brain.

python examples/retest.py DATA OUT [--method NAME] [--method NAME='options of neuroreg register'] [--threads N]

DATA holds t1/, seg/ and splits.csv; its split `retest` people scanned twice. Every scan is registered (fixed) with the
project's own template (moving): the map brings the template's labels to the scan's own voxels, where their volumes
are counted, and its inverse says on the template's grid how large each voxel is in the scan (log of the determinant,
affine included), which can be compared voxel by voxel. OUT gets template.nii.gz, one .npz for each method and scan,
regions.csv and the page. What is in OUT already, made with the same files, options and weights, is not computed again.
"""

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from neuroreg.benchmark_contenders import Contender, parse_contender
from neuroreg.benchmark_pairs import LabelledPair, common_ids, folder_pairs
from neuroreg.io.files import atomic_write, output_lock, prepare_folder, sha256
from neuroreg.io.images import read_labels, write_image
from neuroreg.io.tables import write_csv
from neuroreg.io.transforms import read_transform
from neuroreg.metrics.image import correlation
from neuroreg.metrics.segmentation import dice
from neuroreg.metrics.statistics import Agreement, agreement, intraclass_correlation
from neuroreg.pipeline.inputs import FILES
from neuroreg.pipeline.outputs import jacobian_map
from neuroreg.pipeline.template import Template, load_template
from neuroreg.transforms import resample, total_field

METHODS = (
    "affine=--method affine",
    "gaussnewton=--method gaussnewton",
    "neuroreg-mid=--method neuroreg --refine mid",
    "syn=--method syn",
)
MANUAL = "manual labels"
GOOD = 0.9
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Cohort:
    """The people, and what is compared."""

    people: tuple[LabelledPair, ...]
    """one pair of scans each"""
    template: Template
    image: Path
    """the template as a file"""
    ids: tuple[int, ...]
    """regions that the template and every manual label map have"""


@dataclass(frozen=True)
class Figures:
    """Of one method (or the manual labels) over people P, both scans, regions R, voxels V of the template's brain."""

    name: str
    volumes_mm3: Array
    """(P, 2, R)"""
    dice: Array | None = None
    """(P, 2, R), of the template's labels with the manual ones"""
    log_jacobian: Array | None = None
    """(P, 2, V), NaN where the map folds"""
    region_of: NDArray[np.int64] | None = None
    """(V,)"""


def load_cohort(data: Path, split: str, out: Path) -> Cohort:
    """The people of a split, and the template, written as an image where it is not yet."""
    people = {frozenset((p.fixed_id, p.moving_id)): p for p in reversed(folder_pairs(data, split))}
    template, image = load_template(), out / "template.nii.gz"
    if not image.exists():
        write_image(template.image, image)
    pairs = tuple(sorted(people.values(), key=lambda p: p.fixed_id))
    return Cohort(pairs, template, image, tuple(k for k in common_ids(pairs) if k in template.names))


def measure(
    contender: Contender,
    scan: str,
    files: tuple[Path, Path],
    cohort: Cohort,
    out: Path,
    given: argparse.Namespace,
) -> dict[str, NDArray[np.generic]]:
    """Volumes, Dice and log J of one scan, from OUT or by registering it now."""
    made_with = json.dumps([contender.shown, contender.weights(), *map(sha256, files), *cohort.ids])
    path = out / contender.name / f"{scan}.npz"
    if path.exists():
        with np.load(path, allow_pickle=False) as kept:
            if str(kept["made_with"]) == made_with:
                return dict(kept)
    prepare_folder(path.parent)
    folder = path.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)  # left by a run that was stopped
    command = [
        sys.executable,
        "-m",
        "neuroreg",
        "register",
        str(files[0]),
        str(cohort.image),
        "-o",
        str(folder),
    ]
    command += ["--outputs", "transform,inverse", "--threads", str(given.threads), "--quiet"]
    subprocess.run([*command, *(contender.arguments or ())], check=True, stdout=subprocess.DEVNULL)
    found = {"made_with": np.array(made_with), **figures_of(folder, files[1], cohort)}
    atomic_write(path, lambda temporary: np.savez_compressed(temporary, **found), overwrite=True)
    if not given.keep:
        shutil.rmtree(folder)
    print(f"{contender.name}: {scan}: Dice {np.nanmean(found['dice']):.4f}", flush=True)
    return found


@torch.inference_mode()
def figures_of(folder: Path, labels: Path, cohort: Cohort) -> dict[str, NDArray[np.generic]]:
    """What the maps in ``folder`` say of a scan with the label file ``labels``."""
    template, manual = cohort.template, read_labels(labels).volume
    moved = resample(template.labels, read_transform(folder / FILES["transform"]), manual.geometry)
    size = manual.geometry.voxel_volume_mm3
    inverse = total_field(read_transform(folder / FILES["inverse"]), template.image.geometry)
    determinant = jacobian_map(inverse)[0][template.mask.data[0] > 0].numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        log_jacobian = np.where(determinant > 0, np.log(determinant), np.nan)
    return {
        "volumes_mm3": size * counts(moved.data.numpy(), cohort.ids),
        "manual_mm3": size * counts(manual.data.numpy(), cohort.ids),
        "dice": np.array([*dice(manual.data, moved.data, cohort.ids).values()]),
        "log_jacobian": log_jacobian.astype(np.float32),
    }


def counts(labels: NDArray[np.integer], ids: Sequence[int]) -> NDArray[np.int64]:
    """Voxels of each region."""
    return np.bincount(labels[labels > 0].ravel(), minlength=max(ids) + 1)[list(ids)]


def gather(
    contenders: Sequence[Contender], cohort: Cohort, out: Path, given: argparse.Namespace
) -> list[Figures]:
    """The manual labels and every method."""
    inside = cohort.template.mask.data[0] > 0
    region_of = cohort.template.labels.data[0][inside].numpy().astype(np.int64)
    every: list[Figures] = []
    for contender in contenders:
        rows = [
            [
                measure(contender, scan, files, cohort, out, given)
                for scan, files in (
                    (person.fixed_id, (person.fixed, person.fixed_labels)),
                    (person.moving_id, (person.moving, person.moving_labels)),
                )
            ]
            for person in cohort.people
        ]

        def stacked(name: str, rows: list[list[dict[str, NDArray[np.generic]]]] = rows) -> Array:
            return np.array([[scan[name] for scan in person] for person in rows], dtype=np.float64)

        if not every:
            every.append(Figures(MANUAL, stacked("manual_mm3")))
        parts = (stacked(name) for name in ("volumes_mm3", "dice", "log_jacobian"))
        every.append(Figures(contender.name, *parts, region_of))
    return every


def volume_agreement(found: Figures) -> Agreement:
    """Of each region's volume, over the people."""
    return agreement(found.volumes_mm3[:, 0].T, found.volumes_mm3[:, 1].T)


def region_means(found: Figures, ids: Sequence[int]) -> Array | None:
    """The mean log J of each region: (P, 2, R)."""
    if found.log_jacobian is None or found.region_of is None:
        return None
    return np.stack(
        [np.nanmean(found.log_jacobian[..., found.region_of == k], axis=-1) for k in ids], axis=-1
    )


def correlations(log_jacobian: Array) -> tuple[float, float]:
    """Mean voxelwise correlation of log J between the two scans of a person, and between scans of two people."""
    scans = [(person, values) for person, both in enumerate(log_jacobian) for values in both]
    same, other = [], []
    for (first, a), (second, b) in itertools.combinations(scans, 2):
        known = np.isfinite(a) & np.isfinite(b)
        constant = (
            min(float(np.ptp(a[known])), float(np.ptp(b[known]))) < 1e-4
        )  # an affine: rounding alone varies
        (same if first == second else other).append(np.nan if constant else correlation(a[known], b[known]))
    return float(np.mean(same)), float(np.mean(other))


def region_rows(every: Sequence[Figures], cohort: Cohort) -> list[dict[str, str | float | None]]:
    """regions.csv."""
    rows = []
    for found in every:
        volumes, means = volume_agreement(found), region_means(found, cohort.ids)
        like = with_manual(found, every[0])
        icc = None if means is None else intraclass_correlation(np.moveaxis(means, 2, 0))
        for k, label in enumerate(cohort.ids):
            rows.append(
                {
                    "method": found.name,
                    "id": str(label),
                    "name": cohort.template.names[label],
                    "dice": None if found.dice is None else float(np.nanmean(found.dice[..., k])),
                    "volume_mm3": float(found.volumes_mm3[..., k].mean()),
                    "icc": float(volumes.icc[k]),
                    "difference_percent": float(volumes.difference_percent[k]),
                    "within_cv_percent": float(volumes.within_cv_percent[k]),
                    "between_cv_percent": float(volumes.between_cv_percent[k]),
                    "manual_r": like[k],
                    "log_jacobian_icc": None if icc is None else float(icc[k]),
                    "log_jacobian_difference": None
                    if means is None
                    else float(np.abs(means[:, 0, k] - means[:, 1, k]).mean()),
                }
            )
    return rows


def with_manual(found: Figures, manual: Figures) -> list[float]:
    """Of each region: the correlation of its volume with the manual one over all scans."""
    pairs = [f.volumes_mm3.reshape(-1, f.volumes_mm3.shape[-1]).T for f in (found, manual)]
    return [correlation(*both) for both in zip(*pairs, strict=True)]


def to_page(every: Sequence[Figures], cohort: Cohort) -> str:
    """The page as Markdown."""
    volumes = [["", "Dice", "ICC, median", "25 to 75 %", f"ICC ≥ {GOOD:g}", "difference %", "CV within %",
                "CV between %", "r with manual"]]  # fmt: skip
    jacobians = [["", "r, same person", "r, two people", "difference, same person", "SD between people",
                  "ICC of voxels", "ICC of regions", "folds %"]]  # fmt: skip
    for found in every:
        own = volume_agreement(found)
        low, middle, high = np.nanquantile(own.icc, (0.25, 0.5, 0.75))
        like = "" if found.name == MANUAL else f"{np.nanmedian(with_manual(found, every[0])):.2f}"
        volumes.append(
            [f"`{found.name}`" if like else found.name, "" if found.dice is None else f"{np.nanmean(found.dice):.3f}",
             f"{middle:.3f}", f"{low:.2f} to {high:.2f}", f"{100 * np.mean(own.icc >= GOOD):.0f} %",
             f"{np.nanmean(own.difference_percent):.2f}", f"{np.nanmean(own.within_cv_percent):.2f}",
             f"{np.nanmean(own.between_cv_percent):.1f}", like]
        )  # fmt: skip
        if found.log_jacobian is not None:
            jacobians.append([f"`{found.name}`", *jacobian_cells(found, cohort.ids)])
    return PAGE.format(
        people=len(cohort.people), scans=2 * len(cohort.people), regions=len(cohort.ids),
        volumes=table(volumes), jacobians=table(jacobians), good=GOOD,
    )  # fmt: skip


def jacobian_cells(found: Figures, ids: Sequence[int]) -> list[str]:
    """A method's row of the second table."""
    values, means = found.log_jacobian, region_means(found, ids)
    assert values is not None
    assert means is not None
    people = values.mean(axis=1)
    known = values[..., np.isfinite(values).all(axis=(0, 1))]
    figures = (
        *correlations(values),
        np.nanmean(np.abs(values[:, 0] - values[:, 1])),
        np.nanmean(people.std(axis=0, ddof=1)),
        np.nanmedian(intraclass_correlation(np.moveaxis(known, 2, 0))),
        np.nanmedian(intraclass_correlation(np.moveaxis(means, 2, 0))),
    )
    return [*("" if np.isnan(f) else f"{f:.3f}" for f in figures), f"{100 * np.isnan(values).mean():.4f}"]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


PAGE = """# Test and retest

Written by `examples/retest.sh DATA OUT`; every number is measured. {people} people were scanned twice; each of the
{scans} scans was registered by itself with the project's template, and nothing knew whose second scan it was. {regions}
regions that the template (automatic labels) and the manual labels share.

A method that never moves anything agrees with itself perfectly. So beside each figure of agreement stands what it is
worth: the Dice of the template's labels, brought to the scan, with the manual labels; how much people differ (CV
between, SD between); how well the volumes follow the manual ones; and `affine`, which knows the head's size alone.
The manual labels of each scan are the yardstick. With {people} people every ICC is uncertain by itself: compare the
rows, on the same scans. `neuroreg` learnt regions from labels of the template's protocol (other people's); the other
methods saw intensities alone.

## Volumes of regions

Template labels read once, by nearest neighbour, on the scan's own voxels. ICC(2,1): two-way, absolute agreement,
single measurement; one for each region, over the people: its median, quartiles, and the share of regions with {good:g}
or more. Difference: 100 |a - b| / mean; CV within: of the two scans of a person (root mean square); CV between: SD
over the people / mean; each averaged over the regions. r with manual: correlation of a region's volume with the manual
one over all scans, median.

{volumes}

## Log Jacobian

log of the determinant of the map from the template to the scan, affine included, on the voxels of the template's
brain: 0 where the scan is as large as the template, 0.69 where it is twice as large. r: correlation over the voxels,
mean over the pairs of scans (an affine has one value everywhere, so it has no r). Difference: mean of |a - b| over the
voxels and people. SD between people: of the mean of the two scans, averaged over the voxels. ICC(2,1) of each voxel,
and of the mean of each region: medians.

{jacobians}
"""


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="holds t1/, seg/ and splits.csv")
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", action="append", help=f"may be repeated; default: {', '.join(METHODS)}")
    parser.add_argument("--split", default="retest")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--page", type=Path, help="default: OUT/RETEST.md")
    parser.add_argument("--keep", action="store_true", help="keep the maps")
    given = parser.parse_args()
    contenders = [parse_contender(text) for text in given.method or METHODS]
    if any(contender.arguments is None for contender in contenders):
        parser.error("a method of neuroreg register: other programs leave no inverse to read")
    prepare_folder(given.out)
    with output_lock(given.out), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Mean of empty slice|All-NaN slice", RuntimeWarning
        )  # absent regions
        cohort = load_cohort(given.data, given.split, given.out)
        every = gather(contenders, cohort, given.out, given)
        rows = region_rows(every, cohort)
        write_csv(given.out / "regions.csv", [*rows[0]], rows, overwrite=True)
        page = given.page or given.out / "RETEST.md"
        page.write_text(to_page(every, cohort), encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
