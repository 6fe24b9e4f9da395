"""Ugly real files through the commands: each gets the answer it must, and no anatomy moves on the way.

python tests/campaigns/odd_files.py DATA

DATA is a folder with the files of the table below: test images of niivue and of a NIfTI reader.
"""

import argparse
import inspect
import io
import sys
import tempfile
import time
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import crashing as crash
import nibabel
import numpy as np
import record
import SimpleITK as sitk

LAW = (
    "Every odd file is read or refused as the table says, with one line; what is read keeps its voxels and its place "
    "in the head through a conversion to .nii.gz, .mha and .nrrd, by SimpleITK and by nibabel; the axis orders of one "
    "head coincide; an affine of a file onto itself, or of one axis order onto another, stays within 0.2 mm."
)
FORMATS = (".nii.gz", ".mha", ".nrrd")
STILL_MM = 0.2
"""An affine of a head onto the same head: what the optimiser may leave, a tenth of a voxel."""
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Odd:
    """What a file must get, and why."""

    why: str
    code: int = 0
    """of doctor, convert and register --dry-run"""
    words: str = ""
    """what a refusal must name"""
    options: tuple[str, ...] = ()
    """with which it is read (again) although it was refused"""
    onto: str | None = None
    """of which file it is another view, for a real affine; itself where it holds a head of its own"""


HEAD = "axes_RAS.nii.gz"
TABLE: dict[str, Odd] = {
    "5D_small.nii": Odd("a displacement field (intent 1007) of 1 x 2 x 3 voxels: a map, no image; SimpleITK 2.5 "
                        "damages its own memory reading it", 65, "holds vectors"),
    "FLAIR.nrrd": Odd("NRRD, oblique, whole head", onto="FLAIR.nrrd"),
    "FLOAT64.nii.gz": Odd("64-bit floats", onto=HEAD),
    "INT16.nii.gz": Odd("16-bit integers with a slope", onto=HEAD),
    "UINT8.nii.gz": Odd("8-bit integers with a slope", onto=HEAD),
    **{f"axes_{axes}.nii.gz": Odd("the same head, its axes in another order", onto=HEAD)
       for axes in ("LIA", "LPS", "PIR", "RAS", "RPI", "SAR")},
    "big.nii.gz": Odd("big-endian, a qform alone", onto="big.nii.gz"),
    "complex.nii.gz": Odd("two numbers a voxel", 65, "complex"),
    "low_res.nii.gz": Odd("7 x 5 x 3 voxels", 65, "7 x 5 x 3"),
    "mha.mha": Odd("MetaImage", onto="mha.mha"),
    "not-nifti.nii": Odd("a kilobyte of something else", 65, "not a NIfTI file"),
    "pcasl.nii.gz": Odd("4-D, ten frames", 65, "10 frames", ("--frame", "0")),
    "shear.nii.gz": Odd("an sform sheared by 0.3173 (two voxel axes meet at cos = 0.153075 / 0.482422), and a "
                        "qform that lies 36 mm off it", 65, "35.64 mm", ("--xform", "qform")),
    "with_extension.nii.gz": Odd("a header extension, and a fourth axis of one frame", onto="with_extension.nii.gz"),
}  # fmt: skip
MORE = (
    ("shear.nii.gz", ("convert", "--xform", "sform"), 65, "sheared by 0.3173"),
    ("5D_small.nii", ("convert",), 2, "cannot hold this transform"),
    ("5D_small.nii", ("convert", "--labels"), 2, "holds a map"),
)
"""Further refusals: file, words before it, code, what is named."""


@dataclass
class Tally:
    """What was counted, and where the law did not hold."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    largest_mm: float = 0.0
    largest_affine_mm: float = 0.0

    def fault(self, what: str) -> None:
        """Note it, and say it."""
        self.faults.append(what)
        print(f"FAULT {what}", file=sys.stderr, flush=True)


def call(*words: object) -> tuple[int, str]:
    """A command in this process: its code and its error stream."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = crash.cli.run([str(word) for word in words])
    return code, err.getvalue()


