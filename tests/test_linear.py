"""The product with weights: in oneDNN's float32, where that is, as in float64, with gradients."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from mixers.ops.linear import linear
from mixers.parts.linear import Linear

CPU = torch.device("cpu")


@pytest.fixture
def any_size(monkeypatch):
    """Small products are by oneDNN as well."""
    monkeypatch.setattr("mixers.ops.linear.SMALLEST", 1)


@pytest.fixture(params=[(2, 1), (1, 7), (3, 70)], ids=str)
def arguments(request, any_size):
    torch.manual_seed(0)
    arguments = torch.randn(*request.param, 24), torch.randn(40, 24), torch.randn(40)
    if reason := linear["onednn"].unsupported_reason(*arguments):
        pytest.skip(reason)
    return [x.requires_grad_() for x in arguments]


def outputs_and_gradients(y, arguments):
    direction = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return y, *torch.autograd.grad(y, [x for x in arguments if x is not None], direction)


@pytest.mark.parametrize("biased", [True, False])
def test_float32_by_onednn_is_near_float64(arguments, biased):
    arguments = arguments if biased else [*arguments[:2], None]
    double = [x if x is None else x.detach().double().requires_grad_() for x in arguments]
    actual = outputs_and_gradients(linear["onednn"].run(*arguments), arguments)
    expected = outputs_and_gradients(linear["reference"].run(*double), double)
    assert_close(actual, expected, rtol=1e-5, atol=1e-5, check_dtype=False)


def test_inputs_and_gradients_may_have_any_strides(arguments):
    x, weight, bias = arguments
    x = x.detach()[:, :1].mT.expand(-1, -1, 24).requires_grad_()
    (actual,), (expected,) = (
        torch.autograd.grad(linear[name].run(x, weight, bias).sum(), weight) for name in ("onednn", "reference")
    )
    assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_only_the_gradients_that_are_wanted_are_computed(arguments):
    x, weight, bias = arguments
    linear["onednn"].run(x.detach(), weight.detach(), bias).sum().backward()
    assert x.grad is weight.grad is None
    assert_close(bias.grad, torch.full_like(bias, x.shape[:2].numel()))


def test_gradients_have_gradients(arguments):
    def second(name):
        (dx,) = torch.autograd.grad(linear[name].run(*arguments).square().sum(), arguments[0], create_graph=True)
        return torch.autograd.grad(dx.square().sum(), arguments[:2])

    assert_close(second("onednn"), second("reference"), rtol=1e-4, atol=1e-2)


def test_functions_of_torch_func_take_it(arguments):
    def loss(weight, name):
        return linear[name].run(arguments[0], weight, arguments[2]).square().sum()

    actual, expected = (torch.func.grad(loss)(arguments[1], name) for name in ("onednn", "reference"))
    assert_close(actual, expected, rtol=1e-4, atol=1e-3)


def test_a_small_product_is_torch_own():
    x, weight = torch.randn(1, 1, 128), torch.randn(128, 128)
    assert linear.choose(x, weight, None).name == "reference"


@pytest.mark.usefixtures("any_size")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtypes_and_autocast_are_torch_own(dtype):
    assert linear.choose(*linear.examples(7, 24, dtype, CPU)).name == "reference"
    with torch.autocast("cpu", torch.bfloat16):
        assert linear.choose(*linear.examples(7, 24, torch.float32, CPU)).name == "reference"
        assert Linear(24, 8)(torch.randn(2, 24)).dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(0, 5, 24), (2, 0, 24)], ids=str)
def test_no_inputs_give_no_outputs(shape):
    layer, x = Linear(24, 8), torch.randn(shape).requires_grad_()
    y = layer(x)
    y.sum().backward()
    assert y.shape == (*shape[:2], 8)
    assert x.grad.shape == shape
    assert not layer.weight.grad.any()


def test_the_layer_is_that_of_torch():
    torch.manual_seed(0)
    ours, torchs, x = Linear(24, 8), nn.Linear(24, 8), torch.randn(2, 5, 24)
    torchs.load_state_dict(ours.state_dict())
    assert_close(ours(x), torchs(x), rtol=1e-5, atol=1e-5)
