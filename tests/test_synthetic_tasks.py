"""Each synthetic task against what its paper says of it, and against examples that the authors' generators made."""

from collections.abc import Iterator
from itertools import permutations

import numpy as np
import pytest

from lit_modules.data.synthetic.arithmetic import ModularArithmetic
from lit_modules.data.synthetic.copying import InductionHeads, SelectiveCopying
from lit_modules.data.synthetic.groups import GroupWords, group_table
from lit_modules.data.synthetic.mad_fuzzy import FuzzyRecall, fuzzy_recall
from lit_modules.data.synthetic.mad_memory import Compression, Memorization, memorized
from lit_modules.data.synthetic.mad_recall import InContextRecall, NoisyRecall, recall
from lit_modules.data.synthetic.mqar import MQAR, mqar
from lit_modules.data.synthetic.parts import Part
from lit_modules.data.synthetic.state_tracking import Parity
from mixers.checks import UsageError
from mixers.model.loss import IGNORED

NO = IGNORED
SMALL = {"examples": 50, "val_examples": 30, "test_examples": 1, "batch_size": 10}


def rows(part: Part) -> Iterator[tuple[list[int], list[int]]]:
    """The examples of a part, as lists."""
    return zip(part.inputs.tolist(), part.targets.tolist(), strict=True)


def test_mqar_is_what_zoology_makes_with_the_same_seed():
    # multiquery_ar(vocab_size=20, num_examples=3, input_seq_len=12, seed=0, num_kv_pairs=2), after torch.manual_seed(0)
    made = mqar(examples=3, length=12, num_kv_pairs=2, vocab_size=20, seed=0)
    assert made.inputs.tolist() == [
        [8, 15, 3, 11, 8, 19, 3, 3, 17, 3, 1, 6],
        [4, 15, 2, 12, 4, 8, 14, 13, 6, 19, 2, 14],
        [6, 11, 3, 18, 6, 0, 3, 12, 3, 0, 15, 5],
    ]
    assert made.targets.tolist() == [
        [NO, NO, NO, NO, 15, NO, 11, NO, NO, NO, NO, NO],
        [NO, NO, NO, NO, 15, NO, NO, NO, NO, NO, 12, NO],
        [NO, NO, NO, NO, 11, NO, 18, NO, NO, NO, NO, NO],
    ]
    plain = mqar(examples=3, length=12, num_kv_pairs=2, vocab_size=20, seed=0, random_non_queries=False)
    assert plain.inputs[0].tolist() == [8, 15, 3, 11, 8, 0, 3, 0, 0, 0, 0, 0]


def test_mqar_asks_at_each_key_once_more_for_its_value():
    data = MQAR(**SMALL, vocab_size=64, length=32, num_kv_pairs=5, random_non_queries=False)
    for read, asked in rows(data.parts("train")[0]):
        value_of = dict(zip(read[0:10:2], read[1:10:2], strict=True))
        assert len(value_of) == len(set(value_of.values())) == 5
        assert {key < 32 <= value for key, value in value_of.items()} == {True}
        found = {key: answer for key, answer in zip(read[10:], asked[10:], strict=True) if answer != NO}
        assert found == value_of
        assert sum(answer != NO for answer in asked) == 5


def test_mqar_has_short_gaps_before_most_queries_and_with_power_1_any():
    def mean_gap(power: float) -> float:
        made = mqar(examples=300, length=64, num_kv_pairs=1, vocab_size=64, seed=0, power=power)
        return float((made.targets != NO).argmax(1).mean() - 2) / 2

    assert mean_gap(0.01) < 10
    assert mean_gap(1.0) == pytest.approx(15, abs=2)


def test_in_context_recall_is_what_mad_makes_from_the_same_random_numbers():
    # generate_in_context_recall_instance(8, 12, is_training=False, multi_query=True, noise_vocab_size=0)
    read, asked = recall(np.random.default_rng(0), ids=8, length=12, noise_ids=0, noise=0, training=False)
    assert read.tolist() == [2, 6, 1, 5, 0, 4, 0, 4, 0, 4, 0]
    assert asked.tolist() == [NO, NO, NO, NO, NO, NO, 4, NO, 4, NO, 4]
    # the same with noise_vocab_size=4, frac_noise=0.5
    read, asked = recall(np.random.default_rng(0), ids=4, length=12, noise_ids=4, noise=0.5, training=False)
    assert read.tolist() == [6, 5, 4, 4, 1, 3, 1, 3, 1, 3, 1]
    assert asked.tolist() == [NO, NO, NO, NO, NO, NO, 3, NO, 3, NO, 3]


