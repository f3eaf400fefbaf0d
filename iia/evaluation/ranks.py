"""Does the order of the methods hold under other protocols? Ranks, and how well they agree.

    tables = {"paper": summary, "bee": summary, ...}         # what each run's summary.json holds
    print(markdown(tables))
"""

from collections.abc import Mapping
from itertools import combinations

import pandas as pd
from scipy.stats import kendalltau, spearmanr

from .protocols import DIFFERENCES


def ranks(summary: dict) -> pd.DataFrame:
    """The place of each operation under each figure, 1 = the best; equals share the mean of their places.

    Returns:
        A row for each operation, a column for each figure; NaN where an operation has no such figure.
    """
    values = pd.DataFrame.from_dict(summary["figures"], orient="index").reindex(columns=list(summary["better"]))
    sign = pd.Series({name: 1 if better == "lower" else -1 for name, better in summary["better"].items()})
    return (values * sign).rank()


def mean_ranks(summary: dict) -> pd.Series:
    """Each operation's mean place over the figures, without those that are differences of others."""
    places = ranks(summary)
    return places[[name for name in places if name not in DIFFERENCES]].mean(axis=1)


def agreement(one: pd.Series, other: pd.Series) -> tuple[float, float]:
    """Kendall's tau-b and Spearman's rho of two rankings of the same operations; NaN where one says nothing."""
    both = pd.concat([one, other], axis=1).dropna()
    return float(kendalltau(*both.T.to_numpy()).statistic), float(spearmanr(*both.T.to_numpy()).statistic)


def markdown(tables: Mapping[str, dict]) -> str:
    """Two tables: the mean ranks and, for each two protocols, how well these and the figures that both have
    agree, as `tau / rho`."""
    means = pd.DataFrame({name: mean_ranks(summary) for name, summary in tables.items()})
    lines = ["| mean rank | " + " | ".join(means) + " |", "| --- " * (len(means.columns) + 1) + "|"]
    lines += [f"| `{operation}` | " + " | ".join(f"{value:.1f}" for value in own) + " |"
              for operation, own in means.sort_values(list(means)[0]).iterrows()]
    places = {name: ranks(summary) for name, summary in tables.items()}
    shared = [name for name in dict.fromkeys(name for own in places.values() for name in own)
              if sum(name in own for own in places.values()) > 1]
    lines += ["", "| tau / rho | mean rank | " + " | ".join(shared) + " |", "| --- " * (len(shared) + 2) + "|"]
    for one, other in combinations(tables, 2):
        pairs = [(means[one], means[other]), *((places[one].get(name), places[other].get(name)) for name in shared)]
        cells = ["" if a is None or b is None else "{:.2f} / {:.2f}".format(*agreement(a, b)) for a, b in pairs]
        lines.append(f"| {one}, {other} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
