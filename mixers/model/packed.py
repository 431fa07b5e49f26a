"""Rows in which several documents follow each other, each mixed as if alone."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mixers.checks import UsageError
from mixers.mixer import Mixer


def packed(mixer: Mixer[Any], x: Tensor, starts: Tensor) -> Tensor:
    """What `mixer` makes of each document alone, put back in its place.

    Works for every mixer, since mixers are causal: documents are gathered, filled up on the right, where filling
    changes nothing before it, and mixed together with others of about their length.

    Args:
        mixer: Mixes the documents.
        x: (batch, time, dim).
        starts: (batch, time), true where a document begins. The first token of a row always begins one.

    Returns:
        (batch, time, dim).

    Raises:
        ValueError: `starts` is not a boolean for each token.
    """
    if starts.shape != x.shape[:2] or starts.dtype != torch.bool:
        raise UsageError(f"starts is {starts.dtype} {tuple(starts.shape)}; write torch.bool {tuple(x.shape[:2])}.")
    starts = starts.clone()
    starts[:, 0] = True
    begin = starts.flatten().nonzero().squeeze(1)
    lengths = torch.diff(begin, append=begin.new_tensor([starts.numel()])).tolist()
    documents = x.flatten(0, 1).split(lengths)
    mixed: list[Tensor | None] = [None] * len(documents)
    for alike in _by_length(lengths):
        padded = pad_sequence([documents[i] for i in alike], batch_first=True)
        for i, y in zip(alike, mixer(padded), strict=True):
            mixed[i] = y[: lengths[i]]
    return torch.cat([y for y in mixed if y is not None]).view_as(x)


def _by_length(lengths: list[int]) -> list[list[int]]:
    """Indices in groups whose lengths differ by less than a factor of two: at most half of a batch is filling."""
    groups: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        groups.setdefault(length.bit_length(), []).append(i)
    return list(groups.values())
