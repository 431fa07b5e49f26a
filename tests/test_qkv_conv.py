"""The short convolutions of queries, keys and values, against loops, and what a state keeps of them."""

import warnings

import pytest
import torch
from torch.testing import assert_close

from mixers import Attention, LanguageModel, LinearAttention, Retention
from mixers.checks import UsageError
from mixers.parts.qkv_conv import ConvInputs, NoInputs

DIM = 16
MIXERS = pytest.mark.parametrize("cls", [Retention, Attention, LinearAttention])


def built(cls, **options):
    torch.manual_seed(0)
    return cls(DIM, **options).double()


def convolved(x, weight):
    """silu(Σ_i weight_i x_{n-i}), token by token; the last tap is the present token's."""
    taps = weight[:, 0].flip(-1).T
    sums = [sum(taps[i] * x[:, n - i] for i in range(min(len(taps), n + 1))) for n in range(x.shape[1])]
    y = torch.stack(sums, 1)
    return y * y.sigmoid()


@MIXERS
@pytest.mark.parametrize(("width", "length"), [(4, 11), (4, 2), (2, 7), (1, 3)])
def test_queries_keys_and_values_pass_the_convolution_before_anything_else(cls, width, length):
    mixer, plain = built(cls, conv_size=width), built(cls)
    plain.load_state_dict({name: x for name, x in mixer.state_dict().items() if "conv1d" not in name})
    x = torch.randn(2, length, DIM, dtype=torch.float64, requires_grad=True)
    for name in ("q", "k", "v"):
        stream = convolved(mixer.get_submodule(f"{name}_proj")(x), mixer.get_submodule(f"{name}_conv1d").weight)
        plain.get_submodule(f"{name}_proj").forward = lambda _, stream=stream: stream
    wanted = [x, *(mixer.get_submodule(f"{name}_conv1d").weight for name in "qkv")]
    y, expected = mixer(x), plain(x)
    assert_close(y, expected, rtol=1e-9, atol=1e-12)
    direction = torch.randn_like(y)
    gradients = (torch.autograd.grad(out, wanted, direction, retain_graph=True) for out in (y, expected))
    assert_close(*gradients, rtol=1e-9, atol=1e-12)


@MIXERS
def test_a_state_keeps_the_last_inputs_of_the_convolutions(cls):
    mixer, x = built(cls, conv_size=4), torch.randn(2, 6, DIM, dtype=torch.float64)
    _, state = mixer.extend(x, mixer.initial_state(2))
    expected = ConvInputs(*(projection(x)[:, -3:] for projection in (mixer.q_proj, mixer.k_proj, mixer.v_proj)))
    assert_close(state.conv, expected)
    assert mixer.initial_state(2).conv.v.shape == expected.v.shape


@MIXERS
def test_without_them_weights_and_states_are_those_of_a_mixer_that_knows_none(cls):
    mixer = built(cls)
    state = mixer.initial_state(1)
    assert not any("conv" in name for name in mixer.state_dict())
    assert state.conv == NoInputs()
    assert cls.state_class(*state[:-1]) == state  # as one that was saved before there was the option


@MIXERS
def test_taps_begin_as_torchs_own_convolution_does(cls):
    weight = built(cls, conv_size=4).v_conv1d.weight
    assert weight.shape[1:] == (1, 4)
    assert 0.4 < weight.abs().max() < 0.5


@MIXERS
def test_a_state_of_other_convolutions_is_refused_in_one_sentence(cls):
    plain, mixer = built(cls), built(cls, conv_size=3)
    x = torch.randn(1, 2, DIM, dtype=torch.float64)
    for one, other in ((plain, mixer), (mixer, plain), (mixer, built(cls, conv_size=4))):
        with pytest.raises(UsageError, match=r"state holds .*write a state that"):
            one.extend(x, other.initial_state(1))
    with pytest.raises(UsageError, match="conv_size=-1"):
        cls(DIM, conv_size=-1)


@MIXERS
def test_blocks_stay_of_one_size(cls):
    with warnings.catch_warnings(action="ignore"):
        model = LanguageModel(lambda dim: cls(dim, conv_size=4), vocab_size=9, dim=64, depth=1)
    size = sum(p.numel() for module in (model.blocks[0].mixer, model.blocks[0].ffn) for p in module.parameters())
    assert abs(size - 12 * 64**2) <= 2 * 64 * 8
