"""A dataset in the Brain Imaging Data Structure: its T1w images, and those of them that are asked for.

Pybids reads the folders. Only ``sub-*/[ses-*/]anat`` is looked at: derivatives, other modalities and whatever else lies
in a real dataset do not matter, and need not be valid.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neuroreg.cohort.bids_names import NAME, Scan, by_label
from neuroreg.errors import DataError, NoInputError, UnavailableError
from neuroreg.validation import parse_json

DESCRIPTION = "dataset_description.json"
_LETTERS = r"[^/\x00-\x1f\ud800-\udfff]*"  # a name that is no text would stop the database of pybids
_ELSEWHERE = re.compile(
    rf"^/(?!sub-[^/]+(/ses-[^/]+)?(/anat(/{_LETTERS}T1w{_LETTERS}\.nii(\.gz)?)?)?\Z)", re.DOTALL
)
_MOST_NAMED = 10


@dataclass(frozen=True)
class Selection:
    """Which scans are asked for; None: all."""

    participants: Sequence[str] | None = None
    """with or without ``sub-``"""
    sessions: Sequence[str] | None = None
    """with or without ``ses-``"""
    runs: Sequence[int] | None = None


@dataclass(frozen=True)
class Dataset:
    """A raw dataset as far as it is read here."""

    root: Path
    description: Mapping[str, object]
    scans: Sequence[Scan]
    """every T1w image, in natural order"""
    notes: Sequence[str]


def read_dataset(root: Path) -> Dataset:
    """The T1w images of a dataset. Raises NoInputError, DataError, UnavailableError when pybids is not installed."""
    description = read_description(root)
    if description.get("DatasetType") == "derivative":
        raise DataError(
            "this is a dataset of derivatives",
            file=root,
            remedy="give the raw dataset that they were made of",
        )
    found = sorted(_paths(root), key=by_label)
    scans, odd = [], []
    for relative in found:
        scan = _scan(root, relative)
        if scan is None:
            odd.append(relative)
        else:
            scans.append(scan)
    if not scans:
        raise NoInputError(
            "no T1w image in the dataset",
            file=root,
            remedy="they are called sub-X[/ses-Y]/anat/sub-X[_ses-Y]_T1w.nii.gz",
        )
    _check_distinct(scans)
    return Dataset(root, description, scans, tuple(_notes(scans, odd)))


def read_description(root: Path) -> Mapping[str, object]:
    """``dataset_description.json`` of a dataset. Raises NoInputError, DataError."""
    path = root / DESCRIPTION
    if not root.is_dir():
        raise NoInputError("no such folder", file=root, remedy="give the folder of a BIDS dataset")
    try:
        found = parse_json(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise NoInputError(
            f"no BIDS dataset: it has no {DESCRIPTION}",
            file=root,
            remedy='write one: {"Name": "...", "BIDSVersion": "1.10.0"}; or use neuroreg batch',
        ) from error
    except OSError as error:
        raise NoInputError("cannot be read", file=path, remedy="check its permissions") from error
    except ValueError as error:
        raise DataError(f"not valid JSON: {error}", file=path, remedy="mend it") from error
    if not isinstance(found, dict) or not all(
        isinstance(found.get(key), str) for key in ("Name", "BIDSVersion")
    ):
        raise DataError("it must say Name and BIDSVersion", file=path, remedy="add them")
    return found


def _paths(root: Path) -> list[str]:
    """The paths below ``root`` of all files that seem to be T1w images."""
    try:
        from bids.layout import BIDSLayout, BIDSLayoutIndexer
    except ModuleNotFoundError as error:
        raise UnavailableError("pybids is not installed", remedy="pip install 'neuroreg[bids]'") from error
    indexer = BIDSLayoutIndexer(validate=False, ignore=[_ELSEWHERE], index_metadata=False)
    layout = BIDSLayout(root.absolute(), validate=False, indexer=indexer)
    try:
        return [str(file.relpath) for file in layout.get()]
    finally:
        layout.connection_manager.session.close()
        layout.connection_manager.engine.dispose()


def _scan(root: Path, relative: str) -> Scan | None:
    """None when the name is not that of a T1w image, or not that of its folder."""
    folder, _, name = relative.rpartition("/")
    match = NAME.fullmatch(name)
    if match is None:
        return None
    subject, session = match["subject"], match["session"]
    parts = (f"sub-{subject}", *([] if session is None else [f"ses-{session}"]), "anat")
    if folder != "/".join(parts) or re.search(r"_part-(?!mag_)", name) or re.search(r"_(space|desc)-", name):
        return None
    return Scan(root / relative, relative, subject, session)


def _check_distinct(scans: Iterable[Scan]) -> None:
    seen: dict[str, Scan] = {}
    for scan in scans:
        other = seen.setdefault(scan.entities.lower(), scan)
        if other is not scan:
            raise DataError(
                f"two images would have the same outputs: {other.path.name} and {scan.path.name}",
                file=scan.path,
                remedy="take one of them away",
            )


def _notes(scans: Sequence[Scan], odd: Sequence[str]) -> Iterable[str]:
    if odd:
        yield f"not read, their names are not those of T1w magnitude images in BIDS: {listed(odd)}"
    gone = [scan.relative for scan in scans if not scan.path.exists()]
    if gone:
        yield f"these images are links to content that is not here (datalad get brings it): {listed(gone)}"


def listed(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def select(dataset: Dataset, selection: Selection) -> list[Scan]:
    """The scans asked for. Raises NoInputError for a label that no scan has, or when nothing is left."""
    scans: list[Scan] = list(dataset.scans)
    for prefix, wanted, label in (
        ("sub-", selection.participants, lambda scan: scan.subject),
        ("ses-", selection.sessions, lambda scan: scan.session),
        ("run-", selection.runs, lambda scan: scan.run),
    ):
        if wanted is not None:
            scans = _with_label(dataset, scans, prefix, [str(name) for name in wanted], label)
    return scans


def _with_label(
    dataset: Dataset,
    scans: Sequence[Scan],
    prefix: str,
    wanted: Sequence[str],
    label: Callable[[Scan], object],
) -> list[Scan]:
    names = {name.removeprefix(prefix) for name in wanted}
    known = {str(label(scan)) for scan in dataset.scans if label(scan) is not None}
    missing = sorted(names - known, key=by_label)
    if missing:
        raise NoInputError(
            f"no T1w image of {', '.join(prefix + name for name in missing)}",
            file=dataset.root,
            remedy=f"there are: {listed(sorted((prefix + name for name in known), key=by_label)) or 'none'}",
        )
    chosen = [scan for scan in scans if str(label(scan)) in names]
    if not chosen:
        raise NoInputError(
            f"no T1w image of the chosen ones is {', '.join(prefix + name for name in sorted(names))}",
            file=dataset.root,
            remedy="choose fewer labels",
        )
    return chosen
