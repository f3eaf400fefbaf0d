"""The pictures to explain: from a list with `<file name> <class number>` on each line (or the class's name or
WordNet id), or ImageNet's, as `imagenet` finds them."""

import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from ..errors import UserError, rephrased
from ..maps import safe, shortened
from .imagenet import Entries, find, is_ground_truth, read_class_folders, read_ground_truth
from .labels import ClassNames
from .photographs import put_in_place
from .pictures import mode_of, normalise, open_picture, squash

WANTED = "'<file name> <class number>'"


@dataclass(frozen=True)
class Pic:
    """A picture of the list: its path, its target class, and the place in the list that says so.

    stem: the name of the files made of the picture, which no other picture of the list has.
    """
    path: Path
    target: int
    line: str
    stem: str


def read_pics(pics_file: str | Path | None, images_dir: str | Path, classes: int = 1000,
              labels: Sequence[str] | None = None, every_nth: int | None = None,
              per_class: int | None = None) -> tuple[list[Pic], list[str]]:
    """The pictures of a list, and what is wrong with the lines that give none.

    Accepts blank lines, `#` comments, Windows line ends and names with spaces. A line that repeats an earlier
    one gives no picture.

    Args:
        pics_file: the list, or the devkit's ground truth; None for what images_dir holds (`imagenet.find`).
        classes: how many the network has. labels: their names, which may then stand for the numbers.
        every_nth, per_class: as in `choose`.

    Raises:
        UserError: the list is missing, unreadable or empty.
    """
    names, images_dir = ClassNames(classes, labels), Path(images_dir)
    source, folders = find(images_dir, names) if pics_file is None else (Path(pics_file), {})
    if folders:
        entries, problems = read_class_folders(source, folders)
    else:
        lines = read_lines(source)
        read = read_ground_truth if is_ground_truth(source, lines) else read_list
        entries, problems = read(source, lines, images_dir, names)
    if not entries and not problems:
        raise UserError(f"pics_file {str(source)!r} lists no picture. Add lines: <file name> <class number>.")
    stems, pics = {}, []
    for path, target, line in entries:
        try:
            pics.append(Pic(path, target, line, free_stem(path.stem, stems)))
        except UnicodeEncodeError:
            problems.append(f"{line!a}: the file's name is not in UTF-8")
    return choose(pics, every_nth, per_class), problems


def name_of(pics_file: str | None, images_dir: str) -> str:
    """The name of a run over these pictures: that of their list or, where it is None, of their folder."""
    return Path(pics_file or Path(images_dir).resolve()).stem


def read_lines(pics_file: Path) -> list[str]:
    """The lines of a list, without blank ones at its end."""
    place = "" if pics_file.is_absolute() else f" in {Path.cwd()}"
    with rephrased(f"pics_file {str(pics_file)!r} cannot be read{place}", ". It lists the pictures in UTF-8, "
                   "a line each: <file name> <class number>; None takes what images_dir holds of ImageNet."):
        return pics_file.read_text(encoding="utf-8-sig").rstrip().splitlines()


def read_list(pics_file: Path, lines: list[str], images_dir: Path,
              names: ClassNames) -> tuple[Entries, list[str]]:
    """The pictures that the lines of a list name, and what is wrong with the other lines."""
    entries, problems, places = [], [], {}
    for number, text in enumerate(lines, 1):
        text = text.strip()
        if not text or text.startswith("#"):
            continue
        place = f"{pics_file}:{number}"
        try:
            name, target = read_line(text, names)
            first = places.setdefault((images_dir / name, target), place)     # "./a.png" is "a.png"
            if first != place:
                raise ValueError(f"{name} with class {target} is listed already in {first}")
            entries.append((images_dir / name, target, place))
        except ValueError as why:
            problems.append(f"{place}: {why}")
    return entries, problems


def read_line(text: str, names: ClassNames) -> tuple[str, int]:
    """The file name and the class of a line. A last word that looks like a number is one. Else the longest
    name of a class that ends the line counts, since both names may have spaces.

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
        numbers = names.find(text[space.end():])
        if len(numbers) > 1:
            raise ValueError(f"{names.ambiguity(text[space.end():])}; give a number")
        if numbers:
            return text[:space.start()], numbers[0]
    target = re.split(r"\.\w+\s+", text)[-1] if re.search(r"\.\w+\s", text) else target
    either = " and no class's name" if names.labels else ", and without a labels_file no class has a name"
    raise ValueError(f"class {target!r} is not a number{either}; want {WANTED}.{names.near(target)}")


def free_stem(stem: str, taken: dict[str, int]) -> str:
    """The name of the files made of a picture: its own stem, and a number where an earlier line has that.

    Two names are the same if a disk that ignores case takes them so once they are parts of file names.

    Args:
        taken: the names so far, and the last number behind each; the new name is added.
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
    """A part of the pictures, the same for everyone who has them, whatever their order and place.

    Args:
        every_nth: take the first of all, by file name, and each n-th after it.
        per_class: of those, take so many of each class, the first by the SHA-256 of the file name.

    With None for both, all pictures stay in the order of the list.
    """
    if every_nth is None and per_class is None:
        return pics
    pics = sorted(pics, key=by_name)[::every_nth]
    if per_class is None:
        return pics
    classes: dict[int, list[Pic]] = {}
    for pic in sorted(pics, key=lambda pic: (hashlib.sha256(pic.path.name.encode()).digest(), by_name(pic))):
        classes.setdefault(pic.target, []).append(pic)
    if few := sum(len(of_class) < per_class for of_class in classes.values()):
        print(f"note: {few} of {len(classes)} classes have fewer than per_class={per_class} pictures",
              file=sys.stderr)
    return sorted((pic for of_class in classes.values() for pic in of_class[:per_class]), key=by_name)


def by_name(pic: Pic) -> tuple:
    """The key that sorts pictures by file name, those of one name by class, then by path."""
    return pic.path.name, pic.target, pic.path


class PicsDataset(Dataset):
    """The pictures of a list as samples (normalised picture [C, H, W], target class, file name).

    The lines that give no picture come last, and raise UserError as broken pictures do.

    Args:
        pics_file, images_dir, every_nth, per_class: as in `read_pics`. model: the network that reads them.

    Raises:
        UserError: as `read_pics`; or no picture file has as many channels as the network reads.
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
        """The path of each picture, since two lists may give different files the same name."""
        return [pic.path.as_posix() for pic in self.pics]

    def __getitem__(self, index: int) -> tuple[Tensor, int, str]:
        if index >= len(self.pics):
            raise UserError("no picture in this line")
        pic = self.pics[index]
        raw = squash(open_picture(pic.path, self.channels), self.size)
        return normalise(raw, self.mean, self.std), pic.target, pic.path.name
