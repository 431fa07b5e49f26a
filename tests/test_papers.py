"""Attention, its relatives and convolutions against their papers' equations, written as loops over tokens."""

import math
from functools import partial

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from mixers import Attention, Hyena, LanguageModel, LinearAttention, Retention
from mixers.ops.rotary import retention_frequencies, rotary_frequencies

DIM, LENGTH = 16, 11


@pytest.fixture
def x():
    return torch.randn(LENGTH, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def built(cls, **options):
    torch.manual_seed(0)
    return cls(DIM, **options).double()


def heads_of(mixer, x):
    """q, k and v of each token, (heads, time, width)."""
    projected = (mixer.q_proj(x), mixer.k_proj(x), mixer.v_proj(x))
    return (y.unflatten(-1, (-1, y.shape[-1] // mixer.num_heads)).transpose(0, 1) for y in projected)


def rotated(vector, position, frequencies):
    """Rotary positions by their definition: each pair of channels as a complex number, times e^{i n θ}."""
    pairs = torch.view_as_complex(vector.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.exp(1j * position * frequencies)).flatten(-2)


@pytest.mark.parametrize("norm", ["rms", "group", "none"])
@pytest.mark.parametrize("decay", ["method", "experiments", 0.9, 1.0])
def test_retention_is_its_recurrence_with_the_three_normalisers(x, decay, norm):
    mixer = built(Retention, num_heads=2, decay=decay, norm=norm)
    gammas = {
        "method": [1 - 2**-5, 1 - 2**-6],
        "experiments": [1 - 1 / 32, 1 - 1 / 512],
    }.get(decay, [decay, decay])
    heads = []
    for gamma, q, k, v in zip(gammas, *heads_of(mixer, x), strict=True):
        frequencies = retention_frequencies(q.shape[-1], x.device)
        outputs = []
        for n in range(LENGTH):
            row = [gamma ** (n - m) for m in range(n + 1)]
            scores = []
            for m in range(n + 1):
                product = rotated(q[n], n, frequencies) @ rotated(k[m], m, frequencies)
                scores.append(product / math.sqrt(len(q[n])) * row[m] / math.sqrt(sum(row)))
            divisor = max(abs(sum(scores)), 1)
            o = sum(score / divisor * v[m] for m, score in enumerate(scores))
            if norm == "group":
                o = o - o.mean()
            outputs.append(o if norm == "none" else o / torch.sqrt(o.square().mean() + mixer.norm_eps))
        heads.append(torch.stack(outputs))
    gate = mixer.g_proj(x)
    expected = mixer.out_proj(gate * gate.sigmoid() * torch.cat(heads, -1))
    assert_close(mixer(x[None])[0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_attention_is_a_softmax_over_the_tokens_seen(x, num_kv_heads, window):
    mixer = built(Attention, num_heads=4, num_kv_heads=num_kv_heads, window=window)
    width = DIM // 4
    q = mixer.q_proj(x).unflatten(-1, (4, width))
    k, v = (projection(x).unflatten(-1, (num_kv_heads, width)) for projection in (mixer.k_proj, mixer.v_proj))
    frequencies = rotary_frequencies(width, x.device)
    assert_close(frequencies, torch.tensor([1.0, 0.01], dtype=torch.float64))
    rows = []
    for n in range(LENGTH):
        seen = range(0 if window is None else max(0, n - window + 1), n + 1)
        heads = []
        for head in range(4):
            shared = head * num_kv_heads // 4
            query = rotated(q[n, head], n, frequencies)
            scores = torch.stack([query @ rotated(k[m, shared], m, frequencies) for m in seen]) / math.sqrt(width)
            heads.append(sum(weight * v[m, shared] for weight, m in zip(scores.softmax(0), seen, strict=True)))
        rows.append(torch.cat(heads))
    assert_close(mixer(x[None])[0], mixer.out_proj(torch.stack(rows)), rtol=1e-9, atol=1e-12)


def test_linear_attention_is_its_sums_over_the_tokens_seen(x):
    mixer = built(LinearAttention, num_heads=2)
    heads = []
    for q, k, v in zip(*heads_of(mixer, x), strict=True):
        q, k = F.elu(q) + 1, F.elu(k) + 1
        s, z, outputs = torch.zeros(8, 8, dtype=torch.float64), torch.zeros(8, dtype=torch.float64), []
        for n in range(LENGTH):
            s, z = s + torch.outer(k[n], v[n]), z + k[n]
            outputs.append(q[n] @ s / (q[n] @ z + 1e-6))
        heads.append(torch.stack(outputs))
    assert_close(mixer(x[None])[0], mixer.out_proj(torch.cat(heads, -1)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("order", [2, 3])
def test_hyena_is_its_gated_sums_with_explicit_filters(x, order):
    mixer = built(Hyena, order=order, max_length=64)
    taps = [hyena_tap(mixer, i).unflatten(0, (DIM, order - 1)) for i in range(LENGTH)]
    projected, weight, bias = mixer.in_proj(x), mixer.short_conv.weight[:, 0], mixer.short_conv.bias
    short = [bias + sum(weight[:, -1 - i] * projected[n - i] for i in range(min(3, n + 1))) for n in range(LENGTH)]
    *gates, v = torch.stack(short).split(DIM, -1)
    for i, (gate, skip) in enumerate(zip(reversed(gates[1:]), mixer.skip.split(DIM), strict=True)):
        u = v * gate
        v = torch.stack([sum(taps[n - m][:, i] * u[m] for m in range(n + 1)) + skip * u[n] for n in range(LENGTH)])
    assert_close(mixer(x[None])[0], mixer.out_proj(v * gates[0]), rtol=1e-9, atol=1e-12)


def hyena_tap(mixer, i, length=64, bands=16):
    """Tap i of all filters: a network with a sine reads i/L, cosines and sines, below an exponential window."""
    frequencies = torch.linspace(1e-4, bands - 1, bands)
    angle = 2 * math.pi * i / length * frequencies
    features = torch.cat([torch.tensor([i / (length - 1)]), angle.cos(), -angle.sin()])
    assert_close(mixer.filter.features[i].float(), features, rtol=1e-4, atol=1e-4)
    h = mixer.filter.features[i]
    for layer in mixer.filter.layers:
        h = torch.sin(14 * layer(h))
    slowest, fastest = -math.log(0.01) / 1.5, -math.log(0.01) / 0.3
    rates = torch.linspace(slowest, fastest, len(mixer.filter.out.weight), dtype=torch.float64)
    return mixer.filter.out(h) * torch.exp(-rates * i / (length - 1))


def test_hyena_in_a_model_begins_as_in_its_authors_language_models():
    torch.manual_seed(0)
    mixer = LanguageModel(partial(Hyena, max_length=64), vocab_size=9, dim=64, depth=8, ffn_dim=8).blocks[5].mixer
    torch.manual_seed(0)
    alone = Hyena(64, max_length=64)
    for name, layer in mixer.named_modules():
        if isinstance(layer, torch.nn.Linear):
            std = 0.02 / math.sqrt(2 * 8) if name == "out_proj" else 0.02
            assert layer.weight.std().item() == pytest.approx(std, rel=0.1), name
            assert layer.bias is None or not layer.bias.any(), name
    assert mixer.short_conv.weight.std() > 0.3 < alone.short_conv.weight.std()  # as it was
    ratio = alone.filter.out.weight.std() / mixer.filter.out.weight.std()
    assert ratio.item() == pytest.approx(3.6, rel=0.1)


def test_the_authors_skip_of_several_convolutions_is_ours_once_rearranged(x):
    mixer, dim = built(Hyena, order=4, max_length=64), DIM
    theirs = torch.randn(3 * dim, dtype=torch.float64)
    by_convolution = theirs.view(dim, 3)  # their `rearrange(bias, "(v o) -> o v")`, before it is transposed
    mixer.skip.data = theirs.view(dim, -1).T.flatten()
    without = built(Hyena, order=4, max_length=64)
    without.skip.data.zero_()
    assert_close(mixer._taps(3)[0], without._taps(3)[0] + by_convolution.T)
