"""A cohort as a table: every fault of every row told at once, every row sound enough to be asked for again."""

import csv
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest

from neuroreg.cohort.case import Case, Cohort
from neuroreg.cohort.find import find_cohort
from neuroreg.cohort.manifest import IGNORED, read_manifest
from neuroreg.cohort.row import COLUMNS, is_reserved
from neuroreg.cohort.shared import TEMPLATE
from neuroreg.errors import DataError, NoInputError, UsageError
from neuroreg.io.tables import write_csv
from neuroreg.pipeline.config import RegisterConfig


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder with a few images, which need only be there."""
    folder = tmp_path / "study"
    (folder / "seg").mkdir(parents=True)
    for name in ("f.nii.gz", "m1.nii.gz", "m2.nii.gz", "seg/f.nii.gz", "seg/m1.nii.gz", "flair.nii.gz"):
        (folder / name).write_bytes(name.encode())
    for name in ("names.csv", "start.mat", "own.safetensors"):
        (folder / name).write_text("x")
    (tmp_path / "other.nii.gz").write_bytes(b"outside")
    return folder


def table(folder: Path, text: str, *, name: str = "cohort.csv") -> Path:
    """A manifest with this text."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def read(path: Path, settings: Mapping[str, object] | None = None, **more: object) -> Cohort:
    """Its cases; the output folder is beside its folder."""
    return read_manifest(path, settings or {}, output=path.parent.parent / "out", **more)  # type: ignore[arg-type]


def refusal(path: Path, settings: Mapping[str, object] | None = None, **more: object) -> str:
    """What is said of a manifest with faults."""
    with pytest.raises(UsageError) as caught:
        read(path, settings, **more)
    assert caught.value.exit_code == 2
    return str(caught.value)


def write_rows(path: Path, cases: Iterable[Case]) -> Path:
    """The rows of cases as failed.csv holds them."""
    rows = [case.row for case in cases]
    columns = [name for name in COLUMNS if any(name in row for row in rows)]
    said = [{**row, "state": "failed-data", "message": "=1+1"} for row in rows]
    write_csv(path, [*columns, "state", "message"], said)
    return path


def asked(cohort: Cohort) -> list[tuple[str, RegisterConfig]]:
    """What a cohort asks for, wherever its files are named from."""
    return [
        (
            case.id,
            case.config.model_copy(
                update={n: v.resolve() for n, v in case.config if isinstance(v, Path)}
                | {"also": tuple(path.resolve() for path in case.config.also)}
            ),
        )
        for case in cohort.cases
    ]


def test_a_row_is_a_case(study: Path) -> None:
    cohort = read(
        table(
            study,
            "id,fixed,moving,fixed_labels,moving_labels,label_names,also,age\n"
            "001,f.nii.gz,m1.nii.gz,seg/f.nii.gz,seg/m1.nii.gz,names.csv,flair.nii.gz|m2.nii.gz,30\n"
            "NA,f.nii.gz,./seg/../m2.nii.gz,,,,,31\n",
        )
    )
    assert [case.id for case in cohort.cases] == ["001", "NA"]
    first, second = (case.config for case in cohort.cases)
    assert (first.fixed, first.moving) == (study / "f.nii.gz", study / "m1.nii.gz")
    assert (first.fixed_labels, first.label_names) == (study / "seg/f.nii.gz", study / "names.csv")
    assert first.also == (study / "flair.nii.gz", study / "m2.nii.gz")
    assert (second.moving.resolve(), second.also, second.output) == (study / "m2.nii.gz", (), None)
    assert cohort.notes == ["the column 'age' is not used"]
    assert cohort.prepare is None
    assert cohort.cases[1].row == {
        "id": "NA", "fixed": "f.nii.gz", "moving": "./seg/../m2.nii.gz", "root": str(study),
    }  # fmt: skip


