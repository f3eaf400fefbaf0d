"""COCO val2017, where everything that is annotated in a picture is the object."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError, needed, rephrased
from .pictures import open_picture
from .segmentation import SampleError, SegmentationDataset

INSTANCES, PICTURES = "annotations/instances_val2017.json", "val2017"


class Coco(SegmentationDataset):
    """The pictures of val2017 with at least one annotation, by ascending id; crowds count too."""

    name, title, default_root = "coco", "COCO val2017", "data/COCO"
    layout = {INSTANCES: "", PICTURES: "/000000000139.jpg ... (5,000 pictures)"}
    fetch = ("http://images.cocodataset.org/zips/val2017.zip (0.8 GB) and\n"
             "http://images.cocodataset.org/annotations/annotations_trainval2017.zip (0.25 GB),\n"
             "and unpack both there,")

    def places(self, root: Path) -> Sequence[Path]:
        """`root`, or the folder of the year in it."""
        return [root, root / "2017"]

    def open(self, folder: Path) -> None:
        annotations, self.pictures = folder / INSTANCES, folder / PICTURES
        COCO = needed("pycocotools.coco", "the data set", "segmentation").COCO
        self.sources = [annotations]
        with (rephrased(f"{annotations} cannot be read as COCO's instances", ": it is cut short or another "
                        "file. Unpack it again from annotations_trainval2017.zip."),
              contextlib.redirect_stdout(io.StringIO())):          # it reports what it does
            self.coco = COCO(str(annotations))
            self.numbers = sorted(self.coco.imgToAnns)
        if not self.numbers:
            raise UserError(f"{annotations} annotates no picture.")
        self.ids = [str(number) for number in self.numbers]

    def picture(self, index: int) -> Image.Image:
        number = self.numbers[index]
        if number not in self.coco.imgs:
            raise SampleError(f"picture {number} has annotations, but is not in the list of pictures")
        file_name, width, height = map(self.coco.imgs[number].get, ("file_name", "width", "height"))
        picture = open_picture(self.pictures / str(file_name))
        if (width, height) != picture.size:
            raise SampleError(f"picture {number} is listed as {width} x {height}, but is "
                              f"{picture.width} x {picture.height}")
        return picture

    def picture_and_mask(self, index: int) -> tuple[Image.Image, np.ndarray]:
        number, picture = self.numbers[index], self.picture(index)
        with rephrased(f"an annotation of picture {number} cannot be decoded", kind=SampleError):
            shapes = [good_parts(annotation.get("segmentation"), picture.height, picture.width)
                      for annotation in self.coco.imgToAnns[number]]
            masks = [self.coco.annToMask({"image_id": number, "segmentation": shape})
                     for shape in shapes if shape]
            if not masks:
                raise ValueError("none has a shape")
        return picture, np.any(masks, axis=0)

    def categories(self, index: int) -> set[str]:
        known = self.coco.cats
        numbers = [annotation.get("category_id") for annotation in self.coco.imgToAnns[self.numbers[index]]]
        return {str(known[number].get("name")) for number in numbers if number in known}


def good_parts(segmentation: list | dict | None, height: int, width: int) -> list | dict | None:
    """What pycocotools may decode of an annotation: the parts of a polygon with at least three points, or a
    run-length code.

    pycocotools checks nothing itself. It reads beyond a code that does not fill its mask, or never comes
    back, and it needs memory for coordinates that are far outside the picture.

    Raises:
        ValueError, TypeError, KeyError: the annotation is malformed.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, list):
        parts = [np.asarray(part, dtype=np.float64) for part in segmentation]
        far = 2 * max(height, width)
        # NaN fails the comparison too
        if any(part.ndim != 1 or len(part) % 2 or not (np.abs(part) <= far).all() for part in parts):
            raise ValueError("a polygon of other than points in the picture")
        return [part.tolist() for part in parts if len(part) >= 6]
    counts = segmentation["counts"]
    lengths = counts if isinstance(counts, list) else runs(counts)
    if list(segmentation["size"]) != [height, width]:
        raise ValueError("a mask of another size")
    # pycocotools would cut fractions off
    whole = all(type(length) is int and length >= 0 for length in lengths)
    if not whole or sum(lengths) != height * width:
        raise ValueError("a run-length code that does not fill its mask, or not with whole numbers")
    return {"size": [height, width], "counts": counts}


def runs(code: str | bytes) -> list[int]:
    """The lengths of the runs in a compressed code.

    A character holds five bits of a number, the lowest first, and a sixth bit that says whether more follow.
    From the fourth number on, each is the difference from the run before the last.
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
