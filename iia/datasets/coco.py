"""COCO val2017: everything that is annotated in a picture is the object."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from ..errors import UserError
from .pictures import open_picture
from .segmentation import SampleError, SegmentationDataset, missing

FETCH = ("http://images.cocodataset.org/zips/val2017.zip (0.8 GB) and\n"
         "http://images.cocodataset.org/annotations/annotations_trainval2017.zip (0.25 GB), and unpack both there,")


class Coco(SegmentationDataset):
    """val2017's pictures with at least one annotation, by ascending id; crowds count.

    Raises:
        UserError: the data set is not there, or its annotation file cannot be read.
    """

    name, default_root = "coco", "data/COCO"

    def __init__(self, root: str | Path = default_root, mean: Sequence[float] | None = None,
                 std: Sequence[float] | None = None, size: int = 224) -> None:
        super().__init__(mean, std, size)
        annotations, self.pictures = find(Path(root))
        self.listed, self.segmentations = read_annotations(annotations)
        self.numbers = sorted(self.segmentations)
        self.ids = [str(number) for number in self.numbers]

    def read(self, index: int) -> tuple[Image.Image, np.ndarray]:
        number = self.numbers[index]
        if number not in self.listed:
            raise SampleError(f"picture {number} has annotations, but is not in the list of pictures")
        file_name, height, width = self.listed[number]
        picture = open_picture(self.pictures / file_name)
        return picture, union(number, self.segmentations[number], height, width)


def find(root: Path) -> tuple[Path, Path]:
    """The annotation file and the pictures' folder."""
    for folder in (root, root / "2017"):
        annotations, pictures = folder / "annotations" / "instances_val2017.json", folder / "val2017"
        if annotations.is_file() and pictures.is_dir():
            return annotations, pictures
    raise missing("COCO val2017", root, FETCH, f"""
{root}/
  annotations/instances_val2017.json
  val2017/000000000139.jpg ... (5,000 pictures)
""")


def read_annotations(path: Path) -> tuple[dict[int, tuple], dict[int, list]]:
    """What is listed, {id: (file name, height, width)}, and what is annotated, {id: [segmentation, ...]}."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        listed = {image["id"]: (image["file_name"], image["height"], image["width"]) for image in content["images"]}
        segmentations = defaultdict(list)
        for annotation in content["annotations"]:
            segmentations[annotation["image_id"]].append(annotation["segmentation"])
    except (OSError, ValueError, KeyError, TypeError) as why:
        raise UserError(f"{path} cannot be read as COCO's instances ({type(why).__name__}: {why}): it is cut short or "
                        "another file. Unpack it again from annotations_trainval2017.zip.") from why
    if not segmentations:
        raise UserError(f"{path} annotates no picture.")
    return listed, dict(segmentations)


def union(number: int, segmentations: list, height: int, width: int) -> np.ndarray:
    """Where any of the instances is, bool [height, width].

    Raises:
        SampleError: an instance cannot be decoded, or is of another size.
    """
    try:
        parts = [part for segmentation in segmentations for part in encoded(segmentation, height, width)]
        if any(list(part["size"]) != [height, width] for part in parts):
            raise ValueError("a mask of another size")
        return rle.decode(rle.merge(parts)).astype(bool)
    except Exception as why:           # pycocotools raises whatever the malformed list led it to, bare ones too
        raise SampleError(f"an annotation of picture {number} cannot be decoded ({type(why).__name__}: {why})") from why


def encoded(segmentation: list | dict, height: int, width: int) -> list[dict]:
    """A polygon's parts, an uncompressed or a compressed run-length code, as compressed codes."""
    if isinstance(segmentation, list):
        return rle.frPyObjects(segmentation, height, width)
    if isinstance(segmentation["counts"], list):
        return [rle.frPyObjects(segmentation, *segmentation["size"])]
    return [segmentation]
