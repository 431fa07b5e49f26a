"""Gated linear attention against its equations as a loop over tokens, and against fla's naive recurrence."""

import pytest
import torch
from small_fla import naive
from torch.nn import functional as F
from torch.testing import assert_close

from mixers import GLA
from mixers.testing.law import extend_in_pieces

LENGTH = 70


@pytest.fixture(params=[16.0, 0.05], ids=["weak decays", "strong decays"])
def mixer(request):
    torch.manual_seed(0)
    return GLA(32, num_heads=2, gate_normalizer=request.param, chunk_size=24)


def test_it_is_flas_layer_whole_and_in_pieces(mixer):
    """`GatedLinearAttention` of fla 0.6.0, whose kernels need a GPU, with its naive recurrence in their place."""
    recurrent = naive("gla").naive_recurrent_gla
    x = torch.randn(2, LENGTH, 32)
    projections = mixer.q_proj, mixer.k_proj, mixer.v_proj, mixer.g_proj, mixer.gk_proj
    q, k, v, gate, decay = (proj(x).unflatten(-1, (2, -1)) for proj in projections)
    o, state = recurrent(q, k, v, F.logsigmoid(decay) / mixer.gate_normalizer, output_final_state=True)
    normed = o * torch.rsqrt(o.square().mean(-1, keepdim=True) + 1e-5) * mixer.g_norm_swish_gate.weight
    expected = mixer.o_proj((normed * F.silu(gate)).flatten(2))
    assert (mixer(x) - expected).abs().max() < 1e-5 * expected.abs().max()
    pieces, after = extend_in_pieces(mixer, x, [33, 1, 1, 20, 15])
    assert (pieces - expected).abs().max() < 1e-5 * expected.abs().max()
    assert_close(after.kv, state)


def test_it_is_the_equations(mixer):
    mixer = mixer.double()
    x, state, outputs = torch.randn(LENGTH, 32, dtype=torch.float64), torch.zeros(2, 8, 16, dtype=torch.float64), []
    for token in x:
        decay = torch.sigmoid(mixer.gk_proj(token)).pow(1 / mixer.gate_normalizer)
        of_heads = []
        for h in range(2):
            keys, values = slice(8 * h, 8 * h + 8), slice(16 * h, 16 * h + 16)
            q, k, v = mixer.q_proj(token)[keys], mixer.k_proj(token)[keys], mixer.v_proj(token)[values]
            state[h] = decay[keys, None] * state[h].clone() + torch.outer(k, v)
            o = q @ state[h] / 8**0.5
            of_heads.append(o / torch.sqrt(o.square().mean() + 1e-5) * mixer.g_norm_swish_gate.weight)
        outputs.append(mixer.o_proj(torch.cat(of_heads) * F.silu(mixer.g_proj(token))))
    assert_close(mixer(x[None])[0], torch.stack(outputs), rtol=1e-9, atol=1e-9)


def test_its_weights_are_named_as_flas():
    names = {name: tuple(weight.shape) for name, weight in GLA(32).named_parameters()}
    assert names == {
        "q_proj.weight": (16, 32),
        "k_proj.weight": (16, 32),
        "v_proj.weight": (32, 32),
        "g_proj.weight": (32, 32),
        "gk_proj.0.weight": (16, 32),
        "gk_proj.1.weight": (16, 16),
        "gk_proj.1.bias": (16,),
        "g_norm_swish_gate.weight": (8,),
        "o_proj.weight": (32, 32),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "expand_k=0.5 makes keys 16 wide, no multiple of num_heads=3"),
        ({"expand_v": 0.3}, "expand_v=0.3 makes values 10 wide"),
        ({"gate_normalizer": 0}, "gate_normalizer=0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GLA(32, **options)
