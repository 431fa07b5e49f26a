"""The study in TensorBoard: a table of runs to sort by what they were made of, beside their own curves."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from lit_modules.commands.compare.results import Result, RowResult


def write(folder: Path, rows: Sequence[RowResult], report: str) -> None:
    """Writes what the finished runs were made of and what came out of them, and the report as text.

    Args:
        folder: Of these summaries; what was there before is replaced.
        rows: The results.
        report: In Markdown.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(str(folder)) as writer:
        writer.add_text("report", report)
    for row in rows:
        for result in row.results:
            name = f"{result.run.folder.parent.name}/{result.run.folder.name}"
            with SummaryWriter(str(folder / name)) as writer:
                writer.add_hparams(_made_of(row.name, result), _metrics(result), run_name=".")
                for point in result.positions:
                    writer.add_scalar("test/loss by position", point.loss, point.last)


def _made_of(row: str, result: Result) -> dict[str, str | int | float]:
    options = result.run.options
    model = {name: value for name, value in options["model"].items() if isinstance(value, str | int | float)}
    return {"row": row, "seed": result.run.seed, **model, "max_steps": options["trainer"]["max_steps"]}


def _metrics(result: Result) -> dict[str, float]:
    losses = {f"test/loss {corpus}": found.loss for corpus, found in result.corpora.items()}
    return {"test/loss": result.loss, **losses} | {
        f"test/last 128 of {length}": loss for length, loss in result.contexts.items()
    }
