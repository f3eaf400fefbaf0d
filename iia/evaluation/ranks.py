"""Does the order of the methods hold under other protocols? Ranks, and how well they agree.

    tables = {"paper": summary, "bee": summary, ...}         # what each run's summary.json holds
    print(markdown(tables))
"""

from collections import Counter
from collections.abc import Mapping
from itertools import combinations

import pandas as pd
from scipy.stats import kendalltau, spearmanr

from .comparison import grid
from .protocols import DIFFERENCES


def ranks(summary: dict) -> pd.DataFrame:
    """The place of each operation under each figure, 1 = the best; equal ones share the mean of their places.

    Returns:
        A row for each operation, a column for each figure; NaN where an operation has no such figure.
    """
    better = summary["better"]
    values = pd.DataFrame.from_dict(summary["figures"], orient="index").reindex(columns=list(better))
    return (values * [1 if better[name] == "lower" else -1 for name in values]).rank()


def mean_ranks(summary: dict) -> pd.Series:
    """Each operation's mean place over the figures, without figures that are differences of others."""
    places = ranks(summary)
    return places[[name for name in places if name not in DIFFERENCES]].mean(axis=1)


def agreement(one: pd.Series, other: pd.Series) -> tuple[float, float]:
    """Kendall's tau-b and Spearman's rho of two rankings, over the operations that are in both."""
    pair = pd.concat([one, other], axis=1).dropna().T.to_numpy()
    return float(kendalltau(*pair).statistic), float(spearmanr(*pair).statistic)


def markdown(tables: Mapping[str, dict]) -> str:
    """Two tables: the mean ranks and, for each two protocols, how well these and the figures that both have
    agree, as `tau / rho`."""
    places = {protocol: ranks(summary) for protocol, summary in tables.items()}
    means = pd.DataFrame({protocol: mean_ranks(summary) for protocol, summary in tables.items()})
    times = Counter(figure for figures in places.values() for figure in figures)
    shared = [figure for figure, count in times.items() if count > 1]
    ordered = means.sort_values(list(means)[0]).iterrows()
    pairs = [[f"{one}, {other}", in_cell(means[one], means[other]),
              *(in_cell(places[one].get(figure), places[other].get(figure)) for figure in shared)]
             for one, other in combinations(tables, 2)]
    return (grid(["mean rank", *means], [[f"`{name}`", *map("{:.1f}".format, row)] for name, row in ordered])
            + "\n\n" + grid(["tau / rho", "mean rank", *shared], pairs))


def in_cell(one: pd.Series | None, other: pd.Series | None) -> str:
    """The agreement of two rankings, "" where one of them is missing."""
    return "" if one is None or other is None else "{:.2f} / {:.2f}".format(*agreement(one, other))
