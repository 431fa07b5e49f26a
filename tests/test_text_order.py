"""The blocks of a text, and the order in which they are trained."""

import pickle
from itertools import islice
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from small_text import SaveWhen, first, held_out, text, trained

from lit_modules.data.batches import sequential_batches

pytestmark = pytest.mark.usefixtures("cache")


def test_blocks_are_the_token_file_cut_without_overlap(corpus: str) -> None:
    data = text(corpus)
    tokens = torch.tensor([token for batch in data.val_dataloader() for row in batch for token in row[:-1].tolist()])
    validation = [token for word in held_out("validation") for token in [*word.encode(), data.end]]
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
    validation = [token for word in held_out("validation") for token in [*word.encode(), data.end]]
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


@pytest.mark.parametrize("processes", [(2, 1), (2, 4), (1, 2), (4, 2)])
def test_a_run_goes_on_with_the_same_global_batches_on_another_number_of_processes(
    corpus: str, processes: tuple[int, int]
) -> None:
    def ids(world_size: int, start: int) -> list[list[int]]:
        """The samples of the first eight batches of all processes together."""
        shares = []
        for rank in range(world_size):
            data = text(corpus, rank, world_size, batch_size=8)
            data.load_state_dict(state | {"samples_seen": start})
            shares.append(list(islice(data.train_dataloader().batches(), 8)))  # type: ignore[union-attr]
        return [[sample for part in batch for sample in part] for batch in zip(*shares, strict=True)]

    state = text(corpus, batch_size=8).state_dict()
    before, after = processes
    assert ids(before, 0) + ids(after, 64) == ids(1, 0) + ids(1, 64)
    blocks = (text(corpus).token_file("train").tokens - 1) // 7
    epoch = [sample for start in range(0, blocks, 64) for batch in ids(after, start) for sample in batch][:blocks]
    assert sorted(epoch) == list(range(blocks))


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
