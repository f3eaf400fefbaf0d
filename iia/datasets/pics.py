"""The pictures to explain: a list, `<file name> <class number>` a line, or with a class's name or WordNet id
instead; or ImageNet's, as `imagenet` finds them."""

import hashlib
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from ..errors import UserError
from ..maps import safe, shortened
from .imagenet import Found, find, is_ground_truth, read_class_folders, read_ground_truth
from .labels import ClassNames
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


def read_pics(pics_file: str | Path | None, images_dir: str | Path, classes: int = 1000,
              labels: Sequence[str] | None = None, every_nth: int | None = None,
              per_class: int | None = None) -> tuple[list[Pic], list[str]]:
    """The pictures of a list, and what is wrong with the lines that give none.

    Accepts blank lines, `#` comments, Windows line ends and names with spaces. A line that says what an
    earlier one has said gives none.

    Args:
        pics_file: the list, or the devkit's ground truth; None for what is in images_dir (`imagenet.find`).
        classes: how many the network has. labels: their names, which then stand for the numbers.
        every_nth, per_class: as `choose`.

    Raises:
        UserError: the list is missing, unreadable or empty.
    """
    names, images_dir = ClassNames(classes, labels), Path(images_dir)
    source, folders = find(images_dir, names) if pics_file is None else (Path(pics_file), {})
    if folders:
        found, problems = read_class_folders(source, folders)
    else:
        lines = read_lines(source)
        if is_ground_truth(source, lines):
            found, problems = read_ground_truth(source, lines, images_dir, names)
        else:
            found, problems = read_list(source, lines, images_dir, names)
    if not found and not problems:
        raise UserError(f"pics_file {str(source)!r} lists no picture. Add lines: <file name> "
                        "<class number>.")
    stems, pics = {}, []
    for path, target, line in found:
        try:
            pics.append(Pic(path, target, line, free_stem(path.stem, stems)))
        except UnicodeEncodeError:
            problems.append(f"{line!a}: the file's name is no UTF-8")
    return choose(pics, every_nth, per_class), problems


def name_of(pics_file: str | None, images_dir: str) -> str:
    """What a run over these pictures is called: by their list, or by the folder that None takes them from."""
    return Path(pics_file or Path(images_dir).resolve()).stem


def read_lines(pics_file: Path) -> list[str]:
    """The lines of a list, but for blank ones at its end."""
    try:
        return pics_file.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except OSError as why:
        raise UserError(f"pics_file {str(pics_file)!r} cannot be read ({why.strerror}). It lists the "
                        "pictures, a line each: <file name> <class number>; None takes what images_dir "
                        "holds of ImageNet.") from why
    except UnicodeDecodeError as why:
        raise UserError(f"pics_file {str(pics_file)!r} is no text in UTF-8.") from why


def read_list(pics_file: Path, lines: list[str], images_dir: Path,
              names: ClassNames) -> tuple[Found, list[str]]:
    """The pictures of a list's lines, and what is wrong with the others."""
    found, problems, seen = [], [], {}
    for number, text in enumerate(lines, 1):
        text = text.strip()
        if not text or text.startswith("#"):
            continue
        place = f"{pics_file}:{number}"
        try:
            name, target = read_line(text, names)
            first = seen.setdefault((images_dir / name, target), place)       # "./a.png" is "a.png"
            if first != place:
                raise ValueError(f"{name} with class {target} is listed already in {first}")
            found.append((images_dir / name, target, place))
        except ValueError as why:
            problems.append(f"{place}: {why}")
    return found, problems


