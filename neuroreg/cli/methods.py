"""neuroreg methods: what can be given to --method. Needs neither torch nor weights."""

from importlib import util

from neuroreg.cli import console, options
from neuroreg.methods import METHODS

_PACKAGES = {"ants": "ants", "greedy": "picsl_greedy"}
"""Extra -> the module it brings."""


def command(
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """List the registration methods."""
    rows = [
        {"name": name, "summary": entry.summary, "extra": entry.extra, "installed": installed(entry.extra)}
        for name, entry in METHODS.items()
    ]
    if json:
        console.emit({"methods": rows}, command="methods")
        return
    cells = [(row["name"], row["summary"], _needs(row["extra"], row["installed"])) for row in rows]
    console.show_table("", ("method", "what it is", "needs"), cells)


def installed(extra: object) -> bool:
    """Whether the packages of an extra are here; True without one."""
    return extra is None or util.find_spec(_PACKAGES.get(str(extra), str(extra))) is not None


def _needs(extra: object, present: object) -> str:
    if extra is None:
        return ""
    return "installed" if present else f"pip install 'neuroreg[{extra}]'"
