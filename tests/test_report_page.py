"""The page: self-contained, nothing from a file can act in it, every number and warning is there."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from neuroreg.errors import CannotCreateError, DataError
from neuroreg.pipeline.case import Case
from neuroreg.pipeline.record import Quality
from neuroreg.report import figures, page
from neuroreg.transforms import DisplacementField
from neuroreg.volume import Geometry, Volume

GEOMETRY = Geometry((22, 26, 19), (5.0, 4.0, 6.0), (-50.0, 40.0, -31.0), (1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0))
HOSTILE = '<script>alert(1)</script>" onload=x \x1b[31m\u202e $x^2$ {{ 7*7 }}'


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "_LONGEST_PIXELS", 60)  # 45 pictures a page: compressing them takes the time


def _volume(seed: int) -> Volume:
    generator = torch.Generator().manual_seed(seed)
    points = GEOMETRY.points() - GEOMETRY.centre_mm
    head = ((points / torch.tensor([40.0, 40.0, 45.0])) ** 2).sum(dim=-1) < 1
    noise = torch.rand(GEOMETRY.shape, generator=generator)
    return Volume((head * (0.5 + 0.5 * noise)).to(torch.float32)[None], GEOMETRY)


def _case(**changes: object) -> Case:
    quality = Quality(
        verdict="look",
        reasons=("something is odd",),
        figures={"folded_percent": 0.001234567, "inverse_mean_mm": None, "sides_fixed": 0.1},
        worst_place_lps_mm=(0.0, -12.0, -1.0),
        thresholds={"sides_fixed": {"look": 0.25, "fail": 0.0}},
    )
    plain: dict[str, object] = {
        "title": "moving to fixed",
        "method": "method neuroreg",
        "fixed": _volume(0),
        "scanned": _volume(3),
        "before": _volume(1),
        "moved": _volume(2),
        "jacobian": Volume(torch.full((1, *GEOMETRY.shape), 1.1), GEOMETRY),
        "quality": quality,
        "provenance": {"program": "neuroreg", "inputs": {"fixed": {"name": "f.nii.gz"}}},
    }
    return Case(**{**plain, **changes})  # type: ignore[arg-type]


def _write(path: Path, *, overwrite: bool = False, **changes: object) -> str:
    page.write_report(path, _case(**changes), overwrite=overwrite)
    return path.read_text(encoding="utf-8")


class _Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _script(text: str) -> str:
    found = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def test_the_page_is_one_small_file_that_asks_for_nothing(tmp_path: Path) -> None:
    text = _write(tmp_path / "report.html")
    parsed = _Tags(text)
    assert parsed.open == []
    assert (tmp_path / "report.html").stat().st_size < page.MAX_BYTES
    tags = [tag for tag, _ in parsed.tags]
    assert not set(tags) & {"link", "iframe", "object", "embed", "form", "base"}
    for _, attributes in parsed.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("src") or "data:").startswith("data:")
        assert attributes.get("href") is None
    assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttp", text)
    policies = [
        a.get("content") for tag, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy"
    ]
    digest = base64.b64encode(hashlib.sha256(_script(text).encode()).digest()).decode()
    wanted = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    assert policies == [wanted]


def test_hostile_names_stay_text_everywhere(tmp_path: Path) -> None:
    plain = _Tags(_write(tmp_path / "plain.html", warnings=["w"], rois=[{"name": "r", "dice": 0.5}]))
    text = _write(
        tmp_path / "hostile.html",
        title=HOSTILE,
        method=HOSTILE,
        warnings=[HOSTILE],
        quality=_case().quality.model_copy(update={"reasons": (HOSTILE,), "figures": {HOSTILE: 1.0}}),
        rois=[{"name": HOSTILE, "dice": 0.5}],
        provenance={HOSTILE: {HOSTILE: HOSTILE}, "list": [HOSTILE]},
    )
    parsed = _Tags(text)
    assert [tag for tag, _ in parsed.tags].count("script") == 1
    assert {name for _, a in parsed.tags for name in a} == {name for _, a in plain.tags for name in a}
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "{{ 7*7 }}" in text
    assert "&lt;script&gt;" in text


def test_verdict_reasons_figures_and_warnings_are_shown(tmp_path: Path) -> None:
    text = _write(tmp_path / "r.html", warnings=["left is unsure", "second", "something is odd"])
    body = text[text.index("<body>") :]
    order = [
        "Look",
        "something is odd",
        "left is unsure",
        "Figures of quality",
        "Left and right, fixed image",
    ]
    places = [body.index(words) for words in order]
    assert places == sorted(places)
    assert "2 warnings" in text  # the third is a reason already
    assert "look below 0.25, fail below 0" in text
    assert "▲ look" in text
    assert "0.001235 %" in text
    assert "not measured" in text
    assert "inputs.fixed.name" in text


@pytest.mark.parametrize(
    ("value", "limits", "state"),
    [
        (0.3, (0.25, 0.0), "pass"),
        (0.2, (0.25, 0.0), "look"),
        (-0.1, (0.25, 0.0), "fail"),
        (1.0, (2.0, 3.0), "pass"),
        (2.5, (2.0, 3.0), "look"),
        (3.5, (2.0, 3.0), "fail"),
        (None, (2.0, 3.0), ""),
    ],
)
def test_a_figure_says_on_which_side_of_its_thresholds_it_is(
    value: float | None, limits: tuple[float, float], state: str
) -> None:
    quality = Quality(
        verdict="pass",
        figures={"x": value},
        thresholds={"x": dict(zip(("look", "fail"), limits, strict=True))},
    )
    assert [row.state for row in page.figure_rows(quality)] == [state]


def test_the_worst_place_comes_first_and_the_planes_go_through_it(tmp_path: Path) -> None:
    text = _write(tmp_path / "r.html")
    worst = text[text.index("Where the images are least alike") : text.index("Through the middle")]
    assert ["L 0.0 mm" in worst, "A 12.0 mm" in worst, "I 1.0 mm" in worst] == [True, True, True]
    assert worst.count("<img") == 3 * 5  # fixed, three states of the moving image, outlines


def test_a_deformation_and_measured_maps_have_pictures_of_their_own(tmp_path: Path) -> None:
    residual = DisplacementField(torch.full((3, *GEOMETRY.shape), 2.0), GEOMETRY)
    maps = {name: Volume(torch.full((1, *GEOMETRY.shape), 0.5), GEOMETRY) for name in ("lncc", "inverse")}
    headings = ("Deformation</h2>", "There and back</h2>", "Where the images are alike</h2>")
    affine, whole = _write(tmp_path / "a.html"), _write(tmp_path / "b.html", residual=residual, maps=maps)
    assert [heading in affine for heading in headings] == [False] * 3
    assert [heading in whole for heading in headings] == [True] * 3


def test_the_thumbnail_is_a_small_jpeg(tmp_path: Path) -> None:
    found = [a for tag, a in _Tags(_write(tmp_path / "r.html")).tags if a.get("name") == "neuroreg:thumbnail"]
    uri = found[0]["content"] or ""
    image = Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))))
    assert max(image.size) <= 112
    assert len(uri) < 8000


def test_folds_are_counted_and_the_worst_is_shown(tmp_path: Path) -> None:
    determinant = torch.full((1, *GEOMETRY.shape), 1.0)
    determinant[0, 9, 13, 10:13] = -0.2
    determinant[0, 0, 0, 0] = -5.0  # outside the head: not counted
    clean = _write(tmp_path / "clean.html")
    folded = _write(tmp_path / "folded.html", jacobian=Volume(determinant, GEOMETRY))
    assert "No voxel inside the head or brain is folded" in clean
    assert re.search(r"3 of \d+ voxels are folded", folded)
    assert "Through the worst fold" in folded
    # Voxel (10, 13, 9) lies at x = -50 + 5 * 10 = 0, y = 40 - 4 * 13 = -12, z = -31 + 6 * 9 = 23 mm.
    worst = folded[folded.index("Through the worst fold") :]
    assert ["S 23.0 mm" in worst, "A 12.0 mm" in worst, "L 0.0 mm" in worst] == [True, True, True]


def test_bars_are_sorted_from_the_worst_and_keep_missing_regions(tmp_path: Path) -> None:
    rows = [
        {"label": 4, "name": "good", "dice": 0.9, "dice_affine": 0.5},
        {"label": 7, "name": "", "dice": 0.25},
        {"label": 9, "name": "absent", "dice": None},
        {"label": 10, "name": "strange", "dice": float("nan")},
    ]
    found = page.bars(rows)
    assert [bar.name for bar in found] == ["absent", "strange", "7", "good"]
    assert found[0].text == "no value"
    assert (found[3].after, found[3].before) == (90.0, 50.0)
    assert "0.900 (0.500)" in _write(tmp_path / "r.html", rois=rows)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "not measured"),
        (True, "yes"),
        (3, "3"),
        (0.00012345, "0.0001234"),
        (17958.0, "17958"),
        (float("nan"), "not a number"),
        ("a\x00b", "a?b"),
    ],
)
def test_numbers_are_written_for_readers(value: object, shown: str) -> None:
    assert page.number(value) == shown


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("inverse_mean_mm", "Inverse mean (mm)"),
        ("lncc_after", "LNCC after"),
        ("sd_log_jacobian", "SD log jacobian"),
    ],
)
def test_names_are_written_for_readers(name: str, label: str) -> None:
    assert page.label_of(name) == label


def test_volumes_on_another_grid_are_refused(tmp_path: Path) -> None:
    other = Geometry(GEOMETRY.size, GEOMETRY.spacing, (0.0, 0.0, 0.0), GEOMETRY.direction)
    with pytest.raises(DataError, match="moved image of the report is not on the fixed grid"):
        _write(tmp_path / "r.html", moved=Volume(_volume(2).data, other))


def test_an_existing_report_is_kept_unless_asked(tmp_path: Path) -> None:
    first = _write(tmp_path / "r.html")
    with pytest.raises(CannotCreateError):
        _write(tmp_path / "r.html", title="second")
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == first
    assert "second" in _write(tmp_path / "r.html", title="second", overwrite=True)


def test_the_same_registration_gives_the_same_bytes(tmp_path: Path) -> None:
    assert _write(tmp_path / "a.html") == _write(tmp_path / "b.html")


def test_a_region_without_a_name_is_called_by_its_number() -> None:
    found = page.bars([{"id": 43, "name": "", "dice": 0.25}, {"id": 4, "name": "Ventricle", "dice": 0.5}])
    assert [bar.name for bar in found] == ["43", "Ventricle"]
