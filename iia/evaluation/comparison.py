"""The table of the explanation tests: a mean for each operation and metric, its interval, and which is the
best."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from .bootstrap import CONFIDENCE, intervals
from .protocols import Metric

Table = dict[str, dict[str, object]]           # {operation: {metric: value}}


def compare(by_operation: Mapping[str, pd.DataFrame], metrics: Mapping[str, Metric]) -> dict:
    """What the rows of all operations, {operation: rows}, say of each other.

    Returns:
        "better": {metric: "higher" or "lower"}; "counts": {operation: {metric: pictures that have it}};
        "confidence"; "intervals": {operation: {metric: [low, high]}} of the mean; "best": {metric:
        operation}; "behind the best": {operation: {metric: [low, high]}} of the paired difference from the
        best operation's mean. None stands for what no picture has.
    """
    pictures = sorted(set().union(*(rows["index"] for rows in by_operation.values())))
    values = np.stack([rows.set_index("index")[list(metrics)].reindex(pictures)
                       for rows in by_operation.values()], axis=1)
    sign = np.array([1 if metric.better == "higher" else -1 for metric in metrics.values()])
    seen = ~np.isnan(values)                                                               # [N, O, M]
    mean = np.where(seen, values, 0).sum(0) / np.maximum(seen.sum(0), 1)                   # [O, M]
    best = np.where(seen.any(0), mean * sign, -np.inf).argmax(0)                           # [M]
    behind = values - values[:, best, np.arange(len(metrics))][:, None]
    ends = intervals(np.concatenate([values, behind], axis=1).reshape(len(values), -1))
    ends = ends.reshape(2, 2 * values.shape[1], len(metrics)).transpose(1, 2, 0)           # [2·O, M, 2]
    ends = np.where(np.isnan(ends), None, ends)                                            # JSON knows no NaN
    operations = list(by_operation)
    return {"better": {name: metric.better for name, metric in metrics.items()},
            "counts": by_name(seen.sum(0), operations, metrics), "confidence": CONFIDENCE,
            "intervals": by_name(ends[:len(operations)], operations, metrics),
            "best": {name: operations[o] if some else None
                     for name, o, some in zip(metrics, best, seen.any((0, 1)))},
            "behind the best": by_name(ends[len(operations):], operations, metrics)}


def by_name(values: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> Table:
    """An array [rows, columns, ...] as {row: {column: value}}."""
    return {row: dict(zip(columns, of_row.tolist())) for row, of_row in zip(rows, values)}


def print_table(summary: dict, metrics: Mapping[str, Metric]) -> None:
    """Operations as rows, metrics as columns, each with its interval below it.

    `*` is the best of a column, `=` what is not significantly different from it: the interval of the paired
    difference holds 0.
    """
    wide = max(len(operation) for operation in ["operation", *summary["figures"]])
    widths = {name: 13 if metric.percent else 17 for name, metric in metrics.items()}
    head = "".join(f"{name + metric.arrow:>{widths[name]}}" for name, metric in metrics.items())
    distances = summary.get("distance", {})
    print(f"{'operation':{wide}}{head}     n" + "  distance" * bool(distances))
    for operation in summary["figures"]:
        cells = [cell(summary, operation, name, metric) for name, metric in metrics.items()]
        values, ranges = ("".join(f"{text:>{width}}" for text, width in zip(texts, widths.values()))
                          for texts in zip(*cells))
        count = max(summary["counts"][operation].values())
        distance = f"{distances[operation]:10.3f}" if operation in distances else ""
        print(f"{operation:{wide}}{values}{count:6d}{distance}\n{'':{wide}}{ranges}")
    print(f"↑ higher is better, ↓ lower; * the best, = not significantly different from it at "
          f"{100 * summary['confidence']:.0f} % (paired bootstrap over pictures); [ , ] the interval of "
          "the mean" + "; distance: of the maps from their limit" * bool(distances))
    counts = {name: max(of_metric[name] for of_metric in summary["counts"].values()) for name in metrics}
    for name, count in counts.items():
        if count < max(counts.values()):
            print(f"{name} is over {count} of {max(counts.values())} pictures; the others have none")


def cell(summary: dict, operation: str, name: str, metric: Metric) -> tuple[str, str]:
    """A value with its mark, and its interval; "- " and nothing where no picture has the metric."""
    if name not in summary["figures"][operation]:
        return "- ", ""
    digits, (low, high) = 1 if metric.percent else 3, summary["intervals"][operation][name]
    value = f"{summary['figures'][operation][name]:.{digits + 1}f}{mark(summary, operation, name)}"
    return value, f"[{low:.{digits}f}, {high:.{digits}f}]"


def mark(summary: dict, operation: str, name: str) -> str:
    """The sign behind a value: "*", "=" or " "."""
    low, high = summary["behind the best"][operation][name]
    if low is None:
        return " "
    return "*" if operation == summary["best"][name] else "=" if low <= 0 <= high else " "


def with_interval(summary: dict, operation: str, name: str, digits: int = 2, scale: float = 1) -> str:
    """A mean with its interval, "0.42 [0.31, 0.52]"; "-" where no picture has it."""
    if name not in summary["figures"][operation]:
        return "-"
    mean, *ends = summary["figures"][operation][name], *summary["intervals"][operation][name]
    low, high = (f"{scale * end:.{digits}f}" for end in ends)
    return f"{scale * mean:.{digits}f} [{low}, {high}]"


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))
