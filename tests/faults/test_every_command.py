"""Every command once, all names made to do harm, the network cut: what is said and written, and what is asked for."""

import base64
import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from every_command import HOSTILE, Said
from pipeline_phantoms import save_pair

pytestmark = pytest.mark.faults

PROGRAM = Path(__file__).resolve().parents[1] / "every_command.py"
WITNESS = """
import os, sys
def witness(event, details):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        where = details[1]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        where = details[0]
    else:
        return
    if isinstance(where, tuple) or not event.startswith("socket.connect"):  # a path is a socket of this machine
        with open(os.environ["WITNESS"], "a") as stream:
            stream.write(f"{event} {where} {sys.argv}\\n")
sys.addaudithook(witness)
"""
"""A sitecustomize: every process of Python writes down whom it calls; nothing can take an audit hook away."""
FORMULA = re.compile(r"[=+@\t\r]|-(?!\d|inf|nan)")
MADE_BY_HAND = {"names.csv", "groups.csv", "points.csv", "pairs.csv", "refused.csv"}


@dataclass(frozen=True)
class Run:
    """What all the commands left."""

    folder: Path
    said: list[Said]
    calls: str

    def files(self, *suffixes: str) -> Iterator[Path]:
        """Of these kinds, the inputs left out."""
        for path in sorted(self.folder.rglob("*")):
            given = path.name in MADE_BY_HAND or path.name.startswith(("bf", "cohort")) or "raw" in path.parts
            if path.suffix in suffixes and path.is_file() and not given:
                yield path


def apart() -> list[str]:
    """Words that start a program where there is no network, not even loopback; none where that is not allowed."""
    tried = shutil.which("unshare") and subprocess.run(
        ["unshare", "-n", "true"], check=False, capture_output=True
    )
    return ["unshare", "-n"] if tried and tried.returncode == 0 else []


def start(folder: Path, *words: str, cut: bool = True) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run Python with the witness, ``cut`` from the network or not; what it said, and whom all of it called."""
    (folder / "witness").mkdir(parents=True)
    (folder / "witness" / "sitecustomize.py").write_text(WITNESS)
    calls = folder / "calls.txt"
    paths = [str(folder / "witness"), str(PROGRAM.parents[1]), os.environ.get("PYTHONPATH", "")]
    more = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "WITNESS": str(calls), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*(apart() if cut else ()), sys.executable, *words],
        env={**os.environ, **more, "NO_ET": "1"},  # nipype, not neuroreg, would ask for its newest version
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done, calls.read_text() if calls.exists() else ""


def every(folder: Path, *words: str) -> Run:
    work = folder / "work"
    work.mkdir(parents=True)
    done, calls = start(folder / "start", str(PROGRAM), str(work), "hostile", *words)
    assert done.returncode == 0, done.stderr[-2000:]
    return Run(work, [Said(**json.loads(line)) for line in done.stdout.splitlines()], calls)


@pytest.fixture(scope="module")
def all_of_it(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return every(tmp_path_factory.mktemp("every"))


def test_the_witness_sees_a_call(tmp_path: Path) -> None:
    code = "import socket\ntry: socket.create_connection(('192.0.2.1', 9), timeout=0.1)\nexcept OSError: pass"
    assert "192.0.2.1" in start(tmp_path / "a", "-c", code)[1]
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    assert "192.0.2.1" in start(tmp_path / "b", "-c", child)[1]


def test_every_command_is_there_and_ends_as_it_should(all_of_it: Run) -> None:
    from neuroreg.cli import COMMANDS

    assert set(COMMANDS) - {said.words[0] for said in all_of_it.said} == {"demo"}  # a minute: see below
    spoilt = {"nowhere", "refused", "a\udcff", "x" * 300}  # folders that nothing is written to
    refused = [s for s in all_of_it.said if spoilt & set(s.words) or s.words[0] not in COMMANDS]
    assert len(refused) > 15
    assert [s.words for s in refused if s.code not in (2, 65, 66, 73)] == []
    others = [said for said in all_of_it.said if said not in refused]
    assert [
        s.words for s in others if s.code != (8 if s.words[0] == "batch" and "-o" in s.words else 0)
    ] == []


def test_nobody_is_called(all_of_it: Run) -> None:
    assert all_of_it.calls == ""


def harmless(text: str) -> bool:
    """No control character, direction override, invisible or undecodable letter, or foreign line break."""
    kinds = {unicodedata.category(letter) for letter in text.replace("\n", "").replace("\t", "")}
    return not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"} and "\ufffd" not in text


def test_the_terminal_gets_plain_text(all_of_it: Run) -> None:
    assert [s.words for s in all_of_it.said if not harmless(s.out) or not harmless(s.err)] == []
    assert not any("Traceback" in s.err for s in all_of_it.said if "--debug" not in s.words)
    for said in all_of_it.said:
        if said.code not in (0, 8):
            lines = [line for line in said.err.splitlines() if line.startswith("neuroreg: error[")]
            assert len(lines) == 1


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


def test_json_is_json(all_of_it: Run) -> None:
    for said in all_of_it.said:
        if "--json" in said.words:
            assert strict(said.out)["schema"] == 1
    found = [*all_of_it.files(".json"), *all_of_it.files(".jsonl")]
    assert len(found) > 10
    for path in found:
        text = path.read_text(encoding="utf-8")
        for each in text.rstrip("\n").split("\n") if path.suffix == ".jsonl" else [text]:
            strict(each)


def test_no_cell_is_a_formula(all_of_it: Run) -> None:
    tables = list(all_of_it.files(".csv"))
    assert {"failed.csv", "summary.csv", "group.csv", "rois.csv", "rows.csv", "tests.csv", "log.csv"} <= {
        path.name for path in tables
    }
    told = ""
    for path in tables:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.reader(stream))
        assert {len(row) for row in rows} == {len(rows[0])}, path
        assert [cell for row in rows for cell in row if FORMULA.match(cell)] == [], path
        told += path.read_text(encoding="utf-8")
    assert "'=cmd|" in told  # they were there, and are quoted


class Page(HTMLParser):
    """Elements and attributes of a page, and its scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._inside = False
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag == "script" and dict(attrs).get("type") is None
        if self._inside:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[-1] += data


