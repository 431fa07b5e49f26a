"""How fast the pairs of channels are rotated."""

import torch
from torch import Tensor

BASE = 10_000.0  # both papers' ratio between the fastest and the slowest rotation


def rotary_frequencies(width: int, device: torch.device) -> Tensor:
    """Radians per token for each pair of channels, BASE^(-2i/width), (k/2,)."""
    return BASE ** -(torch.arange(0, width, 2, device=device, dtype=_precise(device)) / width)


def retention_frequencies(width: int, device: torch.device) -> Tensor:
    """The same over RetNet's grid, which includes its end: BASE^-linspace(0, 1, width/2), (k/2,)."""
    return BASE ** -torch.linspace(0, 1, width // 2, device=device, dtype=_precise(device))


def _precise(device: torch.device) -> torch.dtype:
    """In float32 the fastest pair would be off by 2e-4 after 4,096 tokens. Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
