"""The page of a finished run, made again from what the run left: nothing is registered, the verdict stays."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from neuroreg.errors import DataError
from neuroreg.io import files
from neuroreg.io.tables import plain, read_csv
from neuroreg.io.together import together
from neuroreg.io.transforms import read_transform
from neuroreg.pipeline.align import COARSE_MM, DIVISOR, Alignment
from neuroreg.pipeline.case import Reporter, case_of, method_line
from neuroreg.pipeline.config import RegisterConfig
from neuroreg.pipeline.finished import FinishedRun, open_run
from neuroreg.pipeline.inputs import FILES, ROIS, Inputs, read_inputs
from neuroreg.pipeline.outputs import Maps
from neuroreg.pipeline.quality import measured_maps
from neuroreg.pipeline.record import RECORD_NAME, RunRecord, read_record, write_record
from neuroreg.preprocess.conform import conform
from neuroreg.transforms import Affine, Chain, DisplacementField, Transform

_PROVENANCE = (
    "command", "argv", "versions", "machine", "device", "threads", "seed", "deterministic", "inputs", "weights",
    "affine_weights", "brain_weights",
)  # fmt: skip


def remake_report(folder: Path, *, overwrite: bool, reporter: Reporter, inputs: Sequence[Path] = ()) -> Path:
    """Write ``folder``/report.html again and note it in run.json; returns its path.

    Inputs are found by name and sha256, in the folders ``inputs`` too. Raises NoInputError when one is missing or the
    run did not finish, DataError when a file is not the one of the run, CannotCreateError when the page exists and
    ``overwrite`` is not given, BusyError while another run holds the folder.
    """
    run, path = open_run(folder, inputs=inputs), folder / FILES["report"]
    files.check_output(path, overwrite=overwrite)
    if run.recorded.schema_version < RunRecord.model_fields["schema_version"].default:
        raise DataError("the record is of an earlier version", file=folder, remedy="register again")
    for name in run.recorded.outputs:
        if name != path.name:
            run.output(name)  # its sha256, which a page about another file would belie
    names = (path.name, RECORD_NAME)
    with files.output_lock(folder), together(folder, names, overwrite=True) as stage:
        _write(run, stage, reporter)
    return path


def _write(run: FinishedRun, stage: Path, reporter: Reporter) -> None:
    """The page, and the record that knows it."""
    record = read_record(run.folder)
    images = read_inputs(_configuration(run, record))
    maps = Maps(_alignment(run, images, record.device), images.fixed.geometry)
    provenance = record.model_dump(mode="json", include=set(_PROVENANCE))
    case = case_of(
        images,
        maps,
        record.qc,
        title=f"{record.inputs['moving']['name']} to {record.inputs['fixed']['name']}",
        method=method_line(record.config, provenance),
        measured=measured_maps(maps.alignment, _inverse(run)),
        warnings=record.warnings,
        rois=_rois(run),
        provenance=provenance,
    )
    page = stage / FILES["report"]
    reporter(page, case)
    described = {"sha256": files.sha256(page), "bytes": page.stat().st_size}
    changed = record.model_copy(update={"outputs": {**record.outputs, page.name: described}})
    write_record(changed, stage, overwrite=False)


def _configuration(run: FinishedRun, record: RunRecord) -> RegisterConfig:
    """The settings of the run, its inputs found; further images and the start of the affine are not needed any more."""
    unneeded = {"output", "overwrite", "also", "affine", "fixed", "moving", *record.inputs}
    settings = {name: value for name, value in record.config.items() if name not in unneeded}
    roles = [role for role in record.inputs if role != "affine" and not role.startswith("also:")]
    return RegisterConfig.model_validate({**settings, **{role: run.input(role) for role in roles}})


def _alignment(run: FinishedRun, inputs: Inputs, device: str) -> Alignment:
    """The maps of the run. Raises DataError when it left no exact ones."""
    transform, residual = run.exact, None
    parts: Sequence[Transform] = transform.parts if isinstance(transform, Chain) else (transform,)
    if isinstance(parts[0], DisplacementField):
        residual, parts = parts[0], parts[1:]
    if len(parts) != 1 or not isinstance(parts[0], Affine):
        raise DataError(
            "the transform is not an affine and a deformation", file=run.folder, remedy="register again"
        )
    coarse = conform(
        inputs.fixed, inputs.moving, spacing_mm=COARSE_MM, divisor=DIVISOR,
        fixed_mask=inputs.fixed_mask, moving_mask=inputs.moving_mask,
    )  # fmt: skip
    return Alignment(parts[0], residual, coarse, device)


def _inverse(run: FinishedRun) -> Transform | None:
    path = run.output(FILES["inverse"])
    return None if path is None else read_transform(path)


def _rois(run: FinishedRun) -> list[Mapping[str, object]] | None:
    path = run.output(ROIS)
    return None if path is None else [_numbers(row) for row in read_csv(path)]


def _numbers(row: Mapping[str, str]) -> dict[str, object]:
    """A row of rois.csv as it was before it was written: what is named after a figure as a number, the rest as text."""
    texts = {"id", "name", "kind", "status"}
    return {name: plain(text) if name in texts else _number(text) for name, text in row.items()}


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:  # a blank: the region has no such figure
        return None
    return value if math.isfinite(value) else None
