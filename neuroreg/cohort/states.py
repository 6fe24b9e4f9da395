"""The states of a case. Imports nothing: what starts a worker early must be light."""

from typing import Literal

State = Literal[
    "planned",
    "running",
    "ok",
    "ok-qc-warn",
    "failed-data",
    "failed-io",
    "failed-bug",
    "killed",
    "timeout",
    "cancelled",
]
"""planned and running are on the way; all others are an end. ``ok-qc-warn``: done, but the verdict is not pass."""

DONE: frozenset[State] = frozenset({"ok", "ok-qc-warn"})
FAILED: frozenset[State] = frozenset({"failed-data", "failed-io", "failed-bug", "killed", "timeout"})
