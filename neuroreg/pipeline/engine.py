"""A method made ready: its class found by name, its options checked, its weights verified and loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from neuroreg import checkpoints, tensors
from neuroreg.errors import DataError, UsageError
from neuroreg.methods import METHODS, gaussnewton
from neuroreg.methods.base import Method, Prediction
from neuroreg.pipeline.config import BRAIN_FINDER, RegisterConfig
from neuroreg.registry import find, unknown_name
from neuroreg.validation import sentence


@dataclass(frozen=True)
class AffinePart:
    """The affine part of a method that aligns by itself, as a method of its own."""

    whole: Any

    @property
    def config(self) -> BaseModel:
        """The method's options."""
        options: BaseModel = self.whole.config
        return options

    @property
    def spacing_mm(self) -> float:
        """As the method's."""
        return float(self.whole.spacing_mm)

    @property
    def divisor(self) -> int:
        """As the method's."""
        return int(self.whole.divisor)

    @property
    def network(self) -> nn.Module:
        """The method's network."""
        found: nn.Module = self.whole.network
        return found

    def predict(self, fixed: Tensor, moving: Tensor, start: Prediction | None = None) -> Prediction:
        """fixed (B, 1, D, H, W), moving (B, 1, d, h, w) -> an affine; it needs no start and ignores one."""
        found: Prediction = self.whole.predict_affine(fixed, moving)
        return found


Aligner = Method | AffinePart
"""What finds an affine"""


@dataclass(frozen=True)
class Engine:
    """A method ready to run, the weights in it, and what finds the affine part."""

    name: str
    method: Method | AffinePart
    """with the name "affine" that which finds it"""
    affine: Method | AffinePart
    referee: Method
    """method ``affine``: lays brains on the template that tells left from right"""
    weights: checkpoints.WeightRecord | None = None
    affine_weights: checkpoints.WeightRecord | None = None
    """those of ``affine`` where it is not the method's own part"""

    @property
    def one_contrast(self) -> bool:
        """Whether the method needs both images in one contrast: all but those that match by mutual information."""
        return getattr(getattr(self.method, "config", None), "metric", None) != "mi"

    def options(self, config: RegisterConfig) -> dict[str, dict[str, object]]:
        """Every option of each stage of this run (affine, method, refine), defaults included, as plain JSON values."""
        stages = {}
        if config.affine in METHODS or self.name == "affine":
            stages[config.affine if config.affine in METHODS else "affine"] = _dump(self.affine)
        if self.name != "affine":
            stages[self.name] = _dump(self.method)
        if config.refine is not None and self.name != "affine":
            from neuroreg import refine  # the engine, only when it is asked for

            preset = config.refine if config.refine in refine.ITERATIONS else None
            asked = refine.settings(preset) if preset else refine.settings(iterations=int(config.refine))
            options = _dump(gaussnewton.GaussNewton(asked[0]))
            stages["refine"] = {**options, "preset": preset, "iterations": [*asked[1]]}
        return stages


def _dump(method: Any) -> dict[str, object]:
    """The method's whole Config; of a preset also what it stands for."""
    config = getattr(method, "config", None)
    options: dict[str, object] = config.model_dump(mode="json") if isinstance(config, BaseModel) else {}
    if isinstance(config, gaussnewton.GaussNewton.Config) and config.iterations is None:
        options["iterations"] = [*gaussnewton.ITERATIONS[config.preset]]
    return {"spacing_mm": method.spacing_mm, **options}


def load_engine(config: RegisterConfig) -> Engine:
    """The method with its options and weights. Raises UsageError, UnavailableError, DataError."""
    finder = _finder(config)
    classical = _class_of("affine")
    referee: Method = classical(classical.Config())
    if config.method == "affine":
        found, weights = _ready(finder, config)
        aligner = _affine_part(found)
        return Engine("affine", aligner, aligner, referee, weights)
    method, weights = _ready(config.method, config)
    if finder == config.method:
        return Engine(config.method, method, _affine_part(method), referee, weights)
    if finder == "affine":
        return Engine(config.method, method, referee, referee, weights)
    found, affine_weights = _ready(finder, _alone(finder, config))
    return Engine(config.method, method, _affine_part(found), referee, weights, affine_weights)


def check_engine(config: RegisterConfig) -> None:
    """Refuse what ``load_engine`` would refuse, before any weights are read. Raises as it does."""
    finder = _finder(config)
    if config.method == "affine":
        _choose(finder, config)
        return
    _choose(config.method, config)
    if finder not in (config.method, "affine"):
        _choose(finder, _alone(finder, config))


