"""A table to read: what it shows, and its cells as text."""

from typing import NamedTuple

import pandas as pd

from lit_modules import console

MISSING = "–"


class Table(NamedTuple):
    """Its index names the rows; the note says what the numbers mean and which direction is better."""

    title: str
    note: str
    data: pd.DataFrame

    def markdown(self) -> str:
        lines = [["", *self.data.columns], ["---"] + ["---:"] * len(self.data.columns), *self.data.itertuples()]
        return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def number(value: float | None, unit: float = 1) -> str:
    """A quantity in some unit; a dash if it is not known."""
    return console.number(value / unit) if value is not None and pd.notna(value) else MISSING
