"""LFM2's gated short convolution against its sum over taps, and against transformers' layer with its weights."""

import pytest
import torch
from torch.testing import assert_close

from mixers import GatedConv


@pytest.mark.parametrize("width", [1, 3, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_it_is_a_sum_over_the_last_tokens_between_two_gates(width, bias):
    torch.manual_seed(0)
    mixer = GatedConv(6, width=width, bias=bias).double()
    x = torch.randn(9, 6, dtype=torch.float64)
    before, after, inner = mixer.in_proj(x).split(6, -1)
    weight, rows = mixer.conv.weight[:, 0], []
    for n in range(9):
        seen = range(max(0, n - width + 1), n + 1)
        y = sum(weight[:, width - 1 - (n - m)] * before[m] * inner[m] for m in seen)
        rows.append(after[n] * (y + mixer.conv.bias if bias else y))
    assert_close(mixer(x[None])[0], mixer.out_proj(torch.stack(rows)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("pieces", [[70], [1, 1, 2, 33, 33]], ids=["whole", "pieces"])
def test_it_is_the_layer_of_transformers(bias, pieces):
    lfm2 = pytest.importorskip("transformers.models.lfm2.modeling_lfm2", reason="transformers has LFM2's layer")
    torch.manual_seed(0)
    config = lfm2.Lfm2Config(hidden_size=32, num_hidden_layers=2, layer_types=["conv", "conv"], conv_bias=bias)
    layer, mixer = lfm2.Lfm2ShortConv(config, 0), GatedConv(32, bias=bias)
    mixer.load_state_dict(layer.state_dict())
    x, state, outputs = torch.randn(2, 70, 32), mixer.initial_state(2), []
    for piece in x.split(pieces, 1):
        y, state = mixer.extend(piece, state)
        outputs.append(y)
    assert_close(torch.cat(outputs, 1), layer(x), rtol=1e-5, atol=1e-6)
    assert state.past.shape == (2, 2, 32)
