"""The long table as arrays, and what a table is called."""

from pathlib import Path

import numpy as np
import pytest

from neuroreg.errors import DataError, UsageError
from neuroreg.io.tables import write_csv
from neuroreg.metrics.segmentation import FIGURES
from neuroreg.pipeline.evaluate_scores import LONG_COLUMNS, collect, read_scores


def row(case: str, method: str, roi: str, dice: float | None, **other: object) -> dict[str, object]:
    blank = dict.fromkeys(FIGURES)
    first = {
        "id": case,
        "method": method,
        "roi": roi,
        "name": "",
        "kind": "roi",
        "tolerance_mm": 1.0,
        "status": "ok",
    }
    return {**first, **blank, "dice": dice, **other}


ROWS = [
    row("a", "new", "11", 0.5),
    row("a", "new", "2", 0.25),
    row("a", "new", "", 0.75, kind="group", name="Lobe"),
    row("b", "new", "11", None),
    row("a", "old", "2", 0.125),
]


def test_rows_become_arrays_with_gaps() -> None:
    new, old = collect(ROWS)
    assert (new.method, new.cases, old.method) == ("new", ("a", "b"), "old")
    assert [s.title for s in new.structures] == ["2", "11", "Lobe"]
    np.testing.assert_array_equal(new.figure("dice"), [[0.25, 0.5, 0.75], [np.nan] * 3])
    assert new.of_kind("group").figure("dice").tolist()[0] == [0.75]
    assert np.isnan(new.figure("hd_mm")).all()
    assert new.tolerance_mm == 1.0
    with pytest.raises(DataError, match="twice"):
        collect([*ROWS, row("b", "new", "11", 0.5)])


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    write_csv(tmp_path / "rois.csv", LONG_COLUMNS, [*ROWS, row("a", "old", "3", 0.5, name="=x")])
    new, old = read_scores([tmp_path / "rois.csv"])
    np.testing.assert_array_equal(new.values, collect(ROWS)[0].values)
    assert old.structures[1].name == "=x"


def test_tables_are_called_by_their_method_or_their_folder(tmp_path: Path) -> None:
    for folder, method in (("one", ""), ("two", ""), ("three", "m"), ("four", "m")):
        (tmp_path / folder).mkdir()
        write_csv(tmp_path / folder / "rois.csv", LONG_COLUMNS, [row("a", method, "2", 0.5)])

    def names(*folders: str) -> list[str]:
        return [scores.method for scores in read_scores([tmp_path / f / "rois.csv" for f in folders])]

    assert names("one", "two") == ["one", "two"]
    assert names("one", "three") == ["one", "m"]
    assert names("three", "four") == ["three", "four"]
    with pytest.raises(UsageError, match="called 'one'"):
        names("one", "one")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("id,name,dice\n7,x,1\n", "no table of many pairs: no method, roi"),
        (",".join(LONG_COLUMNS) + "\n", "no rows"),
        (",".join(LONG_COLUMNS) + "\na,m,7,x,lobe" + "," * 12 + "\n", "'lobe' is no kind"),
        (",".join(LONG_COLUMNS) + "\na,m,7,x,roi,high" + "," * 11 + "\n", "dice 'high' is no number"),
    ],
)
def test_other_tables_are_refused(text: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "rois.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        read_scores([tmp_path / "rois.csv"])
    assert part in str(caught.value)
