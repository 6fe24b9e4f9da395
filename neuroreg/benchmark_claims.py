"""What papers claim, held against rows that were measured: for each claim a test, and a verdict that nobody writes.

A claim orders methods by one figure, the best first. On each data set every method is compared with the next one on
the pairs that all of them have, by a two-sided Wilcoxon signed-rank test; Holm's correction runs over all comparisons
of one paper on one data set. A claim holds when every median difference has the claimed sign and every corrected p
is below .05, and does not hold when one of them has the other sign and such a p.
"""

import statistics
from collections.abc import Mapping, Set
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from neuroreg.errors import DataError, NoInputError
from neuroreg.metrics.statistics import PairedTest, compare
from neuroreg.registry import unknown_name
from neuroreg.validation import parse_yaml, sentence

Pair = tuple[str, str]
"""ids of the fixed and of the moving image"""

Measured = Mapping[Pair, Mapping[str, float]]
"""Of one method on one data set: pair -> figure -> value"""

Table = Mapping[tuple[str, str], Measured]
"""(data set, method) -> what was measured"""

SETS = {"ixi": "IXI", "oasis": "OASIS"}
LOWER_IS_BETTER = frozenset(
    {"folded_percent", "seconds", "affine_s", "csf_assd_mm", "gm_assd_mm", "wm_assd_mm"}
)
FIGURES = {
    "dice": "Dice",
    "dice_affine": "Dice after the affine",
    "csf_dice": "Dice of CSF",
    "gm_dice": "Dice of grey matter",
    "wm_dice": "Dice of white matter",
    "csf_assd_mm": "ASSD of CSF, mm",
    "gm_assd_mm": "ASSD of grey matter, mm",
    "wm_assd_mm": "ASSD of white matter, mm",
    "folded_percent": "folds %",
    "seconds": "seconds",
    "affine_s": "seconds of the affine stage",
}
"""Figure -> its name in the table"""

TISSUE_FIGURES = frozenset(name for name in FIGURES if name.split("_")[0] in ("csf", "gm", "wm"))
LEVEL = 0.05
Verdict = Literal["holds", "does not hold", "not significant", "not measured"]


class Contestant(BaseModel):
    """One method as it is measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Path | None = Field(None, description="Recipe of its weights, relative to the checkout")
    method: str | None = Field(None, description="Instead: a method without weights")
    options: dict[str, object] = Field(default_factory=dict, description="Of a method without weights")
    register_options: str = Field(
        "", alias="register", description="More options of neuroreg register (OASIS)"
    )
    slices: int | None = Field(None, ge=2, description="The moving image known at so many slices alone")
    raw: bool = Field(False, description="Poses as they were scanned, not aligned beforehand (IXI)")
    sets: tuple[Literal["ixi", "oasis"], ...] = ("ixi", "oasis")
    pairs: int | None = Field(None, gt=0, description="At most so many pairs: for what takes long")

    @model_validator(mode="after")
    def _recipe_or_method(self) -> "Contestant":
        if (self.recipe is None) == (self.method is None):
            raise ValueError("give a recipe or a method, one of them")
        return self


class Claim(BaseModel):
    """One claim of a paper."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    says: str = Field(description="The claim in one line")
    paper: str = Field(description="The paper's own figures")
    order: tuple[str, ...] = Field(min_length=2, description="Methods, the best first")
    figure: str = Field("dice", description="By what")
    sets: tuple[Literal["ixi", "oasis"], ...] = ("ixi", "oasis")
    guess: str = Field(
        "", description="Our best guess why, where it does not hold; the one line written by hand"
    )


class Paper(BaseModel):
    """A paper and its claims."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    about: str = Field("", description="What differs between the paper's experiment and this one")
    claims: tuple[Claim, ...] = Field(min_length=1)


class Claims(BaseModel):
    """Everything that is asked. Unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    methods: dict[str, Contestant]
    papers: tuple[Paper, ...] = ()

    @model_validator(mode="after")
    def _names_are_known(self) -> "Claims":
        for claim in (claim for paper in self.papers for claim in paper.claims):
            for name in claim.order:
                if name not in self.methods:
                    raise ValueError(unknown_name("method", name, self.methods))
            if claim.figure not in FIGURES:
                raise ValueError(unknown_name("figure", claim.figure, FIGURES))
        return self

    def methods_judged_by(self, figures: Set[str]) -> frozenset[str]:
        """The methods of all claims by one of these figures."""
        asked = (claim for paper in self.papers for claim in paper.claims if claim.figure in figures)
        return frozenset(name for claim in asked for name in claim.order)


