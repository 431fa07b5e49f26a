"""Sinks, gates, norms and rotary positions in part: against loops, and against the layers of published hybrids."""

import math
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from mixers import Attention
from mixers.checks import UsageError
from mixers.ops.rotary import rotary_frequencies
from mixers.ops.softmax_attention import reference, softmax_attention

DIM, HEADS, WIDTH, LENGTH = 32, 4, 8, 23


def built(**options: Any) -> Attention:
    torch.manual_seed(0)
    mixer = Attention(DIM, num_heads=HEADS, **options).double()
    for norm in (mixer.q_norm, mixer.k_norm):
        if norm is not None:
            torch.nn.init.normal_(norm.weight, 1, 0.3)
    if mixer.sinks is not None:
        torch.nn.init.normal_(mixer.sinks, std=2)
    return mixer


def normed(x, norm):
    return x if norm is None else x / torch.sqrt(x.square().mean() + 1e-6) * norm.weight


def rotated(x, n, channels):
    """Neighbouring pairs of the first channels, by n times their frequency."""
    y = x.clone()
    for pair, frequency in enumerate(rotary_frequencies(channels, x.device).tolist()):
        a, b, angle = x[2 * pair], x[2 * pair + 1], n * frequency
        y[2 * pair] = a * math.cos(angle) - b * math.sin(angle)
        y[2 * pair + 1] = b * math.cos(angle) + a * math.sin(angle)
    return y


