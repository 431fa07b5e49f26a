"""Time and memory of mixers by length: training, reading a prompt, and writing token by token."""

from mixers.benchmark.measure import Row, measure
from mixers.benchmark.peers import peers
from mixers.benchmark.work import Setting, Subject, What, layer, model, op

__all__ = ["Row", "Setting", "Subject", "What", "layer", "measure", "model", "op", "peers"]
