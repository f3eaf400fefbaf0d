"""Pascal VOC 2012, the 1,449 pictures of its segmentation val set."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError, rephrased
from .pictures import open_picture
from .segmentation import SampleError, SegmentationDataset, check_size

NAMES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
         "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")  # 1..20


class Voc(SegmentationDataset):
    """Every label above 0 is the object, the void border (255) too, as in the published protocol.

    Raises:
        UserError: as every data set; or its list names no picture.
    """

    name, title, default_root = "voc", "VOC 2012", "data/VOC"
    picture_list = "ImageSets/Segmentation/val.txt"
    layout = {picture_list: "", "JPEGImages": "/2007_000033.jpg ...",
              "SegmentationClass": "/2007_000033.png ..."}
    fetch = ("http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar (1.9 GB)\n"
             "and unpack it there\n"
             "(or torchvision.datasets.VOCSegmentation(root, download=True))")

    def places(self, root: Path) -> Sequence[Path]:
        """As the archive of VOC and torchvision lay it out, and three other ways that are seen."""
        return [root / path for path in ("VOCdevkit/VOC2012", "VOC2012", "TrainVal/VOCdevkit/VOC2012", "")]

    def open(self, folder: Path) -> None:
        self.folder, path = folder, folder / self.picture_list
        with rephrased(f"{path} cannot be read", "."):
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        self.ids = list(dict.fromkeys(line.split()[0] for line in lines if line.strip()))
        if not self.ids:
            raise UserError(f"{path} names no picture.")
        self.sources = [path]

    def picture(self, index: int) -> Image.Image:
        return open_picture(self.folder / "JPEGImages" / f"{self.ids[index]}.jpg")

    def picture_and_mask(self, index: int) -> tuple[Image.Image, np.ndarray]:
        picture = self.picture(index)
        labels = self.labels(index, picture.size)
        return picture, (labels > 0 if labels.ndim == 2 else (labels > 0).any(-1))

    def categories(self, index: int) -> set[str]:
        labels = self.labels(index)
        numbers = np.unique(labels) if labels.ndim == 2 else ()
        return {NAMES[number - 1] for number in numbers if 0 < number <= len(NAMES)}

    def labels(self, index: int, size: tuple[int, int] | None = None) -> np.ndarray:
        """The numbers in a mask [H, W], or its colours [H, W, 3].

        size: the (width, height) that it must have.
        """
        name = self.ids[index]
        path = self.folder / "SegmentationClass" / f"{name}.png"
        with rephrased(f"the mask {path} cannot be decoded", kind=SampleError):
            if not path.exists():
                raise SampleError(f"the mask {path} is missing")
            with Image.open(path, formats=["PNG"]) as mask:      # a lossy format would change the numbers
                check_size(name, mask.size, size or mask.size)   # before it is decoded
                coloured = len(mask.getbands()) > 1              # a palette picture has one band, of numbers
                return np.array(mask.convert("RGB") if coloured else mask)
