"""neuroreg evaluate: compare label maps region by region, one pair or a table of them, and methods with one another."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from neuroreg.cli import console, options
from neuroreg.errors import SOME_FAILED, DataError, UsageError

if TYPE_CHECKING:
    from neuroreg.pipeline.evaluate_compare import Comparison, Level
    from neuroreg.pipeline.evaluate_table import TableOutcome

_FILES = typer.Argument(
    metavar="FIXED MOVED | ROIS...",
    help="Label maps of the fixed image and, on its grid, of the moved one; with --compare: tables rois.csv.",
)
_region = partial(typer.Option, rich_help_panel="Regions")
_pair = partial(typer.Option, rich_help_panel="Map and landmarks of one pair (a table has columns for them)")
_several = partial(typer.Option, rich_help_panel="Table of pairs")
_method = partial(typer.Option, rich_help_panel="Comparison of methods")

_NAMES = _region(help="CSV with the columns label and name.")
_LABELS = _region(help="Ids to compare: 4,11,23-25, or a file of ids.")
_GROUPS = _region(help="CSV with the columns label and group: groups are scored too.")
_TOLERANCE = _region(min=0, metavar="MM", help="Of the surface Dice (default: 1.0).")
_TRANSFORM = _pair("--transform", "--field", help="The map, or its displacement field, to measure.")
_INVERSE = _pair(help="The map back: measures inverse consistency.")
_MASK = _pair(help="Where to measure the map (default: fixed labels > 0).")
_FIXED_POINTS = _pair(help="CSV of landmarks of the fixed image: name, x, y, z in mm.")
_MOVED_POINTS = _pair(help="The same landmarks, moved onto the fixed image.")
_MOVING_POINTS = _pair(help="The same landmarks in the moving image, for --transform to lead to.")
_SPACE = _pair(help="Axes of the landmarks (default: lps).")
_PAIRS = _several(help="CSV of pairs: id, fixed_labels, moved_labels, and what else there is (see README).")
_OUTPUT = _several("-o", "--output", help="Folder for what --pairs leaves.")
_SEED = _several(min=0, help="Of the bootstrap intervals (default: 0).")
_COMPARE = _method("--compare", help="Test methods against the first, by the rois.csv of each.")
_BY = _method(metavar="WORDS", help="What to test, of mean,roi,group,group-mean (default: the first three).")
_FIGURES = _method(help="Which to test or draw, such as dice,hd95_mm (default: dice; of a table both).")
_PLOT = _method(help="Box plots of the methods compared, .svg or .png.")
_MERGE = _method("--merge-sides", help="Left and right of a structure are one box, their mean.")
_CSV = typer.Option(help="Write one row per region (or per test) here.", rich_help_panel="Outputs")

_ONE, _TABLE, _TEST = "one pair", "--pairs", "--compare"
_MODES = {
    **dict.fromkeys(("label_names", "labels", "groups", "tolerance", "landmarks_space"), (_ONE, _TABLE)),
    **dict.fromkeys(("frame", "xform", "max_voxels", "threads"), (_ONE, _TABLE)),
    **dict.fromkeys(("transform", "inverse", "mask"), (_ONE,)),
    **dict.fromkeys(("fixed_landmarks", "moved_landmarks", "moving_landmarks"), (_ONE,)),
    **dict.fromkeys(("figures", "merge_sides"), (_TABLE, _TEST)),
    **dict.fromkeys(("output", "seed"), (_TABLE,)),
    **dict.fromkeys(("plot", "by"), (_TEST,)),
    "csv": (_ONE, _TEST),
}
"""Option -> what it can go with."""


def command(
    files: Annotated[list[Path] | None, _FILES] = None,
    pairs: Annotated[Path | None, _PAIRS] = None,
    compare: Annotated[bool, _COMPARE] = False,
    output: Annotated[Path | None, _OUTPUT] = None,
    csv: Annotated[Path | None, _CSV] = None,
    plot: Annotated[Path | None, _PLOT] = None,
    figures: Annotated[str | None, _FIGURES] = None,
    by: Annotated[str | None, _BY] = None,
    merge_sides: Annotated[bool, _MERGE] = False,
    label_names: Annotated[Path | None, _NAMES] = None,
    labels: Annotated[str | None, _LABELS] = None,
    groups: Annotated[Path | None, _GROUPS] = None,
    tolerance: Annotated[float | None, _TOLERANCE] = None,
    transform: Annotated[Path | None, _TRANSFORM] = None,
    inverse: Annotated[Path | None, _INVERSE] = None,
    mask: Annotated[Path | None, _MASK] = None,
    fixed_landmarks: Annotated[Path | None, _FIXED_POINTS] = None,
    moved_landmarks: Annotated[Path | None, _MOVED_POINTS] = None,
    moving_landmarks: Annotated[Path | None, _MOVING_POINTS] = None,
    landmarks_space: Annotated[Literal["lps", "ras"] | None, _SPACE] = None,
    seed: Annotated[int | None, _SEED] = None,
    frame: options.Frame = None,
    xform: options.Xform = None,
    max_voxels: options.MaxVoxels = None,
    threads: options.Threads = None,
    overwrite: options.Overwrite = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = 0,
    debug: options.Debug = False,
) -> None:
    """Compare label maps: Dice, Jaccard, HD, HD95, ASSD, surface Dice, volumes and centroids of every region.

    FIXED MOVED is one pair; --pairs TABLE -o OUT are many, with summary and box plots; --compare ROIS... tests methods
    against the first. Figures that do not exist stay blank; a region missing on one side has Dice 0.
    """
    given = locals()
    {_ONE: _one, _TABLE: _table, _TEST: _compare}[_mode(given)](given)


def _mode(given: Mapping[str, Any]) -> str:
    """Which of the three things is asked for; options that would be ignored are refused."""
    files = given["files"] or []
    mode = _TABLE if given["pairs"] is not None else _TEST if given["compare"] else _ONE
    if mode == _TABLE and (files or given["compare"]):
        raise UsageError("--pairs names all the files", remedy="give no label maps and no --compare with it")
    if mode == _TABLE and given["output"] is None:
        raise UsageError("--pairs needs a folder for what it leaves", remedy="give -o FOLDER")
    if mode == _TEST and not files:
        raise UsageError(
            "--compare needs tables", remedy="give the rois.csv of each method, the reference first"
        )
    if mode == _ONE and len(files) != 2:
        raise UsageError(
            f"expected two label maps, FIXED and MOVED, got {len(files)}",
            remedy="or --pairs TABLE -o FOLDER, or --compare ROIS...",
        )
    for name, modes in _MODES.items():
        if given[name] not in (None, False) and mode not in modes:
            option = "--" + name.replace("_", "-")
            raise UsageError(
                f"{option} goes with {' and '.join(modes)}, not with {mode}", remedy=f"leave {option} out"
            )
    return mode


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of EvaluateOptions."""
    from neuroreg.pipeline.evaluate import parse_ids
    from neuroreg.pipeline.resources import set_up

    set_up(threads=given["threads"], deterministic=False)
    return options.given(
        label_names=given["label_names"], ids=None if given["labels"] is None else parse_ids(given["labels"]),
        groups=given["groups"], tolerance_mm=given["tolerance"], landmarks_space=given["landmarks_space"],
        overwrite=given["overwrite"], frame=given["frame"], xform=given["xform"], max_voxels=given["max_voxels"],
    )  # fmt: skip


