"""The step network of ``neuroreg``: one bounded update of a displacement, the same at every scale."""

import torch
from torch import Tensor, nn

from neuroreg.nn.anatomy import AnatomyNetwork
from neuroreg.nn.blocks import conv3, flow_head, local_normalise


class StepNetwork(nn.Module):
    """One update from a fixed and a warped moving image, at any scale.

    With an anatomy network it also sees both images' codes, the moving ones warped, on the grid of its update.
    """

    def __init__(self, features: int, width: int, anatomy: AnatomyNetwork | None = None) -> None:
        super().__init__()
        self.anatomy = anatomy
        codes = 0 if anatomy is None else anatomy.codebook.shape[1]
        self.encoder = nn.Sequential(
            conv3(2, features, stride=2),
            nn.LeakyReLU(0.2),
            conv3(features, features),
            nn.LeakyReLU(0.2),
            conv3(features, features),
        )
        self.head = nn.Sequential(
            conv3(3 * features + 2 * codes, width),
            nn.GroupNorm(4, width),
            nn.LeakyReLU(0.2),
            conv3(width, width),
            nn.LeakyReLU(0.2),
            conv3(width, width),
            nn.GroupNorm(4, width),
            nn.LeakyReLU(0.2),
        )
        # 1e-2, not the usual 1e-5: the shared weights must see a useful gradient at every scale from the start.
        self.flow = flow_head(width, sd=1e-2)

    def encode(self, image: Tensor) -> Tensor:
        """Image (B, 1, D, H, W) -> features (B, C, D/2, H/2, W/2)."""
        out: Tensor = self.encoder(torch.cat((image, local_normalise(image)), dim=1))
        return out

    def forward(self, fixed_features: Tensor, moved: Tensor, codes: tuple[Tensor, Tensor] | None) -> Tensor:
        """Features of the fixed image, the moving image warped so far, codes (B, K, D/2, H/2, W/2) of the fixed and
        the warped moving image -> update (B, 3, D/2, H/2, W/2), voxels of the half grid, components within (-1, 1)."""
        m = self.encode(moved)
        inputs = [fixed_features, m, fixed_features - m]
        if codes is not None:
            inputs += [codes[0], codes[0] - codes[1]]
        hidden = self.head(torch.cat(inputs, dim=1))
        return torch.tanh(self.flow(hidden).float())
