"""The pictures and masks of ImageNet-Segmentation, on a file that is built here as the real one is."""

import h5py
import numpy as np
import pytest
import torch

from iia.datasets.imagenet_segmentation import ImageNetSegmentation
from iia.datasets.segmentation import SampleError
from iia.errors import UserError
from tests.segmentation_trees import box, gtsegs_tree, nearest, picture


def test_axes_and_first_annotation(tmp_path):
    data = ImageNetSegmentation(gtsegs_tree(tmp_path))
    assert data.ids == ["0", "1", "2"]
    for index in range(3):
        pixels, mask = data.picture_and_mask(index)
        assert np.array_equal(np.asarray(pixels), picture(index)) and np.array_equal(mask, box(index))
        assert torch.equal(data[index][1], nearest(box(index)))


def test_of_four_channels_and_masks_of_nan(tmp_path):
    with h5py.File(gtsegs_tree(tmp_path) / "gtsegs_ijcv.mat", "r+") as file:
        for name, shape in (("img0", (4, 60, 40)), ("first1", (48, 66))):
            del file[f"#refs#/{name}"]
            file[f"#refs#/{name}"] = np.ones(shape, np.uint8) if len(shape) == 3 else np.full(shape, np.nan)
    for index in (0, 1):
        with pytest.raises(SampleError, match="three channels, or its mask has NaN"):
            ImageNetSegmentation(tmp_path)[index]


def test_in_the_projects_root(tmp_path, monkeypatch):
    gtsegs_tree(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert len(ImageNetSegmentation("data")) == 3


def test_cut_short_or_foreign(tmp_path):
    path = gtsegs_tree(tmp_path) / "gtsegs_ijcv.mat"
    whole = path.read_bytes()
    for content in (whole[:len(whole) // 2], b"MATLAB 5.0 MAT-file", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match="cut short or another file. Fetch http"):
            ImageNetSegmentation(tmp_path)
    for names in (["other"], ["value/img"]):
        with h5py.File(path, "w") as file:
            for name in names:
                file.create_dataset(name, (3, 1), dtype=float)
        with pytest.raises(UserError, match="cut short or another file. Fetch http"):
            ImageNetSegmentation(tmp_path)
    with h5py.File(path, "w") as file:
        file["value/img"], file["value/gt"] = np.zeros((3, 1)), np.zeros((2, 1))
    with pytest.raises(UserError, match="3 pictures and 2 masks"):
        ImageNetSegmentation(tmp_path)


def test_sample_that_is_broken(tmp_path):
    with h5py.File(gtsegs_tree(tmp_path) / "gtsegs_ijcv.mat", "r+") as file:
        file["value/img"][0, 0] = h5py.Reference()
        file["#refs#/gt1"][0, 0] = file.create_dataset("#refs#/words", data="no mask").ref
        file["#refs#/gt2"][0, 0] = file.create_dataset("#refs#/other", data=np.ones((5, 6), np.uint8)).ref
    data = ImageNetSegmentation(tmp_path)
    for index, said in enumerate(["picture 0 of .* broken", "1 is of another size", "2 is of another size"]):
        with pytest.raises(SampleError, match=said):
            data[index]


def test_mask_that_is_huge_is_not_read(tmp_path):
    with h5py.File(gtsegs_tree(tmp_path) / "gtsegs_ijcv.mat", "r+") as file:
        # nothing is stored
        huge = file.create_dataset("#refs#/huge", (60000, 60000), np.float64, chunks=(100, 100))
        file["#refs#/gt0"][0, 0] = huge.ref
    with pytest.raises(SampleError, match="0 is of another size"):
        ImageNetSegmentation(tmp_path)[0]


def test_elsewhere_is_not_taken_for_the_folder_that_was_named(tmp_path, monkeypatch):
    gtsegs_tree(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="nowhere does not exist"):
        ImageNetSegmentation("nowhere")


def test_whatever_is_above_0_is_object(tmp_path):
    with h5py.File(gtsegs_tree(tmp_path) / "gtsegs_ijcv.mat", "r+") as file:
        file["#refs#/first0"][...] = 255 * file["#refs#/first0"][...]
    assert np.array_equal(ImageNetSegmentation(tmp_path).picture_and_mask(0)[1], box(0))
