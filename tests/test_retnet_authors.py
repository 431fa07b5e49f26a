"""Retention against the layer that the RetNet authors released, torchscale 0.3.0."""

from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from lit_modules.commands.peers import authors_code
from mixers import Retention

TINY = 1e-12  # epsilon of both norms
pytest.importorskip("torchscale", reason="needs the authors' layer: pip install --no-deps torchscale==0.3.0")


@pytest.fixture(params=[(64, 4), (96, 2), (256, 1)], ids=["4 heads", "2 heads", "1 head"])
def layers(request):
    """The authors' layer and what it needs to know of positions, and ours with its weights, in float64."""
    layer_class, positions_class = authors_code()
    dim, num_heads = request.param
    torch.manual_seed(0)
    args = SimpleNamespace(
        decoder_embed_dim=dim,
        decoder_retention_heads=num_heads,
        recurrent_chunk_size=8,
        layernorm_eps=TINY,
        multiway=False,
    )
    theirs = layer_class(args, dim, 2 * dim, num_heads).double()
    ours = Retention(dim, num_heads=num_heads, norm_eps=TINY, chunk_size=16).double()
    ours.load_state_dict(theirs.state_dict())
    return theirs, positions_class(args).double(), ours


def test_their_weights_give_their_parallel_output(layers):
    theirs, positions, ours = layers
    x = torch.randn(2, 50, ours.dim, dtype=torch.float64)
    expected = theirs(x, positions(50))
    assert (ours(x) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_their_weights_give_their_gradients(layers):
    theirs, positions, ours = layers
    x = torch.randn(2, 50, ours.dim, dtype=torch.float64)
    theirs(x, positions(50)).square().sum().backward()
    ours(x).square().sum().backward()
    for name, parameter in ours.named_parameters():
        expected = theirs.get_parameter(name).grad
        assert (parameter.grad - expected).abs().max() < 1e-4 * expected.abs().max(), name


def test_their_weights_give_their_recurrent_output(layers):
    theirs, positions, ours = layers
    x, memory, outputs = torch.randn(2, 12, ours.dim, dtype=torch.float64), {}, []
    for n in range(12):
        position = positions(n + 1, activate_recurrent=True)
        outputs.append(theirs(x[:, n : n + 1], position, incremental_state=memory))
    assert_close(ours(x), torch.cat(outputs, 1), rtol=1e-4, atol=1e-6)
