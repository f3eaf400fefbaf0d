"""The list of pictures to explain: `<file name> <class number>` a line, or `<file name> <class name>`."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from ..errors import UserError
from ..maps import safe, shortened
from .photographs import put_in_place
from .pictures import mode_of, normalise, open_picture, squash

WANTED = "'<file name> <class number>'"


@dataclass(frozen=True)
class Pic:
    """A line of the list: where the picture is, its target class, and where the line stands.

    stem: what files made of the picture are named by; no other line has it.
    """
    path: Path
    target: int
    line: str
    stem: str


def read_pics(pics_file: str | Path, images_dir: str | Path, classes: int = 1000,
              labels: Sequence[str] | None = None) -> tuple[list[Pic], list[str]]:
    """The pictures of a list, and what is wrong with the lines that give none.

    Accepts blank lines, `#` comments, Windows line ends and names with spaces. A line that says what an
    earlier one has said gives none.

    Args:
        classes: how many the network has. labels: their names, which then stand for the numbers.

    Raises:
        UserError: the list is missing, unreadable or empty.
    """
    pics_file = Path(pics_file)
    try:
        lines = pics_file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as why:
        raise UserError(f"pics_file {str(pics_file)!r} cannot be read ({why.strerror}). It lists the "
                        "pictures, a line each: <file name> <class number>.") from why
    except UnicodeDecodeError as why:
        raise UserError(f"pics_file {str(pics_file)!r} is no text in UTF-8.") from why
    pics, problems, seen, stems = [], [], {}, set()
    for number, text in enumerate(lines, 1):
        text = text.strip()
        if not text or text.startswith("#"):
            continue
        place = f"{pics_file}:{number}"
        try:
            name, target = read_line(text, classes, labels or ())
            first = seen.setdefault((name, target), place)
            if first != place:
                raise ValueError(f"{name} with class {target} is listed already in {first}")
            path = Path(images_dir) / name
            pics.append(Pic(path, target, place, free_stem(path.stem, stems)))
        except ValueError as why:
            problems.append(f"{place}: {why}")
    if not pics and not problems:
        raise UserError(f"pics_file {str(pics_file)!r} lists no picture. Add lines: <file name> "
                        "<class number>.")
    return pics, problems


def free_stem(stem: str, taken: set[str]) -> str:
    """The name of a picture's files: its own, with a number behind it where an earlier line has it.

    Names are the same if they are so as parts of file names, on a disk that ignores case.
    """
    stem = shortened(stem)
    for name in itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2))):
        key = safe(name).casefold()
        if key not in taken:
            taken.add(key)
            return name


def read_line(text: str, classes: int, labels: Sequence[str]) -> tuple[str, int]:
    """A line's file name and class. What looks like a number is one; of labels, which may have spaces too,
    the longest that ends the line counts, whether large or small letters.

    Raises:
        ValueError: what is wrong with the line.
    """
    *name, target = text.rsplit(None, 1)
    if not name:
        raise ValueError(f"{text!r} is one word; want {WANTED}")
    if re.fullmatch(r"[+-]?[0-9]{1,9}", target):
        if not 0 <= int(target) < classes:
            raise ValueError(f"class {target} is not in 0..{classes - 1}")
        return name[0], int(target)
    for space in re.finditer(r"\s+", text):
        name = text[space.end():].casefold()
        found = [number for number, label in enumerate(labels) if label.casefold() == name]
        if len(found) > 1:
            raise ValueError(f"{text[space.end():]!r} is the name of classes {', '.join(map(str, found))}; "
                             "give a number")
        if found:
            return text[:space.start()], found[0]
    either = " and no class's name" if labels else ""
    raise ValueError(f"class {target!r} is not a number{either}; want {WANTED}")


class PicsDataset(Dataset):
    """The pictures of a list: (normalised picture [C, H, W], target class, file name).

    A line that gives no picture stands at the end, and raises UserError as a broken picture does.

    Args:
        pics_file, images_dir: as `read_pics`. model: whose pictures and classes they are.

    Raises:
        UserError: as `read_pics`; or picture files have not as many channels as the network reads.
    """

    def __init__(self, pics_file: str | Path, images_dir: str | Path, model) -> None:
        self.pics, self.problems = read_pics(pics_file, images_dir, model.classes, model.labels)
        self.mean, self.std, self.size, self.channels = model.mean, model.std, model.size, model.channels
        mode_of(self.channels)
        put_in_place(pic.path for pic in self.pics)

    @property
    def ids(self) -> list[str]:
        return [pic.path.name for pic in self.pics] + self.problems

    def __getitem__(self, index: int) -> tuple[Tensor, int, str]:
        if index >= len(self.pics):
            raise UserError("no picture in this line")
        pic = self.pics[index]
        raw = squash(open_picture(pic.path, self.channels), self.size)
        return normalise(raw, self.mean, self.std), pic.target, pic.path.name
