"""Ranks of methods under several protocols: by hand, and against counts of pairs."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from iia.evaluation import ranks

BETTER = {"POS": "lower", "NEG": "higher", "SRG": "higher"}


def summary(values, better=BETTER):
    """{operation: its figures} as summary.json has them; None = it has none."""
    figures = {operation: {name: value for name, value in zip(better, own) if value is not None}
               for operation, own in values.items()}
    return {"figures": figures, "better": better}


ONE = summary({"a": (10, 50, 40), "b": (12, 55, 43), "c": (10, 40, 30), "d": (30, None, None)})


def test_ranks_by_hand():
    """The lower POS and the higher NEG come first; equals share 1 and 2; no figure, no rank."""
    found = ranks.ranks(ONE)
    assert found["POS"].to_dict() == {"a": 1.5, "b": 3, "c": 1.5, "d": 4}
    assert found["NEG"].fillna(0).to_dict() == {"a": 2, "b": 1, "c": 3, "d": 0}
    assert ranks.mean_ranks(ONE).to_dict() == {"a": 1.75, "b": 2, "c": 2.25, "d": 4}       # without SRG


def tau_b(x, y):
    """Pairs that agree less those that do not, over the geometric mean of the pairs that are no ties."""
    pairs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i, j in combinations(range(len(x)), 2)]
    ones, others = (sum(values != 0 for values in own) for own in zip(*pairs))
    return sum(a * b for a, b in pairs) / np.sqrt(ones * others)


@pytest.mark.parametrize("seed", range(4))
def test_agreement_against_pairs(seed):
    x, y = np.random.default_rng(seed).integers(0, 6, (2, 9)).astype(float)
    names = list("abcdefghi")
    tau, rho = ranks.agreement(pd.Series(x, names), pd.Series(y, names)[::-1])         # by name, not by place
    assert tau == pytest.approx(tau_b(x, y))
    places = [pd.Series(values).rank().to_numpy() for values in (x, y)]
    assert rho == pytest.approx(np.corrcoef(*places)[0, 1])


def test_the_opposite_order_and_missing_operations():
    one = pd.Series({"a": 1.0, "b": 2, "c": 3, "d": np.nan})
    other = pd.Series({"d": 1.0, "c": 1, "b": 2, "a": 3})
    assert ranks.agreement(one, other) == pytest.approx((-1, -1))


def test_markdown():
    two = summary({"a": (0.5, 0.2), "b": (0.4, 0.3), "c": (0.6, 0.1), "d": (0.7, 0.05)},
                  {"POS": "lower", "ADD": "higher"})
    assert ranks.markdown({"paper": ONE, "other": two}).splitlines() == [
        "| mean rank | paper | other |", "| --- | --- | --- |",
        "| `a` | 1.8 | 2.0 |", "| `b` | 2.0 | 1.0 |", "| `c` | 2.2 | 3.0 |", "| `d` | 4.0 | 4.0 |", "",
        "| tau / rho | mean rank | POS |", "| --- | --- | --- |",
        "| paper, other | 0.67 / 0.80 | 0.18 / 0.32 |"]
