"""The report of a study: Markdown with its pictures, CSV, a page that opens from disk, and TensorBoard."""

import shutil
from pathlib import Path

import jinja2
import pandas as pd
import yaml
from torch.utils.tensorboard import SummaryWriter

from lit_modules.commands.compare import figures, tables
from lit_modules.commands.compare.cost import Costs
from lit_modules.commands.compare.figures import Picture
from lit_modules.commands.compare.results import Results
from lit_modules.commands.compare.study import Study
from lit_modules.commands.table import Table
from lit_modules.data.cache import replace_text

TEMPLATES = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)


def write_tables(results: Results) -> None:
    """The report without pictures, which are for when all is done."""
    _write(results, [tables.quality(results), tables.failures(results), tables.other_corpora(results)], None)


def write(results: Results, costs: Costs | None) -> Path:
    """Writes all of the report; where its page is. What there are no numbers for is left out."""
    parts: list[Table | Picture | None] = [
        tables.quality(results),
        tables.failures(results),
        figures.differences(results),
        figures.curves(results),
        tables.other_corpora(results),
        figures.positions(results),
        tables.contexts(results),
    ]
    if costs:
        parts += [
            tables.prices(costs),
            figures.quality_against_cost(results, costs),
            tables.the_papers_table(costs, results),
        ]
    folder = _write(results, parts, costs)
    there = [part for part in parts if part]
    for part in there:
        if isinstance(part, Picture):
            replace_text(folder / f"{part.name}.svg", part.svg)
    study = results.study
    page = TEMPLATES.get_template("report.html").render(title=heading(study), settings=settings(study), parts=there)
    replace_text(folder / "index.html", page)
    write_tensorboard(results, (folder / "report.md").read_text(encoding="utf-8"))
    return folder / "index.html"


def _write(results: Results, parts: list[Table | Picture | None], costs: Costs | None) -> Path:
    folder = results.study.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / "rows.csv", rows(results, costs).to_csv(index=False))
    runs = results.of("corpora")[["row", "seed", "corpus", "tokens", "loss", "bits_per_byte"]]
    replace_text(folder / "runs.csv", runs.to_csv(index=False))
    replace_text(folder / "report.md", markdown(results.study, [part for part in parts if part]))
    return folder


def heading(study: Study) -> str:
    return f"{study.name}: {len(study.rows)} rows, {len(study.seeds)} seed{'s' * (len(study.seeds) > 1)}"


def settings(study: Study) -> str:
    """The study's own file, as it was understood."""
    shared = {"seeds": study.seeds, "fit": study.fit, "rows": study.rows, "test": study.test}
    return yaml.safe_dump(shared, sort_keys=False, allow_unicode=True)


def markdown(study: Study, parts: list[Table | Picture]) -> str:
    text = [f"# {heading(study)}"]
    for part in parts:
        text += [f"## {part.title}", part.note]
        text.append(part.markdown() if isinstance(part, Table) else f"![{part.title}]({part.name}.svg)")
    return "\n\n".join(text) + "\n"


def rows(results: Results, costs: Costs | None) -> pd.DataFrame:
    """One line for each row, numbers in full."""
    lines = []
    for row, losses in results.losses.iterrows():
        apart, cost = results.differences.get(row), costs.rows.get(row) if costs else None
        reasons = [f"seed {seed}: {reason}" for (name, seed), reason in results.failed.items() if name == row]
        lines.append(
            {
                "row": row,
                "runs": losses.count(),
                "loss": losses.mean(),
                "loss_deviation": losses.std(),
                "difference": apart and apart.mean,
                "low": apart and apart.low,
                "high": apart and apart.high,
                **{f"loss_{corpus}": results.on(corpus).loc[row].mean() for corpus in results.corpora[1:]},
                "parameters": cost and cost.parameters,
                "tokens_per_second": cost and cost.tokens_per_second,
                "peak_bytes": cost and cost.peak_bytes,
                "state_bytes": cost and cost.state_bytes.values[-1],
                "failed": "; ".join(reasons),
            }
        )
    return pd.DataFrame(lines)


def write_tensorboard(results: Results, report: str) -> None:
    """Writes what the finished runs were made of and their results, and the report as text.

    TensorBoard then has a table of runs to sort by what they were made of, beside their own curves.
    """
    folder = results.study.folder / "tensorboard"
    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(str(folder)) as writer:
        writer.add_text("report", report)
    for (row, seed), numbers in results.table.groupby(["row", "seed"], sort=False):
        run = results.study.run(row, seed)
        model = {name: value for name, value in run.options["model"].items() if isinstance(value, str | int | float)}
        made_of = {"row": row, "seed": seed, **model, "max_steps": run.options["trainer"]["max_steps"]}
        tested = numbers[numbers["kind"] == "corpora"]
        metrics = {"test/loss": tested["loss"].iloc[0]}
        metrics |= {f"test/loss {corpus}": loss for corpus, loss in zip(tested["corpus"], tested["loss"], strict=True)}
        by_context = numbers[numbers["kind"] == "contexts"]
        metrics |= {
            f"test/last 128 of {at}": loss for at, loss in zip(by_context["at"], by_context["loss"], strict=True)
        }
        with SummaryWriter(str(folder / run.folder.parent.name / run.folder.name)) as writer:
            writer.add_hparams(made_of, metrics, run_name=".")
            by_position = numbers[numbers["kind"] == "positions"]
            for loss, last in zip(by_position["loss"], by_position["last"], strict=True):
                writer.add_scalar("test/loss by position", loss, last)
