"""Kimi Delta Attention and Gated DeltaNet-2 against their equations as a loop, and published layers' weights."""

import pytest
import torch
from test_gated_deltanet import assert_near, convolved, split_convolution

from mixers import GDN2, KDA
from mixers.checks import UsageError
from mixers.testing.law import extend_in_pieces

DIM, LENGTH = 32, 70  # of a chunk and a bit
PIECES = [1, 5, 63, 1]


def loop(mixer, x):
    """Equation 1 of KDA's paper, with strengths of each channel, for the tokens x (t, dim) of one sequence."""
    t, h, k, v = len(x), mixer.num_heads, mixer.head_dim, mixer.head_v_dim
    q = convolved(x @ mixer.q_proj.weight.T, mixer.q_conv1d.weight).view(t, h, k)
    key = convolved(x @ mixer.k_proj.weight.T, mixer.k_conv1d.weight).view(t, h, k)
    value = convolved(x @ mixer.v_proj.weight.T, mixer.v_conv1d.weight).view(t, h, v)
    q = q / (q.square().sum(-1, keepdim=True) + 1e-6).sqrt() / k**0.5
    key = key / (key.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    erase = (x @ mixer.b_proj.weight.T).sigmoid().view(t, h, -1) * (2 if mixer.allow_neg_eigval else 1)
    write = (x @ mixer.w_proj.weight.T).sigmoid().view(t, h, v) if isinstance(mixer, GDN2) else erase
    u = (x @ mixer.f_proj[0].weight.T @ mixer.f_proj[1].weight.T + mixer.dt_bias).view(t, h, k)
    rate = mixer.A_log.exp()[:, None]
    g = -rate * torch.log1p(u.exp()) if mixer.decay_bound is None else mixer.decay_bound * (rate * u).sigmoid()
    states, heads = [torch.zeros(k, v, dtype=x.dtype) for _ in range(h)], []
    for n in range(t):
        for i in range(h):
            decayed, k_n = torch.diag(g[n, i].exp()) @ states[i], key[n, i]
            states[i] = decayed - torch.outer(k_n, decayed.T @ (erase[n, i] * k_n))
            states[i] = states[i] + torch.outer(k_n, write[n, i] * value[n, i])
            o = states[i].T @ q[n, i]
            heads.append(o / (o.square().mean() + mixer.o_norm.eps).sqrt() * mixer.o_norm.weight)
    gate = mixer.g_proj(x).sigmoid()
    return (torch.stack(heads).view(t, h * v) * gate) @ mixer.o_proj.weight.T


@pytest.mark.parametrize("mixer_class", [KDA, GDN2])
@pytest.mark.parametrize(
    "options",
    [{}, {"decay_bound": -5.0, "num_heads": 3, "head_dim": 5, "expand_v": 2.0}, {"allow_neg_eigval": True}],
    ids=["defaults", "bounded decay", "reflections"],
)
def test_it_is_the_equations_of_its_paper(options, mixer_class):
    torch.manual_seed(0)
    mixer, x = mixer_class(DIM, **options).double(), torch.randn(1, 37, DIM, dtype=torch.float64)
    torch.nn.init.normal_(mixer.o_norm.weight)
    torch.testing.assert_close(mixer(x), loop(mixer, x[0])[None], rtol=1e-9, atol=1e-9)


def kimi():
    """Kimi Linear's layer, and ours with its weights."""
    pytest.importorskip("transformers", reason="needs the published layer: pip install 'transformers>=5.23,<6'")
    from transformers import KimiLinearConfig
    from transformers.models.kimi_linear.modeling_kimi_linear import KimiLinearDeltaAttention

    config = KimiLinearConfig(
        hidden_size=DIM, num_hidden_layers=4, linear_num_heads=2, linear_head_dim=8, num_attention_heads=2,
        vocab_size=64, pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    ours, theirs = KDA(DIM, num_heads=2, head_dim=8, gate_bias=False), KimiLinearDeltaAttention(config, 0)
    ours.o_norm.eps = config.rms_norm_eps
    a_log, dt_bias = theirs.forget_gate.A_log, theirs.forget_gate.dt_bias
    with torch.no_grad():  # the model initialises these two
        a_log.copy_(ours.A_log.view_as(a_log))
        dt_bias.copy_(ours.dt_bias)
    weights = theirs.state_dict()
    names = {
        "forget_gate.f_a_proj": "f_proj.0",
        "forget_gate.f_b_proj": "f_proj.1",
        "g_a_proj": "g_proj.0",
        "g_b_proj": "g_proj.1",
    }
    renamed = {f"{own}.weight": weights.pop(f"{their}.weight") for their, own in names.items()}
    weights |= renamed | split_convolution(weights.pop("conv1d.weight"), ours)
    weights["A_log"], weights["dt_bias"] = weights.pop("forget_gate.A_log").flatten(), ours.dt_bias
    del weights["forget_gate.dt_bias"]
    ours.load_state_dict(weights)
    return theirs, config, ours


def ling():
    """Ling's layer, whose decay is bounded, with our weights; its projections of decay and gate are of full rank."""
    pytest.importorskip("transformers", reason="needs the published layer: pip install 'transformers>=5.23,<6'")
    from transformers import BailingHybridConfig
    from transformers.models.bailing_hybrid.modeling_bailing_hybrid import BailingHybridDeltaAttention

    config = BailingHybridConfig(
        hidden_size=DIM, num_hidden_layers=6, num_attention_heads=2, head_dim=8, vocab_size=64,
        kda_safe_gate=True, kda_lower_bound=-5.0,
    )  # fmt: skip
    ours = KDA(DIM, num_heads=2, head_dim=8, gate_bias=False, decay_bound=-5.0, norm_eps=config.rms_norm_eps)
    theirs = BailingHybridDeltaAttention(config, 0)
    weights = ours.state_dict()
    for name in ("f_proj", "g_proj"):
        first, second = weights.pop(f"{name}.0.weight"), weights.pop(f"{name}.1.weight")
        weights[f"{name}.weight"] = second @ first
    weights["conv1d.weight"] = torch.cat([weights.pop(f"{name}_conv1d.weight") for name in "qkv"])
    theirs.load_state_dict({name_of(theirs, name): weight for name, weight in weights.items()})
    return theirs, config, ours


def name_of(module, name):
    """A parameter's name, with that of the part of the module it is in."""
    return next(own for own in module.state_dict() if own == name or own == f"forget_gate.{name}")


@pytest.fixture(params=[kimi, ling], ids=["Kimi Linear", "Ling"])
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


def test_published_weights_give_the_published_output_in_pieces(layers):
    from transformers import DynamicCache

    theirs, config, ours = layers
    x, cache = torch.randn(2, LENGTH, DIM), DynamicCache(config=config)
    with torch.no_grad():
        expected = torch.cat([theirs(piece, cache=cache) for piece in x.split(PIECES, 1)], 1)
        assert_near(extend_in_pieces(ours, x, PIECES)[0], expected)


@pytest.mark.parametrize(("mixer_class", "squares"), [(KDA, 4.5), (GDN2, 6.5)])
@pytest.mark.parametrize(("dim", "heads", "width"), [(128, 4, 32), (512, 4, 128), (1024, 8, 128)])
def test_default_heads_follow_the_width(dim, heads, width, mixer_class, squares):
    with torch.device("meta"):
        mixer = mixer_class(dim)
    assert (mixer.num_heads, mixer.head_dim, mixer.head_v_dim) == (heads, width, width)
    assert sum(p.numel() for p in mixer.parameters()) < (squares + 0.7) * dim**2


def test_a_bounded_decay_stays_above_its_bound():
    mixer, x = KDA(DIM, decay_bound=-5.0), 1000 * torch.randn(1, 50, DIM)
    decay = mixer.log_decay(x)
    assert -5 <= decay.min() < -4
    assert decay.max() <= 0


def test_a_bound_of_the_decay_that_is_none_is_refused():
    with pytest.raises(UsageError, match=r"decay_bound=0\.0 is too large: write a number below 0, or null"):
        KDA(DIM, decay_bound=0.0)
