"""What each row's model costs, measured: the RetNet paper's Table 1 claims it without numbers."""

import inspect
import json
import math
from functools import partial
from typing import Any, NamedTuple

import pandas as pd
import torch
from tqdm import tqdm

from lit_modules.commands.benchmark import machine
from lit_modules.commands.compare.runner import LAST
from lit_modules.commands.compare.study import Study
from lit_modules.data.cache import replace_text
from lit_modules.training import checkpoint
from lit_modules.training.config_file import Options
from lit_modules.training.mixer_config import with_factories
from lit_modules.training.precision import best_precision
from mixers import LanguageModel
from mixers.benchmark import Case, Phase, language_model, measure

REPEATS = 3  # timed runs in a turn
SHORT = 64  # tokens of the short sequences that one long one is compared with

Spread = list[float]  # median, lowest and highest of what each round gave once
Growth = list[list[Any]]  # lengths, and a quantity at each; None where it could not be measured
Cost = dict[str, Any]  # of one row's model


class Costs(NamedTuple):
    """The cost of each row, and the machine that it was measured on."""

    rows: pd.DataFrame
    machine: dict[str, str]

    @property
    def lengths(self) -> list[int]:
        lengths, _ = self.rows["state_bytes"].iloc[0]
        return lengths


def costs_of(study: Study, device: torch.device, *, measure: bool) -> Costs | None:
    """What is kept in cost.json, so that a report written again has the same; else measured, if asked and possible."""
    kept = study.folder / "cost.json"
    if not kept.is_file():
        trained = [run.folder / LAST for run in study.runs() if (run.folder / LAST).is_file()]
        if not (measure and trained):
            return None
        vocab_size: int = checkpoint.read_file(trained[0])["hyper_parameters"]["vocab_size"]
        dtype = torch.bfloat16 if "bf16" in best_precision(device.type).name else torch.float32
        print(f"\nmeasuring the cost of each row: {len(study.rows)} rows, {study.cost.rounds} rounds", flush=True)
        rows = measure_costs(study, vocab_size, dtype, device)
        replace_text(kept, json.dumps({"machine": machine(device), "rows": rows}))
    content = json.loads(kept.read_text(encoding="utf-8"))
    return Costs(pd.DataFrame.from_dict(content["rows"], orient="index"), content["machine"])


def measure_costs(study: Study, vocab_size: int, dtype: torch.dtype, device: torch.device) -> dict[str, Cost]:
    """The cost of every row's model, the rows taking turns. `dtype` is that of training; decoding is in float32."""
    models = {row: language_model(partial(build_model, study.options(row)["model"])) for row in study.rows}
    cases = _cases(study, Case(length=0, vocab_size=vocab_size, dtype=dtype, device=device))
    found, rounds = [], study.cost.rounds
    with tqdm(total=rounds * len(cases) * len(models), desc="cost", unit="turn", leave=False, disable=None) as bar:
        for turn in range(rounds):
            for case, (phase, at) in cases.items():
                for row in measure(phase, models, [at], rounds=1, repeats=REPEATS, progress=lambda _: bar.update()):
                    found.append({**row._asdict(), "case": case, "turn": turn})
            tqdm.write(f"round {turn + 1} of {rounds}")
    table = pd.DataFrame(found).astype(dict.fromkeys(QUANTITIES, float))
    first = table[table["subject"] == study.first]
    return {row: _cost(table[table["subject"] == row], first, list(study.cost.lengths)) for row in study.rows}


def build_model(options: Options, at: Case) -> LanguageModel:
    """The model of a row's options, `model` of `fit`, without those of its training."""
    known = {name: options[name] for name in inspect.signature(LanguageModel).parameters if name in options}
    return LanguageModel(**with_factories(known), vocab_size=at.vocab_size)


def exponent(quantity: Growth) -> float | None:
    """p of length^p between the two longest lengths: about 0 if it is constant, 1 if linear, 2 if quadratic."""
    lengths, values = quantity
    before, last = [None, *values][-2:]
    return math.log(last / before) / math.log(lengths[-1] / lengths[-2]) if before and last else None


QUANTITIES = ("seconds", "tokens_per_second", "peak_bytes", "state_bytes", "parameters")  # of a benchmark's row


def _cases(study: Study, at: Case) -> dict[str, tuple[Phase, Case]]:
    """As in training; as many tokens as the longest length, in short sequences; then each length, twice."""
    data, lengths = study.fit["data"], study.cost.lengths
    one = {length: at._replace(length=length, batch_size=1) for length in lengths}
    return {
        "usual": ("train", at._replace(length=data["block_size"], batch_size=data["batch_size"])),
        "short": ("train", at._replace(length=SHORT, batch_size=max(1, lengths[-1] // SHORT))),
        **{f"train {length}": ("train", case) for length, case in one.items()},
        **{f"decode {length}": ("decode", case._replace(dtype=torch.float32)) for length, case in one.items()},
    }


def _cost(rows: pd.DataFrame, first: pd.DataFrame, lengths: list[int]) -> Cost:
    """From a row's measurements, and the first row's: those of each case, one a round. Ratios are of the same round."""
    seconds, firsts = (one.pivot(index="turn", columns="case", values="seconds") for one in (rows, first))
    medians = rows.groupby("case")[list(QUANTITIES)].median().astype(object)
    medians = medians.where(medians.notna(), None)
    usual = medians.loc["usual"]
    train, decode = (medians.loc[[f"{phase} {length}" for length in lengths]] for phase in ("train", "decode"))
    return {
        "parameters": int(usual["parameters"] or 0),
        "tokens_per_second": usual["tokens_per_second"],  # in training, at the study's batch
        "speed": _spread(firsts["usual"] / seconds["usual"]),  # of that, over the first row's
        "peak_bytes": usual["peak_bytes"],  # of a training step there
        "one_sequence": _spread(seconds[f"train {lengths[-1]}"] / seconds["short"]),  # of as many tokens
        "longer_context": _spread(seconds[f"decode {lengths[-1]}"] / seconds[f"decode {lengths[0]}"]),
        "token_seconds": [lengths, decode["seconds"].tolist()],  # of one more token after so many
        "state_bytes": [lengths, decode["state_bytes"].tolist()],  # of a sequence after so many
        "training_bytes": [lengths, train["peak_bytes"].tolist()],  # peak of a training step on one sequence
        "note": "; ".join(rows["note"][rows["note"] != ""].unique()),
    }


def _spread(ratios: pd.Series) -> Spread | None:
    known = ratios.dropna()
    return [float(known.median()), float(known.min()), float(known.max())] if len(known) else None
