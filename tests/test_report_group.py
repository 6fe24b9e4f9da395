"""The page of a cohort: what it counts and in what order, and that nothing from a run can act in it."""

import base64
import csv
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from group_phantoms import HOSTILE_IDS, HOSTILE_TEXT, picture, run

from neuroreg.errors import CannotCreateError, NoInputError, UsageError
from neuroreg.report.group import GroupSummary, write_group

VOID = {"meta", "img", "input", "br", "link"}


class Page(HTMLParser):
    """Tags with their attributes, text by tag, and whether every tag is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.blocks: list[tuple[str, dict[str, str | None], str]] = []
        self.text = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.blocks.append((tag, dict(attrs), ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            tag, attributes, text = self.blocks[-1]
            self.blocks[-1] = (tag, attributes, text + data)
        else:
            self.text += data

    def block(self, tag: str, kind: str | None = None) -> str:
        """The text of the only such block."""
        (found,) = [text for name, a, text in self.blocks if name == tag and a.get("type") == kind]
        return found

    @property
    def data(self) -> dict[str, list[dict[str, object]]]:
        """What the script reads."""
        return json.loads(self.block("script", "application/json"))  # type: ignore[no-any-return]

    @property
    def policy(self) -> str:
        """The content security policy."""
        (found,) = [a["content"] for _, a in self.tags if a.get("http-equiv") == "Content-Security-Policy"]
        assert found is not None
        return found


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A cohort whose every name and text is meant to do harm, and one run of each broken kind."""
    top = tmp_path / "top <b>&amp;"
    for k, name in enumerate(HOSTILE_IDS):
        folder = top / name / "foo]" if name == "sub[" else top / name
        run(
            folder,
            verdict=("fail", "look", "pass")[k % 3],
            reasons=(HOSTILE_TEXT, f"=cmd {k}"),
            method=HOSTILE_TEXT,
            weights=HOSTILE_TEXT,
            thumbnail=picture("png", 8),
            lncc_after=0.5 + 0.01 * k,
        )
    (top / "<script>stopped").mkdir()
    (top / "<script>stopped" / "report.html").touch()
    (top / "</script>broken" / "x").mkdir(parents=True)
    (top / "</script>broken" / "run.json").write_text("{")
    return top


def test_counts_and_order(tmp_path: Path) -> None:
    run(tmp_path / "a", lncc_after=0.60)
    run(tmp_path / "b", verdict="fail", lncc_after=0.89)
    run(tmp_path / "c", verdict="look", lncc_after=0.91, reasons=("r",))
    run(tmp_path / "d", lncc_after=0.90)
    run(tmp_path / "e", lncc_after=0.93)
    run(tmp_path / "f", schema=1, verdict="look", lncc_after=0.88)
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "moved.nii.gz").touch()
    (tmp_path / "h").mkdir()
    (tmp_path / "h" / "run.json").write_text("no")
    output = tmp_path / "group.html"
    assert write_group(tmp_path, output) == GroupSummary(
        cases=6,
        passed=3,
        look=2,
        failed=1,
        outliers=1,
        unfinished=1,
        unreadable=1,
        path=output,
        table=tmp_path / "group.csv",
    )
    page = Page(output)
    # median .895; .60 lies .295 away, e .035, f .015, c .015, d and b .005; MAD .015
    assert [case["id"] for case in page.data["cases"]] == ["b", "c", "f", "a", "e", "d"]
    for words in ("fail 1", "look 2", "pass 3", "outlier 1", "unfinished 1", "unreadable 1"):
        assert words in re.sub(r"\s+", " ", page.text)
    with (tmp_path / "group.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["id"] for row in rows] == ["b", "c", "f", "a", "e", "d"]
    assert (rows[3]["outlier_figure"], float(rows[3]["outlier_z"])) == (
        "lncc_after",
        pytest.approx(-0.295 / (1.4826022 * 0.015)),
    )


def test_the_page_asks_for_nothing_and_its_hashes_are_right(hostile: Path, tmp_path: Path) -> None:
    write_group(hostile, tmp_path / "group.html")
    page = Page(tmp_path / "group.html")
    assert page.open == []
    assert page.policy == (
        f"default-src 'none'; script-src {_hash(page.block('script'))}; "
        f"style-src {_hash(page.block('style'))}; img-src data:; base-uri 'none'; form-action 'none'"
    )
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "form", "base")
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        assert (attributes.get("src") or "data:image/").startswith("data:image/")
    assert not re.search(r"https?://|url\(|@import|innerHTML|insertAdjacentHTML|eval\(", page.source)


