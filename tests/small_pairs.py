"""Prompts with responses of one form, for the tests of fine-tuning."""

import json
import random
import re
from pathlib import Path

from small_runs import WORDS

FORM = re.compile(r"first (\w+), last (\w+)")


def rows(count: int, *, seed: int = 0) -> list[dict[str, str]]:
    """Prompts of three words; each response says which come first and last."""
    draw = random.Random(seed)
    prompts = [" ".join(draw.choices(WORDS, k=3)) for _ in range(count)]
    return [{"prompt": p, "response": f"first {p.split()[0]}, last {p.split()[-1]}"} for p in prompts]


def write_rows(path: Path, made: list) -> Path:
    """A .jsonl file of rows."""
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return path
