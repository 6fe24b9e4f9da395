"""Folders as a registration leaves them, made without registering: ugly grids, a marker on the patient's left."""

import hashlib
import json
from pathlib import Path

import torch
from pipeline_phantoms import SHIFT_MM, grid, head, labels
from torch import Tensor

from neuroreg.io.images import write_image
from neuroreg.transforms import resample
from neuroreg.volume import Geometry, Volume

MARKER_LPS = (31.0, -24.0, 20.0)
"""Left, anterior, superior of the middle of the phantom; nothing else is as bright."""


class Shift:
    """p -> p + SHIFT_MM, the map of the run."""

    def __call__(self, points: Tensor) -> Tensor:
        return points + torch.tensor(SHIFT_MM, dtype=torch.float64)

    def inverse(self) -> "Shift":
        raise NotImplementedError


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def image(geometry: Geometry, offset: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Volume:
    """The head with its marker, moved by ``offset``."""
    points = geometry.points() - torch.tensor(offset, dtype=torch.float64)
    distance = ((points - torch.tensor(MARKER_LPS, dtype=torch.float64)) ** 2).sum(-1)
    data = head(points)
    marker = 3000.0 * torch.exp(-distance / 128.0)
    return Volume(torch.where(data > 0, data + marker, 0.0)[None].to(torch.float32), geometry)


def save_run(
    folder: Path, *, names: tuple[str, str] = ("fixed", "moving"), jacobian: Tensor | None = None
) -> Path:
    """fixed, moving, their labels beside the folder ``run``, and in it what register writes; returns that folder."""
    run = folder / "run"
    run.mkdir()
    fixed, moving = grid(), grid(degrees=-7.0, size=(42, 40, 36))
    files = {role: folder / f"{name}.nii.gz" for role, name in zip(("fixed", "moving"), names, strict=True)}
    write_image(image(fixed), files["fixed"])
    write_image(image(moving, SHIFT_MM), files["moving"])
    for side, geometry, offset in (("fixed", fixed, (0.0, 0.0, 0.0)), ("moving", moving, SHIFT_MM)):
        files[f"{side}_labels"] = folder / f"{side}_seg.nii.gz"
        data = labels(geometry.points() - torch.tensor(offset, dtype=torch.float64))
        write_image(Volume(data[None], geometry, is_label=True), files[f"{side}_labels"])
    moved = resample(image(moving, SHIFT_MM), Shift(), fixed)
    write_image(moved, run / "moved.nii.gz")
    regions = Volume(
        labels(moving.points() - torch.tensor(SHIFT_MM, dtype=torch.float64))[None], moving, is_label=True
    )
    write_image(resample(regions, Shift(), fixed), run / "moved_labels.nii.gz")
    write_image(Volume(slopes(fixed) if jacobian is None else jacobian, fixed), run / "jacobian.nii.gz")
    (run / "rois.csv").write_text("id,name,dice\n4,Outer,0.9\n23,Right blob,0.8\n16777217,Left blob,0.7\n")
    save_record(run, files)
    return run


def slopes(geometry: Geometry) -> Tensor:
    """(1, Z, Y, X): a determinant with another slope along each world axis, from about 0.6 to 1.6."""
    q = geometry.points() - torch.tensor([5.0, -8.0, 12.0], dtype=torch.float64)
    return torch.exp(0.004 * q[..., 0] - 0.003 * q[..., 1] + 0.002 * q[..., 2])[None].to(torch.float32)


def save_record(run: Path, files: dict[str, Path], **changes: object) -> None:
    """run.json of the files that are there."""
    left = (path for path in run.iterdir() if path.name != "run.json")
    record = {
        "schema_version": 1,
        "command": "register",
        "finished": "2026-01-02T03:04:05+00:00",
        "config": {"method": "neuroreg", "xform": "auto", "max_voxels": 768**3},
        "inputs": {role: {"name": path.name, "sha256": sha256(path)} for role, path in files.items()},
        "outputs": {path.name: {"sha256": sha256(path), "bytes": path.stat().st_size} for path in left},
        "quality": {"passed": True, "reasons": []},
        "warnings": [],
    }
    (run / "run.json").write_text(json.dumps({**record, **changes}))


def change_record(run: Path, **changes: object) -> None:
    """Other values for some keys of run.json."""
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, **changes}))


def forget(run: Path, *names: str) -> None:
    """Take outputs away, from the folder and from the record."""
    record = json.loads((run / "run.json").read_text())
    for name in names:
        (run / name).unlink()
        del record["outputs"][name]
    (run / "run.json").write_text(json.dumps(record))
