"""The page of a folder of panels, with all maps that any run has made there.

    index.html                        made from what lies in page/
    page/{panel}_{hash}/row.json      what was explained, and how; the hash is of this file
                       /iia.png       a map, named by its operation, in 256 steps of jet
                       /picture.jpg   written last: a row without it is not finished

A row and each of its maps are files of their own. So runs with other networks or operations add to the page,
also at the same time, and the one that writes it last has seen them all. `python -m iia.gallery [FOLDER
[TABLES]]` makes the page again, after explanation tests or when rows were deleted.
"""

import json
import sys
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from .errors import UserError, first_line
from .evaluation.protocols import MASKED as METRICS
from .methods import CNN_OPERATIONS, VIT_OPERATIONS
from .page import PARTS, listed, note, read_remark, save_jpeg, save_map, short_hash, write_page
from .runs import sweep, whole_file

GROWTH = 1.25       # the page is rebuilt each time the rows grow by this factor
# What two explanations must share to be the same, besides the definition
RECIPE = ("weights", "layer", "steps", "quadrature", "baseline", "precision", "picture size", "images_dir")


class Gallery:
    """The page of a folder of panels.

    Args:
        folder: where index.html goes. tables: where explanation tests have written their tables; the page
            can be sorted by the figures in them.
    """

    def __init__(self, folder: str | Path = "qualitive_results",
                 tables: str | Path = "explanation_results") -> None:
        self.folder, self.added, self.write_at = Path(folder), 0, 1.0
        self.figures, self.read_row = cache(partial(read_figures, Path(tables))), cache(read_row)
        sweep(self.folder)

    def add(self, name: str, facts: dict, picture: np.ndarray, maps: Mapping[str, np.ndarray]) -> None:
        """Write the files of a row, and now and then the page.

        Args:
            name: the panel's. facts: what was explained, and its `RECIPE`; other facts make another row.
            picture: [H, W, 3] in [0, 1]. maps: by operation, each [H, W] in [0, 1].
        """
        text = json.dumps(facts, indent=2)
        folder = self.folder / PARTS / f"{name}_{short_hash(text)}"
        if not (folder / "row.json").exists():
            with whole_file(folder / "row.json") as temporary:
                temporary.write_text(text, encoding="utf-8")
        for operation, heatmap in maps.items():
            path = folder / f"{operation}.png"
            if path.exists() and read_remark(path) is None:
                note(path, "is no map of these scripts, or is damaged; it is not overwritten")
            else:
                save_map(path, heatmap)
        if not (folder / "picture.jpg").exists():
            save_jpeg(folder / "picture.jpg", picture)
        self.added += 1
        if self.added >= self.write_at:
            self.write()
            self.write_at = self.added * GROWTH

    def write(self) -> None:
        """Make index.html from all rows that lie in the folder."""
        seen = []
        while seen != (seen := self.rows()):        # again where another process has added some meanwhile
            figures = self.figures(frozenset(map(recipe, seen)))
            rows = [row | {"figures": {name: figures.get(key_of(row, name), {}) for name in row["maps"]}}
                    for row in seen]
            measured = set().union(*(values for row in rows for values in row["figures"].values()))
            used = {name for row in rows for name in row["maps"]}
            known = [name for name in CNN_OPERATIONS | VIT_OPERATIONS if name in used]
            write_page(self.folder / "index.html", "gallery.html", title="Saliency maps", rows=rows,
                       operations=known + sorted(used - set(known)),
                       classes=sorted({row["class"] for row in rows}),
                       metrics={name: METRICS[name] for name in METRICS if name in measured})

    def rows(self) -> list[dict]:
        """The finished rows: their facts, "folder", and "maps", {operation: the remark on its map}."""
        # a row without a new file is not read again
        rows = [self.read_row(folder, tuple(listed(folder))) for folder in listed(self.folder / PARTS)]
        order = ("picture", "class", "model", "folder")
        return sorted(filter(None, rows), key=lambda row: [row[name] for name in order])


def read_row(folder: Path, files: tuple[Path, ...]) -> dict | None:
    """The row that is made of these files; None where it is not finished. Files that it lacks use for are
    named."""
    try:
        text = (folder / "row.json").read_text(encoding="utf-8")
        if not folder.name.endswith(f"_{short_hash(text)}"):
            raise ValueError
    except (OSError, ValueError):
        if not folder.is_dir() or files:                       # a killed process may leave an empty folder
            note(folder, "is no row of the page, or is damaged; it is left out")
        return None
    remarks = {path: read_remark(path) for path in files if path.name != "row.json"}
    for path in [path for path, remark in remarks.items() if remark is None]:
        note(path, "is no picture of these scripts, or is damaged; it is left out")
        del remarks[path]
    if remarks.pop(folder / "picture.jpg", None) is None:
        return None
    maps = {path.stem: remark for path, remark in remarks.items()}
    return json.loads(text) | {"folder": f"{PARTS}/{folder.name}", "maps": maps}


def read_figures(tables: Path, recipes: frozenset[str]) -> dict[tuple, dict[str, float]]:
    """What explanation tests have measured on single maps that were made by one of these recipes.

    Only the paper's protocol counts, since figures of two protocols cannot be compared.

    Returns:
        {`key_of` a row and an operation: {metric: value}}.
    """
    figures = {}
    for path in sorted(tables.glob("**/per_image.csv")):
        try:
            summary = json.loads(path.with_name("summary.json").read_bytes())
            run, settings = summary["identity"], summary["settings"]
            run["steps"] = run.get("INTERPOLATION_STEPS", run.get("ITERATION_STEPS"))
            foreign = run.get("heatmaps_dir") is not None or run["protocol"] != "paper"
            if foreign or recipe(run) not in recipes:
                continue
            rows = pd.read_csv(path, dtype={"id": str, "operation": str}, usecols=lambda name: name in {
                "id", "operation", "target", "explained", *METRICS}).dropna(subset="explained")
            for row in rows.to_dict("records"):
                name, _, definition = row["operation"].partition("@")
                if definition and settings.get("ITERATION_STEPS", 0) is None:
                    continue               # it took the default steps of its definition, not those of the run
                facts = run | {"definition": definition or run["definition"], "picture": row["id"],
                               "target": int(row["target"]), "explained": int(row["explained"])}
                figures.setdefault(key_of(facts, name), {}).update(
                    {metric: row[metric] for metric in METRICS if pd.notna(row.get(metric))})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as why:
            note(path, f"is no table of the explanation tests ({first_line(why)}); it is left out")
    return figures


def recipe(facts: dict) -> str:
    """How something was explained, as one text."""
    return json.dumps([facts.get(name) for name in RECIPE])


def key_of(facts: dict, operation: str) -> tuple:
    """What a map of a row shares with the line of a table that measured it."""
    explanation = (facts[name] for name in ("definition", "picture", "target", "explained"))
    return recipe(facts), *explanation, operation


if __name__ == "__main__":
    try:
        Gallery(*sys.argv[1:3]).write()
    except UserError as error:
        sys.exit(f"error: {error}")
