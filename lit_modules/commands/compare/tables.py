"""The tables of a report."""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import pandas as pd

from lit_modules.commands.compare.cost import SHORT, Costs, Growth, Spread
from lit_modules.commands.compare.results import Results
from lit_modules.commands.table import MISSING, Table, number
from lit_modules.evaluation.scores import LAST

T = TypeVar("T")

KIB, MIB, MILLISECOND = 2**10, 2**20, 1e-3


def quality(results: Results) -> Table:
    """Loss on the test text of the training corpus, and how sure the differences are."""
    study, lines = results.study, {}
    own = results.corpora[0] if results.corpora else ""
    for row, losses in results.losses.iterrows():
        known, failed = losses.dropna(), sum(row == name for name, _ in results.failed)
        runs = f"{len(known)} of {len(study.seeds)}" + (f", {failed} failed" if failed else "")
        found, mean = results.differences.get(row), known.mean()
        lines[row] = [MISSING] * 5 + [runs]
        if len(known):
            lines[row] = [
                f"{mean:.4f}" + (f" ± {known.std():.4f}" if len(known) > 1 else ""),
                f"{found.mean:+.4f}" if found else MISSING,
                f"{found.low:+.4f} to {found.high:+.4f}" if found and not math.isnan(found.low) else MISSING,
                f"{math.exp(mean):.2f}",
                f"{results.on(own, 'bits_per_byte').loc[row].mean():.4f}",
                runs,
            ]
    tokens = results.on(own, "tokens").max().max() if own else 0
    return Table(
        title="Quality",
        note=f"Loss in nats per token over {tokens:,.0f} tokens of the {study.test.get('split', 'test')} split, which "
        "is no part of the training text; mean ± standard deviation over seeds. Lower (↓) is better, and a negative "
        f"difference means better than {study.first}. Intervals cover 95 % of a paired bootstrap over seeds and pieces "
        "of text: where one holds zero, this study does not tell the two apart.",
        data=_frame(lines, ["loss ↓", "difference", "95 % interval", "perplexity ↓", "bits per byte ↓", "runs"]),
    )


def failures(results: Results) -> Table | None:
    """Why runs failed."""
    if not results.failed:
        return None
    seeds, reasons = [str(seed) for _, seed in results.failed], list(results.failed.values())
    return Table(
        title="Runs that failed",
        note="They count nowhere else. To try one again, delete its folder.",
        data=pd.DataFrame({"seed": seeds, "reason": reasons}, index=[row for row, _ in results.failed]),
    )


def other_corpora(results: Results) -> Table | None:
    """Perplexity on the other corpora."""
    if not results.corpora[1:]:
        return None
    cells, tokens = {}, []
    for corpus in results.corpora[1:]:
        losses = results.on(corpus).loc[results.finished]
        apart = (losses - results.on(corpus).loc[results.study.first]).mean(axis=1)
        apart = apart.map(lambda nats: MISSING if math.isnan(nats) else f"{nats:+.3f}")
        apart[apart.index == results.study.first] = MISSING
        cells[f"{corpus} ↓"] = (
            np.exp(losses.mean(axis=1)).map(lambda perplexity: f"{perplexity:,.1f}") + " (" + apart + ")"
        )
        tokens.append(f"{corpus} {results.on(corpus, 'tokens').max().max():,.0f}")
    return Table(
        title="Other corpora",
        note="Perplexity on text of other kinds (lower is better), and in brackets the difference of the loss to "
        f"{results.study.first} in nats per token. Tokens scored: {', '.join(tokens)}.",
        data=pd.DataFrame(cells),
    )


def contexts(results: Results) -> Table | None:
    """Perplexity of the same last tokens by how much is read before them, as in the paper's appendix B."""
    losses = results.mean("contexts")
    if losses.empty:
        return None
    data = np.exp(losses).map(lambda perplexity: f"{perplexity:.2f}")
    data.columns = [f"{length:,} ↓" for length in losses.columns]
    return Table(
        title="Longer contexts",
        note=f"Perplexity of the same {LAST} tokens, the last of each window of the test text, by the number of tokens "
        "read in all, these included. Lower is better.",
        data=data,
    )


def prices(costs: Costs) -> Table:
    """What each row's model costs."""
    rows = costs.rows
    first, lengths = next(iter(rows)), _lengths(costs)
    lines = {
        row: [
            f"{cost.parameters:,}",
            number(cost.tokens_per_second),
            MISSING if row == first else _ratio(cost.speed),
            number(cost.peak_bytes, MIB),
            *(number(value, KIB) for value in _ends(cost.state_bytes.values)),
            cost.note,
        ]
        for row, cost in rows.items()
    }
    states = [f"state KiB after {length:,} ↓" for length in lengths]
    columns = ["parameters", "tokens/s ↑", f"speed / {first} ↑", "peak MiB ↓", *states, "note"]
    if not any(cost.note for cost in rows.values()):
        columns, lines = columns[:-1], {row: cells[:-1] for row, cells in lines.items()}
    return Table(
        title="Cost",
        note=f"Training steps with the batch of the runs, the rows taking turns, on {costs.machine['device']}, torch "
        f"{costs.machine['torch']}: median tokens per second (higher is better), their ratio to those of {first} "
        "in the same round (median, lowest, highest), and peak memory beyond weights and optimizer (lower is better). "
        "The state is that of one sequence in float32, after as many tokens.",
        data=_frame(lines, columns),
    )


def the_papers_table(costs: Costs, results: Results) -> Table:
    """The RetNet paper's Table 1, with measurements in the place of its marks."""
    perplexity = np.exp(results.losses.mean(axis=1))
    lines = {
        row: [
            _ratio(cost.one_sequence),
            _growth(cost.token_seconds, MILLISECOND),
            _ratio(cost.longer_context),
            _growth(cost.state_bytes, KIB),
            number(cost.training_bytes.exponent),
            f"{perplexity[row]:.2f}" if row in results.finished else MISSING,
        ]
        for row, cost in costs.rows.items()
    }
    shortest, longest = _lengths(costs)
    columns = ["long / short ↓", "ms per token ↓", "its ratio ↓", "state KiB ↓", "memory exponent ↓", "perplexity ↓"]
    return Table(
        title="The paper's Table 1, measured",
        note=f"Long / short: the time of a training step on one sequence of {longest:,} tokens, divided by that on as "
        f"many tokens in sequences of {SHORT}. It is 1 where only the number of tokens counts, and more where a token "
        "waits for those before it or costs more in a long sequence. Time per token and state: of decoding, after "
        f"{shortest:,} → {longest:,} tokens. Ratios are of times in the same round: median, lowest, highest. Memory "
        "exponent: the power of the length with which a training step's peak memory grows between the two longest "
        "lengths (1 is linear, 2 quadratic). Lower is better everywhere.",
        data=_frame(lines, columns),
    )


def _frame(lines: dict[str, list[str]], columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame.from_dict(lines, orient="index", columns=columns)


def _lengths(costs: Costs) -> tuple[int, int]:
    """The shortest and the longest."""
    return _ends(next(iter(costs.rows.values())).state_bytes.lengths)


def _ends(values: Sequence[T]) -> tuple[T, T]:
    return values[0], values[-1]


def _ratio(spread: Spread | None) -> str:
    return MISSING if spread is None else f"× {spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"


def _growth(quantity: Growth, unit: float) -> str:
    return " → ".join(number(value, unit) for value in _ends(quantity.values))
