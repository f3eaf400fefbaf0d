"""The names of a network's classes, from a file."""

import json
from pathlib import Path

from ..errors import UserError


def read_labels(path: str | Path) -> list[str]:
    """The names of the classes: a name a line, or JSON: ["cat", ...], {"0": "cat", ...} or {"cat": 0, ...}.

    Raises:
        UserError: the file cannot be read, or is none of these.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        if Path(path).suffix.lower() != ".json":
            return [line.strip() for line in text.splitlines() if line.strip()]
        names = json.loads(text)
        if isinstance(names, dict):
            names = names if "0" in names else {str(number): name for name, number in names.items()}
            names = [names[str(number)] for number in range(len(names))]
        return [str(name) for name in list(names)]
    except (OSError, ValueError, KeyError, TypeError) as why:
        raise UserError(f"labels_file {str(path)!r} cannot be read as names of classes "
                        f"({type(why).__name__}: {why}): give a name a line, or JSON as "
                        '["cat", ...], {"0": "cat", ...} or {"cat": 0, ...}.') from why
