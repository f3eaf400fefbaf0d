"""ImageNet-Segmentation (Guillaumin et al., IJCV 2014): 4,276 pictures with the object's mask, in one HDF5
file."""

from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError, first_line, needed
from .segmentation import SampleError, SegmentationDataset, check_size, missing

PROJECT_DIR = Path(__file__).resolve().parents[2]
FILE = "gtsegs_ijcv.mat"
FETCH = ("http://calvin-vision.net/bigstuff/proj-imagenet/data/gtsegs_ijcv.mat (one file of some GB)\n"
         "and put it there")
BROKEN = (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, IndexError, MemoryError)


class ImageNetSegmentation(SegmentationDataset):
    """`gtsegs_ijcv.mat` in `root`, or in the project's root. An id is a picture's number in the file, from 0.

    Of a picture's annotations the first counts, as in the published protocol.

    Raises:
        UserError: no such file, or it is cut short, or not this data set.
    """

    name, default_root = "imagenet", "data"

    def open(self, root: Path) -> None:
        self.path = find(root)
        h5py = needed("h5py", "the data set", "segmentation")
        self.sources = [self.path]
        try:
            with h5py.File(self.path) as file:
                pictures, masks = file["/value/img"].shape[0], file["/value/gt"].shape[0]
        except (OSError, KeyError, AttributeError, IndexError) as why:
            raise UserError(f"{self.path} cannot be read as ImageNet-Segmentation ({first_line(why)}): it is "
                            f"cut short or another file. Fetch {FETCH}.") from why
        if pictures != masks or not pictures:
            raise UserError(f"{self.path} holds {pictures} pictures and {masks} masks: it is another file. "
                            f"Fetch {FETCH}.")
        self.ids = [str(i) for i in range(pictures)]

    def picture_and_mask(self, index: int) -> tuple[Image.Image, np.ndarray]:
        h5py = needed("h5py", "the data set", "segmentation")
        try:
            with h5py.File(self.path) as file:       # anew: HDF5 cannot share it with forked processes
                pixels = file[file["/value/img"][index, 0]]                      # (3, W, H)
                mask = file[file[file["/value/gt"][index, 0]][0, 0]]             # (W, H)
                check_size(self.ids[index], mask.shape, pixels.shape[1:])        # before they are read
                if len(pixels) != 3 or not np.isfinite(mask[()]).all():
                    raise ValueError("it has not three channels, or its mask has NaN")
                picture = Image.fromarray(np.ascontiguousarray(pixels[()].T)).convert("RGB")
                return picture, mask[()].T > 0
        except BROKEN as why:
            raise SampleError(f"picture {index} of {self.path} or its mask is broken "
                              f"({first_line(why)})") from why


def find(root: Path) -> Path:
    """The file in `root`; where nothing else was asked for, also where the published code has it: in the
    project's root."""
    if not root.is_file():
        usual = root == Path(ImageNetSegmentation.default_root)
        for folder in (root, Path(), PROJECT_DIR) if usual else (root,):
            if (folder / FILE).is_file():
                return folder / FILE
    raise missing("ImageNet-Segmentation", root, FETCH, f"{root}/\n  {FILE}")
