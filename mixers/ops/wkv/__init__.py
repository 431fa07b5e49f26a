"""RWKV's weighted mean of values: `y, state = wkv(k, v, time_decay, time_first, state)`."""

from torch import Tensor

from mixers.ops.op import Implementation, Op, single_token, unless_sequence_on_cpu
from mixers.ops.wkv.blocked import blocked
from mixers.ops.wkv.chunked import chunked
from mixers.ops.wkv.reference import LOG_ZERO, WKVState, examples, reference

__all__ = ["LOG_ZERO", "WKVState", "wkv"]

wkv: Op[tuple[Tensor, WKVState]] = Op(
    reference,
    [Implementation("blocked", blocked, unless_sequence_on_cpu), Implementation("chunked", chunked, single_token)],
    examples,
)
