"""The tables of a test: perplexity by corpus, by position and by context, as files and to read."""

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_modules import console
from lit_modules.data.cache import replace_text
from lit_modules.evaluation.scores import LAST, Evaluation, Part, Sums

PIECE = 2048  # tokens of about a piece: enough of them for a paired bootstrap, each long enough to be nearly its own

COLUMNS = {
    "positions": ("first", "last", "tokens", "loss"),
    "contexts": ("context", "tokens", "loss", "perplexity"),
    "pieces": ("corpus", "piece", "tokens", "nats"),
    "corpora": ("corpus", "tokens", "bytes", "loss", "perplexity", "bits_per_byte"),
}
Table = list[tuple[Any, ...]]
Cells = list[tuple[str, ...]]


def report(evaluation: Evaluation, sums: Sequence[Sums], folder: Path | None, verbose: bool) -> list[dict[str, float]]:
    """Writes and prints the tables, where there is a folder for them, and returns the metrics of each corpus."""
    made = tables(evaluation, sums)
    if folder is not None:
        write(made, folder)
        if verbose:
            print(f"{shown(made)}\n\ntables: {console.short_path(folder)}")
    return [
        {"test/loss": loss, "test/perplexity": perplexity, "test/bits_per_byte": bits}
        for *_, loss, perplexity, bits in made["corpora"]
    ]


def tables(evaluation: Evaluation, sums: Sequence[Sums]) -> dict[str, Table]:
    """The rows of each table, from the sums over each part."""
    corpora = list(zip(evaluation.corpora, sums[: len(evaluation.corpora)], strict=True))
    windows = list(zip(evaluation.windows, sums[len(evaluation.corpora) :], strict=True))
    return {
        "positions": _positions(windows[-1][1]) if windows else [],
        "contexts": [_context(part_sums) for _, part_sums in windows],
        "pieces": [row for part, part_sums in corpora for row in _pieces(part, part_sums)],
        "corpora": [_corpus(part, part_sums, evaluation.scored_bytes(part)) for part, part_sums in corpora],
    }


def write(tables: dict[str, Table], folder: Path) -> None:
    """Writes each table to a CSV file in one step; where there is a corpora.csv, the others belong to it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "corpora.csv").unlink(missing_ok=True)
    for name, columns in COLUMNS.items():
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([columns, *tables[name]])
        replace_text(folder / f"{name}.csv", text.getvalue())


def shown(tables: dict[str, Table]) -> str:
    """The tables that fit a screen, to read."""
    corpora: Cells = [("corpus", "tokens", "bytes", "loss", "perplexity", "bits per byte")]
    corpora += [(name, *map(_number, numbers)) for name, *numbers in tables["corpora"]]
    contexts: Cells = [("context", f"loss of the last {LAST}", "perplexity")]
    contexts += [(_number(row[0]), *map(_number, row[2:])) for row in tables["contexts"]]
    positions: Cells = [("position", "loss", "perplexity")]
    positions += [
        (_range(first, last), _number(loss), _number(math.exp(loss))) for first, last, _, loss in tables["positions"]
    ]
    return "\n\n".join(console.aligned(rows) for rows in (corpora, positions, contexts) if len(rows) > 1)


def _corpus(part: Part, sums: Sums, size: int) -> tuple[Any, ...]:
    nats, tokens = float(sums.blocks.sum()), len(sums.blocks) * part.blocks.length
    return part.corpus, tokens, size, nats / tokens, math.exp(nats / tokens), nats / math.log(2) / size


def _pieces(part: Part, sums: Sums) -> Table:
    """Consecutive blocks added up; the last piece has those that are left."""
    each = max(1, round(PIECE / part.blocks.length))
    parts = [sums.blocks[start : start + each] for start in range(0, len(sums.blocks), each)]
    return [(part.corpus, piece, len(nats) * part.blocks.length, float(nats.sum())) for piece, nats in enumerate(parts)]


def _context(sums: Sums) -> tuple[Any, ...]:
    tokens = len(sums.blocks) * LAST
    loss = float(sums.positions[-LAST:].sum()) / tokens
    return len(sums.positions), tokens, loss, math.exp(loss)


def _positions(sums: Sums) -> Table:
    """Positions from 1 in ranges that end at powers of two, the last where the windows end."""
    rows, first, last, length = [], 1, 1, len(sums.positions)
    while first <= length:
        nats = sums.positions[first - 1 : last]
        tokens = len(nats) * len(sums.blocks)
        rows.append((first, first + len(nats) - 1, tokens, float(nats.sum()) / tokens))
        first, last = last + 1, 2 * last
    return rows


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
