"""The three segmentation data sets, on trees that are built here in the layout of the real ones."""

import json
import math
import pickle
import shutil
import sys
import zlib

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from iia.datasets import coco
from iia.datasets.coco import Coco
from iia.datasets.imagenet_segmentation import ImageNetSegmentation
from iia.datasets.pictures import PictureError
from iia.datasets.segmentation import SampleError
from iia.datasets.voc import Voc
from iia.errors import UserError
from tests.segmentation_trees import (annotation_file, box, coco_masks, coco_tree, compressed, gtsegs_tree, picture,
                                      voc_labels, voc_tree, write_annotations)
from tests.segmentation_trees import runs as coco_runs

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")      # pycocotools under NumPy 2

TREES = {Coco: coco_tree, Voc: voc_tree, ImageNetSegmentation: gtsegs_tree}
every = pytest.mark.parametrize("kind", TREES, ids=lambda kind: kind.name)


def nearest(mask, size=224):
    """A mask at size x size: each pixel takes the value under its centre."""
    rows, columns = (((np.arange(size) + 0.5) * side / size).astype(int) for side in mask.shape)
    return torch.from_numpy(mask[rows][:, columns]).long()


# -------------------------------------------------------------------------- all alike

@every
def test_a_sample_is_a_normalised_picture_a_mask_and_an_id(kind, tmp_path):
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    raw, normalised = kind(TREES[kind](tmp_path)), kind(tmp_path, mean, std)
    assert len(raw) == len(raw.ids) == 3
    for (x, mask, name), (z, same, _) in zip(raw, normalised):
        assert x.shape == (3, 224, 224) and x.dtype == torch.float32 and 0 <= x.min() and x.max() <= 1
        assert mask.shape == (224, 224) and mask.dtype == torch.long and set(mask.unique().tolist()) == {0, 1}
        assert isinstance(name, str) and torch.equal(mask, same)
        torch.testing.assert_close(z, (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])
        torch.testing.assert_close(normalised.pixels(z), x)


@every
def test_reading_processes_see_the_same(kind, tmp_path):
    data = kind(TREES[kind](tmp_path))
    alone = [data[i] for i in range(3)]                 # the file is open when the processes are forked
    forked = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context="fork")
    sent = pickle.loads(pickle.dumps(data))             # as to a process that is not forked
    for samples in (forked, sent):
        for (x, mask, name), (y, same, other) in zip(alone, samples, strict=True):
            assert torch.equal(x, y) and torch.equal(mask, same) and name == other


@every
def test_another_size(kind, tmp_path):
    x, mask, _ = kind(TREES[kind](tmp_path), size=32)[0]
    assert x.shape == (3, 32, 32) and mask.shape == (32, 32)


@every
def test_missing_data_are_described(kind, tmp_path):
    with pytest.raises(UserError) as error:
        kind(tmp_path / "nowhere")
    assert "Fetch http" in str(error.value) and "GB" in str(error.value)
    assert f"    {tmp_path / 'nowhere'}/\n      " in str(error.value)                   # the tree
    assert f"Found instead: {tmp_path / 'nowhere'} does not exist." in str(error.value)
    with pytest.raises(UserError, match="is empty"):
        kind(tmp_path)
    (tmp_path / "something.zip").write_text("")
    with pytest.raises(UserError, match="holds something.zip"):
        kind(tmp_path)
    with pytest.raises(UserError, match="is a file; dataset_root is a folder"):
        kind(tmp_path / "something.zip")


# -------------------------------------------------------------------------------- COCO

def test_coco_masks_are_the_union_of_all_instances_by_ascending_id(tmp_path):
    data = Coco(coco_tree(tmp_path))
    assert data.ids == ["10", "20", "30"]               # picture 5 bears no annotation
    for (_, mask, name) in data:
        assert torch.equal(mask, nearest(coco_masks()[name])), name


def test_coco_in_the_folder_2017(tmp_path):
    coco_tree(tmp_path / "2017")
    assert Coco(tmp_path).ids == ["10", "20", "30"]


@pytest.mark.parametrize("content", ['{"images": [', "[]", '{"images": [], "annotations": [{"id": 1}]}', "\x00"])
def test_coco_annotations_that_do_not_parse(tmp_path, content):
    annotation_file(coco_tree(tmp_path)).write_text(content)
    with pytest.raises(UserError, match="instances_val2017.json cannot be read as COCO's instances"):
        Coco(tmp_path)


def test_coco_without_annotations(tmp_path):
    annotation_file(coco_tree(tmp_path)).write_text('{"images": [], "annotations": []}')
    with pytest.raises(UserError, match="annotates no picture"):
        Coco(tmp_path)


SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]             # 400 pixels
BROKEN = [[[1, 2, 3]], [SQUARE, [1, 2, 3]], {"size": [40, 60]}, {"size": [9, 9], "counts": "abc"}, "abc", [SQUARE, None],
          {"size": [40, 60], "counts": [2399.5, 0.5]}, {"size": [2, 2], "counts": [4]}, [[*SQUARE[:-1], math.nan]], [[*SQUARE[:-1], math.inf]], [[*SQUARE[:-1], 2e8]]]
EMPTY = [[], [[]], None, "no key", [[1, 2, 3, 4]]]


def annotated(root, *segmentations):
    """A tree whose picture 30, 60 x 40, has these annotations."""
    content = json.loads(annotation_file(coco_tree(root)).read_text())
    own = [{"id": 900 + i, "image_id": 30, "segmentation": what} for i, what in enumerate(segmentations)]
    for annotation in own:
        if annotation["segmentation"] == "no key":
            del annotation["segmentation"]
    content["annotations"] = own + content["annotations"][1:]
    write_annotations(root, content)
    return Coco(root)


@pytest.mark.parametrize("segmentation", BROKEN + EMPTY)
def test_coco_annotation_that_cannot_be_decoded(tmp_path, segmentation):
    data = annotated(tmp_path, segmentation)
    with pytest.raises(SampleError, match="an annotation of picture 30 cannot be decoded"):
        data[2]
    data[1]


@pytest.mark.parametrize("nothing", EMPTY)
def test_coco_the_good_parts_count(tmp_path, nothing):
    """An annotation without a shape beside a good one; a part of two points before and behind a good one."""
    wanted = np.zeros((40, 60), bool)
    wanted[10:30, 10:30] = True
    data = annotated(tmp_path, nothing, [SQUARE])
    assert np.array_equal(data.picture_and_mask(2)[1], wanted)
    for parts in ([SQUARE, [1, 2, 3, 4]], [[1, 2, 3, 4], SQUARE]):
        assert np.array_equal(annotated(tmp_path, parts).picture_and_mask(2)[1], wanted)


def test_coco_polygon_that_leaves_the_picture_ends_at_its_border(tmp_path):
    mask = annotated(tmp_path, [[50, -5, 75, -5, 75, 10, 50, 10]]).picture_and_mask(2)[1]
    assert mask[:10, 50:].all() and mask.sum() == 100


@pytest.mark.parametrize("size", [(10**9, 60), (60000, 60000), (40, 61), (None, None)])
def test_coco_size_that_is_not_the_pictures(tmp_path, size):
    content = json.loads(annotation_file(coco_tree(tmp_path)).read_text())
    content["images"][0] |= {"height": size[0], "width": size[1]}
    write_annotations(tmp_path, content)
    with pytest.raises(SampleError, match="picture 30 is listed as .*, but is 60 x 40"):
        Coco(tmp_path)[2]


def test_coco_masks_are_pycocotools_own(tmp_path):
    """Against the union of annToMask on shapes of every kind, a crowd among them."""
    data = Coco(coco_tree(tmp_path))
    for index, number in enumerate(data.numbers):
        masks = [data.coco.annToMask(own) for own in data.coco.imgToAnns[number]]
        assert np.array_equal(data.picture_and_mask(index)[1], np.maximum.reduce(masks) > 0)


@pytest.mark.parametrize("number", ["1e999", '"ten"'])
def test_coco_odd_ids_are_one_sentence_or_a_skip(tmp_path, number):
    path = annotation_file(coco_tree(tmp_path))
    path.write_text(path.read_text().replace('"image_id": 30', f'"image_id": {number}'))
    try:
        data = Coco(tmp_path)
    except UserError as why:
        assert "cannot be read as COCO's instances" in str(why)
    else:
        with pytest.raises(SampleError, match="not in the list"):
            data[2]


def test_coco_picture_that_is_not_listed(tmp_path):
    content = json.loads(annotation_file(coco_tree(tmp_path)).read_text())
    content["images"] = content["images"][1:]
    annotation_file(tmp_path).write_text(json.dumps(content))
    with pytest.raises(SampleError, match="picture 30 .* not in the list"):
        Coco(tmp_path)[2]


def test_coco_prints_nothing(tmp_path, capfd):
    Coco(coco_tree(tmp_path))[0]
    assert capfd.readouterr() == ("", "")


# --------------------------------------------------------------------------------- VOC

@pytest.mark.parametrize("below", ["VOCdevkit/VOC2012", "VOC2012", ".", "TrainVal/VOCdevkit/VOC2012"])
def test_voc_everything_above_0_is_object_the_void_border_too(tmp_path, below):
    data = Voc(voc_tree(tmp_path, below=below))
    assert data.ids == ["2008_000000", "2008_000001", "2008_000002"]
    for index, (_, mask, _) in enumerate(data):
        assert torch.equal(mask, nearest((voc_labels(index) > 0).astype(np.uint8)))


