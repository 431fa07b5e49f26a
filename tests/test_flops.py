"""Floating-point operations against a count by hand."""

import pytest
import torch
from torch.nn import functional as F

from mixers import Hyena
from mixers.benchmark.measure import train_flops
from mixers.benchmark.work import Case, Workload, layer

AT = Case(length=64, batch_size=2, dim=32)
TOKENS = 2 * 64


@pytest.mark.parametrize("groups", [1, 4, 32])
def test_a_grouped_convolution_costs_three_times_its_forward(groups):
    def subject(what, at):
        x, weight = torch.randn(2, 32, 64 + 2, requires_grad=True), torch.randn(32, 32 // groups, 3, requires_grad=True)
        return Workload(lambda: F.conv1d(x, weight, groups=groups).sum().backward(), 0)

    assert train_flops(subject, AT) == 3 * 2 * TOKENS * 32 * (32 // groups) * 3


def test_a_gradient_that_nobody_wants_costs_nothing():
    def subject(what, at):
        x, weight = torch.randn(2, 32, 64 + 2), torch.randn(32, 1, 3, requires_grad=True)
        return Workload(lambda: F.conv1d(x, weight, groups=32).sum().backward(), 0)

    assert train_flops(subject, AT) == 2 * 2 * TOKENS * 32 * 3


def test_hyena_costs_its_projections_its_short_convolution_and_its_filter():
    projections = 6 * TOKENS * 4 * 32**2
    short = 6 * TOKENS * 3 * 32 * 3  # three taps in three streams
    taps = 6 * 64 * (33 * 64 + 2 * 64 * 64 + 64 * 32)
    assert train_flops(layer(Hyena), AT) == projections + short + taps
