"""What each row's model costs, measured: the RetNet paper's Table 1 claims it without numbers."""

import inspect
import json
import math
from collections.abc import Iterable, Sequence
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from lit_modules.commands.benchmark import machine
from lit_modules.commands.compare.runner import last_checkpoint
from lit_modules.commands.compare.study import Options, Study
from lit_modules.data.cache import replace_text
from lit_modules.training import checkpoint
from lit_modules.training.mixer_config import factory
from lit_modules.training.precision import best_precision
from mixers import LanguageModel
from mixers.benchmark import Case, Phase, Row, language_model, measure

REPEATS = 3  # timed runs in a turn
SHORT = 64  # tokens of the short sequences that one long one is compared with


class Growth(NamedTuple):
    """A quantity at several lengths; None where it could not be measured."""

    lengths: list[int]
    values: list[float | None]

    @property
    def exponent(self) -> float | None:
        """p of length^p between the two longest lengths: about 0 if it is constant, 1 if linear, 2 if quadratic."""
        before, last = (self.values[-2], self.values[-1]) if len(self.values) > 1 else (None, None)
        return math.log(last / before) / math.log(self.lengths[-1] / self.lengths[-2]) if before and last else None


class Spread(NamedTuple):
    """A quantity that each round gave once."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread | None":
        """That of values; None of none."""
        known = sorted(values)
        return cls(median(known), known[0], known[-1]) if known else None


class Cost(NamedTuple):
    """The cost of one row's model. Ratios are of times in the same round."""

    parameters: int
    tokens_per_second: float | None  # in training, at the study's batch
    speed: Spread | None  # of that, over the first row's
    peak_bytes: float | None  # of a training step there
    one_sequence: Spread | None  # time of training on one long sequence, over that on as many tokens in short ones
    longer_context: Spread | None  # time of one more token after the longest length, over that after the shortest
    token_seconds: Growth  # of one more token after so many
    state_bytes: Growth  # of a sequence after so many
    training_bytes: Growth  # peak of a training step on one sequence
    note: str

    @classmethod
    def of(cls, fields: dict[str, Any]) -> "Cost":
        """From JSON, which knows no tuples with names."""
        typed: Any = {
            name: (Growth if cls.__annotations__[name] is Growth else Spread)(*value)
            if isinstance(value, list)
            else value
            for name, value in fields.items()
        }
        return cls(**typed)


class Costs(NamedTuple):
    """The cost of each row, and the machine that it was measured on."""

    rows: dict[str, Cost]
    machine: dict[str, str]


def costs_of(study: Study, device: torch.device, *, measure: bool) -> Costs | None:
    """What is kept in cost.json, so that a report written again has the same; else measured, if asked and possible.

    Args:
        study: The study.
        device: Where to measure.
        measure: Whether to, if nothing is kept.
    """
    kept = study.folder / "cost.json"
    if kept.is_file():
        content = json.loads(kept.read_text(encoding="utf-8"))
        return Costs({row: Cost.of(cost) for row, cost in content["rows"].items()}, content["machine"])
    trained = [last for run in study.runs() if (last := last_checkpoint(run)).is_file()]
    if not (measure and trained):
        return None
    vocab_size: int = checkpoint.read_file(trained[0])["hyper_parameters"]["vocab_size"]
    dtype = torch.bfloat16 if "bf16" in best_precision(device.type).name else torch.float32
    print(f"\nmeasuring the cost of each row: {len(study.rows)} rows, {study.cost.rounds} rounds", flush=True)
    costs = Costs(measure_costs(study, vocab_size, dtype, device), machine(device))
    rows = {row: cost._asdict() for row, cost in costs.rows.items()}
    replace_text(kept, json.dumps({"machine": costs.machine, "rows": rows}))
    return costs


def measure_costs(study: Study, vocab_size: int, dtype: torch.dtype, device: torch.device) -> dict[str, Cost]:
    """The cost of every row's model, the rows taking turns.

    Args:
        study: The study.
        vocab_size: Number of distinct tokens.
        dtype: Half precision for training in autocast; one more token is always float32.
        device: Where to measure.
    """
    models = {row: language_model(partial(build_model, study.options(row)["model"])) for row in study.rows}
    cases = _cases(study, Case(length=0, vocab_size=vocab_size, dtype=dtype, device=device))
    found: dict[str, list[list[Row]]] = {row: [[] for _ in cases] for row in models}
    rounds = study.cost.rounds
    with tqdm(total=rounds * len(cases) * len(models), desc="cost", unit="turn", leave=False, disable=None) as bar:
        for turn in range(rounds):
            for place, (phase, at) in enumerate(cases):
                for row in measure(phase, models, [at], rounds=1, repeats=REPEATS, progress=lambda _: bar.update()):
                    found[row.subject][place].append(row)
            tqdm.write(f"round {turn + 1} of {rounds}")
    return {row: _cost(rows, found[study.first]) for row, rows in found.items()}


def build_model(options: Options, at: Case) -> LanguageModel:
    """The model of a row's options, `model` of `fit`, without those of its training."""
    known = {name: options[name] for name in inspect.signature(LanguageModel).parameters if name in options}
    overrides = {index: factory(mixer) for index, mixer in known.pop("overrides", {}).items()}
    return LanguageModel(factory(known.pop("mixer")), overrides=overrides, vocab_size=at.vocab_size, **known)


def _cases(study: Study, at: Case) -> list[tuple[Phase, Case]]:
    """As in training; as many tokens as the longest length, in short sequences; then each length, twice."""
    data, lengths = study.fit["data"], study.cost.lengths
    one = [at._replace(length=length, batch_size=1) for length in lengths]
    return [
        ("train", at._replace(length=data["block_size"], batch_size=data["batch_size"])),
        ("train", at._replace(length=SHORT, batch_size=max(1, lengths[-1] // SHORT))),
        *(("train", each) for each in one),
        *(("decode", each._replace(dtype=torch.float32)) for each in one),
    ]


def _cost(rows: Sequence[list[Row]], first: Sequence[list[Row]]) -> Cost:
    """From a row's measurements, and the first row's: those of each setting, one a round."""
    usual, short, *rest = rows
    training, decoding = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    lengths = [at[0].setting.length for at in training]
    return Cost(
        parameters=usual[0].parameters or 0,
        tokens_per_second=_median(row.tokens_per_second for row in usual),
        speed=_ratio(first[0], usual),
        peak_bytes=_median(row.peak_bytes for row in usual),
        one_sequence=_ratio(training[-1], short),
        longer_context=_ratio(decoding[-1], decoding[0]),
        token_seconds=Growth(lengths, [_median(row.seconds for row in at) for at in decoding]),
        state_bytes=Growth(lengths, [_median(row.state_bytes for row in at) for at in decoding]),
        training_bytes=Growth(lengths, [_median(row.peak_bytes for row in at) for at in training]),
        note="; ".join(dict.fromkeys(row.note for at in rows for row in at if row.note)),
    )


def _ratio(rows: Iterable[Row], to: Iterable[Row]) -> Spread | None:
    """Of the times, round by round."""
    pairs = zip(rows, to, strict=True)
    return Spread.of(row.seconds / other.seconds for row, other in pairs if row.seconds and other.seconds)


def _median(values: Iterable[float | None]) -> float | None:
    spread = Spread.of(value for value in values if value is not None)
    return spread.median if spread else None
