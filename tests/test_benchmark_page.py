"""The page of a reproduction from rows on disk: which rows count, what the tables say, and rows kept between runs."""

from pathlib import Path

import pytest
from scipy.stats import wilcoxon

from neuroreg.benchmark import COLUMNS, Row
from neuroreg.benchmark_claims import Claims
from neuroreg.benchmark_page import to_page
from neuroreg.benchmark_rows import METHOD_COLUMNS, IxiRows, method_names, read_measurements, write_methods
from neuroreg.errors import DataError, NoInputError
from neuroreg.io.tables import write_csv

CLAIMS = Claims.model_validate(
    {
        "methods": {name: {"method": "affine"} for name in ("new", "old", "gone")},
        "papers": [
            {
                "title": "A paper",
                "about": "Other people.",
                "claims": [
                    {"says": "New | better", "paper": "1 > 0", "order": ["new", "old"], "guess": "Luck.\n"},
                    {"says": "New is exact", "paper": "?", "order": ["new", "gone"], "sets": ["ixi"]},
                    {"says": "New is quick", "paper": "1 s", "order": ["new", "old"], "figure": "seconds"},
                ],
            }
        ],
    }
)
OLD = [0.500, 0.510, 0.520, 0.530, 0.540, 0.550, 0.560, 0.570]
NEW = [value + 0.001 * (k + 1) + 0.0002 for k, value in enumerate(OLD)]


def method(name: str, **changes: str) -> dict[str, str]:
    row = dict.fromkeys(METHOD_COLUMNS, "") | {"name": name, "settings": "{}", "machine": "toy"}
    return row | {"arguments": f"--method {name}", **changes}


def figures(dice: float, seconds: float) -> dict[str, float]:
    return {"dice_before": 0.4, "dice_affine": 0.45, "dice": dice, "folded_percent": 0.25, "seconds": seconds}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Rows of two methods on eight IXI and two OASIS pairs, some of them out of date."""
    methods = [
        method("new", weights="w1", parameters="1234567", steps="300"),
        method("old"),
        method("gone", note="no weights"),
    ]
    write_methods(tmp_path, methods)
    ixi = IxiRows(tmp_path)
    for k, (old, new) in enumerate(zip(OLD, NEW, strict=True)):
        ixi.add(methods[0], (f"f{k}", "m"), figures(new, 1.0))
        ixi.add(methods[1], (f"f{k}", "m"), figures(old, 2.0))
    ixi.add(method("new", weights="w0"), ("f9", "m"), figures(0.9, 1.0))  # by older weights
    rows = [
        Row(
            "new",
            "--method new",
            "f",
            "m",
            2,
            "ok",
            "w1",
            dice=0.6,
            dice_affine=0.5,
            affine_s=2.0,
            wall_s=9.0,
        ),
        Row("new", "--method new", "g", "m", 2, "failed (1): boom", "w1"),
        Row("new", "--method new", "g", "m", 2, "ok", "w0", dice=0.1),
        Row(
            "old", "--method old", "f", "m", 2, "ok", dice=0.7, affine_s=1.0, deformable_s=3.0, peak_mb=800.0
        ),
    ]
    (tmp_path / "oasis").mkdir()
    cells = [{column: getattr(row, column) for column in COLUMNS} for row in rows]
    write_csv(tmp_path / "oasis" / "rows.csv", COLUMNS, cells)
    return tmp_path


def cells(page: str, title: str) -> list[list[str]]:
    """The rows of the table under a heading."""
    section = page.split(f"## {title}\n")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    return [
        [cell.strip().replace("\\", "") for cell in line.strip("|").replace("\\|", "\\").split("|")]
        for line in (table[0], *table[2:])
    ]


def test_the_page_says_what_the_rows_say(folder: Path) -> None:
    page = to_page(read_measurements(folder), CLAIMS, command="reproduce.sh")
    assert "8 ordered pairs" in page
    assert "Machine: toy." in page
    _, new, old = cells(page, "Every method")
    assert new == [
        *("`new`", "300", "1,234,567"),
        *("8", ".450", ".540", "+.0897", "0.25"),
        *("1", ".500", ".600", "+.1000", ""),
    ]
    assert old[-5:] == ["1", "", ".700", "", ""]
    assert cells(page, "Time, memory, parameters")[1:] == [
        ["`new`", "1,234,567", "9.0", "", "2.0", "", "", "1.0"],
        ["`old`", "", "", "", "1.0", "3.0", "800", "2.0"],
    ]
    assert "- `gone`: no weights" in page


def test_the_verdicts_are_computed_and_the_guess_is_copied(folder: Path) -> None:
    page = to_page(read_measurements(folder), CLAIMS, command="reproduce.sh")
    found = [row[3:] for row in cells(page, "A paper")[1:]]
    raw = wilcoxon(NEW, OLD).pvalue
    assert raw == 2 / 2**8  # eight wins of eight; two comparisons on IXI
    assert found[0] == ["IXI", "8", ".540 / .535", "+.0047", f"{2 * raw:.2g}", "**holds**"]
    assert found[1] == ["OASIS", "1", ".600 / .700", "-.1000", "1", "**not significant**"]
    assert found[2] == ["IXI", "0", "no rows of gone", "", "", "not measured"]
    assert found[3] == ["IXI", "8", "1 / 2", "1", f"{2 * raw:.2g}", "**holds**"]
    assert found[4][:4] == ["OASIS", "1", "2 / 4", "2"]
    assert "\n1. Dice, better first: `new` > `old`. *Our best guess why:* Luck.\n" in page
    assert "| 1 | New \\| better | 1 > 0 |" in page
    assert page.count("Our best guess") == 1


def test_rows_are_kept_while_weights_and_options_stay(folder: Path) -> None:
    rows, now = IxiRows(folder), method("new", weights="w1")
    assert rows.has(now, ("f0", "m"))
    assert not rows.has(method("new", weights="w2"), ("f0", "m"))
    assert not rows.has(method("new", weights="w1", settings='{"slices": 24}'), ("f0", "m"))
    rows.forget_older(now)
    rows.add(now, ("f8", "m"), figures(0.5, 1.0))
    kept = IxiRows(folder)
    assert not kept.has(method("new", weights="w0"), ("f9", "m"))
    assert kept.has(now, ("f8", "m"))
    assert kept.has(method("old"), ("f0", "m"))


def test_methods_that_are_not_measured_this_time_stay(folder: Path) -> None:
    write_methods(folder, [method("new", weights="w2"), method("more")])
    assert method_names(folder) == {"new", "old", "gone", "more"}
    assert read_measurements(folder).table["ixi", "new"] == {}  # nothing by these weights yet
    assert method_names(folder / "nowhere") == frozenset()


def test_a_folder_without_rows_and_rows_without_sense(folder: Path) -> None:
    with pytest.raises(NoInputError):
        read_measurements(folder / "oasis")
    text = (folder / "ixi.csv").read_text().replace(",0.25,", ",quarter,", 1)
    (folder / "ixi.csv").write_text(text)
    with pytest.raises(DataError, match=r"ixi\.csv.*quarter"):
        read_measurements(folder)
