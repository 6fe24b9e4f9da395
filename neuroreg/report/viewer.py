"""The 3-D viewer of one finished run: a single HTML file that works offline, with the program and the images in it.

NiiVue draws; it comes with the package, unchanged, and its sha256 is checked before it goes into a page. The page may
run the two scripts whose hashes its policy names, and reach nothing: no file, no network.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from neuroreg.errors import DataError
from neuroreg.io.files import atomic_write, check_output
from neuroreg.io.nifti_writer import nifti_bytes
from neuroreg.pipeline.finished import FinishedRun
from neuroreg.report import figures as draw
from neuroreg.report.html import environment, own, plain, policy
from neuroreg.report.layers import OCTAVES, Layer, Region, Remains, gather, make_layers, page_grid
from neuroreg.volume import Geometry

MAX_BYTES = 10_000_000
_SPACINGS_MM = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)  # the first that keeps the page small enough
_SHRINKING = 2.6  # the volumes of a page take spacing to the power of minus this; measured, 1 to 2 mm
_EMPTY_BYTES = 2_350_000  # a page without volumes
_INTENT_LABEL = 1002
_VENDOR = Path(__file__).parent / "vendor"


@dataclass(frozen=True)
class Viewer:
    """A page that was written."""

    path: Path
    bytes: int
    spacing_mm: float
    notes: tuple[str, ...]
    """what was left out or masked, one line each"""


def write_viewer(run: FinishedRun, path: Path, *, with_face: bool = False, overwrite: bool = False) -> Viewer:
    """Write the 3-D page of a run to ``path``, atomically, at most MAX_BYTES long.

    What holds more than a brain is masked to it where a mask or labels tell how, else shown without the 3-D view;
    ``with_face`` shows everything. Raises NoInputError without the fixed image, DataError for files that changed or a
    page too large, CannotCreateError and WriteError as any output.
    """
    check_output(path, overwrite=overwrite)
    remains = gather(run, with_face=with_face)
    text, spacing_mm = _fitting(run, remains, path)

    def write(temporary: Path) -> None:
        temporary.write_bytes(text)

    atomic_write(path, write, overwrite=overwrite)
    return Viewer(path, len(text), spacing_mm, remains.notes)


def _fitting(run: FinishedRun, remains: Remains, path: Path) -> tuple[bytes, float]:
    """The page on the finest grid that keeps it small enough, never finer than the image, and that grid's spacing."""
    finest = min(remains.fixed.volume.geometry.spacing)
    spacings = [s for s in _SPACINGS_MM if s > 0.9 * finest] or [_SPACINGS_MM[-1]]
    expected = 0.0
    for spacing_mm in spacings:
        if _EMPTY_BYTES + expected * spacing_mm**-_SHRINKING > MAX_BYTES and spacing_mm != spacings[-1]:
            continue
        text = _page(run, remains, page_grid(remains, spacing_mm)).encode("utf-8")
        if len(text) <= MAX_BYTES:
            return text, spacing_mm
        expected = (len(text) - _EMPTY_BYTES) * spacing_mm**_SHRINKING
    raise DataError(
        f"the page would take {len(text)} bytes, more than {MAX_BYTES}",
        file=path,
        remedy="use a smaller image",
    )


def _page(run: FinishedRun, remains: Remains, grid: Geometry) -> str:
    layers, regions = make_layers(remains, grid)
    scripts = (niivue(), own("viewer.js"))
    style = own("viewer.css")
    names = {side: plain(run.recorded.inputs.get(side, {}).get("name", "")) for side in ("fixed", "moving")}
    context = {
        "title": f"{names['moving']} to {names['fixed']}",
        "names": names,
        "finished": plain(run.recorded.finished),
        "verdict": run.recorded.verdict,
        "reasons": [plain(reason) for reason in run.recorded.reasons],
        "notes": [plain(note) for note in remains.notes],
        "spacing_mm": grid.spacing[0],
        "policy": policy(scripts, style),
        "scripts": scripts,
        "style": style,
        "licences": (_VENDOR / "LICENSES.txt").read_text(encoding="utf-8"),
        "data": page_data(remains, grid, layers, regions),
        "layers": layers,
    }
    return environment().get_template("viewer.html").render(context)


def page_data(
    remains: Remains, grid: Geometry, layers: Sequence[Layer], regions: Sequence[Region]
) -> dict[str, object]:
    """Everything the page's script reads, as plain JSON values; places in RAS mm, as NIfTI and NiiVue have them."""
    return {
        "grid": {"size": grid.size, "spacing": grid.spacing[0], "origin": _ras(grid.origin)},
        "render": not remains.whole_head,
        "octaves": OCTAVES,
        "colours": _jacobian_colours(),
        "centre": _ras(_middle(grid)),
        "places": [{"title": title, "ras": _ras(point)} for title, point in remains.places],
        "regions": [{**asdict(region), "name": plain(region.name)} for region in regions],
        "layers": [
            {
                "key": layer.key, "title": layer.title, "kind": layer.kind, "low": layer.low, "high": layer.high,
                "nifti": _packed(layer, grid),
            }
            for layer in layers
        ],
    }  # fmt: skip


def _packed(layer: Layer, grid: Geometry) -> str:
    """A .nii.gz as text; readers colour its numbers one by one when they are told that they are labels."""
    intent = _INTENT_LABEL if layer.kind in ("labels", "folds") else 0
    return base64.b64encode(nifti_bytes(layer.codes, grid, intent=intent)).decode("ascii")


def _ras(point: tuple[float, float, float]) -> tuple[float, float, float]:
    """LPS mm -> RAS mm, to a micrometre."""
    return (round(-point[0], 3), round(-point[1], 3), round(point[2], 3))


def _middle(grid: Geometry) -> tuple[float, float, float]:
    """LPS mm of the voxel from which a look begins: a little right of the middle, as in the report."""
    x, y = (grid.origin[k] - (grid.size[k] - 1) * grid.spacing[k] for k in range(2))
    middle = draw.centre(Geometry(grid.size, grid.spacing, (x, y, grid.origin[2])))
    index = grid.world_to_voxel @ torch.tensor([*middle, 1.0], dtype=torch.float64)
    world = grid.voxel_to_world @ index.round()
    return (float(world[0]), float(world[1]), float(world[2]))


def _jacobian_colours() -> list[list[int]]:
    """(256, 3) red, green, blue of the codes of a Jacobian layer, full colour from one doubling or halving on."""
    octaves = (np.arange(256) - 128) / 127 * OCTAVES
    shades = draw.coloured(((np.clip(octaves, -1, 1) + 1) / 2).astype(np.float32)[None])
    rows: list[list[int]] = shades[0].tolist()
    return rows


def niivue(folder: Path = _VENDOR) -> str:
    """The text of NiiVue. Raises DataError when the file is not the one that was published."""
    said: Mapping[str, str] = json.loads((folder / "niivue.json").read_text(encoding="utf-8"))
    path = folder / said["file"]
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != said["sha256"]:
        raise DataError(
            "this is not the NiiVue that was published (sha256 differs)",
            file=path,
            remedy="install neuroreg again",
        )
    return content.decode("utf-8")