def test_a_cell_holds_over_the_settings_of_the_batch_and_an_empty_one_does_not(study: Path) -> None:
    path = table(
        study,
        "id;fixed;moving;method;affine;refine;outputs;frame;xform;seed;max_voxels;deterministic;find_brain;set\n"
        "a;f.nii.gz;m1.nii.gz;gaussnewton;none;10;image,field;1;sform;7;1000;yes;yes;preset=fast|windows=[3, 5]\n"
        "b;f.nii.gz;m1.nii.gz;;;;report|image;;;;;;;\n",
    )
    shared = {"method": "demons", "seed": 3, "refine": None, "options": {"iterations": [9, 8, 7, 6]}}
    first, second = (case.config for case in read(path, {**shared, "threads": 2}).cases)
    assert (first.method, first.affine, first.refine) == ("gaussnewton", "none", "10")
    assert (first.outputs, first.frame, first.xform) == (("image", "field"), 1, "sform")
    assert (first.seed, first.max_voxels, first.deterministic) == (7, 1000, True)
    assert (first.find_brain, second.find_brain) == (True, False)
    assert first.options == {"iterations": [9, 8, 7, 6], "preset": "fast", "windows": [3, 5]}
    assert (second.method, second.seed, second.options) == ("demons", 3, {"iterations": [9, 8, 7, 6]})
    assert (second.outputs, second.affine, second.refine) == (("image", "report"), "affine", None)
    assert first.threads == second.threads == 2
    # the batch's options stay when a row takes another method, and are told when they do not fit it
    assert "line 2: Unknown option of method gaussnewton 'sigma'" in refusal(path, {"options": {"sigma": 1}})


@pytest.mark.parametrize("between", [",", ";", "\t"])
def test_tables_of_all_kinds(study: Path, between: str) -> None:
    lines = [["id", "fixed", "moving", "also"], ["001", '"f.nii.gz"', " m1.nii.gz ", "m2.nii.gz"]]
    path = study / "cohort.tsv"
    path.write_bytes(("\ufeff" + "\r\n".join(map(between.join, lines)) + "\r\n\r\n").encode())
    (case,) = read(path).cases
    assert (case.id, case.config.moving) == ("001", study / "m1.nii.gz")


def test_every_fault_of_every_row_is_told_with_its_line(study: Path, tmp_path: Path) -> None:
    (study / "gone.nii.gz").symlink_to(tmp_path / "other.nii.gz")
    (study / "away").symlink_to(tmp_path)
    (study / "notes.txt").write_text("")
    good = "f.nii.gz,m1.nii.gz"
    text = refusal(
        table(
            study,
            "id,fixed,moving,also,seed,affine,method,set\n"
            f"a,{good},,,,,\n"
            f"A,{good},,,,,\n"
            f"../b,{good},,,,,\n"
            f"'=1+1,{good},,,,,\n"
            f".hidden,{good},,,,,\n"
            f"summary.csv,{good},,,,,\n"
            f"summary-3of8.csv,{good},,,,,\n"
            f",{good},,,,,\n"
            "c,../other.nii.gz,m1.nii.gz,,,,,\n"
            f"d,{tmp_path}/other.nii.gz,gone.nii.gz,,,,,\n"
            "e,,away/other.nii.gz,nothing.nii,one,afine,demon,levels\n"
            f"f,{good}\n"
            f"g,seg,notes.txt,m2.nii.gz|m2.nii.gz,-1,,,\n"
            f"h,{good},,,../start.mat,,\n"
            f"i,{good},,,,demons,sgma=1\n"
            f"a,{good},,,,,\n"
            f"j,{good},m2.nii.gz|./seg/../m2.nii.gz,,,,\n"
            f"{'x' * 65},{good},,,,,\n",
        )
    )
    outside = "the file lies outside the folder of the manifest, give --root"
    for part in (
        "line 3: the id 'A' is but for capitals that of line 2",
        "line 4: the id '../b' is not 1 to 64",
        "line 5: the id '=1+1' is not 1 to 64",
        "line 6: the id '.hidden' is not 1 to 64",
        "line 7: the id 'summary.csv' is the name of another output",
        "line 8: the id 'summary-3of8.csv' is the name of another output",
        "line 9: no id",
        f"lines 10, 11: fixed: {outside} (other.nii.gz)",
        f"line 11: moving: {outside} (gone.nii.gz)",
        "line 12: no fixed",
        f"line 12: moving: {outside} (other.nii.gz)",
        "line 12: also: no such file (nothing.nii)",
        "line 12: option set: expected KEY=VALUE, got 'levels'",
        "line 12: affine: Unknown affine 'afine'. Did you mean 'affine'",
        "line 12: option seed: Input should be a valid integer",
        "line 13: 3 cells, the header has 8",
        "line 14: fixed: the file type (none) is not read (seg)",
        "line 14: moving: the file type .txt is not read (notes.txt)",
        "line 14: option seed: Input should be greater than or equal to 0",
        f"line 15: affine: {outside} (start.mat)",
        "line 16: Unknown option of method demons 'sgma'. Did you mean 'sigma'",
        "line 17: the id 'a' is that of line 2",
        "line 18: two images would be written as m2_moved.nii.gz",
        "line 19: the id 'xxx",
        "cohort.csv",
        "nothing was registered: mend the table",
    ):
        assert part in text, part
    numbers = [int(number) for number in re.findall(r"lines? (\d+)[,:]", text)]
    assert numbers == sorted(numbers)
    assert "line 2:" not in text


