"""Time and memory of mixers by length: training, reading a prompt, and writing token by token."""

from mixers.benchmark.measure import Row, measure, train_flops
from mixers.benchmark.work import Case, Phase, Target, language_model, layer, model, op

__all__ = ["Case", "Phase", "Row", "Target", "language_model", "layer", "measure", "model", "op", "train_flops"]
