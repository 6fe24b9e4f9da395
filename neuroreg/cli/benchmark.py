"""neuroreg benchmark: measure methods on labelled pairs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuroreg.cli import console, options
from neuroreg.errors import UsageError

if TYPE_CHECKING:
    from neuroreg.benchmark_pairs import LabelledPair

_OUTPUT = typer.Option("--output", "-o", help="Folder for rows.csv, summary.md and summary.json.")
_METHOD = typer.Option(
    "--method",
    "-m",
    help="A method of ours; greedy-affine, greedy, ants-affine or ants-syn (the other programs); "
    "METHOD@FILE for one with other weights; or NAME='options of neuroreg register'. Repeat for more.",
)
_MANIFEST = typer.Option(help="CSV of pairs: fixed, moving, fixed_labels, moving_labels.")
_OASIS = typer.Option(help="Folder with t1/, seg/ and splits.csv, instead of a manifest.")
_TISSUES = typer.Option("--tissues", help="Measure the maps in tissue/ too: 1 CSF, 2 grey, 3 white matter.")
_IDS = typer.Option(help="Regions: 4,11,23-25 or a file of ids [default: all common ones].")


def command(
    output: Annotated[Path, _OUTPUT],
    method: Annotated[list[str], _METHOD],
    manifest: Annotated[Path | None, _MANIFEST] = None,
    oasis: Annotated[Path | None, _OASIS] = None,
    split: Annotated[str, typer.Option(help="Which split of that folder.")] = "bench",
    ids: Annotated[str | None, _IDS] = None,
    pairs: Annotated[int | None, typer.Option(min=1, help="Only the first so many pairs.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of every method.")] = 2,
    reference: Annotated[str | None, typer.Option(help="Compare with this one of the methods.")] = None,
    tissues: Annotated[bool, _TISSUES] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the files of every run.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Run methods on labelled pairs, each as a whole process from files to files, and tabulate Dice, folds, time.

    Finished rows of the output folder are not measured again, so a stopped benchmark goes on where it was.
    """
    from neuroreg.benchmark import BenchmarkConfig, run_benchmark
    from neuroreg.benchmark_contenders import parse_contender
    from neuroreg.benchmark_summary import summarise, to_markdown, to_record, write_summary
    from neuroreg.pipeline.evaluate import parse_ids

    wanted = None if ids is None else parse_ids(ids)
    contenders = tuple(parse_contender(text) for text in method)
    config = BenchmarkConfig(
        _pairs(manifest, oasis, split, tissues)[:pairs], contenders, output, wanted, threads, keep
    )
    rows, used = run_benchmark(config, progress=lambda line: console.note(line, quiet=quiet))
    lines = summarise(rows, reference=reference)
    record, table = to_record(lines, used, threads, reference), to_markdown(lines, used, threads, reference)
    write_summary(output, record, table)
    if json:
        console.emit(record, command="benchmark")
    else:
        for text in table.splitlines():
            console.show(text)


def _pairs(
    manifest: Path | None, oasis: Path | None, split: str, tissues: bool
) -> "tuple[LabelledPair, ...]":
    from neuroreg.benchmark_pairs import folder_pairs, manifest_pairs

    if manifest is not None and tissues:
        raise UsageError("--tissues goes with --oasis: a manifest names no tissue maps")
    if manifest is not None and oasis is None:
        return manifest_pairs(manifest)
    if oasis is not None and manifest is None:
        return folder_pairs(oasis, split, tissues=tissues)
    raise UsageError("give the pairs by --manifest or by --oasis, one of them")
