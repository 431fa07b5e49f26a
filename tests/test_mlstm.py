"""The matrix LSTM against its equations without scaling, with extreme gates, and against transformers' layer."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from mixers import MLSTM
from mixers.ops.mlstm import MLSTMState, by_decay, log_scales, mlstm, reference

B, H, K, V = 2, 3, 4, 6


def with_random_gates(mixer):
    """Its gates as they may be after training, dependent on the input."""
    for gate in (mixer.igate_preact, mixer.fgate_preact):
        torch.nn.init.normal_(gate.weight)
        torch.nn.init.normal_(gate.bias, std=3)
    return mixer


def in_pieces(mixer, x, lengths):
    state, outputs = mixer.initial_state(len(x)), []
    for piece in x.split(lengths, 1):
        y, state = mixer.extend(piece, state)
        outputs.append(y)
    return torch.cat(outputs, 1)


def draw(length, dtype=torch.float64, size=1.0):
    """q, k, v, gates whose logarithms have that size, and a state, with gradients wanted."""
    torch.manual_seed(length)
    precise = torch.promote_types(dtype, torch.float32)
    q, k, v = (torch.randn(B, length, H, width, dtype=dtype, requires_grad=True) for width in (K, K, V))
    i, f = (size * torch.randn(2, B, length, H, dtype=precise)).unbind()
    state = MLSTMState(
        *(torch.randn(shape, dtype=precise).requires_grad_() for shape in ((B, H, K, V), (B, H, K), (B, H)))
    )
    return q, k, v, i.requires_grad_(), F.logsigmoid(f).requires_grad_(), state


def results(run, inputs, state):
    """Outputs and the state, and gradients of all inputs and of the state."""
    h, after = run(*inputs, state)
    outputs = [h, *after]
    torch.manual_seed(0)
    directions = [torch.randn_like(output) for output in outputs]
    return outputs, torch.autograd.grad(outputs, [*inputs, *(state or ())], directions)


@pytest.mark.parametrize("num_heads", [1, 2])
def test_it_is_its_paper_without_scaling(num_heads):
    torch.manual_seed(0)
    mixer = with_random_gates(MLSTM(16, num_heads=num_heads).double())
    x = torch.randn(11, 16, dtype=torch.float64)
    split = [projection(x).unflatten(-1, (num_heads, -1)) for projection in (mixer.q, mixer.k, mixer.v)]
    i, f = (15 * torch.tanh(gate(x) / 15) for gate in (mixer.igate_preact, mixer.fgate_preact))
    heads = []
    for head in range(num_heads):
        q, k, v = (y[:, head] for y in split)
        c, z, m, rows = torch.zeros(k.shape[1], v.shape[1]).double(), torch.zeros(k.shape[1]).double(), 0.0, []
        for n in range(len(x)):
            forget, query = f[n, head].sigmoid(), q[n] / math.sqrt(k.shape[1])
            c = forget * c + i[n, head].exp() * torch.outer(k[n], v[n])
            z = forget * z + i[n, head].exp() * k[n]
            m = max(forget.log() + m, i[n, head])
            h = query @ c / (max(abs(query @ z), 1) + 1e-6 * m.exp())
            rows.append((h - h.mean()) / torch.sqrt(h.var(correction=0) + 1e-6))
        heads.append(torch.stack(rows))
    y = mixer.multihead_norm.weight * torch.cat(heads, -1)
    expected = mixer.out_proj(mixer.ogate_preact(x).sigmoid() * y)
    assert_close(mixer(x[None])[0], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("pieces", [[70], [1, 1, 2, 33, 33]], ids=["whole", "pieces"])
@pytest.mark.parametrize("num_heads", [2, 4])
def test_it_is_the_layer_of_transformers(num_heads, pieces):
    xlstm = pytest.importorskip("transformers.models.xlstm.modeling_xlstm", reason="transformers has xLSTM's layer")
    if xlstm.external_xlstm:
        pytest.skip("with the package xlstm, transformers takes its layer instead of its own")
    torch.manual_seed(0)
    config = xlstm.xLSTMConfig(hidden_size=32, num_heads=num_heads, chunk_size=10, autocast_kernel_dtype="float32")
    layer, mixer = with_random_gates(xlstm.xLSTMLayer(config)), MLSTM(32, num_heads=num_heads, chunk_size=16)
    mixer.load_state_dict(layer.state_dict())
    x = torch.randn(2, 70, 32)
    assert_close(in_pieces(mixer, x, pieces), layer(x)[0], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("size", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("begins", [True, False], ids=["from nothing", "from a state"])
@pytest.mark.parametrize("length", [2, 15, 16, 33, 100])
def test_chunks_are_the_loop_over_tokens_with_the_gradients_of_the_gates(length, begins, size):
    *inputs, state = draw(length, size=size)
    state = None if begins else state
    actual = results(lambda *inputs: by_decay(*inputs, 16), inputs, state)
    assert_close(actual, results(reference, inputs, state), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [15.0, 60.0])
def test_extreme_gates_give_neither_infinities_nor_nans(size, dtype):
    *inputs, state = draw(300, dtype, size)
    inputs[3] = inputs[3].detach().clamp(min=-70).requires_grad_()
    outputs, gradients = results(lambda *inputs: by_decay(*inputs, 64), inputs, state)
    assert all(x.isfinite().all() for x in (*outputs, *gradients))


def test_gradients_of_gates_in_float32_are_those_in_float64():
    *inputs, state = draw(300, torch.float32, 5.0)
    double = [x.detach().double().requires_grad_() for x in inputs]
    wide = MLSTMState(*(x.detach().double().requires_grad_() for x in state))
    _, actual = results(lambda *inputs: by_decay(*inputs, 64), inputs, state)
    torch.manual_seed(0)
    outputs = by_decay(*inputs, state, 64)
    directions = [torch.randn_like(x).double() for x in (outputs[0], *outputs[1])]
    h, after = reference(*double, wide)
    expected = torch.autograd.grad([h, *after], [*double, *wide], directions)
    for one, other in zip(actual, expected, strict=True):
        assert (one - other).square().mean().sqrt() < 1e-4 * other.square().mean().sqrt()


def test_scales_are_the_largest_weight_of_any_token_so_far():
    *_, i, f, state = draw(37)
    m, scales = state.log_scale, []
    for n in range(37):
        m = torch.maximum(f[:, n] + m, i[:, n])
        scales.append(m)
    assert_close(log_scales(i, f, state.log_scale), torch.stack(scales, 1))


def test_a_sequence_is_mixed_by_chunks_and_a_token_by_its_equation():
    *inputs, state = draw(20)
    assert mlstm.choose(*inputs, state, 16).name == "by_decay"
    assert mlstm.choose(*(x[:, :1] for x in inputs), state, 16).name == "reference"


def test_the_last_projection_is_smaller_in_deeper_models():
    mixer = MLSTM(64)
    mixer.init_weights(0, 16)
    assert mixer.out_proj.weight.std().item() == pytest.approx(2 / (16 * 8), rel=0.1)
    assert not mixer.igate_preact.weight.any()
    assert_close(mixer.fgate_preact.bias, torch.tensor([3.0, 4.0, 5.0, 6.0]))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_heads": 3}, "expand_k=0.5 makes a width of 16, no multiple of num_heads=3"),
        ({"expand_v": 0.1}, "expand_v=0.1 makes a width of 3, no multiple of num_heads=4"),
        ({"norm_eps": 0}, "norm_eps=0 is too small"),
    ],
)
def test_wrong_options_are_refused_by_name(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        MLSTM(32, **options)
