"""The report of a study: Markdown, CSV, and a page that opens from disk."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from lit_modules.commands.compare import cost_tables, figures, page, tables
from lit_modules.commands.compare.cost import Cost
from lit_modules.commands.compare.difference import spread
from lit_modules.commands.compare.figures import Picture
from lit_modules.commands.compare.results import RowResult
from lit_modules.commands.compare.study import Study
from lit_modules.commands.compare.tables import Table
from lit_modules.data.cache import replace_text


def write(study: Study, rows: Sequence[RowResult], costs: dict[str, Cost], machine: dict[str, str]) -> Path:
    """Writes the report of what is there by now; the folder it is in."""
    folder = study.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    parts = _parts(study, rows, costs, machine)
    for part in parts:
        if isinstance(part, Picture):
            replace_text(folder / f"{part.name}.svg", part.svg)
    replace_text(folder / "rows.csv", rows_csv(rows, costs))
    replace_text(folder / "runs.csv", runs_csv(rows))
    replace_text(folder / "pieces.csv", pieces_csv(rows))
    replace_text(folder / "report.md", markdown(study, parts))
    replace_text(folder / "index.html", page.html(heading(study), settings(study), parts))
    return folder


def _parts(
    study: Study, rows: Sequence[RowResult], costs: dict[str, Cost], machine: dict[str, str]
) -> list[Table | Picture]:
    """In the order in which they are read; what there are no numbers for is left out."""
    parts: list[Table | Picture | None] = [
        tables.quality(study, rows),
        tables.failures(rows),
        figures.differences(rows),
        figures.curves(rows),
        tables.out_of_domain(rows),
        figures.positions(rows),
        tables.contexts(rows),
    ]
    if costs:
        parts += [
            cost_tables.prices(costs, machine),
            figures.quality_against_cost(rows, costs),
            cost_tables.the_papers_table(costs, rows),
        ]
    return [part for part in parts if part is not None]


def heading(study: Study) -> str:
    return f"{study.name}: {len(study.rows)} rows, {len(study.seeds)} seed{'s' * (len(study.seeds) > 1)}"


def settings(study: Study) -> str:
    """The study's own file, as it was understood."""
    shared = {"seeds": list(study.seeds), "fit": study.fit, "rows": study.rows, "test": study.test}
    return yaml.safe_dump(shared, sort_keys=False, allow_unicode=True)


def markdown(study: Study, parts: Sequence[Table | Picture]) -> str:
    text = [f"# {heading(study)}"]
    for part in parts:
        text += [f"## {part.title}", part.note]
        text.append(_markdown_table(part) if isinstance(part, Table) else f"![{part.title}]({part.name}.svg)")
    return "\n\n".join([*text, "## Settings", f"```yaml\n{settings(study)}```"]) + "\n"


def _markdown_table(table: Table) -> str:
    lines = [table.columns, ["---"] + ["---:"] * (len(table.columns) - 1), *table.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def rows_csv(rows: Sequence[RowResult], costs: dict[str, Cost]) -> str:
    """One line a row, numbers in full."""
    corpora, apart = tables.tested_corpora(rows), tables.to_the_first(rows)
    lines = []
    for row in rows:
        found, cost = apart.get(row.name), costs.get(row.name)
        finished = bool(row.results)
        lines.append(
            {
                "row": row.name,
                "runs": len(row.results),
                "loss": np.mean(row.losses) if finished else None,
                "loss_deviation": spread(row.losses),
                "difference": found and found.mean,
                "low": found and found.low,
                "high": found and found.high,
                **{f"loss_{corpus}": row.on(corpus) if finished else None for corpus in corpora[1:]},
                "parameters": cost and cost.parameters,
                "tokens_per_second": cost and cost.tokens_per_second,
                "peak_bytes": cost and cost.peak_bytes,
                "state_bytes": cost and cost.state_bytes.values[-1],
                "failed": "; ".join(f"seed {seed}: {reason}" for seed, reason in row.failed.items()),
            }
        )
    return _csv(lines)


def runs_csv(rows: Sequence[RowResult]) -> str:
    """One line a run and corpus."""
    return _csv(
        [
            {
                "row": row.name,
                "seed": result.run.seed,
                "corpus": corpus,
                "tokens": found.tokens,
                "loss": found.loss,
                "bits_per_byte": found.bits_per_byte,
            }
            for row in rows
            for result in row.results
            for corpus, found in result.corpora.items()
        ]
    )


def pieces_csv(rows: Sequence[RowResult]) -> str:
    """One line a run and piece of the training corpus's test: what the intervals are drawn from."""
    return _csv(
        [
            {"row": row.name, "seed": result.run.seed, "piece": piece, "tokens": int(tokens), "nats": nats}
            for row in rows
            for result in row.results
            for piece, (tokens, nats) in enumerate(next(iter(result.pieces.values())))
        ]
    )


def _csv(lines: Sequence[Mapping[str, object]]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(lines[0]) if lines else ["row"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()
