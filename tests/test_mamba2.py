"""Mamba-2 against its equations as a loop over tokens, and against the layer of transformers with its weights."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from mixers import Mamba2
from mixers.testing.law import extend_in_pieces

LENGTH = 70  # no multiple of a chunk


def published(n_groups=1, **options):
    """transformers' layer of 8 heads, and a cache for it."""
    transformers = pytest.importorskip("transformers", reason="needs the published layer: pip install transformers")
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    sizes = {"hidden_size": 32, "num_heads": 8, "head_dim": 8, "state_size": 16, "chunk_size": 16}
    config = transformers.Mamba2Config(**sizes, n_groups=n_groups, num_hidden_layers=1, **options)
    torch.manual_seed(0)
    layer = Mamba2Mixer(config, 0)
    for parameter in (layer.D, layer.norm.weight, layer.conv1d.bias):
        torch.nn.init.normal_(parameter)
    return layer, transformers.DynamicCache(config=config)


def ours(layer, n_groups=1, **options):
    """A mixer with the weights of the published layer."""
    mixer = Mamba2(32, state_size=16, head_dim=8, n_groups=n_groups, chunk_size=16, **options)
    mixer.load_state_dict(layer.state_dict())
    return mixer


def assert_near(actual, expected):
    assert (actual - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("n_groups", [1, 2, 8])
def test_the_published_layer_gives_the_same_whole_and_in_pieces(n_groups):
    layer, cache = published(n_groups)
    mixer, x = ours(layer, n_groups), torch.randn(2, LENGTH, 32)
    expected, sizes = layer(x), [33, 1, 1, 20, 15]
    assert_near(mixer(x), expected)
    assert_near(extend_in_pieces(mixer, x, sizes)[0], expected)
    pieces = [layer(piece, cache) for piece in x.split(sizes, 1)]
    assert_near(extend_in_pieces(mixer, x, sizes)[0], torch.cat(pieces, 1))


@pytest.mark.parametrize("n_groups", [1, 2])
def test_the_published_layer_has_the_same_gradients(n_groups):
    layer, _ = published(n_groups)
    mixer, x = ours(layer, n_groups), torch.randn(2, LENGTH, 32)
    direction = torch.randn_like(x)
    layer(x).backward(direction)
    mixer(x).backward(direction)
    for name, parameter in mixer.named_parameters():
        assert_near(parameter.grad, layer.get_parameter(name).grad)


def test_steps_are_clamped_in_sequences_and_single_tokens_alike():
    layer, _ = published(time_step_limit=(0.001, 0.01))
    mixer, x = ours(layer, time_step_limit=(0.001, 0.01)), torch.randn(2, LENGTH, 32)
    assert_near(mixer(x), layer(x))
    assert_near(extend_in_pieces(mixer, x, [1] * LENGTH)[0], layer(x))


@pytest.mark.parametrize("n_groups", [1, 2])
def test_it_is_the_equations(n_groups):
    """Token by token: convolution, step, state, skip, gate, norm."""
    torch.manual_seed(0)
    mixer = Mamba2(16, state_size=5, head_dim=8, n_groups=n_groups, chunk_size=8).double()
    x, heads, (w, n) = torch.randn(LENGTH, 16, dtype=torch.float64), 4, (32, 5 * n_groups)
    z, inputs, dt = mixer.in_proj(x).split([w, w + 2 * n, heads], -1)
    state, outputs = torch.zeros(heads, 8, 5, dtype=torch.float64), []
    for t in range(LENGTH):
        taps = [mixer.conv1d.weight[:, 0, -1 - i] * inputs[t - i] for i in range(min(4, t + 1))]
        values, keys, queries = F.silu(mixer.conv1d.bias + sum(taps)).split([w, n, n])
        step = torch.log(1 + torch.exp(dt[t] + mixer.dt_bias))
        for h in range(heads):
            group = slice(h * n_groups // heads * 5, h * n_groups // heads * 5 + 5)
            own = slice(8 * h, 8 * h + 8)
            fade = torch.exp(-torch.exp(mixer.A_log[h]) * step[h])
            state[h] = fade * state[h].clone() + step[h] * torch.outer(values[own], keys[group])
        y = [
            state[h] @ queries[h * n_groups // heads * 5 :][:5] + mixer.D[h] * values[8 * h :][:8] for h in range(heads)
        ]
        gated = (torch.cat(y) * F.silu(z[t])).view(n_groups, -1)
        normed = gated / torch.sqrt(gated.square().mean(-1, keepdim=True) + 1e-5)
        outputs.append(mixer.out_proj(normed.flatten() * mixer.norm.weight))
    assert_close(mixer(x[None])[0], torch.stack(outputs), rtol=1e-9, atol=1e-9)


def test_it_begins_as_published():
    torch.manual_seed(0)
    mixer = Mamba2(1024)
    assert mixer.A_log.shape == (32,)
    assert 0 <= mixer.A_log.min() < mixer.A_log.max() <= math.log(16)
    step = F.softplus(mixer.dt_bias)
    assert step.min() * 1.001 >= 0.001
    assert step.max() <= 0.1001
    assert (mixer.D == 1).all()
    assert 6 < sum(p.numel() for p in mixer.parameters()) / 1024**2 < 6.4


@pytest.mark.parametrize(("dim", "heads"), [(16, 1), (32, 1), (128, 4), (1024, 32)])
def test_heads_follow_the_width(dim, heads):
    assert Mamba2(dim).heads == heads


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_dim": 24}, "head_dim=24 does not divide"),
        ({"n_groups": 3}, "n_groups=3 does not divide the 4 heads"),
        ({"conv_size": 0}, "conv_size=0"),
        ({"time_step_max": 0.0001}, "time_step_max=0.0001"),
        ({"time_step_limit": (0.1, 0.01)}, "time_step_limit"),
        ({"expand": 0}, "expand=0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Mamba2(128, **options)