def read_line(text: str, names: ClassNames) -> tuple[str, int]:
    """A line's file name and class. What looks like a number is one; of names, which may have spaces too,
    the longest that ends the line counts.

    Raises:
        ValueError: what is wrong with the line.
    """
    *name, target = text.rsplit(None, 1)
    if not name:
        raise ValueError(f"{text!r} is one word; want {WANTED}")
    if re.fullmatch(r"[+-]?[0-9]{1,9}", target):
        if not 0 <= int(target) < names.classes:
            raise ValueError(f"class {target} is not in 0..{names.classes - 1}")
        return name[0], int(target)
    for space in re.finditer(r"\s+", text):
        try:
            found = names.find(text[space.end():])
        except ValueError as why:
            raise ValueError(f"{why}; give a number") from why
        if found is not None:
            return text[:space.start()], found
    target = re.split(r"\.\w+\s+", text)[-1] if re.search(r"\.\w+\s", text) else target
    either = " and no class's name" if names.labels else ""
    raise ValueError(f"class {target!r} is not a number{either}; want {WANTED}.{names.near(target)}")


def free_stem(stem: str, taken: dict[str, int]) -> str:
    """The name of a picture's files: its own, with a number behind it where an earlier line has it.

    Names are the same if they are so as parts of file names, on a disk that ignores case.

    Args:
        taken: the names so far, and the last number behind each; the new one is added.
    """
    stem = name = shortened(stem)
    first = key = safe(stem).casefold()
    while key in taken:
        taken[first] += 1
        name = f"{stem}_{taken[first]}"
        key = safe(name).casefold()
    taken[key] = 1
    return name


def choose(pics: list[Pic], every_nth: int | None, per_class: int | None) -> list[Pic]:
    """A part of the pictures that is the same for everyone who has them, in whatever order and place.

    Args:
        every_nth: the first of all, by file name, and each n-th after it.
        per_class: of those, so many of each class: the first by the SHA-256 of the file name.

    With None for both, all as they are listed.
    """
    if every_nth is None and per_class is None:
        return pics
    pics = sorted(pics, key=by_name)[::every_nth]
    if per_class is None:
        return pics
    drawn, taken = [], Counter()
    for pic in sorted(pics, key=lambda pic: (hashlib.sha256(pic.path.name.encode()).digest(), by_name(pic))):
        if taken[pic.target] < per_class:
            taken[pic.target] += 1
            drawn.append(pic)
    if few := sum(number < per_class for number in taken.values()):
        print(f"note: {few} of {len(taken)} classes have fewer than per_class={per_class} pictures",
              file=sys.stderr)
    return sorted(drawn, key=by_name)


def by_name(pic: Pic) -> tuple:
    """Pictures by file name; those of one name by class, then by place."""
    return pic.path.name, pic.target, pic.path


class PicsDataset(Dataset):
    """The pictures of a list: (normalised picture [C, H, W], target class, file name).

    A line that gives no picture stands at the end, and raises UserError as a broken picture does.

    Args:
        pics_file, images_dir, every_nth, per_class: as `read_pics`. model: whose pictures and classes they
            are.

    Raises:
        UserError: as `read_pics`; or picture files have not as many channels as the network reads.
    """

    def __init__(self, pics_file: str | Path | None, images_dir: str | Path, model,
                 every_nth: int | None = None, per_class: int | None = None) -> None:
        self.pics, self.problems = read_pics(pics_file, images_dir, model.classes, model.labels, every_nth,
                                             per_class)
        self.mean, self.std, self.size, self.channels = model.mean, model.std, model.size, model.channels
        mode_of(self.channels)
        put_in_place(pic.path for pic in self.pics)

    @property
    def ids(self) -> list[str]:
        return [pic.path.name for pic in self.pics] + self.problems

    @property
    def places(self) -> list[str]:
        """Where each picture lies: two lists may name other files alike."""
        return [pic.path.as_posix() for pic in self.pics]

    def __getitem__(self, index: int) -> tuple[Tensor, int, str]:
        if index >= len(self.pics):
            raise UserError("no picture in this line")
        pic = self.pics[index]
        raw = squash(open_picture(pic.path, self.channels), self.size)
        return normalise(raw, self.mean, self.std), pic.target, pic.path.name
