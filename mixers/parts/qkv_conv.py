"""Short convolutions of queries, keys and values, an option of several mixers: each alone, with SiLU after it.

A mixer holds them as `q_conv1d`, `k_conv1d` and `v_conv1d`, the names of flash-linear-attention's layers, whose
weights (channels, 1, width) they take. What they remember is a field of the mixer's state,
`conv: ConvState = NoInputs()`, so that a state without convolutions is what it is in a mixer that knows none.

Axes: b batch, t time, w taps.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from mixers.checks import UsageError, at_least
from mixers.parts.short_conv import ShortConv


class ConvInputs(NamedTuple):
    """The last inputs of the convolutions, (b, w - 1, channels) each."""

    q: Tensor
    k: Tensor
    v: Tensor


class NoInputs(NamedTuple):
    """What is remembered without convolutions."""


ConvState = ConvInputs | NoInputs


def short_convs(width: int, *channels: int) -> list[ShortConv | None]:
    """A convolution without bias for each of queries, keys and values, of so many channels; None where `width` is 0.

    Raises:
        ValueError: the width, an option that is `conv_size` in every mixer, is negative.
    """
    at_least(0, conv_size=width)
    return [ShortConv(size, width=width, bias=False) if width else None for size in channels]


def initial_inputs(convs: Sequence[ShortConv | None], batch: int) -> ConvState:
    """What the convolutions remember before the first token."""
    inputs = [conv.initial_state(batch) for conv in convs if conv is not None]
    return ConvInputs(*inputs) if inputs else NoInputs()


def convolve(
    convs: Sequence[ShortConv | None], streams: Sequence[Tensor], past: ConvState | None
) -> tuple[Sequence[Tensor], ConvState]:
    """silu(conv(x)) of each stream, or the streams as they are without convolutions, and what is to be remembered.

    Args:
        convs: Those of `short_convs`.
        streams: Queries, keys and values, (b, t, channels) each.
        past: What the convolutions remember; None before the first token.

    Raises:
        ValueError: past is of convolutions of another width, or of none.
    """
    present = [conv for conv in convs if conv is not None]
    past = initial_inputs(convs, len(streams[0])) if past is None else past
    kept, own = [inputs.shape[1] for inputs in past], [conv.weight.shape[2] - 1 for conv in present]
    if kept != own:
        found = f"state holds {kept} inputs of short convolutions, and this mixer has {own}"
        raise UsageError(f"{found}: write a state that its own initial_state or extend returned.")
    if not present:
        return streams, NoInputs()
    pairs = [conv.extend(x, inputs) for conv, x, inputs in zip(present, streams, past, strict=True)]
    return [F.silu(y) for y, _ in pairs], ConvInputs(*(inputs for _, inputs in pairs))
