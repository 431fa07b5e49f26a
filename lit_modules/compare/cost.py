"""What each row's model costs, measured: the RetNet paper's Table 1 claims it, this looks."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from lit_modules.compare.study import Options, Study, overlaid
from lit_modules.factories import factory
from mixers import LanguageModel
from mixers.benchmark import Row, Setting, What, language_model, measure

REPEATS = 3  # timed runs in a turn
SHORT = 64  # tokens of the short sequences that one long one is compared with
NOT_OF_THE_MODEL = {  # but of its training
    "lr", "schedule", "min_lr_ratio", "warmup_steps", "decay_steps", "weight_decay", "betas", "seed", "compile",
}  # fmt: skip

Progress = Callable[[str], object]


class Growth(NamedTuple):
    """A quantity at several lengths; None where it could not be measured."""

    lengths: list[int]
    values: list[float | None]

    @property
    def times(self) -> float | None:
        """The value at the longest length, over that at the shortest."""
        first, last = self.values[0], self.values[-1]
        return last / first if first and last is not None else None

    @property
    def exponent(self) -> float | None:
        """p of length^p between the two longest lengths: about 0 if it is constant, 1 if linear, 2 if quadratic."""
        before, last = (self.values[-2], self.values[-1]) if len(self.values) > 1 else (None, None)
        return math.log(last / before) / math.log(self.lengths[-1] / self.lengths[-2]) if before and last else None


class Cost(NamedTuple):
    """The cost of one row's model."""

    parameters: int
    tokens_per_second: float | None  # in training, at the study's batch
    peak_bytes: float | None  # of a training step there
    one_sequence: float | None  # time of training on one long sequence, over that on as many tokens in short ones
    token_seconds: Growth  # of one more token after so many
    state_bytes: Growth  # of a sequence after so many
    training_bytes: Growth  # peak of a training step on one sequence
    note: str

    @classmethod
    def of(cls, fields: dict[str, Any]) -> "Cost":
        """What was written as JSON, which knows no tuples with names."""
        typed: Any = {name: Growth(*value) if isinstance(value, list) else value for name, value in fields.items()}
        return cls(**typed)


def measure_costs(
    study: Study, vocab_size: int, dtype: torch.dtype, device: torch.device, progress: Progress
) -> dict[str, Cost]:
    """The cost of every row's model, the rows taking turns.

    Args:
        study: What to measure.
        vocab_size: Number of distinct tokens.
        dtype: Half precision for training in autocast; one more token is always float32.
        device: Where to measure.
        progress: Is told the name of each row when its turn at a setting is over.
    """
    models = {row: overlaid(study.fit, options)["model"] for row, options in study.rows.items()}
    subjects = {row: language_model(partial(built, options)) for row, options in models.items()}
    wanted = _settings(study, Setting(length=0, vocab_size=vocab_size, dtype=dtype, device=device))
    found = {
        (row.subject, row.what, row.setting): row
        for what, at in wanted
        for row in measure(what, subjects, [at], rounds=study.cost.rounds, repeats=REPEATS, progress=progress)
    }
    return {row: _cost([found[row, what, at] for what, at in wanted]) for row in subjects}


def turns(study: Study) -> int:
    """How often `measure_costs` tells of progress."""
    return len(_settings(study, Setting(length=0))) * study.cost.rounds * len(study.rows)


def built(options: Options, at: Setting) -> LanguageModel:
    """The model of a row's options, `model` of `fit`."""
    known = {name: value for name, value in options.items() if name not in NOT_OF_THE_MODEL}
    overrides = {index: factory(mixer) for index, mixer in known.pop("overrides", {}).items()}
    return LanguageModel(factory(known.pop("mixer")), overrides=overrides, vocab_size=at.vocab_size, **known)


def _settings(study: Study, at: Setting) -> list[tuple[What, Setting]]:
    """As in training; as many tokens as the longest length, in short sequences; then each length, twice."""
    data, lengths = study.fit["data"], study.cost.lengths
    one = [at._replace(length=length, batch_size=1) for length in lengths]
    return [
        ("train", at._replace(length=data["block_size"], batch_size=data["batch_size"])),
        ("train", at._replace(length=SHORT, batch_size=max(1, lengths[-1] // SHORT))),
        *(("train", each) for each in one),
        *(("decode", each._replace(dtype=torch.float32)) for each in one),
    ]


def _cost(rows: list[Row]) -> Cost:
    usual, short, *rest = rows
    training, decoding = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    lengths, longest = [row.setting.length for row in training], training[-1].seconds
    return Cost(
        parameters=usual.parameters or 0,
        tokens_per_second=usual.tokens_per_second,
        peak_bytes=usual.peak_bytes,
        one_sequence=longest / short.seconds if longest and short.seconds else None,
        token_seconds=Growth(lengths, [row.seconds for row in decoding]),
        state_bytes=Growth(lengths, [row.state_bytes for row in decoding]),
        training_bytes=Growth(lengths, [row.peak_bytes for row in training]),
        note="; ".join(dict.fromkeys(row.note for row in rows if row.note)),
    )
