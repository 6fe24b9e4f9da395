"""What there is to do: which cases are done already, which must be made, which again and why."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from neuroreg.cohort import preflight
from neuroreg.cohort.case import Case, Cohort
from neuroreg.cohort.config import BatchConfig
from neuroreg.cohort.layout import FolderLayout, Layout
from neuroreg.cohort.sameness import why_again
from neuroreg.errors import CannotCreateError
from neuroreg.pipeline.record import RunRecord


@dataclass(frozen=True)
class Plan:
    """What there is to do."""

    cases: Sequence[Case]
    """of this part of the cohort"""
    done: Mapping[str, RunRecord]
    """those that need not be made again, with their records"""
    again: Mapping[str, str]
    """id -> why, of those that were done before"""

    @property
    def todo(self) -> list[Case]:
        """Those to make."""
        return [case for case in self.cases if case.id not in self.done]


def dry_run(cohort: Cohort, config: BatchConfig, *, layout: Layout | None = None) -> dict[str, Any]:
    """``--dry-run``: every check of a real batch, and what it would do. Computes and writes nothing."""
    cases = part_of(cohort.cases, config.shard)
    weights = preflight.check_methods(cases)
    plan = make_plan(cases, config, layout or FolderLayout(config.output), weights)
    size = len(plan.todo) * preflight.bytes_of_a_case(plan.todo)
    return {
        "cases": len(cases),
        "to_make": len(plan.todo),
        "again": dict(plan.again),
        "disk_gb": round(size / 1e9, 1),
        "ids": [case.id for case in plan.todo],
    }


def part_of(cases: Sequence[Case], shard: tuple[int, int] | None) -> Sequence[Case]:
    """Every n-th case, from the i-th on; all of them without a shard."""
    return cases if shard is None else cases[shard[0] - 1 :: shard[1]]


def make_plan(
    cases: Sequence[Case], config: BatchConfig, layout: Layout, weights: Mapping[str, preflight.Weights]
) -> Plan:
    """Which cases are done already, and which must be made (again); ``weights`` come from ``check_methods``.

    Raises CannotCreateError for outputs in the way.
    """
    present = [case for case in cases if layout.mark(case).exists()]
    if present and not (config.resume or config.overwrite):
        raise CannotCreateError(
            f"{len(present)} of {len(cases)} cases are there already ({present[0].id}, ...)",
            file=config.output,
            remedy="use --resume to go on, or --overwrite to make them again",
        )
    if not config.resume:
        again = dict.fromkeys((case.id for case in present), "--overwrite")
        return _checked(Plan(cases, {}, again), layout)
    with ThreadPoolExecutor(max_workers=8) as pool:  # reading and hashing, which leave the interpreter alone
        answers = pool.map(
            lambda case: why_again(case, layout, weights[preflight.method_settings(case.config)]), present
        )
        found = dict(zip((case.id for case in present), answers, strict=True))
    done = {name: record for name, (why, record) in found.items() if not why and record is not None}
    again = {name: why for name, (why, _) in found.items() if why}
    return _checked(Plan(cases, done, again), layout)


def _checked(plan: Plan, layout: Layout) -> Plan:
    """Refuse to replace what no run of ours has left, every such case told at once. Raises CannotCreateError."""
    faults = []
    for case in plan.todo:
        try:
            layout.check(case)
        except CannotCreateError as error:
            faults.append(error)
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        told = "; ".join(error.what for error in faults[:5])
        raise CannotCreateError(told + more, file=layout.folder, remedy=faults[0].remedy)
    return plan
