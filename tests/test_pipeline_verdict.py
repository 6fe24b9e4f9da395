"""From figures to pass, look, fail."""

import json

import pytest

from neuroreg.pipeline.record import Quality
from neuroreg.pipeline.verdict import RULES, Kind, level_of, verdict


@pytest.mark.parametrize("kind", ["heads", "brains", "deformed brains"])
def test_the_worst_rule_decides_and_says_why(kind: Kind) -> None:
    rules = [rule for rule in RULES if kind in rule.on]
    assert len({rule.figure for rule in rules}) == len(rules) > 5
    good = {rule.figure: rule.look + (rule.look - rule.fail) for rule in rules}
    assert verdict(good, kind=kind).verdict == "pass"
    assert verdict(good, kind=kind).reasons == ()
    for rule in rules:
        between = verdict({**good, rule.figure: (rule.look + rule.fail) / 2}, kind=kind)
        beyond = verdict({**good, rule.figure: rule.fail + 0.01 * (rule.fail - rule.look)}, kind=kind)
        assert (between.verdict, beyond.verdict) == ("look", "fail")
        assert len(between.reasons) == len(beyond.reasons) == 1
        assert between.thresholds[rule.figure] == {"look": rule.look, "fail": rule.fail}


def test_whole_heads_are_not_judged_by_what_is_known_of_brains() -> None:
    bad = {"lncc_affine": 0.0, "residual_global_mm": 50.0, "mask_overlap": 0.9}
    assert verdict(bad, kind="heads").verdict == "pass"
    assert verdict(bad, kind="brains").verdict == "fail"


def test_the_limit_itself_is_still_good() -> None:
    values = (2.0, 2.5, 3.0, 3.5)
    assert [level_of(v, look=2.0, fail=3.0) for v in values] == ["pass", "look", "look", "fail"]
    values = (0.3, 0.2, 0.1, 0.0)
    assert [level_of(v, look=0.3, fail=0.1) for v in values] == ["pass", "look", "look", "fail"]


def test_doubts_ask_for_a_look_and_unknown_figures_are_not_judged() -> None:
    assert verdict({}, ["more than a brain"]).verdict == "look"
    assert verdict({"lncc_after": 0.0}, ["a doubt"]).reasons[-1] == "a doubt"
    assert verdict({RULES[0].figure: None}).verdict == "pass"
    assert verdict({"x": float("inf")}).figures == {"x": None}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_is_no_number_is_no_pass(value: float) -> None:
    found = verdict({"lncc_after": value})
    assert found.verdict == "look"
    assert "lncc_after" in found.reasons[0]
    assert found.figures == {"lncc_after": None}


def test_in_json_the_figures_stand_beside_the_verdict() -> None:
    quality = Quality(
        verdict="look", reasons=("r",), figures={"a_mm": 1.5, "b": None}, worst_place_lps_mm=(1.0, 2.0, 3.0)
    )
    text = quality.model_dump_json()
    flat = json.loads(text)
    assert flat == {
        "verdict": "look", "reasons": ["r"], "a_mm": 1.5, "b": None, "worst_place_lps_mm": [1.0, 2.0, 3.0],
        "thresholds": {},
    }  # fmt: skip
    assert Quality.model_validate_json(text) == quality


def test_reasons_name_the_value_and_where_good_ones_end() -> None:
    for rule in RULES:
        value = rule.fail + 0.01 * (rule.fail - rule.look)
        [reason] = verdict({rule.figure: value}, kind=rule.on[-1]).reasons
        assert f"{rule.look:g}" in reason