@pytest.mark.parametrize("task", [InContextRecall, NoisyRecall])
def test_recall_asks_in_the_end_for_values_of_keys_seen_before_and_in_training_for_every_next_id(task):
    data, half = task(**SMALL, length=40), 8
    for read, asked in rows(data.parts("train")[0]):
        assert read[1:] == asked[:-1]
    for read, asked in rows(data.parts("validation")[0]):
        value_of: dict[int, int] = {}
        for key, value, answer in zip(read[0::2], [*read[1::2], None], asked[0::2], strict=True):
            assert answer == (NO if key >= 2 * half else value_of.get(key, NO))
            if value is not None and key < half:
                assert value_of.setdefault(key, value) == value
        assert set(asked[1::2]) == {NO}
        assert asked[-1] != NO


def test_a_fifth_of_the_pairs_is_noise():
    keys = NoisyRecall(**{**SMALL, "examples": 500}).parts("train")[0].inputs[:, 0::2]
    assert np.mean(keys >= 16) == pytest.approx(0.2, abs=0.01)


def test_fuzzy_recall_is_what_mad_makes_from_the_same_random_numbers():
    # generate_fuzzy_in_context_recall_instance(8, 24, 2, 2, is_training, multi_query=True)
    keys = {size: list(permutations(range(3), size)) for size in (1, 2)}
    values = {size: list(permutations(range(3, 7), size)) for size in (1, 2)}
    draw = np.random.default_rng(0)
    read, asked = fuzzy_recall(draw, keys, values, 24, training=True)
    assert read.tolist() == [7, 7, 7, 2, 1, 3, 0, 4, 2, 6, 2, 0, 5, 6, 1, 0, 3, 4, 0, 1, 5, 3, 2, 1]
    assert asked.tolist() == [*read.tolist()[1:], 3]
    read, asked = fuzzy_recall(draw, {2: keys[2]}, values, 24, training=False)
    assert read.tolist() == [7, 7, 7, 0, 1, 4, 5, 2, 1, 5, 6, 1, 0, 5, 1, 0, 5, 0, 1, 4, 5, 0, 1, 4]
    assert asked.tolist() == [NO] * 15 + [5, NO, NO, 4, 5, NO, NO, 4, 5]


def test_fuzzy_recall_asks_in_the_end_for_the_values_of_keys_of_three_ids():
    for read, asked in rows(FuzzyRecall(**SMALL, length=60).parts("validation")[0]):
        ids, answers = (read[read.count(15) :], asked[read.count(15) :])
        value_of: dict[tuple[int, ...], list[int]] = {}
        while ids:
            key, ids, answers = tuple(ids[:3]), ids[3:], answers[2:]
            size = next((place for place, one in enumerate(ids) if one < 7), len(ids))
            assert max(key) < 7 <= min(ids[:size], default=7)
            known = value_of.setdefault(key, ids[:size])
            assert known[:size] == ids[:size]
            if any(answer != NO for answer in answers[:size]):
                assert answers[: len(known)] == known
            ids, answers = ids[size:], answers[size + 1 :]
        assert asked[-1] != NO


def test_memorization_asks_after_each_key_for_its_value_which_is_always_the_same():
    keys, values = memorized(256, seed=12345)
    assert (keys[:3].tolist(), values[:3].tolist()) == (
        [120, 0, 101],
        [175, 239, 249],
    )  # as generate_kv_map(255) begins
    value_of = dict(zip(keys.tolist(), values.tolist(), strict=True))
    assert sorted(value_of) == list(range(127))
    data = Memorization(**SMALL)
    for split in ("train", "validation"):
        for read, asked in rows(data.parts(split)[0]):
            assert set(read[1::2]) == {255}
            assert asked[1::2] == [value_of[key] for key in read[0::2]]
            assert set(asked[0::2]) == {NO}


def test_compression_asks_for_all_ids_in_their_order():
    for read, asked in rows(Compression(**SMALL, length=9).parts("train")[0]):
        assert read[8:] == [15] * 8
        assert asked == [NO] * 8 + read[:8]


@pytest.mark.parametrize("uniform", [True, False])
def test_selective_copying_asks_for_the_ids_that_are_no_blanks_in_their_order(uniform):
    data = SelectiveCopying(**SMALL, length=[40, 9], num_tokens=4, uniform=uniform)
    for length, part in zip([40, 9], data.parts("train"), strict=True):
        for read, asked in rows(part):
            assert read[length - 5 :] == [15, 14, 14, 14, 14]
            assert asked == [NO] * (length - 4) + [token for token in read[: length - 5] if token != 14]
    last = data.parts("train")[0].inputs[:, 34]  # before the question
    assert (last == 14).any() == uniform


def test_induction_heads_ask_for_the_id_that_followed_the_special_one():
    for read, asked in rows(InductionHeads(**SMALL, length=12).parts("train")[0]):
        assert read.count(15) == 2
        assert read[-1] == 15
        assert asked == [NO] * 11 + [read[read.index(15) + 1]]


