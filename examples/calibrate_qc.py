"""Measure the quality figures on registrations that went well and on ones spoilt on purpose.

    python examples/calibrate_qc.py ../shared/data/ixi --split val OUT    # OUT/val-neuroreg.csv
    python examples/calibrate_qc.py ../shared/data/ixi --split test OUT --pairs 8 --page examples/QC.md

Planted failures: a wrong start (an affine turned by 25 to 40 degrees and shifted by 20 to 40 mm), a moving image whose
left and right are exchanged under an unchanged header, another subject's mask, half a brain, another contrast, and no
affine at all. The page says how many of each were flagged (look or fail) and how many good ones were. Rows that exist
are not measured again; the verdict is worked out anew from their figures.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from neuroreg.errors import NeuroregError
from neuroreg.io.tables import plain, read_csv, write_csv
from neuroreg.io.transforms import write_transform
from neuroreg.metrics.segmentation import mean_dice
from neuroreg.pipeline import resources
from neuroreg.pipeline.align import align
from neuroreg.pipeline.config import RegisterConfig
from neuroreg.pipeline.engine import load_engine
from neuroreg.pipeline.inputs import read_inputs
from neuroreg.pipeline.record import Clock, silent
from neuroreg.pipeline.register import assess
from neuroreg.pipeline.verdict import RULES, Kind, verdict
from neuroreg.preprocess.brain import close_and_fill
from neuroreg.preprocess.synthesis import recontrast
from neuroreg.transforms import Affine, resample
from neuroreg.volume import Volume

HEAD = """# Quality control: what it catches

Written by `examples/calibrate_qc.py`; do not edit. Registrations of IXI `{split}` pairs by method `{method}`, good
ones and ones spoilt on purpose. A verdict is the worst that any rule says. The thresholds were chosen on the `val`
split; those of shear and of the largest displacement were widened after false alarms on scans from elsewhere:

{rules}

