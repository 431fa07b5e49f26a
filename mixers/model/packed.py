"""Rows in which several documents follow each other, each mixed as if alone."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mixers.checks import UsageError
from mixers.mixer import Mixer


class Documents(NamedTuple):
    """Where the documents of a batch of rows are, in groups of about the same length."""

    groups: tuple[Tensor, ...]  # (documents, longest) each: the index of each token, batch · time behind a shorter one
    order: Tensor  # (batch · time,): the index of each token among those of the groups


def packed(mixer: Mixer[Any], x: Tensor, starts: Tensor) -> Tensor:
    """The outputs (batch, time, dim) of `mixer` for each document alone, put back in its place.

    Documents are padded on the right, which changes nothing before it since mixers are causal, and mixed together with
    others of about their length.

    Args:
        mixer: Mixes the documents.
        x: (batch, time, dim).
        starts: (batch, time), true where a document begins. The first token of a row always begins one.

    Raises:
        ValueError: `starts` is not a boolean for each token.
    """
    if starts.shape != x.shape[:2] or starts.dtype != torch.bool:
        raise UsageError(f"starts is {starts.dtype} {tuple(starts.shape)}; write torch.bool {tuple(x.shape[:2])}.")
    return mix_documents(mixer, x, find_documents(starts))


def find_documents(starts: Tensor) -> Documents:
    """The documents of rows in which they begin where `starts` (batch, time) is true, and at the first token."""
    begins = starts.cpu().clone()
    begins[:, :1] = True
    begin = begins.flatten().nonzero().squeeze(1)
    lengths = torch.diff(begin, append=begin.new_tensor([begins.numel()]))
    # Lengths within a group differ by less than a factor of two: at most half of it is padding.
    sizes = torch.tensor([length.bit_length() for length in lengths.tolist()], dtype=torch.long)
    groups = []
    for size in sizes.unique():
        first, length = begin[sizes == size, None], lengths[sizes == size, None]
        token = torch.arange(int(length.max()))
        groups.append(torch.where(token < length, first + token, begins.numel()))
    tokens = torch.cat([group.flatten() for group in groups] or [begin])
    order = tokens.argsort()[: begins.numel()]
    return Documents(tuple(group.to(starts.device) for group in groups), order.to(starts.device))


def mix_documents(mixer: Mixer[Any], x: Tensor, documents: Documents) -> Tensor:
    """`packed`, for documents that have been found."""
    if not documents.groups:
        return mixer(x)
    tokens = torch.cat([x.flatten(0, 1), x.new_zeros(1, x.shape[2])])
    mixed = [mixer(tokens.index_select(0, group.flatten()).view(*group.shape, -1)) for group in documents.groups]
    return torch.cat([y.flatten(0, 1) for y in mixed]).index_select(0, documents.order).view(x.shape)
