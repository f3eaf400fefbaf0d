"""The boxes around the objects of VOC 2012 and COCO val2017, for the pointing game (METHOD.md, section 8)."""

from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import VOCDetection

from ..errors import rephrased
from .coco import Coco
from .pictures import normalise, squash
from .segmentation import SampleError
from .voc import Voc
from .wordnet import imagenet_classes

Box = tuple[float, float, float, float]    # (left, top, right, bottom) in pixels from the upper left corner
ROUNDING = 1                               # pixels by which a box may reach beyond its picture


class Boxes:
    """Samples (picture [C, H, W] normalised, the file's (width, height) [2], id); `boxes(index)` are the
    objects of a picture, each as (category, box), in the pixels of the file.

    Raises:
        UserError: by a sample whose picture is missing or broken, or which has no box or an invalid one.
    """

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str]:
        picture: Image.Image = self.picture(index)
        check(self.boxes(index), picture.size)
        pixels = squash(picture.convert(self.mode), self.size)
        return normalise(pixels, self.mean, self.std), torch.tensor(picture.size), self.ids[index]


class VocBoxes(Boxes, Voc):
    """The 5,823 pictures of VOC's detection val set, those marked "difficult" too; read by torchvision."""

    picture_list = "ImageSets/Main/val.txt"
    layout = {picture_list: "", "JPEGImages": "/2007_000033.jpg ...", "Annotations": "/2007_000033.xml ..."}

    def boxes(self, index: int) -> list[tuple[str, Box]]:
        path = self.folder / "Annotations" / f"{self.ids[index]}.xml"
        with rephrased(f"{path} cannot be read as VOC's annotation", kind=SampleError):
            annotation = VOCDetection.parse_voc_xml(ElementTree.parse(path).getroot())["annotation"]
            return [(each["name"], voc_box(each["bndbox"])) for each in annotation["object"]]


def voc_box(edges: dict[str, str]) -> Box:
    """A box of VOC, which counts pixels from 1 and includes a box's last row and column."""
    return (float(edges["xmin"]) - 1, float(edges["ymin"]) - 1, float(edges["xmax"]), float(edges["ymax"]))


class CocoBoxes(Boxes, Coco):
    """val2017's pictures with at least one annotation, crowds too."""

    def boxes(self, index: int) -> list[tuple[str, Box]]:
        number, boxes = self.numbers[index], []
        with rephrased(f"an annotation of picture {number} has no box or no category that exists",
                       kind=SampleError):
            for annotation in self.coco.imgToAnns[number]:
                x, y, width, height = np.asarray(annotation["bbox"], dtype=np.float64).tolist()
                category = self.coco.cats[annotation["category_id"]]
                boxes.append((str(category["name"]), (x, y, x + width, y + height)))
        return boxes


def check(boxes: list[tuple[str, Box]], size: tuple[int, int]) -> None:
    """Raise UserError where there is no box, where one lies outside its picture of `size` (width, height), or
    where its category does not exist."""
    if not boxes:
        raise SampleError("the picture has no box")
    for category, (left, top, right, bottom) in boxes:
        imagenet_classes(category)
        if not (-ROUNDING <= left < right <= size[0] + ROUNDING
                and -ROUNDING <= top < bottom <= size[1] + ROUNDING):
            raise SampleError(f"a box of {category!r}, ({left:g}, {top:g}) to ({right:g}, {bottom:g}), does "
                              f"not lie in its picture of {size[0]} x {size[1]}")
