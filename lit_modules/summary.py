"""What a run says at its beginning and at its end."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl

from lit_modules.factories import mixer_name
from mixers import LanguageModel, Mixer


def command() -> str:
    """How this program was called, for the commands that messages suggest."""
    return "lit-mixers" if Path(sys.argv[0]).stem == "lit-mixers" else "python cli.py"


def model_mixers(model: LanguageModel) -> str:
    """The names of the model's mixers, each once, in the order of the blocks: `retention`, `retention-attention`."""
    return "-".join(dict.fromkeys(mixer_name(type(layer)) for layer in model.modules() if isinstance(layer, Mixer)))


def shown(path: str | Path) -> str:
    """A path as short as it can be typed from here."""
    absolute = Path(path).absolute()
    return str(absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """A table for a terminal: its first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])] for name, *cells in lines)
    return "\n".join("  ".join(line) for line in padded)


def parameters(model: LanguageModel) -> str:
    """Where the parameters are, as one line."""
    counts = model.parameter_counts()
    parts = ", ".join(f"{name.replace('_', '-')} {count:,}" for name, count in counts.items())
    return f"parameters: {sum(counts.values()):,} ({parts})"


def result(trainer: pl.Trainer, model: LanguageModel) -> str:
    """What came out of a run, where it is, and what to do with it."""
    lines = [f"mixer: {model_mixers(model)}", parameters(model)]
    for name, key in (("validation perplexity", "val/perplexity"), ("bits per byte", "val/bits_per_byte")):
        if key in trainer.callback_metrics:
            lines.append(f"{name}: {trainer.callback_metrics[key].item():.4g}")
    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    if best:
        path = shown(best)
        lines += [f"best checkpoint: {path}", f'write with it: {command()} generate --ckpt_path={path} --prompt="The"']
    return "\n".join(lines)
