"""The page of a folder of panels: all maps that any run has made there, made from the maps themselves.

    index.html                        made of what lies in page/
    page/{panel}_{hash}/row.json      what was explained, and how; the hash is of this file
                       /iia.png       a map, by its operation: 256 steps of jet
                       /picture.jpg   comes last: a row without it is not finished

A row and each of its maps are files of their own, so runs with other networks or operations, also at the same
time, add to the page, and whoever writes it last has seen them all. `python -m iia.gallery [FOLDER [TABLES]]`
makes the page anew, after explanation tests or when rows were deleted.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from .errors import UserError, first_line
from .evaluation.protocols import MASKED as METRICS
from .methods import CNN_OPERATIONS, VIT_OPERATIONS
from .page import HERE, listed, note, read_note, save_jpeg, save_map, short_hash, write_page
from .runs import sweep, whole_file

GROWTH = 1.25       # the page is rebuilt each time the rows grow by this factor
# What, besides the definition, two explanations must share to be the same
HOW = ("weights", "layer", "steps", "quadrature", "baseline", "precision", "picture size", "images_dir")


class Gallery:
    """The page of a folder of panels.

    Args:
        folder: where index.html goes. tables: where explanation tests have written their tables, whose
            figures the page can be sorted by.
    """

    def __init__(self, folder: str | Path = "qualitive_results",
                 tables: str | Path = "explanation_results") -> None:
        self.folder, self.figures = Path(folder), cache(partial(read_figures, Path(tables)))
        self.known, self.added, self.write_at = {}, 0, 1.0
        sweep(self.folder)

    def add(self, name: str, facts: dict, picture: np.ndarray, maps: Mapping[str, np.ndarray]) -> None:
        """Write a row's files, and now and then the page.

        Args:
            name: the panel's. facts: what was explained, and `HOW`: other facts make another row.
            picture: [H, W, 3] in [0, 1]. maps: by operation, [H, W] in [0, 1].
        """
        text = json.dumps(facts, indent=2)
        folder = self.folder / HERE / f"{name}_{short_hash(text)}"
        if not (folder / "row.json").exists():
            with whole_file(folder / "row.json") as temporary:
                temporary.write_text(text, encoding="utf-8")
        for operation, heatmap in maps.items():
            path = folder / f"{operation}.png"
            if path.exists() and read_note(path) is None:
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
        """Make index.html of all rows that lie in the folder."""
        seen = []
        while seen != (seen := self.rows()):        # again where another process has added some meanwhile
            figures = self.figures(frozenset(map(how, seen)))
            rows = [row | {"figures": {name: figures.get(key_of(row, name), {}) for name in row["maps"]}}
                    for row in seen]
            measured = {metric for row in rows for own in row["figures"].values() for metric in own}
            used = {name for row in rows for name in row["maps"]}
            known = [name for name in CNN_OPERATIONS | VIT_OPERATIONS if name in used]
            write_page(self.folder / "index.html", "gallery.html", title="Saliency maps", rows=rows,
                       operations=known + sorted(used - set(known)),
                       classes=sorted({row["class"] for row in rows}),
                       metrics={name: METRICS[name] for name in METRICS if name in measured})

    def rows(self) -> list[dict]:
        """The finished rows: their facts, "folder", and "maps", {operation: what there is to say of it}."""
        rows = []
        for folder in listed(self.folder / HERE):
            files = tuple(listed(folder))
            if (folder, files) not in self.known:      # a row without a new file is not read again
                self.known[folder, files] = read_row(folder, files)
            rows.append(self.known[folder, files])
        order = ("picture", "class", "model", "folder")
        return sorted(filter(None, rows), key=lambda row: [row[name] for name in order])


def read_row(folder: Path, files: Sequence[Path]) -> dict | None:
    """A row of these files; None where it is not finished. What else is among them is named."""
    try:
        text = (folder / "row.json").read_text(encoding="utf-8")
        if not folder.name.endswith(f"_{short_hash(text)}"):
            raise ValueError
    except (OSError, ValueError):
        if not folder.is_dir() or files:                          # a killed process may leave an empty one
            note(folder, "is no row of the page, or is damaged; it is left out")
        return None
    notes = {path: read_note(path) for path in files if path.name != "row.json"}
    for path in [path for path, own in notes.items() if own is None]:
        note(path, "is no picture of these scripts, or is damaged; it is left out")
        del notes[path]
    if notes.pop(folder / "picture.jpg", None) is None:
        return None
    maps = {path.stem: own for path, own in notes.items()}
    return json.loads(text) | {"folder": f"{HERE}/{folder.name}", "maps": maps}


def read_figures(tables: Path, wanted: frozenset[str]) -> dict[tuple, dict[str, float]]:
    """What the explanation tests have measured of single maps that were made as `wanted` (see `how`), under
    the paper's protocol: figures of two are not compared.

    Returns:
        {`key_of` a row and an operation: {metric: value}}.
    """
    found = {}
    for path in sorted(tables.glob("**/per_image.csv")):
        try:
            summary = json.loads(path.with_name("summary.json").read_bytes())
            made, settings = summary["identity"], summary["settings"]
            made["steps"] = made.get("INTERPOLATION_STEPS", made.get("ITERATION_STEPS"))
            if made.get("heatmaps_dir") is not None or made["protocol"] != "paper" or how(made) not in wanted:
                continue
            rows = pd.read_csv(path, dtype={"id": str, "operation": str}, usecols=lambda name: name in {
                "id", "operation", "target", "explained", *METRICS}).dropna(subset="explained")
            for row in rows.to_dict("records"):
                name, _, definition = row["operation"].partition("@")
                if definition and settings.get("ITERATION_STEPS", 0) is None:
                    continue                    # it took the steps of its own definition, not those of `made`
                facts = made | {"definition": definition or made["definition"], "picture": row["id"],
                                "target": int(row["target"]), "explained": int(row["explained"])}
                found.setdefault(key_of(facts, name), {}).update(
                    {metric: row[metric] for metric in METRICS if pd.notna(row.get(metric))})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as why:
            note(path, f"is no table of the explanation tests ({first_line(why)}); it is left out")
    return found


def how(facts: dict) -> str:
    """How something was explained, in one word."""
    return json.dumps([facts.get(name) for name in HOW])


def key_of(facts: dict, operation: str) -> tuple:
    """What a map of a row has in common with a line of a table."""
    return how(facts), *(facts[name] for name in ("definition", "picture", "target", "explained")), operation


if __name__ == "__main__":
    try:
        Gallery(*sys.argv[1:3]).write()
    except UserError as error:
        sys.exit(f"error: {error}")
