"""A text of sixty documents as data, and what a trainer shows a model of it."""

from hashlib import blake2b
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from lit_modules.data.datamodule import Text

WORDS = [f"document {index} says {'so ' * (index % 7)}\n" for index in range(60)]


def held_out(split: str) -> list[str]:
    """The tenth of the documents that is for validation, or for the test: those with the highest, or lowest hashes."""
    order = sorted(WORDS, key=lambda word: blake2b(word.encode(), digest_size=8).digest())
    chosen = order[-6:] if split == "validation" else order[:6]
    return [word for word in WORDS if word in chosen]


def write_words(folder: Path) -> str:
    """The documents as one file."""
    (folder / "corpus.txt").write_text("<|endoftext|>\n".join(WORDS), encoding="utf-8")
    return str(folder / "corpus.txt")


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


class Recorder(LightningModule):
    """A model that keeps what it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches: list[Tensor] = []

    def training_step(self, batch: Tensor) -> Tensor:
        self.batches.append(batch.cpu())
        return self.weight * batch.sum()

    def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
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
    """Saves in the named hook once four batches are done, or another number."""

    def __init__(self, hook: str, path: Path, batches: int = 4) -> None:
        def save(trainer: Trainer, *rest: object) -> None:
            if trainer.fit_loop.epoch_loop.batch_progress.total.ready == batches:  # type: ignore[attr-defined]
                trainer.save_checkpoint(path)

        setattr(self, hook, save)
