"""The numbers of one run, from the tables that `test` wrote and the losses that training logged."""

from pathlib import Path
from typing import Any

import pandas as pd
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_modules.commands.compare.study import Run

SMOOTHED = 20  # logged steps that a point of a loss curve is the mean of

# The columns of each table of `test`, as those of all results: `at` is the place that `kind` says, losses are nats per
# token. A piece is a stretch of a test text: by class of every corpus, else of those that were trained on. A step is
# one of training. A part of a synthetic task has its name as class and its length as place; its tokens are targets.
TABLES = {
    "corpora": {"corpus": "corpus", "tokens": "tokens", "loss": "loss", "bits_per_byte": "bits_per_byte"},
    "pieces": {"corpus": "corpus", "piece": "at", "tokens": "tokens", "nats": "nats"},
    "positions": {"first": "at", "last": "last", "loss": "loss"},
    "contexts": {"context": "at", "loss": "loss"},
    "classes": {"corpus": "corpus", "kind": "by", "class": "class", "piece": "at", "tokens": "tokens", "nats": "nats"},
    "accuracy": {"part": "class", "length": "at", "targets": "tokens", "loss": "loss", "accuracy": "accuracy"},
}
COLUMNS = {
    # digest: of the options that the run was made with
    **dict.fromkeys(("row", "digest", "kind", "corpus", "by", "class"), "str"),
    **dict.fromkeys(("seed", "at", "last", "tokens"), "Int64"),
    **dict.fromkeys(("nats", "loss", "bits_per_byte", "accuracy"), "float64"),
}


def read(run: Run, digest: str) -> pd.DataFrame:
    """The numbers of a finished run, from the tables that `test` wrote and the losses that training logged."""
    found = {}
    chosen_on = run.test.get("split") == "validation"  # where options are chosen, which is a matter of the loss alone
    for kind, columns in TABLES.items():
        if kind == "classes" and chosen_on:
            continue
        path = run.folder / "test" / f"{kind}.csv"
        if path.is_file():  # runs tested long ago lack some
            found[kind] = pd.read_csv(path, usecols=list(columns)).rename(columns=columns)
    if "pieces" in found:
        trained_on = [*weights_of(run.options["data"].get("corpus"))] or found["corpora"]["corpus"][:1]
        found["pieces"] = found["pieces"][found["pieces"]["corpus"].isin(trained_on)]
    found["steps"] = _curve(run)
    table = pd.concat([numbers.assign(kind=kind) for kind, numbers in found.items() if len(numbers)])
    return table.assign(row=run.row, seed=run.seed, digest=digest).reindex(columns=list(COLUMNS)).astype(COLUMNS)


def _curve(run: Run) -> pd.DataFrame:
    """Training loss by optimizer step, each the mean of the last logged ones; of a short run perhaps none."""
    logged = _logged(run.folder)
    if run.trunk:
        before = _logged(run.trunk.folder)
        logged = pd.concat([before[before.index <= run.trunk.options["trainer"]["max_steps"]], logged])
    smooth = logged.rolling(max(1, min(SMOOTHED, len(logged)))).mean().dropna()
    return pd.DataFrame({"at": smooth.index, "loss": smooth.to_numpy()})


def _logged(folder: Path) -> pd.Series:
    """The losses that a training logged, by step."""
    logs = EventAccumulator(str(folder), {"scalars": 0}).Reload()  # 0: without leaving any out
    events = logs.Scalars("train/loss") if "train/loss" in logs.Tags()["scalars"] else []
    return pd.Series({event.step: event.value for event in events}, dtype=float).sort_index()


def weights_of(corpus: Any) -> dict[str, float]:
    """The shares of the corpora of a mixture, of sum 1; none for a single corpus."""
    return {name: weight / sum(corpus.values()) for name, weight in corpus.items()} if isinstance(corpus, dict) else {}
