"""Time and memory of mixers by length: training, reading a prompt, and writing token by token."""

from mixers.benchmark.measure import Row, measure, train_flops
from mixers.benchmark.peers import peers
from mixers.benchmark.work import Setting, Subject, What, language_model, layer, model, op

__all__ = [
    "Row", "Setting", "Subject", "What", "language_model", "layer", "measure", "model", "op", "peers", "train_flops",
]  # fmt: skip
