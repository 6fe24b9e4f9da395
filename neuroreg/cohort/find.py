"""From what the user names, a manifest or a folder of images, to the cases."""

from collections.abc import Mapping
from pathlib import Path

from neuroreg.cohort.case import Cohort
from neuroreg.errors import UsageError

TEMPLATE = "template"
"""What ``--fixed`` calls the image that comes with the package."""


def find_cohort(
    source: Path,
    settings: Mapping[str, object],
    *,
    output: Path,
    config_file: Path | None = None,
    fixed: str | None = None,
    pairs: bool = False,
    root: Path | None = None,
) -> Cohort:
    """Every case, checked. Raises UsageError with all faults at once, NoInputError."""
    raise UsageError("not yet")
