"""The page mixers.md, with every mixer: `python docs/mixer_table.py` writes it, `--measure` measures the costs first.

What the code says is read from it: papers, options, parameters and states. Costs are in mixers.json, accuracies in the
reports of the studies in tasks/, and mixers.yaml has the rest.
"""

import argparse
import csv
import inspect
import json
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor
from torch.utils import _pytree as pytree

from lit_modules.commands.benchmark import machine
from lit_modules.commands.table import MISSING
from mixers import Mixer, available
from mixers.benchmark import Case, layer, measure

HERE = Path(__file__).parent
PAGE, COSTS, TEXTS = HERE / "mixers.md", HERE / "mixers.json", HERE / "mixers.yaml"
STUDIES = HERE.parent / "configs" / "tasks"

DIM = 1024
LENGTHS = (1024, 32_768)  # after which states are shown
MEASURED = 4096  # tokens trained on, or read before the one that is decoded
PAPER = re.compile(r"arXiv:(\d{4}\.\d{4,5})|doi:([^\s,;)]+)")  # the first in a mixer's docstring is its own
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")

GROUPS = {
    "attention": "Softmax attention",
    "fixed": "Linear attention whose decays do not depend on the input",
    "learned": "Linear attention whose decays depend on the input",
    "delta": "Delta rules",
    "convolution": "Long convolutions and state spaces that do not depend on the input",
    "rnn": "Recurrent networks",
    "short": "Short convolution",
}


class Task(NamedTuple):
    heading: str
    column: str  # of the report's rows.csv


TASKS = {
    "recall": Task("recall after 2,000 steps, %", "accuracy"),
    "parity": Task("parity of 256, % (chance 50)", "accuracy_length=256"),
    "s3": Task("S3 of 128, % (chance 17)", "accuracy_length=128"),
}

INTRODUCTION = """# Mixers

Written by `python docs/mixer_table.py` from the code, `mixers.yaml` and measurements; change those instead.

- **Recall from anywhere in the context** takes attention, in a few layers at least:
  `--model.pattern=[mamba2,mamba2,attention]`.
- **A state of constant size** with the best recall in [our study](recall.md): `gated_deltanet`, `based` or `deltanet`.
- **Tracking states**, such as the parity of a sequence: a delta rule with `allow_neg_eigval=true`, or `lstm`.
- **The least arithmetic** of today's recurrent mixers: one decay for each head and no correction, `lightning` or
  `mamba2`.
- **Local work only**, beside other blocks: `gated_conv`, or `attention` with a `window`.

## Sizes and costs

All with default options at width 1024 in float32. Lower is better but for accuracy. *Parameters* are in units of dim²;
in a block, a feed-forward layer makes up the difference to 12. *State* is what one layer remembers of one sequence, in
KiB.
"""

