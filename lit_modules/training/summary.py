"""What a run prints at its end."""

import pytorch_lightning as pl

from lit_modules.console import command, number, short_path
from lit_modules.training.mixer_config import mixer_name
from mixers import LanguageModel, Mixer


def model_mixers(model: LanguageModel) -> str:
    """The names of the model's mixers, each once, in the order of the blocks: `retention`, `retention-attention`."""
    return "-".join(dict.fromkeys(mixer_name(type(layer)) for layer in model.modules() if isinstance(layer, Mixer)))


def result(trainer: pl.Trainer, model: LanguageModel) -> str:
    """The results of a run, where they are, and what to do next."""
    counts = model.parameter_counts()
    parts = ", ".join(f"{name.replace('_', '-')} {count:,}" for name, count in counts.items())
    lines = [f"mixer: {model_mixers(model)}", f"parameters: {sum(counts.values()):,} ({parts})"]
    for name, key in (("validation perplexity", "val/perplexity"), ("bits per byte", "val/bits_per_byte")):
        if key in trainer.callback_metrics:
            lines.append(f"{name}: {number(trainer.callback_metrics[key].item())}")
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if best:
        path = short_path(best)
        lines += [f"best checkpoint: {path}", f'generate text: {command()} generate --ckpt_path={path} --prompt="The"']
    return "\n".join(lines)
