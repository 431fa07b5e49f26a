"""Recurrent mixers and state spaces against their papers' equations, written as loops over tokens."""

import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from mixers import GRU, H3, LSTM, RWKV, S4D, LanguageModel
from mixers.ops.state_space import state_space

DIM, LENGTH = 16, 11


@pytest.fixture
def x():
    return torch.randn(LENGTH, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def built(cls, **options):
    torch.manual_seed(0)
    return cls(DIM, **options).double()


def rwkv_with_any_times():
    mixer = built(RWKV)
    for name, parameter in mixer.named_parameters():
        if name.startswith("time_"):
            torch.nn.init.uniform_(parameter, -2, 2)
    return mixer


def mixed(mixer, x):
    """k, v and r of each token, (time, channels)."""
    before = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
    mixes = mixer.time_mix_key[0], mixer.time_mix_value[0], mixer.time_mix_receptance[0]
    projections = mixer.key, mixer.value, mixer.receptance
    return (f(mix * x + (1 - mix) * before) for f, mix in zip(projections, mixes, strict=True))


def test_rwkv_is_its_sums_of_exponentials(x):
    mixer = rwkv_with_any_times()
    k, v, r = mixed(mixer, x)
    w, u = mixer.time_decay.exp(), mixer.time_first
    above, below, rows = torch.zeros_like(u), torch.zeros_like(u), []
    for n in range(LENGTH):
        bonus = torch.exp(u + k[n])
        rows.append((above + bonus * v[n]) / (below + bonus))
        above, below = torch.exp(-w) * above + k[n].exp() * v[n], torch.exp(-w) * below + k[n].exp()
    expected = mixer.output(r.sigmoid() * torch.stack(rows))
    assert_close(mixer(x[None])[0], expected, rtol=1e-9, atol=1e-12)


def test_rwkv_is_its_sums_where_their_exponentials_overflow(x):
    mixer, x = rwkv_with_any_times(), 3000 * x
    k, v, r = mixed(mixer, x)
    assert k.max() > 1000
    w, u, rows = mixer.time_decay.exp(), mixer.time_first, []
    for n in range(LENGTH):
        exponents = torch.stack([k[m] - (n - 1 - m) * w for m in range(n)] + [u + k[n]])
        rows.append((exponents.softmax(0) * v[: n + 1]).sum(0))
    expected = mixer.output(r.sigmoid() * torch.stack(rows))
    assert_close(mixer(x[None])[0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("layer", "channel"), [(0, 0), (0, 7), (1, 8), (2, 3), (2, 15)])
def test_rwkv_in_a_model_begins_with_the_authors_values_for_its_depth(layer, channel):
    model = LanguageModel(RWKV, vocab_size=10, dim=DIM, depth=3)
    mixer, i = model.blocks[layer].mixer, channel
    zigzag = [0, 1, -1][i % 3]
    values = {
        "time_decay": -5 + 8 * (i / 15) ** (0.7 + 1.3 * layer / 2),
        "time_first": math.log(0.3) + zigzag / 2,
        "time_mix_key": (i / 16) ** (1 - layer / 3),
        "time_mix_value": (i / 16) ** (1 - layer / 3) + 0.3 * layer / 2,
        "time_mix_receptance": (i / 16) ** ((1 - layer / 3) / 2),
    }
    for name, value in values.items():
        assert getattr(mixer, name).flatten()[i].item() == pytest.approx(value, abs=1e-6), name
    for zero in (mixer.key, mixer.receptance, mixer.output):
        assert not zero.weight.any()
    assert_close(mixer.value.weight @ mixer.value.weight.T, torch.eye(DIM))


def test_rwkv_in_a_model_of_one_layer_begins_like_a_first_layer():
    mixer = LanguageModel(RWKV, vocab_size=10, dim=DIM, depth=1).blocks[0].mixer
    assert_close(mixer.time_decay, RWKV(DIM).time_decay)
    assert_close(mixer.time_mix_value, torch.arange(DIM)[None, None] / DIM)


def test_an_lstm_is_torchs_cell_token_by_token(x):
    mixer, state, rows = built(LSTM), None, []
    cell = torch.nn.LSTMCell(DIM, DIM).double()
    cell.load_state_dict(mixer.cell.state_dict())
    for x_n in x:
        state = cell(x_n, state)
        rows.append(state[0])
    assert_close(mixer(x[None])[0], torch.stack(rows), rtol=1e-9, atol=1e-12)
    _, last = mixer.extend(x[None], mixer.initial_state(1))
    assert_close((last.hidden[0], last.cell[0]), state, rtol=1e-9, atol=1e-12)


def test_a_gru_is_torchs_cell_token_by_token(x):
    mixer, h, rows = built(GRU), None, []
    cell = torch.nn.GRUCell(DIM, DIM).double()
    cell.load_state_dict(mixer.cell.state_dict())
    for x_n in x:
        h = cell(x_n, h)
        rows.append(h)
    assert_close(mixer(x[None])[0], torch.stack(rows), rtol=1e-9, atol=1e-12)
    assert_close(mixer.extend(x[None], mixer.initial_state(1))[1].hidden[0], h, rtol=1e-9, atol=1e-12)


def discrete(ssm, spectrum, method):
    """Ā, B̄ and C of each state space as complex numbers, from the paper's A and formulas."""
    size = 2 * ssm.c.shape[-1]
    n = torch.arange(size // 2, dtype=torch.float64)
    a = {
        "lin": -0.5 + 1j * math.pi * n,
        "inv": -0.5 + 1j * size / math.pi * (size / (2 * n + 1) - 1),
        "real": -(n + 1) + 0j,
    }[spectrum]
    learned = torch.complex(-ssm.dynamics.log_rate.exp(), ssm.dynamics.frequency)
    assert_close(learned, a.expand_as(learned), rtol=1e-6, atol=1e-6)
    a, dt = learned, ssm.dynamics.log_dt.exp()[:, None]
    assert ((dt > 1e-3) & (dt < 0.1)).all()
    c = torch.complex(*ssm.c.unbind(1))
    if method == "zoh":
        return torch.exp(dt * a), (torch.exp(dt * a) - 1) / a, c
    return (1 + dt * a / 2) / (1 - dt * a / 2), dt / (1 - dt * a / 2), c


SPECTRA = ["lin", "inv", "real"]
DISCRETISATIONS = ["bilinear", "zoh"]


@pytest.mark.parametrize("method", DISCRETISATIONS)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_s4d_is_its_recurrence_in_complex_numbers(x, spectrum, method):
    mixer = built(S4D, spectrum=spectrum, discretisation=method)
    a, b, c = discrete(mixer.ssm, spectrum, method)
    state, outputs = torch.zeros_like(a), []
    for u in x:
        state = a * state + b * u[:, None]
        outputs.append(2 * (c * state).sum(1).real + mixer.ssm.skip * u)
    value, gate = mixer.out_proj(F.gelu(torch.stack(outputs))).split(DIM, -1)
    assert_close(mixer(x[None])[0], value * gate.sigmoid(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", DISCRETISATIONS)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_the_kernel_of_a_state_space_is_the_papers_sum(spectrum, method):
    ssm = built(S4D, spectrum=spectrum, discretisation=method).ssm
    a, b, c = discrete(ssm, spectrum, method)
    expected = torch.stack([2 * (c * b * a**i).sum(1).real for i in range(100)], 1)
    expected[:, 0] += ssm.skip
    impulse = torch.eye(100, 1, dtype=torch.float64)[None, :, None].expand(-1, -1, len(a), -1)
    kernel, _ = state_space(impulse, *ssm.modes(), None, 32)
    assert_close(kernel[0, ..., 0].T, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("method", DISCRETISATIONS)
@pytest.mark.parametrize("head_dim", [1, 4, 16])
def test_h3_is_its_two_state_spaces_between_multiplications(x, head_dim, method):
    mixer = built(H3, head_dim=head_dim, shift_size=5, discretisation=method)
    a, b, c = discrete(mixer.ssm, "lin", method)
    q, k, v = (projection(x) for projection in (mixer.q_proj, mixer.k_proj, mixer.v_proj))
    shift = torch.zeros(DIM, 5, dtype=torch.float64)  # the state of the first, whose matrix moves each number on by one
    states = [torch.zeros(len(a[0]), head_dim, head_dim, dtype=torch.complex128) for _ in a]
    outputs = []
    for n in range(LENGTH):
        shift = torch.cat([k[n][:, None], shift[:, :-1]], 1)
        shifted = (shift * mixer.shift.T).sum(1) + mixer.shift_skip * k[n]
        heads = []
        for h in range(DIM // head_dim):
            at = slice(h * head_dim, (h + 1) * head_dim)
            outer = torch.outer(shifted[at], v[n, at])
            states[h] = a[h][:, None, None] * states[h] + b[h][:, None, None] * outer
            y = 2 * (c[h][:, None, None] * states[h]).sum(0).real + mixer.ssm.skip[h] * outer
            heads.append(q[n, at] @ y)
        outputs.append(torch.cat(heads))
    assert_close(mixer(x[None])[0], mixer.out_proj(torch.stack(outputs)), rtol=1e-9, atol=1e-12)


def test_h3_in_a_model_begins_as_in_its_authors_language_models_whose_rule_misses_the_output_projection():
    torch.manual_seed(0)
    mixer = LanguageModel(H3, vocab_size=9, dim=64, depth=8, ffn_dim=8).blocks[5].mixer
    for projection in (mixer.q_proj, mixer.k_proj, mixer.v_proj, mixer.out_proj):
        assert projection.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert not projection.bias.any()
    assert mixer.shift.abs().max() > 0.12  # as it was, uniform to 1/8


def test_the_authors_output_projection_of_h3_is_ours_once_rearranged(x):
    """Theirs reads channel d of head h at d · heads + h."""
    mixer, heads = built(H3, head_dim=4), DIM // 4
    theirs = torch.randn(DIM, DIM, dtype=torch.float64)
    inputs = []
    mixer.out_proj.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    mixer.out_proj.bias.data.zero_()
    mixer.out_proj.weight.data = theirs.unflatten(1, (4, -1)).transpose(1, 2).flatten(1)
    y = mixer(x[None])
    by_channel = inputs[0].unflatten(-1, (heads, 4)).transpose(-1, -2).flatten(-2)  # their "b d h l -> b (d h) l"
    assert_close(y, by_channel @ theirs.T, rtol=1e-9, atol=1e-12)
