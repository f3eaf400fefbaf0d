"""ImageNet-Segmentation (Guillaumin et al., IJCV 2014): 4,276 pictures with the object's mask, in one HDF5
file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import UserError, needed, rephrased
from .segmentation import SampleError, SegmentationDataset, check_size

PROJECT_DIR = Path(__file__).resolve().parents[2]
FILE = "gtsegs_ijcv.mat"


class ImageNetSegmentation(SegmentationDataset):
    """The pictures of `gtsegs_ijcv.mat`. An id is a picture's number in the file, from 0.

    Of the annotations of a picture the first counts, as in the published protocol.
    """

    name, title, default_root = "imagenet", "ImageNet-Segmentation", "data"
    layout = {FILE: ""}
    fetch = ("http://calvin-vision.net/bigstuff/proj-imagenet/data/gtsegs_ijcv.mat (one file of some GB)\n"
             "and put it there")

    def places(self, root: Path) -> Sequence[Path]:
        """`root` and, unless it was asked for, the project's root, where the published code has the file."""
        return [root, Path(), PROJECT_DIR] if root == Path(self.default_root) else [root]

    def open(self, folder: Path) -> None:
        h5py = needed("h5py", "the data set", "segmentation")
        self.path = folder / FILE
        self.sources = [self.path]
        with (rephrased(f"{self.path} cannot be read as ImageNet-Segmentation",
                        f": it is cut short or another file. Fetch {self.fetch}."),
              h5py.File(self.path) as file):
            pictures, masks = file["/value/img"].shape[0], file["/value/gt"].shape[0]
        if pictures != masks or not pictures:
            raise UserError(f"{self.path} holds {pictures} pictures and {masks} masks: it is another file. "
                            f"Fetch {self.fetch}.")
        self.ids = [str(i) for i in range(pictures)]

    def picture_and_mask(self, index: int) -> tuple[Image.Image, np.ndarray]:
        h5py = needed("h5py", "the data set", "segmentation")
        # the file is opened anew, since HDF5 cannot share it with forked processes
        with (rephrased(f"picture {index} of {self.path} or its mask is broken", kind=SampleError),
              h5py.File(self.path) as file):
            pixels = file[file["/value/img"][index, 0]]                      # (3, W, H)
            mask = file[file[file["/value/gt"][index, 0]][0, 0]]             # (W, H)
            check_size(self.ids[index], mask.shape, pixels.shape[1:])        # before they are read
            if len(pixels) != 3 or not np.isfinite(mask[()]).all():
                raise ValueError("it has not three channels, or its mask has NaN")
            picture = Image.fromarray(np.ascontiguousarray(pixels[()].T)).convert("RGB")
            return picture, mask[()].T > 0
