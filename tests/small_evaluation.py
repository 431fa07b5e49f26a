"""A trained run in a folder, another text, and the tables of a test."""

from pathlib import Path

from small_runs import lines, model, text, trainer, write_text

OTHER = "".join(f"Zeile {index}: größer als {index // 2} €\n" for index in range(20))
Rows = list[dict[str, str]]


def read(folder: Path, name: str) -> Rows:
    return lines(folder / f"{name}.csv")


def column(rows: Rows, name: str) -> list[float]:
    return [float(row[name]) for row in rows]


def trained_folder(folder: Path) -> Path:
    """The folder, with a text, another text and a trained run."""
    (folder / "other.txt").write_text(OTHER, encoding="utf-8")
    write_text(folder / "corpus.txt", words=2500)
    data = text(folder)
    trainer(folder, max_steps=4).fit(model(data), datamodule=data)
    return folder


def run_of(folder: Path) -> Path:
    """The folder of that run."""
    return folder / "runs" / "retention-attention" / "version_0"