@pytest.mark.parametrize("end", ["\r\n", "\n\n", "  \n"])
def test_voc_list_with_other_line_ends(tmp_path, end):
    data = Voc(voc_tree(tmp_path, end=end))
    assert data.ids == ["2008_000000", "2008_000001", "2008_000002"]
    data[2]


def test_voc_mask_in_colours(tmp_path):
    voc_tree(tmp_path)
    path = tmp_path / "VOCdevkit/VOC2012/SegmentationClass/2008_000000.png"
    colours = np.zeros((40, 60, 3), np.uint8)
    colours[10:20, 5:9, 2] = 128
    Image.fromarray(colours).save(path)
    assert torch.equal(Voc(tmp_path)[0][1], nearest((colours[..., 2] > 0).astype(np.uint8)))


def test_voc_pictures_that_are_listed_twice_count_once(tmp_path):
    listed = voc_tree(tmp_path) / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    listed.write_text("2008_000002\n2008_000000\n2008_000002\n")
    assert Voc(tmp_path).ids == ["2008_000002", "2008_000000"]


def test_voc_mask_in_a_lossy_format(tmp_path):
    path = voc_tree(tmp_path) / "VOCdevkit/VOC2012/SegmentationClass/2008_000000.png"
    Image.fromarray(voc_labels(0)).save(path, format="JPEG")
    with pytest.raises(SampleError, match="2008_000000.png cannot be decoded"):
        Voc(tmp_path)[0]


def test_voc_list_that_names_nothing(tmp_path):
    listed = voc_tree(tmp_path) / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    listed.write_text("\r\n")
    with pytest.raises(UserError, match="names no picture"):
        Voc(tmp_path)