def _one(given: Mapping[str, Any]) -> None:
    with console.stages(quiet=given["quiet"], verbose=given["verbose"] > 0) as progress:
        progress("load")
        from neuroreg.pipeline.evaluate import EvaluateConfig, evaluate

        progress("compare")
        names = ("csv", "transform", "inverse", "mask")
        points = ("fixed_landmarks", "moved_landmarks", "moving_landmarks")
        fixed, moved = given["files"]
        paths = {name: given[name] for name in (*names, *points)}
        outcome = evaluate(EvaluateConfig(fixed_labels=fixed, moved_labels=moved, **paths, **_options(given)))
    for note in outcome.notes:
        console.warn(note, quiet=given["quiet"])
    if given["json"]:
        console.emit({**outcome.summary(), "rois": outcome.rows()}, command="evaluate")
    else:
        _show(outcome.summary(), [] if given["csv"] else outcome.rows())


def _show(summary: dict[str, object], rows: list[dict[str, str | float | None]]) -> None:
    if rows:
        console.show_table("", list(rows[0]), [[_cell(value) for value in row.values()] for row in rows])
    figures: dict[str, object] = {}
    for name, value in summary.items():
        if isinstance(value, dict):
            prefix = "" if name == "deformation" else f"{name}_"
            figures |= {prefix + k: v for k, v in value.items() if not isinstance(v, dict)}
        elif value is not None or name.startswith("mean_"):
            figures[name] = value
    console.show_table("", ("figure", "value"), [(name, _cell(value)) for name, value in figures.items()])


