"""A table of pairs: every fault told first, one bad pair a row, numbers by hand."""

import csv
from pathlib import Path

import pytest
from evaluate_phantoms import bar_dice, bars, save_labels, save_pairs, save_table

from neuroreg.errors import BusyError, CannotCreateError, DataError, UsageError
from neuroreg.io.files import output_lock
from neuroreg.pipeline.evaluate import EvaluateOptions
from neuroreg.pipeline.evaluate_scores import LONG_COLUMNS
from neuroreg.pipeline.evaluate_table import TableConfig, evaluate_table, read_pairs


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_a_table_leaves_long_and_wide_rows(tmp_path: Path) -> None:
    pairs = save_pairs(tmp_path, {"old": (1, 2), "new": (0, 1)})
    names, groups = tmp_path / "names.csv", tmp_path / "groups.csv"
    names.write_text('label,name\n7,"=bar, left"\n')
    groups.write_text("label,group\n7,both\n8,both\n8,Short bar\n")
    lines: list[str] = []
    config = TableConfig(
        pairs=pairs, output=tmp_path / "out", options=EvaluateOptions(label_names=names, groups=groups)
    )
    outcome = evaluate_table(config, progress=lines.append)
    assert lines == ["1/4 s0, old", "2/4 s1, old", "3/4 s0, new", "4/4 s1, new"]
    assert (outcome.failed, outcome.notes) == ((), ())
    rows = read(tmp_path / "out" / "rois.csv")
    assert tuple(rows[0]) == LONG_COLUMNS
    assert len(rows) == 4 * (2 + 2 * 2)
    first = rows[0]
    assert [first[k] for k in ("id", "method", "roi", "name", "kind")] == [
        "s0",
        "old",
        "7",
        "'=bar, left",
        "roi",
    ]
    assert float(first["dice"]) == pytest.approx(bar_dice(7, 1))
    assert float(first["hd_mm"]) == float(first["centroid_shift_mm"]) == pytest.approx(2.75)
    assert float(first["tolerance_mm"]) == 1.0
    by = {(r["id"], r["method"], r["kind"], r["name"]): r for r in rows}
    union, mean = (by["s1", "old", kind, "both"] for kind in ("group", "group mean"))
    assert float(union["dice"]) == pytest.approx((4 + 2) / 10)
    assert float(mean["dice"]) == pytest.approx((bar_dice(7, 2) + bar_dice(8, 2)) / 2)
    assert (union["roi"], union["status"], mean["status"]) == ("", "ok", "ok")
    wide = read(tmp_path / "out" / "pairs.csv")
    assert [(row["id"], row["method"], row["status"], row["regions"]) for row in wide] == [
        ("s0", "old", "ok", "2"), ("s1", "old", "ok", "2"), ("s0", "new", "ok", "2"), ("s1", "new", "ok", "2"),
    ]  # fmt: skip
    assert [float(row["dice_8"]) for row in wide] == pytest.approx([bar_dice(8, s) for s in (1, 2, 0, 1)])
    assert float(wide[1]["mean_dice"]) == pytest.approx((bar_dice(7, 2) + bar_dice(8, 2)) / 2)
    assert float(wide[1]["dice_group_both"]) == pytest.approx(0.6)
    assert float(wide[1]["dice_group_Short bar"]) == pytest.approx(bar_dice(8, 2))
    assert "folded_percent" not in wide[0]
    assert "dice_7_=bar, left" in wide[0]


