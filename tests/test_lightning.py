"""Lightning attention against its equations as a loop over tokens, and against MiniMax's layer in transformers."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from mixers import LanguageModel, Lightning
from mixers.testing.law import extend_in_pieces

LENGTH, DEPTH = 70, 3


def published(layer):
    """MiniMax's layer of that index, and a cache for it."""
    pytest.importorskip("transformers", reason="needs the published layer: pip install transformers")
    from transformers import MiniMaxConfig
    from transformers.models.minimax.modeling_minimax import MiniMaxCache, MiniMaxLightningAttention

    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    config = MiniMaxConfig(hidden_size=32, num_hidden_layers=DEPTH, block_size=16, **heads)
    torch.manual_seed(layer)
    attention = MiniMaxLightningAttention(config, layer)
    torch.nn.init.normal_(attention.norm.weight)
    return attention, MiniMaxCache()


def ours(attention, layer):
    """A mixer with the weights of the published layer."""
    mixer = Lightning(32, num_heads=4, chunk_size=16)
    mixer.init_weights(layer, DEPTH)
    mixer.load_state_dict(dict(attention.named_parameters()))  # whose buffers are its decays
    return mixer


def assert_near(actual, expected):
    assert (actual - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("layer", range(DEPTH))
def test_the_published_layer_gives_the_same_whole_and_in_pieces(layer):
    attention, cache = published(layer)
    mixer, x = ours(attention, layer), torch.randn(2, LENGTH, 32)
    expected, sizes = attention(x, None, None)[0], [33, 1, 1, 20, 15]
    assert_near(mixer(x), expected)
    assert_near(extend_in_pieces(mixer, x, sizes)[0], expected)
    pieces = [attention(piece, None, None, cache)[0] for piece in x.split(sizes, 1)]
    assert_near(extend_in_pieces(mixer, x, sizes)[0], torch.cat(pieces, 1))


@pytest.mark.parametrize("layer", range(DEPTH))
def test_it_is_the_equations(layer):
    torch.manual_seed(0)
    mixer = Lightning(12, num_heads=3, chunk_size=8).double()
    mixer.init_weights(layer, DEPTH)
    x, state, outputs = torch.randn(LENGTH, 12, dtype=torch.float64), torch.zeros(3, 4, 4, dtype=torch.float64), []
    for token in x:
        of_heads = []
        for h in range(3):
            q, k, v = F.silu(mixer.qkv_proj(token)[12 * h : 12 * h + 12]).split(4)
            slope = 2 ** (-8 * (h + 1) / 3) * (1 - layer / (DEPTH - 1 + 1e-5) + 1e-5)
            state[h] = torch.exp(torch.tensor(-slope, dtype=torch.float64)) * state[h].clone() + torch.outer(k, v)
            of_heads.append(q @ state[h])
        o = torch.cat(of_heads)
        normed = o / torch.sqrt(o.square().mean() + 1e-6) * mixer.norm.weight
        outputs.append(mixer.out_proj(torch.sigmoid(mixer.output_gate(token)) * normed))
    assert_close(mixer(x[None])[0], torch.stack(outputs), rtol=1e-9, atol=1e-9)


def test_the_model_tells_each_layer_its_decays():
    model = LanguageModel(Lightning, vocab_size=9, dim=128, depth=3)
    rates = [-block.mixer.log_decay(torch.float64, torch.device("cpu")) for block in model.blocks]
    assert_close(rates[0][-1], torch.tensor(2**-8 * (1 + 1e-5), dtype=torch.float64))
    assert_close(rates[1], rates[0] / 2, rtol=1e-4, atol=0)
    assert rates[2].max() < 1e-4


@pytest.mark.parametrize(("dim", "heads"), [(32, 4), (128, 4), (512, 4), (1024, 8), (4096, 32)])
def test_heads_follow_the_width(dim, heads):
    with torch.device("meta"):
        assert Lightning(dim).num_heads == heads


@pytest.mark.parametrize(
    ("dim", "options", "message"),
    [(6, {}, "num_heads=4 does not divide dim=6; try num_heads=3"), (32, {"num_heads": 0}, "num_heads=0")],
)
def test_wrong_options_are_refused(dim, options, message):
    with pytest.raises(ValueError, match=message):
        Lightning(dim, **options)
