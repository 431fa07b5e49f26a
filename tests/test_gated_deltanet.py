"""Gated DeltaNet against its paper's equations as a loop, and against published layers with their weights."""

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from mixers import GatedDeltaNet
from mixers.checks import UsageError
from mixers.testing.law import extend_in_pieces

DIM, LENGTH = 32, 70  # of a chunk and a bit
PIECES = [1, 5, 63, 1]


def convolved(x, weight):
    """silu of the causal convolution of x (t, d) with weight (d, 1, l), tap by tap."""
    y = torch.zeros_like(x)
    for i in range(weight.shape[2]):
        y[i:] += weight[:, 0, -1 - i] * x[: len(x) - i]
    return F.silu(y)


def loop(mixer, x):
    """Equation 10 and Figure 1 of the paper, for the tokens x (t, dim) of one sequence."""
    t, h, k, v = len(x), mixer.num_v_heads, mixer.head_dim, mixer.head_v_dim
    q = convolved(x @ mixer.q_proj.weight.T, mixer.q_conv1d.weight).view(t, -1, k)
    key = convolved(x @ mixer.k_proj.weight.T, mixer.k_conv1d.weight).view(t, mixer.steps, -1, k)
    value = convolved(x @ mixer.v_proj.weight.T, mixer.v_conv1d.weight).view(t, mixer.steps, h, v)
    q = q / (q.square().sum(-1, keepdim=True) + 1e-6).sqrt() / k**0.5
    key = key / (key.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    beta = (x @ mixer.b_proj.weight.T).sigmoid().view(t, mixer.steps, h) * (2 if mixer.allow_neg_eigval else 1)
    alpha = torch.ones(t, h, dtype=x.dtype)
    if mixer.decay:
        alpha = (-mixer.A_log.exp() * torch.log1p((x @ mixer.a_proj.weight.T + mixer.dt_bias).exp())).exp()
    states, heads = [torch.zeros(k, v, dtype=x.dtype) for _ in range(h)], []
    for n in range(t):
        for i in range(h):
            shared = i * q.shape[1] // h
            states[i] = alpha[n, i] * states[i]
            for step in range(mixer.steps):
                k_n, v_n, beta_n = key[n, step, shared], value[n, step, i], beta[n, step, i]
                identity = torch.eye(k, dtype=x.dtype)
                states[i] = (identity - beta_n * torch.outer(k_n, k_n)) @ states[i] + beta_n * torch.outer(k_n, v_n)
            o = states[i].T @ q[n, shared]
            heads.append(o / (o.square().mean() + mixer.o_norm.eps).sqrt() * mixer.o_norm.weight)
    y = torch.stack(heads).view(t, h * v)
    if mixer.g_proj is not None:
        y = y * {"silu": F.silu, "sigmoid": torch.sigmoid}[mixer.o_norm.gate](x @ mixer.g_proj.weight.T)
    return y @ mixer.o_proj.weight.T


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_heads": 2, "num_v_heads": 4, "head_dim": 6, "gate": "sigmoid"},
        {"decay": False, "gate": "none", "allow_neg_eigval": True, "chunk_size": 16},
        {"steps": 3, "allow_neg_eigval": True, "num_heads": 1, "num_v_heads": 2},
    ],
    ids=["defaults", "grouped values", "DeltaNet", "DeltaProduct"],
)
def test_it_is_the_equations_of_its_paper(options):
    torch.manual_seed(0)
    mixer, x = GatedDeltaNet(DIM, **options).double(), torch.randn(1, 37, DIM, dtype=torch.float64)
    torch.nn.init.normal_(mixer.o_norm.weight)
    assert_close(mixer(x), loop(mixer, x[0])[None], rtol=1e-9, atol=1e-9)


def qwen(**options):
    """Qwen3-Next's layer, whose projections are joined head by head, and ours with its weights."""
    pytest.importorskip("transformers", reason="needs the published layer: pip install 'transformers>=5.23,<6'")
    from transformers import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    heads, shared, k, v = 2, 2, 8, 16
    config = Qwen3NextConfig(
        hidden_size=DIM, num_hidden_layers=4, linear_num_key_heads=heads, linear_num_value_heads=heads * shared,
        linear_key_head_dim=k, linear_value_head_dim=v, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
        vocab_size=64,
    )  # fmt: skip
    theirs = Qwen3NextGatedDeltaNet(config, 0)
    weights = {name: weight.detach() for name, weight in theirs.state_dict().items()}
    q, k_, v_, z = weights["in_proj_qkvz.weight"].view(heads, -1, DIM).split([k, k, shared * v, shared * v], 1)
    b, a = weights["in_proj_ba.weight"].view(heads, -1, DIM).split(shared, 1)
    joined = {"q_proj": q, "k_proj": k_, "v_proj": v_, "g_proj": z, "a_proj": a, "b_proj": b}
    ours = GatedDeltaNet(
        DIM, num_heads=heads, num_v_heads=heads * shared, head_dim=k, norm_eps=config.rms_norm_eps, **options
    )
    ours.load_state_dict(
        {f"{name}.weight": part.reshape(-1, DIM) for name, part in joined.items()}
        | split_convolution(weights["conv1d.weight"], ours)
        | {"o_norm.weight": weights["norm.weight"], "o_proj.weight": weights["out_proj.weight"]}
        | {name: weights[name] for name in ("A_log", "dt_bias")}
    )
    return theirs, config, ours


