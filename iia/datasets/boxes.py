"""The boxes around the objects of VOC 2012 and COCO val2017, for the pointing game (METHOD.md, section 8)."""

from pathlib import Path
from xml.etree import ElementTree

import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import VOCDetection

from .coco import Coco
from .pictures import normalise, squash
from .segmentation import SampleError
from .voc import Voc
from .wordnet import imagenet_classes

Box = tuple[float, float, float, float]    # its edges (left, top, right, bottom) in pixels from the corner
OVER = 1                                   # pixels by which a box may leave its picture, by rounding


class Boxes:
    """Samples (picture [C, H, W] normalised, the file's (width, height) [2], id); `boxes(index)` are a
    picture's objects, (category, box) each, as they are in the file.

    Raises:
        UserError: of a sample: its picture is missing or broken, it has no box, or an invalid one.
    """

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str]:
        picture: Image.Image = self.picture(index)
        check(self.boxes(index), picture.size)
        pixels = squash(picture.convert(self.mode), self.size)
        return normalise(pixels, self.mean, self.std), torch.tensor(picture.size), self.ids[index]


class VocBoxes(Boxes, Voc):
    """The 5,823 pictures of VOC's detection val set, those marked "difficult" too; read by torchvision."""

    listed, answers = Path("ImageSets", "Main", "val.txt"), "Annotations/2007_000033.xml"

    def boxes(self, index: int) -> list[tuple[str, Box]]:
        path = self.folder / "Annotations" / f"{self.ids[index]}.xml"
        try:
            read = VOCDetection.parse_voc_xml(ElementTree.parse(path).getroot())["annotation"]
            return [(each["name"], voc_box(each["bndbox"])) for each in read["object"]]
        except Exception as why:                 # whatever a malformed file led the reader to
            raise SampleError(f"{path} cannot be read as VOC's annotation "
                              f"({type(why).__name__}: {why})") from why


def voc_box(edges: dict[str, str]) -> Box:
    """VOC counts pixels from 1, and a box's last ones are in it."""
    return (float(edges["xmin"]) - 1, float(edges["ymin"]) - 1, float(edges["xmax"]), float(edges["ymax"]))


class CocoBoxes(Boxes, Coco):
    """val2017's pictures with at least one annotation, crowds too."""

    def boxes(self, index: int) -> list[tuple[str, Box]]:
        number = self.numbers[index]
        try:
            found = [(str(self.coco.cats[own["category_id"]]["name"]), list(map(float, listed(own["bbox"]))))
                     for own in self.coco.imgToAnns[number]]
            return [(name, (x, y, x + width, y + height)) for name, (x, y, width, height) in found]
        except (KeyError, TypeError, ValueError, OverflowError) as why:
            raise SampleError(f"an annotation of picture {number} has no box or no category that exists "
                              f"({type(why).__name__}: {why})") from why


def listed(edges: object) -> list:
    """A bbox; raises TypeError where it is no list: of a text the digits would be numbers."""
    if not isinstance(edges, list):
        raise TypeError(f"{type(edges).__name__} for a list")
    return edges


def check(boxes: list[tuple[str, Box]], size: tuple[int, int]) -> None:
    """Raise UserError where there is no box, or one outside its picture of `size` (width, height), or of a
    category that does not exist."""
    if not boxes:
        raise SampleError("the picture has no box")
    for category, (left, top, right, bottom) in boxes:
        imagenet_classes(category)
        if not (-OVER <= left < right <= size[0] + OVER and -OVER <= top < bottom <= size[1] + OVER):
            raise SampleError(f"a box of {category!r}, ({left:g}, {top:g}) to ({right:g}, {bottom:g}), does "
                              f"not lie in its picture of {size[0]} x {size[1]}")
