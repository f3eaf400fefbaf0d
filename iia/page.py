"""Pages to look at, without a server: all maps beside the panels, and a run's table with its best and worst
pictures.

    index.html                        made of what lies in page/, whichever runs wrote it
    page/{panel}_{hash}/row.json      what was explained, and how; the hash is of this file
                       /{operation}.png    a map: the picture's bytes are the map in 256 steps, its palette is jet
                       /picture.jpg   comes last: a row without it is not finished

A row and each of its maps is a file of its own, so runs with other networks or operations, also at the same time,
add to the page. Who is the last to write the page has seen all files.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from .errors import UserError, first_line
from .evaluation.explanation_tests import METRICS
from .methods import CNN_OPERATIONS, VIT_OPERATIONS
from .runs import sweep, whole_file

HERE = "page"                       # the folder of the files that a page is made of
MARK = "iia.page"                   # in what this file writes; anything else is left alone
SHOWN = 4                           # pictures of an operation among the best, and among the worst
GROWTH = 1.25                       # the page is made anew when there are so many times as many rows
# What of a run's settings makes it the same explanation, besides the definition
HOW = ("weights", "layer", "steps", "precision", "picture size", "images_dir")
TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).with_name("templates")), autoescape=True,
                        trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)


class Gallery:
    """The page of a folder of panels.

    Args:
        folder: where index.html goes. tables: where explanation tests have written their tables, whose
            figures the page can be sorted by.
    """

    def __init__(self, folder: str | Path, tables: str | Path) -> None:
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
        seen = None
        while seen != (seen := self.rows()):        # again where another process has added some meanwhile
            figures = self.figures(frozenset(map(how, seen)))
            rows = [row | {"figures": {name: figures.get(key_of(row, name), {}) for name in row["maps"]}}
                    for row in seen]
            measured = {metric for row in rows for own in row["figures"].values() for metric in own}
            used = {name for row in rows for name in row["maps"]}
            known = [name for name in CNN_OPERATIONS | VIT_OPERATIONS if name in used]
            write_page(self.folder / "index.html", "gallery.html", title="Saliency maps", rows=rows,
                       operations=known + sorted(used - set(known)), classes=sorted({row["class"] for row in rows}),
                       metrics={name: METRICS[name] for name in METRICS if name in measured})

    def rows(self) -> list[dict]:
        """The finished rows: their facts, "folder", and "maps", {operation: what is to be said of the map}."""
        rows = []
        for folder in listed(self.folder / HERE):
            files = tuple(listed(folder))
            if (folder, files) not in self.known:                 # a row that has got no new file is not read again
                self.known[folder, files] = read_row(folder, files)
            rows.append(self.known[folder, files])
        return sorted(filter(None, rows), key=lambda row: (row["picture"], row["class"], row["model"], row["folder"]))


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
    """What the explanation tests have measured of single maps that were made as `wanted` (see `how`).

    Returns:
        {`key_of` a row and an operation: {metric: value}}.
    """
    found = {}
    for path in sorted(tables.glob("**/per_image.csv")):
        try:
            made = json.loads(path.with_name("summary.json").read_bytes())["identity"]
            made["steps"] = made.get("INTERPOLATION_STEPS", made.get("ITERATION_STEPS"))
            if made.get("heatmaps_dir") is not None or how(made) not in wanted:
                continue
            rows = pd.read_csv(path, dtype={"id": str, "operation": str}, usecols=lambda name: name in {
                "id", "operation", "target", "explained", *METRICS}).dropna(subset="explained")
            for row in rows.to_dict("records"):
                name, _, definition = row["operation"].partition("@")
                facts = made | {"definition": definition or made["definition"], "picture": row["id"],
                                "target": int(row["target"]), "explained": int(row["explained"])}
                found.setdefault(key_of(facts, name), {}).update(
                    {metric: row[metric] for metric in METRICS if pd.notna(row.get(metric))})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as why:
            note(path, f"is no table of the explanation tests ({first_line(why)}); the page is made without it")
    return found


def write_run(folder: Path, title: str, said: str, table: list[list[str]], summary: dict, metric: str,
              extremes: dict) -> None:
    """Write the page of a run that evaluates.

    Args:
        said: a line below the title. table: its lines, the head first. summary: as `Run.write` returns it.
        metric: the name of what `extremes` were found by.
    """
    write_page(folder / "index.html", "run.html", title=title, said=said, table=table, metric=metric,
               settings=summary["settings"] | summary["versions"], size=summary["identity"]["picture size"],
               extremes=extremes, curves=(folder / "curves.png").exists())


def find_extremes(folder: Path, rows: pd.DataFrame, better: str, picture: Callable[[int], np.ndarray],
                  heatmap: Callable[[int, str], np.ndarray | None] = lambda *_: None) -> dict:
    """The best and worst pictures of each operation, as the page of a run in `folder` shows them.

    Args:
        rows: "index" and "id" of a picture, "operation", and the "value" by which it is good. better: is a
            "higher" or a "lower" one.
        picture: index -> [H, W, 3] in [0, 1]; raises UserError where it cannot be read any more.
        heatmap: (index, operation) -> its map, [H, W] in [0, 1]; None where there is none.
    """
    def tile(row) -> dict:
        shown, drawn = folder / HERE / f"{row.index}.jpg", run_map(folder, row.index, row.operation)
        with suppress(UserError):
            if not shown.exists():
                save_jpeg(shown, picture(row.index))
            if not drawn.exists() and (found := heatmap(row.index, row.operation)) is not None:
                save_map(drawn, found)
        files = [f"{HERE}/{file.name}" if read_note(file) is not None else "" for file in (shown, drawn)]
        return {"name": row.id, "value": f"{row.value:.4g}", "picture": files[0], "map": files[1]}

    extremes = {}
    for operation, own in rows[["index", "id", "operation", "value"]].dropna().groupby("operation", sort=False):
        own = own.sort_values(["value", "index"], ascending=[better == "lower", True])
        ranked = list(own.itertuples(index=False))
        half = min(SHOWN, (len(ranked) + 1) // 2)
        extremes[operation] = {"best": [tile(row) for row in ranked[:half]],
                               "worst": [tile(row) for row in ranked[half:][:-SHOWN - 1:-1]]}
    return extremes


# ------------------------------------------------------------------------------- files

def write_page(path: Path, template: str, **values: object) -> None:
    """Write a page from its template, unless someone else's file lies there: that one is named and stays."""
    try:
        foreign = MARK.encode() not in path.read_bytes()[:300]
    except FileNotFoundError:
        foreign = False
    except OSError:
        foreign = True
    if foreign:
        return note(path, "is no page of these scripts and stays as it is; move it away to have one there")
    text = TEMPLATES.get_template(template).render(values)
    with whole_file(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "xmlcharrefreplace"))


