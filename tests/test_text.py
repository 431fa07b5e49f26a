"""Text as data: its tokenizer, its numbers, and what a checkpoint of it holds."""

import inspect
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_text import WORDS, SaveWhen, first, held_out, text, trained

from lit_modules.data import bpe, tokenise
from lit_modules.data.datamodule import Text

pytestmark = pytest.mark.usefixtures("cache")


def test_a_checkpoint_holds_the_tokenizer_the_order_and_the_options(corpus: str, tmp_path: Path) -> None:
    trained(text(corpus), tmp_path, max_steps=4, callbacks=[SaveWhen("on_train_end", tmp_path / "x.ckpt")])
    checkpoint = torch.load(tmp_path / "x.ckpt", weights_only=True)
    state = checkpoint["Text"]
    assert {name: state[name] for name in ("samples_seen", "batches", "block_size", "bos", "seed")} == {
        "samples_seen": 16, "batches": 4, "block_size": 7, "bos": False, "seed": 0,
    }  # fmt: skip
    assert checkpoint["datamodule_hyper_parameters"]["corpus"] == corpus
    again = Text(corpus, tokenizer=str(tmp_path / "x.ckpt"))
    assert again.tokenizer == text(corpus).tokenizer


def test_isolated_documents_begin_with_the_end_of_the_one_before(corpus: str) -> None:
    assert text(corpus).start_token is None
    assert text(corpus, isolate_documents=True).start_token == 256


def test_all_options_but_those_that_number_tokens_may_change_on_resuming() -> None:
    assert set(inspect.signature(Text).parameters) - Text.changeable_options == {"tokenizer", "vocab_size"}


@pytest.mark.parametrize("change", [{"seed": 1}, {"block_size": 8}, {"bos": True}])
def test_another_order_starts_anew_and_says_so(corpus: str, change: dict, caplog: pytest.LogCaptureFixture) -> None:
    state = text(corpus).state_dict() | {"samples_seen": 8}
    changed = text(corpus, **change)
    with caplog.at_level(logging.INFO):
        changed.load_state_dict(state)
    assert changed.samples_seen == 0
    assert [record.message for record in caplog.records if next(iter(change)) in record.message]


def test_other_text_starts_anew_but_a_copy_goes_on(corpus: str, tmp_path: Path) -> None:
    state = text(corpus).state_dict() | {"samples_seen": 8}
    for name, content, seen in (("copy", Path(corpus).read_text(), 8), ("other", "other text\n" * 200, 0)):
        (tmp_path / f"{name}.txt").write_text(content, encoding="utf-8")
        data = text(str(tmp_path / f"{name}.txt"))
        data.load_state_dict(state)
        assert data.samples_seen == seen


def test_another_tokenizer_is_refused(corpus: str) -> None:
    state = text(corpus).state_dict()
    with pytest.raises(ValueError, match=r"tokenizer='bpe' .* is not the tokenizer this checkpoint was trained with"):
        text(corpus, tokenizer="bpe").load_state_dict(state)


