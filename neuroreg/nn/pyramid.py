"""The coarse-to-fine loop of pyramid registration networks."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from neuroreg import field


class FlowHead(Protocol):
    """Two feature maps of one level (B, C, D, H, W) -> an update (B, 3, D, H, W) in voxels of that level."""

    def __call__(self, fixed: Tensor, moved: Tensor) -> Tensor:
        """See the class."""
        ...


def register_pyramid(
    fixed: Sequence[Tensor], moving: Sequence[Tensor], heads: Sequence[FlowHead]
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Features coarse to fine, one head per level -> (field at the finest level, all fields, all updates).

    The moving features are warped by the field so far, which carries no gradient there (as in Dual-PRNet's
    released code); each update is composed: u = d + up(u) o (id + d). Fields are voxels of their own level.
    """
    u: Tensor | None = None
    fields: list[Tensor] = []
    updates: list[Tensor] = []
    for f, m, head in zip(fixed, moving, heads, strict=True):
        if u is None:
            u = delta = head(f, m).float()
        else:
            u = field.upsample_field(u, tuple(f.shape[2:]))
            delta = head(f, field.warp(m.float(), u.detach())).float()
            u = field.compose(u, delta)
        fields.append(u)
        updates.append(delta)
    assert u is not None
    return u, tuple(fields), tuple(updates)
