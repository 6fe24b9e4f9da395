"""From figures to pass, look, fail."""

import json

import pytest

from neuroreg.pipeline.record import Quality
from neuroreg.pipeline.verdict import RULES, Rule, verdict


def test_the_worst_rule_decides_and_says_why() -> None:
    good = {rule.figure: rule.look + (rule.look - rule.fail) for rule in RULES}
    assert verdict(good).verdict == "pass"
    assert verdict(good).reasons == ()
    for rule in RULES:
        between = verdict({**good, rule.figure: (rule.look + rule.fail) / 2})
        beyond = verdict({**good, rule.figure: rule.fail + (rule.fail - rule.look)})
        assert (between.verdict, beyond.verdict) == ("look", "fail")
        assert len(between.reasons) == len(beyond.reasons) == 1
        assert between.thresholds[rule.figure] == {"look": rule.look, "fail": rule.fail}


def test_the_limit_itself_is_still_good() -> None:
    rule = Rule("x", 2.0, 3.0, "{value} {limit}")
    assert [rule.broken(v) for v in (2.0, 2.5, 3.0, 3.5)] == [None, "look", "look", "fail"]
    low = Rule("x", 0.3, 0.1, "{value} {limit}")
    assert [low.broken(v) for v in (0.3, 0.2, 0.1, 0.0)] == [None, "look", "look", "fail"]


def test_doubts_ask_for_a_look_and_unknown_figures_are_not_judged() -> None:
    assert verdict({}, ["more than a brain"]).verdict == "look"
    assert verdict({}, ["a doubt"], failures=["a failure"]).reasons == ("a failure", "a doubt")
    assert verdict({RULES[0].figure: None}).verdict == "pass"
    assert verdict({"x": float("inf")}).figures == {"x": None}


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


@pytest.mark.parametrize("broken", ["fail", "look"])
def test_reasons_name_the_value_and_the_limit(broken: str) -> None:
    for rule in RULES:
        limit = getattr(rule, broken)
        value = limit + (0.4 if broken == "look" else 1.0) * (rule.fail - rule.look)
        [reason] = verdict({rule.figure: value}).reasons
        assert f"{limit:g}" in reason
