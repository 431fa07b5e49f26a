"""What a run says at its end."""

import pytorch_lightning as pl

from lit_modules.console import command, number, short_path
from lit_modules.training.mixer_config import model_mixers
from lit_modules.training.optimizer import Rates
from mixers import LanguageModel


def print_results(model: LanguageModel, trainer: pl.Trainer) -> None:
    """Prints the results of a run, where they are, and what to do next."""
    counts = model.parameter_counts()
    parts = ", ".join(f"{name.replace('_', '-')} {count:,}" for name, count in counts.items())
    print(f"mixer: {model_mixers(model)}\nparameters: {sum(counts.values()):,} ({parts})")
    print(learning_rates(Rates.from_options(trainer.lightning_module.hparams)))
    shown = {"perplexity": "validation perplexity", "bits_per_byte": "bits per byte", "accuracy": "validation accuracy"}
    for key, name in shown.items():
        if (value := trainer.callback_metrics.get(f"val/{key}")) is not None:
            print(f"{name}: {number(value.item())}")
    if best := getattr(trainer.checkpoint_callback, "best_model_path", ""):
        path = short_path(best)
        print(f"best checkpoint: {path}")
        if getattr(trainer.datamodule, "has_text", True):  # type: ignore[attr-defined]
            print(f'generate text: {command()} generate --ckpt_path={path} --prompt="The"')
        else:
            print(f"measure it: {command()} test --ckpt_path={path}")


def learning_rates(rates: Rates) -> str:
    """The highest learning rate of a run, and of each part that has another."""
    parts = {"mixer": rates.of("mixer"), "feed-forward": rates.of("ffn"), "embedding": rates.of("embedding")}
    others = ", ".join(f"{part} {number(rate)}" for part, rate in parts.items() if rate != rates.lr)
    return f"learning rate: {number(rates.lr)}{f' ({others})' if others else ''}"