def doctor_takes_files() -> bool:
    """Whether ``neuroreg doctor FILE`` is there."""
    from neuroreg.cli import doctor

    return "paths" in inspect.signature(doctor.command).parameters


def expect(tally: Tally, what: str, told: tuple[int, str], code: int, words: str = "") -> bool:
    """Whether a command answered as the table says."""
    tally.counts[f"answers {code}"] += 1
    good = told[0] == code and (code == 0 or (crash.one_line(told[1], code) and words in told[1]))
    if not good:
        tally.fault(f"{what}: expected {code} {words}, got {told[0]} {told[1].strip()}")
    return good


def answers(path: Path, odd: Odd, out: Path, tally: Tally) -> None:
    """The code of every command that only reads, with and without the options that the refusal asks for."""
    is_map = path.name == "5D_small.nii"
    for more, code in [((), odd.code)] + ([(odd.options, 0)] if odd.options else []):
        dry = ("register", path, path, "--method", "gaussnewton", "-o", out / "none", "--dry-run", *more)
        expect(tally, f"register {path.name} {more}", call(*dry), code, odd.words if code else "")
        if doctor_takes_files():  # to it a displacement field is as good as an image
            code = 0 if is_map else code
            expect(
                tally,
                f"doctor {path.name} {more}",
                call("doctor", path, *more),
                code,
                odd.words if code else "",
            )
    if not is_map:
        expect(
            tally, f"convert {path.name}", call("convert", path, out / "a.nii.gz", "-q"), odd.code, odd.words
        )
        (out / "a.nii.gz").unlink(missing_ok=True)
        if any(out.iterdir()):
            tally.fault(f"{path.name}: something was left: {[left.name for left in out.iterdir()]}")


def converted(path: Path, odd: Odd, out: Path, tally: Tally) -> dict[str, sitk.Image]:
    """Voxels and places before and after a conversion, by SimpleITK; the .nii.gz by nibabel too."""
    found = {}
    for suffix in FORMATS:
        made = out / f"{path.name}{suffix}"
        if not expect(
            tally, f"convert {path.name} to {suffix}", call("convert", path, made, "-q", *odd.options), 0
        ):
            continue
        after = sitk.ReadImage(str(made))
        before = truth(path)
        found[suffix] = after
        if after.GetSize() != before.GetSize():
            tally.fault(f"{made.name}: {after.GetSize()} voxels, had {before.GetSize()}")
            continue
        values = sitk.GetArrayFromImage(before).astype(np.float32)
        worst = np.abs(sitk.GetArrayFromImage(after) - values).max()
        tally.counts["conversions compared voxel by voxel"] += 1
        if worst > 1e-6 * np.abs(values).max():
            tally.fault(f"{made.name}: voxels differ by {worst}")
        compare_places(made.name, world_lps(before), world_lps(after), before.GetSize(), tally)
        if suffix == ".nii.gz":
            by_nibabel = RAS_TO_LPS @ nibabel.load(made).affine
            compare_places(f"{made.name} by nibabel", world_lps(before), by_nibabel, before.GetSize(), tally)
            if (
                path.name.endswith(".nii.gz") and not odd.code
            ):  # where sform and qform agree, nibabel and ITK do
                original = RAS_TO_LPS @ nibabel.load(path).affine
                compare_places(f"{path.name} by nibabel", original, by_nibabel, before.GetSize(), tally)
    return found


def truth(path: Path) -> sitk.Image:
    """The file as SimpleITK reads it; the first frame of several."""
    image = sitk.ReadImage(str(path))
    return image[:, :, :, 0] if image.GetDimension() == 4 else image


