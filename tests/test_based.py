"""Based's linear attention against its features written out, and against flash-linear-attention's plain function."""

import math
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from mixers import Based
from mixers.ops.taylor import by_decay, feature_count, features, reference, taylor_attention


def paper_features(x):
    """(1, x/d^¼, x ⊗ x / (√2 √d)), all d² products of it."""
    d = len(x)
    return torch.cat([x.new_ones(1), x / d**0.25, torch.outer(x, x).flatten() / math.sqrt(2 * d)])


@pytest.mark.parametrize(("num_heads", "feature_dim"), [(1, 5), (4, 16), (2, 1)])
def test_it_is_linear_attention_of_its_papers_features(num_heads, feature_dim):
    torch.manual_seed(0)
    mixer = Based(16, num_heads=num_heads, feature_dim=feature_dim).double()
    x = torch.randn(11, 16, dtype=torch.float64)
    split = [projection(x).unflatten(-1, (num_heads, -1)) for projection in (mixer.q_proj, mixer.k_proj, mixer.v_proj)]
    heads = []
    for head in range(num_heads):
        q, k, v = (y[:, head] for y in split)
        s = torch.zeros(1 + feature_dim + feature_dim**2, v.shape[1], dtype=torch.float64)
        z, rows = torch.zeros(len(s), dtype=torch.float64), []
        for n in range(len(x)):
            s, z = s + torch.outer(paper_features(k[n]), v[n]), z + paper_features(k[n])
            rows.append(paper_features(q[n]) @ s / (paper_features(q[n]) @ z))
        heads.append(torch.stack(rows))
    assert_close(mixer(x[None])[0], mixer.o_proj(torch.cat(heads, -1)), rtol=1e-9, atol=1e-12)


def test_products_of_features_are_the_series_of_the_exponential():
    torch.manual_seed(0)
    q, k = torch.randn(2, 7, 16, dtype=torch.float64)
    s = (q * k).sum(-1) / 4
    assert features(q).shape == (7, feature_count(16)) == (7, 153)
    assert_close((features(q) * features(k)).sum(-1), 1 + s + s**2 / 2)


@pytest.mark.parametrize("pieces", [[70], [1, 1, 2, 33, 33]], ids=["whole", "pieces"])
def test_it_is_the_function_of_flash_linear_attention(pieces):
    pytest.importorskip("einops", reason="flash-linear-attention's function uses it")
    if not (fla := find_spec("fla")):
        pytest.skip("fla-core is not installed")
    spec = spec_from_file_location("naive_based", Path(fla.submodule_search_locations[0]) / "ops/based/naive.py")
    naive = module_from_spec(spec)
    spec.loader.exec_module(naive)
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 70, 3, width) for width in (16, 16, 8))
    state, outputs = None, []
    for piece in zip(*(x.split(pieces, 1) for x in (q, k, v)), strict=True):
        y, state = taylor_attention(*piece, state, 16)
        outputs.append(y)
    expected = naive.naive_parallel_based(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    assert_close(torch.cat(outputs, 1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("run", [i.run for i in taylor_attention.faster], ids=[i.name for i in taylor_attention.faster])
@pytest.mark.parametrize("chunk_size", [1, 16, 1000])
@pytest.mark.parametrize("length", [1, 2, 33, 64])
@pytest.mark.parametrize("begins", [True, False], ids=["from nothing", "from a state"])
def test_chunks_are_the_loop_over_tokens_with_gradients(begins, length, chunk_size, run):
    torch.manual_seed(length)
    q, k, v, state, _ = taylor_attention.examples(length, 24, torch.float64, torch.device("cpu"))
    state = None if begins else state
    wanted = [x for x in (q, k, v, state) if x is not None]
    (y, after), expected = run(q, k, v, state, chunk_size), reference(q, k, v, state)
    assert_close((y, after), expected, rtol=1e-9, atol=1e-9)
    for used in ((0, 1), (0,), (1,)):
        results, others = [(y, after)[i] for i in used], [expected[i] for i in used]
        directions = [torch.randn_like(x) for x in results]
        options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        actual = torch.autograd.grad(results, wanted, directions, **options)
        assert_close(actual, torch.autograd.grad(others, wanted, directions, **options), rtol=1e-9, atol=1e-9)


def test_weights_after_thousands_of_tokens_are_those_of_float64():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 4000, 2, width) for width in (16, 16, 8))
    exact, _ = by_decay(q.double(), k.double(), v.double(), None, 128)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 1e-1)):
        y, _ = taylor_attention(q.to(dtype), k.to(dtype), v.to(dtype), None, 128)
        assert (y - exact)[:, -500:].square().mean().sqrt() < tolerance * exact[:, -500:].square().mean().sqrt()


def test_wrong_heads_are_refused_by_name():
    with pytest.raises(ValueError, match="num_heads=3 does not divide dim=32"):
        Based(32, num_heads=3)


@pytest.mark.parametrize(("dim", "heads"), [(1024, 16), (256, 4), (32, 1), (200, 2), (1, 1)])
def test_heads_are_64_wide_unless_told_otherwise(dim, heads):
    assert Based(dim).num_heads == heads