OPTIONS = {
    "sinks": {"sinks": True},
    "sinks and window": {"sinks": True, "window": 5, "num_kv_heads": 2},
    "gate of channels": {"gate": "channel", "num_kv_heads": 1},
    "gate of heads": {"gate": "head"},
    "norm and half rotary": {"qk_norm": True, "rotary": 0.5},
    "all": {"sinks": True, "window": 7, "gate": "channel", "qk_norm": True, "rotary": 0.25, "num_kv_heads": 2},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_it_is_a_softmax_with_a_logit_more_of_normed_and_rotated_heads_behind_a_gate(options: dict[str, Any]) -> None:
    mixer, x = built(**options), torch.randn(LENGTH, DIM, dtype=torch.float64)
    window, channels = options.get("window", LENGTH), int(options.get("rotary", 1) * WIDTH)
    q, k, v = (proj(x).unflatten(-1, (-1, WIDTH)) for proj in (mixer.q_proj, mixer.k_proj, mixer.v_proj))
    group = HEADS // k.shape[1]
    rows = []
    for n in range(LENGTH):
        heads = []
        for h in range(HEADS):
            query = rotated(normed(q[n, h], mixer.q_norm), n, channels)
            above, below = torch.zeros(WIDTH, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
            below += 0 if mixer.sinks is None else mixer.sinks[h].exp()
            for m in range(max(0, n - window + 1), n + 1):
                key = rotated(normed(k[m, h // group], mixer.k_norm), m, channels)
                weight = torch.exp(query @ key / math.sqrt(WIDTH))
                above, below = above + weight * v[m, h // group], below + weight
            heads.append(above / below)
        o = torch.stack(heads)
        if mixer.g_proj is not None:
            o = o * torch.sigmoid(mixer.g_proj(x[n])).view(HEADS, -1)
        rows.append(mixer.out_proj(o.flatten()))
    assert_close(mixer(x[None])[0], torch.stack(rows), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("keys", [1, 6, 20])
def test_attention_over_what_a_mask_shows_is_the_reference_with_gradients(kv_heads: int, keys: int) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, *shape, 6, dtype=torch.float64) for shape in ((5, 4), (keys, kv_heads), (keys, kv_heads)))
    sinks, visible = 3 * torch.randn(4, dtype=torch.float64), torch.rand(2, 5, keys) < 0.7
    inputs = [x.requires_grad_() for x in (q, k, v, sinks)]
    outputs = [f(q, k, v, visible, sinks) for f in (softmax_attention, reference)]  # some see the sinks only
    direction = torch.randn_like(q)
    gradients = [torch.autograd.grad(output, inputs, direction) for output in outputs]
    assert_close(*outputs, rtol=1e-9, atol=1e-12)
    assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_a_head_may_attend_to_nothing() -> None:
    mixer = built(sinks=True, gate="head")
    torch.nn.init.constant_(mixer.sinks, 1000.0)
    assert not mixer(torch.randn(1, 9, DIM, dtype=torch.float64)).any()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rotary": 1.5}, "rotary=1.5"),
        ({"rotary": -0.5}, "rotary=-0.5"),
        ({"rotary": 0.1}, "rotary=0.1"),
        ({"gate": "channels"}, "gate='channels'"),
    ],
)
def test_what_is_out_of_range_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Attention(DIM, num_heads=HEADS, **options)


def halves_to_pairs(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """Rows (head, channel) of a published layer, which rotates channels half a head apart; ours rotates neighbours."""
    heads = weight.unflatten(0, (-1, WIDTH))
    first = heads[:, :channels].unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
    return torch.cat([first, heads[:, channels:]], 1).flatten(0, 1)


def causal_mask(window: int) -> torch.Tensor:
    distance = torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)
    return torch.zeros(1, 1, LENGTH, LENGTH).masked_fill((distance < 0) | (distance >= window), -torch.inf)


def in_pieces(mixer: Attention, x: torch.Tensor) -> torch.Tensor:
    state, outputs = mixer.initial_state(len(x)), []
    for piece in x.split([1, 9, 1, LENGTH - 11], 1):
        y, state = mixer.extend(piece, state)
        outputs.append(y)
    return torch.cat(outputs, 1)


def assert_equal_whole_and_in_pieces(mixer: Attention, x: torch.Tensor, expected: torch.Tensor) -> None:
    for y in (mixer(x), in_pieces(mixer, x)):
        assert (y - expected).abs().max() < 1e-5 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_weights_of_qwen3_nexts_attention_give_its_output(kv_heads: int) -> None:
    published = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next", reason="needs transformers")
    config = published.Qwen3NextConfig(
        hidden_size=DIM,
        num_attention_heads=HEADS,
        num_key_value_heads=kv_heads,
        head_dim=WIDTH,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5},
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    theirs, positions = published.Qwen3NextAttention(config, 0), published.Qwen3NextRotaryEmbedding(config)
    for norm in (theirs.q_norm, theirs.k_norm):
        torch.nn.init.normal_(norm.weight, std=0.3)
    ours = Attention(DIM, num_heads=HEADS, num_kv_heads=kv_heads, qk_norm=True, rotary=0.5, gate="channel")
    weights, q_and_gate = theirs.state_dict(), theirs.q_proj.weight.unflatten(0, (HEADS, 2, WIDTH))
    weights |= {"q_proj.weight": q_and_gate[:, 0].flatten(0, 1), "g_proj.weight": q_and_gate[:, 1].flatten(0, 1)}
    weights |= {name: 1 + weights[name] for name in ("q_norm.weight", "k_norm.weight")}
    weights["out_proj.weight"] = weights.pop("o_proj.weight")
    for name in ("q_proj.weight", "k_proj.weight", "q_norm.weight", "k_norm.weight"):
        weights[name] = halves_to_pairs(weights[name], WIDTH // 2)
    ours.load_state_dict(weights)
    x = torch.randn(2, LENGTH, DIM)
    expected, _ = theirs(x, positions(x, torch.arange(LENGTH)[None]), causal_mask(LENGTH))
    assert_equal_whole_and_in_pieces(ours, x, expected)


@torch.no_grad()
@pytest.mark.parametrize("window", [6, None])
def test_weights_of_gpt_oss_attention_give_its_output(window: int | None) -> None:
    published = pytest.importorskip("transformers.models.gpt_oss.modeling_gpt_oss", reason="needs transformers")
    config = published.GptOssConfig(
        hidden_size=DIM,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        head_dim=WIDTH,
        attention_bias=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    theirs, positions = published.GptOssAttention(config, 0), published.GptOssRotaryEmbedding(config)
    torch.nn.init.normal_(theirs.sinks)
    ours = Attention(DIM, num_heads=HEADS, num_kv_heads=2, sinks=True, window=window)
    weights = theirs.state_dict()
    weights["out_proj.weight"] = weights.pop("o_proj.weight")
    for name in ("q_proj.weight", "k_proj.weight"):
        weights[name] = halves_to_pairs(weights[name], WIDTH)
    ours.load_state_dict(weights)
    x = torch.randn(2, LENGTH, DIM)
    expected, _ = theirs(x, positions(x, torch.arange(LENGTH)[None]), causal_mask(window or LENGTH))
    assert_equal_whole_and_in_pieces(ours, x, expected)
