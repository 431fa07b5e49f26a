"""The tables of a report."""

import re
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pandas as pd

from lit_modules.commands.compare.cost import SHORT, Costs, Growth, Spread, exponent
from lit_modules.commands.compare.results import Results
from lit_modules.commands.table import MISSING, Table, number
from lit_modules.evaluation.scores import LAST

CLASSES = {
    "position": "By the position of a token in its block, which is as long as those of training.",
    "frequency": "By how often a token occurs in the training text.",
    "recall": "By whether a token has followed the one before it earlier in its block (repeated) or not (new), and by "
    "how often it does in the training text.",
}
KIB, MIB, MILLISECOND = 2**10, 2**20, 1e-3


def quality(results: Results) -> Table:
    """Loss on the test text of the training corpus, and how sure the differences are."""
    study, rows = results.study, results.rows
    counts = Counter(row for row, _ in results.failed)
    failed = [f", {counts[row]} failed" if counts[row] else "" for row in rows.index]
    deviation = rows["loss_deviation"]
    columns = {
        "loss ↓": filled("{:.4f}{}", rows["loss"], deviation.map(" ± {:.4f}".format).where(deviation.notna(), "")),
        "difference": filled("{:+.4f}", rows["difference"]),
        "95 % interval": filled("{:+.4f} to {:+.4f}", rows["low"], rows["high"]),
        "perplexity ↓": filled("{:.2f}", np.exp(rows["loss"])),
        "bits per byte ↓": filled("{:.4f}", results.on_training_text("bits_per_byte").mean(axis=1)),
        "runs": [f"{runs} of {len(study.seeds)}{said}" for runs, said in zip(rows["runs"], failed, strict=True)],
    }
    split, tokens = study.test.get("split", "test"), _tokens(results, *results.weights)
    return Table(
        title="Quality",
        note=f"Loss in nats per token over {tokens} tokens of the {split} split, which is no part of "
        "the training text; mean ± standard deviation over seeds. Lower (↓) is better, and "
        f"a negative difference means better than {study.first}. Intervals cover 95 % over seeds and pieces of text, "
        "by Student's t: where one holds zero, this study does not tell the two apart.",
        data=pd.DataFrame(columns, index=rows.index),
    )


def failures(results: Results) -> Table:
    """Why runs failed."""
    lines = [(row, str(seed), reason) for (row, seed), reason in results.failed.items()]
    return Table(
        title="Runs that failed",
        note="They count nowhere else. To try one again, delete its folder.",
        data=pd.DataFrame(lines, columns=["", "seed", "reason"]).set_index(""),
    )


def other_corpora(results: Results) -> Table:
    """Perplexity on the other corpora."""
    cells, first, others = {}, results.study.first, results.others
    for corpus in others:
        losses = results.on(corpus)
        apart = (losses - losses.loc[first]).mean(axis=1).where(losses.index != first)
        cells[f"{corpus} ↓"] = filled("{:,.1f} ({})", np.exp(losses.mean(axis=1)), filled("{:+.3f}", apart))
    tokens = [f"{corpus} {_tokens(results, corpus)}" for corpus in others]
    return Table(
        title="Other corpora",
        note="Perplexity on text of other kinds (lower is better), and in brackets the difference of the loss to "
        f"{first} in nats per token. Tokens scored: {', '.join(tokens)}.",
        data=pd.DataFrame(cells, index=results.rows.index)[results.rows["runs"] > 0],
    )


def by_class(results: Results, by: str) -> Table:
    """Loss of the tokens of each class of a kind, and the differences to the first row."""
    found, first = results.by_class(by), results.study.first
    cells, names = {}, sorted(found["class"].unique(), key=_words_and_number)
    for name in names:
        pieces = found[found["class"] == name]
        sums = pieces.groupby("row", sort=False)[["nats", "tokens"]].sum()
        losses = (sums["nats"] / sums["tokens"]).astype(float)
        apart = {row: results.difference(row, first, pieces) for row in losses.index if row != first}
        halves = {row: (difference.high - difference.low) / 2 for row, difference in apart.items()}
        shown = filled("{:+.3f} ± {:.3f}", [each.mean for each in apart.values()], halves.values())
        cells[f"{name} ↓"] = dict(zip(apart, shown, strict=True)) | {first: f"{losses.get(first, np.nan):.3f}"}
    of_a_run = found.drop_duplicates(["corpus", "class", "at"]).groupby("class")["tokens"].sum()
    parts = (of_a_run.reindex(names) / of_a_run.sum()).map("{:.1%}".format)
    return Table(
        title=f"Loss by {by}",
        note=f"{CLASSES[by]} For {first} the loss in nats per token, for the others the difference to it, with half "
        "the 95 % interval over seeds and pieces of text; lower is better. Tokens: "
        f"{', '.join(f'{name} {part}' for name, part in parts.items())}.",
        data=pd.DataFrame(cells, index=[row for row in results.study.rows if row in set(found["row"])]),
    )


