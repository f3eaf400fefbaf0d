"""The list of pictures to explain: `<file name> <class number>` a line."""

import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

CLASSES = 1000


@dataclass(frozen=True)
class Pic:
    """A line of the list: where the picture is, its target class, and where the line stands."""
    path: Path
    target: int
    line: str

    @property
    def stem(self) -> str:
        return self.path.stem


def read_pics(pics_file: str | Path, images_dir: str | Path) -> tuple[list[Pic], list[str]]:
    """The pictures of a list, and what is wrong with the lines that give none.

    Accepts blank lines, `#` comments, Windows line ends and names with spaces.

    Raises:
        UserError: the list is missing, unreadable or empty.
    """
    pics_file = Path(pics_file)
    try:
        lines = pics_file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as why:
        raise UserError(f"pics_file {str(pics_file)!r} cannot be read ({why.strerror}). It lists the pictures, "
                        "a line each: <file name> <class number>.") from why
    except UnicodeDecodeError as why:
        raise UserError(f"pics_file {str(pics_file)!r} is no text in UTF-8.") from why
    pics, problems = [], []
    for number, text in enumerate(lines, 1):
        text = text.strip()
        if not text or text.startswith("#"):
            continue
        place = f"{pics_file}:{number}"
        *name, target = text.rsplit(None, 1)
        if not name:
            problems.append(f"{place}: {text!r} is one word; want '<file name> <class number>'")
        elif not re.fullmatch(r"[+-]?[0-9]{1,9}", target):
            problems.append(f"{place}: class {target!r} is not a number; want '<file name> <class number>'")
        elif not 0 <= int(target) < CLASSES:
            problems.append(f"{place}: class {target} is not in 0..{CLASSES - 1}")
        else:
            pics.append(Pic(Path(images_dir) / name[0], int(target), place))
    if not pics and not problems:
        raise UserError(f"pics_file {str(pics_file)!r} lists no picture. Add lines: <file name> <class number>.")
    return pics, problems