def olmo(**options):
    """OLMo Hybrid's layer, whose parameters have our names but for one convolution, and ours with its weights."""
    pytest.importorskip("transformers", reason="needs the published layer: pip install 'transformers>=5.23,<6'")
    from transformers import OlmoHybridConfig
    from transformers.models.olmo_hybrid.modeling_olmo_hybrid import OlmoHybridGatedDeltaNet

    config = OlmoHybridConfig(
        hidden_size=DIM, num_hidden_layers=4, num_attention_heads=4, vocab_size=64, pad_token_id=0, eos_token_id=1
    )
    theirs = OlmoHybridGatedDeltaNet(config, 0)
    ours = GatedDeltaNet(
        DIM, num_heads=4, head_dim=theirs.head_k_dim, allow_neg_eigval=config.linear_allow_neg_eigval, **options
    )
    weights = theirs.state_dict()
    ours.load_state_dict(weights | split_convolution(weights.pop("conv1d.weight"), ours))
    return theirs, config, ours


def split_convolution(weight, ours):
    """One convolution over [q; k; v] as three."""
    parts = weight.split([proj.out_features for proj in (ours.q_proj, ours.k_proj, ours.v_proj)])
    return {f"{name}_conv1d.weight": part for name, part in zip("qkv", parts, strict=True)}


def assert_near(actual, expected):
    assert (actual - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.fixture(params=[qwen, olmo], ids=["Qwen3-Next", "OLMo Hybrid"])
def layers(request):
    torch.manual_seed(0)
    return request.param()


def test_published_weights_give_the_published_output_and_gradients(layers):
    theirs, _, ours = layers
    inputs = [torch.randn(2, LENGTH, DIM).requires_grad_()]
    inputs.append(inputs[0].detach().clone().requires_grad_())
    outputs = [layer(x) for layer, x in zip((ours, theirs), inputs, strict=True)]
    assert_near(*outputs)
    for y in outputs:
        y.square().sum().backward()
    assert_near(*(x.grad for x in inputs))
    for name in ("A_log", "dt_bias"):
        assert_near(ours.get_parameter(name).grad, theirs.get_parameter(name).grad)


def test_published_weights_give_the_published_output_in_pieces(layers):
    from transformers import DynamicCache

    theirs, config, ours = layers
    x, cache = torch.randn(2, LENGTH, DIM), DynamicCache(config=config)
    with torch.no_grad():
        expected = torch.cat([theirs(piece, cache=cache) for piece in x.split(PIECES, 1)], 1)
        actual, state = extend_in_pieces(ours, x, PIECES)
        assert_near(actual, expected)
        assert_near(state.kv, cache.get_recurrent_state(0, state_idx=0))


@pytest.mark.parametrize(("dim", "heads", "width"), [(64, 3, 16), (128, 3, 32), (512, 3, 128), (1024, 6, 128)])
def test_default_heads_follow_the_width_and_take_six_squares_of_parameters(dim, heads, width):
    with torch.device("meta"):
        mixer = GatedDeltaNet(dim)
    assert (mixer.num_heads, mixer.head_dim, mixer.head_v_dim) == (heads, width, 2 * width)
    assert 6 * dim**2 <= sum(p.numel() for p in mixer.parameters()) <= 6.4 * dim**2


def test_decays_are_float32_in_a_model_of_half_precision():
    mixer = GatedDeltaNet(DIM).bfloat16()
    x = torch.randn(1, 3, DIM, dtype=torch.bfloat16)
    assert mixer.log_decay(x).dtype == mixer.initial_state(1).kv.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_heads": 2, "num_v_heads": 3}, "num_v_heads=3 is no multiple of num_heads=2: write one that is"),
        ({"gate": "swish"}, "gate='swish' is not one of: silu, sigmoid, none"),
        ({"head_dim": 0}, "head_dim=0 is too small: write 1 or more"),
        ({"conv_size": -1}, "conv_size=-1 is too small: write 0 or more"),
        ({"steps": 0}, "steps=0 is too small: write 1 or more"),
        ({"expand_v": 0.0}, "expand_v=0.0 is too small: write a number above 0"),
    ],
)
def test_options_out_of_range_are_refused_in_one_sentence(options, sentence):
    with pytest.raises(UsageError, match=sentence):
        GatedDeltaNet(DIM, **options)
