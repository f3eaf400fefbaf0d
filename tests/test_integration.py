"""The numeric core against closed forms and loops."""

import pytest
import torch

from iia.integration import BASELINES, chunks, gradient, path_integral
from iia.quadrature import quadrature_rule


def of_class(logits):
    """A score (v, y) -> f_y from a function v -> logits."""
    return lambda v, y: logits(v).gather(1, y[:, None])[:, 0]


@pytest.mark.parametrize("size", [1, 3, 7, 50])
def test_chunks_cover_everything_once(size):
    covered = [i for part in chunks(7, size) for i in range(7)[part]]
    assert covered == list(range(7))


def test_gradient_is_each_rows_own():
    """f_y(v) = (y + 1) Σ v²: ∂f_y/∂v = 2 (y + 1) v, whatever else is in the batch."""
    score = lambda v: (v.flatten(1) ** 2).sum(1, keepdim=True) * torch.arange(1, 4, dtype=v.dtype)
    v = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    y = torch.tensor([0, 2, 1, 0])
    torch.testing.assert_close(gradient(of_class(score), v, y), 2 * (y + 1).view(-1, 1, 1, 1) * v)


def test_iia_of_a_linear_score_has_a_closed_form():
    """f = Σ w u: q = v ∘ w and (1/n) Σ_j v_j = (n + 1)/n · (r + u)/2; m = (n + 1)/2n · (u − r)(u + r) w."""
    torch.manual_seed(0)
    w, u, n = torch.randn(2, 3, 3, dtype=torch.float64), torch.rand(1, 2, 3, 3, dtype=torch.float64), 5
    r = BASELINES["spatial-minimum"](u)
    found = path_integral(lambda v, y: (v * w).flatten(1).sum(1), u, r, torch.tensor([0]),
                          quadrature_rule(n, u), 4)
    expected = ((u - r) * w * (r + u)).sum(1) * (n + 1) / (2 * n)
    torch.testing.assert_close(found, expected)


def test_ig_is_the_special_case_and_complete():
    """With q = ∂f/∂v and baseline 0 on the input, the map sums to f(x) − f(0) as n grows (completeness)."""
    torch.manual_seed(0)
    mix = torch.randn(12, 5, dtype=torch.float64)
    score = lambda v: torch.tanh(v.flatten(1) @ mix).cumsum(1)
    x, y = torch.randn(2, 3, 2, 2, dtype=torch.float64), torch.tensor([4, 1])
    ig = path_integral(of_class(score), x, torch.zeros_like(x), y, quadrature_rule(2000, x), 256,
                       term=lambda v, g, d: d * g)
    wanted = (score(x) - score(torch.zeros_like(x))).gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(ig.sum((1, 2)), wanted, atol=2e-3, rtol=0)


@pytest.mark.parametrize("chunk", [1, 2, 5, 11, 33, 1000])
def test_the_chunk_does_not_change_the_integral(chunk):
    u = torch.randn(3, 4, 6, 6, dtype=torch.float64)
    score = torch.nn.Sequential(torch.nn.Conv2d(4, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(),
                                torch.nn.Linear(32, 7)).double()
    y, r = torch.tensor([0, 3, 6]), BASELINES["spatial-minimum"](u)
    one = path_integral(of_class(score), u, r, y, quadrature_rule(10, u), 33)
    found = path_integral(of_class(score), u, r, y, quadrature_rule(10, u), chunk)
    torch.testing.assert_close(found, one, rtol=1e-12, atol=1e-12)