def test_every_fault_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    pairs = save_pairs(tmp_path, {"": (0,)})
    good = "seg/fixed.nii"
    pairs.write_text(
        "id,method,fixed_labels,moved_labels,inverse,moving_landmarks,age\n"
        f"a,x,{good},{good},,,30\n"
        "\n"
        f"../b,x,{good},nothing.nii,,,\n"
        f"a,x,,{good},,,\n"
        f"c,x,{good},seg,{good},,\n"
        f"d,x,{good},{good},,{good},\n"
        f"e,x,{good}\n"
    )
    with pytest.raises(UsageError) as caught:
        evaluate_table(TableConfig(pairs=pairs, output=tmp_path / "out"))
    text = str(caught.value)
    for part in (
        "line 4: the id '../b' is not 1 to 64",
        "line 4: moved_labels: no such file (nothing.nii)",
        "line 5: no fixed_labels",
        "line 5: the same id and method as line 2",
        "line 6: moved_labels: the path is a folder (seg)",
        "line 7: --moving-landmarks needs the map",
        "line 8: 3 cells, the header has 7",
        "pairs.csv",
    ):
        assert part in text
    assert "line 2" not in text.replace("as line 2", "")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("id,fixed_labels", "no column moved_labels"),
        ("id,fixed_labels,moved_labels,transfrom", "'transfrom' is not known: did you mean transform?"),
        ("id,fixed_labels,moved_labels", "there are no pairs"),
    ],
)
def test_tables_that_cannot_be_meant(header: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(header + "\n")
    with pytest.raises(UsageError) as caught:
        read_pairs(tmp_path / "pairs.csv", EvaluateOptions())
    assert part in str(caught.value)


def test_a_column_of_somebody_else_is_named(tmp_path: Path) -> None:
    save_labels(tmp_path / "a.nii", bars())
    save_table(
        tmp_path / "p.csv", [{"id": "001", "fixed_labels": "a.nii", "moved_labels": "a.nii", "age": "7"}]
    )
    rows, notes = read_pairs(tmp_path / "p.csv", EvaluateOptions(tolerance_mm=2.0))
    assert notes == ["the column 'age' is not used"]
    assert (rows[0][0], rows[0][1], rows[0][2].tolerance_mm) == ("001", "", 2.0)
    assert rows[0][2].fixed_labels == tmp_path / "a.nii"


def test_an_unusable_pair_is_a_row_and_the_rest_is_as_without_it(tmp_path: Path) -> None:
    pairs = save_pairs(tmp_path, {"": (1, 2)})
    evaluate_table(TableConfig(pairs=pairs, output=tmp_path / "clean"))
    other = bars()[:, :, :-1]
    save_labels(tmp_path / "seg" / "small.nii", other)
    (tmp_path / "seg" / "broken.nii").write_bytes(b"not an image")
    text = pairs.read_text().splitlines()
    text[2:2] = ["bad1,,seg/fixed.nii,seg/small.nii", "bad2,,seg/broken.nii,seg/fixed.nii"]
    pairs.write_text("\n".join(text))
    outcome = evaluate_table(TableConfig(pairs=pairs, output=tmp_path / "out"))
    assert [case.id for case in outcome.failed] == ["bad1", "bad2"]
    assert all(case.status.startswith("failed (65): ") for case in outcome.failed)
    assert len(outcome.notes) == 2
    names = ("clean", "out")
    assert len({(tmp_path / name / "rois.csv").read_bytes() for name in names}) == 1
    wide = {name: read(tmp_path / name / "pairs.csv") for name in names}
    assert [row for row in wide["out"] if row["status"] == "ok"] == wide["clean"]
    assert wide["out"][1]["mean_dice"] == wide["out"][1]["dice_7"] == ""


def test_what_is_there_is_kept_and_one_at_a_time_writes(tmp_path: Path) -> None:
    pairs, out = save_pairs(tmp_path, {"": (1,)}), tmp_path / "out"
    out.mkdir()
    (out / "summary.md").write_text("mine")
    config = TableConfig(pairs=pairs, output=out, also=("summary.md",))
    with pytest.raises(CannotCreateError):
        evaluate_table(config)
    assert [path.name for path in out.iterdir()] == ["summary.md"]
    again = config.model_copy(update={"options": EvaluateOptions(overwrite=True)})
    with output_lock(out), pytest.raises(BusyError):
        evaluate_table(again)
    evaluate_table(again)
    assert (out / "rois.csv").exists()


def test_names_and_groups_are_read_before_anything_is_computed(tmp_path: Path) -> None:
    pairs, wrong = save_pairs(tmp_path, {"": (1,)}), tmp_path / "groups.csv"
    wrong.write_text("label,group\nx,a\n")
    with pytest.raises(DataError):
        evaluate_table(
            TableConfig(pairs=pairs, output=tmp_path / "out", options=EvaluateOptions(groups=wrong))
        )
    assert not (tmp_path / "out").exists()


def test_maps_and_landmarks_of_a_table(tmp_path: Path) -> None:
    import SimpleITK as sitk

    save_labels(tmp_path / "a.nii", bars())
    sitk.WriteTransform(sitk.TranslationTransform(3, (3.0, 0.0, 4.0)), str(tmp_path / "t.tfm"))
    for name, x in (("fixed", 1.0), ("moved", 3.0), ("moving", 4.0)):
        (tmp_path / f"{name}.csv").write_text(f"name,x,y,z\np,{x},2,3\n")
    row = {
        "id": "a",
        "fixed_labels": "a.nii",
        "moved_labels": "a.nii",
        "transform": "t.tfm",
        "inverse": "t.tfm",
    }
    row |= {f"{name}_landmarks": f"{name}.csv" for name in ("fixed", "moved", "moving")}
    outcome = evaluate_table(
        TableConfig(pairs=save_table(tmp_path / "p.csv", [row]), output=tmp_path / "out")
    )
    figures = outcome.cases[0].figures()
    assert figures["tre_mean_mm"] == pytest.approx(2.0)
    assert figures["tre_mapped_mean_mm"] == pytest.approx(4.0)  # x is met, z is 4 mm beyond
    assert figures["inverse_mean_mm"] == pytest.approx(10.0)
    (wide,) = read(tmp_path / "out" / "pairs.csv")
    assert (wide["folded_percent"], wide["tre_count"]) == ("0.0", "1")
    assert "tre_sd_mm" not in wide  # of one landmark there is none


def test_groups_that_the_ids_cut_are_named(tmp_path: Path) -> None:
    pairs, groups = save_pairs(tmp_path, {"": (1,)}), tmp_path / "groups.csv"
    groups.write_text("label,group\n7,both\n8,both\n7,long bar\n")
    options = EvaluateOptions(groups=groups, ids=(7,))
    outcome = evaluate_table(TableConfig(pairs=pairs, output=tmp_path / "out", options=options))
    assert [note for note in outcome.notes if "leaves out labels" in note] == [
        "s0: --labels leaves out labels of the groups both: their figures are of the rest alone"
    ]


def test_the_table_itself_is_never_written_over(tmp_path: Path) -> None:
    pairs = save_pairs(tmp_path, {"": (1,)})
    table = pairs.rename(tmp_path / "pairs.csv")
    text = table.read_text()
    with pytest.raises(UsageError, match="overwrite an input"):
        evaluate_table(TableConfig(pairs=table, output=tmp_path, options=EvaluateOptions(overwrite=True)))
    assert table.read_text() == text
