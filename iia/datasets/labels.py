"""The names of a network's classes: read from a file, and turned into the number of a class."""

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from torchvision.models import ResNet18_Weights

from ..errors import did_you_mean, rephrased

IMAGENET = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]      # the first synonym of each class
WNID = re.compile(r"n\d{8}")                                      # a WordNet id
HINTS = 20       # how often a near name is looked for: each takes milliseconds, a list may have 50,000 lines


def read_labels(path: str | Path) -> list[str]:
    """The names of the classes, from a file with one on each line, or from JSON such as ["cat", ...],
    {"0": "cat", ...} or {"cat": 0, ...}.

    Raises:
        UserError: the file cannot be read, or is none of these.
    """
    with rephrased(f"labels_file {str(path)!r} cannot be read as names of classes",
                   ': give a name a line, or JSON as ["cat", ...], {"0": "cat", ...} or {"cat": 0, ...}.'):
        text = Path(path).read_text(encoding="utf-8-sig")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        names = json.loads(text) if Path(path).suffix.lower() == ".json" else lines
        if isinstance(names, dict):
            names = names if "0" in names else {str(number): name for name, number in names.items()}
            names = [names[str(number)] for number in range(len(names))]
        if not (names and isinstance(names, list) and all(isinstance(name, (str, int)) for name in names)):
            raise ValueError("no names")
        return [str(name) for name in names]


class ClassNames:
    """Finds the number of a class by its label, or by the WordNet id that is or begins the label; a class of
    ImageNet also by its WordNet id and every synonym. Case does not matter.

    Args:
        classes: how many the network has. labels: their names, or None.
    """

    def __init__(self, classes: int, labels: Sequence[str] | None = None) -> None:
        self.classes, self.labels, self.hints = classes, list(labels or ()), HINTS
        self.imagenet = self.labels == IMAGENET

    @cached_property
    def numbers(self) -> dict[str, list[int]]:
        """The classes that have each name, in small letters."""
        synonyms = [WNID.findall(label.split(" ")[0]) for label in self.labels]
        if self.imagenet:
            from timm.data import ImageNetInfo
            info = ImageNetInfo()
            synonyms = [[info.index_to_label_name(number), *info.index_to_description(number).split(", ")]
                        for number in range(self.classes)]
        numbers = {}
        for number, label in enumerate(self.labels):
            for name in {each.casefold() for each in [label, *synonyms[number]]}:
                numbers.setdefault(name, []).append(number)
        return numbers

    def find(self, name: str) -> list[int]:
        """The classes of that name: mostly one, or none."""
        return self.numbers.get(name.casefold(), [])

    def ambiguity(self, name: str) -> str:
        """What to say of a name that several classes have."""
        return f"{name!r} is the name of classes {', '.join(map(str, self.find(name)))}"

    def near(self, name: str) -> str:
        """" Did you mean 'cat'?" for the nearest name; "" where none is near, or after `HINTS` calls."""
        self.hints -= 1
        known = [*self.numbers, *self.labels]      # labels last, so that they are shown in their own case
        return did_you_mean(name, known) if self.hints >= 0 and not WNID.fullmatch(name) else ""
