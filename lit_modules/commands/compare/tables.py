"""The tables of a report."""

import math
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from lit_modules.commands.compare.difference import Difference, difference, spread
from lit_modules.commands.compare.results import RowResult
from lit_modules.commands.compare.study import Study

MISSING = "–"


class Table(NamedTuple):
    """A table as it is read; the first column names the rows."""

    title: str
    note: str
    columns: list[str]
    rows: list[list[str]]


def quality(study: Study, rows: Sequence[RowResult]) -> Table:
    """Loss on the test text of the training corpus, and how sure the differences are."""
    corpora = tested_corpora(rows)
    differences = to_the_first(rows)
    lines = []
    for row in rows:
        if not row.results:
            lines.append([row.name, *[MISSING] * 5, ran(row, study)])
            continue
        losses, apart = row.losses, spread(row.losses)
        found = differences.get(row.name)
        first = row.results[0].corpora[corpora[0]]
        lines.append(
            [
                row.name,
                f"{np.mean(losses):.4f}" + ("" if apart is None else f" ± {apart:.4f}"),
                MISSING if found is None else f"{found.mean:+.4f}",
                MISSING if found is None or math.isnan(found.low) else f"{found.low:+.4f} to {found.high:+.4f}",
                f"{np.exp(np.mean(losses)):.2f}",
                f"{np.mean(losses) * first.bits_per_byte / first.loss:.4f}",
                ran(row, study),
            ]
        )
    tokens = next((row.results[0].corpora[corpora[0]].tokens for row in rows if row.results), 0)
    split = study.test.get("split", "test")
    return Table(
        title="Quality",
        note=f"Nats a token over {tokens:,} tokens of the {split} split, which no run has read; mean ± standard "
        f"deviation over seeds. Differences are to {study.first}, with the interval that covers 95 % of a paired "
        "bootstrap over seeds and pieces of text: where it holds zero, this study does not tell the two apart.",
        columns=["", "loss", "difference", "95 % interval", "perplexity", "bits per byte", "runs"],
        rows=lines,
    )


def failures(rows: Sequence[RowResult]) -> Table | None:
    """Why runs failed."""
    lines = [[row.name, str(seed), reason] for row in rows for seed, reason in row.failed.items()]
    note = "These count nowhere else. To try one again, delete its folder."
    return Table(title="Runs that failed", note=note, columns=["", "seed", "reason"], rows=lines) if lines else None


def out_of_domain(rows: Sequence[RowResult]) -> Table | None:
    """Perplexity on the other corpora."""
    corpora = tested_corpora(rows)[1:]
    if not corpora:
        return None
    first = next(row for row in rows if row.results).results[0]
    lines = [
        [row.name, *(f"{np.exp(row.on(corpus)):.1f} ({first_difference(rows, row, corpus)})" for corpus in corpora)]
        for row in rows
        if row.results
    ]
    return Table(
        title="Other corpora",
        note="Perplexity on text of other kinds, and in brackets the difference in nats a token to the first row. "
        "Tokens read: " + ", ".join(f"{corpus} {first.corpora[corpus].tokens:,}" for corpus in corpora) + ".",
        columns=["", *corpora],
        rows=lines,
    )


def contexts(rows: Sequence[RowResult]) -> Table | None:
    """Perplexity of the same last tokens by how much is read before them, as in the paper's appendix B."""
    lengths = sorted(set(chain.from_iterable(result.contexts for row in rows for result in row.results)))
    if not lengths:
        return None
    lines = [
        [row.name, *(f"{np.exp(np.mean([result.contexts[n] for result in row.results])):.2f}" for n in lengths)]
        for row in rows
        if row.results
    ]
    return Table(
        title="Longer contexts",
        note="Perplexity of the same 128 tokens, the last of windows of the test text, by the tokens read in all.",
        columns=["", *(f"{length:,}" for length in lengths)],
        rows=lines,
    )


def tested_corpora(rows: Sequence[RowResult]) -> list[str]:
    """Those that every finished run was tested on, that of training first."""
    tested = [list(result.corpora) for row in rows for result in row.results]
    return [corpus for corpus in tested[0] if all(corpus in others for others in tested)] if tested else []


def to_the_first(rows: Sequence[RowResult]) -> dict[str, Difference]:
    """The difference of each other row to the first on the training corpus's test, where there is one."""
    corpora = tested_corpora(rows)
    found = {row.name: difference(row, rows[0], corpora[0]) for row in rows[1:] if row.results} if corpora else {}
    return {name: value for name, value in found.items() if value is not None}


def first_difference(rows: Sequence[RowResult], row: RowResult, corpus: str) -> str:
    found = difference(row, rows[0], corpus) if row is not rows[0] else None
    return MISSING if found is None else f"{found.mean:+.3f}"


def ran(row: RowResult, study: Study) -> str:
    """How many runs there are, and what became of the others."""
    parts = [f"{len(row.results)} of {len(study.seeds)}"]
    parts += [f"{len(row.failed)} failed"] if row.failed else []
    return ", ".join(parts)
