"""Small datasets in the Brain Imaging Data Structure: heads of tests/pipeline_phantoms.py under the names of BIDS."""

import functools
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from pipeline_phantoms import save_pair

from neuroreg.cohort import bids, bids_targets

MANY = (
    "sub-01/ses-1/anat/sub-01_ses-1_run-1_T1w.nii.gz",
    "sub-01/ses-1/anat/sub-01_ses-1_run-2_T1w.nii.gz",
    "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz",
    "sub-01/ses-10/anat/sub-01_ses-10_acq-fast_run-01_T1w.nii.gz",
    "sub-01/ses-10/anat/sub-01_ses-10_acq-fast_run-02_T1w.nii.gz",
    "sub-02/ses-2/anat/sub-02_ses-2_rec-norm_T1w.nii.gz",
    "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii.gz",
    "sub-A3/ses-1/anat/sub-A3_ses-1_T1w.nii.gz",
)
"""Subjects x sessions x runs; session 10 comes after session 2."""

PLAIN = ("sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/sub-02_acq-mprage_run-1_T1w.nii.gz")
"""No sessions."""


def describe(folder: Path, **more: object) -> Path:
    """A folder with a ``dataset_description.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    said = {"Name": "Phantoms", "BIDSVersion": "1.10.0", "DatasetType": "raw", **more}
    (folder / "dataset_description.json").write_text(json.dumps(said), encoding="utf-8")
    return folder


def empty_dataset(folder: Path, names: Iterable[str]) -> Path:
    """A dataset whose files have names and no content."""
    describe(folder)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def phantom_dataset(folder: Path, names: Iterable[str]) -> Path:
    """A dataset of heads: the first image of a subject is the fixed one of ``save_pair``, the others the moving one."""
    describe(folder)
    fixed, moving = save_pair(folder.parent)
    seen: set[str] = set()
    for name in names:
        subject = name.partition("/")[0]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(moving if subject in seen else fixed, folder / name)
        seen.add(subject)
    return folder


def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Datasets that nobody changes: pybids needs a tenth of a second for each reading."""
    monkeypatch.setattr(bids_targets, "read_dataset", _read)


@functools.cache
def _read(root: Path) -> bids.Dataset:
    return bids.read_dataset(root)
