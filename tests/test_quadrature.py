"""Quadrature rules against closed forms."""

import pytest
import torch

from iia.quadrature import quadrature_rule

DOUBLE = torch.zeros(1, dtype=torch.float64)


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def test_the_papers_points_run_from_0_to_1():
    rule = quadrature_rule(4, DOUBLE)
    assert rule.a.tolist() == [0, 0.25, 0.5, 0.75, 1] and rule.w.tolist() == [0.25] * 5


def test_graded_points_are_dense_where_a_picture_is_dark():
    rule = quadrature_rule(3, DOUBLE, "graded")
    torch.testing.assert_close(rule.a, double([0, 5 / 32, 13 / 32, 25 / 32]))
    torch.testing.assert_close(rule.w, double([1 / 16, 3 / 16, 5 / 16, 7 / 16]))


@pytest.mark.parametrize("quadrature, degrees", [("trapezoid", 1), ("gauss", 13), ("graded", 0)])
def test_a_rule_integrates_polynomials(quadrature, degrees):
    """The trapezoid up to degree 1, Gauss and Legendre up to 2n + 1: ∫ a^k = 1/(k + 1)."""
    rule = quadrature_rule(6, DOUBLE, quadrature)
    for k in range(degrees + 1):
        torch.testing.assert_close((rule.w * rule.a**k).sum(), double(1 / (k + 1)))


@pytest.mark.parametrize("quadrature", ["riemann", "trapezoid", "gauss", "graded"])
def test_a_rule_comes_to_the_integral(quadrature):
    """∫ e^a / (a + 0.1) da, by its series at many points: the error falls with n, and is small in the end."""
    a = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    f = lambda a: a.exp() / (a + 0.1)
    errors = []
    for n in (4, 16, 64):
        rule = quadrature_rule(n, DOUBLE, quadrature)
        errors.append(abs((rule.w * f(rule.a)).sum() - torch.trapezoid(f(a), a)))
    assert errors[0] > 2 * errors[1] > 4 * errors[2] and errors[2] < 0.1


@pytest.mark.parametrize("quadrature, n", [
    ("riemann", 1), ("trapezoid", 1), ("gauss", 1), ("graded", 1),
    ("gauss", 0)])                    # n = 1 of "graded" asks for a single point on a layer's path
def test_a_path_of_a_point_or_two_has_guesses_too(quadrature, n):
    rule = quadrature_rule(n, DOUBLE, quadrature, guesses=True)
    assert rule.w.shape == (3, n + 1) and rule.w.isfinite().all()


@pytest.mark.parametrize("quadrature, n, order, fewer", [
    ("riemann", 4, 1.7, [[0.25, 0, 0.5, 0, 0.25], [0.125, 0.375, 0, 0.375, 0.125]]),
    ("trapezoid", 3, 1.6, [[1 / 3, 0, 1 / 2, 1 / 6], [1 / 6, 1 / 2, 0, 1 / 3]]),
    ("gauss", 2, 2, [[0.5, 0, 0.5], [0, 1, 0]]),
    ("graded", 3, 2, [[9 / 64, 0, 55 / 64, 0], [4 / 64, 21 / 64, 0, 39 / 64]])])
def test_the_guesses_of_the_limit(quadrature, n, order, fewer):
    """w + (w − w') / (2^p − 1) for both choices of every second point; the first row is the rule itself. The
    paper's sum is guessed from the trapezoid's."""
    rule = quadrature_rule(n, DOUBLE, quadrature, guesses=True)
    torch.testing.assert_close(rule.w[0], quadrature_rule(n, DOUBLE, quadrature).w)
    best = quadrature_rule(n, DOUBLE, "trapezoid" if quadrature == "riemann" else quadrature).w
    torch.testing.assert_close(rule.w[1:], best + (best - double(fewer)) / (2**order - 1))
