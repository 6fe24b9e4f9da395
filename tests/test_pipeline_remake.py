"""The page of a finished run made again is the page of the run."""

import shutil
from pathlib import Path

import pipeline_phantoms as phantoms
import pytest

from neuroreg.errors import CannotCreateError, DataError, NoInputError
from neuroreg.io.files import sha256
from neuroreg.methods import METHODS
from neuroreg.pipeline.config import RegisterConfig
from neuroreg.pipeline.record import read_record
from neuroreg.pipeline.register import register
from neuroreg.pipeline.remake import remake_report
from neuroreg.registry import Entry
from neuroreg.report import figures
from neuroreg.report.page import write_report


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "toy", Entry("pipeline_phantoms:Toy", "for tests"))
        patch.setattr(figures, "_LONGEST_PIXELS", 60)
        fixed, moving = phantoms.save_pair(folder)
        config = RegisterConfig(
            fixed=fixed, moving=moving, method="toy", threads=1, output=folder / "run",
            outputs=("image", "transform", "inverse", "affine", "report"),
        )  # fmt: skip
        register(config, reporter=write_report)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(figures, "_LONGEST_PIXELS", 60)
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"


def test_the_same_page_comes_out_and_the_record_knows_it(run: Path) -> None:
    page = run / "report.html"
    first, digest = page.read_bytes(), sha256(page)
    page.write_text("damaged")
    with pytest.raises(CannotCreateError):
        remake_report(run, overwrite=False, reporter=write_report)
    assert remake_report(run, overwrite=True, reporter=write_report) == page
    assert page.read_bytes() == first
    assert read_record(run).outputs["report.html"]["sha256"] == digest


def test_inputs_are_found_where_one_says(run: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for path in tmp_path.glob("*.nii.gz"):
        path.rename(tmp_path / "elsewhere" / path.name)
    with pytest.raises(NoInputError, match="is not here"):
        remake_report(run, overwrite=True, reporter=write_report)
    first = (run / "report.html").read_bytes()
    remake_report(run, overwrite=True, reporter=write_report, inputs=[tmp_path / "elsewhere"])
    assert (run / "report.html").read_bytes() == first


def test_other_files_than_those_of_the_run_are_refused(run: Path) -> None:
    with (run / "transform.h5").open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(DataError, match="not the file the run left"):
        remake_report(run, overwrite=True, reporter=write_report)
