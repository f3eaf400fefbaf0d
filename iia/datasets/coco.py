"""COCO val2017: everything that is annotated in a picture is the object."""

import contextlib
import io
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError, needed
from .pictures import open_picture
from .segmentation import SampleError, SegmentationDataset, missing

FETCH = ("http://images.cocodataset.org/zips/val2017.zip (0.8 GB) and\n"
         "http://images.cocodataset.org/annotations/annotations_trainval2017.zip (0.25 GB),\n"
         "and unpack both there,")


class Coco(SegmentationDataset):
    """val2017's pictures with at least one annotation, by ascending id; crowds count.

    Raises:
        UserError: the data set is not there, or its annotation file cannot be read.
    """

    name, default_root = "coco", "data/COCO"

    def open(self, root: Path) -> None:
        annotations, self.pictures = find(root)
        COCO = needed("pycocotools.coco", "the data set", "segmentation").COCO
        self.sources = [annotations]
        try:
            with contextlib.redirect_stdout(io.StringIO()):        # it tells what it is doing
                self.coco = COCO(str(annotations))
            self.numbers = sorted(self.coco.imgToAnns)
        except (OSError, ValueError, KeyError, TypeError, AssertionError, RecursionError) as why:
            reason = f"{type(why).__name__}: {why}"
            raise UserError(f"{annotations} cannot be read as COCO's instances ({reason}): it is cut short "
                            "or another file. Unpack it again from annotations_trainval2017.zip.") from why
        if not self.numbers:
            raise UserError(f"{annotations} annotates no picture.")
        self.ids = [str(number) for number in self.numbers]

    def picture(self, index: int) -> Image.Image:
        number = self.numbers[index]
        if number not in self.coco.imgs:
            raise SampleError(f"picture {number} has annotations, but is not in the list of pictures")
        listed = self.coco.imgs[number]
        picture = open_picture(self.pictures / str(listed.get("file_name")))
        if (listed.get("width"), listed.get("height")) != picture.size:
            raise SampleError(f"picture {number} is listed as {listed.get('width')} x {listed.get('height')}"
                              f", but is {picture.width} x {picture.height}")
        return picture

    def picture_and_mask(self, index: int) -> tuple[Image.Image, np.ndarray]:
        number, picture = self.numbers[index], self.picture(index)
        try:
            shapes = [good_parts(own.get("segmentation"), picture.height, picture.width)
                      for own in self.coco.imgToAnns[number]]
            masks = [self.coco.annToMask({"image_id": number, "segmentation": shape})
                     for shape in shapes if shape]
            if not masks:
                raise ValueError("none has a shape")
        except Exception as why:  # pycocotools raises whatever the malformed list led it to, bare ones too
            raise SampleError(f"an annotation of picture {number} cannot be decoded "
                              f"({type(why).__name__}: {why})") from why
        return picture, np.any(masks, axis=0)

    def categories(self, index: int) -> set[str]:
        annotated, kinds = self.coco.imgToAnns[self.numbers[index]], self.coco.cats
        return {str(kinds[own["category_id"]].get("name")) for own in annotated
                if kinds and own.get("category_id") in kinds}


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


def good_parts(segmentation: list | dict | None, height: int, width: int) -> list | dict | None:
    """What of an annotation pycocotools may decode: a polygon's parts of three points and more, or a
    run-length code.

    Nothing else is checked there: it reads beyond a code that does not fill its mask, or never comes back,
    and needs memory for coordinates that are far outside the picture.

    Raises:
        ValueError, TypeError, KeyError: the annotation is malformed.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, list):
        parts = [np.asarray(part, dtype=np.float64) for part in segmentation]
        far = 2 * max(height, width)
        # nor NaN
        if any(part.ndim != 1 or len(part) % 2 or not (np.abs(part) <= far).all() for part in parts):
            raise ValueError("a polygon of other than points in the picture")
        return [part.tolist() for part in parts if len(part) >= 6]
    counts = segmentation["counts"]
    lengths = counts if isinstance(counts, list) else runs(counts)
    if list(segmentation["size"]) != [height, width]:
        raise ValueError("a mask of another size")
    if not all(type(length) is int for length in lengths):           # it would cut fractions off
        raise TypeError("a run-length code of other than whole numbers")
    if min(lengths) < 0 or sum(lengths) != height * width:
        raise ValueError("a run-length code that does not fill its mask")
    return {"size": [height, width], "counts": counts}


def runs(code: str | bytes) -> list[int]:
    """The lengths of the runs in a compressed code.

    A character holds five bits of a number, the lowest first; its sixth bit says that more follow. From the
    fourth number on it is the difference from the run before the last.
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
