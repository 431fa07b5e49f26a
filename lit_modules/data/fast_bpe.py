"""Byte-level BPE by `tiktoken`: the ids that the `tokenizers` library gives, some ten times as fast."""

import json
from typing import Any

import numpy as np
import tiktoken
import tokenizers
from tokenizers.pre_tokenizers import ByteLevel

from lit_modules.data.regex_agreement import Agreement, is_common

BYTES = 256
# What the ByteLevel pre-tokenizer cuts by, with possessive repeats, which find the same words without backtracking.
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
PLAIN_BPE: dict[str, tuple[Any, ...]] = {  # the values with which a BPE model does nothing but merge
    "type": ("BPE",),
    "dropout": (None, 0),
    "unk_token": (None,),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (False,),
    "ignore_merges": (False,),
}


class FastBPE:
    """Encodes text that both libraries cut into the same words; see `fast_bpe`."""

    def __init__(self, ranks: dict[bytes, int], pattern: str) -> None:
        self._encoding = tiktoken.Encoding("bpe", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        self._agreement = Agreement(pattern)
        self._lengths = np.zeros(max(ranks.values()) + 1, np.int64)
        for token, number in ranks.items():
            self._lengths[number] = len(token)

    def encode(self, texts: list[str]) -> list[np.ndarray | None]:
        """The ids of each text, (tokens,); None where the libraries may cut it differently."""
        if self._agreement.covers("".join(texts)):
            return [self._encode(text) for text in texts]
        return [self._encode(text) if self._agreement.covers(text) else None for text in texts]

    def _encode(self, text: str) -> np.ndarray | None:
        ids = self._encoding.encode_to_numpy(text, disallowed_special=())
        # tiktoken leaves out what no alternative of the pattern matches.
        return ids if self._lengths[ids].sum() == len(text.encode()) else None


class ByteTable:
    """Encodes without merges: every byte has an id."""

    def __init__(self, ranks: dict[bytes, int]) -> None:
        self._table = np.array([ranks[bytes([byte])] for byte in range(BYTES)], np.uint32)

    def encode(self, texts: list[str]) -> list[np.ndarray | None]:
        """The ids of each text: (bytes,)."""
        return [self._table[np.frombuffer(text.encode(), np.uint8)] for text in texts]


def fast_bpe(tokenizer: tokenizers.Tokenizer) -> FastBPE | ByteTable | None:
    """A faster encoder with the same ids, None if the tokenizer is not of the kind that has one.

    tiktoken merges the pair whose result has the lowest id; the `tokenizers` library merges by a list of pairs. They
    do the same if each token has one pair, ids rise along the list, and each token, encoded alone, is itself.
    """
    found = json.loads(tokenizer.to_str())
    plain = all(found["model"].get(name, values[0]) in values for name, values in PLAIN_BPE.items())
    if not plain or found["normalizer"] is not None or not all(token["special"] for token in found["added_tokens"]):
        return None
    pattern, ranks = _pattern(found["pre_tokenizer"]), _ranks(found["model"])
    if pattern is None or ranks is None:
        return None
    if len(ranks) == BYTES:
        return ByteTable(ranks)
    if pattern == "" or any(_alone(tokenizer, name) != [number] for name, number in _by_name(ranks)):
        return None
    return FastBPE(ranks, pattern)


def _pattern(pre_tokenizer: dict[str, Any] | None) -> str | None:
    """The regular expression whose matches are the words; "" if a text is one word, None if there is no such thing."""
    match pre_tokenizer:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": uses_regex}:
            return GPT2_PATTERN if uses_regex else ""
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        } if is_common(pattern):
            return pattern
    return None


def _ranks(model: dict[str, Any]) -> dict[bytes, int] | None:
    """The id of each byte and each merge's result; None if two merges have one result, or ids are in another order."""
    vocabulary, last = model["vocab"], -1
    known = set(ByteLevel.alphabet())
    if not known <= vocabulary.keys():
        return None
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        number = vocabulary[left + right]
        if left + right in known or left not in known or right not in known or number <= last:
            return None
        known.add(left + right)
        last = number
    byte_of = byte_symbols()
    return {bytes(byte_of[symbol] for symbol in name): vocabulary[name] for name in known}


def byte_symbols() -> dict[str, int]:
    """The byte that each symbol of byte-level tokenizers stands for: visible Latin-1 characters for themselves."""
    symbols = set(ByteLevel.alphabet())
    others = iter(sorted(symbol for symbol in symbols if ord(symbol) >= BYTES))
    return {chr(byte) if chr(byte) in symbols else next(others): byte for byte in range(BYTES)}


def _by_name(ranks: dict[bytes, int]) -> list[tuple[str, int]]:
    symbol_of = {byte: symbol for symbol, byte in byte_symbols().items()}
    return [("".join(symbol_of[byte] for byte in token), number) for token, number in ranks.items()]


def _alone(tokenizer: tokenizers.Tokenizer, name: str) -> list[int]:
    return [token.id for token in tokenizer.model.tokenize(name)]
