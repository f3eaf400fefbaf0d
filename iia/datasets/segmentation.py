"""What the three segmentation data sets share: a picture, where the object is in it, and a name."""

import contextlib
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import functional as TF

from ..errors import UserError
from .pictures import Size, denormalise, mode_of, normalise, sides, squash
from .wordnet import imagenet_classes

RAW = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))      # the mean and std of pictures that are left in [0, 1]


class SampleError(UserError):
    """A picture or its mask cannot be used; the others can."""


class SegmentationDataset(Dataset):
    """Samples (picture [C, H, W] normalised, mask [H, W] long: 1 = object, id).

    A data set has `open` and `picture_and_mask`, and may name `sources` and `categories`. Nothing but file
    names is kept between samples, so that it can be handed to reading processes.

    Args:
        mean, std: the normalisation that the network wants, a number for each channel; None leaves the
            pictures in [0, 1], RGB.
        size: the size to which picture and mask are squashed.

    Raises:
        SampleError: of a sample: its picture or mask is missing, broken, or not of the other's size.
    """

    name: str                     # in the names of folders
    default_root: str             # where the scripts look for it
    ids: list[str]
    # the files that say what the data set holds: results are not kept when they change
    sources: Sequence[Path] = ()

    def __init__(self, root: str | Path | None = None, mean: Sequence[float] | None = None,
                 std: Sequence[float] | None = None, size: Size = 224) -> None:
        self.mean, self.std = (mean, std) if mean else RAW
        self.mode, self.size = mode_of(len(self.mean)), sides(size)
        self.open(Path(self.default_root if root is None else root))

    def open(self, root: Path) -> None:
        """Find the data set in `root` and fill in `ids` and `sources`."""
        raise NotImplementedError

    def picture_and_mask(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """The picture (RGB) and where the object is (bool [H, W]), both as they are in the files."""
        raise NotImplementedError

    def categories(self, index: int) -> set[str]:
        """The names of what is annotated in the picture; none where the data set does not say."""
        return set()

    def classes_of(self, index: int) -> set[int] | None:
        """The numbers of the ImageNet classes that the picture is of; None where nothing says any."""
        numbers: set[int] = set()
        for name in self.categories(index):
            with contextlib.suppress(UserError):                   # a category of somebody's own
                numbers.update(imagenet_classes(name))
        return numbers or None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str]:
        name = self.ids[index]
        picture, mask = self.picture_and_mask(index)
        check_size(name, mask.shape[::-1], picture.size)
        small = TF.resize(Image.fromarray(mask), list(self.size), TF.InterpolationMode.NEAREST)
        return (normalise(squash(picture.convert(self.mode), self.size), self.mean, self.std),
                torch.from_numpy(np.array(small)).long(), name)

    def pixels(self, picture: Tensor) -> Tensor:
        """A sample's picture back in [0, 1], to be looked at."""
        return denormalise(picture, self.mean, self.std)


def check_size(name: str, mask: tuple[int, ...], picture: tuple[int, int]) -> None:
    """Raise SampleError where a mask is not of its picture's size, both (width, height)."""
    if tuple(mask) != tuple(picture):
        mask, picture = (" x ".join(map(str, size)) for size in (mask, picture))
        raise SampleError(f"the mask of {name} is of another size ({mask}) than its picture ({picture})")


def missing(name: str, root: Path, fetch: str, tree: str) -> UserError:
    """The error for a data set that is not where it should be: what to fetch, where it goes, what is
    there."""
    tree = textwrap.indent(tree.strip("\n"), "    ")
    return UserError(f"{name} is not in {root}.\nFetch {fetch}\nso that it looks like this:\n{tree}\n"
                     f"Found instead: {found_in(root)}")


def found_in(root: Path, most: int = 8) -> str:
    """What there is at a path, in words."""
    if not root.exists():
        return f"{root} does not exist."
    if not root.is_dir():
        return f"{root} is a file; dataset_root is a folder."
    names = sorted(root.iterdir())
    shown = ", ".join(map(_name, names[:most])) + (f", ... ({len(names)} names)" if len(names) > most else "")
    return f"{root} holds {shown}." if names else f"{root} is empty."


def _name(path: Path, most: int = 3) -> str:
    """A file's name; a folder's with what lies in it."""
    if not path.is_dir():
        return path.name
    names = sorted(inside.name + "/" * inside.is_dir() for inside in path.iterdir())
    return f"{path.name}/ ({', '.join(names[:most]) or 'empty'}{', ...' if len(names) > most else ''})"