def test_hostile_names_and_texts_stay_text(hostile: Path, tmp_path: Path) -> None:
    run(tmp_path / "tame" / "case", verdict="look", reasons=("r",), thumbnail=picture("png", 8))
    write_group(tmp_path / "tame", tmp_path / "tame.html")
    write_group(hostile, tmp_path / "group.html")
    tame, page = Page(tmp_path / "tame.html"), Page(tmp_path / "group.html")
    names = {name for _, attributes in page.tags for name in attributes}
    assert names <= {name for _, attributes in tame.tags for name in attributes} | {"open"}
    assert sum(tag == "script" for tag, _ in page.tags) == 2
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", page.source)
    assert {case["id"] for case in page.data["cases"]} == {
        *HOSTILE_IDS[:2],
        "sub[/foo]",
        *HOSTILE_IDS[3:7],
        "bad?[31m?gnp",
    }
    assert "{{ 7*7 }}" in page.text
    assert "<img src=x onerror=alert(1)>" in page.text  # shown as it is


def test_hostile_names_are_text_in_the_table(hostile: Path, tmp_path: Path) -> None:
    write_group(hostile, tmp_path / "group.html")
    with (tmp_path / "group.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    assert len(rows) == 1 + len(HOSTILE_IDS)
    assert not any(cell.startswith(("=", "+", "@")) for row in rows for cell in row)
    assert any(row[0] == "'=cmd|' !A0" for row in rows)


def test_links_lead_to_files_that_are_there(hostile: Path, tmp_path: Path) -> None:
    run(hostile / "no-report", report=False)
    write_group(hostile, tmp_path / "group.html")
    page = Page(tmp_path / "group.html")
    assert [case["link"] for case in page.data["cases"] if case["id"] == "no-report"] == [None]
    found = [a["href"] for tag, a in page.tags if tag == "a" and a.get("href")]
    found += [str(case["link"]) for case in page.data["cases"] if case["link"]]
    reports = 0
    for link in found:
        assert link is not None
        parts = urlsplit(link)
        assert (parts.scheme, parts.netloc, parts.query) == ("", "", "")
        if parts.fragment:
            assert any(a.get("id") == parts.fragment for _, a in page.tags)
        else:
            assert (tmp_path / unquote(parts.path)).is_file(), link
            reports += link.endswith("report.html")
    assert reports == 2 * len(HOSTILE_IDS)  # in the table without scripts, and in the data


def test_unfinished_and_unreadable_are_listed_and_runs_that_differ_pointed_out(
    hostile: Path, tmp_path: Path
) -> None:
    run(hostile / "affine", method="affine", weights=None)
    write_group(hostile, tmp_path / "group.html")
    text = Page(tmp_path / "group.html").text
    assert "<script>stopped" in text
    assert "</script>broken" in text
    assert "run.json is not valid JSON" in text
    assert "The runs are not all alike" in text


def test_without_scripts_the_fifty_worst_are_shown(tmp_path: Path) -> None:
    for k in range(53):
        run(
            tmp_path / "top" / f"case{k:02d}", verdict="fail" if k == 52 else "pass", lncc_after=0.9 + k / 1e4
        )
    write_group(tmp_path / "top", tmp_path / "group.html")
    page = Page(tmp_path / "group.html")
    assert sum(tag == "th" and a.get("scope") == "row" for tag, a in page.tags) == 50
    assert "The 50 worst of 53 cases" in page.text
    assert page.text.index("case52") < page.text.index("case00")
    assert "The runs are not all alike" not in page.text


def test_outputs_are_kept_unless_asked_and_the_same_cohort_gives_the_same_bytes(tmp_path: Path) -> None:
    run(tmp_path / "top" / "a")
    output = tmp_path / "page.html"
    write_group(tmp_path / "top", output)
    first = output.read_bytes()
    for kept in (output, tmp_path / "page.csv"):
        with pytest.raises(CannotCreateError):
            write_group(tmp_path / "top", output)
        kept.unlink()
    write_group(tmp_path / "top", output)
    write_group(tmp_path / "top", output, overwrite=True)
    assert output.read_bytes() == first


def test_what_cannot_be_asked(tmp_path: Path) -> None:
    run(tmp_path / "a")
    with pytest.raises(UsageError, match="is an HTML file"):
        write_group(tmp_path, tmp_path / "group.csv")
    with pytest.raises(NoInputError):
        write_group(tmp_path / "absent", tmp_path / "group.html")
    assert not (tmp_path / "group.html").exists()


def test_a_cohort_of_unfinished_runs_is_a_page_too(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "report.html").touch()
    found = write_group(tmp_path, tmp_path / "group.html")
    assert (found.cases, found.unfinished) == (0, 1)
    assert Page(tmp_path / "group.html").data["cases"] == []