def test_pages_hold_no_script_and_no_address_but_their_own(all_of_it: Run) -> None:
    pages = list(all_of_it.files(".html"))
    assert {"report.html", "viewer.html", "group.html"} == {path.name for path in pages}
    for path in pages:
        page = Page(path)
        (policy,) = [
            a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"
        ]
        assert policy is not None
        assert policy.startswith("default-src 'none'; script-src 'sha256-")
        for script in page.scripts:
            digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy, path
        for tag, attributes in page.elements:
            assert tag not in ("iframe", "object", "embed", "base", "link"), path
            assert not [name for name in attributes if name.startswith("on")], (path, tag)
            for name in ("src", "href", "action", "data", "srcset"):
                place = attributes.get(name) or "#"
                assert place.startswith(("#", "data:image/")) or (path.parent / place).exists(), (path, place)
        shown = (
            page.source if path.name != "viewer.html" else page.source.replace(max(page.scripts, key=len), "")
        )
        assert harmless(shown.replace("\r", "")), path
        assert "{{ 7*7 }}" in shown or "=cmd|" in shown or path.name == "group.html"
        assert "onerror=alert" not in "".join(page.scripts)


def test_pictures_and_texts_are_plain(all_of_it: Run) -> None:
    drawn = list(all_of_it.files(".svg"))
    assert {"box.svg", "dice_seconds.svg", "boxplot-dice.svg"} <= {path.name for path in drawn}
    for path in drawn:
        kinds = {element.tag.rpartition("}")[2] for element in ElementTree.parse(path).iter()}
        assert not kinds & {"script", "foreignObject", "image", "a"}
    for path in all_of_it.files(".md", ".svg"):
        text = path.read_text(encoding="utf-8")
        assert harmless(text), path
        assert "<script" not in text
        assert "<img" not in text


@pytest.mark.slow
def test_the_networks_and_the_demo_call_nobody_either(tmp_path: Path) -> None:
    ran = every(tmp_path, "thorough")
    assert ran.calls == ""
    assert [said.words for said in ran.said if said.words[0] == "demo" and said.code] == []


@pytest.mark.slow
def test_the_workers_of_dask_are_called_on_loopback_alone(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra batch is not installed")
    fixed, moving = save_pair(tmp_path)
    table = tmp_path / "cohort.csv"
    table.write_text(f"id,fixed,moving\none,{fixed},{moving}\ntwo,{moving},{fixed}\n")
    quick = [
        "--workers",
        "1",
        "--method",
        "demons",
        "--affine",
        "none",
        "--set",
        "iterations=[1,1,1]",
        "--threads",
        "1",
    ]
    words = ["-m", "neuroreg", "batch", str(table), "-o", str(tmp_path / "out"), "--engine", "dask", *quick]
    done, calls = start(tmp_path / "start", *words, cut=False)
    assert done.returncode == 0, done.stderr[-2000:]
    places = re.findall(r"^socket\.\w+ (.*?) \[", calls, flags=re.MULTILINE)
    assert places
    assert [place for place in places if not re.match(r"\(?'?(127\.0\.0\.1|localhost)'?\b", place)] == []


@pytest.mark.slow
def test_no_page_acts_in_a_browser(all_of_it: Run) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on the path, and CHROMIUM does not name one")
    flags = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=flags)
        for path in all_of_it.files(".html", ".svg"):
            asked: list[str] = []
            complaints: list[str] = []
            page = browser.new_context(offline=True).new_page()
            page.set_default_timeout(120_000)
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.on("dialog", lambda dialog, told=complaints: (told.append(dialog.message), dialog.dismiss()))
            page.on("pageerror", lambda error, told=complaints: told.append(str(error)))
            page.on("console", lambda message, told=complaints: told.append(message.text))
            page.goto(path.as_uri())
            page.wait_for_timeout(3000)
            assert [url for url in asked[1:] if not url.startswith(("data:image/", "blob:"))] == [], path
            assert complaints == [], path
            if path.name == "report.html" and path.parent.name.startswith("o"):
                assert HOSTILE[1] in page.inner_text("body")
        browser.close()
