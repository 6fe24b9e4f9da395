"""neuroreg doctor: check the installation, the devices and the weights; or files, before they are registered."""

import math
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from neuroreg.cli import console, options

if TYPE_CHECKING:
    from neuroreg.pipeline.doctor_files import Examined, Grid, ImageFacts, MapPart, WeightFacts

_CONTENT = {
    "brain": "a brain without its skull",
    "head": "more than the brain: a whole head, or no constant background",
    "little": "less than a brain",
    "labels": "a label map",
}
_SIDES = {"R": "right", "L": "left", "A": "anterior", "P": "posterior", "S": "superior", "I": "inferior"}


def command(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE",
            help="Images, transforms or weights to look at (default: the installation).",
            show_default=False,
        ),
    ] = None,
    frame: options.Frame = None,
    xform: options.Xform = None,
    max_voxels: options.MaxVoxels = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Show versions, devices, threads, memory, free disk, and whether the weights are what was published.

    With files: what each of them is, as a registration would read it, and why it would be refused; none stops the
    others. The letters of the axes name the side that each runs towards (nibabel, FreeSurfer), not the one it comes
    from (AFNI, ITK-SNAP).

    Leaves with 69 or 65 when something this program cannot work without is missing or damaged; of files, with the code
    of the first that was refused.
    """
    if paths:
        _files(paths, options.given(frame=frame, xform=xform, max_voxels=max_voxels), json, quiet, debug)
        return
    from neuroreg.pipeline.doctor import examine

    checks = examine(Path())
    failed = [check for check in checks if check.status == "fail"]
    if json:
        found = [{key: value for key, value in asdict(c).items() if key != "exit_code"} for c in checks]
        console.emit({"status": "error" if failed else "ok", "checks": found}, command="doctor")
    else:
        console.show_table(
            "", ("", "check", "found", "remedy"), [(c.status, c.name, c.found, c.remedy) for c in checks]
        )
    if failed:
        raise typer.Exit(failed[0].exit_code)


def _files(paths: list[Path], reading: dict[str, Any], json: bool, quiet: bool, debug: bool) -> None:
    from neuroreg.pipeline.doctor_files import examine_files

    records: list[object] = []
    code = 0
    for found in examine_files(paths, **reading):
        for text in found.notes:
            console.warn(text, quiet=quiet)
        if found.error is not None:
            if debug:
                traceback.print_exception(found.error)
            console.fail(found.error.exit_code, str(found.error))
            code = code or found.error.exit_code
        if json:
            records.append(_finite(_record(found)))
        elif found.error is None:
            console.show_table(found.path.name, ("what", "found"), list(_rows(found)))
    if json:
        told = {"status": "error" if code else "ok", "code": code, "files": records}
        console.emit(told, command="doctor")
    if code:
        raise typer.Exit(code)


def _record(found: "Examined") -> dict[str, object]:
    error = found.error
    refused = None if error is None else {
        "code": error.exit_code, "what": console.printable(error.what),
        "file": console.printable(error.file or found.path.name), "remedy": console.printable(error.remedy),
    }  # fmt: skip
    parts = None if found.transform is None else [asdict(part) for part in found.transform]
    return {
        "file": console.printable(found.path.name),
        "image": None if found.image is None else asdict(found.image),
        "transform": parts,
        "weights": None if found.weights is None else asdict(found.weights),
        "warnings": [console.printable(text) for text in found.notes],
        "error": refused,
    }


def _finite(value: Any) -> Any:
    """JSON has no number for what overflowed in a file of absurd ones: null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rows(found: "Examined") -> Iterator[tuple[str, str]]:
    if found.image is not None:
        yield from _image(found.image)
    for number, part in enumerate(found.transform or (), start=1):
        yield from _part(f"part {number}", part)
    if found.weights is not None:
        yield from _weights(found.weights)


def _image(image: "ImageFacts") -> Iterator[tuple[str, str]]:
    frames = f", {image.frames} frames" if image.frames > 1 else ""
    kind = "image" if image.label_ids is None else f"label map, {image.label_ids} ids besides 0"
    yield "is", f"{kind}, stored as {image.pixel_type}{frames}"
    yield from _grid(image.grid)
    yield "values", f"{image.minimum:.9g} to {image.maximum:.9g}"
    yield "zero", f"{image.zero_percent:.4g} % of the voxels"
    yield "NaN or infinite", f"{image.invalid_percent:.4g} % of the voxels"
    yield "holds", _CONTENT[image.content]
    yield (
        "left and right",
        "in doubt: the header does not say" if image.sides_in_doubt else "as the header says",
    )


def _grid(grid: "Grid") -> Iterator[tuple[str, str]]:
    yield "size", " x ".join(map(str, grid.size)) + " voxels"
    yield "voxel", _mm(grid.spacing_mm)
    yield "field of view", _mm(grid.field_of_view_mm)
    yield "axes", f"{grid.axes}: towards {', '.join(_SIDES[letter] for letter in grid.axes)}"
    yield "oblique", f"{grid.oblique_degrees:.3g} degrees"


def _mm(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:.6g}" for value in values) + " mm"


def _part(name: str, part: "MapPart") -> Iterator[tuple[str, str]]:
    if part.kind == "affine":
        yield name, "affine, mm LPS"
        yield "moves the origin", f"by {part.largest_mm:.4g} mm"
    else:
        yield name, "displacement field, mm LPS"
        yield "longest", f"{part.largest_mm:.4g} mm"
    if part.grid is not None:
        yield from _grid(part.grid)
    if part.determinant is not None:
        low, high = part.determinant
        yield "determinant", f"{low:.4g}" if part.kind == "affine" else f"{low:.4g} to {high:.4g}"
    if part.folded_percent is not None:
        yield "folds", f"{part.folded_percent:.4g} % of the voxels"


def _weights(weights: "WeightFacts") -> Iterator[tuple[str, str]]:
    yield "is", f"weights of {weights.method}" if weights.method else "data of this program"
    yield "name", weights.name
    yield "tensors", str(weights.tensors)
    yield "sha256", weights.sha256
    yield "published", "yes, and unchanged" if weights.published else "not in the list of this installation"
