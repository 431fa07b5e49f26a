"""Linear attention with decay: `o, state = decayed_linear_attention(q, k, v, log_decay, state, chunk_size)`.

The first op gives the output and the state's `kv`; the second also gives the weight of what was read, for normalisers,
and the state as a `DecayState`. Shapes are in reference.py.
"""

from collections.abc import Callable

from torch import Tensor

from mixers.ops.decay import fla
from mixers.ops.decay.blocked import blocked, unsupported_reason
from mixers.ops.decay.chunkwise import chunkwise
from mixers.ops.decay.reference import DecayState, examples, examples_without_weights, reference
from mixers.ops.decay.segmented import segmented
from mixers.ops.op import Implementation, Op, single_token, unless_sequence_on_cpu

__all__ = ["DecayState", "decayed_linear_attention", "decayed_linear_attention_with_weights"]

WithWeights = tuple[Tensor, Tensor, DecayState]


def _without_weights(run: Callable[..., WithWeights]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Weights cost next to nothing beside the products, so only a kernel that knows none leaves them out."""

    def run_without(
        q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, kv: Tensor | None, chunk_size: int = 1
    ) -> tuple[Tensor, Tensor]:
        state = None if kv is None else DecayState(kv, kv.new_zeros(kv.shape[:3]))
        output, _, state = run(q, k, v, log_decay, state, chunk_size)
        return output, state.kv

    return run_without


on_any_device = [
    Implementation("blocked", blocked, unsupported_reason),
    Implementation("segmented", segmented, unless_sequence_on_cpu),
    Implementation("chunkwise", chunkwise, single_token),
]

decayed_linear_attention_with_weights: Op[WithWeights] = Op(
    reference, [Implementation("fla", fla.fla_with_weights, fla.unsupported_reason), *on_any_device], examples
)

decayed_linear_attention: Op[tuple[Tensor, Tensor]] = Op(
    _without_weights(reference),
    [
        Implementation("fla", fla.fla, fla.unsupported_reason),
        *(Implementation(name, _without_weights(run), reason) for name, run, reason in on_any_device),
    ],
    examples_without_weights,
)
