"""Data sets of the Hub, whose rows are read from the files that the `datasets` library prepares."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lit_modules.data.errors import usage_error
from lit_modules.data.packaged import PACKAGED
from lit_modules.data.readers import PART_BYTES, check_field, read_rows
from lit_modules.data.splits import WANTED, Part, Piece, all_as, split_by_hash


class HubDataset:
    """A data set: its own splits where it has them, else held out by a hash of the document.

    Args:
        name: `owner/name` or `owner/name:config`.
        text_field: The field of a row that holds its text.
        cache_dir: The folder that keeps what the library prepares.

    Raises:
        UsageError: If it cannot be loaded, or has no such field, or no split of these names.
    """

    def __init__(self, name: str, text_field: str, cache_dir: Path) -> None:
        self.name, self.text_field = name, text_field
        found = load_rows(name, cache_dir=str(cache_dir / "datasets"))
        self._own = {split: found[split] for split in ("train", *WANTED) if split in found}
        if not self._own:
            raise usage_error(f"corpus={name!r} has no split named 'train' or 'test', only {', '.join(found)}.")
        for rows in self._own.values():
            check_field(rows.column_names, text_field, f"corpus={name!r}")
        self.splits = tuple(split for split in ("train", *WANTED) if split in self._own or "train" in self._own)

    def parts(self) -> list[Part]:
        """All splits."""
        missing = [split for split in WANTED if split not in self._own]
        held_out = [part for split in WANTED if split in self._own for part in all_as(split, self._pieces(split))]
        if "train" not in self._own:
            return held_out
        pieces = list(self._pieces("train"))
        return [*(split_by_hash(pieces, missing) if missing else all_as("train", pieces)), *held_out]

    def unseen_parts(self) -> list[Part]:
        """For testing what was trained on other text: the data set's own test split, or else all of it."""
        splits = ["test"] if "test" in self._own else list(self._own)
        return [part for split in splits for part in all_as("test", self._pieces(split))]

    def fingerprint(self) -> Iterator[str]:
        """What changes when the data set does: the library names its folders after the revision on the Hub."""
        yield from (self.name, self.text_field)
        for rows in self._own.values():
            for file in rows.cache_files:
                yield "/".join(Path(file["filename"]).parts[-4:])

    def _pieces(self, split: str) -> Iterator[Piece]:
        rows, where = self._own[split], f"corpus={self.name!r}"
        size = rows.data.nbytes
        each = max(1, len(rows) * PART_BYTES // max(1, size))
        for start in range(0, len(rows), each):
            chosen = range(start, min(start + each, len(rows)))
            documents = partial(read_rows, rows.select(chosen), self.text_field, where)
            yield Piece(f"{where}, {split} rows", size * len(chosen) // len(rows), documents)


def load_rows(name: str, **options: Any) -> Mapping[str, Any]:
    """The splits of a data set; raises UsageError if it cannot be loaded."""
    import datasets  # takes a second to import, and packaged and local text do not need it

    repository, _, config = name.partition(":")
    try:
        return datasets.load_dataset(repository, config or None, **options)
    except Exception as error:  # offline, unknown, gated, no such config: many kinds, and one thing to say
        raise usage_error(
            f"corpus={name!r} is no path here and `datasets` cannot load it ({' '.join(str(error).split())}): write "
            f"'owner/name' or 'owner/name:config', a path, or one of {', '.join(PACKAGED)}."
        ) from error
