"""What the scans of a dataset are aligned to: the template, one image, or the first session of the same subject."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neuroreg.cohort.bids import Dataset, Selection, listed, read_dataset, select
from neuroreg.cohort.bids_dataset import check_output, link_of, prepare_dataset
from neuroreg.cohort.bids_layout import BidsLayout
from neuroreg.cohort.bids_names import LABEL, Placed, Scan, Target, by_label, own_uri, raw_uri
from neuroreg.cohort.case import Case, Cohort
from neuroreg.cohort.shared import TEMPLATE, configure, real, row_of, shared_settings
from neuroreg.cohort.template import template_files
from neuroreg.errors import NoInputError, UsageError
from neuroreg.io.files import check_input
from neuroreg.pipeline.config import resolve_shared, stem

FIRST_SESSION = "first-session"
"""What ``--to`` accepts beside the template and an image."""

TEMPLATE_SPACE = "neuroregIXI2mm"
"""The label of the space of the template that comes with the package."""


@dataclass(frozen=True)
class _Found:
    """The registrations of a dataset, and what they need and say."""

    placed: Sequence[Placed]
    notes: Sequence[str] = ()
    links: Mapping[str, str] | None = None
    """further datasets of the BIDS URIs"""
    prepare: Callable[[], None] | None = None


def find_bids(
    dataset: Path,
    output: Path,
    settings: Mapping[str, object],
    selection: Selection,
    *,
    config_file: Path | None = None,
    to: str = TEMPLATE,
    space: str | None = None,
) -> tuple[Cohort, BidsLayout]:
    """The registrations of a dataset, and where their outputs go. ``settings``: those of the command line.

    ``to``: template, first-session, or the path of an image; ``space`` replaces the label of its space. Raw data are
    whole heads: their brains are found unless a setting says otherwise. Raises UsageError, NoInputError, DataError,
    CannotCreateError, UnavailableError.
    """
    resolved = resolve_shared(settings, config_file, defaults={"find_brain": True})
    shared = shared_settings(resolved, one_fixed=to != FIRST_SESSION)
    if space is not None and LABEL.fullmatch(space) is None:
        raise UsageError(
            f"a space is called by letters and digits alone, got {space!r}",
            remedy="give such a name to --space",
        )
    raw = read_dataset(dataset)
    check_output(output, dataset)
    scans = select(raw, selection)
    if to == TEMPLATE:
        found = _onto_template(scans, output, space)
    elif to == FIRST_SESSION:
        found = _onto_first_session(raw, scans, space)
    else:
        found = _onto_image(raw, scans, output, Path(to), space)

    def prepare() -> None:
        prepare_dataset(output, raw, found.links or {})
        if found.prepare is not None:
            found.prepare()

    cases = [_case(one, shared, root=real(dataset), templated=to == TEMPLATE) for one in found.placed]
    return Cohort(cases, (*raw.notes, *found.notes), prepare), BidsLayout(output, found.placed)


def _onto_template(scans: Sequence[Scan], output: Path, space: str | None) -> _Found:
    image, prepare = template_files(output)
    uri = own_uri(image.relative_to(output).as_posix())
    target = Target(space or TEMPLATE_SPACE, image, uri)
    return _Found([Placed(scan, target) for scan in scans], prepare=prepare)


def _onto_image(raw: Dataset, scans: Sequence[Scan], output: Path, image: Path, space: str | None) -> _Found:
    """Every scan but the image itself, which may be one of the dataset."""
    check_input(image)
    space = space or _space_of(image)
    own, root = image.resolve(), raw.root.resolve()
    if root in own.parents:
        target, links = Target(space, image, raw_uri(own.relative_to(root).as_posix())), {}
    else:
        place, name = link_of(image, output)
        target, links = Target(space, image, f"bids:{space}:{name}"), {space: place}
    placed = [Placed(scan, target) for scan in scans if scan.path.resolve() != own]
    if not placed:
        raise NoInputError(
            "there is no other T1w image than the one to align to", file=image, remedy="choose another --to"
        )
    return _Found(placed, links=links)


def _space_of(image: Path) -> str:
    """``tpl-X_...`` lies in the space X; other names without all that is no letter or digit."""
    name = stem(image)
    template = re.match(r"tpl-([0-9A-Za-z]+)_", name)
    label = template[1] if template else re.sub(r"[^0-9A-Za-z]", "", name)
    if not label:
        raise UsageError(
            "the name of the image gives no name for its space", file=image, remedy="give --space NAME"
        )
    return label


def _onto_first_session(raw: Dataset, scans: Sequence[Scan], space: str | None) -> _Found:
    """Scans of later sessions onto the first image of the subject's first session.

    The first session is that of the dataset, whatever ``scans`` was limited to.
    """
    of_subject: dict[str, list[Scan]] = defaultdict(list)
    for scan in raw.scans:
        if scan.session is not None:
            of_subject[scan.subject].append(scan)
    placed = []
    for scan in scans:
        first = min(of_subject[scan.subject], key=_order, default=scan)
        if scan.session is not None and scan.session != first.session:
            label = space or "ses" + re.sub(r"[^0-9A-Za-z]", "", first.session or "")
            placed.append(Placed(scan, Target(label, first.path, first.uri)))
    if not placed:
        raise NoInputError(
            "no T1w image of a later session", file=raw.root, remedy="without sessions, use --to template"
        )
    return _Found(placed, notes=[*_said_of_sessions(of_subject, scans, placed)])


def _order(scan: Scan) -> tuple[object, ...]:
    """By session, then by run, then by the whole name."""
    return by_label(scan.session), -1 if scan.run is None else scan.run, by_label(scan.entities)


def _said_of_sessions(
    of_subject: Mapping[str, Sequence[Scan]], scans: Sequence[Scan], placed: Sequence[Placed]
) -> Iterable[str]:
    subjects = {scan.subject for scan in scans} - {one.scan.subject for one in placed}
    if subjects:
        names = sorted((f"sub-{name}" for name in subjects), key=by_label)
        yield f"no later session, nothing to do: {listed(names)}"
    sessions = {scan.session or "" for several in of_subject.values() for scan in several}
    if not all(label.isdecimal() for label in sessions):
        yield f"the sessions are taken in this order: {listed(sorted(sessions, key=by_label))}"


def _case(one: Placed, settings: Mapping[str, object], *, root: Path, templated: bool) -> Case:
    """The row of a manifest names no fixed image where it is the template: that is what a manifest means by it."""
    fixed, moving = one.target.path.absolute(), one.scan.path.absolute()
    files = {"moving": str(moving)} if templated else {"fixed": str(fixed), "moving": str(moving)}
    cells = {"id": one.id, **files, **({"find_brain": "yes"} if settings.get("find_brain") else {})}
    row = row_of(cells, files, root, map(real, map(Path, files.values())))
    return Case(one.id, configure(settings, fixed, moving), row)