@dataclass(frozen=True)
class Finding:
    """A claim on one data set."""

    claim: Claim
    data: str
    verdict: Verdict
    pairs: int = 0
    means: tuple[float, ...] = ()
    """of the methods in the claimed order"""
    differences: tuple[float, ...] = ()
    """median of each method less the next, or the next less it where lower is better: above 0 is as claimed"""
    p_holm: tuple[float, ...] = ()
    missing: tuple[str, ...] = ()
    """methods without a single pair"""


def load_claims(path: Path) -> Claims:
    """Read a YAML file of claims. Raises NoInputError, DataError naming what is wrong in it."""
    if not path.is_file():
        raise NoInputError("no such file of claims", file=path)
    try:
        return Claims.model_validate(parse_yaml(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise DataError(sentence(error), file=path) from error
    except ValueError as error:
        raise DataError("not a YAML file", file=path) from error


def judge(paper: Paper, table: Table) -> tuple[Finding, ...]:
    """Every claim of the paper on each of its data sets, claim by claim."""
    by_set = [_findings(paper, data, table) for data in SETS]
    return tuple(each[k] for k in range(len(paper.claims)) for each in by_set if k in each)


def _findings(paper: Paper, data: str, table: Table) -> dict[int, Finding]:
    """Number of the claim -> what one data set says about it."""
    cases = {k: _cases(claim, data, table) for k, claim in enumerate(paper.claims) if data in claim.sets}
    asked = {}
    for k, values in cases.items():
        for j, (better, worse) in enumerate(pairwise(values)):
            if better:
                lower = paper.claims[k].figure in LOWER_IS_BETTER
                asked[f"{k}.{j}"] = (worse, better) if lower else (better, worse)
    tests = {test.name: test for test in compare(asked)}
    return {
        k: _finding(
            paper.claims[k], data, values, [test for name, test in tests.items() if name.startswith(f"{k}.")]
        )
        if values[0]
        else Finding(paper.claims[k], data, "not measured", missing=_missing(paper.claims[k], data, table))
        for k, values in cases.items()
    }


def _finding(claim: Claim, data: str, values: list[list[float]], tests: list[PairedTest]) -> Finding:
    differences = tuple(test.median_difference for test in tests)
    p_holm = tuple(test.p_holm for test in tests)
    means = tuple(statistics.fmean(each) for each in values)
    return Finding(claim, data, decide(differences, p_holm), len(values[0]), means, differences, p_holm)


def decide(differences: tuple[float, ...], p_holm: tuple[float, ...]) -> Verdict:
    """The verdict of a claim from its comparisons; differences above 0 are as claimed."""
    clear = [difference for difference, p in zip(differences, p_holm, strict=True) if p < LEVEL]
    if any(difference < 0 for difference in clear):
        return "does not hold"
    return "holds" if len(clear) == len(differences) and all(d > 0 for d in clear) else "not significant"


def _missing(claim: Claim, data: str, table: Table) -> tuple[str, ...]:
    return tuple(name for name in claim.order if not _having(claim, data, name, table))


def _having(claim: Claim, data: str, name: str, table: Table) -> dict[Pair, float]:
    """The pairs of one method that have the claim's figure."""
    rows = table.get((data, name), {})
    return {pair: row[claim.figure] for pair, row in rows.items() if claim.figure in row}


def _cases(claim: Claim, data: str, table: Table) -> list[list[float]]:
    """The figure of each method in the claimed order, on the pairs that all of them have."""
    having = [_having(claim, data, name, table) for name in claim.order]
    common = sorted(set.intersection(*map(set, having)))
    return [[each[pair] for pair in common] for each in having]
