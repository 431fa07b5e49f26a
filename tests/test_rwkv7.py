"""RWKV-7 against its equations, written as a loop over tokens, and against the authors' package with its weights."""

import importlib
import math
from importlib.util import find_spec

import pytest
import torch
from torch.testing import assert_close

from mixers import RWKV7, LanguageModel

DIM, LENGTH = 24, 11

# Names in the order of the authors' arguments.
MIXES = ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g")
LOW_RANK = ("w0", "w1", "w2", "a0", "a1", "a2", "v0", "v1", "v2", "g1", "g2")
KEYS = ("k_k", "k_a")
SQUARE = ("receptance", "key", "value", "output")


def built(dim=DIM, **options):
    """With random numbers for all vectors, so that each of them matters."""
    torch.manual_seed(0)
    mixer = RWKV7(dim, **options)
    for parameter in mixer.parameters():
        if parameter.squeeze().ndim == 1 or parameter is mixer.r_k:
            torch.nn.init.uniform_(parameter, -1, 1)
    return mixer


@pytest.fixture
def x():
    return torch.randn(LENGTH, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def heads(x):
    return x.unflatten(-1, (-1, 8))


def test_it_is_the_papers_equations(x):
    m = built(head_dim=8, decay_rank=3, rate_rank=4, gate_rank=5).double()
    before, s, rows = torch.zeros(DIM, dtype=torch.float64), torch.zeros(3, 8, 8, dtype=torch.float64), []
    for x_n in x:
        r, w, k, v, a, g = (x_n + (before - x_n) * mix[0, 0] for mix in (m.x_r, m.x_w, m.x_k, m.x_v, m.x_a, m.x_g))
        w = torch.exp(-math.exp(-0.5) * torch.sigmoid(m.w0[0, 0] + torch.tanh(w @ m.w1) @ m.w2))
        a = torch.sigmoid(m.a0[0, 0] + a @ m.a1 @ m.a2)
        g = torch.sigmoid(g @ m.g1) @ m.g2
        r, k, v = m.receptance.weight @ r, m.key.weight @ k, m.value.weight @ v
        removed = heads(k * m.k_k[0, 0])
        removed = removed / removed.norm(dim=-1, keepdim=True)
        k = k * (1 + (a - 1) * m.k_a[0, 0])
        r, w, k, v, a = (heads(z) for z in (r, w, k, v, a))
        transition = torch.diag_embed(w) - (removed * a)[:, :, None] * removed[:, None, :]
        s = transition @ s + k[:, :, None] * v[:, None, :]
        o = (s.mT @ r[:, :, None])[:, :, 0]
        o = (o - o.mean(1, keepdim=True)) / (o.var(1, correction=0, keepdim=True) + 8e-5).sqrt()
        o = o * heads(m.ln_x.weight) + heads(m.ln_x.bias) + (r * k * m.r_k).sum(1, keepdim=True) * v
        rows.append(m.output.weight @ (o.flatten() * g))
        before = x_n
    assert_close(m(x[None])[0], torch.stack(rows), rtol=1e-9, atol=1e-9)


@pytest.fixture
def authors(monkeypatch):
    """The authors' time mixing of a whole sequence of one row, without their CUDA code."""
    if find_spec("rwkv") is None:
        pytest.skip("the authors' package is not installed: pip install rwkv==0.8.32")
    for name, value in {"RWKV_V7_ON": "1", "RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0"}.items():
        monkeypatch.setenv(name, value)
    return importlib.import_module("rwkv.model").RWKV_x070_TMix_seq


@pytest.mark.filterwarnings("ignore:`torch.jit")  # of the authors' package
@pytest.mark.parametrize("lengths", [[70], [1] * 70, [33, 1, 36]], ids=["whole", "tokens", "pieces"])
def test_it_is_the_authors_first_layer(authors, lengths):
    mixer, x = built(128), torch.randn(70, 128)
    w = {name: weight.squeeze() for name, weight in mixer.state_dict().items()}
    with torch.no_grad():
        expected, previous, kv, _ = authors(
            *(0, 2, 64, x, torch.zeros(128), torch.empty(0), torch.zeros(2, 64, 64)),
            *(w.get(name, torch.empty(0)) for name in (*MIXES, *LOW_RANK, *KEYS)),
            w["r_k"].flatten(),
            *(w[f"{name}.weight"].T for name in SQUARE),
            *(w["ln_x.weight"], w["ln_x.bias"]),
        )
        state, outputs = mixer.initial_state(1), []
        for piece in x[None].split(lengths, 1):
            y, state = mixer.extend(piece, state)
            outputs.append(y)
    scale = expected.abs().max().item()
    assert_close(torch.cat(outputs, 1)[0], expected, rtol=0, atol=1e-5 * scale)
    assert_close(state.kv[0].mT, kv, rtol=0, atol=1e-5 * kv.abs().max().item())
    assert_close(state.previous[0], previous)


def test_a_checkpoint_of_the_authors_first_layer_loads_by_name():
    shapes = dict.fromkeys((*MIXES, "w0", "a0", "v0", *KEYS), (1, 1, 128))
    shapes |= {"w1": (128, 32), "w2": (32, 128), "a1": (128, 32), "a2": (32, 128), "v1": (128, 32), "v2": (32, 128)}
    shapes |= {"g1": (128, 64), "g2": (64, 128), "r_k": (2, 64), "ln_x.weight": (128,), "ln_x.bias": (128,)}
    shapes |= {f"{name}.weight": (128, 128) for name in SQUARE}
    unknown = RWKV7(128).load_state_dict({name: torch.zeros(shape) for name, shape in shapes.items()}, strict=False)
    assert unknown.missing_keys == []
    assert sorted(unknown.unexpected_keys) == ["v0", "v1", "v2"]


@pytest.mark.parametrize(("dim", "ranks"), [(128, (32, 64)), (768, (64, 128)), (1024, (64, 160)), (2048, (128, 224))])
def test_ranks_follow_the_authors_rule(dim, ranks):
    with torch.device("meta"):
        mixer = RWKV7(dim)
    assert (mixer.w1.shape[1], mixer.g1.shape[1]) == ranks
    assert mixer.a1.shape == mixer.w1.shape


@pytest.mark.parametrize(("dim", "width"), [(1024, 64), (128, 64), (32, 32), (96, 48), (17, 17), (1, 1)])
def test_heads_are_as_wide_as_dim_allows_up_to_64(dim, width):
    mixer = RWKV7(dim)
    assert mixer.initial_state(3).kv.shape == (3, dim // width, width, width)
    assert mixer(torch.randn(1, 5, dim)).isfinite().all()


@pytest.mark.parametrize(("layer", "channel"), [(0, 0), (0, 70), (1, 8), (2, 3), (2, 127)])
def test_in_a_model_it_begins_with_the_authors_values_for_its_depth(layer, channel):
    model = LanguageModel(RWKV7, vocab_size=10, dim=128, depth=3)
    mixer, n = model.blocks[layer].mixer, channel
    z, lin = (n % 64 - 31.5) / 31.5, n / 127 - 0.5
    z *= abs(z)
    values = {
        "x_r": 1 - (n / 128) ** (0.2 * (1 - layer / 3)),
        "x_a": 1 - (n / 128) ** (0.9 * (1 - layer / 3)),
        "x_v": 1 - (n / 128) ** (0.7 * (1 - layer / 3)),
        "w0": -6 + 6 * (n / 127) ** (1 + (layer / 2) ** 0.3) + 0.5 + 2.5 * z,
        "a0": -0.19 + 0.3 * z + 0.4 * lin,
        "k_k": 0.71 - 0.1 * lin,
        "k_a": 1.02,
        "r_k": -0.04,
    }
    for name, value in values.items():
        assert getattr(mixer, name).flatten()[n].item() == pytest.approx(value, abs=1e-5), name
    assert mixer.output.weight.count_nonzero() == mixer.w1.count_nonzero() == mixer.g1.count_nonzero() == 0
    assert_close(mixer.a2 @ mixer.a2.T, 0.01 * torch.eye(32))
    assert 0.04 < mixer.key.weight.abs().max() * 128**0.5 < 0.05


def test_only_the_square_matrices_decay():
    from lit_modules.training.optimizer import Rates, parameter_groups

    mixer = RWKV7(128)
    decaying = parameter_groups(mixer, Rates(lr=1.0, weight_decay=0.1))[0]["params"]
    names = {name for name, weight in mixer.named_parameters() if any(weight is other for other in decaying)}
    assert names == {f"{name}.weight" for name in SQUARE}


def test_an_option_out_of_range_is_refused():
    with pytest.raises(ValueError, match="head_dim=5 does not divide dim=24: write 24"):
        RWKV7(24, head_dim=5)
    with pytest.raises(ValueError, match="gate_rank=0"):
        RWKV7(24, gate_rank=0)


def test_a_token_without_a_key_changes_nothing_but_the_decay():
    mixer = RWKV7(24)
    torch.nn.init.zeros_(mixer.key.weight)
    x = torch.randn(1, 9, 24, requires_grad=True)
    y, state = mixer.extend(x, mixer.initial_state(1))
    assert state.kv.count_nonzero() == 0
    y.sum().backward()
    assert x.grad.isfinite().all()


def test_options_that_change_only_the_speed_change_nothing_else():
    x = torch.randn(2, 77, DIM, dtype=torch.float64)
    expected = built().double()(x)
    for chunk_size in (1, 3, 16, 64, 1000):
        assert_close(built(chunk_size=chunk_size).double()(x), expected, rtol=1e-9, atol=1e-9)
