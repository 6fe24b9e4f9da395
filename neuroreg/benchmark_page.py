"""The page of a reproduction, from measured rows alone: every method, its costs, each paper's claims with verdicts."""

import statistics
from collections.abc import Callable, Mapping, Sequence

from neuroreg.benchmark_claims import FIGURES, LEVEL, SETS, Claims, Finding, Measured, Paper, Table, judge
from neuroreg.benchmark_rows import COSTS, Measurements

_SMALLEST_P = 0.001
_CAVEAT = (
    "Ordered pairs of few people are not independent samples: read each p as a description of these pairs, not as "
    "proof for others."
)


def to_page(measurements: Measurements, claims: Claims, *, command: str) -> str:
    """The whole page as Markdown. ``command`` says how the rows were measured."""
    counts = {
        data: max((len(rows) for (where, _), rows in measurements.table.items() if where == data), default=0)
        for data in SETS
    }
    parts = [*_head(measurements, counts, command), _overall(measurements), _costs(measurements)]
    parts += [_paper(paper, measurements.table) for paper in claims.papers]
    parts += [_absent(measurements)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _head(measurements: Measurements, counts: Mapping[str, int], command: str) -> tuple[str, ...]:
    machines = ", ".join(dict.fromkeys(filter(None, (m["machine"] for m in measurements.methods))))
    return (
        "# Reproduction",
        f"Written by `{command}`; every number is from measured rows. IXI: {counts['ixi']} ordered pairs of the "
        "`test` split, 2 mm, all regions of the fixed labels, brains stripped and aligned by their region centroids "
        f"beforehand unless said otherwise. OASIS: {counts['oasis']} ordered pairs of the `bench` split, 1 mm, "
        "zero-shot, 138 manual regions, files to files. Labels are read once by nearest neighbour through the whole "
        f"map. Folds: det J <= 0 inside the brain, percent. Machine: {machines}.",
        "Verdicts: a two-sided paired Wilcoxon test of each method against the next one of a claim, Holm-corrected "
        f"over all comparisons of one paper on one data set, at {LEVEL:g}. {_CAVEAT}",
    )


def _overall(measurements: Measurements) -> str:
    head = ["method", "trained steps", "parameters"]
    for name in SETS.values():
        head += [f"{name} pairs", "affine", "Dice", "gain", "folds %"]
    body = []
    for method in measurements.methods:
        cells = [f"`{method['name']}`", method["steps"], _thousands(method["parameters"])]
        both = [measurements.table[data, method["name"]] for data in SETS]
        for rows in both:
            cells += [str(len(rows)) if rows else ""]
            affine, dice = _values(rows, "dice_affine"), _values(rows, "dice")
            gain = [row["dice"] - row["dice_affine"] for row in rows.values() if "dice_affine" in row]
            cells += [_of(statistics.fmean, affine, _dice), _of(statistics.fmean, dice, _dice)]
            cells += [
                _of(statistics.fmean, gain, _signed),
                _of(statistics.fmean, _values(rows, "folded_percent"), _short),
            ]
        if any(both):
            body.append(cells)
    return _section(
        "Every method", [head, *body], "Means over the pairs. Affine: Dice by the affine part alone."
    )


def _costs(measurements: Measurements) -> str:
    head = ["method", "parameters", "OASIS wall s", "CPU s", "affine s", "method s", "peak MB", "IXI s"]
    body = []
    for method in measurements.methods:
        oasis, ixi = (measurements.table[data, method["name"]] for data in ("oasis", "ixi"))
        if oasis or ixi:
            cells = [f"`{method['name']}`", _thousands(method["parameters"])]
            for name in COSTS:
                middle = max if name == "peak_mb" else statistics.median
                cells.append(
                    _of(middle, _values(oasis, name), lambda v: f"{v:,.1f}" if v < 100 else f"{v:,.0f}")
                )
            body.append([*cells, _of(statistics.median, _values(ixi, "seconds"), lambda v: f"{v:.1f}")])
    note = (
        "Medians; memory: the largest. OASIS: whole processes from files to files, all methods on a pair before the "
        "next pair; IXI: the method alone at 2 mm. A machine that was busy makes seconds good for ratios at best."
    )
    return _section("Time, memory, parameters", [head, *body], note)


def _paper(paper: Paper, table: Table) -> str:
    found = judge(paper, table)
    head = [
        "",
        "claim",
        "the paper",
        "set",
        "pairs",
        "ours, mean",
        "median difference",
        "p (Holm)",
        "verdict",
    ]
    numbers = {id(claim): k for k, claim in enumerate(paper.claims, start=1)}
    body, last = [], None
    for finding in found:
        claim = finding.claim
        first = [str(numbers[id(claim)]), claim.says, claim.paper] if claim is not last else ["", "", ""]
        body.append([*first, *_cells(finding)])
        last = claim
    lines = [_section(paper.title, [head, *body], paper.about)]
    for claim in paper.claims:
        order = " > ".join(f"`{name}`" for name in claim.order)
        guess = f" *Our best guess why:* {claim.guess.strip()}" if claim.guess.strip() else ""
        lines.append(f"{numbers[id(claim)]}. {FIGURES[claim.figure]}, better first: {order}.{guess}")
    return "\n".join([lines[0], "", *lines[1:]])


def _cells(finding: Finding) -> list[str]:
    """Set, pairs, means, differences, p values and verdict of one row."""
    if finding.verdict == "not measured":
        lacks = f"no rows of {', '.join(finding.missing)}" if finding.missing else "no pair in common"
        return [SETS[finding.data], "0", lacks, "", "", "not measured"]
    form, signed = (_dice, _signed) if "dice" in finding.claim.figure else (_short, _short)
    return [
        SETS[finding.data],
        str(finding.pairs),
        " / ".join(map(form, finding.means)),
        " / ".join(map(signed, finding.differences)),
        " / ".join(map(_p, finding.p_holm)),
        f"**{finding.verdict}**",
    ]


def _absent(measurements: Measurements) -> str:
    lines = [f"- `{m['name']}`: {m['note']}" for m in measurements.methods if m["note"]]
    return "\n".join(["## Not measured, or not in full", "", *lines]) if lines else ""


def _section(title: str, rows: Sequence[Sequence[str]], note: str) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |" for cells in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join([f"## {title}", "", *([note.strip(), ""] if note.strip() else []), *lines])


def _values(rows: Measured, name: str) -> list[float]:
    return [row[name] for row in rows.values() if name in row]


def _of(
    function: Callable[[Sequence[float]], float], values: Sequence[float], form: Callable[[float], str]
) -> str:
    return form(function(values)) if values else ""


def _dice(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1)


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("0.", ".", 1)


def _short(value: float) -> str:
    return f"{value:.3g}"


def _p(value: float) -> str:
    return f"< {_SMALLEST_P:g}" if value < _SMALLEST_P else f"{value:.2g}"


def _thousands(text: str) -> str:
    return f"{int(text):,}" if text else ""