def test_a_second_start_trains_and_tokenises_nothing(corpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = text(corpus, tokenizer="bpe", vocab_size=300)
    begun.prepare_data()

    def fail(*args: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(bpe, "train_bpe", fail)
    monkeypatch.setattr(tokenise, "_build", fail)
    again = text(corpus, tokenizer="bpe", vocab_size=300)
    again.prepare_data()
    again.setup("fit")
    assert torch.equal(first(again, 3), first(begun, 3))


def test_a_damaged_tokenizer_is_trained_again(corpus: str, cache: Path) -> None:
    begun = text(corpus, tokenizer="bpe", vocab_size=300).tokenizer
    (saved,) = cache.glob("tokenizers/*.json")
    saved.write_text(saved.read_text(encoding="utf-8")[:50], encoding="utf-8")
    assert text(corpus, tokenizer="bpe", vocab_size=300).tokenizer == begun


def test_a_bpe_is_trained_on_the_training_split_alone(tmp_path: Path) -> None:
    documents = ["aaaa\n"] * 9 + ["bbbb\n"]
    (tmp_path / "c.txt").write_text("<|endoftext|>\n".join(documents), encoding="utf-8")
    tokenizer = text(str(tmp_path / "c.txt"), tokenizer="bpe").tokenizer
    assert len(tokenizer.encode("aaaa")) < len(tokenizer.encode("bbbb")) == 4


def test_the_numbers_about_the_text_are_right(corpus: str) -> None:
    data = text(corpus)
    validation = sum(len(word.encode()) for word in held_out("validation"))
    assert (data.vocab_size, data.end) == (257, 256)
    assert data.token_file("validation").tokens == validation + 6
    test = sum(len(word.encode()) for word in held_out("test"))
    assert data.token_file("train").tokens == sum(len(word.encode()) for word in WORDS) - validation - test + 48
    assert data.bytes_per_token == validation / (validation + 6)


def test_validation_takes_no_more_tokens_than_asked_for(corpus: str) -> None:
    whole = torch.cat(list(text(corpus, val_tokens=None).val_dataloader()))
    some = torch.cat(list(text(corpus, val_tokens=30).val_dataloader()))
    assert len(some) == 4
    assert torch.equal(some, whole[:4])
    assert torch.equal(torch.cat(list(text(corpus).val_dataloader())), whole)


@pytest.mark.parametrize("change", ["text", "val_tokens", "block_size"])
def test_another_validation_text_is_said_to_be_one(corpus: str, caplog: pytest.LogCaptureFixture, change: str) -> None:
    state = text(corpus).state_dict()
    if change == "text":
        path = Path(corpus)
        path.write_text(path.read_text().replace(held_out("validation")[0], "other words\n"), encoding="utf-8")
    data = text(corpus, **({} if change == "text" else {change: 30}))
    with caplog.at_level(logging.INFO):
        data.load_state_dict(state)
    assert data.validation_digest != state["validation"]
    assert "The validation data is not the checkpoint's: val/loss cannot be compared" in caplog.text


def test_a_checkpoint_from_before_the_digest_of_the_validation_text_goes_on(corpus: str) -> None:
    state = text(corpus).state_dict() | {"samples_seen": 8}
    del state["validation"]
    data = text(corpus)
    data.load_state_dict(state)
    assert data.samples_seen == 8


def test_sotu_has_the_vocabulary_asked_for(cache: Path) -> None:
    data = Text()
    assert data.vocab_size == 8192
    assert 4.5 < data.bytes_per_token < 5
    assert first(data, 1).shape == (16, 257)
    assert {path.name for path in cache.iterdir()} == {"tokenizers", "tokens"}


def test_a_cache_folder_given_wins_over_the_environment(corpus: str, cache: Path, tmp_path: Path) -> None:
    text(corpus, cache_dir=str(tmp_path / "elsewhere")).prepare_data()
    assert (tmp_path / "elsewhere" / "tokens").is_dir()
    assert not cache.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 0}, "block_size=0 is too small: write 1 or more"),
        ({"batch_size": 0}, "batch_size=0 is too small: write 1 or more"),
        ({"val_tokens": 0}, "val_tokens=0 is too small: write 1 or more"),
        ({"val_tokens": 5}, "the validation split .* has 5 tokens, too few .* a larger data.val_tokens or max_tokens"),
        ({"seed": -1}, "seed=-1 is too small: write 0 or more"),
        ({"num_workers": -1}, "num_workers=-1 is too small: write 0 or more"),
        ({"tokenizer": "bpe", "vocab_size": 200}, "vocab_size=200 is too small for a byte-level BPE"),
        ({"block_size": 500}, r"the validation split of corpus='.*' has \d+ tokens, too few for .*block_size=500"),
        ({"block_size": 50_000}, r"the training split of corpus='.*' has \d+ tokens, too few for .*block_size=50000"),
    ],
)
def test_a_wrong_option_is_named_with_what_to_write(corpus: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        text(corpus, **options).setup("fit")


@pytest.mark.parametrize("loader", [Text.train_dataloader, Text.val_dataloader])
def test_a_batch_that_cannot_be_shared_equally_is_refused(corpus: str, loader: Callable[[Text], object]) -> None:
    with pytest.raises(ValueError, match="batch_size=4 cannot be shared equally by 3 processes: write a multiple of 3"):
        loader(text(corpus, 0, 3))
