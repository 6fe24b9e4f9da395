"""The verb ``register``: read, check, align, judge, write."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuroreg.checkpoints import WeightRecord
from neuroreg.device import choose_device
from neuroreg.errors import InternalError, WriteError
from neuroreg.io import files
from neuroreg.io.together import new_folder, together
from neuroreg.pipeline import needs, resources
from neuroreg.pipeline.align import Alignment, align
from neuroreg.pipeline.case import Reporter, case_of, method_line
from neuroreg.pipeline.config import RegisterConfig
from neuroreg.pipeline.engine import Engine, head_referee, load_engine
from neuroreg.pipeline.inputs import (
    FILES,
    MOVED_LABELS,
    ROIS,
    VIEWER,
    Inputs,
    check_output_folder,
    given_paths,
    named_outputs,
    read_inputs,
)
from neuroreg.pipeline.outputs import Maps, Writer, describe_outputs
from neuroreg.pipeline.quality import Findings, judge
from neuroreg.pipeline.record import (
    RECORD_NAME,
    Clock,
    Progress,
    RunRecord,
    describe_file,
    machine,
    scrub,
    scrubbed_argv,
    silent,
    utc_now,
    versions,
    write_record,
)
from neuroreg.transforms import Transform

_BYTES_ON_DISK = {"image": 4, "field": 12, "jacobian": 4, "transform": 1.6, "inverse": 1.6}
_REPORT_BYTES = 3e6


@dataclass(frozen=True)
class _Run:
    """What does not change while one pair is registered."""

    config: RegisterConfig
    command: str
    clock: Clock
    engine: Engine
    inputs: Inputs
    threads: int
    reporter: Reporter | None
    argv: Sequence[str] | None

    @property
    def full(self) -> bool:
        return self.config.provenance == "full"


def register(
    config: RegisterConfig,
    *,
    progress: Progress = silent,
    reporter: Reporter | None = None,
    command: str = "register",
    engines: Callable[[RegisterConfig], Engine] = load_engine,
    argv: Sequence[str] | None = None,
) -> RunRecord:
    """Register one pair and leave the outputs in ``config.folder``; returns the record, which is there as well.

    Without a ``reporter`` no page is written. ``engines`` may keep what it loads; ``argv`` goes into the record (None:
    the command line of this process). Raises the errors of RELIABILITY section 3; then nothing of this run
    stays in the folder.
    """
    clock = Clock(progress)
    if reporter is None:
        config = config.model_copy(update={"outputs": tuple(o for o in config.outputs if o != "report")})
    with clock("check"):
        check_output_folder(config)
        threads = resources.set_up(threads=config.threads, deterministic=config.deterministic)
        engine = engines(config)
        choose_device(config.device)
    with clock("read"):
        inputs = read_inputs(config)
        needs.preflight(config, engine, inputs)
    run = _Run(config, command, clock, engine, inputs, threads, reporter, argv)
    names = list(named_outputs(config).values())
    with new_folder(config.folder), files.output_lock(config.folder):
        alignment = align(config, inputs, engine, clock)
        with together(config.folder, names, mark=RECORD_NAME, overwrite=config.overwrite) as stage:
            return _leave(run, alignment, stage)


def disk_bytes(voxels: int, outputs: Sequence[str]) -> float:
    """About how much disk the outputs of a fixed image of so many voxels take."""
    pages = _REPORT_BYTES if "report" in outputs else 0.0
    return sum(size * voxels for role, size in _BYTES_ON_DISK.items() if role in outputs) + pages


def plan(config: RegisterConfig) -> dict[str, object]:
    """``--dry-run``: every check of a real run, and what it would do. Computes and writes nothing."""
    check_output_folder(config)
    resources.set_up(threads=config.threads, deterministic=False)
    engine = load_engine(config)
    device = choose_device(config.device)
    inputs = read_inputs(config)
    needs.preflight(config, engine, inputs)
    voxels = inputs.fixed.data.numel()
    return {
        "dry_run": True,
        "output": config.folder.resolve().name,
        "outputs": list(named_outputs(config).values()),
        "device": str(device),
        "weights": None if engine.weights is None else engine.weights.name,
        "memory_mb": round(needs.needed(config, engine, inputs).peak / 1e6),
        "disk_mb": round(disk_bytes(voxels, config.outputs) / 1e6),
        "config": scrub(config, full=config.provenance == "full"),
        "warnings": list(inputs.warnings),
    }


def _leave(run: _Run, alignment: Alignment, stage: Path) -> RunRecord:
    """Judge, then write everything into ``stage``, in order; the record last."""
    config, clock = run.config, run.clock
    names = named_outputs(config)
    notes = [*run.inputs.warnings, *alignment.warnings, *_left_over(config, names)]
    maps = Maps(alignment, run.inputs.fixed.geometry)
    with clock("judge"):
        inverse = maps.inverse if "inverse" in names else None
        findings = assess(run.inputs, run.engine, alignment, inverse)
    writer = Writer(config, run.inputs, maps, stage)
    with clock("write"):
        notes += writer.write(names, threads=run.threads)
    rois = None
    if "rois" in names:
        with clock("regions"):
            rows, dice = writer.regions(stage / names["rois"])
            rois, findings = rows, findings.with_figure("dice_mean", dice)
    if "report" in names:
        with clock("report"):
            _report(run, maps, findings, notes, rois, stage)
    record = _record(run, alignment, findings, notes, stage)
    write_record(record, stage, overwrite=False)
    return record


def assess(inputs: Inputs, engine: Engine, alignment: Alignment, inverse: Transform | None) -> Findings:
    """The figures and the verdict. An affine of whole heads is a good one; a deformation is one of brains."""
    whole_head = bool(inputs.more_than_brain)
    return judge(
        alignment,
        inverse,
        head_referee if whole_head else lambda: engine.referee,
        doubts=() if engine.name == "affine" else inputs.more_than_brain,
        whole_head=whole_head,
        one_contrast=engine.one_contrast,
    )


def _left_over(config: RegisterConfig, names: Mapping[str, str]) -> Iterator[str]:
    """A warning when outputs of an earlier run, which this one does not replace, stay in the folder."""
    others = {*FILES.values(), MOVED_LABELS, ROIS, VIEWER} - set(names.values())
    found = sorted(name for name in others if (config.folder / name).exists())
    if found:
        yield f"files of an earlier run stay in the folder and do not belong to this one: {', '.join(found)}"


def _report(
    run: _Run,
    maps: Maps,
    findings: Findings,
    notes: list[str],
    rois: Sequence[Mapping[str, object]] | None,
    stage: Path,
) -> None:
    """The page; when it cannot be made, that is a warning: the registration itself is good. A full disk is none."""
    assert run.reporter is not None
    try:
        provenance = _provenance(run, maps.alignment)
        case = case_of(
            run.inputs,
            maps,
            findings.quality,
            title=f"{run.config.moving.name} to {run.config.fixed.name}",
            method=method_line(scrub(run.config, full=False), provenance),
            measured=findings.maps,
            warnings=notes,
            rois=rois,
            provenance=provenance,
        )
        run.reporter(stage / FILES["report"], case)
    except WriteError:
        raise
    except Exception as error:  # whatever it is: the registration must not be thrown away for a page
        what = f"the report could not be made: {type(error).__name__}: {error}"
        if run.config.strict_report:
            raise InternalError(what, remedy="leave --strict-report out to keep the rest") from error
        notes.append(what)


def _provenance(run: _Run, alignment: Alignment) -> dict[str, Any]:
    """What a result depends on, as plain values."""
    config, engine = run.config, run.engine
    described = {
        role: describe_file(path, run.inputs.digest(role, path), full=run.full)
        for role, path in given_paths(config).items()
    }
    return {
        "command": run.command,
        "argv": scrubbed_argv(run.argv, full=run.full),
        "versions": versions(),
        "machine": machine(),
        "device": alignment.device,
        "threads": run.threads,
        "seed": config.seed,
        "deterministic": config.deterministic,
        "inputs": described,
        "weights": _identity(engine.weights),
        "affine_weights": _identity(engine.affine_weights),
        "brain_weights": _identity(run.inputs.brain_weights),
    }


def _identity(weights: WeightRecord | None) -> dict[str, object] | None:
    return None if weights is None else {"name": weights.name, "sha256": weights.sha256}


def _record(
    run: _Run, alignment: Alignment, findings: Findings, notes: Sequence[str], stage: Path
) -> RunRecord:
    names = named_outputs(run.config)
    return RunRecord(
        **_provenance(run, alignment),
        started=run.clock.started,
        finished=utc_now(),
        config=scrub(run.config, full=run.full),
        method_options=run.engine.options(run.config),
        seconds=run.clock.total(),
        qc=findings.quality,
        warnings=tuple(notes),
        outputs=describe_outputs(stage, names),
    )
