"""From what the user names, a manifest or a folder of images, to the cases."""

from collections.abc import Mapping
from pathlib import Path

from neuroreg.cohort.case import Cohort
from neuroreg.cohort.folder import every_pair, onto_fixed
from neuroreg.cohort.manifest import read_manifest
from neuroreg.cohort.shared import TEMPLATE, FixedChoice
from neuroreg.errors import UsageError
from neuroreg.pipeline.config import resolve_shared


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
    """Every case, checked. ``settings``: those of the command line; file and environment are below them.

    ``fixed``: a path, or "template". Raises UsageError with all faults at once, NoInputError, DataError.
    """
    chosen: FixedChoice | None = TEMPLATE if fixed == TEMPLATE else None if fixed is None else Path(fixed)
    if source.parent.resolve() == output.resolve() and source.name.startswith("failed"):
        raise UsageError(
            "the failed cases of this very folder are not its whole cohort",
            file=source,
            remedy="give the whole cohort again with --resume, or another -o",
        )
    shared = resolve_shared(settings, config_file)
    if not source.is_dir():
        if pairs:
            raise UsageError("--pairs is for a folder of images", file=source, remedy="leave it out")
        return read_manifest(source, shared, output=output, fixed=chosen, root=root)
    if root is not None:
        raise UsageError("--root is for a manifest", file=source, remedy="leave it out")
    if not pairs:
        return onto_fixed(source, chosen or TEMPLATE, shared, output=output)
    if chosen is not None:
        raise UsageError(
            "--pairs all needs no --fixed: every image is the fixed one once",
            file=source,
            remedy="leave --fixed out",
        )
    return every_pair(source, shared)
