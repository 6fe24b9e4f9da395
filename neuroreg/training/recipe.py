"""A training recipe: everything that, with the data, decides a weight file."""

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from neuroreg.errors import DataError, NoInputError
from neuroreg.training.data import Augmentation
from neuroreg.training.poses import Poses
from neuroreg.validation import parse_yaml, sentence

Count = Annotated[int, Field(ge=0)]
CoarseSteps = Count | tuple[Count, ...]


class Heads(BaseModel):
    """Whole heads in their own poses, for stages that learn to align them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: Path = Field(description="Packed whole heads of the training split (.npz)")
    val: Path = Field(description="Packed whole heads of the validation split")


class Fields(BaseModel):
    """Displacements known beforehand, for methods that learn from them; made by ``--prepare`` if missing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: Path = Field(description="Displacements (.npz) of pairs of the training split")
    val: Path = Field(description="And of the validation split")
    targets: Literal["gaussnewton", "syn_demons"] = Field(
        "gaussnewton",
        description="What finds them: this project's engine, or SyN on the images, then demons on tissue maps",
    )
    pairs: int = Field(96, gt=0, description="Random ordered pairs of the training split")
    val_pairs: int = Field(12, gt=0, description="And of the validation split")


class Data(BaseModel):
    """Which packed files the run reads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: Path = Field(description="Packed training split (.npz), relative to the working directory")
    val: Path = Field(description="Packed validation split")
    heads: Heads | None = Field(
        None, description="Whole heads for stages with raw poses; none: the stripped, aligned ones are posed"
    )
    fields: Fields | None = Field(None, description="Pairs whose displacement is known; none: any pairs")


class Budget(BaseModel):
    """Options of a recipe that another device replaces, because it affords more. What is left out stays as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int | None = Field(None, gt=0)
    coarse_steps: CoarseSteps | None = None
    learning_rate: float | None = Field(None, gt=0)
    validate_every: int | None = Field(None, gt=0)
    val_pairs: int | None = Field(None, gt=0)
    patience: int | None = Field(None, gt=0)
    config: dict[str, object] = Field(
        default_factory=dict, description="Options of the method, replaced one by one"
    )


class Recipe(BaseModel):
    """One training run. Unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Name of the weights")
    method: str = Field(description="Name of a trainable method")
    config: dict[str, object] = Field(default_factory=dict, description="Options of the method in training")
    inference: dict[str, object] = Field(
        default_factory=dict, description="Options with which the weights are used"
    )
    data: Data
    initial: str | None = Field(None, description="Weights to start from (name or file); none: from random")
    seed: int = 0
    steps: int = Field(gt=0, description="Optimiser steps")
    learning_rate: float = Field(gt=0, description="Peak rate of the one-cycle schedule")
    warmup: float = Field(0.05, gt=0, lt=1, description="Share of the steps in which the rate rises")
    weight_decay: float = Field(1e-5, ge=0)
    clip: float = Field(1.0, gt=0, description="Largest gradient norm")
    coarse_steps: CoarseSteps = Field(
        0,
        description="First steps that see the images at twice the spacing, an eighth of the work: of the run, or a "
        "list of the first steps of each of the method's stages",
    )
    labelled: int | None = Field(
        None, ge=2, description="Training subjects whose labels are used, the first ones; none: all"
    )
    symmetric: bool = Field(False, description="Learn from both directions of each pair in every step")
    precision: Literal["bf16", "fp16", "float32"] = Field(
        "bf16", description="Of the convolutions; losses are float32"
    )
    augmentation: Augmentation = Augmentation()
    poses: Poses = Poses()
    validate_every: int = Field(200, gt=0, description="Steps between validations")
    val_pairs: int = Field(15, gt=0, description="Fixed validation pairs")
    patience: int = Field(12, gt=0, description="Validations without a better Dice before stopping early")
    checkpoint_minutes: float = Field(3.0, gt=0)
    gpu: Budget | None = Field(None, description="What replaces these options where a CUDA device trains")

    def on(self, device: str) -> "Recipe":
        """The recipe as a device of this type (cpu, cuda, mps) runs it: ``gpu`` is put in its place, or left out."""
        changes: dict[str, object] = {"gpu": None}
        if self.gpu is not None and device == "cuda":
            changes |= self.gpu.model_dump(exclude_none=True)
            changes["config"] = {**self.config, **self.gpu.config}
        return self.model_copy(update=changes)

    @property
    def begins_with(self) -> str | None:
        """Name of the weights that ``initial`` means: a name, NAME.safetensors or NAME/best.safetensors."""
        if self.initial is None or not self.initial.endswith(".safetensors"):
            return self.initial
        path = Path(self.initial)
        return path.parent.name if path.stem == "best" else path.stem

    def as_trained(self, metadata: Mapping[str, str]) -> "Recipe":
        """The recipe as the device ran it that made the weights of this metadata: known by the steps of the run."""
        kinds = [self.on(device) for device in ("cpu", "cuda")]
        return next((kind for kind in kinds if str(kind.steps) == metadata.get("budget")), kinds[0])

    def coarse_by_stage(self, steps: Sequence[int]) -> list[int]:
        """How many first steps of each stage are coarse. ``steps``: the length of every stage. Raises DataError."""
        if isinstance(self.coarse_steps, int):
            before = accumulate(steps, initial=0)
            return [max(0, min(n, self.coarse_steps - at)) for n, at in zip(steps, before, strict=False)]
        if len(self.coarse_steps) != len(steps):
            raise DataError(
                f"coarse_steps has {len(self.coarse_steps)} numbers, method {self.method!r} {len(steps)} stages",
                remedy="give one number for the run, or one for each stage",
            )
        return [min(n, coarse) for n, coarse in zip(steps, self.coarse_steps, strict=True)]

    @model_validator(mode="after")
    def _one_direction_is_known(self) -> "Recipe":
        budgets = [self.coarse_steps, None if self.gpu is None else self.gpu.coarse_steps]
        coarse = any(any(n) if isinstance(n, tuple) else n for n in budgets)
        if self.data.fields is not None and (self.symmetric or coarse):
            raise ValueError("data.fields go with neither symmetric nor coarse_steps")
        return self


def load_recipe(path: Path) -> Recipe:
    """Read a YAML recipe. Raises NoInputError, DataError naming the option that is wrong."""
    if not path.is_file():
        raise NoInputError("no such recipe", file=path)
    try:
        return Recipe.model_validate(parse_yaml(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise DataError(sentence(error), file=path) from error
    except ValueError as error:
        raise DataError("not a YAML file", file=path) from error


def weights_metadata(recipe: Recipe) -> dict[str, str]:
    """What a weight file says of itself, so that it can be used without its recipe beside it."""
    config = {**recipe.config, **recipe.inference}
    return {"name": recipe.name, "method": recipe.method, "config": json.dumps(config)}
