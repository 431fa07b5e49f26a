"""A study of seconds on a synthetic task."""

from pathlib import Path

import yaml

STUDY = {
    "seeds": [0, 1],
    "fit": {
        "trainer": {
            "max_steps": 8,
            "val_check_interval": 8,
            "log_every_n_steps": 1,
            "accelerator": "cpu",
            "precision": "32-true",
        },
        "model": {"dim": 16, "depth": 1, "warmup_steps": 2},
        "data": {
            "name": "parity",
            "length": 6,
            "test_length": [6, 12],
            "examples": 64,
            "val_examples": 20,
            "test_examples": 30,
            "batch_size": 8,
        },
    },
    "rows": {
        "Attention": {"model": {"mixer": {"class_path": "attention", "init_args": {"num_heads": 1}}}},
        "LSTM": {"model": {"mixer": "lstm"}},
    },
    "tuning": {"grid": {"lr": [0.001, 0.01]}, "extend": False},
}


def prepare_task(folder: Path, **changes: object) -> Path:
    """A study in a folder."""
    study = folder / "small_task.yaml"
    study.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False), encoding="utf-8")
    return study