def world_lps(image: sitk.Image) -> np.ndarray:
    """Voxel index (x, y, z, 1) -> LPS mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return matrix


def compare_places(
    what: str, one: np.ndarray, other: np.ndarray, size: tuple[int, ...], tally: Tally
) -> None:
    """The corners of a grid by two headers."""
    corners = np.array(
        [[x, y, z, 1.0] for x in (0, size[0] - 1) for y in (0, size[1] - 1) for z in (0, size[2] - 1)]
    )
    apart = float(np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1).max())
    tally.largest_mm = max(tally.largest_mm, apart)
    if apart > 1e-3:
        tally.fault(f"{what}: a corner moved by {apart:.4f} mm")


def coincide(images: dict[str, sitk.Image], tally: Tally) -> None:
    """The axis orders of one head, converted: the same intensity at the same point."""
    grid = images[HEAD]
    there = sitk.GetArrayFromImage(grid)
    for name, image in images.items():
        if name.startswith("axes_"):
            there_too = sitk.GetArrayFromImage(
                sitk.Resample(image, grid, sitk.Transform(), sitk.sitkNearestNeighbor)
            )
            worst = np.abs(there_too - there).max()
            tally.counts["axis orders compared"] += 1
            if worst > 0.51:  # each file rounds to whole numbers, with a slope of its own
                tally.fault(f"{name}: another head than {HEAD}, up to {worst}")


def register(path: Path, odd: Odd, out: Path, tally: Tally) -> None:
    """A real affine onto the same head; the map must be none."""
    fixed = path.with_name(str(odd.onto))
    words = (
        "affine",
        fixed,
        path,
        "-o",
        out / f"{path.name}_run",
        "--outputs",
        "image,affine",
        "--threads",
        "1",
        "-q",
    )
    if not expect(tally, f"affine of {path.name} onto {odd.onto}", call(*words), 0):
        return
    transform = sitk.ReadTransform(str(out / f"{path.name}_run" / "affine.mat"))
    image = sitk.ReadImage(str(fixed))
    corners = [
        [k & 1 and n - 1 for k, n in zip((i, i >> 1, i >> 2), image.GetSize(), strict=True)] for i in range(8)
    ]
    points = [image.TransformIndexToPhysicalPoint(corner) for corner in corners]
    moved = max(np.linalg.norm(np.subtract(transform.TransformPoint(point), point)) for point in points)
    tally.counts["real affines"] += 1
    print(f"affine of {path.name} onto {odd.onto}: {moved:.4f} mm", file=sys.stderr, flush=True)
    tally.largest_affine_mm = max(tally.largest_affine_mm, float(moved))
    if moved > STILL_MM:
        tally.fault(f"{path.name} onto {odd.onto}: a corner moved by {moved:.3f} mm")


def campaign(data: Path, folder: Path, *, affines: bool = True) -> Tally:
    """Every file of the table; one that is in the folder and not in the table is a fault."""
    tally = Tally()
    for stranger in sorted({path.name for path in data.iterdir()} - TABLE.keys()):
        tally.fault(f"{stranger}: not in the table")
    images: dict[str, sitk.Image] = {}
    for name, odd in TABLE.items():
        path, out = data / name, folder / name
        out.mkdir()
        answers(path, odd, out, tally)
        if odd.code == 0 or odd.options:
            made = converted(path, odd, out, tally)
            if made:
                images[name] = list(made.values())[-1]
        if affines and odd.onto is not None:
            register(path, odd, out, tally)
        print(f"{name}: {odd.why}", file=sys.stderr, flush=True)
    for name, words, code, told in MORE:
        expect(tally, f"{' '.join(words)} {name}", call(*words, data / name, folder / "no.mha"), code, told)
    coincide(images, tally)
    return tally


def main() -> None:
    """Run, record, and fail when the law does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    given = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = campaign(given.data, Path(folder))
    found = {"files": len(TABLE), "faults": len(tally.faults), **dict(sorted(tally.counts.items())),
             "a corner moved at most by a conversion (mm)": f"{tally.largest_mm:.1e}",
             "a corner moved at most by an affine onto the same head (mm)": f"{tally.largest_affine_mm:.3f}",
             "doctor FILE": "asked" if doctor_takes_files() else "not there yet"}  # fmt: skip
    record.save("odd_files", law=LAW, passed=not tally.faults, found=found, seconds=time.monotonic() - begun)
    sys.exit(bool(tally.faults))


if __name__ == "__main__":
    main()
