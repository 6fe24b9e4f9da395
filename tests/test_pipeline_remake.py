"""The page of a finished run made again is the page of the run."""

import shutil
from pathlib import Path

import pipeline_phantoms as phantoms
import pytest
import torch

from neuroreg.errors import CannotCreateError, DataError, NoInputError
from neuroreg.io.files import sha256
from neuroreg.io.images import read_image, write_image
from neuroreg.methods import METHODS
from neuroreg.pipeline.config import RegisterConfig
from neuroreg.pipeline.record import read_record
from neuroreg.pipeline.register import register
from neuroreg.pipeline.remake import remake_report
from neuroreg.registry import Entry
from neuroreg.report import figures
from neuroreg.report.page import write_report
from neuroreg.volume import Volume


@pytest.fixture(scope="module", params=["labels and masks", "affine"])
def finished(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        phantoms.leave_sides_unjudged(patch)
        patch.setitem(METHODS, "toy", Entry("pipeline_phantoms:Toy", "for tests"))
        patch.setattr(figures, "_LONGEST_PIXELS", 60)
        fixed, moving = phantoms.save_pair(folder)
        given: dict[str, object] = {"fixed": fixed, "moving": moving, "threads": 1, "output": folder / "run"}
        if request.param == "affine":
            given |= {"method": "affine", "outputs": ("image", "transform", "report")}
        else:
            seen = read_image(fixed).volume
            mask = Volume((seen.data > 0).to(torch.uint8), seen.geometry, is_label=True)
            write_image(mask, folder / "mask.nii.gz")
            labels = dict(zip(("fixed_labels", "moving_labels"), phantoms.save_labels(folder), strict=True))
            outputs = ("image", "transform", "inverse", "affine", "report")
            given |= {"method": "toy", "outputs": outputs, "fixed_mask": folder / "mask.nii.gz", **labels}
        register(RegisterConfig.model_validate(given), reporter=write_report)
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


def test_a_folder_without_a_run_and_an_older_record_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no finished run"):
        remake_report(tmp_path / "nowhere", overwrite=True, reporter=write_report)
    text = (run / "run.json").read_text()
    (run / "run.json").write_text(text.replace('"schema_version": 2', '"schema_version": 1'))
    with pytest.raises(DataError, match="earlier version"):
        remake_report(run, overwrite=True, reporter=write_report)


def test_an_output_that_is_not_the_run_s_is_refused(run: Path) -> None:
    (run / "moved.nii.gz").write_bytes((run / "moved.nii.gz").read_bytes() + b"x")
    with pytest.raises(DataError, match="sha256"):
        remake_report(run, overwrite=True, reporter=write_report)
