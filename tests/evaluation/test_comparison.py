"""Which operation is best, and which cannot be told from it."""

import numpy as np
import pandas as pd
import pytest

from iia.evaluation import comparison
from iia.evaluation.protocols import MASKED as METRICS


def test_comparing_operations():
    """b is better than a by 1 on every picture, c by nothing on average; lower is better for DEL."""
    a = np.random.default_rng(0).normal(50, 10, 100)
    noise = np.random.default_rng(1).normal(0, 1, 100)
    values = {"a": a, "b": a + 1, "c": a + 1 + noise - noise.mean() - 1e-9}

    def compared(name, values):
        rows = {operation: pd.DataFrame({"index": np.arange(len(own)), name: own})
                for operation, own in values.items()}
        return comparison.compare(rows, {name: METRICS[name]})
    said = compared("NEG", values)
    assert said["best"] == {"NEG": "b"} and said["behind the best"]["a"]["NEG"] == pytest.approx([-1, -1])
    assert [comparison.mark(said, name, "NEG") for name in "abc"] == [" ", "*", "="]
    assert compared("DEL", values)["best"] == {"DEL": "a"}
    nothing = compared("NEG", {name: own * np.nan for name, own in values.items()})
    assert nothing["intervals"]["a"]["NEG"] == [None, None] and nothing["best"] == {"NEG": None}
    assert nothing["counts"]["a"] == {"NEG": 0} and comparison.mark(nothing, "a", "NEG") == " "


def test_rows_are_compared_picture_by_picture():
    """Operations of other pictures, in another order: the difference is that of those in common."""
    one = pd.DataFrame({"index": [0, 1, 2, 5], "NEG": [10.0, 20, 30, 90]})
    two = pd.DataFrame({"index": [5, 2, 1], "NEG": [91.0, 31, 21]})
    said = comparison.compare({"one": one, "two": two}, {"NEG": METRICS["NEG"]})
    assert said["best"] == {"NEG": "two"} and said["counts"] == {"one": {"NEG": 4}, "two": {"NEG": 3}}
    assert said["behind the best"]["one"]["NEG"] == [-1, -1]


def test_a_figure_that_few_pictures_have_is_said_to_be_over_those(capsys):
    rows = pd.DataFrame({"index": range(5), "NEG": [1.0, 2, 3, 4, 5], "AIC": [0.5, 0.7, *[np.nan] * 3]})
    columns = {name: METRICS[name] for name in ("NEG", "AIC")}
    said = comparison.compare({"a": rows}, columns) | {"figures": {"a": {"NEG": 3, "AIC": 0.6}},
                                                       "distance": {"a": 0.0126}}
    comparison.print_table(said, columns)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["operation", "NEG↑", "AIC↑", "n", "distance"]
    assert lines[1].split() == ["a", "3.00*", "0.6000*", "5", "0.013"]
    assert lines[-1] == "AIC is over 2 of 5 pictures; the others have none"


def test_the_same_rows_are_marked_as_no_different(capsys):
    rows = pd.DataFrame({"index": range(5), "NEG": [1.0, 2, 3, 4, 5]})
    said = comparison.compare({"a": rows, "b": rows}, {"NEG": METRICS["NEG"]})
    said["figures"] = {"a": {"NEG": 3}, "b": {"NEG": 3}}
    assert [comparison.mark(said, name, "NEG") for name in "ab"] == ["*", "="]
    comparison.print_table(said, {"NEG": METRICS["NEG"]})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:4:2]] == [["a", "3.00*", "5"], ["b", "3.00=", "5"]]
    assert "= not significantly different from it at 95 %" in lines[-1]