def _finder(config: RegisterConfig) -> str:
    """The method that finds the affine part."""
    if (config.method, config.affine) == ("affine", "none"):
        raise UsageError(
            "method 'affine' without an affine does nothing",
            remedy="leave out --affine none, or choose a deformable --method",
        )
    return config.affine if config.affine in METHODS else "affine"


def _alone(finder: str, config: RegisterConfig) -> RegisterConfig:
    """The settings of a finder that is not the method itself: its own defaults."""
    return config.model_copy(update={"method": finder, "weights": None, "options": {}, "refine": None})


def head_referee() -> AffinePart:
    """The affine part of method ``jointaffine``: it lays whole heads on that template.

    Raises UnavailableError, DataError.
    """
    kind, weights = _class_of(BRAIN_FINDER), checkpoints.default_for(BRAIN_FINDER)
    method = kind(_own_config(kind, weights))
    checkpoints.load_into(method.network, weights)
    method.network.eval()
    return AffinePart(method)


def _affine_part(method: Any) -> Method | AffinePart:
    return AffinePart(method) if hasattr(method, "predict_affine") else method


def _ready(name: str, config: RegisterConfig) -> tuple[Method, checkpoints.WeightRecord | None]:
    """The method of that name with the options and the weights of the configuration, or its default ones."""
    kind, options, weights = _choose(name, config)
    if weights is not None:
        _check_size(kind, options, weights)
    method = kind(options)
    if weights is not None:
        checkpoints.load_into(method.network, weights)
        method.network.eval()
    return method, weights


def _check_size(kind: Any, options: BaseModel, weights: checkpoints.WeightRecord) -> None:
    """Compare the network with its weights before it takes memory: options may ask for more than there is."""
    checkpoints.verify(weights)
    try:
        with torch.device("meta"):
            network = kind(options).network
    except (RuntimeError, OverflowError) as error:
        raise DataError(
            "no network can have the options of these weights",
            file=weights.path,
            remedy="put the recipe that made them beside them",
        ) from error
    tensors.check_fit(network, weights.path)


def _choose(name: str, config: RegisterConfig) -> tuple[Any, BaseModel, checkpoints.WeightRecord | None]:
    """The class, the options and the weights that go together."""
    kind = _class_of(name)
    if not hasattr(kind, "losses"):
        if config.weights is not None:
            raise UsageError(f"method {name!r} has no weights", remedy="leave out --weights")
        return kind, method_config(kind, config, name=name), None
    weights = checkpoints.find(config.weights) if config.weights else checkpoints.default_for(name)
    if weights.method != name:
        raise UsageError(
            f"the weights {weights.name!r} are for method {weights.method!r}, not {name!r}",
            remedy="name the weights and the method that belong together",
        )
    _own_config(kind, weights)
    options = method_config(kind, config, name=name, below=_options_of(kind, weights, config))
    return kind, options, weights


def _own_config(kind: Any, weights: checkpoints.WeightRecord) -> BaseModel:
    """The options that the weights come with. Raises DataError where the method has no such ones."""
    try:
        found: BaseModel = kind.Config.model_validate(weights.config)
    except ValidationError as error:
        raise DataError(
            f"the options that these weights come with: {sentence(error)}",
            file=weights.path,
            remedy="use the recipe that made them",
        ) from error
    return found


def _options_of(kind: Any, weights: checkpoints.WeightRecord, config: RegisterConfig) -> dict[str, object]:
    """The weights' own options. Before a refinement the network stops early: at twice the spacing it was trained at
    if it can skip levels, else there. The finer levels are the engine's work, which does them in less time."""
    options: dict[str, object] = dict(weights.config)
    if config.refine is not None and weights.spacing_mm is not None:
        if "finest_mm" in kind.Config.model_fields:
            options["finest_mm"] = 2 * weights.spacing_mm
        else:
            options["spacing_mm"] = weights.spacing_mm
    return options


def _class_of(name: str) -> Any:
    return find(METHODS, name, kind="method").load()


def method_config(
    kind: Any, config: RegisterConfig, *, name: str, below: Mapping[str, object] | None = None
) -> BaseModel:
    """The settings of the method ``name``: ``--set`` over the weights' over the defaults. Raises UsageError."""
    options = {**(below or {}), **config.options}
    fields = kind.Config.model_fields
    for option in options:
        if option not in fields:
            raise UsageError(
                unknown_name(f"option of method {name}", option, fields),
                remedy=f"neuroreg methods {name} lists them",
            )
    if "seed" in fields:
        options.setdefault("seed", config.seed)
    try:
        made: BaseModel = kind.Config(**options)
    except ValidationError as error:
        raise UsageError(
            sentence(error), remedy="correct the option; neuroreg methods NAME lists them"
        ) from error
    return made
