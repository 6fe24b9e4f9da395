"""The files at the top of a dataset of BIDS derivatives: what it is, what made it, what a validator leaves alone."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from neuroreg import __version__
from neuroreg.cohort.bids import DESCRIPTION, Dataset, read_description
from neuroreg.cohort.bids_layout import FOLDER
from neuroreg.cohort.bids_names import RAW
from neuroreg.errors import CannotCreateError, NeuroregError, UsageError
from neuroreg.io.files import atomic_write

BIDS_VERSION = "1.10.0"
IGNORE, README, OLD_CONFIG = ".bidsignore", "README", ".bids-validator-config.json"

IGNORED = (
    f"/{FOLDER}",  # without a slash behind: bids-validator 3.0 would name the folder itself
    "/template",
    "*_xfm.*",
    "*_jacobian.*",
    "/journal*.jsonl",
    "/summary*.csv",
    "/summary*.json",
    "/failed*.csv",
    "/group.html",
    "/group.csv",
)
"""What BIDS has no name for, as ``.bidsignore`` says it."""

_OLD_VALIDATOR = {"ignoredFiles": ["**/*_space-*"], "ignore": ["NO_VALID_DATA_FOUND_FOR_SUBJECT"]}
"""For bids-validator 1, which judges derivatives by the rules of raw data; later ones know them and check them."""

_README = f"""Brain MRI registered by neuroreg {__version__}.

sub-*/[ses-*/]anat
  *_space-<space>_T1w.nii.gz                      the T1w image in that space
  *_from-T1w_to-<space>_mode-image_xfm.h5         resamples the T1w image into the space (ITK composite transform)
  *_from-<space>_to-T1w_mode-image_xfm.h5         resamples images of the space into that of the T1w image
  *_mode-image_desc-affine_xfm.mat                the affine part alone
  *_mode-image_desc-displacement_xfm.nii.gz       the whole map as displacements, mm LPS
  *_space-<space>_jacobian.nii.gz                 determinant of the whole map
  *.json                                          what each of them was made of
{FOLDER}/<case>
  report.html, run.json                           pictures and quality; settings, versions and sha256 of all files
group.html, summary.csv                           all cases at a glance

Transforms read with ANTs, ITK, SimpleITK and 3D Slicer. A verdict other than "pass" in the summary means: look at the
report before you use the files of that case.
"""


def prepare_dataset(output: Path, raw: Dataset, links: Mapping[str, str]) -> None:
    """Write or bring up to date ``dataset_description.json``, ``README`` and ``.bidsignore`` of the derivatives.

    ``links``: names of further datasets in BIDS URIs and where they lie. Raises CannotCreateError when ``output`` is a
    dataset of something else, WriteError.
    """
    former = read_own_description(output)
    links = {RAW: _link(raw.root, output), **links}
    known = former.get("DatasetLinks")
    known = known if isinstance(known, dict) else {}
    for name, place in links.items():
        if known.get(name, place) != place:
            raise CannotCreateError(
                f"it holds derivatives of another dataset ({name} is {known[name]})",
                file=output,
                remedy="choose another output folder",
            )
    own = {"Name": "neuroreg", "Version": __version__, "Description": "Registration of T1w images"}
    wanted = {
        "Name": f"{raw.description['Name']}: T1w images registered by neuroreg",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [own],
        "SourceDatasets": [_source(raw)],
        **former,
        "DatasetLinks": {**known, **links},
    }
    wanted["GeneratedBy"] = [own, *(other for other in _makers(former) if other.get("Name") != own["Name"])]
    _put(output / DESCRIPTION, json.dumps(wanted, indent=2, ensure_ascii=False) + "\n")
    for name, text in ((README, _README), (OLD_CONFIG, json.dumps(_OLD_VALIDATOR, indent=2) + "\n")):
        if not (output / name).exists():
            _put(output / name, text)
    _put(output / IGNORE, _ignored(output / IGNORE))


def check_output(output: Path, dataset: Path) -> None:
    """Refuse an output folder that is a dataset of something else. Raises UsageError, CannotCreateError."""
    here, there = output.resolve(), dataset.resolve()
    if here == there or here in there.parents:
        raise UsageError(
            "the output would mix with the dataset", file=output, remedy="choose a folder of its own"
        )
    read_own_description(output)


def link_of(image: Path, output: Path) -> tuple[str, str]:
    """(where the folder of an image lies, as seen from the derivatives; the name of the image), both for a URI."""
    return _link(image.absolute().parent, output), quote(image.name)


def _link(place: Path, output: Path) -> str:
    return quote(Path(os.path.relpath(place.resolve(), output.resolve())).as_posix(), safe="/")


def read_own_description(output: Path) -> dict[str, object]:
    """The description an earlier run has left; empty when there is none. Raises CannotCreateError for another's."""
    if not (output / DESCRIPTION).exists():
        return {}
    try:
        found = dict(read_description(output))
    except NeuroregError as error:
        raise CannotCreateError(
            f"the description of the dataset there cannot be used: {error.what}",
            file=output / DESCRIPTION,
            remedy="mend it, or choose another output folder",
        ) from error
    if not any(maker.get("Name") == "neuroreg" for maker in _makers(found)):
        raise CannotCreateError(
            "the output is a dataset of something else", file=output, remedy="choose another output folder"
        )
    return found


def _makers(description: Mapping[str, object]) -> list[dict[str, object]]:
    found = description.get("GeneratedBy")
    return [maker for maker in found if isinstance(maker, dict)] if isinstance(found, Sequence) else []


def _source(raw: Dataset) -> dict[str, str]:
    """Where the raw dataset is told of: a relative path is no URL, so it is named by ``DatasetLinks``."""
    found = {"URL": f"bids:{RAW}:"}
    for key, said in (("DOI", "DatasetDOI"), ("Version", "DatasetVersion")):
        value = raw.description.get(said)
        if isinstance(value, str) and value:
            found[key] = value
    return found


def _ignored(path: Path) -> str:
    """The lines that are there, and ours where they are missing."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return "\n".join([*lines, *(line for line in IGNORED if line not in lines)]) + "\n"


def _put(path: Path, text: str) -> None:
    """Write a file unless it says so already; the parts of a cohort may do it at the same time."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    atomic_write(path, write, overwrite=True)