def _words_and_number(name: str) -> tuple[str, int]:
    """`new 10 to 99` as ("new ", 10), so that ranges are in order also where the first text lacks one."""
    words = re.split(r"\d", name, maxsplit=1)[0]
    return words, int(name[len(words) :].partition(" ")[0] or 0)


def contexts(results: Results) -> Table:
    """Perplexity of the same last tokens by how much is read before them, as in the paper's appendix B."""
    return Table(
        title="Longer contexts",
        note=f"Perplexity of the same {LAST} tokens, the last of each window of the test text, by the number of tokens "
        "read in all, these included. Lower is better.",
        data=np.exp(results.mean("contexts")).map("{:.2f}".format).rename(columns="{:,} ↓".format),
    )


def prices(costs: Costs) -> Table:
    """What each row's model costs."""
    rows, shortest, longest = costs.rows, costs.lengths[0], costs.lengths[-1]
    first = rows.index[0]
    columns = {
        "parameters": rows["parameters"].map("{:,}".format),
        "tokens/s ↑": rows["tokens_per_second"].map(number),
        f"speed / {first} ↑": rows["speed"].map(_ratio).where(rows.index != first, MISSING),
        "peak MiB ↓": [number(size, MIB) for size in rows["peak_bytes"]],
        f"state KiB after {shortest:,} ↓": [number(sizes[0], KIB) for _, sizes in rows["state_bytes"]],
        f"state KiB after {longest:,} ↓": [number(sizes[-1], KIB) for _, sizes in rows["state_bytes"]],
        **({"note": rows["note"]} if rows["note"].any() else {}),
    }
    return Table(
        title="Cost",
        note=f"Training steps with the batch of the runs, the rows taking turns, on {costs.machine['device']}, torch "
        f"{costs.machine['torch']}: median tokens per second (higher is better), their ratio to those of {first} "
        "in the same round (median, lowest, highest), and peak memory beyond weights and optimizer (lower is better). "
        "The state is that of one sequence in float32, after as many tokens.",
        data=pd.DataFrame(columns, index=rows.index),
    )


def the_papers_table(costs: Costs, results: Results) -> Table:
    """The RetNet paper's Table 1, with measurements in the place of its marks."""
    rows, shortest, longest = costs.rows, costs.lengths[0], costs.lengths[-1]
    columns = {
        "long / short ↓": rows["one_sequence"].map(_ratio),
        "ms per token ↓": [_growth(quantity, MILLISECOND) for quantity in rows["token_seconds"]],
        "its ratio ↓": rows["longer_context"].map(_ratio),
        "state KiB ↓": [_growth(quantity, KIB) for quantity in rows["state_bytes"]],
        "memory exponent ↓": [number(exponent(quantity)) for quantity in rows["training_bytes"]],
        "perplexity ↓": filled("{:.2f}", np.exp(results.rows["loss"]).reindex(rows.index)),
    }
    return Table(
        title="The paper's Table 1, measured",
        note=f"Long / short: the time of a training step on one sequence of {longest:,} tokens, divided by that on as "
        f"many tokens in sequences of {SHORT}. It is 1 where only the number of tokens counts, and more where a token "
        "waits for those before it or costs more in a long sequence. Time per token and state: of decoding, after "
        f"{shortest:,} → {longest:,} tokens. Ratios are of times in the same round: median, lowest, highest. Memory "
        "exponent: the power of the length with which a training step's peak memory grows between the two longest "
        "lengths (1 is linear, 2 quadratic). Lower is better everywhere.",
        data=pd.DataFrame(columns, index=rows.index),
    )


def filled(template: str, *columns: Iterable[object]) -> list[str]:
    """A template with the values of each line; a dash where one is not known."""
    lines = zip(*columns, strict=True)
    return [template.format(*values) if all(map(pd.notna, values)) else MISSING for values in lines]


def _tokens(results: Results, *corpora: str) -> str:
    return f"{sum(np.nan_to_num(results.on(corpus, 'tokens').max().max()) for corpus in corpora):,.0f}"


def _ratio(spread: Spread | None) -> str:
    return "× {:.2f} ({:.2f} to {:.2f})".format(*spread) if spread else MISSING


def _growth(quantity: Growth, unit: float) -> str:
    return " → ".join(number(quantity[1][end], unit) for end in (0, -1))
