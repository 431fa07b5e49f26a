import inspect
import logging
import pickle
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import tokenizers
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from lit_modules.data import prepared, token_file
from lit_modules.data.batches import sequential_batches
from lit_modules.data.datamodule import Text
from lit_modules.data.tokenizer import Tokenizer, bytes_tokenizer, train_bpe
from mixers.checks import UsageError

WORDS = [f"document {index} says {'so ' * (index % 7)}\n" for index in range(60)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIT_MIXERS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    (tmp_path / "corpus.txt").write_text("<|endoftext|>\n".join(WORDS), encoding="utf-8")
    return str(tmp_path / "corpus.txt")


def text(corpus: str | list[str], rank: int = 0, world_size: int = 1, **options) -> Text:
    """Byte data for one process of several, as a trainer would set it up."""
    data = Text(corpus, **({"tokenizer": "bytes", "block_size": 7, "batch_size": 4} | options))
    if world_size > 1:
        progress = SimpleNamespace(total=SimpleNamespace(processed=0))
        data.trainer = SimpleNamespace(  # type: ignore[assignment]
            global_rank=rank,
            world_size=world_size,
            overfit_batches=0,
            state=SimpleNamespace(fn=None),
            fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
        )
    return data


def first(data: Text, batches: int) -> Tensor:
    """The first sequences of the training order: (batches * batch, block_size + 1)."""
    return torch.cat(list(islice(data.train_dataloader(), batches)))


def test_blocks_are_the_token_file_cut_without_overlap(corpus: str) -> None:
    data = text(corpus)
    tokens = torch.tensor([token for batch in data.val_dataloader() for row in batch for token in row[:-1].tolist()])
    validation = [token for word in WORDS[9::10] for token in [*word.encode(), data.end]]
    assert tokens.tolist() == validation[: (len(validation) - 1) // 7 * 7]


def test_the_last_token_of_a_block_is_the_first_of_the_next(corpus: str) -> None:
    blocks = torch.cat(list(text(corpus).val_dataloader()))
    assert blocks.dtype == torch.int64
    assert blocks.shape[1] == 8
    assert torch.equal(blocks[:-1, -1], blocks[1:, 0])


def test_bos_puts_an_end_before_every_block(corpus: str) -> None:
    data = text(corpus, bos=True)
    blocks = torch.cat(list(data.val_dataloader()))
    assert (blocks[:, 0] == data.end).all()
    validation = [token for word in WORDS[9::10] for token in [*word.encode(), data.end]]
    assert blocks[:, 1:].flatten().tolist() == validation[: len(validation) // 7 * 7]


def test_an_epoch_shows_every_block_once_in_an_order_of_its_own(corpus: str) -> None:
    data = text(corpus, batch_size=1)
    blocks = (data.token_file("train").tokens - 1) // 7
    order = [tuple(row.tolist()) for row in first(data, 2 * blocks)]
    assert sorted(order[:blocks]) == sorted(order[blocks:])
    assert order[:blocks] != order[blocks:]
    assert order[:blocks] != [tuple(row.tolist()) for row in first(text(corpus, batch_size=1, seed=1), blocks)]


def test_a_batch_may_straddle_the_end_of_an_epoch(corpus: str) -> None:
    single, batched = text(corpus, batch_size=1), text(corpus, batch_size=5)
    blocks = (single.token_file("train").tokens - 1) // 7
    assert blocks % 5
    assert torch.equal(first(batched, blocks // 5 + 3), first(single, (blocks // 5 + 3) * 5))


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_training_order_is_the_same_on_any_number_of_processes(corpus: str, world_size: int) -> None:
    alone = first(text(corpus, batch_size=8), 30)
    shares = [first(text(corpus, rank, world_size, batch_size=8), 30) for rank in range(world_size)]
    batches = [torch.cat(parts) for parts in zip(*(share.split(8 // world_size) for share in shares), strict=True)]
    assert torch.equal(torch.cat(batches), alone)


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_validation_split_without_gap_or_overlap(corpus: str, world_size: int) -> None:
    alone = torch.cat(list(text(corpus).val_dataloader()))
    shares = [torch.cat(list(text(corpus, rank, world_size).val_dataloader())) for rank in range(world_size)]
    assert sum(map(len, shares)) == len(alone)
    for rank, share in enumerate(shares):
        assert torch.equal(share, alone[rank::world_size])


@pytest.mark.parametrize("blocks", [4, 5, 8, 9, 10, 15, 16, 17, 18, 31])
@pytest.mark.parametrize("batch_size", [4, 8, 12])
def test_every_process_has_as_many_validation_batches_as_the_others(blocks: int, batch_size: int) -> None:
    shares = [sequential_batches(blocks, batch_size=batch_size, rank=rank, world_size=4) for rank in range(4)]
    assert len(set(map(len, shares))) == 1
    assert sorted(index for share in shares for batch in share for index in batch) == list(range(blocks))
    assert max(len(batch) for share in shares for batch in share) <= batch_size // 4 + 1


def test_a_worker_is_told_where_the_tokens_are_instead_of_given_them(corpus: str) -> None:
    loader = text(corpus).train_dataloader()
    expected = next(iter(loader))
    sent = pickle.dumps(loader.blocks)
    assert len(sent) < text(corpus).token_file("train").tokens
    number = next(iter(loader.batches()))[0]
    assert torch.equal(pickle.loads(sent)[number], expected[0])


def test_data_can_be_sent_to_another_process(corpus: str) -> None:
    data = text(corpus, tokenizer="bpe", vocab_size=300)
    data.prepare_data()
    assert torch.equal(first(pickle.loads(pickle.dumps(data)), 2), first(data, 2))


def test_the_validation_loader_knows_its_length(corpus: str) -> None:
    loader = text(corpus).val_dataloader()
    assert len(loader) == len(list(loader)) > 1
    assert not hasattr(text(corpus).train_dataloader(), "__len__")


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_do_not_change_the_stream(corpus: str, num_workers: int) -> None:
    assert torch.equal(first(text(corpus, num_workers=num_workers), 50), first(text(corpus), 50))


@pytest.mark.parametrize("seen", [0, 4, 101, 1000])
@pytest.mark.parametrize("batch_size", [4, 6])
def test_the_order_goes_on_from_any_sample(corpus: str, seen: int, batch_size: int) -> None:
    whole = first(text(corpus, batch_size=1), seen + 12)
    resumed = text(corpus, batch_size=batch_size)
    resumed.load_state_dict(text(corpus).state_dict() | {"samples_seen": seen})
    assert resumed.samples_seen == seen
    assert torch.equal(first(resumed, 12 // batch_size), whole[seen:])


class Recorder(LightningModule):
    """A model that keeps what it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches: list[Tensor] = []

    def training_step(self, batch: Tensor) -> Tensor:
        self.batches.append(batch.cpu())
        return self.weight * batch.sum()

    def validation_step(self, batch: Tensor) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-9)


def trained(data: Text, folder: Path, *, ckpt_path: Path | None = None, **options) -> Tensor:
    """The sequences that a trainer shows a model: (samples, block_size + 1)."""
    quiet = {
        "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
        "enable_checkpointing": "callbacks" in options, "limit_val_batches": 2, "default_root_dir": folder,
    }  # fmt: skip
    model = Recorder()
    Trainer(**quiet | options).fit(model, datamodule=data, ckpt_path=ckpt_path)
    return torch.cat(model.batches)


class SaveWhen(Callback):
    """Saves in the named hook once four batches are done."""

    def __init__(self, hook: str, path: Path) -> None:
        def save(trainer: Trainer, *rest: object) -> None:
            if trainer.fit_loop.epoch_loop.batch_progress.total.ready == 4:  # type: ignore[attr-defined]
                trainer.save_checkpoint(path)

        setattr(self, hook, save)


class FailInTheFifthBatch(Callback):
    def on_before_optimizer_step(self, trainer: Trainer, *rest: object) -> None:
        if trainer.global_step == 4:
            raise RuntimeError("failed")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_end", "on_train_end", "on_train_epoch_end"])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_run_resumed_from_any_save_goes_on_as_if_it_had_not_stopped(
    corpus: str, tmp_path: Path, hook: str, num_workers: int
) -> None:
    pace = {"limit_train_batches": 4} if "epoch" in hook else {"val_check_interval": 4, "check_val_every_n_epoch": None}
    whole = trained(text(corpus), tmp_path, max_steps=10)
    trained(text(corpus), tmp_path, max_steps=4, callbacks=[SaveWhen(hook, tmp_path / "x.ckpt")], **pace)
    data = text(corpus, num_workers=num_workers)
    resumed = trained(data, tmp_path, ckpt_path=tmp_path / "x.ckpt", max_steps=10, **pace)
    assert torch.equal(resumed, whole[16:])
    assert data.samples_seen == 40


@pytest.mark.filterwarnings("ignore")
def test_a_batch_that_failed_is_shown_again(corpus: str, tmp_path: Path) -> None:
    whole = first(text(corpus), 10)
    saving = ModelCheckpoint(tmp_path, "x", save_on_exception=True, every_n_train_steps=100)
    with pytest.raises(RuntimeError, match="failed"):
        trained(text(corpus), tmp_path, max_steps=10, callbacks=[FailInTheFifthBatch(), saving])
    (saved,) = tmp_path.glob("*.ckpt")
    assert torch.equal(trained(text(corpus), tmp_path, ckpt_path=saved, max_steps=10), whole[16:])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{"limit_train_batches": 3}, {"accumulate_grad_batches": 2}])
def test_short_epochs_and_accumulation_leave_the_order_alone(corpus: str, tmp_path: Path, options: dict) -> None:
    shown = trained(text(corpus), tmp_path, max_steps=8, max_epochs=-1, **options)
    assert torch.equal(shown, first(text(corpus), len(shown) // 4))


@pytest.mark.filterwarnings("ignore")
def test_a_run_can_be_resumed_with_another_batch_size_and_twice(corpus: str, tmp_path: Path) -> None:
    whole = first(text(corpus, batch_size=1), 4 * 4 + 3 * 6 + 2 * 4)
    for name, previous, batch_size, steps in (("a", None, 4, 4), ("b", "a", 6, 7), ("c", "b", 4, 9)):
        callbacks: list[Callback] = [ModelCheckpoint(tmp_path, name, save_last=False, every_n_train_steps=steps)]
        ckpt = tmp_path / f"{previous}.ckpt" if previous else None
        shown = trained(
            text(corpus, batch_size=batch_size), tmp_path, ckpt_path=ckpt, max_steps=steps, callbacks=callbacks
        )
        assert torch.equal(shown, whole[: len(shown)])
        whole = whole[len(shown) :]
    assert not len(whole)


@pytest.mark.filterwarnings("ignore")
def test_a_new_trainer_begins_at_the_first_sample_whatever_was_resumed_before(corpus: str, tmp_path: Path) -> None:
    trained(text(corpus), tmp_path, max_steps=4, callbacks=[SaveWhen("on_train_end", tmp_path / "x.ckpt")])
    data = text(corpus, batch_size=6)
    resumed = trained(data, tmp_path, ckpt_path=tmp_path / "x.ckpt", max_steps=5)
    assert torch.equal(trained(data, tmp_path, max_steps=4)[16:22], resumed)


@pytest.mark.filterwarnings("ignore")
def test_overfitting_shows_the_same_batches_in_every_epoch(corpus: str, tmp_path: Path) -> None:
    shown = trained(text(corpus), tmp_path, overfit_batches=2, max_epochs=3)
    assert torch.equal(shown, first(text(corpus), 2).repeat(3, 1))


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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("given", [bytes_tokenizer(), tokenizers.Tokenizer.from_str(bytes_tokenizer().to_json())])
def test_documents_and_a_tokenizer_given_as_objects_are_trained_on_and_resumed(
    given: Tokenizer | tokenizers.Tokenizer, corpus: str, tmp_path: Path
) -> None:
    def objects() -> Text:
        return text(list(WORDS), tokenizer=given)

    whole = first(objects(), 10)
    assert torch.equal(whole, first(text(corpus), 10))
    trained(objects(), tmp_path, max_steps=4, callbacks=[SaveWhen("on_train_end", tmp_path / "x.ckpt")])
    assert torch.equal(trained(objects(), tmp_path, ckpt_path=tmp_path / "x.ckpt", max_steps=10), whole[16:])
    options = torch.load(tmp_path / "x.ckpt", weights_only=True)["datamodule_hyper_parameters"]
    assert (options["corpus"], options["tokenizer"]) == ("60 given documents", "given")
    assert Text(list(WORDS), tokenizer=str(tmp_path / "x.ckpt")).tokenizer == text(corpus).tokenizer


def test_other_documents_given_start_anew_and_another_tokenizer_is_refused() -> None:
    state = text(list(WORDS)).state_dict() | {"samples_seen": 8}
    for documents, seen in ((WORDS, 8), (["other text\n" * 200], 0)):
        data = text(list(documents))
        data.load_state_dict(state)
        assert data.samples_seen == seen
    with pytest.raises(UsageError, match=r"tokenizer='given' .* is not the tokenizer this checkpoint was trained with"):
        text(list(WORDS), tokenizer=train_bpe(WORDS, 300)).load_state_dict(state)


def test_a_tokenizer_given_keeps_its_own_settings() -> None:
    raw = tokenizers.Tokenizer.from_str(bytes_tokenizer().to_json())
    raw.enable_truncation(3)
    assert text(list(WORDS), tokenizer=raw).token_file("validation").tokens > 3 * 6
    assert raw.truncation["max_length"] == 3


@pytest.mark.parametrize(
    ("documents", "message"),
    [([1, "text"], r"corpus\[0\] is a int: give documents as strings"), ([], "corpus='0 given documents' has no text")],
)
def test_a_list_that_is_no_documents_is_refused(documents: list, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        text(documents).setup("fit")


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

    monkeypatch.setattr(prepared, "train_bpe", fail)
    monkeypatch.setattr(token_file, "_write", fail)
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
    validation = sum(len(word.encode()) for word in WORDS[9::10])
    assert (data.vocab_size, data.end) == (257, 256)
    assert data.token_file("validation").tokens == validation + 6
    test = sum(len(word.encode()) for word in WORDS[4::10])
    assert data.token_file("train").tokens == sum(len(word.encode()) for word in WORDS) - validation - test + 48
    assert data.bytes_per_token == validation / (validation + 6)


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
