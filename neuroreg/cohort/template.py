"""The template of the package as a file of a cohort, so that its cases can be registered onto it."""

from collections.abc import Callable
from pathlib import Path

from neuroreg.io.files import prepare_folder
from neuroreg.io.images import write_image
from neuroreg.pipeline.template import DEFAULT, load_template

FOLDER = "template"
"""In the output folder of the cohort; no case may be called so."""


def template_files(output: Path) -> tuple[Path, Callable[[], None]]:
    """Where the template's image is to lie below ``output``, and the call that puts it there."""
    image = output / FOLDER / f"{DEFAULT}.nii.gz"

    def prepare() -> None:
        prepare_folder(image.parent)
        if not image.exists():
            write_image(load_template().image, image)

    return image, prepare
