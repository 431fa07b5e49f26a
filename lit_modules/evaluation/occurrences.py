"""How often tokens and pairs of neighbours occur: in the training text, and earlier in their block."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from lit_modules.data.token_file import IDS, TokenFile

COUNTED = 16  # stretches of IDS tokens of a token file that are counted; of a longer one they are spread over it
ID_BITS = 24  # no id needs more


class TrainingCounts(NamedTuple):
    """How often tokens, and some pairs of neighbours, occur in the training text."""

    tokens: np.ndarray  # of each id
    keys: np.ndarray  # `pair_keys` of the pairs, ascending
    pairs: np.ndarray  # of each of these

    def of_tokens(self, ids: np.ndarray) -> np.ndarray:
        """How often each of some tokens occurs."""
        return self.tokens[ids]

    def of_pairs(self, keys: np.ndarray) -> np.ndarray:
        """How often each of some pairs occurs; all have to be among those counted."""
        return self.pairs[np.searchsorted(self.keys, keys)]


def count_training(files: Iterable[TokenFile], keys: np.ndarray, vocab_size: int) -> TrainingCounts:
    """Counts all tokens of some files, and the pairs of neighbours with these `pair_keys`, which ascend.

    Of a file of more than COUNTED * IDS tokens every second stretch of IDS tokens counts twice, or every third thrice
    and so on.
    """
    tokens, pairs = np.zeros(vocab_size, np.int64), np.zeros(len(keys), np.int64)
    for ids in (file.open() for file in files):
        starts = range(0, len(ids), IDS)
        every = -(-len(starts) // COUNTED)
        for start in starts[::every]:
            part = ids[start : start + IDS + 1]  # with the next token, for the pair that it ends
            tokens += every * np.bincount(part[:IDS], minlength=vocab_size)
            found = np.sort(pair_keys(part))
            pairs += every * (np.searchsorted(found, keys, "right") - np.searchsorted(found, keys))
    return TrainingCounts(tokens, keys, pairs)


def pair_keys(ids: np.ndarray) -> np.ndarray:
    """A number for each two neighbours: (..., tokens) to (..., tokens - 1), int64."""
    ids = ids.astype(np.int64)
    return ids[..., :-1] << ID_BITS | ids[..., 1:]


def repeated(ids: np.ndarray, start_token: int | None = None) -> np.ndarray:
    """Whether each token but the first follows the one before it as it did earlier in its row.

    Args:
        ids: (rows, tokens).
        start_token: The id that begins a document of a row, if only its own document counts.

    Returns:
        (rows, tokens - 1), bool.
    """
    keys = pair_keys(ids)
    if start_token is not None:
        keys += np.cumsum(ids[:, :-1] == start_token, axis=1) << 2 * ID_BITS
    order = np.argsort(keys, axis=1, kind="stable")
    keys = np.take_along_axis(keys, order, axis=1)
    found = np.zeros(keys.shape, bool)
    np.put_along_axis(found, order[:, 1:], keys[:, 1:] == keys[:, :-1], axis=1)
    return found
