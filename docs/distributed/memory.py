"""Memory per GPU of the configs of the paper's models, computed: python docs/distributed/memory.py"""

from pathlib import Path

import torch
import yaml

from lit_modules.commands.compare.cost import build_model
from mixers.benchmark import Case

CONFIGS = Path(__file__).parents[2] / "configs" / "paper"
VOCABULARY = 50257  # GPT-2's
STATE = 16  # bytes of a parameter: weight, gradient and AdamW's two moments in float32
BUCKETS = 4  # bytes of a parameter: the copy of the gradients that DDP sends
GIB = 2**30


def row(name: str) -> str:
    """A model's line of the table."""
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text("utf-8"))
    with torch.device("meta"):
        model = build_model({"mixer": "retention"} | config["model"], Case(0, vocab_size=VOCABULARY))
    size = sum(parameter.numel() for parameter in model.parameters())
    block = sum(parameter.numel() for parameter in model.blocks[0].parameters())
    # Whole at one time: the weights of two blocks, one of which is on its way, the gradients of one, and of what is
    # outside of the blocks both.
    whole = 4 * (3 * block + 2 * (size - block * len(model.blocks)))
    # What enters each block, for one sequence.
    stream = 4 * config["data"]["block_size"] * config["model"]["dim"] * len(model.blocks)
    shared = [(STATE * size / processes + whole) / GIB for processes in (8, 32, 64)]
    cells = [f"{size / 1e9:.2f} B", f"{(STATE + BUCKETS) * size / GIB:.1f}", *(f"{gib:.1f}" for gib in shared)]
    return f"| {' | '.join([name, *cells, f'{stream / GIB:.2f}', f'{12 * size / GIB:.0f}'])} |"


if __name__ == "__main__":
    print("\n".join(row(name) for name in ("200m", "1.3b", "2.7b", "6.7b")))
