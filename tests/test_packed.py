"""Documents packed into rows are mixed as if alone."""

import pytest
import torch
from torch.testing import assert_close

import mixers
from mixers import packed

ROWS = [[3, 1, 16], [20], [1] * 20, [7, 9, 4]]


@pytest.mark.parametrize("name", mixers.available())
def test_each_document_is_mixed_alone(name):
    torch.manual_seed(0)
    mixer, x = mixers.get(name)(32).double(), torch.randn(4, 20, 32, dtype=torch.float64, requires_grad=True)
    starts = torch.zeros(4, 20, dtype=torch.bool)
    for row, lengths in enumerate(ROWS):
        starts[row, torch.tensor([0, *lengths]).cumsum(0)[1:-1]] = True  # the first of a row is understood
    alone = torch.stack([torch.cat([mixer(d[None])[0] for d in row.split(n)]) for row, n in zip(x, ROWS, strict=True)])
    y = packed(mixer, x, starts)
    assert_close(y, alone, rtol=1e-9, atol=1e-9)
    direction = torch.randn_like(y)
    assert_close(*(torch.autograd.grad(z, x, direction) for z in (y, alone)), rtol=1e-9, atol=1e-9)


def test_starts_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"starts is torch.bool \(2, 4\); write torch.bool \(2, 5\)"):
        packed(mixers.Retention(32), torch.randn(2, 5, 32), torch.zeros(2, 4, dtype=torch.bool))
