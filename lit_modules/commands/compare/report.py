"""The report of a study: Markdown with its pictures, CSV, a page that opens from disk, and TensorBoard."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import jinja2
import pandas as pd
import yaml
from torch.utils.tensorboard import SummaryWriter

from lit_modules.commands.compare import figures, tables, tuning
from lit_modules.commands.compare.cost import Costs
from lit_modules.commands.compare.figures import Picture
from lit_modules.commands.compare.results import Results
from lit_modules.commands.compare.study import Study
from lit_modules.commands.compare.tuning_tables import tuning_tables
from lit_modules.commands.table import Table
from lit_modules.data.cache import replace_text
from lit_modules.evaluation.scores import LAST

TEMPLATES = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)


def write(results: Results, costs: Costs | None, search: tuning.Search | None = None) -> Path:
    """Writes the report, without what there are no numbers for; where its page is."""
    everything: list[Table | Picture | None] = [
        tables.quality(results),
        tables.failures(results),
        figures.differences(results),
        figures.curves(results),
        tables.other_corpora(results),
        figures.positions(results),
        *(tables.by_class(results, by) for by in tables.CLASSES),
        tables.contexts(results),
    ]
    if costs:
        everything += [
            tables.prices(costs),
            figures.quality_against_cost(results, costs),
            tables.the_papers_table(costs, results),
        ]
    everything += tuning_tables(search) if search else []
    study = results.study
    title = f"{study.name}: {len(study.rows)} rows, {len(study.seeds)} seed{'s' * (len(study.seeds) > 1)}"
    runs = results.of("corpora")[["row", "seed", "corpus", "tokens", "loss", "bits_per_byte"]]
    files = {"rows.csv": rows(results, costs).to_csv(index_label="row"), "runs.csv": runs.to_csv(index=False)}
    if search:
        files["tuning.csv"] = tuning.table(search).to_csv(index=False)
    return write_page(study, title, everything, files)


def write_page(study: Study, title: str, everything: Sequence[Table | Picture | None], files: dict[str, str]) -> Path:
    """Writes the tables and pictures that there are as Markdown and as one page, beside other files; where that is."""
    parts = [part for part in everything if part and not (isinstance(part, Table) and part.data.empty)]
    asked = {"seeds": study.seeds, "fit": study.fit, "rows": study.rows, "test": study.test}
    settings = yaml.safe_dump(asked, sort_keys=False, allow_unicode=True)
    texts = [f"# {title}", *(text for part in parts for text in (f"## {part.title}", part.note, part.markdown()))]
    files = {
        **files,
        "report.md": "\n\n".join(texts) + "\n",
        **{f"{part.name}.svg": part.svg for part in parts if isinstance(part, Picture)},
        "index.html": TEMPLATES.get_template("report.html").render(title=title, settings=settings, parts=parts),
    }
    folder = study.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        replace_text(folder / name, text)
    return folder / "index.html"


def rows(results: Results, costs: Costs | None) -> pd.DataFrame:
    """One line for each row, numbers in full."""
    columns = ["parameters", "tokens_per_second", "peak_bytes", "state_bytes"]
    cost = pd.DataFrame(costs.rows if costs else None, columns=columns)
    cost["state_bytes"] = cost["state_bytes"].map(lambda growth: growth[1][-1])  # after the longest
    others = {f"loss_{corpus}": results.on(corpus).mean(axis=1) for corpus in results.others}
    table = results.rows.assign(**others).join(cost)
    reasons = [
        "; ".join(f"seed {seed}: {reason}" for (name, seed), reason in results.failed.items() if name == row)
        for row in table.index
    ]
    return table.assign(failed=reasons)


def write_tensorboard(results: Results) -> None:
    """Writes what the finished runs were made of and their test losses, by position, too, and the report as text.

    TensorBoard then has a table of runs to sort by what they were made of, beside their own curves.
    """
    study = results.study
    folder = study.folder / "tensorboard"
    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(str(folder)) as writer:
        writer.add_text("report", (study.folder / "report" / "report.md").read_text(encoding="utf-8"))
    for (row, seed), numbers in results.table.groupby(["row", "seed"], sort=False):
        run = study.run(row, seed)
        model = {name: value for name, value in run.options["model"].items() if isinstance(value, str | int | float)}
        made_of = {"row": row, "seed": seed, **model, "max_steps": run.options["trainer"]["max_steps"]}
        kinds = ("corpora", "contexts", "positions")
        tested, contexts, positions = (numbers[numbers["kind"] == kind] for kind in kinds)
        losses = {f"test/loss {corpus}": loss for corpus, loss in zip(tested["corpus"], tested["loss"], strict=True)}
        losses |= {f"test/last {LAST} of {at}": loss for at, loss in zip(contexts["at"], contexts["loss"], strict=True)}
        with SummaryWriter(str(folder / run.folder.relative_to(study.folder))) as writer:
            writer.add_hparams(made_of, {"test/loss": tested["loss"].iloc[0], **losses}, run_name=".")
            for last, loss in zip(positions["last"], positions["loss"], strict=True):
                writer.add_scalar("test/loss by position", loss, last)
