"""A study of seconds."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from small_runs import write_text

from lit_modules.commands.compare import runner
from lit_modules.commands.compare.study import Run, Study, read_study
from lit_modules.main import main
from lit_modules.training.cli import run_command

STUDY = {
    "seeds": [0, 1],
    "fit": {
        "trainer": {
            "max_steps": 24,
            "val_check_interval": 24,
            "log_every_n_steps": 1,
            "save_every_n_steps": 4,
            "limit_val_batches": 1,
            "accelerator": "cpu",
            "precision": "32-true",
        },
        "model": {"dim": 16, "depth": 1, "warmup_steps": 2, "lr": 1e-2},
        "data": {"corpus": "corpus.txt", "tokenizer": "bytes", "block_size": 32, "batch_size": 4, "cache_dir": "cache"},
    },
    "rows": {
        "RetNet": {"model": {"mixer": {"class_path": "retention", "init_args": {"num_heads": 2}}}},
        "Linear, one head": {"model": {"mixer": {"class_path": "linear_attention", "init_args": {"num_heads": 1}}}},
    },
    "test": {"split": "test", "contexts": [128, 256], "corpora": ["other.txt"]},
    "cost": {"lengths": [64, 128], "rounds": 1},
}
BROKEN = {"model": {"mixer": "rwkv", "lr": 1e30, "warmup_steps": 0}}


def prepare(folder: Path, **changes: object) -> Path:
    """A folder with texts and a study."""
    write_text(folder / "corpus.txt", words=20_000)
    write_text(folder / "other.txt", words=400)
    study = folder / "small.yaml"
    study.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False), encoding="utf-8")
    return study


def copy_results(of: Path, to: Path) -> None:
    """The kept results of a study in another folder, without its runs."""
    for kept in of.rglob("results.parquet"):
        (to / kept.relative_to(of)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(kept, to / kept.relative_to(of))


def compared(path: Path) -> Iterator[Study]:
    """A study once `compare` has done it, within its folder."""
    folder = path.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(runner, "_run", run_here)
        main(["compare", str(path), f"--folder={folder / 'out'}", "--accelerator=cpu"])
        yield read_study(path, folder / "out")


def run_here(run: Run) -> None:
    """Does what is left of a run in this process: a new one for each takes longer than the run."""
    for each in filter(None, (run.trunk, run)):
        runner._write_options(each.folder / runner.TRAINED_WITH, each.options)
    for argv in runner.commands(run):
        run_command(argv)
    runner._write_options(run.folder / runner.TESTED_WITH, run.test)