def save_map(path: Path, heatmap: np.ndarray) -> None:
    """Write a map [H, W] in [0, 1] as a PNG in jet colours."""
    picture = Image.fromarray((heatmap * 256).clip(0, 255).astype(np.uint8))
    picture.putpalette(matplotlib.colormaps["jet"](np.arange(256), bytes=True)[:, :3].tobytes())
    said = PngInfo()
    said.add_text(MARK, "" if heatmap.any() else "constant or not finite")
    with whole_file(path) as temporary:
        picture.save(temporary, pnginfo=said)


def save_jpeg(path: Path, picture: np.ndarray) -> None:
    """Write a picture [H, W, 3] in [0, 1]."""
    with whole_file(path) as temporary:
        Image.fromarray((picture.clip(0, 1) * 255).round().astype(np.uint8)).save(temporary, quality=90, comment=MARK)


def read_note(path: Path) -> str | None:
    """What there is to say of a picture that this file has written, mostly nothing; None of any other file."""
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture.info[MARK] if picture.format == "PNG" else {MARK.encode(): ""}[picture.info["comment"]]
    except Exception:                     # each of Pillow's readers has errors of its own
        return None


@cache
def note(path: Path, what: str) -> None:
    """Name a file that is not as it should be, once."""
    tqdm.write(f"note: {path} {what}", file=sys.stderr)


def listed(folder: Path) -> list[Path]:
    """What lies in a folder, but for hidden and unfinished files; nothing where there is none."""
    return sorted(path for path in folder.glob("*") if not path.name.startswith("."))


def run_map(folder: Path, index: int, operation: str) -> Path:
    """Where the page of a run has the map of a picture; the run may write it when it makes it."""
    return folder / HERE / f"{index}_{short_hash(operation)}.png"


def short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def how(facts: dict) -> str:
    """How something was explained, in one word."""
    return json.dumps([facts.get(name) for name in HOW])


def key_of(facts: dict, operation: str) -> tuple:
    """What a map of a row has in common with a line of a table."""
    return how(facts), *(facts[name] for name in ("definition", "picture", "target", "explained")), operation


if __name__ == "__main__":
    Gallery(*sys.argv[1:]).write()
