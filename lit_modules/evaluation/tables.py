"""The tables of a test: perplexity by corpus, by position and by context, as files and to read."""

import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from lit_modules import console
from lit_modules.data.cache import replace_text
from lit_modules.evaluation.classes import class_sums, pieces, position_starts, scored_pairs
from lit_modules.evaluation.occurrences import count_training
from lit_modules.evaluation.scores import LAST, Evaluation, bits_per_byte
from mixers.checks import UsageError

if TYPE_CHECKING:
    import pandas as pd

NOTE = "Lower is better. Loss is in nats per token."
CLASSES_NOTE = (
    "Frequency is how often a token occurs in the training text. Recall: whether it has followed the token before it "
    "earlier\nin its block (repeated) or not (new), and how often it does in the training text. First corpus only; "
    "classes.csv has all."
)

COLUMNS = {
    "positions": ("first", "last", "tokens", "loss"),
    "contexts": ("context", "tokens", "loss", "perplexity"),
    "pieces": ("corpus", "piece", "tokens", "nats"),
    "classes": ("corpus", "kind", "class", "piece", "tokens", "nats"),
    "corpora": ("corpus", "tokens", "bytes", "loss", "perplexity", "bits_per_byte"),
}
Row = tuple[Any, ...]


def report(evaluation: Evaluation, nats: list[Tensor], folder: Path | None, verbose: bool) -> list[dict[str, float]]:
    """Prints the tables, writes them where there is a folder for them, and returns the metrics of each corpus."""
    made = tables(evaluation, nats, by_class=verbose or folder is not None)
    if verbose:
        print(as_text(made), flush=True)  # first, so that a disk that fills loses nothing
    if folder is not None:
        write(made, folder)
        if verbose:
            print(f"\ntables: {console.short_path(folder)}")
    return made["corpora"][["loss", "perplexity", "bits_per_byte"]].add_prefix("test/").to_dict("records")


def folder_to_write(default: Path, *, asked: str | Path | None) -> Path | None:
    """The folder for the tables, made if need be; None, and a line that says so, if the default takes no files.

    Raises:
        UsageError: The folder that was asked for takes no files.
    """
    folder = Path(asked or default)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        reason = error.strerror or str(error)
    if asked is not None:
        raise UsageError(f"output_dir={str(folder)!r} cannot be written to ({reason}): write another folder.")
    print(
        f"{console.short_path(default)} cannot be written to ({reason}), so the tables are only printed: "
        "write --output_dir=FOLDER to keep them."
    )
    return None


def tables(evaluation: Evaluation, nats: list[Tensor], *, by_class: bool) -> "dict[str, pd.DataFrame]":
    """Each table, from the losses of each part; that of classes, which reads the training text, may be left empty."""
    losses = [part.double().numpy() for part in nats]
    corpora = dict(zip(evaluation.corpora, losses, strict=False))
    windows = losses[len(corpora) :]
    rows: dict[str, list[Row]] = {
        "positions": _positions(windows[-1]) if windows else [],
        "contexts": [_context(of_context) for of_context in windows],
        "pieces": [row for name, of_corpus in corpora.items() for row in _pieces(name, of_corpus)],
        "classes": _classes(evaluation, corpora) if by_class else [],
        "corpora": [_corpus(name, evaluation.scored_bytes(name), of_corpus) for name, of_corpus in corpora.items()],
    }
    return {name: table(rows[name], columns) for name, columns in COLUMNS.items()}


def table(rows: Iterable[Row], columns: Sequence[str]) -> "pd.DataFrame":
    """A table of these rows."""
    import pandas as pd  # slow to import, and training does without

    return pd.DataFrame(list(rows), columns=list(columns))


def validation(corpus: str, metrics: Mapping[str, float]) -> "pd.DataFrame":
    """A row for the whole, from val/loss and others, and one for each corpus of a mixture, from val/loss/NAME."""
    rows: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        _, metric, *source = name.split("/", 2)
        rows.setdefault("".join(source) or corpus, {})[metric] = value
    return table(((name, *row.values()) for name, row in rows.items()), ("corpus", *rows[corpus]))


def write(tables: "Mapping[str, pd.DataFrame]", folder: Path) -> None:
    """Writes each table to a CSV file in one step; where there is a corpora.csv, the others belong to it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "corpora.csv").unlink(missing_ok=True)
    for name in COLUMNS:
        replace_text(folder / f"{name}.csv", tables[name].to_csv(index=False))


def as_text(tables: "Mapping[str, pd.DataFrame]") -> str:
    """The tables that fit a screen, to read."""
    contexts = tables["contexts"].drop(columns="tokens").rename(columns={"loss": f"loss of the last {LAST}"})
    positions = [
        (f"{first} to {last}" if first < last else str(first), loss, math.exp(loss))
        for first, last, _, loss in tables["positions"].itertuples(index=False)
    ]
    parts = tables["corpora"], contexts, table(positions, ("position", "loss", "perplexity"))
    shown = [NOTE, *(aligned(part) for part in parts if len(part))]
    if len(classes := tables["classes"]):
        shown += [CLASSES_NOTE, aligned(of_first_corpus(classes))]
    return "\n\n".join(shown)


def of_first_corpus(classes: "pd.DataFrame") -> "pd.DataFrame":
    """The loss by frequency and by recall on the first corpus."""
    wanted = classes[(classes["corpus"] == classes["corpus"].iloc[0]) & (classes["kind"] != "position")]
    named = wanted.assign(tokens_by=wanted["kind"] + " " + wanted["class"])
    sums = named.groupby("tokens_by", sort=False)[["tokens", "nats"]].sum().reset_index()
    return sums.assign(loss=sums["nats"] / sums["tokens"]).drop(columns="nats")


def aligned(table: "pd.DataFrame") -> str:
    """A table for a terminal, its names in words and its numbers as `console.number` writes them."""
    cells = table.map(lambda value: value if isinstance(value, str) else console.number(value))
    return console.aligned([[name.replace("_", " ") for name in table.columns], *cells.values.tolist()])


def _corpus(name: str, size: int, nats: np.ndarray) -> Row:
    total, loss = float(nats.sum()), float(nats.mean())
    return name, nats.size, size, loss, math.exp(loss), bits_per_byte(total, size)


def _pieces(name: str, nats: np.ndarray) -> list[Row]:
    parts = [nats[indices.start : indices.stop] for indices in pieces(*nats.shape)]
    return [(name, piece, part.size, float(part.sum())) for piece, part in enumerate(parts)]


def _classes(evaluation: Evaluation, corpora: Mapping[str, np.ndarray]) -> list[Row]:
    text, counts = evaluation.text, None
    if files := evaluation.training_files():
        pairs = [scored_pairs(evaluation.corpora[name]) for name in corpora]
        counts = count_training(files, np.unique(np.concatenate(pairs)), text.vocab_size)
    return [
        (name, *of_class)
        for name, nats in corpora.items()
        for of_class in class_sums(evaluation.corpora[name], nats, counts, text.start_token)
    ]


def _context(nats: np.ndarray) -> Row:
    last = nats[:, -LAST:]
    return nats.shape[1], last.size, float(last.mean()), math.exp(last.mean())


def _positions(nats: np.ndarray) -> list[Row]:
    """Positions from 1 in ranges that end at powers of two, the last where the windows end."""
    starts = position_starts(nats.shape[1])
    parts = [nats[:, start - 1 : stop - 1] for start, stop in pairwise([*starts, nats.shape[1] + 1])]
    return [
        (start, start + part.shape[1] - 1, part.size, float(part.mean()))
        for start, part in zip(starts, parts, strict=True)
    ]