def test_a_method_is_looked_at_once_however_many_rows_name_it(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from neuroreg.cohort import row

    seen = []
    monkeypatch.setattr(row, "check_engine", lambda config: seen.append((config.method, config.options)))
    lines = [f"{n},f.nii.gz,m1.nii.gz,{'demons' if n % 2 else ''},{'sigma=2' if n % 3 else ''}"
             for n in range(60)]  # fmt: skip
    read(table(study, "\n".join(["id,fixed,moving,method,set", *lines])))
    assert sorted(seen, key=str) == [
        ("demons", {"sigma": 2}), ("demons", {}), ("neuroreg", {"sigma": 2}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("header", "parts"),
    [
        ("id,fixed", ["no column moving"]),
        ("moving,fixed", ["no column id"]),
        ("ident,Moving,fixd", ["no column id", "did you mean fixed?"]),
        ("id,moving,fixed_label", ["'fixed_label' is not known: did you mean fixed_labels?"]),
        ("id,moving,options", ["'options' is not known: did you mean set?"]),
        ("id,moving", ["there are no cases"]),
    ],
)
def test_headers_that_cannot_be_meant(study: Path, header: str, parts: Sequence[str]) -> None:
    text = refusal(table(study, header + "\n"))
    assert all(part in text for part in parts)


@pytest.mark.parametrize("content", ["", "\n\n", "id,id,moving\n1,2,m1.nii.gz\n", 'id,moving\n"a,b\n'])
def test_files_that_are_no_tables(study: Path, content: str) -> None:
    with pytest.raises(DataError):
        read(table(study, content))
    with pytest.raises(NoInputError):
        read(study / "nothing.csv")


def test_columns_that_say_how_it_went_are_passed_over(study: Path) -> None:
    path = table(study, f"id,fixed,moving,device,{','.join(sorted(IGNORED))}\n")
    path.write_text(path.read_text() + "a,f.nii.gz,f.nii.gz,cuda" + ",x" * len(IGNORED))
    assert read(path).notes == [
        "the column 'device' is not used: --device holds for all cases",
        "fixed and moving are the same file (line 2)",
    ]


def test_of_very_many_faults_the_first_are_told(study: Path) -> None:
    lines = [f"c{n},f.nii.gz,none{n}.nii" for n in range(400)]
    text = refusal(table(study, "\n".join(["id,fixed,moving", *lines])))
    assert text.count("no such file") == 50
    assert "line 51: moving: no such file (none49.nii); and 350 more; cohort.csv" in text
    assert len(text) < 5000


def test_the_fixed_image_of_all_cases(study: Path, tmp_path: Path) -> None:
    path = table(study, "id,fixed,moving\na,,m1.nii.gz\nb,,m2.nii.gz\n")
    elsewhere = tmp_path / "other.nii.gz"
    cohort = read(path, fixed=elsewhere)
    assert {case.config.fixed for case in cohort.cases} == {elsewhere}
    assert cohort.cases[0].row == {  # the folder that holds both
        "id": "a", "fixed": str(elsewhere), "moving": str(study / "m1.nii.gz"), "root": str(tmp_path),
    }  # fmt: skip
    inside = read(path, fixed=study / "f.nii.gz").cases[0].row
    assert inside == {
        "id": "a", "fixed": str(study / "f.nii.gz"), "moving": "m1.nii.gz", "root": str(study),
    }  # fmt: skip
    with pytest.raises(NoInputError):
        read(path, fixed=study / "none.nii.gz")
    table(study, "id,fixed,moving\na,,m1.nii.gz\nb,f.nii.gz,m2.nii.gz\n")
    assert "line 2: no fixed" in refusal(path)
    for choice in (elsewhere, TEMPLATE):
        text = refusal(path, fixed=choice)
        assert "--fixed and the column fixed (line 3): leave out --fixed, or empty the column" in text
    assert "option fixed_labels belongs to one image" in refusal(
        table(study, "id,fixed,moving\nb,f.nii.gz,m2.nii.gz\n"), {"fixed_labels": study / "seg/f.nii.gz"}
    )


def test_where_no_fixed_image_is_named_the_template_is_meant(study: Path, tmp_path: Path) -> None:
    made = tmp_path / "out" / "template" / "template-ixi2mm.nii.gz"
    for text in ("id,moving\na,m1.nii.gz\n", "id,fixed,moving\na,,m1.nii.gz\n"):
        cohort = read(table(study, text))
        assert (cohort.cases[0].config.fixed, cohort.prepare is None) == (made, False)
        assert cohort.cases[0].row == {"id": "a", "moving": "m1.nii.gz", "root": str(study)}
        assert cohort.notes == ["no fixed image is named: all cases are registered onto the template"]
    assert read(table(study, text), fixed=TEMPLATE).notes == []
    assert not (tmp_path / "out").exists()


def test_where_files_are_looked_for(study: Path, tmp_path: Path) -> None:
    path = table(tmp_path, "id,fixed,moving\na,other.nii.gz,study/m1.nii.gz\n")
    assert read(path).cases[0].config.moving == study / "m1.nii.gz"
    lists = tmp_path / "lists"
    lists.mkdir()
    moved = path.rename(lists / "cohort.csv")
    assert "no such file (m1.nii.gz)" in refusal(moved)
    (case,) = read(moved, root=tmp_path).cases
    assert (case.config.moving, case.row["root"]) == (study / "m1.nii.gz", str(tmp_path))
    absolute = table(lists, f"id,fixed,moving\na,{study}/f.nii.gz,{study}/../study/m1.nii.gz\n")
    assert "give --root" in refusal(absolute)
    assert len(read(absolute, root=tmp_path).cases) == 1
    own = table(
        lists,
        f"id,fixed,moving,root\na,f.nii.gz,m1.nii.gz,{study}\nb,other.nii.gz,study/m1.nii.gz,{tmp_path}\n",
    )
    assert [case.config.fixed.parent for case in read(own).cases] == [study, tmp_path]
    assert "line 2: fixed: no such file" in refusal(own, root=tmp_path)  # the command line holds
    for cell in ("study", str(tmp_path / "none"), str(study / "f.nii.gz"), "/" + "x" * 5000):
        text = refusal(table(tmp_path, f"id,moving,root\na,m1.nii.gz,{cell}\n"))
        assert "line 2: root: not the absolute path of a folder" in text
    with pytest.raises(UsageError, match="--root is not a folder"):
        read(path.parent / "lists" / "cohort.csv", root=study / "f.nii.gz")


def test_links_inside_the_folder_keep_their_names(study: Path) -> None:
    (study / "objects").mkdir()
    (study / "m1.nii.gz").rename(study / "objects" / "MD5-1.nii.gz")
    (study / "m1.nii.gz").symlink_to("objects/MD5-1.nii.gz")
    (case,) = read(table(study, "id,fixed,moving\na,f.nii.gz,m1.nii.gz\n")).cases
    assert case.config.moving.name == "m1.nii.gz"
    (study / "loop.nii.gz").symlink_to("loop.nii.gz")
    assert "cannot look at the file" in refusal(table(study, "id,moving\na,loop.nii.gz\n"))


def test_an_input_is_not_where_a_case_will_be_written(study: Path, tmp_path: Path) -> None:
    for name in ("A", "z"):
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / "moved.nii.gz").write_bytes(b"1")
    text = "id,fixed,moving\na,study/f.nii.gz,out/{}/moved.nii.gz\n"
    path = table(tmp_path, text.format("A"))
    with pytest.raises(UsageError, match="line 2: moving: the file lies in the output folder of a case"):
        read_manifest(path, {}, output=tmp_path / "out")
    assert len(read_manifest(table(tmp_path, text.format("z")), {}, output=tmp_path / "out").cases) == 1


def test_weights_and_an_affine_may_be_files_of_the_manifest(study: Path) -> None:
    path = table(study, "id,fixed,moving,affine\na,f.nii.gz,m1.nii.gz,start.mat\n")
    (case,) = read(path).cases
    assert (case.config.affine, case.row["affine"]) == (str(study / "start.mat"), "start.mat")
    path = table(study, "id,moving,weights\na,m1.nii.gz,own.safetensors\nb,m1.nii.gz,no.safetensors\n")
    text = refusal(path)
    assert "line 2" in text  # what is in the file is no network
    assert "line 3: weights: no such file (no.safetensors)" in text
    (study / "weights").mkdir()
    assert "line 2: weights: the path is a folder" in refusal(
        table(study, "id,moving,weights\na,m1.nii.gz,./weights\n")
    )


def test_settings_of_all_are_checked_once_and_absolute(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(study, "id,moving\na,m1.nii.gz\nb,m2.nii.gz\n")
    monkeypatch.chdir(study)
    settings = {"fixed_labels": Path("seg/f.nii.gz"), "affine": "start.mat", "weights": "own.safetensors"}
    config = read(path, settings, fixed=Path("f.nii.gz")).cases[1].config
    assert (config.fixed, config.fixed_labels) == (study / "f.nii.gz", study / "seg/f.nii.gz")
    assert (config.affine, config.weights) == (str(study / "start.mat"), str(study / "own.safetensors"))
    for name in ("moving", "moving_labels", "also", "output"):
        assert f"option {name} belongs to one image" in refusal(path, {name: "m1.nii.gz"})
    assert refusal(path, {"threads": 0}).startswith("option threads: Input should be greater")
    with pytest.raises(NoInputError):
        read(path, {"label_names": Path("none.csv")})


@pytest.mark.parametrize("fixed", [None, "study/f.nii.gz", "other.nii.gz", TEMPLATE])
def test_the_rows_of_cases_are_a_manifest_wherever_it_lies(
    study: Path, tmp_path: Path, fixed: str | None
) -> None:
    (study / "-m.nii.gz").write_bytes(b"1")
    (study / "=m.nii.gz").write_bytes(b"1")
    column, cell = ("fixed,", "./f.nii.gz,") if fixed is None else ("", "")
    path = table(
        study,
        f"id,{column}moving,moving_labels,also,affine,method,seed,outputs,set,age,state\n"
        f"001,{cell}m1.nii.gz,seg/m1.nii.gz,flair.nii.gz | {study}/m2.nii.gz,start.mat,gaussnewton,3,"
        '"image,field",preset=fast|windows=[3],30,ok\n'
        f"NA,{cell}-m.nii.gz,,,,,,,,,\n"
        f"-1,{cell}'=m.nii.gz,,,,,,,,,\n",
    )
    choice = TEMPLATE if fixed == TEMPLATE else None if fixed is None else tmp_path / fixed
    first = read(path, fixed=choice)
    assert [case.id for case in first.cases] == ["001", "NA", "-1"]
    failed = write_rows(tmp_path / "failed.csv", first.cases)
    again = read_manifest(failed, {}, output=tmp_path / "out")
    assert asked(again) == asked(first)
    assert (again.prepare is None) == (fixed != TEMPLATE)
    (tmp_path / "deep").mkdir()
    third = read_manifest(
        write_rows(tmp_path / "deep" / "failed.csv", again.cases), {}, output=tmp_path / "out"
    )
    assert asked(third) == asked(first)
    assert [case.row for case in third.cases] == [case.row for case in again.cases]


def test_ids_of_outputs_and_of_their_parts_are_not_free() -> None:
    names = frozenset({"summary.csv", "template"})
    for name in ("summary.csv", "Summary.CSV", "summary-1of2.csv", "SUMMARY-12of345.csv", "TEMPLATE"):
        assert is_reserved(name, names)
    for name in ("summary", "summary-1.csv", "summary-of2.csv", "summary-1of2", "a-1of2.csv", "template1"):
        assert not is_reserved(name, names)


def test_hostile_cells_are_text(study: Path) -> None:
    for cell in ("\x1b[31m.nii", "a\0b.nii", "-", "~/x.nii", "x" * 5000, "m1.nii.gz/x.nii", "|"):
        with pytest.raises((UsageError, DataError)) as caught:
            read(table(study, f"id,moving,also,affine\na,{cell},{cell},{cell}\n"))
        assert caught.value.exit_code in (2, 65)
    assert "is not valid UTF-8" in refusal(_latin(study))


def _latin(study: Path) -> Path:
    # The name of the folder cannot be read as UTF-8, the table's cells always can.
    folder = Path(os.fsdecode(os.fsencode(study) + b"/caf\xe9"))
    folder.mkdir()
    return table(folder, "id,moving\na,m1.nii.gz\n")


def test_what_the_user_names_is_found(study: Path, tmp_path: Path) -> None:
    path = table(study, "id,moving\na,m1.nii.gz\n")
    (tmp_path / "settings.toml").write_text("seed = 5\n")
    cohort = find_cohort(
        path,
        {"threads": 2, "method": None},
        output=tmp_path / "out",
        config_file=tmp_path / "settings.toml",
        fixed=str(study / "f.nii.gz"),
    )
    config = cohort.cases[0].config
    assert (config.seed, config.threads, config.fixed) == (5, 2, study / "f.nii.gz")
    assert find_cohort(path, {}, output=tmp_path / "out", fixed="template").prepare is not None
    with pytest.raises(UsageError, match="--pairs is for a folder"):
        find_cohort(path, {}, output=tmp_path / "out", pairs=True)
    with pytest.raises(UsageError, match="--root is for a manifest"):
        find_cohort(study, {}, output=tmp_path / "out", root=study)
    with pytest.raises(UsageError, match="needs no --fixed"):
        find_cohort(study, {}, output=tmp_path / "out", pairs=True, fixed="template")
    assert len(find_cohort(study, {}, output=tmp_path / "out", pairs=True).cases) == 4 * 3
    assert len(find_cohort(study, {}, output=tmp_path / "out").cases) == 4


@pytest.mark.slow
def test_ten_thousand_rows_are_checked_in_seconds(study: Path, tmp_path: Path) -> None:
    with (study / "cohort.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "fixed", "moving", "moving_labels", "affine", "seed", "set"])
        for n in range(10_000):
            writer.writerow(
                [f"s{n:05}", "f.nii.gz", f"m{1 + n % 2}.nii.gz", "seg/m1.nii.gz", "", n, "sigma=2"]
            )
    begun = time.monotonic()
    cohort = read(study / "cohort.csv", {"method": "demons"})
    assert len(cohort.cases) == 10_000
    assert time.monotonic() - begun < 10.0  # 2 s measured where nothing else runs


def test_a_spreadsheet_may_leave_its_mark(study: Path) -> None:
    path = study / "excel.csv"
    path.write_bytes(b"\xef\xbb\xbfsep=;\r\nID;Moving;;\r\n001;m1.nii.gz;;\r\n;;;\r\n")
    cohort = read(path, fixed=study / "f.nii.gz")
    assert [(case.id, case.config.moving.name) for case in cohort.cases] == [("001", "m1.nii.gz")]


@pytest.mark.parametrize("column", ["labels", "seg", "mask"])
def test_a_column_that_leaves_its_side_open_is_not_passed_over(study: Path, column: str) -> None:
    path = table(study, f"id,moving,{column}\n001,m1.nii.gz,m2.nii.gz\n")
    assert "did you mean moving_" in refusal(path, fixed=study / "f.nii.gz")
