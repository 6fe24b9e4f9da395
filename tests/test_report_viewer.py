"""The 3-D page: one file, its policy names its own scripts and nothing else, hostile names stay text."""

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from finished_runs import change_record

from neuroreg.errors import CannotCreateError, DataError
from neuroreg.pipeline.finished import open_run
from neuroreg.report import viewer

HOSTILE = '</script><script>alert(1)</script><img src=x onerror=alert(2)>" \x1b[31m\u202e {{ 7*7 }} <!--'


class Page(HTMLParser):
    """The tags of a page, and the text of its scripts and styles, as a browser takes it apart."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inner: dict[str, list[str]] = {"script": [], "style": []}
        self.current: list[str] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in self.inner:
            self.inner[tag].append("")
            self.current = self.inner[tag]

    def handle_data(self, data: str) -> None:
        if self.current is not None:
            self.current[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.current = None

    def attributes(self, name: str) -> list[str | None]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]


@pytest.fixture(scope="module")
def text(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "viewer.html"
    page = viewer.write_viewer(open_run(finished_run), path)
    assert page.bytes == path.stat().st_size <= viewer.MAX_BYTES
    assert page.spacing_mm == 3.0  # the finest of the phantom's; never finer than the image
    return path.read_text(encoding="utf-8")


def data_of(page: Page) -> dict[str, object]:
    found: dict[str, object] = json.loads(page.inner["script"][0])
    return found


def source(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def test_the_policy_allows_the_scripts_of_the_page_alone(text: str) -> None:
    page = Page(text)
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    parts = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    assert [a.get("type") for tag, a in page.tags if tag == "script"] == ["application/json", None, None]
    assert parts == {
        "default-src": ["'none'"],
        "script-src": [source(script) for script in page.inner["script"][1:]],
        "style-src": [source(page.inner["style"][0])],
        "img-src": ["data:"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }


def test_the_page_points_nowhere(text: str) -> None:
    page = Page(text)
    names = {name for _, attributes in page.tags for name in attributes}
    assert not [name for name in names if name.startswith("on")]
    assert not names & {"src", "href", "srcset", "action", "style", "data", "poster"}
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"link", "iframe", "object", "embed", "base", "img", "svg", "video", "audio"}
    assert not re.search(r"url\(|@import", page.inner["style"][0])
    assert not re.search(
        r"https?:|fetch\(|XMLHttpRequest|WebSocket|innerHTML|eval\(", page.inner["script"][2]
    )


def test_everything_a_reader_needs_has_a_name(text: str) -> None:
    page = Page(text)
    for_ids = {a["id"] for _, a in page.tags if a.get("id")}
    assert {"canvas", "flicker", "swap", "radiological", "x", "y", "z", "ras", "values", "live"} <= for_ids
    asked = set(re.findall(r'byId\("([a-z-]+)"\)', page.inner["script"][2]))
    assert asked <= for_ids | {"data"}
    assert {
        f"{what}-{key}" for key in ("fixed", "moved", "jacobian") for what in ("on", "opacity")
    } <= for_ids
    canvas = next(a for tag, a in page.tags if tag == "canvas")
    assert canvas["tabindex"] == "0"
    assert canvas["aria-label"]
    for attribute in ("aria-labelledby", "aria-describedby"):
        assert set(page.attributes(attribute)) <= for_ids


def test_places_are_told_in_the_frame_of_the_page(text: str) -> None:
    data = data_of(Page(text))
    grid = data["grid"]
    assert isinstance(grid, dict)
    assert [layer["key"] for layer in data["layers"]] == [  # type: ignore[attr-defined]
        "fixed", "moved", "jacobian", "fixed_labels", "moved_labels",
    ]  # fmt: skip
    assert data["render"] is True
    reach = [(o, o + (n - 1) * grid["spacing"]) for o, n in zip(grid["origin"], grid["size"], strict=True)]
    for place in [data["centre"], *(p["ras"] for p in data["places"])]:  # type: ignore[attr-defined]
        assert all(low <= value <= high for value, (low, high) in zip(place, reach, strict=True))
    steps = [(c - o) / grid["spacing"] for c, o in zip(data["centre"], grid["origin"], strict=True)]  # type: ignore[call-overload]
    assert steps == pytest.approx([round(step) for step in steps], abs=1e-3)  # a voxel, not between two
    colours = data["colours"]
    assert isinstance(colours, list)
    blue, white, red = colours[128 - 42], colours[128], colours[128 + 42]  # half, as before, double
    assert blue[2] > blue[0]
    assert min(white) > 240
    assert red[0] > red[2]


def test_hostile_names_stay_text_everywhere(own_run: Path, tmp_path: Path, text: str) -> None:
    name = "<script>alert(1)<>&'\" [red] \u202e é 脳.nii.gz"
    (tmp_path / "fixed.nii.gz").rename(tmp_path / name)
    record = json.loads((own_run / "run.json").read_text())
    record["inputs"]["fixed"]["name"] = name
    table = own_run / "rois.csv"
    table.write_text('id,name\n4,"{}"\n'.format(HOSTILE.replace('"', '""')), encoding="utf-8")
    record["outputs"]["rois.csv"]["sha256"] = hashlib.sha256(table.read_bytes()).hexdigest()
    record.update(qc={"verdict": "look", "reasons": [HOSTILE]}, finished=HOSTILE)
    change_record(own_run, **record)
    folder = own_run.rename(tmp_path / "sub[foo] <b>")
    viewer.write_viewer(open_run(folder), folder / "viewer.html")
    hostile = (folder / "viewer.html").read_text(encoding="utf-8")
    page, plain = Page(hostile), Page(text)
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in plain.tags} | {"ul", "li"}
    assert len(page.inner["script"]) == 3
    assert page.inner["script"][1:] == plain.inner["script"][1:]
    assert {n for _, a in page.tags for n in a} == {n for _, a in plain.tags for n in a}
    assert not {"\x1b", "\u202e"} & set(hostile)
    assert "é 脳.nii.gz" in hostile
    regions = data_of(page)["regions"]
    assert isinstance(regions, list)
    assert regions[0]["name"].startswith("</script><script>")


def test_a_page_too_large_gets_a_coarser_grid(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    run = open_run(finished_run)
    monkeypatch.setattr(viewer, "_SPACINGS_MM", (3.0, 4.0))
    monkeypatch.setattr(viewer, "MAX_BYTES", len(text.encode()) - 1)
    assert viewer.write_viewer(run, tmp_path / "viewer.html").spacing_mm == 4.0
    monkeypatch.setattr(viewer, "MAX_BYTES", 1_000_000)
    with pytest.raises(DataError, match="more than 1000000"):
        viewer.write_viewer(run, tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


def test_an_existing_page_is_kept_and_the_same_run_gives_the_same_bytes(
    finished_run: Path, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "viewer.html"
    path.write_text("mine")
    with pytest.raises(CannotCreateError):
        viewer.write_viewer(open_run(finished_run), path)
    assert path.read_text() == "mine"
    viewer.write_viewer(open_run(finished_run), path, overwrite=True)
    assert path.read_text(encoding="utf-8") == text


def test_niivue_is_the_one_that_was_published(tmp_path: Path) -> None:
    vendor = Path(viewer.__file__).parent / "vendor"
    said = json.loads((vendor / "niivue.json").read_text(encoding="utf-8"))
    script = viewer.niivue()
    assert hashlib.sha256(script.encode()).hexdigest() == said["sha256"]
    # What would end a script in a page, or be hashed otherwise by a browser, is not in it.
    assert not re.search(r"</script|<!--|\r|\0", script, re.IGNORECASE)
    licences = (vendor / "LICENSES.txt").read_text(encoding="utf-8")
    assert f"NiiVue {said['version']}" in licences
    assert "Redistributions in binary form must reproduce the above copyright" in licences
    shutil.copytree(vendor, tmp_path / "vendor")
    with (tmp_path / "vendor" / "niivue.umd.js").open("a") as stream:
        stream.write(" ")
    with pytest.raises(DataError, match="not the NiiVue that was published"):
        viewer.niivue(tmp_path / "vendor")
