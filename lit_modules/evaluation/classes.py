"""Where a loss comes from: by position in the block, by how often a token was there to learn, and by recall.

B blocks of N tokens.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from lit_modules.data.batches import Blocks
from lit_modules.evaluation.occurrences import TrainingCounts, pair_keys, repeated

PIECE = 2048  # tokens of about a piece: enough of them for an interval, each long enough to be nearly its own
MOST_PIECES = (
    16  # of a corpus, by class, so that files stay small and few pieces lack a class: of a long text longer ones
)
FREQUENCIES = [0, *(10**power for power in range(7))]  # where ranges of a token's count in the training text start
PAIR_FREQUENCIES = FREQUENCIES[:5]  # where those of a pair's count start
Class = tuple[str, list[str], np.ndarray]  # a kind of classes, their names, and the index of each token's, (B, N)


class ClassSum(NamedTuple):
    """The loss of the tokens of a class in a piece of a corpus."""

    kind: str
    name: str
    piece: int
    tokens: int
    nats: float


def class_sums(
    blocks: Blocks, nats: np.ndarray, counts: TrainingCounts | None, start_token: int | None
) -> list[ClassSum]:
    """The loss by class in each piece of a corpus; the classes of a kind add up to the piece. Empty ones are left out.

    Args:
        blocks: The blocks that are scored.
        nats: The loss of each token, (B, N).
        counts: Of the training text, with all pairs that are scored; None if they are not known.
        start_token: The id that begins a document for the model, None if it reads on from the one before.
    """
    found: dict[tuple[str, str], list[ClassSum]] = {}
    for piece, indices in enumerate(pieces(len(blocks), blocks.length, most=MOST_PIECES)):
        losses = nats[indices.start : indices.stop].ravel()
        for kind, names, index in classify(read_ids(blocks, indices), counts, start_token):
            tokens = np.bincount(index.ravel(), minlength=len(names)).tolist()
            sums = np.bincount(index.ravel(), losses, len(names)).tolist()
            for name, number, total in zip(names, tokens, sums, strict=True):
                of_class = found.setdefault((kind, name), [])
                of_class += [ClassSum(kind, name, piece, number, total)] * (number > 0)
    return [of_piece for of_class in found.values() for of_piece in of_class]


def classify(ids: np.ndarray, counts: TrainingCounts | None, start_token: int | None) -> Iterator[Class]:
    """Which class of each kind the tokens to predict are in.

    - position: ranges of the position in the block, from 1, ending at powers of two;
    - frequency: ranges of how often the token occurs in the training text;
    - recall: whether the token has followed the one before it earlier in the block (repeated) or not (new), and how
      often it does in the training text. Zoology's "AR hits" (arXiv:2312.04927, section 3) are the repeated ones that
      occur at most 1250 times in training on 10^10 tokens; one limit would not suit every text, so there are ranges.

    Args:
        ids: To read and to predict, (B, N + 1).
        counts: Of the training text; without them there is no frequency, and recall is new or repeated alone.
        start_token: The id that begins a document for the model, to which those before it are then not known.
    """
    blocks, length = len(ids), ids.shape[1] - 1
    starts = position_starts(length)
    yield "position", range_names(starts, length + 1), np.tile(_range_of(np.arange(length) + 1, starts), (blocks, 1))
    seen = repeated(ids, start_token)
    if counts is None:
        yield "recall", ["new", "repeated"], seen.astype(int)
        return
    yield "frequency", range_names(FREQUENCIES), _range_of(counts.of_tokens(ids[:, 1:]), FREQUENCIES)
    ranges = range_names(PAIR_FREQUENCIES)
    names = [f"{how} {name}" for how in ("new", "repeated") for name in ranges]
    yield "recall", names, len(ranges) * seen + _range_of(counts.of_pairs(pair_keys(ids)), PAIR_FREQUENCIES)


def scored_pairs(blocks: Blocks) -> np.ndarray:
    """The `pair_keys` of all pairs of neighbours in some blocks, ascending."""
    found = [np.unique(pair_keys(read_ids(blocks, indices))) for indices in pieces(len(blocks), blocks.length)]
    return np.unique(np.concatenate(found))


def read_ids(blocks: Blocks, indices: Iterable[int]) -> np.ndarray:
    """Some blocks, (B, N + 1)."""
    return np.stack([blocks[index].numpy() for index in indices])


def pieces(blocks: int, length: int, *, most: int | None = None) -> list[range]:
    """Consecutive blocks of about PIECE tokens, or more for `most` pieces; the last piece has those that are left."""
    each = max(1, round(PIECE / length), -(-blocks // most) if most else 1)
    return [range(start, min(start + each, blocks)) for start in range(0, blocks, each)]


def position_starts(length: int) -> list[int]:
    """Where ranges of the positions from 1 to `length` start that end at powers of two."""
    return [1, *(2**power + 1 for power in range((length - 1).bit_length()))]


def range_names(starts: Sequence[int], stop: int | None = None) -> list[str]:
    """Ranges in words, of which each stops before the next one starts, and the last before `stop`, if anywhere."""
    names = [f"{start} to {end - 1}" if end - start > 1 else f"{start}" for start, end in pairwise(starts)]
    return [*names, *range_names([starts[-1], stop])[:1]] if stop else [*names, f"{starts[-1]} or more"]


def _range_of(values: np.ndarray, starts: Sequence[int]) -> np.ndarray:
    """The index of the range that each value is in."""
    return np.searchsorted(starts, values, "right") - 1
