"""neuroreg demo: a registration whose answer is known."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuroreg.cli import console, options

if TYPE_CHECKING:
    from neuroreg.pipeline.case import Case
    from neuroreg.pipeline.demo import DemoOutcome

_OUTPUT = typer.Option("-o", "--output", help="Output folder.")


def command(
    output: Annotated[Path, _OUTPUT] = Path("neuroreg-demo"),
    method: options.Method = None,
    weights: options.Weights = None,
    refine: options.Refine = None,
    overwrite: options.Overwrite = None,
    device: options.Device = None,
    threads: options.Threads = None,
    seed: Annotated[int, typer.Option(min=0, help="Another number makes another subject.")] = 0,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = 0,
    debug: options.Debug = False,
) -> None:
    """Make a subject from the template by a known deformation, register the template to it, report the error.

    Needs no data. The pair, the known map and everything a registration leaves behind stay in the folder.
    """
    from neuroreg.pipeline.config import resolve

    flags = {"method": method, "weights": weights, "refine": refine, "overwrite": overwrite}
    files = {"fixed": Path("subject.nii.gz"), "moving": Path("template.nii.gz")}
    settings = resolve({**files, **flags, "device": device, "threads": threads, "seed": seed})
    with console.stages(quiet=quiet, verbose=verbose > 0) as progress:
        progress("load")
        from neuroreg.pipeline.demo import demo

        outcome = demo(output, settings=settings, seed=seed, progress=progress, reporter=_write_report)
    for warning in outcome.record.warnings:
        console.warn(warning, quiet=quiet)
    if json:
        console.emit(_summary(outcome), command="demo")
    else:
        _show(outcome)


def _write_report(path: Path, case: "Case", *, overwrite: bool = False) -> None:
    from neuroreg.report.page import write_report

    write_report(path, case, overwrite=overwrite)


def _summary(outcome: "DemoOutcome") -> dict[str, object]:
    from dataclasses import asdict

    errors = {name: asdict(getattr(outcome, name)) for name in ("before", "affine", "after")}
    return {"errors": errors, "folder": str(outcome.folder), "record": outcome.record.model_dump(mode="json")}


def _show(outcome: "DemoOutcome") -> None:
    stages = (("before", outcome.before), ("after the affine", outcome.affine), ("at the end", outcome.after))
    rows = [(name, f"{e.mean_mm:.2f}", f"{e.p95_mm:.2f}", f"{e.dice:.3f}") for name, e in stages]
    console.show_table(
        "Distance from the known answer in the brain",
        ("", "mean mm", "95 % below mm", "Dice of regions"),
        rows,
    )
    if outcome.report is not None:
        console.show(f"report: {outcome.report}")
