"""Pages to look at, without a server: how they and their pictures are written, and the page of a run.

    index.html                       the run's table, its curves, each operation's best and worst pictures
    page/{index}.jpg                 a picture
        /{index}_{hash}.png          its map under the operation of that hash
"""

import hashlib
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from .errors import UserError
from .runs import whole_file

HERE = "page"                       # the folder of the files that a page is made of
MARK = "iia.page"                   # in all that this file writes; anything else is left alone
SHOWN = 4                           # pictures of an operation among the best, and among the worst
TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).with_name("templates")), autoescape=True,
                        trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)


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
    rows = rows[["index", "id", "operation", "value"]].dropna()
    for operation, own in rows.groupby("operation", sort=False):
        own = own.sort_values(["value", "index"], ascending=[better == "lower", True])
        ranked = list(own.itertuples(index=False))
        half = min(SHOWN, (len(ranked) + 1) // 2)
        extremes[operation] = {"best": [tile(row) for row in ranked[:half]],
                               "worst": [tile(row) for row in ranked[half:][:-SHOWN - 1:-1]]}
    return extremes


# ------------------------------------------------------------------------------- files

def write_page(path: Path, template: str, **values: object) -> None:
    """Write a page from its template. Someone else's file that lies there is named and stays."""
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
    pixels = (picture.clip(0, 1) * 255).round().astype(np.uint8)
    with whole_file(path) as temporary:
        Image.fromarray(pixels).save(temporary, quality=90, comment=MARK)


def read_note(path: Path) -> str | None:
    """What there is to say of a picture that this file has written, mostly ""; None of any other file."""
    try:
        with Image.open(path) as picture:
            picture.load()
            is_ours = picture.info.get("comment") == MARK.encode()             # a JPEG's
            return "" if is_ours else picture.info.get(MARK)
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
