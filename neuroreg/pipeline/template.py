"""The template that comes with the package: an average brain, its regions and its mask."""

from dataclasses import dataclass

import torch
from torch import Tensor

from neuroreg import checkpoints
from neuroreg.errors import DataError
from neuroreg.parse import from_json
from neuroreg.volume import Geometry, Volume

DEFAULT = "template-ixi2mm"


@dataclass(frozen=True)
class Template:
    """An average brain on its grid."""

    image: Volume
    """float32, 0..1.275, 0 outside the brain"""
    labels: Volume
    """int16 region numbers, 0 elsewhere"""
    mask: Volume
    """uint8, 1 in the brain"""
    names: dict[int, str]
    """region number -> name"""


def load_template(name: str = DEFAULT) -> Template:
    """The template of that name in the manifest, verified. Raises UsageError, UnavailableError, DataError."""
    record = checkpoints.find(name)
    if record.kind != "template":
        raise DataError(f"{name!r} is no template", file=record.path, remedy="see neuroreg models list")
    tensors = checkpoints.load_tensors(record)
    said = checkpoints.read_metadata(record.path)
    if set(tensors) != {"intensity", "labels", "mask"}:
        raise DataError(
            f"a template holds intensity, labels and mask, this has {sorted(tensors)}",
            file=record.path,
            remedy="use a template of neuroreg",
        )
    try:
        parts = from_json(said["geometry"])
        geometry = Geometry(**{key: tuple(value) for key, value in parts.items()})
        step = float(said["intensity_step"])
        names = {int(label): str(text) for label, text in from_json(said["names"]).items()}
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"the template's metadata is damaged: {error}", file=record.path, remedy="install neuroreg again"
        ) from error

    def on_grid(data: Tensor, *, is_label: bool) -> Volume:
        return Volume(data[None], geometry, is_label=is_label)

    return Template(
        image=on_grid(tensors["intensity"].to(torch.float32) / step, is_label=False),
        labels=on_grid(tensors["labels"], is_label=True),
        mask=on_grid(tensors["mask"], is_label=True),
        names=names,
    )
