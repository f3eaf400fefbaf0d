"""What the segmentation data sets share: how they are found, and how a sample is made of their files."""

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
from .pictures import Size, denormalise, mode_of, normalise, parse_size, squash
from .wordnet import imagenet_classes

RAW = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))      # the mean and std of pictures that are left in [0, 1]


class SampleError(UserError):
    """A picture or its mask cannot be used; the others can."""


class SegmentationDataset(Dataset):
    """Samples (picture [C, H, W] normalised, mask [H, W] long: 1 = object, id).

    A data set has the names below, `open` and `picture_and_mask`, and may have `sources` and `categories`.
    Between samples it keeps no open file, so that reading processes can share it.

    Args:
        root: the folder to look in; None for `default_root`.
        mean, std: the normalisation that the network wants, a number for each channel; None leaves the
            pictures in [0, 1], RGB.
        size: the size to which picture and mask are squashed.

    Raises:
        UserError: the data set is not in `root`, or the files that list its samples cannot be read.
        SampleError: by a sample whose picture or mask is missing or broken, or whose mask has another size
            than its picture.
    """

    name: str                     # in the names of folders
    title: str                    # in messages
    default_root: str             # where the scripts look for it
    layout: dict[str, str]        # what it has: files and folders, each with an example of its content
    fetch: str                    # what to download, and what to do with it
    ids: list[str]
    sources: Sequence[Path] = ()  # the files that list its samples: results are not kept when they change

    def __init__(self, root: str | Path | None = None, mean: Sequence[float] | None = None,
                 std: Sequence[float] | None = None, size: Size = 224) -> None:
        self.mean, self.std = (mean, std) if mean else RAW
        self.mode, self.size = mode_of(len(self.mean)), parse_size(size)
        root = Path(self.default_root if root is None else root)
        places = self.places(root)
        present = [folder for folder in places if all((folder / path).exists() for path in self.layout)]
        if not present:
            tree = [f"{places[0]}/", *(f"  {path}{inside}" for path, inside in self.layout.items())]
            raise missing(self.title, root, self.fetch, "\n".join(tree))
        self.open(present[0])

    def places(self, root: Path) -> Sequence[Path]:
        """The folders where it may lie, the usual one first."""
        return [root]

    def open(self, folder: Path) -> None:
        """Fill in `ids` and `sources` from the folder that holds the data set."""
        raise NotImplementedError

    def picture_and_mask(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """The picture (RGB) and where the object is (bool [H, W]), both of the size that the file has."""
        raise NotImplementedError

    def categories(self, index: int) -> set[str]:
        """The names of what is annotated in the picture; none where the data set does not say."""
        return set()

    def classes_of(self, index: int) -> set[int] | None:
        """The numbers of the ImageNet classes that the picture is of; None where none is known."""
        classes: set[int] = set()
        for name in self.categories(index):
            with contextlib.suppress(UserError):                   # a category that the user has added
                classes.update(imagenet_classes(name))
        return classes or None

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
        """A sample's picture back in [0, 1], to be shown."""
        return denormalise(picture, self.mean, self.std)


def check_size(name: str, mask: tuple[int, ...], picture: tuple[int, int]) -> None:
    """Raise SampleError where a mask has another size than its picture, both (width, height)."""
    if tuple(mask) != tuple(picture):
        mask, picture = (" x ".join(map(str, size)) for size in (mask, picture))
        raise SampleError(f"the mask of {name} is of another size ({mask}) than its picture ({picture})")


def missing(name: str, root: Path, fetch: str, tree: str) -> UserError:
    """The error for a data set that is not in `root`: what to fetch, how it should lie there, and what lies
    there instead."""
    tree = textwrap.indent(tree.strip("\n"), "    ")
    return UserError(f"{name} is not in {root}.\nFetch {fetch}\nso that it looks like this:\n{tree}\n"
                     f"Found instead: {found_in(root)}")


def found_in(root: Path, most: int = 8) -> str:
    """What there is at a path, in words."""
    if not root.is_dir():
        return f"{root} {'is a file; name the folder around it' if root.exists() else 'does not exist'}."
    names = sorted(root.iterdir())
    shown = ", ".join(map(outline, names[:most]))
    more = f", ... ({len(names)} names)" if len(names) > most else ""
    return f"{root} holds {shown}{more}." if names else f"{root} is empty."


def outline(path: Path, most: int = 3) -> str:
    """A file's name, or a folder's with what lies in it."""
    if not path.is_dir():
        return path.name
    names = sorted(inside.name + "/" * inside.is_dir() for inside in path.iterdir())
    return f"{path.name}/ ({', '.join(names[:most]) or 'empty'}{', ...' if len(names) > most else ''})"
