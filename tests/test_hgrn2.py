"""HGRN2 against its equations as a loop over tokens, and against fla's naive recurrence."""

import pytest
import torch
from small_fla import naive
from torch.nn import functional as F
from torch.testing import assert_close

from mixers import HGRN2, LanguageModel
from mixers.testing.law import extend_in_pieces

LENGTH = 70


@pytest.fixture
def mixer():
    torch.manual_seed(0)
    mixer = HGRN2(32, head_dim=16, chunk_size=24)
    torch.nn.init.normal_(mixer.lower_bound)
    return mixer


def test_it_is_flas_layer_whole_and_in_pieces(mixer):
    """`HGRN2Attention` of fla 0.6.0, whose kernels need a GPU, with its naive recurrence in their place."""
    recurrent = naive("gla").naive_recurrent_gla
    x, bound = torch.randn(2, LENGTH, 32), mixer.lower_bound.sigmoid()
    q, i = F.silu(mixer.q_proj(x)), mixer.i_proj(x)
    g = torch.logaddexp(bound.log(), torch.log1p(-bound) + F.logsigmoid(mixer.f_proj(x)))
    heads = [y.unflatten(-1, (2, -1)) for y in (q, 1 - g.exp(), i, g)]
    o, state = recurrent(*heads, output_final_state=True)
    o = o.flatten(2)
    expected = mixer.o_proj(o * torch.rsqrt(o.square().mean(-1, keepdim=True) + 1e-5) * mixer.g_norm.weight)
    assert (mixer(x) - expected).abs().max() < 1e-5 * expected.abs().max()
    pieces, after = extend_in_pieces(mixer, x, [33, 1, 1, 20, 15])
    assert (pieces - expected).abs().max() < 1e-5 * expected.abs().max()
    assert_close(after.kv, state)


def test_it_is_the_equations(mixer):
    mixer = mixer.double()
    x, state, outputs = torch.randn(LENGTH, 32, dtype=torch.float64), torch.zeros(2, 16, 16, dtype=torch.float64), []
    bound = torch.sigmoid(mixer.lower_bound)
    for token in x:
        q, v = F.silu(mixer.q_proj(token)), mixer.i_proj(token)
        forget, of_heads = bound + (1 - bound) * torch.sigmoid(mixer.f_proj(token)), []
        for h in range(2):
            own = slice(16 * h, 16 * h + 16)
            state[h] = forget[own, None] * state[h].clone() + torch.outer(1 - forget[own], v[own])
            of_heads.append(q[own] @ state[h] / 16**0.5)
        o = torch.cat(of_heads)
        outputs.append(mixer.o_proj(o / torch.sqrt(o.square().mean() + 1e-5) * mixer.g_norm.weight))
    assert_close(mixer(x[None])[0], torch.stack(outputs), rtol=1e-9, atol=1e-9)


def test_lower_bounds_rise_with_the_layer_as_those_of_flas_model_at_its_start():
    model, shared = LanguageModel(HGRN2, vocab_size=9, dim=32, depth=4), torch.zeros(4, 32).softmax(0)
    bounds = torch.stack([block.mixer.lower_bound.sigmoid() for block in model.blocks])
    assert_close(bounds, shared.cumsum(0) - shared[0], rtol=1e-5, atol=2e-6)


def test_its_weights_are_named_as_flas():
    names = set(dict(HGRN2(32).named_parameters()))
    assert names == {f"{name}_proj.weight" for name in "qfio"} | {"g_norm.weight", "lower_bound"}


@pytest.mark.parametrize(("dim", "heads"), [(32, 1), (128, 1), (1024, 8)])
def test_heads_follow_the_width(dim, heads):
    assert HGRN2(dim).initial_state(1).kv.shape == (1, heads, dim // heads, dim // heads)


@pytest.mark.parametrize(
    ("dim", "options", "message"),
    [(200, {}, "head_dim=128 does not divide dim=200; try head_dim=100"), (32, {"head_dim": 0}, "head_dim=0")],
)
def test_wrong_options_are_refused(dim, options, message):
    with pytest.raises(ValueError, match=message):
        HGRN2(dim, **options)
