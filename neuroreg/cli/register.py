"""neuroreg register: align a moving image to a fixed one."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuroreg.cli import console, options
from neuroreg.errors import QualityError

if TYPE_CHECKING:
    from neuroreg.pipeline.case import Case
    from neuroreg.pipeline.record import RunRecord


def command(
    fixed: options.FixedArgument = None,
    moving: options.MovingArgument = None,
    fixed_option: options.FixedOption = None,
    moving_option: options.MovingOption = None,
    output: options.Output = None,
    method: options.Method = None,
    weights: options.Weights = None,
    affine: options.AffinePart = None,
    refine: options.Refine = None,
    set_: options.Set = None,
    fixed_labels: options.FixedLabels = None,
    moving_labels: options.MovingLabels = None,
    label_names: options.LabelNames = None,
    fixed_mask: options.FixedMask = None,
    moving_mask: options.MovingMask = None,
    find_brain: options.FindBrain = None,
    also: options.Also = None,
    frame: options.Frame = None,
    xform: options.Xform = None,
    max_voxels: options.MaxVoxels = None,
    config: options.Config = None,
    outputs: options.Outputs = None,
    overwrite: options.Overwrite = None,
    strict_qc: options.StrictQc = None,
    strict_report: options.StrictReport = None,
    provenance: options.Provenance = None,
    device: options.Device = None,
    threads: options.Threads = None,
    seed: options.Seed = None,
    deterministic: options.Deterministic = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = 0,
    debug: options.Debug = False,
) -> None:
    """Align MOVING to FIXED: the moved image, the transforms, the Jacobian, a report and run.json in one folder."""
    run("register", locals())


def run(
    name: str,
    given: Mapping[str, Any],
    *,
    defaults: Mapping[str, object] | None = None,
    **fixed_settings: object,
) -> None:
    """Resolve the settings, register (or plan), and show the outcome. Shared with ``neuroreg affine``.

    ``defaults`` give way to a configuration file and to flags, ``fixed_settings`` to nothing.
    """
    flags = {**options.settings(given), **fixed_settings}
    from neuroreg.pipeline.config import (
        resolve,  # torch comes with it, so it waits until the command is known
    )

    config = resolve(flags, given["config"], defaults=defaults)
    if given["dry_run"]:
        from neuroreg.pipeline.register import plan

        show_plan(plan(config), given, command=name)
        return
    with console.stages(quiet=given["quiet"], verbose=given["verbose"] > 0) as progress:
        progress("load")
        from neuroreg.pipeline.register import register

        record = register(config, progress=progress, reporter=_write_report, command=name)
    show_outcome(record, config.folder, given)
    if config.strict_qc and not record.qc.passed:
        raise QualityError(
            "the result failed quality control: " + "; ".join(record.qc.reasons),
            remedy="look at report.html; the outputs are written",
        )


def _write_report(path: Path, case: "Case", *, overwrite: bool = False) -> None:
    from neuroreg.report.page import write_report

    write_report(path, case, overwrite=overwrite)


def show_plan(plan: Mapping[str, Any], given: Mapping[str, Any], *, command: str) -> None:
    """What a run would do."""
    if given["json"]:
        console.emit(plan, command=command)
        return
    for warning in plan["warnings"]:
        console.warn(warning, quiet=given["quiet"])
    console.show(f"would write {', '.join(plan['outputs'])}")
    console.show(
        f"into {plan['output']}; about {plan['disk_mb']} MB of disk, {plan['memory_mb']} MB of memory"
    )


def show_outcome(record: "RunRecord", folder: Path, given: Mapping[str, Any]) -> None:
    """Warnings and the main figures on stderr, the folder (or the record) on stdout."""
    quiet = bool(given["quiet"])
    for warning in record.warnings:
        console.warn(warning, quiet=quiet)
    console.note(summary(record), quiet=quiet)
    strict = bool(record.config.get("strict_qc")) and not record.qc.passed
    if given["json"] and not strict:  # stdout carries one object; a failed one comes from the error
        console.emit({"folder": str(folder), **record.model_dump(mode="json")}, command=record.command)
    elif not given["json"]:
        console.show(str(folder))


def summary(record: "RunRecord") -> str:
    """The run in one line."""
    figures = record.qc.figures
    parts = [
        f"{record.config.get('method')} on {record.device}",
        f"LNCC {_number(figures.get('lncc_before'))} -> {_number(figures.get('lncc_after'))}",
        f"folds {_number(figures.get('folded_percent'))} %",
    ]
    if figures.get("dice_mean") is not None:
        parts.append(f"Dice {_number(figures['dice_mean'])}")
    if not record.qc.passed:
        strict = bool(record.config.get("strict_qc"))  # then the error says why
        why = "" if strict else f" ({'; '.join(record.qc.reasons)})"
        parts.append(f"QUALITY: {record.qc.verdict.upper()}{why}")
    return ", ".join([*parts, f"{record.seconds['total']:.1f} s"])


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"
