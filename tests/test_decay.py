"""Linear attention with any decay against its loop over tokens, learned and strong ones and half precision included."""

import copy
import math
import sys

import pytest
import torch
from torch.testing import assert_close

from mixers import LinearAttention
from mixers.ops.decay import DecayState, decayed_linear_attention, decayed_linear_attention_with_weights
from mixers.ops.decay.chunkwise import chunkwise
from mixers.ops.decay.reference import reference
from mixers.ops.decay.segmented import segment_tokens, segmented
from mixers.ops.gated_norm import gated_norm

B, H, K, V = 2, 4, 3, 6
DECAYS = {"of a head": (), "of a token": (B, 0), "of a channel": (B, 0, K)}  # 0 for time; heads come after it
LENGTHS = [1, 2, 63, 64, 65, 150]


FORMS = {"chunkwise": chunkwise, "segmented": segmented}


def draw(length, dtype=torch.float64, groups=H):
    """q, k, v and a state, with gradients wanted."""
    torch.manual_seed(length)
    shapes = (B, length, groups, K), (B, length, groups, K), (B, length, H, V), (B, H, K, V), (B, H, K)
    q, k, v, kv, z = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes)
    return q, k, v, DecayState(kv, z)


def log_decays(kind, length, strongest, dtype=torch.float64):
    """Between 0 and -strongest a step, most of them weak."""
    shape = {"of a head": (H,), "of a token": (B, length, H), "of a channel": (B, length, H, K)}[kind]
    return (-strongest * torch.rand(shape, dtype=dtype) ** 4).requires_grad_()


def results(run, inputs, state):
    """Outputs, and gradients of all inputs and of the state."""
    outputs = [*(y := run(*inputs, state))[:2], *y[2]]
    torch.manual_seed(0)
    directions = [torch.randn(output.shape, dtype=output.dtype) for output in outputs]
    return outputs, torch.autograd.grad(outputs, [*inputs, *(state or ())], directions)