EQUATIONS = """In equations, S is a head's matrix of keys × values, q, k and v are its query, key and value, projected,
convolved, activated, normalised and scaled as the docstring says, ⊙ multiplies channel by channel, W_o is the output's
projection, and biases are left out."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help="measure costs first, which takes some minutes")
    if parser.parse_args().measure:
        torch.set_num_threads(1)
        COSTS.write_text(json.dumps(costs(own_mixers()), indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")


def own_mixers() -> dict[str, type[Mixer[Any]]]:
    """The mixers of this package, in the order of the page."""
    return {name: available()[name] for group in GROUPS for name, text in texts().items() if text["group"] == group}


@cache
def texts() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = yaml.safe_load(TEXTS.read_text(encoding="utf-8"))
    return found


def costs(mixers: dict[str, type[Mixer[Any]]], length: int = MEASURED, dim: int = DIM) -> dict[str, Any]:
    """Seconds for each token of training and of decoding, the mixers in turns."""
    targets = {name: layer(mixer) for name, mixer in mixers.items()}
    case = Case(length, dim=dim)
    seconds = {
        phase: {row.subject: 1 / row.tokens_per_second for row in measure(phase, targets, [case], rounds=2, repeats=1)}
        for phase in ("train", "decode")
    }
    return machine(case.device) | {"length": length, "dim": dim, "seconds": seconds}


def page() -> str:
    """All of mixers.md."""
    measured = json.loads(COSTS.read_text(encoding="utf-8")) if COSTS.is_file() else None
    parts = [INTRODUCTION + "\n".join(notes(measured)), "\n".join(size_table(measured)), EQUATIONS]
    for group, title in GROUPS.items():
        parts += [f"## {title}", *(about(name) for name in own_mixers() if texts()[name]["group"] == group)]
    return "\n\n".join(parts) + "\n"


def notes(measured: dict[str, Any] | None) -> list[str]:
    """Where costs and accuracies come from."""
    if measured is None:
        lines = ["*Training* and *decoding* are not measured yet."]
    else:
        lines = [
            "*Training* is forward and backward over "
            f"{measured['length']:,} tokens, *decoding* one token after as many: µs for each token and, in",
            f"brackets, times attention's. {measured['device']}, torch {measured['torch']}, {measured['date'][:10]}.",
        ]
    missing = [name for name in TASKS if not report(name).is_file()]
    done = [name for name in TASKS if name not in missing]
    if done:
        links = (f"[{name}](tasks/{name}/report/report.md)" for name in done)
        lines.append(f"Accuracies are those of small models: {', '.join(links)}.")
    if missing:
        lines.append(f"Accuracies of these studies are not there yet: {', '.join(missing)}.")
    return lines


def size_table(measured: dict[str, Any] | None) -> list[str]:
    """The table of all mixers by numbers."""
    headings = ["mixer", "paper", "parameters", *(f"state, {length:,} tokens" for length in LENGTHS)]
    headings += ["training", "decoding", *(task.heading for task in TASKS.values())]
    found = [accuracies(name) for name in TASKS]
    lines = [headings, ["---", "---", *["---:"] * (len(headings) - 2)]]
    for name, mixer in own_mixers().items():
        with torch.device("meta"):
            made = mixer(DIM)
        size = sum(weight.numel() for weight in made.parameters()) / DIM**2
        states = [f"{state_bytes(made, length) / 1024:,.0f}" for length in LENGTHS]
        times = [cost(measured, phase, name) for phase in ("train", "decode")]
        right = [accuracy.get(name, MISSING) for accuracy in found]
        lines.append([f"[`{name}`](#{name})", paper(mixer), f"{size:.1f}", *states, *times, *right])
    return ["| " + " | ".join(line) + " |" for line in lines]


def state_bytes(mixer: Mixer[Any], length: int) -> int:
    """Bytes of the state of one sequence, of a mixer on the meta device, after so many tokens."""
    state = mixer.initial_state(1)
    if not mixer.constant_state:
        with torch.no_grad():
            state = mixer.extend(torch.empty(1, length, mixer.dim, device="meta"), state)[1]
    return sum(leaf.nbytes for leaf in pytree.tree_leaves(state) if isinstance(leaf, Tensor))


def cost(measured: dict[str, Any] | None, phase: str, name: str) -> str:
    seconds = measured["seconds"][phase] if measured else {}
    return f"{1e6 * seconds[name]:,.0f} ({seconds[name] / seconds['attention']:.1f})" if name in seconds else MISSING


def report(task: str) -> Path:
    return HERE / "tasks" / task / "report" / "rows.csv"


def accuracies(task: str) -> dict[str, str]:
    """By mixer, percent of right answers, with what tells its rows of the study apart if there are several."""
    if not report(task).is_file():
        return {}
    study = yaml.safe_load((STUDIES / f"{task}.yaml").read_text(encoding="utf-8"))
    percents: dict[str, dict[str, str]] = {}
    with report(task).open(encoding="utf-8") as file:
        for line in csv.DictReader(file):
            model, right = study["rows"][line["row"]]["model"], line[TASKS[task].column]
            mixer = model["pattern"][-1] if "pattern" in model else model["mixer"]
            name = mixer if isinstance(mixer, str) else mixer["class_path"]
            if right:
                percents.setdefault(name, {})[line["row"]] = f"{100 * float(right):.0f}"
    return {name: cell(rows) for name, rows in percents.items()}


def cell(percents: dict[str, str]) -> str:
    """The percents of one mixer by row of the study, each with what its name has that the others' have not."""
    same = len({row.partition(", ")[0] for row in percents}) == 1
    kinds = {row: row.partition(", ")[2] if same else row[0].lower() + row[1:] for row in percents}
    return ", ".join(percent + f" ({kinds[row]})" * bool(kinds[row]) for row, percent in percents.items())


def paper(mixer: type[Mixer[Any]]) -> str:
    """A link to the paper that a mixer's docstring names first."""
    found = PAPER.search(inspect.getdoc(mixer) or "")
    assert found, f"{mixer.__name__} names no paper in its docstring: write arXiv:NUMBER or doi:NUMBER."
    arxiv, doi = found.groups()
    return f"[{arxiv}](https://arxiv.org/abs/{arxiv})" if arxiv else f"[doi](https://doi.org/{doi})"


def options(mixer: type[Mixer[Any]]) -> str:
    """The options with their defaults."""
    parameters = inspect.signature(mixer).parameters.values()
    found = [f"`{each.name}={each.default!r}`" for each in parameters if each.kind == each.KEYWORD_ONLY]
    return ", ".join(found) or "none"


def about(name: str) -> str:
    """A mixer in words."""
    text, mixer = texts()[name], available()[name]
    lines = [f"### {name}", "", f"`{text['equation']}`", "", f"- **Good.** {text['good']}"]
    lines += [f"- **Limits.** {text['limits']}", f"- **Weights that load.** {text['weights']}"]
    return ARXIV.sub(r"[\1](https://arxiv.org/abs/\1)", "\n".join([*lines, f"- **Options.** {options(mixer)}"]))


if __name__ == "__main__":
    main()
