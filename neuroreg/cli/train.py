"""neuroreg train: make a weight file from its recipe."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from neuroreg.cli import console, options
from neuroreg.errors import UsageError


def command(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe (.yaml).")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Default: runs/<name>.")] = None,
    prepare: Annotated[
        Path | None,
        typer.Option(help="Folder with t1/, seg/, splits.csv: packs its splits first if missing."),
    ] = None,
    label_names: Annotated[
        Path | None,
        typer.Option(help="CSV of label numbers and names (default: labels/dlmuse.csv beside it)."),
    ] = None,
    prepare_only: Annotated[bool, typer.Option("--prepare-only", help="Stop after packing.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Forget the checkpoint in the folder.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also log for TensorBoard.")] = False,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda[:N]|mps")] = "auto",
    threads: options.Threads = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Train RECIPE, resuming where an earlier run of it stopped; the best weights by validation Dice are kept."""
    from neuroreg.training import run

    if prepare_only and prepare is None:
        raise UsageError("--prepare-only needs the data folder", remedy="give it with --prepare DATA")
    made: list[Path] = []
    with console.training(quiet=quiet) as show:
        if prepare is not None:
            names = label_names or prepare.parent / "labels" / "dlmuse.csv"
            made = run.prepare(recipe, prepare, names, show.packing)
        if prepare_only:
            console.show_files(made, command="train", json=json, quiet=quiet)
            return
        outcome = run.run(recipe, run.RunOptions(output, device, threads, restart, tensorboard), show.event)
    if not outcome.is_main:
        return
    console.note(f"validation Dice {outcome.best_dice:.4f} at step {outcome.best_step}", quiet=quiet)
    if json:
        console.emit({**asdict(outcome), "weights": str(outcome.weights)}, command="train")
    else:
        console.show(str(outcome.weights))
