"""Rows of a run: a picture's numbers under an operation, or why it was skipped."""

from collections.abc import Iterable, Sequence

import pandas as pd

Row = dict[str, object]
Metrics = dict[str, dict[str, float]]           # {operation: {metric: value}}
FIRST_COLUMNS = ("index", "id", "operation", "skipped", "degenerate")


def frame(rows: list[Row], columns: dict[str, type]) -> pd.DataFrame:
    """Rows as a table of `columns`, {name: int, float or str}, and the first ones; absent values
    are missing."""
    types = {name: {int: "Int64", float: "float64", str: "str"}[kind] for name, kind in columns.items()}
    return pd.DataFrame(rows, columns=[*FIRST_COLUMNS, *types]).astype(types)


def unread(row: Row) -> bool:
    """Whether the row says that a picture could not be read."""
    return bool(row["skipped"]) and not row["operation"]


def skip_message(row: Row) -> str:
    """What was skipped, and why."""
    return f"{row['id']} {row['operation']}".strip() + f": {row['skipped']}"


def measured(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that hold numbers: nothing was skipped in them."""
    return rows[rows["skipped"] == ""]


def by_operation(rows: pd.DataFrame, operations: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The rows of each operation that has any."""
    parts = {name: rows[rows["operation"] == name] for name in operations}
    return {name: own for name, own in parts.items() if len(own)}


def mean_distances(rows: pd.DataFrame, operations: Sequence[str]) -> dict[str, float]:
    """How far each operation's maps are from their limit, in the mean; without operations that have none."""
    means = {name: own["distance"].mean() for name, own in by_operation(rows, operations).items()}
    return {name: float(mean) for name, mean in means.items() if pd.notna(mean)}


def in_words(metrics: Metrics, names: Iterable[str], scale: float = 1) -> str:
    """Some metrics of each operation, for the progress bar."""
    def of_one(own: dict[str, float]) -> list[str]:
        return [f"{name} {own[name] * scale:.4g}" for name in names if name in own]
    return " | ".join(" ".join([operation, *of_one(own)]) for operation, own in metrics.items())
