"""CSV in and out."""

from pathlib import Path

import pytest

from neuroreg.errors import CannotCreateError, DataError
from neuroreg.io.tables import read_csv, read_label_names, write_csv


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
