"""neuroreg models: list, verify and locate the weights."""

from typing import Annotated

import typer

from neuroreg import checkpoints
from neuroreg.cli import console, options
from neuroreg.errors import DataError, NeuroregError

command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

COLUMNS = ("name", "kind", "method", "spacing mm", "MB", "licence", "trained on")


@command.callback()
def models() -> None:
    """List, verify and locate the weights. NEUROREG_HOME may name another folder that holds manifest.json."""


@command.command("list")
def list_models(json: options.Json = False, debug: options.Debug = False) -> None:
    """List the weights this installation carries."""
    records = checkpoints.manifest()
    if json:
        listed = [{**record.model_dump(mode="json"), "default": _is_default(record)} for record in records]
        console.emit({"models": listed}, command="models list")
        return
    rows = [_row(record) for record in records]
    console.show_table("", COLUMNS, rows)


@command.command("verify")
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Names or files (default: all).")] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Compare weight files with the sha256 they were published with; of other files, check the numbers."""
    published = checkpoints.manifest()
    records = [checkpoints.find(name) for name in names] if names else published
    failed: dict[str, NeuroregError] = {}
    for record in records:
        try:
            if record in published:
                checkpoints.verify(record)
            else:
                checkpoints.load_tensors(record)
                console.note(f"{record.name}: not published with this program; its numbers alone are checked")
        except NeuroregError as error:
            failed[record.name] = error
        if not json:
            console.show(f"{'FAILED' if record.name in failed else 'ok':8}{record.name}")
    if failed:
        first = next(iter(failed.values()))
        if len(failed) == 1:
            raise first
        raise DataError(
            f"{len(failed)} weight files are damaged or missing: {', '.join(failed)}", remedy=first.remedy
        )
    if json:
        console.emit({"verified": [record.name for record in records]}, command="models verify")


@command.command("path")
def path(
    name: Annotated[
        str | None, typer.Argument(help="Name of the weights (default: the folder of all).")
    ] = None,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Print where weights lie."""
    found = checkpoints.weights_home() if name is None else checkpoints.find(name).path
    if json:
        console.emit({"path": str(found)}, command="models path")
    else:
        console.show(str(found))


def _row(r: checkpoints.WeightRecord) -> tuple[object, ...]:
    name = f"{r.name} (default)" if _is_default(r) else r.name
    return (name, r.kind, r.method, r.spacing_mm, _megabytes(r), r.licence, r.training_data)


def _is_default(record: checkpoints.WeightRecord) -> bool:
    return record.method is not None and checkpoints.defaults().get(record.method) == record.name


def _megabytes(record: checkpoints.WeightRecord) -> str:
    files = [record.folder / name for name in (record.file, *record.also)]
    return (
        f"{sum(f.stat().st_size for f in files) / 1e6:.1f}" if all(f.is_file() for f in files) else "missing"
    )
