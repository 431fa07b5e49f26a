"""Several corpora trained on together: their shares, their order, their tokenizer and their metrics."""

import logging
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from small_runs import model, trainer
from small_text import WORDS, SaveWhen, first, text, trained
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_modules.data.batches import mixed_samples, shuffled_batches
from lit_modules.data.datamodule import Text
from lit_modules.data.shares import Shares
from lit_modules.main import main

pytestmark = [pytest.mark.usefixtures("cache"), pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def mixture(tmp_path: Path) -> dict[str, float]:
    """Two corpora, of digits and of letters."""
    for name, line in (("digits", "0 {} 1\n"), ("letters", "word\n")):
        documents = [line.format(index) * (20 if name == "letters" else 10) + str(index) for index in range(60)]
        (tmp_path / f"{name}.txt").write_text("\n<|endoftext|>\n".join(documents), encoding="utf-8")
    return {str(tmp_path / "digits.txt"): 3.0, str(tmp_path / "letters.txt"): 1.0}


@pytest.mark.parametrize("weights", [[0.7, 0.3], [1], [1, 1, 1], [5, 0.001, 2.5, 1e-7], [1e-3, 1000]])
def test_any_beginning_of_the_order_has_the_proportions_of_the_weights(weights: list[float]) -> None:
    shares, counts = Shares(weights), Counter[int]()
    for sample in range(3000):
        source, own = shares.source_of(sample)
        assert own == counts[source]
        counts[source] += 1
        for index, weight in enumerate(weights):
            assert abs(counts[index] - (sample + 1) * weight / sum(weights)) < len(weights)


def test_every_epoch_of_each_source_has_all_of_its_blocks_in_the_order_that_it_has_alone() -> None:
    blocks, shares = [7, 50], Shares([0.5, 0.5])
    order = list(islice(mixed_samples(blocks, shares, seed=3, start=0), 200))
    for source, (low, high) in enumerate(((0, 7), (7, 57))):
        own = [index - low for index in order if low <= index < high]
        batches = shuffled_batches(blocks[source], seed=3, start=0, batch_size=1, rank=0, world_size=1)
        assert own == [index for [index] in islice(batches, 100)]
        assert sorted(own[: high - low]) == list(range(high - low))


@pytest.mark.parametrize("start", [0, 1, 13, 777])
def test_the_order_depends_on_the_seed_and_the_number_of_the_sample_alone(start: int) -> None:
    blocks, shares = [7, 50, 3], Shares([0.2, 0.5, 0.3])
    whole = list(islice(mixed_samples(blocks, shares, seed=3, start=0), start + 50))
    assert list(islice(mixed_samples(blocks, shares, seed=3, start=start), 50)) == whole[start:]
    assert list(islice(mixed_samples(blocks, shares, seed=4, start=0), 50)) != whole[:50]


@pytest.mark.parametrize("world_size", [2, 4])
def test_a_mixture_is_the_same_on_any_number_of_processes_and_workers(
    mixture: dict[str, float], world_size: int
) -> None:
    alone = first(text(mixture, batch_size=8), 20)
    shares = [first(text(mixture, rank, world_size, batch_size=8), 20) for rank in range(world_size)]
    batches = [torch.cat(parts) for parts in zip(*(share.split(8 // world_size) for share in shares), strict=True)]
    assert torch.equal(torch.cat(batches), alone)
    assert torch.equal(first(text(mixture, batch_size=8, num_workers=2), 20), alone)


def test_samples_come_from_each_corpus_by_its_weight(mixture: dict[str, float]) -> None:
    rows = first(text(mixture, block_size=20), 25)
    assert sum(ord("w") in row for row in rows) == 25


def test_a_mixture_goes_on_where_it_stopped(mixture: dict[str, float], tmp_path: Path) -> None:
    whole = first(text(mixture), 10)
    trained(text(mixture), tmp_path, max_steps=4, callbacks=[SaveWhen("on_train_end", tmp_path / "x.ckpt")])
    assert torch.equal(trained(text(mixture), tmp_path, ckpt_path=tmp_path / "x.ckpt", max_steps=10), whole[16:])
    options = torch.load(tmp_path / "x.ckpt", weights_only=True)["datamodule_hyper_parameters"]
    assert options["corpus"] == mixture


@pytest.mark.parametrize("change", ["weights", "content"])
def test_another_mixture_starts_anew_and_says_so(
    mixture: dict[str, float], caplog: pytest.LogCaptureFixture, change: str
) -> None:
    state = text(mixture).state_dict() | {"samples_seen": 8}
    changed = dict(mixture)
    if change == "weights":
        changed[next(iter(changed))] = 7.0
    else:
        path = Path(next(iter(changed)))
        path.write_text(path.read_text(encoding="utf-8").replace("0 ", "2 "), encoding="utf-8")
    data = text(changed)
    with caplog.at_level(logging.INFO):
        data.load_state_dict(state)
    assert data.samples_seen == 0
    assert f"starts anew, since these are not the checkpoint's: {change}" in caplog.text
    assert "The validation data is not the checkpoint's" in caplog.text


def test_equal_weights_of_another_sum_are_the_same_mixture(mixture: dict[str, float]) -> None:
    state = text(mixture).state_dict() | {"samples_seen": 8}
    data = text({name: 2 * weight for name, weight in mixture.items()})
    data.load_state_dict(state)
    assert data.samples_seen == 8


def test_the_tokenizer_is_trained_on_text_in_the_proportions_of_the_weights(tmp_path: Path) -> None:
    for name in "ab":
        documents = "\n".join(f'{{"text": "{name * 9} {index:06}"}}' for index in range(300))
        (tmp_path / f"{name}.jsonl").write_text(documents, encoding="utf-8")
    data = Text({str(tmp_path / "a.jsonl"): 0.9, str(tmp_path / "b.jsonl"): 0.1})
    documents = list(data.mixture.documents())
    shown = Counter(document[0] for document in documents)
    assert shown["a"] / shown["b"] == pytest.approx(9, rel=0.05)
    assert len(set(documents)) < len(documents)  # a small corpus with a large weight is repeated
    assert all(data.mixture.corpora[name].documents("train") for name in data.mixture.corpora)


def test_validation_and_test_have_a_number_for_each_corpus_beside_the_whole(
    mixture: dict[str, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = text(mixture, block_size=16)
    module, running = model(data), trainer(tmp_path, max_steps=4)
    running.fit(module, datamodule=data)
    metrics = {name: value.item() for name, value in running.callback_metrics.items()}
    [run] = (tmp_path / "runs").glob("*/version_0")
    logged = EventAccumulator(str(run)).Reload()
    for metric in ("loss", "bits_per_byte", "perplexity"):
        for name in mixture:
            assert logged.Scalars(f"val/{metric}/{name}")[-1].value == pytest.approx(metrics[f"val/{metric}/{name}"])
    digits, letters = (metrics[f"val/loss/{name}"] for name in mixture)
    assert metrics["val/loss"] == pytest.approx(0.75 * digits + 0.25 * letters, rel=1e-5)
    assert digits != letters
    capsys.readouterr()
    [result] = running.validate(module, datamodule=data)
    assert result["val/loss"] == pytest.approx(metrics["val/loss"], rel=1e-5)
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines() if ".txt" in line]
    assert rows == [next(iter(mixture)), *mixture]  # the first is the whole, whose name has both
    results = running.test(module, datamodule=data, contexts=[])
    assert len(results) == 2


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, r"corpus=\{\} names no corpus: write a weight for each, such as \{sotu: 0.7, code: 0.3\}"),
        ({"sotu": 0.0}, r"corpus=\{sotu: 0.0\} has no weight: write a positive number"),
        ({"sotu": -1}, r"corpus=\{sotu: -1\} has no weight"),
        ({"sotu": float("nan")}, r"corpus=\{sotu: nan\} has no weight"),
        ({"sotu": float("inf")}, r"corpus=\{sotu: inf\} has no weight"),
        ({"sotu": "much"}, r"corpus=\{sotu: much\} has no weight"),
        ({"sotu": True}, r"corpus=\{sotu: True\} has no weight"),
    ],
)
def test_a_weight_that_is_no_positive_number_is_refused(weights: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Text(weights)


def test_a_mixture_is_an_option_of_the_command_line(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("<|endoftext|>\n".join(WORDS * 5), encoding="utf-8")
    main([*words, "--data.corpus={corpus.txt: 0.7, other.txt: 0.3}", f"--trainer.default_root_dir={tmp_path / 'runs'}"])
    [config] = (tmp_path / "runs").glob("*/version_0/config.yaml")
    assert "corpus:\n    corpus.txt: 0.7\n    other.txt: 0.3\n" in config.read_text(encoding="utf-8")
    main(["fit", f"--trainer.default_root_dir={tmp_path / 'runs'}", "--ckpt_path=last", "--trainer.max_steps=6"])
