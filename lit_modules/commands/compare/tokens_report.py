"""The report of a study with several budgets: how losses and differences change with the tokens that are read."""

import math
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lit_modules.commands import plots
from lit_modules.commands.compare import tuning
from lit_modules.commands.compare.budgets import tokens_of
from lit_modules.commands.compare.figures import SIZE, Picture, picture, styles
from lit_modules.commands.compare.report import write_page
from lit_modules.commands.compare.results import Results
from lit_modules.commands.compare.study import Study
from lit_modules.commands.compare.trend import DRAWS, FURTHEST, further, trend
from lit_modules.commands.compare.tuning_tables import tuning_tables
from lit_modules.commands.table import MISSING, Table

MILLION = 1e6


def write(study: Study, results: list[Results], search: tuning.Search | None) -> Path:
    """Writes the report of a study from those of its budgets, none while it is being tuned; where its page is."""
    budgets, files = by_budget(study, results), dict[str, str]()
    everything: list[Table | Picture | None] = []
    if results:
        trends = crossings(study, results)
        files |= {"tokens.csv": budgets.to_csv(index=False), "trends.csv": trends.to_csv(index=False)}
        everything += [
            loss_against_tokens(study, results, budgets),
            quality(study, budgets),
            crossing_table(study, trends),
        ]
    if search:
        files["tuning.csv"] = tuning.table(search).to_csv(index=False)
        everything += tuning_tables(search)
    return write_page(study, f"{study.name}: loss against tokens" if study.budgets else study.name, everything, files)


def by_budget(study: Study, results: list[Results]) -> pd.DataFrame:
    """A line for each row and budget: loss, and difference to the first row with its interval."""
    tables = [
        one.rows.assign(steps=budget.steps, tokens=tokens_of(study, budget)).rename_axis("row").reset_index()
        for budget, one in zip(study.budgets, results, strict=False)
    ]
    return pd.concat(tables, ignore_index=True).query("runs > 0") if tables else pd.DataFrame()


def quality(study: Study, budgets: pd.DataFrame) -> Table:
    """Loss and difference of each row after each number of tokens."""
    cells = {}
    for tokens, table in budgets.groupby("tokens"):
        lines = table.set_index("row").reindex(list(study.rows))
        cells[f"{tokens / MILLION:.3g} M tokens ↓"] = [_cell(line) for line in lines.itertuples()]
    return Table(
        title="Loss by tokens",
        note="Test loss in nats per token (lower is better), in brackets the difference to "
        f"{study.first} with its 95 % interval over seeds and pieces of text, and the number of runs.",
        data=pd.DataFrame(cells, index=list(study.rows)),
    )


def _cell(line: object) -> str:
    loss, difference, low, high, runs = (getattr(line, name) for name in ("loss", "difference", "low", "high", "runs"))
    if pd.isna(loss):
        return MISSING
    apart = f", {difference:+.3f}: {low:+.3f} to {high:+.3f}" if pd.notna(difference) else ""
    return f"{loss:.4f} ({runs:.0f}{apart})"


def loss_against_tokens(study: Study, results: list[Results], budgets: pd.DataFrame) -> Picture | None:
    """Loss, and difference to the first row, against tokens."""
    if budgets.empty:
        return None
    figure = Figure(figsize=SIZE, layout="constrained")
    loss, apart = figure.subplots(1, 2)
    for row, style in styles(results[0], [row for row in study.rows if row in set(budgets["row"])]):
        line = budgets[budgets["row"] == row]
        loss.plot(line["tokens"], line["loss"], label=row, markersize=4, **style)
        if row != study.first:
            apart.plot(line["tokens"], line["difference"], markersize=4, **style)
            apart.vlines(line["tokens"], line["low"], line["high"], color=style["color"], alpha=0.5)
            if len(line) > 2:
                curve = further(line["tokens"].to_numpy(float), line["difference"].to_numpy(float))
                apart.plot(*curve, color=style["color"], linestyle=":")
    apart.axhline(0, color="#333333", linewidth=1)
    loss.set_ylabel("test loss, nats per token (lower is better)")
    apart.set_ylabel(f"test loss minus that of {study.first}, nats per token")
    for axes in (loss, apart):
        _token_axis(axes, sorted(set(budgets["tokens"])))
    plots.finish(figure)
    note = "Means over seeds; bars are the 95 % intervals of the differences, dotted lines how the fit below goes on."
    return picture(figure, "tokens", "Loss against tokens", note)


def _token_axis(axes: Axes, tokens: list[float]) -> None:
    axes.set(xscale="log", xlabel="training tokens, millions")
    axes.set_xticks(tokens, labels=[f"{each / MILLION:.3g}" for each in tokens])
    axes.minorticks_off()


def crossings(study: Study, results: list[Results]) -> pd.DataFrame:
    """A line for each row that is measured at three budgets or more: where its line crosses the first row's."""
    lines = []
    for row in results[0].study.rows:  # those that have learning rates
        apart = [(one.losses.loc[row] - one.losses.loc[study.first]).dropna().to_numpy() for one in results]
        tokens = [tokens_of(study, budget) for budget in study.budgets[: len(results)]]
        pairs = [(at, each) for at, each in zip(tokens, apart, strict=True) if len(each)]
        if row != study.first and len(pairs) > 2 and (found := trend(*zip(*pairs, strict=True))):
            lines.append({"row": row, **found._asdict(), "seeds": " / ".join(str(len(each)) for _, each in pairs)})
    return pd.DataFrame(lines, columns=["row", "crossing", "low", "high", "crossed", "furthest", "seeds"])


def crossing_table(study: Study, trends: pd.DataFrame) -> Table:
    """Where lines cross, to read."""
    data = {
        "crosses at": [
            f"{line.crossing / MILLION:.3g} M" if line.crossing > 0 else "no" for line in trends.itertuples()
        ],
        "95 %": [_interval(line.low, line.high) for line in trends.itertuples()],
        "of draws": [f"{line.crossed:.0%}" for line in trends.itertuples()],
        "seeds": trends["seeds"].to_list(),
    }
    return Table(
        title=f"Where lines cross that of {study.first}",
        note="The difference is fitted by a + b·D^-c over tokens D. Where it is zero, within the measured range or up "
        f"to {FURTHEST} times beyond it; otherwise `never`. Intervals are of {DRAWS:,} draws of what other seeds would "
        "give, by Student's t, if seeds differ as much at each number of tokens. The last column has the numbers of "
        "seeds.",
        data=pd.DataFrame(data).set_index(trends["row"]).rename_axis(None),
    )


def _interval(low: float, high: float) -> str:
    found = [f"{tokens / MILLION:.3g} M" if math.isfinite(tokens) else "never" for tokens in (low, high)]
    return " to ".join(dict.fromkeys(found))
