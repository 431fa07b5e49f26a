"""Small runs for the tests of training: a text, a model and a trainer that are quick."""

import csv
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_modules.data.datamodule import Text
from lit_modules.main import main
from lit_modules.training.language_model import LitLanguageModel
from lit_modules.training.trainer import Trainer
from mixers import Attention, Retention

torch.set_num_threads(1)  # matrices this small wait longer for a second thread than they take

WORDS = ("the", "state", "of", "union", "is", "strong", "and", "its", "people", "are", "free", "to", "say", "what")

SMALL_WORDS = (
    "fit",
    "--data.corpus=corpus.txt",
    "--data.tokenizer=bytes",
    "--data.block_size=16",
    "--data.batch_size=4",
    "--data.cache_dir=cache",
    "--model.dim=32",
    "--model.depth=2",
    "--model.warmup_steps=2",
    "--trainer.max_steps=4",
    "--trainer.val_check_interval=2",
    "--trainer.limit_val_batches=2",
    "--trainer.log_every_n_steps=1",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.accelerator=cpu",
    "--trainer.precision=32-true",
)


def write_text(path: Path, *, words: int = 4000) -> Path:
    """A text of random words, always the same."""
    order = torch.randint(len(WORDS), (words,), generator=torch.Generator().manual_seed(0)).tolist()
    lines = [" ".join(WORDS[word] for word in order[start : start + 10]) for start in range(0, words, 10)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def text(folder: Path, **options: Any) -> Text:
    """The text as data, kept in a folder."""
    corpus = folder / "corpus.txt"
    if not corpus.exists():
        write_text(corpus)
    small: dict[str, Any] = {"tokenizer": "bytes", "block_size": 16, "batch_size": 4}
    return Text(str(corpus), cache_dir=str(folder / "cache"), **(small | options))


def model(data: Text, **options: Any) -> LitLanguageModel:
    """A hybrid of two blocks with dropout, its weights always the same."""
    torch.manual_seed(0)
    small: dict[str, Any] = {
        "mixer": partial(Retention, num_heads=2),
        "overrides": {1: partial(Attention, num_heads=2)},
        "dim": 16,
        "depth": 2,
        "dropout": 0.2,
        "lr": 1e-2,
        "warmup_steps": 2,
    }
    return LitLanguageModel(vocab_size=data.vocab_size, **(small | options))


def trainer(folder: Path, **options: Any) -> Trainer:
    """A trainer that keeps its runs in a folder."""
    small: dict[str, Any] = {
        "accelerator": "cpu",
        "precision": "32-true",
        "max_steps": 12,
        "val_check_interval": 4,
        "limit_val_batches": 2,
        "log_every_n_steps": 1,
        "gradient_clip_val": 1.0,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "default_root_dir": folder / "runs",
    }
    return Trainer(**(small | options))


def lines(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def says(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence that a command line is refused with."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert err.endswith(lines[0] + "\n")
    assert "Traceback" not in err
    assert "usage:" not in out + err
    return lines[0].removeprefix("error: ")
