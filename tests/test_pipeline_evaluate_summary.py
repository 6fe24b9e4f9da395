"""The summary of a table: numbers by hand, gaps as None, hostile names harmless."""

import json
from pathlib import Path

import numpy as np
import pytest
from evaluate_phantoms import bar_dice, save_pairs

from neuroreg.errors import CannotCreateError
from neuroreg.pipeline.evaluate import EvaluateOptions
from neuroreg.pipeline.evaluate_summary import summarise, to_markdown, write_summary
from neuroreg.pipeline.evaluate_table import Case, TableConfig, TableOutcome, evaluate_table


@pytest.fixture
def outcome(tmp_path: Path) -> TableOutcome:
    pairs = save_pairs(tmp_path, {"m": (0, 1, 2)})
    names = tmp_path / "names.csv"
    names.write_text("label,name\n7,Long|bar\n8,<script>*x*\n")
    options = EvaluateOptions(label_names=names, tolerance_mm=2.0)
    return evaluate_table(TableConfig(pairs=pairs, output=tmp_path / "out", options=options))


def test_figures_of_three_pairs(outcome: TableOutcome) -> None:
    record = summarise(outcome, seed=5)
    (method,) = record["methods"]
    means = [(bar_dice(7, s) + bar_dice(8, s)) / 2 for s in (0, 1, 2)]
    dice = method["figures"]["mean_dice"]
    assert dice["count"] == 3
    assert dice["mean"] == pytest.approx(np.mean(means))
    assert dice["sd"] == pytest.approx(np.std(means, ddof=1))
    assert dice["median"] == pytest.approx(means[1])
    assert min(means) <= dice["low"] < dice["mean"] < dice["high"] <= max(means)
    assert dice["worst_roi"]["roi"] == "8"  # the shorter bar loses more
    assert dice["worst_roi"]["mean"] == pytest.approx(np.mean([bar_dice(8, s) for s in (0, 1, 2)]))
    assert method["figures"]["mean_fixed_mm3"]["worst_roi"] is None
    assert method["figures"]["mean_volume_difference_percent"]["mean"] == 0.0
    by_roi = {s["roi"]: s["figures"] for s in method["structures"]}
    assert by_roi["7"]["dice"]["mean"] == pytest.approx(np.mean([bar_dice(7, s) for s in (0, 1, 2)]))
    assert by_roi["7"]["hd_mm"]["median"] == pytest.approx(2.75)
    assert summarise(outcome, seed=5) == record
    assert summarise(outcome, seed=6) != record
    assert method["tolerance_mm"] == 2.0


def test_the_markdown_is_a_table_whatever_the_names(outcome: TableOutcome) -> None:
    text = to_markdown(summarise(outcome))
    assert "Long\\|bar" in text
    assert "&lt;script&gt;\\*x\\*" in text
    assert "<script>" not in text
    assert "Surface Dice at 2 mm." in text
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) == 2
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table}) == 1


def test_nothing_but_failures_is_a_summary_too(tmp_path: Path) -> None:
    outcome = TableOutcome((Case("a\u202e", "m", "failed (65): no | good"),), (), ())
    record = summarise(outcome)
    assert (record["methods"], record["pairs"], len(record["failed"])) == ([], 1, 1)
    write_summary(tmp_path, record)
    assert json.loads((tmp_path / "summary.json").read_text()) == record
    assert "| a? | m | failed (65): no \\| good |" in (tmp_path / "summary.md").read_text()
    with pytest.raises(CannotCreateError):
        write_summary(tmp_path, record)
