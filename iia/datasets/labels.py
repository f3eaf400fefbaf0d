"""The names of a network's classes: from a file, and from a name to the class's number."""

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from torchvision.models import ResNet18_Weights

from ..errors import UserError, did_you_mean

IMAGENET = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]      # the first synonym of each class
WNID = re.compile(r"n\d{8}")                                      # a WordNet id
HINTS = 20            # near names are looked for so often: each takes milliseconds, a list has 50,000 lines


def read_labels(path: str | Path) -> list[str]:
    """The names of the classes: a name a line, or JSON: ["cat", ...], {"0": "cat", ...} or {"cat": 0, ...}.

    Raises:
        UserError: the file cannot be read, or is none of these.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        names = json.loads(text) if Path(path).suffix.lower() == ".json" else lines
        if isinstance(names, dict):
            names = names if "0" in names else {str(number): name for name, number in names.items()}
            names = [names[str(number)] for number in range(len(names))]
        of_names = isinstance(names, list) and all(isinstance(name, (str, int)) for name in names)
        if not (of_names and names):
            raise ValueError("no names")
        return [str(name) for name in names]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as why:
        raise UserError(f"labels_file {str(path)!r} cannot be read as names of classes "
                        f"({type(why).__name__}: {why}): give a name a line, or JSON as "
                        '["cat", ...], {"0": "cat", ...} or {"cat": 0, ...}.') from why


class ClassNames:
    """What a network's classes are called: by label, by the WordNet id that is or begins the label, and
    ImageNet's own by WordNet id and every synonym. Large and small letters are the same.

    Args:
        classes: how many the network has. labels: their names, or None.
    """

    def __init__(self, classes: int, labels: Sequence[str] | None = None) -> None:
        self.classes, self.labels, self.hints = classes, list(labels or ()), HINTS
        self.imagenet = self.labels == IMAGENET

    @cached_property
    def numbers(self) -> dict[str, list[int]]:
        """The classes of every name."""
        also = [WNID.findall(label.split(" ")[0]) for label in self.labels]
        if self.imagenet:
            from timm.data import ImageNetInfo
            info = ImageNetInfo()
            also = [[info.index_to_label_name(number), *info.index_to_description(number).split(", ")]
                    for number in range(self.classes)]
        found = {}
        for number, label in enumerate(self.labels):
            for name in {each.casefold() for each in [label, *also[number]]}:
                found.setdefault(name, []).append(number)
        return found

    def find(self, name: str) -> int | None:
        """The class of that name; None where there is none. Raises ValueError where there are several."""
        found = self.numbers.get(name.casefold(), [])
        if len(found) > 1:
            raise ValueError(f"{name!r} is the name of classes {', '.join(map(str, found))}")
        return found[0] if found else None

    def near(self, name: str) -> str:
        """" Did you mean 'cat'?" for the nearest name; "" where none is near, or too many were asked for."""
        self.hints -= 1
        known = [*self.numbers, *self.labels]               # labels last: they show their own letters
        return did_you_mean(name, known) if self.hints >= 0 and not WNID.fullmatch(name) else ""
