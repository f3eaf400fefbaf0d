"""Pascal VOC 2012, the 1,449 pictures of its segmentation val set."""

from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError
from .pictures import open_picture
from .segmentation import SampleError, SegmentationDataset, check_size, missing

FETCH = ("http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar (1.9 GB)\n"
         "and unpack it there\n"
         "(or torchvision.datasets.VOCSegmentation(root, download=True))")
NAMES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
         "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")  # 1..20


class Voc(SegmentationDataset):
    """Every label above 0 is the object, the void border (255) too, as in the published protocol.

    Raises:
        UserError: the data set is not there, or its list names no picture.
    """

    name, default_root = "voc", "data/VOC"
    listed, answers = Path("ImageSets", "Segmentation", "val.txt"), "SegmentationClass/2007_000033.png"

    def open(self, root: Path) -> None:
        self.folder = find(root, self.listed, self.answers)
        path = self.folder / self.listed
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as why:
            raise UserError(f"{path} cannot be read ({why}).") from why
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
        """The numbers of a mask [H, W], or its colours [H, W, 3]; it must be of the (width, height) given."""
        name = self.ids[index]
        path = self.folder / "SegmentationClass" / f"{name}.png"
        try:
            with Image.open(path, formats=["PNG"]) as mask:      # one of a lossy format has other numbers
                check_size(name, mask.size, size or mask.size)   # before it is decoded
                several = len(mask.getbands()) > 1  # colours; of a palette picture its numbers count, [H, W]
                return np.array(mask.convert("RGB") if several else mask)
        except FileNotFoundError as why:
            raise SampleError(f"the mask {path} is missing") from why
        except SampleError:
            raise
        except Exception as why:           # each of Pillow's readers has errors of its own
            raise SampleError(f"the mask {path} cannot be decoded ({type(why).__name__})") from why


def find(root: Path, listed: Path, answers: str) -> Path:
    """The folder VOC2012, as the archive and as torchvision lay it, with its list of pictures `listed`."""
    for below in ("VOCdevkit/VOC2012", "VOC2012", "TrainVal/VOCdevkit/VOC2012", ""):
        folder = root / below
        if (folder / listed).is_file():
            return folder
    raise missing("VOC 2012", root, FETCH, f"""
{root}/
  VOCdevkit/VOC2012/
    {listed.as_posix()}
    JPEGImages/2007_000033.jpg ...
    {answers} ...
""")
