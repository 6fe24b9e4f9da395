"""Claims against rows made by hand, with scipy as the oracle of the tests and Holm's correction worked out here."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import wilcoxon

from neuroreg.benchmark_claims import (
    TISSUE_FIGURES,
    Claim,
    Claims,
    Contestant,
    Measured,
    Paper,
    decide,
    judge,
    load_claims,
)
from neuroreg.errors import DataError, NoInputError
from neuroreg.methods import METHODS
from neuroreg.training.recipe import load_recipe

ROOT = Path(__file__).parents[1]
RANDOM = np.random.default_rng(0)
BASE = RANDOM.uniform(0.4, 0.6, 12)
HIGH = BASE + RANDOM.uniform(0.01, 0.02, 12)  # better on every pair
ALIKE = BASE + RANDOM.normal(0.0, 0.01, 12)


def rows(values: np.ndarray, figure: str = "dice", *, first: int = 0) -> Measured:
    return {(f"f{k + first}", "m"): {figure: float(v)} for k, v in enumerate(values)}


def claim(*order: str, **changes: object) -> Claim:
    return Claim.model_validate({"says": "s", "paper": "p", "order": order, "sets": ("ixi",), **changes})


def test_verdicts_and_figures_are_those_of_scipy() -> None:
    table = {("ixi", "a"): rows(HIGH), ("ixi", "b"): rows(BASE), ("ixi", "c"): rows(ALIKE)}
    claims = (claim("a", "b", "c"), claim("b", "a"), claim("a", "b"))
    chain, wrong, right = judge(Paper(title="t", claims=claims), table)
    raw = [wilcoxon(HIGH, BASE).pvalue, wilcoxon(BASE, ALIKE).pvalue]  # the first three times
    assert raw[0] == pytest.approx(2 / 2**12)
    assert raw[1] > 0.05
    assert chain.p_holm == pytest.approx((4 * raw[0], max(4 * raw[0], raw[1])))
    assert chain.means == pytest.approx((HIGH.mean(), BASE.mean(), ALIKE.mean()))
    assert chain.differences == pytest.approx((np.median(HIGH - BASE), np.median(BASE - ALIKE)))
    assert (chain.verdict, chain.pairs) == ("not significant", 12)
    assert (wrong.verdict, right.verdict) == ("does not hold", "holds")
    assert wrong.differences == pytest.approx((-np.median(HIGH - BASE),))


def test_lower_is_better_for_distances_and_seconds() -> None:
    table = {("ixi", "slow"): rows(HIGH, "seconds"), ("ixi", "quick"): rows(BASE, "seconds")}
    (found,) = judge(Paper(title="t", claims=(claim("quick", "slow", figure="seconds"),)), table)
    assert found.verdict == "holds"
    assert found.means == pytest.approx((BASE.mean(), HIGH.mean()))
    assert found.differences == pytest.approx((np.median(HIGH - BASE),))


def test_only_pairs_that_all_have_count_and_each_set_is_corrected_alone() -> None:
    table = {
        ("ixi", "a"): rows(HIGH),
        ("ixi", "b"): rows(BASE[4:], first=4),
        ("oasis", "a"): rows(HIGH),
        ("oasis", "b"): rows(BASE),
    }
    asked = (claim("a", "b", sets=("ixi", "oasis")), claim("a", "b", figure="gm_dice", sets=("oasis",)))
    ixi, oasis, tissue = judge(Paper(title="t", claims=asked), table)
    assert (ixi.data, ixi.pairs, ixi.means[0]) == ("ixi", 8, pytest.approx(HIGH[4:].mean()))
    assert ixi.p_holm == pytest.approx((2 / 2**8,))
    assert oasis.p_holm == pytest.approx((2 / 2**12,))
    assert (tissue.verdict, tissue.missing) == ("not measured", ("a", "b"))
    few = {("ixi", "a"): rows(HIGH[:5]), ("ixi", "b"): rows(BASE[:5])}
    assert judge(Paper(title="t", claims=(claim("a", "b"),)), few)[0].verdict == "not significant"


@pytest.mark.parametrize(
    ("differences", "p_holm", "verdict"),
    [
        ((0.1, 0.2), (0.01, 0.049), "holds"),
        ((0.1, 0.2), (0.01, 0.05), "not significant"),
        ((0.1, -0.2), (0.01, 0.2), "not significant"),
        ((0.1, -0.2), (0.2, 0.01), "does not hold"),
        ((0.0,), (0.01,), "not significant"),
    ],
)
def test_a_verdict_needs_the_sign_and_the_p(
    differences: tuple[float, ...], p_holm: tuple[float, ...], verdict: str
) -> None:
    assert decide(differences, p_holm) == verdict


def test_claims_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    with pytest.raises(NoInputError):
        load_claims(path)
    good = "methods: {a: {method: affine}, b: {recipe: w.yaml}}\npapers:\n- {title: t, claims: [%s]}\n"
    path.write_text(good % "{says: s, paper: p, order: [a, b], figure: wm_dice}")
    claims = load_claims(path)
    assert claims.methods_judged_by(TISSUE_FIGURES) == {"a", "b"}
    assert claims.methods_judged_by({"dice"}) == frozenset()
    for wrong, named in (
        ("{says: s, paper: p, order: [a, c]}", "Unknown method 'c'"),
        ("{says: s, paper: p, order: [a, b], figure: dise}", "Did you mean 'dice'"),
        ("{says: s, paper: p, order: [a, b], verdict: holds}", "verdict"),
        ("{says: s, paper: p, order: [a]}", "order"),
    ):
        path.write_text(good % wrong)
        with pytest.raises(DataError, match=named):
            load_claims(path)
    with pytest.raises(ValueError, match="a recipe or a method"):
        Contestant()


def test_the_claims_of_the_papers_name_what_exists() -> None:
    claims = load_claims(ROOT / "examples" / "claims.yaml")
    assert isinstance(claims, Claims)
    for name, asked in claims.methods.items():
        if asked.recipe is None:
            assert asked.method in METHODS, name
        elif (ROOT / asked.recipe).is_file():
            assert load_recipe(ROOT / asked.recipe).name == asked.recipe.stem
    held = {name for paper in claims.papers for claim in paper.claims for name in claim.order}
    assert held <= set(claims.methods)
