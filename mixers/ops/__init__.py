"""The mathematics of the mixers as pure functions: for each a reference, and what is faster where it can be."""

from typing import Any

from mixers.ops import compiled, decay_blocked, decay_kernel, wkv_blocked  # noqa: F401  (they add implementations)
from mixers.ops.decay import decayed_attention
from mixers.ops.gated_norm import gated_norm
from mixers.ops.long_conv import long_conv
from mixers.ops.op import Op
from mixers.ops.rotary import turned
from mixers.ops.short_conv import short_conv
from mixers.ops.state_space import state_space
from mixers.ops.state_space_attention import state_space_attention
from mixers.ops.wkv import wkv

OPS: dict[str, Op[Any]] = {
    "decayed_attention": decayed_attention,
    "gated_norm": gated_norm,
    "long_conv": long_conv,
    "short_conv": short_conv,
    "state_space": state_space,
    "state_space_attention": state_space_attention,
    "turned": turned,
    "wkv": wkv,
}
