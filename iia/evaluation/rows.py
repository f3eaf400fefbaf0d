"""Rows of a run: what was measured of a picture under an operation, or why it was skipped."""

from collections.abc import Iterable, Mapping

import pandas as pd

Row = dict[str, object]
Metrics = dict[str, dict[str, float]]           # {operation: {metric: value}}
FIRST_COLUMNS = ("index", "id", "operation", "skipped", "degenerate")


def frame(rows: list[Row], columns: Mapping[str, type]) -> pd.DataFrame:
    """Rows as a table of the first columns and of `columns`, {name: int, float or str}; values that a row
    does not have are missing. The copy is one block, since pandas warns of adding to a table of many."""
    types = {name: {int: "Int64", float: "float64", str: "str"}[column] for name, column in columns.items()}
    return pd.DataFrame(rows, columns=[*FIRST_COLUMNS, *types]).astype(types).copy()


def skip_message(row: Row) -> str:
    """What was skipped, and why."""
    return f"{row['id']} {row['operation']}".strip() + f": {row['skipped']}"


def measured(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that hold numbers: nothing was skipped in them."""
    return rows[rows["skipped"] == ""]


def by_operation(rows: pd.DataFrame, operations: Iterable[str]) -> dict[str, pd.DataFrame]:
    """The rows of each operation that has any."""
    parts = {name: rows[rows["operation"] == name] for name in operations}
    return {name: part for name, part in parts.items() if len(part)}


def means(rows: pd.DataFrame, metrics: Iterable[str]) -> dict[str, float]:
    """Each metric's mean over the pictures that have it, without metrics that no picture has."""
    values = {name: rows[name].dropna().to_numpy() for name in metrics}
    return {name: float(column.mean()) for name, column in values.items() if len(column)}


def mean_distances(parts: Mapping[str, pd.DataFrame]) -> dict[str, float]:
    """The mean distance of each operation's maps from their limit, from {operation: rows}; operations whose
    maps have none are left out."""
    distances = {name: part["distance"].mean() for name, part in parts.items()}
    return {name: float(mean) for name, mean in distances.items() if pd.notna(mean)}


def in_words(metrics: Metrics) -> str:
    """The metrics of each operation, for the progress bar."""
    return " | ".join(" ".join([operation, *(f"{name} {value:.4g}" for name, value in values.items())])
                      for operation, values in metrics.items())
