"""The yardsticks of ``neuroreg benchmark``: other programs, run from files to files in a process of their own.

``python -m neuroreg.benchmark_external METHOD FIXED MOVING OUT --threads 2`` leaves in OUT what our own runs leave,
as far as the comparison reads it: ``moved.nii.gz``, ``affine.mat`` (ITK, LPS mm), for deformable methods
``warp.nii.gz`` (displacements on the fixed grid, LPS mm; the whole map is p -> affine(p + u(p))), and
``stages.json`` with the wall seconds of each stage. Imports stay inside the functions: the thread count must be
set before ITK loads.
"""

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

Seconds = dict[str, float]

# Greedy as its authors recommend it for brain MRI: affine from image centres, then stationary velocity.
GREEDY_AFFINE = "-a -dof 12 -n 100x50x10 -m NCC 2x2x2 -ia-image-centers"
GREEDY_DEFORMABLE = "-n 100x50x10 -m NCC 2x2x2 -sv"


def greedy_affine(fixed: Path, moving: Path, out: Path, threads: int) -> Seconds:
    """Greedy, affine alone (NCC 2x2x2, 100x50x10). Returns wall seconds per stage."""
    return _greedy(fixed, moving, out, threads, deformable=False)


def greedy(fixed: Path, moving: Path, out: Path, threads: int) -> Seconds:
    """Greedy, affine then deformable with stationary velocity (NCC 2x2x2, 100x50x10 both)."""
    return _greedy(fixed, moving, out, threads, deformable=True)


def _greedy(fixed: Path, moving: Path, out: Path, threads: int, *, deformable: bool) -> Seconds:
    from picsl_greedy import Greedy3D

    program = Greedy3D()
    seconds: Seconds = {}

    def execute(stage: str, arguments: str) -> None:
        start = time.monotonic()
        program.execute(f"-threads {threads} {arguments}")
        seconds[stage] = time.monotonic() - start

    # Greedy splits its command at blanks, so it sees short link names instead of the user's paths.
    here, names = Path.cwd(), {}
    try:
        for name, source in (("fixed", fixed), ("moving", moving)):
            link = out / (name + "".join(source.suffixes[-2:]))
            link.symlink_to(source.resolve())
            names[name] = link.name
        os.chdir(out)
        pair = f"-i {names['fixed']} {names['moving']}"
        execute("affine", f"{GREEDY_AFFINE} {pair} -o greedy.mat")
        chain = "greedy.mat"
        if deformable:
            execute("deformable", f"{GREEDY_DEFORMABLE} {pair} -it greedy.mat -o warp.nii.gz")
            chain = "warp.nii.gz greedy.mat"
        execute("resample", f"-rf {names['fixed']} -rm {names['moving']} moved.nii.gz -r {chain}")
    finally:
        os.chdir(here)
        for name in names.values():
            (out / name).unlink()
    _write_itk_affine(out / "greedy.mat", out / "affine.mat")
    return seconds


def _write_itk_affine(source: Path, target: Path) -> None:
    """Greedy's 4 x 4 text matrix (RAS mm) as an ITK affine (LPS mm, centre 0)."""
    import numpy as np
    import SimpleITK as sitk

    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    matrix = flip @ np.loadtxt(source) @ flip
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(matrix[:3, :3].ravel().tolist())
    affine.SetTranslation(matrix[:3, 3].tolist())
    sitk.WriteTransform(affine, str(target))


def ants_affine(fixed: Path, moving: Path, out: Path, threads: int) -> Seconds:
    """antspyx ``type_of_transform='Affine'`` with its defaults. Returns wall seconds per stage."""
    return _ants(fixed, moving, out, kind="Affine")


def ants_syn(fixed: Path, moving: Path, out: Path, threads: int) -> Seconds:
    """antspyx ``type_of_transform='SyN'`` with its defaults (its own affine, mutual information)."""
    return _ants(fixed, moving, out, kind="SyN")


def _ants(fixed: Path, moving: Path, out: Path, *, kind: str) -> Seconds:
    import ants

    start = time.monotonic()
    fixed_image, moving_image = ants.image_read(str(fixed)), ants.image_read(str(moving))
    # ANTs' affine is centred on the image: SimpleITK reads it back as it is, so it is moved, not rewritten.
    result = ants.registration(
        fixed_image, moving_image, type_of_transform=kind, outprefix=str(out / "ants_")
    )
    ants.image_write(result["warpedmovout"], str(out / "moved.nii.gz"))
    forward = [Path(name) for name in result["fwdtransforms"]]
    shutil.move(forward[-1], out / "affine.mat")
    if len(forward) == 2:
        shutil.move(forward[0], out / "warp.nii.gz")
    for leftover in out.glob("ants_*"):
        leftover.unlink()
    return {"affine" if kind == "Affine" else "all": time.monotonic() - start}


METHODS: dict[str, Callable[[Path, Path, Path, int], Seconds]] = {
    "greedy-affine": greedy_affine,
    "greedy": greedy,
    "ants-affine": ants_affine,
    "ants-syn": ants_syn,
}


def main() -> None:
    """Run one yardstick on one pair."""
    parser = argparse.ArgumentParser(description="Run another program's registration on one pair.")
    parser.add_argument("method", choices=sorted(METHODS))
    parser.add_argument("fixed", type=Path)
    parser.add_argument("moving", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(arguments.threads)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    seconds = METHODS[arguments.method](arguments.fixed, arguments.moving, arguments.out, arguments.threads)
    (arguments.out / "stages.json").write_text(json.dumps(seconds), encoding="utf-8")


if __name__ == "__main__":
    main()
