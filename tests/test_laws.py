"""Every registered mixer obeys every law, with its defaults and with its options."""

from functools import partial

import pytest

import mixers
from mixers import (
    GLA,
    H3,
    HGRN2,
    KDA,
    RWKV7,
    S4D,
    Attention,
    GatedDeltaNet,
    Hyena,
    Lightning,
    LinearAttention,
    Mamba2,
    Retention,
)
from mixers.testing import LAWS

VARIANTS = {
    "retention, chunks of 8": partial(Retention, chunk_size=8),
    "retention, no gate": partial(Retention, gate=False, expand_v=1.0),
    "retention, group norm": partial(Retention, norm="group", num_heads=2),
    "retention, no norm": partial(Retention, norm="none"),
    "retention, no decay": partial(Retention, decay=1.0, chunk_size=16),
    "retention, one decay": partial(Retention, decay=127 / 128, num_heads=1),
    "retention, the experiments' decay": partial(Retention, decay="experiments"),
    "attention, shared keys": partial(Attention, num_kv_heads=2),
    "attention, one key head, no rotary": partial(Attention, num_kv_heads=1, rotary=False),
    "attention, window 10": partial(Attention, window=10),
    "attention, window 1": partial(Attention, window=1),
    "attention, window past the end": partial(Attention, window=1000),
    "linear attention, relu, chunks of 5": partial(LinearAttention, feature_map="relu", chunk_size=5),
    "linear attention, softmax": partial(LinearAttention, feature_map="softmax", num_heads=2),
    "retention, short convolution": partial(Retention, conv_size=4),
    "retention, short convolution of 2, chunks of 5": partial(Retention, conv_size=2, chunk_size=5, expand_v=1.0),
    "attention, sinks": partial(Attention, sinks=True),
    "attention, window 10, sinks, shared keys": partial(Attention, window=10, sinks=True, num_kv_heads=2),
    "attention, gate, norm, rotary in part": partial(
        Attention, gate="channel", qk_norm=True, rotary=0.5, num_heads=4, num_kv_heads=1
    ),
    "attention, gate of heads, window 10": partial(Attention, gate="head", window=10, qk_norm=True, rotary=False),
    "attention, short convolution": partial(Attention, conv_size=4),
    "attention, window 10, shared keys, short convolution": partial(Attention, window=10, num_kv_heads=2, conv_size=3),
    "linear attention, short convolution": partial(LinearAttention, conv_size=4, chunk_size=16),
    "hyena, order 3": partial(Hyena, order=3, max_length=256),
    "hyena, filters shorter than the text": partial(Hyena, max_length=40, filter_features=5),
    "h3, heads of 1": partial(H3, head_dim=1),
    "h3, heads of 4, chunks of 8, shift of 3": partial(H3, head_dim=4, chunk_size=8, shift_size=3, state_size=6),
    "h3, zero-order hold, no shift": partial(H3, shift_size=1, discretisation="zoh", spectrum="inv"),
    "rwkv7, heads of 8, ranks of 5, chunks of 8": partial(
        RWKV7, head_dim=8, decay_rank=5, rate_rank=5, gate_rank=5, chunk_size=8
    ),
    "s4d, inv, bilinear, chunks of 8": partial(S4D, spectrum="inv", discretisation="bilinear", chunk_size=8),
    "s4d, real, no glu": partial(S4D, spectrum="real", glu=False, state_size=2),
    "mamba2, two groups, chunks of 5": partial(Mamba2, head_dim=8, n_groups=2, state_size=4, chunk_size=5),
    "mamba2, clamped steps, no convolution": partial(Mamba2, time_step_limit=(0.002, 0.05), conv_size=1, expand=1.0),
    "lightning, two heads, chunks of 5": partial(Lightning, num_heads=2, chunk_size=5),
    "gla, two heads, chunks of 24": partial(GLA, num_heads=2, expand_k=1.0, expand_v=2.0, chunk_size=24),
    "gla, strong decays, rank 3": partial(GLA, gate_normalizer=0.5, gate_rank=3),
    "hgrn2, heads of 8, chunks of 20": partial(HGRN2, head_dim=8, chunk_size=20),
    "hyena, no short convolution": partial(Hyena, short_width=1, max_length=41, filter_width=16),
    "gated convolution, 9 tokens, biases": partial(mixers.GatedConv, width=9, bias=True),
    "mlstm, chunks of 16, one head": partial(mixers.MLSTM, num_heads=1, chunk_size=16),
    "mlstm, wide keys and values": partial(mixers.MLSTM, num_heads=2, expand_k=1.0, expand_v=2.0),
    "based, chunks of 5, features of 3": partial(mixers.Based, num_heads=2, feature_dim=3, chunk_size=5),
    "gated deltanet, grouped values, no convolution": partial(
        GatedDeltaNet, num_heads=2, head_dim=5, num_v_heads=4, expand_v=1.0, conv_size=0, chunk_size=8
    ),
    "gated deltanet, no decay, no gate": partial(GatedDeltaNet, decay=False, gate="none", allow_neg_eigval=True),
    "kda, bounded decay, chunks of 12": partial(KDA, decay_bound=-5.0, chunk_size=12, expand_v=2.0),
    "kda, one head, no convolution": partial(KDA, num_heads=1, head_dim=7, conv_size=0, allow_neg_eigval=True),
    "gated deltanet, two steps": partial(GatedDeltaNet, steps=2, gate="sigmoid", allow_neg_eigval=True),
}

# What a variant is meant not to do.
EXEMPT = {("attention, window 1", "the_past_matters")}
EXEMPT |= {("gated_conv", "the_past_matters")}  # it sees three tokens

BUILDERS = {**mixers.available(), **VARIANTS}


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", BUILDERS)
def test_mixers_obey_the_laws(name, law):
    if (name, law.__name__) in EXEMPT:
        with pytest.raises(AssertionError):
            law(BUILDERS[name])
    else:
        law(BUILDERS[name])