@pytest.mark.parametrize("begins", [True, False], ids=["from nothing", "from a state"])
@pytest.mark.parametrize("chunk_size", [16, 24, 64])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", DECAYS)
@pytest.mark.parametrize("form", FORMS)
def test_chunks_are_the_loop_over_tokens_with_the_gradient_of_the_decay(form, kind, length, chunk_size, begins):
    *inputs, state = draw(length)
    inputs, state = (*inputs, log_decays(kind, length, 3.0)), None if begins else state
    actual = results(lambda *inputs: FORMS[form](*inputs, chunk_size), inputs, state)
    assert_close(actual, results(reference, inputs, state), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("begins", [True, False], ids=["from nothing", "from a state"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("length", [1, 2, 50])
@pytest.mark.parametrize("kind", DECAYS)
@pytest.mark.parametrize("form", [*FORMS, "reference"])
def test_keys_that_heads_share_are_these_keys_once_for_each_head(form, kind, length, groups, begins):
    q, k, v, state = draw(length, groups=groups)
    inputs, state = (q, k, v, log_decays(kind, length, 3.0)), None if begins else state

    def repeated(q, k, v, log_decay, state):
        heads = torch.arange(H) // (H // groups)
        return reference(q[:, :, heads], k[:, :, heads], v, log_decay, state)

    run = {**FORMS, "reference": reference}[form]
    actual = results(lambda *inputs: run(*inputs, 16), inputs, state)
    assert_close(actual, results(repeated, inputs, state), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", DECAYS)
def test_segments_of_several_chunks_are_the_loop_over_tokens(kind, monkeypatch):
    *inputs, state = draw(150)
    inputs = (*inputs, log_decays(kind, 150, 3.0))
    sizes = []
    for elements in (1, 2**13, 2**30):
        monkeypatch.setattr(sys.modules[segmented.__module__], "CACHE_ELEMENTS", elements)
        sizes.append(segment_tokens(inputs[1], inputs[2], 8))
        actual = results(lambda *inputs: segmented(*inputs, 8), inputs, state)
        assert_close(actual, results(reference, inputs, state), rtol=1e-9, atol=1e-9)
    assert sizes[0] == 8 < sizes[1] < 150 < sizes[2]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("strongest", [50.0, 1000.0])
@pytest.mark.parametrize("kind", DECAYS)
@pytest.mark.parametrize("form", FORMS)
def test_strong_decays_give_neither_infinities_nor_nans(form, kind, strongest, dtype):
    *inputs, state = (x.to(dtype) if isinstance(x, torch.Tensor) else x for x in draw(150))
    precise = torch.promote_types(dtype, torch.float32)
    state = DecayState(*(x.to(precise) for x in state))
    log_decay = log_decays(kind, 150, strongest, precise)
    outputs, gradients = results(lambda *inputs: FORMS[form](*inputs, 64), (*inputs, log_decay), state)
    assert all(x.isfinite().all() for x in (*outputs, *gradients))
    if dtype == torch.float64:
        expected = results(reference, (*inputs, log_decay), state)
        assert_close((outputs, gradients), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("strength", [1.0, 20.0, 80.0])
@pytest.mark.parametrize("kind", ["of a token", "of a channel"])
@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_of_a_strong_decay_is_right_in_float32_however_small_it_is(form, kind, strength):
    q, k, v, _ = draw(20)
    log_decay = -strength * (1 + log_decays(kind, 20, 0.1).detach())

    def gradient(run, dtype):
        decay = log_decay.to(dtype).requires_grad_()
        output, *_ = run(*(x.detach().to(dtype) for x in (q, k, v)), decay, None, 16)
        return torch.autograd.grad(output.square().sum(), decay)[0][:, 1:].double()

    expected = gradient(reference, torch.float64)
    assert expected.abs().max() < 1e3 * math.exp(-0.9 * strength)
    error = (gradient(FORMS[form], torch.float32) - expected).abs().max()
    assert error < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("kind", DECAYS)
def test_without_weights_it_is_the_same_output_and_state(kind):
    q, k, v, state = draw(65)
    log_decay = log_decays(kind, 65, 1.0).detach()
    output, kv = decayed_linear_attention(q, k, v, log_decay, state.kv, 16)
    expected, _, after = decayed_linear_attention_with_weights(q, k, v, log_decay, state, 16)
    assert_close((output, kv), (expected, after.kv))


@pytest.mark.parametrize(
    ("kind", "learned", "expected"),
    [("of a head", False, "blocked"), ("of a head", True, "segmented"), ("of a token", False, "segmented")],
)
def test_the_fastest_implementation_that_knows_a_decay_is_run(kind, learned, expected):
    q, k, v, state = draw(65)
    log_decay = log_decays(kind, 65, 1.0).detach().requires_grad_(learned)
    assert decayed_linear_attention_with_weights.choose(q, k, v, log_decay, state, 16).name == expected


@pytest.mark.parametrize("feature_map", ["elu", "relu", "softmax"])
@pytest.mark.parametrize("autocast", [False, True], ids=["weights", "autocast"])
@pytest.mark.parametrize("mean", [0.0, 2.0], ids=["values around zero", "values around a mean"])
def test_linear_attention_in_float16_is_right_after_thousands_of_tokens(mean, autocast, feature_map):
    torch.manual_seed(0)
    mixer, x = LinearAttention(256, num_heads=2, feature_map=feature_map), mean + torch.randn(1, 2048, 256)
    if not autocast:
        mixer, x = mixer.half(), x.half()
    exact = copy.deepcopy(mixer).double()(x.double())
    with torch.no_grad(), torch.autocast("cpu", torch.float16, enabled=autocast):
        first, state = mixer.extend(x[:, :2000], mixer.initial_state(1))
        last, _ = mixer.extend(x[:, 2000:], state)
        for y in (mixer(x), torch.cat([first, last], 1)):
            assert (y - exact).square().mean().sqrt() < 2e-3 * exact.std()
            assert (y - exact)[:, -100:].square().mean().sqrt() < 2e-3 * exact[:, -100:].square().mean().sqrt()


@pytest.mark.parametrize("implementation", ["reference", "blocked"])
def test_the_norm_of_large_outputs_in_float16_does_not_overflow(implementation):
    torch.manual_seed(0)
    arguments = gated_norm.examples(20, 24, torch.float16, torch.device("cpu"))
    large = (1000 * arguments[0].detach()).requires_grad_()
    y = gated_norm[implementation].run(large, *arguments[1:])
    exact = gated_norm["reference"].run(*(x.double() for x in (large, *arguments[1:])))
    assert (y - exact).abs().max() < 5e-3
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(y.sum(), (large, *arguments[1:])))


@pytest.mark.parametrize("implementation", ["reference", "blocked"])
def test_the_norm_of_zeros_in_float16_is_zero(implementation):
    o, eps, gate = torch.zeros(1, 3, 2, 4).half(), torch.full((1, 3, 2), 1e-12), torch.ones(1, 3, 2, 4).half()
    assert not gated_norm[implementation].run(o, eps, gate).any()
