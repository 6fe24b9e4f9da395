"""How every case of a batch stands, from what has happened; the counts of the states always add up."""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from neuroreg.cohort.states import DONE, FAILED, State

_RECENT = 100


@dataclass(frozen=True)
class Standing:
    """How one case stands."""

    id: str
    state: State = "planned"
    attempts: int = 0
    verdict: str | None = None
    reasons: tuple[str, ...] = ()
    seconds: float | None = None
    """of the last attempt"""
    kind: str = ""
    message: str = ""
    code: int | None = None
    skipped: bool = False
    """it was done before"""
    stage: str = ""
    since: float = 0.0
    """when it was begun, on the clock of the board"""


@dataclass(frozen=True)
class Snapshot:
    """The whole at one moment."""

    counts: dict[State, int]
    running: Sequence[Standing]
    failures: Sequence[Standing]
    """the last ones, the newest last"""
    recent: Sequence[Standing]
    """the last ones that ended, well or not, the newest last"""
    seconds: float
    """since the beginning"""
    now: float
    """on the clock of the standings"""
    skipped: int
    finished: int
    """ended since the beginning, well or not"""

    @property
    def total(self) -> int:
        """All cases."""
        return sum(self.counts.values())

    @property
    def done(self) -> int:
        """Those that succeeded, now or before."""
        return sum(self.counts[state] for state in DONE)

    @property
    def failed(self) -> int:
        """Those that ended without a result."""
        return sum(self.counts[state] for state in FAILED)

    @property
    def left(self) -> int:
        """Those still to come, the running ones among them."""
        return self.counts["planned"] + self.counts["running"]

    @property
    def per_hour(self) -> float | None:
        """Cases that end in an hour; None before the first."""
        return self.finished / self.seconds * 3600 if self.finished and self.seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """At that rate; None before the first."""
        rate = self.per_hour
        return None if rate is None else self.left / rate * 3600


@dataclass
class Board:
    """The standings of all cases, in the order of the manifest."""

    standings: dict[str, Standing]
    clock: float = field(default_factory=time.monotonic)
    _ended: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, ids: Iterable[str]) -> "Board":
        """Every case planned."""
        return cls({name: Standing(name) for name in ids})

    def add(self, name: str) -> None:
        """One more case, planned; one that is there already stays as it is."""
        self.standings.setdefault(name, Standing(name))

    def put(self, name: str, **changes: object) -> Standing:
        """Change the standing of a case."""
        changed = replace(self.standings[name], **changes)  # type: ignore[arg-type]
        self.standings[name] = changed
        return changed

    def end(self, name: str, state: State, **changes: object) -> None:
        """A case has come to its end."""
        self.put(name, state=state, stage="", **changes)
        self._ended.append(name)

    def with_state(self, *states: State) -> list[Standing]:
        """The cases in these states, in order."""
        return [standing for standing in self.standings.values() if standing.state in states]

    def counts(self) -> dict[State, int]:
        """Every state that there is, and how many cases are in it."""
        found = Counter(standing.state for standing in self.standings.values())
        states: tuple[State, ...] = ("planned", "running", *sorted(DONE), *sorted(FAILED), "cancelled")
        return {state: found.get(state, 0) for state in states}

    def snapshot(self, *, seconds: float | None = None) -> Snapshot:
        """Now; ``seconds`` since the beginning where the board's own clock does not tell."""
        recent = [self.standings[name] for name in self._ended[-_RECENT:]]
        return Snapshot(
            counts=self.counts(),
            running=self.with_state("running"),
            failures=[one for one in recent if one.state in FAILED][-5:],
            recent=recent,
            now=time.monotonic(),
            seconds=time.monotonic() - self.clock if seconds is None else seconds,
            skipped=sum(standing.skipped for standing in self.standings.values()),
            finished=len(self._ended),
        )