def _cell(value: object) -> object:
    return f"{value:.4g}" if isinstance(value, float) else value


def _table(given: Mapping[str, Any]) -> None:
    with console.stages(quiet=given["quiet"], verbose=given["verbose"] > 0) as progress:
        progress("load")
        from neuroreg.pipeline.evaluate import EvaluateOptions
        from neuroreg.pipeline.evaluate_summary import JSON_NAME, MARKDOWN_NAME, summarise, write_summary
        from neuroreg.pipeline.evaluate_table import PAIRS_NAME, ROIS_NAME, TableConfig, evaluate_table

        pictures = _pictures(given)
        shared = EvaluateOptions(**_options(given))
        config = TableConfig(
            pairs=given["pairs"], output=given["output"], options=shared, seed=given["seed"] or 0,
            also=(MARKDOWN_NAME, JSON_NAME, *pictures),
        )  # fmt: skip
        outcome = evaluate_table(config, progress=progress)
        progress("summary")
        record = summarise(outcome, seed=config.seed)
        drawn, notes = _draw(outcome, pictures, given)
        write_summary(config.output, record, overwrite=shared.overwrite)
    for note in (*outcome.notes, *notes):
        console.warn(note, quiet=given["quiet"])
    names = [ROIS_NAME, PAIRS_NAME, *drawn, MARKDOWN_NAME, JSON_NAME]
    if given["json"]:
        status = {"status": "error"} if outcome.failed else {}
        files = [str(config.output / name) for name in names]
        console.emit({**status, "outputs": files, **record}, command="evaluate")
    else:
        _show_methods(record)
        for name in names:
            console.show(str(config.output / name))
    if outcome.failed:
        console.note(f"{len(outcome.failed)} of {len(outcome.cases)} pairs failed", quiet=given["quiet"])
        raise typer.Exit(SOME_FAILED)


