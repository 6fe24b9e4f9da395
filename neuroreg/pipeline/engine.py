"""A method made ready: its class found by name, its options checked, its weights verified and loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from neuroreg import checkpoints
from neuroreg.errors import UsageError
from neuroreg.methods import METHODS
from neuroreg.methods.base import Method
from neuroreg.pipeline.config import RegisterConfig
from neuroreg.registry import find, unknown_name
from neuroreg.validation import sentence


@dataclass(frozen=True)
class Engine:
    """A method ready to run, the weights in it, and the method that finds the affine part."""

    name: str
    method: Method
    affine: Method
    weights: checkpoints.WeightRecord | None = None


def load_engine(config: RegisterConfig) -> Engine:
    """The method with its options and weights. Raises UsageError, UnavailableError, DataError."""
    kind = _class_of(config.method)
    aligner = _class_of("affine")
    default_affine: Method = aligner(aligner.Config())
    if not hasattr(kind, "losses"):
        if config.weights is not None:
            raise UsageError(f"method {config.method!r} has no weights", remedy="leave out --weights")
        method: Method = kind(method_config(kind, config))
        return Engine(config.method, method, method if config.method == "affine" else default_affine)
    weights = checkpoints.find(config.weights) if config.weights else checkpoints.default_for(config.method)
    if weights.method != config.method:
        raise UsageError(
            f"the weights {weights.name!r} are for method {weights.method!r}, not {config.method!r}",
            remedy="name the weights and the method that belong together",
        )
    method = kind(method_config(kind, config, below=_options_of(weights, config)))
    checkpoints.load_into(method.network, weights)  # type: ignore[attr-defined]
    method.network.eval()  # type: ignore[attr-defined]
    return Engine(config.method, method, default_affine, weights)


def _options_of(weights: checkpoints.WeightRecord, config: RegisterConfig) -> dict[str, object]:
    """The weights' own options. Before a refinement the network stops at the spacing it was trained at: the finer
    level is the engine's work, which costs it less than it costs the network."""
    options: dict[str, object] = dict(weights.config)
    if config.refine is not None and weights.spacing_mm is not None:
        options["spacing_mm"] = weights.spacing_mm
    return options


def _class_of(name: str) -> Any:
    return find(METHODS, name, kind="method").load()


def method_config(
    kind: Any, config: RegisterConfig, *, below: Mapping[str, object] | None = None
) -> BaseModel:
    """The method's own settings: ``--set`` over the weights' over the defaults. Raises UsageError."""
    options = {**(below or {}), **config.options}
    fields = kind.Config.model_fields
    for name in options:
        if name not in fields:
            raise UsageError(unknown_name(f"option of method {config.method}", name, fields))
    if "seed" in fields:
        options.setdefault("seed", config.seed)
    try:
        made: BaseModel = kind.Config(**options)
    except ValidationError as error:
        raise UsageError(sentence(error)) from error
    return made
