"""Methods against the first: exact small samples, common cases only, one correction over everything."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from evaluate_phantoms import scores_of

from neuroreg.errors import DataError, UsageError
from neuroreg.io.tables import write_csv
from neuroreg.metrics.segmentation import FIGURES
from neuroreg.pipeline.evaluate_compare import ALL_LEVELS, COLUMNS, common_cases, compare_tables
from neuroreg.pipeline.evaluate_scores import LONG_COLUMNS, Scores

BASE = np.array([[0.5, 0.6], [0.55, 0.65], [0.4, 0.7], [0.45, 0.5], [0.6, 0.62], [0.52, 0.58]])
BETTER = BASE + np.array([[0.01, 0.02], [0.02, 0.04], [0.03, 0.01], [0.04, 0.03], [0.05, 0.06], [0.06, 0.05]])


def save(path: Path, *several: Scores) -> Path:
    path.parent.mkdir(exist_ok=True)
    rows = [
        {
            "id": case, "method": s.method, "roi": x.roi, "name": x.name, "kind": x.kind, "status": "ok",
            "tolerance_mm": s.tolerance_mm, **dict(zip(FIGURES, s.values[i, j].tolist(), strict=True)),
        }
        for s in several for i, case in enumerate(s.cases) for j, x in enumerate(s.structures)
    ]  # fmt: skip
    write_csv(path, LONG_COLUMNS, rows)
    return path


@pytest.fixture
def tables(tmp_path: Path) -> list[Path]:
    first, second = scores_of("", BASE, "ab"), scores_of("", BETTER, "ab")
    return [save(tmp_path / "base" / "rois.csv", first), save(tmp_path / "better" / "rois.csv", second)]


def test_six_wins_of_six(tables: list[Path], tmp_path: Path) -> None:
    # All signed ranks positive: p = 2 / 2^6. Three tests, equal p: Holm makes each 3 times that.
    found = compare_tables(tables, csv=tmp_path / "tests.csv")
    assert (found.methods, len(found.cases)) == (("base", "better"), 6)
    assert len(found.notes) == 1
    assert "after the correction for 3 tests" in found.notes[0]
    assert compare_tables(tables, levels=("mean",)).notes == ()
    assert [(test.level, test.roi) for test in found.tests] == [("mean", ""), ("roi", "1"), ("roi", "2")]
    for test in found.tests:
        assert test.p_value == pytest.approx(2 / 64)
        assert test.p_holm == pytest.approx(6 / 64)
        assert (test.rank_biserial, test.cases, test.method, test.reference) == (1.0, 6, "better", "base")
    mean, region, _ = found.tests
    gains = (BETTER - BASE).mean(axis=1)
    assert mean.mean_difference == pytest.approx(gains.mean())
    assert mean.cohen_dz == pytest.approx(gains.mean() / gains.std(ddof=1))
    assert region.method_mean == pytest.approx(BETTER[:, 0].mean())
    assert region.median_difference == pytest.approx(0.035)
    with (tmp_path / "tests.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == COLUMNS
    assert [float(row["p_value"]) for row in rows] == [test.p_value for test in found.tests]
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    assert (record["reference"], len(record["tests"])) == ("base", 3)


def test_only_pairs_that_all_have_count(tmp_path: Path) -> None:
    third = scores_of("c", BASE[:5] - 0.1, "ab")
    long = save(tmp_path / "rois.csv", scores_of("a", BASE, "ab"), scores_of("b", BETTER, "ab"), third)
    found = compare_tables([long], levels=("mean",))
    assert found.cases == ("s0", "s1", "s2", "s3", "s4")
    assert [(test.method, test.cases) for test in found.tests] == [("b", 5), ("c", 5)]
    assert found.tests[1].rank_biserial == -1.0
    assert any("only 5 pairs" in note for note in found.notes)
    assert all(s.cases == found.cases for s in found.scores)


def test_a_region_counts_in_a_mean_only_where_all_have_it(tmp_path: Path) -> None:
    holes = BETTER.copy()
    holes[:5, 1] = np.nan
    long = save(tmp_path / "rois.csv", scores_of("a", BASE, "ab"), scores_of("b", holes, "ab"))
    found = compare_tables([long])
    mean, first = found.tests  # the second region has one pair left: no test
    assert mean.reference_mean == pytest.approx(np.mean([*BASE[:5, 0], BASE[5].mean()]))
    assert first.roi == "1"
    assert any("1 comparisons have fewer than 2 pairs" in note for note in found.notes)


def test_groups_and_their_means_are_tested_by_name(tmp_path: Path) -> None:
    several = []
    for method, table in (("a", BASE), ("b", BETTER)):
        for kind in ("group", "group mean"):
            several.append(scores_of(method, table, ["Lobe", "Tissue"], kind))
    long = save(tmp_path / "rois.csv", *several)
    found = compare_tables([long], levels=ALL_LEVELS)
    assert [(test.level, test.name) for test in found.tests] == [
        ("group", "Lobe"), ("group", "Tissue"), ("group mean", "Lobe"), ("group mean", "Tissue"),
    ]  # fmt: skip


def test_too_little_is_refused(tables: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two methods"):
        compare_tables(tables[:1])
    with pytest.raises(DataError, match="1 pairs in common"):
        common_cases([scores_of("a", BASE, "ab"), scores_of("b", BASE[:1], "ab")])
    with pytest.raises(UsageError, match="is no figure"):
        compare_tables(tables, figures=("dicee",))
    with pytest.raises(DataError, match="nothing to compare"):
        compare_tables(tables, figures=("hd_mm",))
    other = Scores(**{**scores_of("x", BASE, "ab").__dict__, "tolerance_mm": 2.0})
    with pytest.raises(DataError, match="different tolerances"):
        compare_tables([tables[0], save(tmp_path / "x" / "rois.csv", other)], figures=("surface_dice",))


def test_equal_methods_are_equal(tmp_path: Path) -> None:
    long = save(tmp_path / "rois.csv", scores_of("a", BASE, "ab"), scores_of("b", BASE, "ab"))
    for test in compare_tables([long]).tests:
        assert (test.p_holm, test.rank_biserial, test.cohen_dz, test.mean_difference) == (1.0, 0.0, None, 0.0)
