"""neuroreg benchmark: measure methods on labelled pairs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from neuroreg.cli import console, options
from neuroreg.errors import UsageError
from neuroreg.registry import unknown_name

if TYPE_CHECKING:
    from neuroreg.benchmark_contenders import Contender
    from neuroreg.benchmark_pairs import LabelledPair

_DATASET = typer.Argument(
    metavar="[DATASET.csv]",
    help="CSV of pairs: fixed, moving, fixed_labels, moving_labels.",
    show_default=False,
)
_OUTPUT = typer.Option(
    "--output",
    "-o",
    help="Folder for rows.csv, summary.md, summary.json and the plot (default: ./benchmark-DATASET).",
)
_METHODS = typer.Option(
    "--methods",
    help="Comma list of names: methods of ours (syn: ANTs within neuroreg, on our affine), and other programs by "
    "themselves: greedy-affine, greedy, ants-affine, ants-syn. METHOD@FILE: with other weights.",
)
_METHOD = typer.Option(
    "--method", "-m", help="One such name, or NAME='options of neuroreg register'. Repeat for more."
)
_MANIFEST = typer.Option(help="The CSV of pairs, by name.")
_OASIS = typer.Option(help="Folder with t1/, seg/ and splits.csv, instead of a CSV.")
_TISSUES = typer.Option("--tissues", help="Measure the maps in tissue/ too: 1 CSF, 2 grey, 3 white matter.")
_IDS = typer.Option(help="Regions: 4,11,23-25 or a file of ids (default: all common ones).")


def command(
    dataset: Annotated[Path | None, _DATASET] = None,
    methods: Annotated[str | None, _METHODS] = None,
    method: Annotated[list[str] | None, _METHOD] = None,
    output: Annotated[Path | None, _OUTPUT] = None,
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
    """Run methods on labelled pairs, each as a whole process from files to files: Dice, ASSD, folds, time, memory.

    Finished rows of the output folder are not measured again, so a stopped benchmark goes on where it was.
    """
    from neuroreg.benchmark import BenchmarkConfig, run_benchmark
    from neuroreg.benchmark_plot import write_plot
    from neuroreg.benchmark_summary import summarise, to_markdown, to_record, write_summary
    from neuroreg.pipeline.evaluate import parse_ids

    contenders = _contenders(methods, method or (), reference)
    wanted = None if ids is None else parse_ids(ids)
    chosen = _pairs(_one(dataset, manifest), oasis, split, tissues)[:pairs]
    folder = output or Path(f"benchmark-{_name(dataset or manifest or oasis)}")
    config = BenchmarkConfig(chosen, contenders, folder, wanted, threads, keep)
    rows, used = run_benchmark(config, progress=lambda line: console.note(line, quiet=quiet))
    lines = summarise(rows, reference=reference)
    told = {each.name: each.told for each in contenders}
    record = to_record(lines, used, threads, reference)
    table = to_markdown(lines, used, threads, reference, told)
    write_summary(folder, record, table)
    write_plot(folder, lines, subtitle=f"{len(chosen)} pairs, {len(used)} regions, threads: {threads}")
    if json:
        console.emit(record, command="benchmark")
    else:
        for text in table.splitlines():
            console.show(text)


def _contenders(methods: str | None, method: Sequence[str], reference: str | None) -> "tuple[Contender, ...]":
    from neuroreg.benchmark_contenders import parse_contenders

    found = parse_contenders(methods, method)
    names = {each.name: each for each in found}
    if reference is not None and reference not in names:
        raise UsageError(
            unknown_name("method", reference, names), remedy="name one of the methods that are measured"
        )
    return found


def _one(dataset: Path | None, manifest: Path | None) -> Path | None:
    if dataset is not None and manifest is not None:
        raise UsageError("the CSV of pairs is given twice", remedy="by position or by --manifest, not both")
    return dataset or manifest


def _name(source: Path | None) -> str:
    return "" if source is None else source.resolve().name.split(".")[0]


def _pairs(
    manifest: Path | None, oasis: Path | None, split: str, tissues: bool
) -> "tuple[LabelledPair, ...]":
    from neuroreg.benchmark_pairs import folder_pairs, manifest_pairs

    if manifest is not None and tissues:
        raise UsageError(
            "--tissues goes with --oasis: a manifest names no tissue maps", remedy="leave --tissues out"
        )
    if manifest is not None and oasis is None:
        return manifest_pairs(manifest)
    if oasis is not None and manifest is None:
        return folder_pairs(oasis, split, tissues=tissues)
    raise UsageError(
        "give the pairs by a CSV of them or by --oasis, one of them", remedy="name a table, or --oasis FOLDER"
    )