"Refused" means that the run ended with an error instead of a result. Dice is the true mean overlap of the regions (a
mirrored image's labels are mirrored with it).
"""
GOOD = ("stripped", "masked head")
OWN = ("condition", "method", "fixed", "moving", "status", "doubts", "dice")


@dataclass(frozen=True)
class Case:
    """What is registered: files, and options beside them."""

    fixed: Path
    moving: Path
    options: Mapping[str, object] = field(default_factory=dict)


class Subjects:
    """The images of a split, stripped, masked, spoilt, written into a folder as a user would have them."""

    def __init__(self, data: Path, split: str, scratch: Path) -> None:
        self.data, self.scratch = data, scratch
        self.ids = [row["id"] for row in read_csv(data / "splits.csv") if row["split"] == split]

    def head(self, name: str) -> sitk.Image:
        """The whole head."""
        return sitk.Cast(sitk.ReadImage(str(self.data / "t1" / f"{name}.nii.gz")), sitk.sitkFloat32)

    def mask(self, name: str) -> sitk.Image:
        """The brain: the union of the labels, closed and filled."""
        labels = sitk.ReadImage(str(self.data / "seg" / f"{name}.nii.gz"))
        solid = close_and_fill(torch.from_numpy(sitk.GetArrayFromImage(labels) > 0), radius=2)
        return like(solid.numpy().astype(np.uint8), labels)

    def write(self, image: sitk.Image, name: str) -> Path:
        """A file in the scratch folder."""
        path = self.scratch / f"{name}.nii.gz"
        sitk.WriteImage(image, str(path))
        return path

    def stripped(self, name: str) -> sitk.Image:
        """The head inside its mask."""
        return sitk.Mask(self.head(name), self.mask(name))


def like(data: np.ndarray, image: sitk.Image) -> sitk.Image:
    """An array (z, y, x) with the geometry of an image."""
    out = sitk.GetImageFromArray(data)
    out.CopyInformation(image)
    return out


def right_left_axis(image: sitk.Image) -> int:
    """The voxel axis (x, y, z) along the world's left-right direction."""
    return int(np.abs(np.reshape(image.GetDirection(), (3, 3))[0]).argmax())


def mirrored(image: sitk.Image) -> sitk.Image:
    """Left and right of the data exchanged, the header as it was."""
    return like(np.flip(sitk.GetArrayFromImage(image), 2 - right_left_axis(image)).copy(), image)


def stripped(subjects: Subjects, fixed: str, moving: str, **options: object) -> Case:
    return Case(
        subjects.write(subjects.stripped(fixed), "fixed"),
        subjects.write(subjects.stripped(moving), "moving"),
        options,
    )


def masked_head(subjects: Subjects, fixed: str, moving: str) -> Case:
    masks = {
        "fixed_mask": subjects.write(subjects.mask(fixed), "fixed_mask"),
        "moving_mask": subjects.write(subjects.mask(moving), "moving_mask"),
    }
    heads = subjects.write(subjects.head(fixed), "fixed"), subjects.write(subjects.head(moving), "moving")
    return Case(*heads, masks)


def wrong_start(subjects: Subjects, fixed: str, moving: str) -> Case:
    """The right affine, then a turn about the middle of the moving brain and a shift."""
    case = stripped(subjects, fixed, moving)
    chance = random.Random(f"{fixed} {moving}")
    config = configuration(case, "affine")
    inputs = read_inputs(config)
    right = align(config, inputs, load_engine(config), Clock(silent)).affine
    axis = [chance.gauss(0, 1) for _ in range(3)]
    away = [chance.gauss(0, 1) for _ in range(3)]
    turn = sitk.VersorRigid3DTransform()
    turn.SetRotation(axis, np.radians(chance.uniform(25, 40)))
    turn.SetCenter(inputs.moving.geometry.centre_mm.tolist())
    turn.SetTranslation((np.array(away) / np.linalg.norm(away) * chance.uniform(20, 40)).tolist())
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(turn.GetMatrix(), (3, 3))
    matrix[:3, 3] = np.array(turn.TransformPoint((0.0, 0.0, 0.0)))
    path = subjects.scratch / "start.mat"
    write_transform(Affine(torch.from_numpy(matrix) @ right.matrix), path, overwrite=True)
    return Case(case.fixed, case.moving, {"affine": str(path)})


def flipped(subjects: Subjects, fixed: str, moving: str, *, side: str = "moving") -> Case:
    case = stripped(subjects, fixed, moving)
    subjects.write(mirrored(subjects.stripped({"fixed": fixed, "moving": moving}[side])), side)
    return case


def flipped_head(subjects: Subjects, fixed: str, moving: str) -> Case:
    case = masked_head(subjects, fixed, moving)
    subjects.write(mirrored(subjects.head(moving)), "moving")
    subjects.write(mirrored(subjects.mask(moving)), "moving_mask")
    return case


def other_mask(subjects: Subjects, fixed: str, moving: str) -> Case:
    """The mask of the next subject, put on the moving image's grid by its own header."""
    case = masked_head(subjects, fixed, moving)
    other = subjects.ids[(subjects.ids.index(moving) + 1) % len(subjects.ids)]
    if other == fixed:
        other = subjects.ids[(subjects.ids.index(moving) + 2) % len(subjects.ids)]
    wrong = sitk.Resample(
        subjects.mask(other), subjects.head(moving), sitk.Transform(), sitk.sitkNearestNeighbor
    )
    subjects.write(wrong, "moving_mask")
    return case


def half_brain(subjects: Subjects, fixed: str, moving: str) -> Case:
    """One half of the moving brain is air: left, right, front, back, top or bottom."""
    case = stripped(subjects, fixed, moving)
    image = subjects.stripped(moving)
    data = sitk.GetArrayFromImage(image)
    chance = random.Random(f"{fixed} {moving}")
    axis, low = chance.randrange(3), chance.random() < 0.5
    places = np.nonzero(data.any(axis=tuple(a for a in range(3) if a != axis)))[0]
    middle = int(places.mean())
    cut = [slice(None)] * 3
    cut[axis] = slice(None, middle) if low else slice(middle, None)
    data[tuple(cut)] = 0
    subjects.write(like(data, image), "moving")
    return case


def other_contrast(subjects: Subjects, fixed: str, moving: str) -> Case:
    """Fluid bright, white matter dark, as in a T2-weighted image."""
    case = stripped(subjects, fixed, moving)
    image = subjects.stripped(moving)
    data = torch.from_numpy(sitk.GetArrayFromImage(image))
    inside = data > 0
    scaled = (data / torch.quantile(data[inside], 0.99)).clamp(0, 1)
    turned = recontrast(scaled, (1.0, 0.95, 0.75, 0.45, 0.3)) * inside
    subjects.write(like((1000 * turned).numpy(), image), "moving")
    return case


CONDITIONS: Mapping[str, Callable[[Subjects, str, str], Case]] = {
    "stripped": stripped,
    "masked head": masked_head,
    "wrong start": wrong_start,
    "flipped": flipped,
    "flipped masked head": flipped_head,
    "flipped fixed": partial(flipped, side="fixed"),
    "another subject's mask": other_mask,
    "half a brain": half_brain,
    "other contrast": other_contrast,
    "no affine": partial(stripped, affine="none"),
}


def configuration(case: Case, method: str) -> RegisterConfig:
    settings = {"fixed": case.fixed, "moving": case.moving, "method": method, "device": "cpu"}
    return RegisterConfig.model_validate({**settings, **case.options})


def register(case: Case, *, method: str):
    """(alignment, findings, doubts) of a case; nothing is written."""
    config = configuration(case, method)
    engine, inputs = load_engine(config), read_inputs(config)
    alignment = align(config, inputs, engine, Clock(silent))
    findings = assess(inputs, engine, alignment, alignment.inverse())
    return alignment, findings, inputs.more_than_brain


def true_dice(subjects: Subjects, fixed: str, moving: str, alignment, *, flip: str | None) -> float:
    """Mean Dice of the regions, labels moved by the whole map; labels are mirrored with their image."""

    def labels(name: str, side: str) -> Volume:
        image = sitk.ReadImage(str(subjects.data / "seg" / f"{name}.nii.gz"))
        path = subjects.write(mirrored(image) if flip == side else image, f"{side}_labels")
        from neuroreg.io.images import read_labels

        return read_labels(path).volume

    still, moved = labels(fixed, "fixed"), labels(moving, "moving")
    found = resample(moved, alignment.transform, still.geometry)
    return mean_dice(still.data, found.data)


def measure(subjects: Subjects, condition: str, fixed: str, moving: str, method: str) -> dict[str, object]:
    row: dict[str, object] = {
        "condition": condition, "method": method, "fixed": fixed, "moving": moving, "doubts": "", "status": "ok"
    }  # fmt: skip
    try:
        case = CONDITIONS[condition](subjects, fixed, moving)
        alignment, findings, doubts = register(case, method=method)
    except NeuroregError as error:
        return {**row, "status": f"refused ({error.exit_code}): {error.what}"}
    flip = None if not condition.startswith("flipped") else "fixed" if "fixed" in condition else "moving"
    row["dice"] = true_dice(subjects, fixed, moving, alignment, flip=flip)
    return {**row, "doubts": "; ".join(doubts), **findings.quality.figures}


def wanted(ids: list[str], conditions: Iterable[str], pairs: int) -> Iterable[tuple[str, str, str]]:
    """(condition, fixed, moving): ``pairs`` ordered pairs of each failure, twice as many good ones."""
    for condition in conditions:
        count = pairs * (2 if condition in GOOD else 1)
        for number in range(count):
            step = 1 + 3 * (number // len(ids))
            yield condition, ids[number % len(ids)], ids[(number + step) % len(ids)]


def judged(row: Mapping[str, str]) -> str:
    """The verdict by today's thresholds, from the figures of a row."""
    if row["status"] != "ok":
        return "refused"
    figures = {k: float(v) if v else None for k, v in row.items() if k not in OWN}
    kind: Kind = "brains" if row["method"] == "affine" else "deformed brains"
    return verdict(figures, [row["doubts"]] if row["doubts"] else [], kind=kind).verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with t1/, seg/ and splits.csv")
    parser.add_argument("output", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--method", default="neuroreg")
    parser.add_argument("--pairs", type=int, default=15, help="of each planted failure")
    parser.add_argument("--condition", action="append", choices=[*CONDITIONS], help="default: all")
    parser.add_argument("--page", type=Path, help="write the table of verdicts here, as Markdown")
    given = parser.parse_args()
    resources.set_up(threads=1, deterministic=False)
    given.output.mkdir(parents=True, exist_ok=True)
    table = given.output / f"{given.split}-{given.method}.csv"
    rows = {key_of(row): row for row in (read(table) if table.exists() else [])}
    with tempfile.TemporaryDirectory() as scratch:
        subjects = Subjects(given.data, given.split, Path(scratch))
        for condition, fixed, moving in wanted(subjects.ids, given.condition or CONDITIONS, given.pairs):
            key = (condition, given.method, fixed, moving)
            if key in rows:
                continue
            row = measure(subjects, condition, fixed, moving, given.method)
            rows[key] = {k: "" if v is None else str(v) for k, v in row.items()}
            save(rows.values(), table)
            print(*key, rows[key].get("dice", ""), row["status"], file=sys.stderr, flush=True)
    asked = wanted(subjects.ids, given.condition or CONDITIONS, given.pairs)
    text = summary([rows[condition, given.method, fixed, moving] for condition, fixed, moving in asked])
    print(text)
    if given.page is not None:
        body = HEAD.format(split=given.split, method=given.method, rules=rules())
        given.page.write_text(f"{body}\n{text}\n", encoding="utf-8")


def read(table: Path) -> list[dict[str, str]]:
    """The rows of an earlier run, every cell as text."""
    return [{name: plain(text) for name, text in row.items()} for row in read_csv(table)]


def save(rows: Iterable[Mapping[str, str]], table: Path) -> None:
    """Figures as numbers, the rest as text."""
    kept = list(rows)
    columns = list(dict.fromkeys([*OWN, *(name for row in kept for name in row)]))
    cells = [
        {k: v if k in OWN and k != "dice" else float(v) if v else None for k, v in row.items()}
        for row in kept
    ]
    write_csv(table, columns, cells, overwrite=True)


def rules() -> str:
    """The thresholds as a Markdown table."""
    lines = ["| figure | judged for | look | fail |", "|---|---|---|---|"]
    for rule in RULES:
        word = "below" if rule.low_is_bad else "above"
        lines.append(
            f"| `{rule.figure}` | {', '.join(rule.on)} | {word} {rule.look:g} | {word} {rule.fail:g} |"
        )
    return "\n".join(lines)


def key_of(row: Mapping[str, str]) -> tuple[str, str, str, str]:
    return row["condition"], row["method"], row["fixed"], row["moving"]


def summary(rows: Iterable[Mapping[str, str]]) -> str:
    """One line per condition: how many, how many of each verdict; then the two rates."""
    lines = ["| condition | registrations | pass | look | fail | refused | Dice, mean |", "|" + "---|" * 7]
    groups: dict[str, list[Mapping[str, str]]] = {}
    for row in rows:
        groups.setdefault(row["condition"], []).append(row)
    flagged = {True: [0, 0], False: [0, 0]}
    for condition, group in groups.items():
        verdicts = [judged(row) for row in group]
        counts = [verdicts.count(v) for v in ("pass", "look", "fail", "refused")]
        dice = [float(row["dice"]) for row in group if row.get("dice")]
        cells = [condition, str(len(group)), *map(str, counts), f"{np.mean(dice):.3f}" if dice else ""]
        lines.append("| " + " | ".join(cells) + " |")
        total = flagged[condition in GOOD]
        total[0] += len(group) - counts[0]
        total[1] += len(group)
    good, spoilt = flagged[True], flagged[False]
    return "\n".join(
        [*lines, "", f"Flagged (look, fail or refused): {share(*spoilt)} of the planted failures, {share(*good)} of "
         "the good registrations."]
    )  # fmt: skip


def share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({100 * part / max(whole, 1):.1f} %)"


if __name__ == "__main__":
    main()
