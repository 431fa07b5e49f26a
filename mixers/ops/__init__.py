"""The mathematics of the mixers as pure functions: of each op a reference, and faster implementations of it."""

from typing import Any

from mixers.ops import (
    decay,
    delta,
    dplr,
    gated_norm,
    linear,
    long_conv,
    mlstm,
    norm_after_gate,
    rotary,
    short_conv,
    softmax_attention,
    state_space,
    taylor,
    wkv,
)
from mixers.ops.op import Op

OPS: dict[str, Op[Any]] = {
    "apply_rotary": rotary.apply_rotary,
    "decayed_by_channel": decay.decayed_by_channel,
    "decayed_by_token": decay.decayed_by_token,
    "decayed_linear_attention": decay.decayed_linear_attention,
    "decayed_linear_attention_with_weights": decay.decayed_linear_attention_with_weights,
    "delta_rule": delta.delta_rule,
    "delta_rule_of_channels": delta.delta_rule_of_channels,
    "dplr": dplr.dplr,
    "gated_norm": gated_norm.gated_norm,
    "linear": linear.linear,
    "long_conv": long_conv.long_conv,
    "mlstm": mlstm.mlstm,
    "norm_after_gate": norm_after_gate.norm_after_gate,
    "short_conv": short_conv.short_conv,
    "softmax_attention": softmax_attention.softmax_attention,
    "state_space": state_space.state_space,
    "state_space_attention": state_space.state_space_attention,
    "taylor_attention": taylor.taylor_attention,
    "wkv": wkv.wkv,
}