def test_voc_pictures_and_masks_that_are_missing_or_broken(tmp_path):
    folder = voc_tree(tmp_path) / "VOCdevkit" / "VOC2012"
    (folder / "JPEGImages" / "2008_000000.jpg").unlink()
    (folder / "SegmentationClass" / "2008_000001.png").unlink()
    (folder / "SegmentationClass" / "2008_000002.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    data = Voc(tmp_path)
    for index, said in enumerate(["000000.jpg is missing", "000001.png is missing", "000002.png cannot be decoded"]):
        with pytest.raises((PictureError, SampleError), match=said):
            data[index]


@pytest.mark.parametrize("side, said", [(20000, "cannot be decoded .DecompressionBombError"), (9000, "another size")])
def test_voc_mask_that_is_huge_is_not_decoded(tmp_path, side, said, monkeypatch):
    folder = voc_tree(tmp_path) / "VOCdevkit" / "VOC2012"
    path = folder / "SegmentationClass" / "2008_000000.png"
    Image.new("1", (60, 40)).save(path)
    whole = bytearray(path.read_bytes())                    # the header alone says the size
    whole[16:24] = side.to_bytes(4, "big") * 2
    whole[29:33] = zlib.crc32(whole[12:29]).to_bytes(4, "big")
    path.write_bytes(whole)
    with pytest.raises(SampleError, match=said):
        Voc(tmp_path)[0]


def test_voc_mask_of_another_size(tmp_path):
    folder = voc_tree(tmp_path) / "VOCdevkit" / "VOC2012"
    shutil.copy(folder / "SegmentationClass" / "2008_000001.png", folder / "SegmentationClass" / "2008_000000.png")
    with pytest.raises(SampleError, match=r"2008_000000 is of another size \(48 x 66\) than its picture \(60 x 40\)"):
        Voc(tmp_path)[0]


# ---------------------------------------------------------------------------- ImageNet

def test_gtsegs_axes_and_first_annotation(tmp_path):
    data = ImageNetSegmentation(gtsegs_tree(tmp_path))
    assert data.ids == ["0", "1", "2"]
    for index in range(3):
        pixels, mask = data.picture_and_mask(index)
        assert np.array_equal(np.asarray(pixels), picture(index)) and np.array_equal(mask, box(index))
        assert torch.equal(data[index][1], nearest(box(index)))


def test_gtsegs_of_four_channels_and_masks_of_nan(tmp_path):
    with h5py.File(gtsegs_tree(tmp_path) / "gtsegs_ijcv.mat", "r+") as file:
        for name, shape in (("img0", (4, 60, 40)), ("first1", (48, 66))):
            del file[f"#refs#/{name}"]
            file[f"#refs#/{name}"] = np.ones(shape, np.uint8) if len(shape) == 3 else np.full(shape, np.nan)
    for index in (0, 1):
        with pytest.raises(SampleError, match="three channels, or its mask has NaN"):
            ImageNetSegmentation(tmp_path)[index]


@pytest.mark.parametrize("kind, package, tree", [(Coco, "pycocotools", coco_tree),
                                                 (ImageNetSegmentation, "h5py", gtsegs_tree)])
def test_a_library_that_is_not_installed_is_named(kind, package, tree, tmp_path, monkeypatch):
    tree(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"{package}.coco", raising=False)
    with pytest.raises(UserError, match=f"pip install {package} "):
        kind(tmp_path)


def test_gtsegs_in_the_projects_root(tmp_path, monkeypatch):
    gtsegs_tree(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert len(ImageNetSegmentation("data")) == 3


def test_gtsegs_cut_short_or_foreign(tmp_path):
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


def test_gtsegs_sample_that_is_broken(tmp_path):
    with h5py.File(gtsegs_tree(tmp_path) / "gtsegs_ijcv.mat", "r+") as file:
        file["value/img"][0, 0] = h5py.Reference()
        file["#refs#/gt1"][0, 0] = file.create_dataset("#refs#/words", data="no mask").ref
        file["#refs#/gt2"][0, 0] = file.create_dataset("#refs#/other", data=np.ones((5, 6), np.uint8)).ref
    data = ImageNetSegmentation(tmp_path)
    for index, said in enumerate(["picture 0 of .* broken", "1 is of another size", "2 is of another size"]):
        with pytest.raises(SampleError, match=said):
            data[index]


def test_gtsegs_mask_that_is_huge_is_not_read(tmp_path):
    with h5py.File(gtsegs_tree(tmp_path) / "gtsegs_ijcv.mat", "r+") as file:
        huge = file.create_dataset("#refs#/huge", (60000, 60000), np.float64, chunks=(100, 100))     # nothing is stored
        file["#refs#/gt0"][0, 0] = huge.ref
    with pytest.raises(SampleError, match="0 is of another size"):
        ImageNetSegmentation(tmp_path)[0]


@pytest.mark.parametrize("seed", range(5))
def test_coco_runs_of_a_compressed_code(seed):
    mask = (np.random.default_rng(seed).random((37, 150)) < 0.02 * 10**seed % 1).astype(np.uint8)
    mask[:, 20:100] |= seed % 2                                      # short runs and very long ones
    assert coco.runs(compressed(mask)["counts"]) == coco_runs(mask)["counts"]


@pytest.mark.parametrize("code", [[5, 5], [9999], [2399, -1, 2], [1], "", "05", "ZZZZZZ", "~~"])
@pytest.mark.parametrize("beside", [[], [[[0, 0, 8, 0, 8, 8, 0, 8]]]])
def test_coco_code_that_does_not_fill_its_mask(tmp_path, code, beside):
    data = annotated(tmp_path, {"size": [40, 60], "counts": code}, *beside)
    with pytest.raises(SampleError, match="an annotation of picture 30 cannot be decoded"):
        data[2]


def test_gtsegs_elsewhere_is_not_taken_for_the_folder_that_was_named(tmp_path, monkeypatch):
    gtsegs_tree(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="nowhere does not exist"):
        ImageNetSegmentation("nowhere")


def test_voc_mask_with_transparency(tmp_path):
    data = Voc(voc_tree(tmp_path))
    wanted = data[0][1]
    path = data.folder / "SegmentationClass" / f"{data.ids[0]}.png"
    Image.fromarray(np.array(Image.open(path))).convert("LA").save(path)
    assert torch.equal(data[0][1], wanted)


def test_what_a_picture_is_of(tmp_path):
    """By COCO's categories and VOC's labels as ImageNet classes; gtsegs does not say, nor does a list without names."""
    coco_tree(tmp_path / "coco")
    assert Coco(tmp_path / "coco").classes_of(0) is None
    path = annotation_file(tmp_path / "coco")
    content = json.loads(path.read_text())
    for number, annotation in enumerate(content["annotations"]):
        annotation["category_id"] = 1 + number
    content["categories"] = [{"id": 1, "name": "person"}, {"id": 2, "name": "cat"}, {"id": 3, "name": "airplane"},
                             {"id": 4, "name": "my own"}]
    path.write_text(json.dumps(content))
    data = Coco(tmp_path / "coco")
    assert data.ids == ["10", "20", "30"] and [data.categories(i) for i in range(3)] == [
        {"my own"}, {"cat", "airplane"}, {"person"}]
    assert data.classes_of(1) >= {281, 282, 283, 284, 285, 404} and data.classes_of(0) is data.classes_of(2) is None
    voc_tree(tmp_path / "voc")
    assert Voc(tmp_path / "voc").categories(0) == {"person"} and Voc(tmp_path / "voc").classes_of(0) is None
    gtsegs_tree(tmp_path / "gtsegs")
    assert ImageNetSegmentation(tmp_path / "gtsegs").classes_of(0) is None
