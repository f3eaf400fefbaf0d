"""COCO val2017: everything that is annotated in a picture is the object."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from ..errors import UserError
from .pictures import Size, open_picture
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
                 std: Sequence[float] | None = None, size: Size = 224) -> None:
        super().__init__(mean, std, size)
        annotations, self.pictures = find(Path(root))
        self.sources = [annotations]
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
        listed = {int(image["id"]): (str(image["file_name"]), image["height"], image["width"]) for image in content["images"]}
        segmentations = defaultdict(list)
        for annotation in content["annotations"]:
            segmentations[int(annotation["image_id"])].append(annotation["segmentation"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as why:
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
        return rle.decode(rle.merge(parts)).astype(bool)
    except Exception as why:           # pycocotools raises whatever the malformed list led it to, bare ones too
        raise SampleError(f"an annotation of picture {number} cannot be decoded ({type(why).__name__}: {why})") from why


def encoded(segmentation: list | dict, height: int, width: int) -> list[dict]:
    """A polygon's parts, an uncompressed or a compressed run-length code, as compressed codes.

    pycocotools reads beyond a code that does not fill its mask, or never comes back: the runs are counted first.
    """
    if isinstance(segmentation, list):
        return rle.frPyObjects(segmentation, height, width)
    if list(segmentation["size"]) != [height, width]:
        raise ValueError("a mask of another size")
    counts = segmentation["counts"]
    lengths = counts if isinstance(counts, list) else runs(counts)
    if min(lengths) < 0 or sum(lengths) != height * width:
        raise ValueError("a run-length code that does not fill its mask")
    return [rle.frPyObjects(segmentation, height, width) if isinstance(counts, list) else segmentation]


def runs(code: str | bytes) -> list[int]:
    """The lengths of the runs in a compressed code.

    A character holds five bits of a number, the lowest first; its sixth bit says that more follow. From the fourth
    number on it is the difference from the run before the last.
    """
    lengths, number, shift = [], 0, 0
    for character in code.encode() if isinstance(code, str) else code:
        bits = character - ord("0")
        if not 0 <= bits < 64:
            raise ValueError("a run-length code with a foreign character")
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            number -= (1 << shift) * bool(bits & 16)
            lengths.append(number + (lengths[-2] if len(lengths) > 2 else 0))
            number, shift = 0, 0
    if shift:
        raise ValueError("a run-length code that is cut short")
    return lengths
