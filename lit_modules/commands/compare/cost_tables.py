"""The tables of a report on what rows cost."""

from collections.abc import Sequence

import numpy as np

from lit_modules.commands.compare.cost import SHORT, Cost, Growth, Spread
from lit_modules.commands.compare.results import RowResult
from lit_modules.commands.compare.tables import MISSING, Table

KIB, MIB, MILLISECOND = 2**10, 2**20, 1e-3


def prices(costs: dict[str, Cost], machine: dict[str, str]) -> Table:
    """What each row's model costs."""
    first, lengths = next(iter(costs)), _lengths(costs)
    lines = [
        [
            row,
            f"{cost.parameters:,}",
            _number(cost.tokens_per_second, "{:,.0f}"),
            MISSING if row == first else _ratio(cost.speed),
            _number(cost.peak_bytes, "{:,.0f}", MIB),
            *(_number(value, "{:,.0f}", KIB) for value in (cost.state_bytes.values[0], cost.state_bytes.values[-1])),
            cost.note,
        ]
        for row, cost in costs.items()
    ]
    states = [f"state KiB after {length:,}" for length in lengths]
    return Table(
        title="Cost",
        note=f"A step of training as in the runs, the rows taking turns, on {machine['device']}, torch "
        f"{machine['torch']}: median tokens a second, their ratio to those of {first} in the same round (median, "
        "lowest, highest), and peak memory beyond weights and optimizer. The state is that of one sequence in float32.",
        columns=["", "parameters", "tokens/s", f"to {first}", "peak MiB", *states, ""],
        rows=lines,
    )


def the_papers_table(costs: dict[str, Cost], rows: Sequence[RowResult]) -> Table:
    """The RetNet paper's Table 1, with measurements in the place of its marks."""
    losses = {row.name: row.losses for row in rows}
    lines = [
        [
            row,
            _ratio(cost.one_sequence),
            f"{_growth(cost.token_seconds, MILLISECOND, '{:.1f}')} ms",
            _ratio(cost.longer_context),
            f"{_growth(cost.state_bytes, KIB, '{:,.0f}')} KiB",
            _number(cost.training_bytes.exponent, "{:.2f}"),
            f"{np.exp(np.mean(losses[row])):.2f}" if losses[row] else MISSING,
        ]
        for row, cost in costs.items()
    ]
    shortest, longest = _lengths(costs)
    memory = "memory grows with length to the"
    return Table(
        title="The paper's Table 1, measured",
        note=f"Training parallel along time: a step on one sequence of {longest:,} tokens, over one on as many in "
        f"sequences of {SHORT}; 1 where only the number of tokens counts, more where tokens wait for those before or "
        f"cost more in a long sequence. Inference and state: one more token after {shortest:,} → {longest:,} tokens. "
        "Ratios are of times in the same round: median, lowest, highest. Memory: the power of the length with which a "
        "training step's peak grows between the two longest lengths (1 is linear, 2 quadratic).",
        columns=["", "one sequence", "one more token", "its ratio", "state", memory, "perplexity"],
        rows=lines,
    )


def _lengths(costs: dict[str, Cost]) -> tuple[int, int]:
    """The shortest and the longest."""
    lengths = next(iter(costs.values())).state_bytes.lengths
    return lengths[0], lengths[-1]


def _number(value: float | None, how: str, unit: float = 1) -> str:
    return MISSING if value is None else how.format(value / unit)


def _ratio(spread: Spread | None) -> str:
    return MISSING if spread is None else f"× {spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"


def _growth(quantity: Growth, unit: float, how: str) -> str:
    """Both ends."""
    first, last = (_number(value, how, unit) for value in (quantity.values[0], quantity.values[-1]))
    return f"{first} → {last}"
