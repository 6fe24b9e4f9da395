"""CSV in and out."""

from pathlib import Path

import pytest

from neuroreg.errors import CannotCreateError, DataError
from neuroreg.io.tables import (
    check_header,
    read_csv,
    read_groups,
    read_label_names,
    read_lines,
    read_points,
    write_csv,
)


def test_numbers_stay_numbers_and_formulas_become_text(tmp_path: Path) -> None:
    rows = [
        {"id": "=cmd|x", "dice": 0.1 + 0.2, "n": -3, "note": None},
        {"id": "-1", "dice": float("nan"), "note": 'a,"b"'},
    ]
    write_csv(tmp_path / "a.csv", ["id", "dice", "n", "note"], rows)
    text = (tmp_path / "a.csv").read_bytes()
    assert text == b'id,dice,n,note\n\'=cmd|x,0.30000000000000004,-3,\n\'-1,,,"a,""b"""\n'
    with pytest.raises(CannotCreateError):
        write_csv(tmp_path / "a.csv", ["id"], [])
    assert read_csv(tmp_path / "a.csv")[1]["note"] == 'a,"b"'


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_ids_stay_text(delimiter: str, tmp_path: Path) -> None:
    text = f"\ufeffid{delimiter}fixed\r\n001{delimiter} a.nii \r\nNA{delimiter}b.nii\r\n\r\n"
    (tmp_path / "a.csv").write_bytes(text.encode())
    assert read_csv(tmp_path / "a.csv") == [{"id": "001", "fixed": "a.nii"}, {"id": "NA", "fixed": "b.nii"}]


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"a,a\n1,2\n", b"a,b\n1\n", b"a,b\n1,2,3\n", b'a,b\n"1,2\n', b"\xff\xfe,b\n"]
)
def test_tables_that_are_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError):
        read_csv(tmp_path / "a.csv")


def test_label_names(tmp_path: Path) -> None:
    for header in ("label,name", "ID;Name;class", "index\tlabel"):
        delimiter = header.strip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")[0]
        cells = [["4", "3rd"], ["23", "Accumbens R"]]
        lines = [delimiter.join([*row, "x"][: header.count(delimiter) + 1]) for row in cells]
        (tmp_path / "a.csv").write_text("\n".join([header, *lines]))
        assert read_label_names(tmp_path / "a.csv") == {4: "3rd", 23: "Accumbens R"}
    for content in ("a,b\n1,2\n", "label,name\nx,y\n", "label,name\n1,a\n1,b\n"):
        (tmp_path / "a.csv").write_text(content)
        with pytest.raises(DataError):
            read_label_names(tmp_path / "a.csv")


def test_lines_are_counted_as_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,note\n\n1,"two\nlines"\n\n2\n')
    assert read_lines(tmp_path / "a.csv") == (["id", "note"], [(4, ["1", "two\nlines"]), (6, ["2"])])
    with pytest.raises(DataError, match="line 6 has 1 cells, the header 2"):
        read_csv(tmp_path / "a.csv")


def test_groups(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Label,Group,region\n4,CSF,x\n11,CSF,y\n4,Ventricles,x\n4,CSF,again\n")
    assert read_groups(tmp_path / "a.csv") == {"CSF": (4, 11), "Ventricles": (4,)}
    for content in (
        "label\n4\n",
        "label,group\n",
        "label,group\n0,a\n",
        "label,group\nx,a\n",
        "label,group\n4,\n",
    ):
        (tmp_path / "a.csv").write_text(content)
        with pytest.raises(DataError):
            read_groups(tmp_path / "a.csv")


def test_landmarks_are_turned_to_lps(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("name;x;y;z;by\nac;1.5;-2;3;me\n007;0;0;1e2;me\n")
    assert read_points(tmp_path / "a.csv") == {"ac": (1.5, -2.0, 3.0), "007": (0.0, 0.0, 100.0)}
    assert read_points(tmp_path / "a.csv", ras=True)["ac"] == (-1.5, 2.0, 3.0)
    for row in ("ac,1,2,nan", "ac,1,2,", ",1,2,3", "ac,1,2,3\nac,1,2,3", ""):
        (tmp_path / "a.csv").write_text(f"name,x,y,z\n{row}\n")
        with pytest.raises(DataError):
            read_points(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("name,x,y\nac,1,2\n")
    with pytest.raises(DataError, match="add z"):
        read_points(tmp_path / "a.csv")


def test_a_slip_in_a_column_name_is_a_fault_and_a_stranger_is_named() -> None:
    known = ("id", "moving", "moving_labels")
    found = check_header(
        ["ID", "moving", "movin_labels", "age", "state"], known, required=("id",), ignored={"state"}
    )
    assert found == (
        [
            "no column id",
            "column 'ID' is not known: did you mean id?",
            "column 'movin_labels' is not known: did you mean moving_labels?",
        ],
        ["the column 'age' is not used"],
    )
    # a name near to a column that is there is no slip
    assert check_header(["id", "moving", "moving_"], known, required=("id",))[0] == []


def test_a_cell_keeps_letters_that_are_line_breaks_elsewhere(tmp_path: Path) -> None:
    rows = [{"id": f"a{letter}b", "note": "x"} for letter in "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"]
    write_csv(tmp_path / "a.csv", ("id", "note"), rows)
    assert read_csv(tmp_path / "a.csv") == rows


def test_a_label_of_thousands_of_digits_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"label,group\n{'9' * 5000},a\n")
    with pytest.raises(DataError, match="no whole number"):
        read_groups(tmp_path / "a.csv")