def test_parity_asks_at_the_end_whether_the_number_of_ones_is_odd():
    data = Parity(**SMALL, length=9, test_length=[12, 20])
    sizes = set()
    for read, asked in rows(data.parts("train")[0]):
        size = sum(one > 0 for one in read)
        assert read[size:] == [0] * (9 - size)
        assert asked == [NO] * (size - 1) + [1 + read.count(2) % 2] + [NO] * (9 - size)
        sizes.add(size)
    assert sizes == set(range(3, 10))
    assert [set(map(np.count_nonzero, part.inputs)) for part in data.parts("validation")] == [{12}, {20}]


@pytest.mark.parametrize("brackets", [True, False])
@pytest.mark.parametrize("operators", ["+-*", "+-"])
def test_modular_arithmetic_asks_at_the_equals_sign_for_what_python_computes(brackets, operators):
    data = ModularArithmetic(**SMALL, brackets=brackets, operators=operators, length=20, test_length=[16, 32])
    names, seen = ["0", "1", "2", "3", "4", *data.symbols], set()
    assert data.vocab_size == (12 if brackets else 10)
    for part in (*data.parts("train"), *data.parts("validation")):
        for read, asked in rows(part):
            size = sum(one != data.vocab_size - 1 for one in read)
            text = "".join(names[one] for one in read[:size])
            assert asked == [NO] * (size - 1) + [eval(text.removesuffix("=")) % 5] + [NO] * (len(read) - size)
            seen |= set(text)
            if part.block_size > 20 or not brackets:
                assert size % 2 == 0
    assert seen == set("01234=" + operators + "()-" * brackets)
    assert {np.count_nonzero(row != data.vocab_size - 1) for row in data.parts("validation")[1].inputs} == {32}


@pytest.mark.parametrize(
    ("group", "elements", "commutes"),
    [("S3", 6, False), ("A4", 12, False), ("A5", 60, False), ("S5", 120, False), ("Z7", 7, True), ("A4xZ5", 60, False)],
)
def test_the_tables_are_of_groups(group, elements, commutes):
    table = group_table(group)
    numbers = np.arange(elements)
    assert table.shape == (elements, elements)
    assert np.array_equal(table[0], numbers)
    assert np.array_equal(table[:, 0], numbers)
    assert all(np.array_equal(np.sort(row), numbers) for row in (*table, *table.T))
    assert np.array_equal(table[table[:8, :8]], table[numbers[:8, None, None], table[None, :8]])
    assert np.array_equal(table, table.T) == commutes


def test_the_product_of_permutations_applies_the_second_first():
    elements = list(permutations(range(3)))
    for a, first in enumerate(elements):
        for b, second in enumerate(elements):
            assert elements[group_table("S3")[a, b]] == tuple(first[second[i]] for i in range(3))


def test_group_words_ask_at_every_position_for_the_product_so_far():
    data = GroupWords(**SMALL, group="A4", length=17, test_length=30)
    table = group_table("A4")
    for read, asked in rows(data.parts("train")[0]):
        product = 0
        for element, answer in zip(read, asked, strict=True):
            product = table[product, element]
            assert answer == product


@pytest.mark.parametrize("group", ["", "S", "S0", "D4", "S3x", "S9", "Z2000", "A5xA5"])
def test_a_group_that_is_none_or_too_large_is_refused(group):
    with pytest.raises(UsageError, match="group"):
        GroupWords(group=group)


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        (InContextRecall, {"length": 7}, "length=7"),
        (InContextRecall, {"vocab_size": 3}, "vocab_size=3"),
        (NoisyRecall, {"noise": 1.5}, "noise=1.5"),
        (NoisyRecall, {"noise_ids": 30}, "vocab_size=32"),
        (FuzzyRecall, {"motif": 8}, "motif=8"),
        (FuzzyRecall, {"length": 18}, "length=18"),
        (Memorization, {"length": 3}, "length=3"),
        (Compression, {"vocab_size": 1}, "vocab_size=1"),
        (SelectiveCopying, {"length": 30}, "length=30"),
        (InductionHeads, {"length": 2}, "length=2"),
        (Parity, {"length": 2}, "length=2"),
        (Parity, {"min_length": 0}, "min_length=0"),
        (ModularArithmetic, {"operators": "+/"}, "operators='+/'"),
        (ModularArithmetic, {"modulus": 1}, "modulus=1"),
        (GroupWords, {"length": 0}, "length=0"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_options_without_examples_are_refused_in_a_sentence(task, options, said):
    with pytest.raises(UsageError, match=said.replace("+", "[+]")):
        task(**options)
