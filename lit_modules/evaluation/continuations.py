"""Log-likelihoods of continuations, many at a time."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from mixers import LanguageModel
from mixers.checks import UsageError
from mixers.model.loss import IGNORED

Pair = tuple[list[int], list[int]]  # a context of at least one token, and what follows it
PADDING = 0  # any id: what comes after a text changes nothing in it, and is not scored


class Likelihood(NamedTuple):
    """How likely a continuation is."""

    log: float  # log-likelihood in nats; higher is likelier
    greedy: bool  # whether each of its tokens is the likeliest


def likelihoods(model: LanguageModel, pairs: Sequence[Pair], *, batch_size: int) -> list[Likelihood]:
    """How likely the second tokens of each pair are after the first; raises ValueError for an empty context.

    Rows are padded at their ends, where causal mixers do not look: a pair scores the same alone and in any batch. Long
    pairs are scored first, with others of about their length, `batch_size` at once.
    """
    if any(not context for context, _ in pairs):
        raise UsageError("a context must have at least one token: give the end-of-text token for none.")
    order = sorted(range(len(pairs)), key=lambda index: -sum(map(len, pairs[index])))
    found: dict[int, Likelihood] = {}
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        found |= zip(indices, _batch(model, [pairs[index] for index in indices]), strict=True)
    return [found[index] for index in range(len(pairs))]


def _batch(model: LanguageModel, pairs: Sequence[Pair]) -> list[Likelihood]:
    device = next(model.parameters()).device
    rows = [torch.tensor([*context, *continuation]) for context, continuation in pairs]
    ids = pad_sequence([row[:-1] for row in rows], batch_first=True, padding_value=PADDING)
    targets = pad_sequence([row[1:] for row in rows], batch_first=True, padding_value=IGNORED)
    for row, (context, _) in zip(targets, pairs, strict=True):
        row[: len(context) - 1] = IGNORED
    nats, likeliest = model.scores(ids.to(device), targets.to(device))
    logs = nats.double().sum(1).neg().tolist()
    greedy = (likeliest.cpu() | (targets == IGNORED)).all(1).tolist()
    return [Likelihood(*pair) for pair in zip(logs, greedy, strict=True)]