def _pictures(given: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """File name -> (figure, kind) of the box plots that a table leaves."""
    kinds = {"": "roi"} | ({"-groups": "group"} if given["groups"] is not None else {})
    return {
        f"boxplot-{figure.removesuffix('_mm')}{suffix}.svg": (figure, kind)
        for figure in _asked(given, "dice,hd95_mm")
        for suffix, kind in kinds.items()
    }


def _asked(given: Mapping[str, Any], otherwise: str) -> list[str]:
    """The figures asked for. Raises UsageError for one that there is not."""
    from neuroreg.metrics.segmentation import FIGURES

    asked = list(dict.fromkeys(word.strip() for word in (given["figures"] or otherwise).split(",")))
    for name in asked:
        if name not in FIGURES:
            raise UsageError(f"{name!r} is no figure", remedy=f"known: {', '.join(FIGURES)}")
    return asked


def _draw(
    outcome: "TableOutcome", pictures: Mapping[str, tuple[str, str]], given: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """Draw what can be drawn; a picture that cannot is a warning. Returns the files drawn and the warnings."""
    from neuroreg.report.boxplots import draw_boxplots

    drawn, notes = [], []
    for name, (figure, kind) in pictures.items():
        path = given["output"] / name
        how = {"figure": figure, "kind": kind, "merge_sides": given["merge_sides"]}
        try:
            draw_boxplots(outcome.scores, path, **how, overwrite=bool(given["overwrite"]))
        except DataError as error:
            notes.append(f"{name} was not drawn: {error}")
        else:
            drawn.append(name)
    return drawn, notes


def _show_methods(record: Mapping[str, Any]) -> None:
    head = ("method", "figure", "pairs", "mean", "sd", "low", "high", "median")
    rows = [
        [method["method"], name, *(_cell(found[key]) for key in ("count", *head[3:]))]
        for method in record["methods"]
        for name, found in method["figures"].items()
    ]
    if rows:
        console.show_table("", head, rows)


def _compare(given: Mapping[str, Any]) -> None:
    with console.stages(quiet=given["quiet"], verbose=given["verbose"] > 0) as progress:
        progress("load")
        from neuroreg.io.files import check_output
        from neuroreg.pipeline.evaluate_compare import compare_tables

        figures, overwrite = _asked(given, "dice"), bool(given["overwrite"])
        for path in (given["csv"], given["plot"]):
            if path is not None:
                check_output(path, overwrite=overwrite)
        progress("compare")
        levels = _levels(given["by"])
        found = compare_tables(
            given["files"], figures=figures, levels=levels, csv=given["csv"], overwrite=overwrite
        )
        if given["plot"] is not None:
            from neuroreg.report.boxplots import draw_boxplots

            groups = "group" in levels and any(test.level == "group" for test in found.tests)
            draw_boxplots(
                found.scores, given["plot"], figure=figures[0], kind="group" if groups else "roi",
                merge_sides=given["merge_sides"], overwrite=overwrite,
            )  # fmt: skip
    for note in found.notes:
        console.warn(note, quiet=given["quiet"])
    if given["json"]:
        console.emit({**found.record(), "warnings": list(found.notes)}, command="evaluate")
    else:
        _show_tests(found, all_of_them=given["csv"] is None)


def _levels(text: str | None) -> "tuple[Level, ...]":
    from neuroreg.pipeline.evaluate_compare import ALL_LEVELS, LEVELS

    if text is None:
        return LEVELS
    known: dict[str, Level] = {level.replace(" ", "-"): level for level in ALL_LEVELS}
    words = list(dict.fromkeys(word.strip() for word in text.split(",")))
    wrong = next((word for word in words if word not in known), None)
    if wrong is not None:
        raise UsageError(f"{wrong!r} after --by is unknown", remedy=f"known: {', '.join(known)}")
    return tuple(known[word] for word in words)


def _show_tests(found: "Comparison", *, all_of_them: bool) -> None:
    """The tests on screen; those of single regions only when no CSV holds them."""
    head = (
        "figure", "of", "method", "pairs", "mean", found.methods[0], "difference", "p", "p (Holm)",
        "rank biserial", "dz",
    )  # fmt: skip
    rows = [
        [
            test.figure, " ".join(filter(None, (test.roi, test.name))), test.method, test.cases,
            *map(_cell, (test.method_mean, test.reference_mean, test.mean_difference)),
            f"{test.p_value:.2g}", f"{test.p_holm:.2g}", f"{test.rank_biserial:+.2f}",
            "" if test.cohen_dz is None else f"{test.cohen_dz:+.2f}",
        ]
        for test in found.tests
        if all_of_them or test.level != "roi"
    ]  # fmt: skip
    console.show_table("", head, rows)
    console.note(
        f"{len(found.tests)} tests corrected together; {len(found.cases)} pairs; reference {found.methods[0]}"
    )
