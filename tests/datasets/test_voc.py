"""VOC's pictures and masks, on a tree that is built here in the layout of the real one."""

import shutil
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from iia.datasets.pictures import PictureError
from iia.datasets.segmentation import SampleError
from iia.datasets.voc import Voc
from iia.errors import UserError
from tests.segmentation_trees import nearest, voc_labels, voc_tree


@pytest.mark.parametrize("below", ["VOCdevkit/VOC2012", "VOC2012", ".", "TrainVal/VOCdevkit/VOC2012"])
def test_everything_above_0_is_object_the_void_border_too(tmp_path, below):
    data = Voc(voc_tree(tmp_path, below=below))
    assert data.ids == ["2008_000000", "2008_000001", "2008_000002"]
    for index, (_, mask, _) in enumerate(data):
        assert torch.equal(mask, nearest((voc_labels(index) > 0).astype(np.uint8)))


def test_the_border_is_no_category_and_the_last_label_is_one(tmp_path):
    labels = voc_labels(0)
    labels[:5], labels[5:9] = 20, 255
    voc_tree(tmp_path)
    Image.fromarray(labels).save(tmp_path / "VOCdevkit/VOC2012/SegmentationClass/2008_000000.png")
    assert Voc(tmp_path).categories(0) == {"person", "tvmonitor"}


@pytest.mark.parametrize("end", ["\r\n", "\n\n", "  \n"])
def test_list_with_other_line_ends(tmp_path, end):
    data = Voc(voc_tree(tmp_path, end=end))
    assert data.ids == ["2008_000000", "2008_000001", "2008_000002"]
    data[2]


def test_mask_in_colours(tmp_path):
    voc_tree(tmp_path)
    path = tmp_path / "VOCdevkit/VOC2012/SegmentationClass/2008_000000.png"
    colours = np.zeros((40, 60, 3), np.uint8)
    colours[10:20, 5:9, 2] = 128
    Image.fromarray(colours).save(path)
    assert torch.equal(Voc(tmp_path)[0][1], nearest((colours[..., 2] > 0).astype(np.uint8)))


def test_pictures_that_are_listed_twice_count_once(tmp_path):
    listed = voc_tree(tmp_path) / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    listed.write_text("2008_000002\n2008_000000\n2008_000002\n")
    assert Voc(tmp_path).ids == ["2008_000002", "2008_000000"]


def test_mask_in_a_lossy_format(tmp_path):
    path = voc_tree(tmp_path) / "VOCdevkit/VOC2012/SegmentationClass/2008_000000.png"
    Image.fromarray(voc_labels(0)).save(path, format="JPEG")
    with pytest.raises(SampleError, match="2008_000000.png cannot be decoded"):
        Voc(tmp_path)[0]


def test_list_that_names_nothing(tmp_path):
    listed = voc_tree(tmp_path) / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    listed.write_text("\r\n")
    with pytest.raises(UserError, match="names no picture"):
        Voc(tmp_path)


def test_pictures_and_masks_that_are_missing_or_broken(tmp_path):
    folder = voc_tree(tmp_path) / "VOCdevkit" / "VOC2012"
    (folder / "JPEGImages" / "2008_000000.jpg").unlink()
    (folder / "SegmentationClass" / "2008_000001.png").unlink()
    (folder / "SegmentationClass" / "2008_000002.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    data = Voc(tmp_path)
    for index, said in enumerate(["000000.jpg is missing", "000001.png is missing",
                                  "000002.png cannot be decoded"]):
        with pytest.raises((PictureError, SampleError), match=said):
            data[index]


@pytest.mark.parametrize("side, said",
                         [(20000, "cannot be decoded .DecompressionBombError"), (9000, "another size")])
def test_mask_that_is_huge_is_not_decoded(tmp_path, side, said, monkeypatch):
    folder = voc_tree(tmp_path) / "VOCdevkit" / "VOC2012"
    path = folder / "SegmentationClass" / "2008_000000.png"
    Image.new("1", (60, 40)).save(path)
    whole = bytearray(path.read_bytes())                    # the header alone says the size
    whole[16:24] = side.to_bytes(4, "big") * 2
    whole[29:33] = zlib.crc32(whole[12:29]).to_bytes(4, "big")
    path.write_bytes(whole)
    with pytest.raises(SampleError, match=said):
        Voc(tmp_path)[0]


def test_mask_of_another_size(tmp_path):
    folder = voc_tree(tmp_path) / "VOCdevkit" / "VOC2012"
    masks = folder / "SegmentationClass"
    shutil.copy(masks / "2008_000001.png", masks / "2008_000000.png")
    said = r"2008_000000 is of another size \(48 x 66\) than its picture \(60 x 40\)"
    with pytest.raises(SampleError, match=said):
        Voc(tmp_path)[0]


def test_mask_with_transparency(tmp_path):
    data = Voc(voc_tree(tmp_path))
    wanted = data[0][1]
    path = data.folder / "SegmentationClass" / f"{data.ids[0]}.png"
    Image.fromarray(np.array(Image.open(path))).convert("LA").save(path)
    assert torch.equal(data[0][1], wanted)


def test_list_with_a_byte_order_mark(tmp_path):
    listed = voc_tree(tmp_path) / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    listed.write_text("\ufeff2008_000000\n", encoding="utf-8")
    assert Voc(tmp_path).ids == ["2008_000000"]
