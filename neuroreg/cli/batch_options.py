"""The options that ``batch`` and ``bids`` share: those of every registration in them, and those of the batch itself."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from neuroreg.cli import options
from neuroreg.errors import UsageError

if TYPE_CHECKING:
    from neuroreg.cohort.config import BatchConfig

_output = partial(typer.Option, rich_help_panel="Outputs")
_batch = partial(typer.Option, rich_help_panel="Batch")

BatchOutput = Annotated[
    Path | None, _output("-o", "--output", help="Output folder: one below it for each case.")
]
OverwriteAll = Annotated[bool, _output("--overwrite", help="Make every case again.")]
Resume = Annotated[
    bool,
    _output(
        "--resume", help="Go on: skip what is provably done (inputs, settings, weights and outputs hashed)."
    ),
]
Engine = Annotated[
    Literal["serial", "dask"],
    _batch(help="serial: one process, some cases at once; dask: a cluster (needs the extra batch)."),
]
Jobs = Annotated[int | None, _batch(min=1, help="serial: cases at once (default: 2).")]
Workers = Annotated[int | None, _batch(min=1, help="dask: processes of a cluster started on this machine.")]
Scheduler = Annotated[str | None, _batch(metavar="tls://...", help="dask: a cluster that runs already.")]
TlsCa = Annotated[
    Path | None, _batch(help="Certificate authority of that cluster (default: Dask's own settings).")
]
TlsCert = Annotated[Path | None, _batch(help="Certificate to show it.")]
TlsKey = Annotated[Path | None, _batch(help="Key of that certificate.")]
Shard = Annotated[
    str | None, _batch(metavar="I/N", help="The I-th of N parts, from 1; the parts share one output folder.")
]
Retries = Annotated[int, _batch(min=0, max=10, help="For cases that were killed or could not read or write.")]
FailFast = Annotated[bool, _batch("--fail-fast", help="The first failure cancels the rest.")]
CaseTimeout = Annotated[float, _batch(min=1, metavar="S", help="Seconds after which a case is given up.")]
MemoryLimit = Annotated[
    int | None, _batch(min=100, metavar="MB", help="Resident memory of a case (default: none).")
]


OF_REGISTER: Mapping[str, Any] = {
    "method": options.Method,
    "weights": options.Weights,
    "affine": options.AffinePart,
    "refine": options.Refine,
    "set_": options.Set,
    "find_brain": options.FindBrain,
    "frame": options.Frame,
    "xform": options.Xform,
    "max_voxels": options.MaxVoxels,
    "config": options.Config,
    "outputs": options.Outputs,
    "strict_qc": options.StrictQc,
    "strict_report": options.StrictReport,
    "provenance": options.Provenance,
    "device": options.Device,
    "seed": options.Seed,
    "deterministic": options.Deterministic,
}
"""Settings of each registration: parameter -> its annotation. All of them are None when left out."""

OF_BATCH: Mapping[str, tuple[Any, object]] = {
    "resume": (Resume, False),
    "overwrite": (OverwriteAll, False),
    "engine": (Engine, "serial"),
    "jobs": (Jobs, None),
    "workers": (Workers, None),
    "scheduler": (Scheduler, None),
    "tls_ca": (TlsCa, None),
    "tls_cert": (TlsCert, None),
    "tls_key": (TlsKey, None),
    "threads": (options.Threads, None),
    "shard": (Shard, None),
    "retries": (Retries, 1),
    "fail_fast": (FailFast, False),
    "case_timeout": (CaseTimeout, 3600.0),
    "memory_limit": (MemoryLimit, None),
}
"""How the batch is run: parameter -> (annotation, default)."""

_SHOWN: Mapping[str, tuple[Any, object]] = {
    "dry_run": (options.DryRun, False),
    "json": (options.Json, False),
    "quiet": (options.Quiet, False),
    "verbose": (options.Verbose, 0),
    "debug": (options.Debug, False),
}


def with_shared(command: Callable[..., None]) -> Callable[..., None]:
    """The command with all of the options above as parameters of its own; it gets them as its ``**given``."""
    shared = {**{name: (kind, None) for name, kind in OF_REGISTER.items()}, **OF_BATCH, **_SHOWN}
    signature = inspect.signature(command)
    own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in shared.items()
    ]
    kept = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
    command.__signature__ = signature.replace(parameters=[*kept, *more])  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in (*kept, *more)} | {"return": None}
    return command


def register_settings(given: Mapping[str, Any]) -> dict[str, object]:
    """Those of a command's arguments that are settings of each registration."""
    from neuroreg.validation import parse_pairs

    chosen: dict[str, object] = {name: given[name] for name in OF_REGISTER if name not in ("set_", "config")}
    chosen["options"] = parse_pairs(given["set_"]) if given["set_"] else None
    return chosen


def batch_config(given: Mapping[str, Any], output: Path) -> "BatchConfig":
    """How the batch is run, from a command's arguments. Raises UsageError."""
    from pydantic import ValidationError

    from neuroreg.cohort.config import BatchConfig
    from neuroreg.validation import sentence

    renamed = {"case_timeout": "case_timeout_s", "memory_limit": "memory_limit_mb"}
    settings = {renamed.get(name, name): given[name] for name in OF_BATCH}
    settings["shard"] = parse_shard(given["shard"])
    try:
        return BatchConfig(output=output, strict_qc=bool(given["strict_qc"]), **settings)
    except ValidationError as error:
        raise UsageError(
            sentence(error), remedy="correct the setting; neuroreg batch --help lists them"
        ) from error


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """``3/8`` -> (3, 8). Raises UsageError."""
    if text is None:
        return None
    first, slash, second = text.partition("/")
    if not (slash and first.strip().isdecimal() and second.strip().isdecimal()):
        raise UsageError(f"expected I/N after --shard, got {text!r}", remedy="for example --shard 3/8")
    return int(first), int(second)
