"""Writes the files of a page, which a browser shows without a server, and knows them again."""

import hashlib
import sys
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from .plots import save_picture
from .runs import whole_file

PARTS = "page"                      # the folder beside a page with the pictures that it shows
MARK = "iia.page"                   # in every file that is written here; other files are left alone
TEMPLATES = Environment(loader=FileSystemLoader(Path(__file__).with_name("templates")), autoescape=True,
                        trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)


def write_page(path: Path, template: str, **values: object) -> None:
    """Write a page from its template. A file of someone else that lies there is named and stays."""
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
    remark = PngInfo()
    remark.add_text(MARK, "" if heatmap.any() else "constant or not finite")
    with whole_file(path) as temporary:
        picture.save(temporary, pnginfo=remark)


def save_jpeg(path: Path, picture: np.ndarray) -> None:
    """Write a picture [H, W, 3] in [0, 1]."""
    save_picture(path, picture, quality=90, comment=MARK)


def read_remark(path: Path) -> str | None:
    """The remark in a map or picture that was written here, mostly ""; None for any other file."""
    try:
        with Image.open(path) as picture:
            picture.load()
            is_ours = picture.info.get("comment") == MARK.encode()             # a JPEG's
            return "" if is_ours else picture.info.get(MARK)
    except Exception:                     # each of Pillow's readers has errors of its own
        return None


@cache
def note(path: Path, problem: str) -> None:
    """Name a file that is not as it should be, once."""
    tqdm.write(f"note: {path} {problem}", file=sys.stderr)


def listed(folder: Path) -> list[Path]:
    """What lies in a folder, without hidden and unfinished files; nothing where there is no folder."""
    return sorted(path for path in folder.glob("*") if not path.name.startswith("."))


def run_map(folder: Path, index: int, operation: str) -> Path:
    """Where the page of a run keeps the map of a picture; the run may write it as soon as it is made."""
    return folder / PARTS / f"{index}_{short_hash(operation)}.png"


def short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
