"""One process or many (torchrun): device, gradient averaging and the optimiser update.

Gradients are averaged by hand after each backward pass instead of wrapping the network: methods call their network
several times a step and by other names than ``forward``, which a wrapper would not see.
"""

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from neuroreg.errors import UnavailableError
from neuroreg.methods.base import Batch

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Workers:
    """Where this process trains and with whom."""

    device: torch.device
    rank: int = 0
    count: int = 1
    accelerator: "Accelerator | None" = None
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler(enabled=False))

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def with_loss_scaling(self, precision: str) -> "Workers":
        """fp16 gradients need scaling; the other precisions do not."""
        enabled = precision == "fp16"
        return replace(self, scaler=torch.amp.GradScaler(self.device.type, enabled=enabled))

    def to_device(self, batch: Batch) -> Batch:
        """The batch's tensors on this process's device; its generator stays where it is."""
        return Batch(
            fixed=batch.fixed.to(self.device),
            moving=batch.moving.to(self.device),
            fixed_labels=_on(self.device, batch.fixed_labels),
            moving_labels=_on(self.device, batch.moving_labels),
            fixed_mask=_on(self.device, batch.fixed_mask),
            generator=batch.generator,
            displacement=_on(self.device, batch.displacement),
        )

    def agree(self, *values: float) -> list[float]:
        """The first process's numbers in every process, so that all of them decide alike (when to stop)."""
        if self.accelerator is None:
            return list(values)
        from accelerate.utils import broadcast

        shared: Tensor = broadcast(torch.tensor(values, dtype=torch.float64, device=self.device))
        return [float(value) for value in shared.tolist()]

    def update(
        self,
        loss: Tensor,
        optimizer: torch.optim.Optimizer,
        parameters: tuple[nn.Parameter, ...],
        clip: float,
    ) -> None:
        """Backward pass, average of the gradients over all processes, clipping, one optimiser step."""
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.unscale_(optimizer)
        if self.accelerator is not None:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad = self.accelerator.reduce(parameter.grad, reduction="mean")
        nn.utils.clip_grad_norm_(parameters, clip)
        self.scaler.step(optimizer)
        self.scaler.update()


def find_workers(device: torch.device) -> Workers:
    """One process alone, or its place among those torchrun started. Raises UnavailableError without accelerate."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Workers(device)
    try:
        from accelerate import Accelerator
    except ModuleNotFoundError as error:
        raise UnavailableError(
            "several processes need accelerate", remedy="pip install 'neuroreg[train]'"
        ) from error
    accelerator = Accelerator(mixed_precision="no", cpu=device.type == "cpu")
    return Workers(accelerator.device, accelerator.process_index, accelerator.num_processes, accelerator)


def _on(device: torch.device, value: Tensor | None) -> Tensor | None:
    return None if value is None else value.to(device)
