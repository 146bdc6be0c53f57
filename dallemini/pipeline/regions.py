"""Shapes of what is redrawn: regions of tokens that a seed chooses, and how pixels fade in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..generation.lookahead import derive_seed
from ..generation.sampling import make_generators


def choose_regions(height: int, width: int, *, share: float, seed: int) -> Tensor:
    """Choose a share of a grid in a few connected regions, by a seed.

    They are the highest places of a random landscape with soft hills.

    Returns:
        bool[h,w], of which round(share * h * w) are True, at least one.
    """
    generator = make_generators([derive_seed(seed, "regions")])[0]
    random = torch.rand(
        (1, 1, height, width), generator=generator, dtype=torch.float64, device="cpu"
    )
    reach = max(1, min(height, width) // 5)
    for _ in range(2):
        padded = F.pad(random, (reach,) * 4, mode="replicate")
        random = F.avg_pool2d(padded, 2 * reach + 1, stride=1)
    count = max(1, round(share * height * width))
    chosen = torch.zeros(height * width, dtype=torch.bool, device="cpu")
    chosen[random.flatten().topk(count).indices] = True
    return chosen.view(height, width)


def fade_in(hole: Tensor, *, reach: int) -> Tensor:
    """Return the opacity of what is drawn in a hole: 0 outside, rising within it.

    Args:
        hole: bool[H,W].
        reach: pixels until it is 255; fewer in a hole that is nowhere so deep.

    Returns:
        u8[H,W].
    """
    inside, depth = hole[None].float(), hole[None].float()
    for _ in range(2 * reach):
        inside = -F.max_pool2d(-inside, 3, stride=1, padding=1)  # edges of the picture are none
        depth += inside
    reach = min(reach, int(depth.max()) // 2)
    return (depth / (reach + 1)).clamp(max=1).mul(255).round().to(torch.uint8)[0]
