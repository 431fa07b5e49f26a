"""A study of seconds."""

from pathlib import Path

import yaml
from small_runs import write_text

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
