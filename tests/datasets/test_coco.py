"""COCO's pictures and masks, on a tree that is built here in the layout of the real one."""

import json
import math

import numpy as np
import pytest
import torch

from iia.datasets import coco
from iia.datasets.coco import Coco
from iia.datasets.segmentation import SampleError
from iia.errors import UserError
from tests.segmentation_trees import (annotation_file, coco_masks, coco_tree, compressed, nearest, runs,
                                      write_annotations)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")      # pycocotools under NumPy 2


def test_masks_are_the_union_of_all_instances_by_ascending_id(tmp_path):
    data = Coco(coco_tree(tmp_path))
    assert data.ids == ["10", "20", "30"]               # picture 5 bears no annotation
    for (_, mask, name) in data:
        assert torch.equal(mask, nearest(coco_masks()[name])), name


def test_in_the_folder_2017(tmp_path):
    coco_tree(tmp_path / "2017")
    assert Coco(tmp_path).ids == ["10", "20", "30"]


@pytest.mark.parametrize("content",
                         ['{"images": [', "[]", '{"images": [], "annotations": [{"id": 1}]}', "\x00"])
def test_annotations_that_do_not_parse(tmp_path, content):
    annotation_file(coco_tree(tmp_path)).write_text(content)
    with pytest.raises(UserError, match="instances_val2017.json cannot be read as COCO's instances"):
        Coco(tmp_path)


def test_without_annotations(tmp_path):
    annotation_file(coco_tree(tmp_path)).write_text('{"images": [], "annotations": []}')
    with pytest.raises(UserError, match="annotates no picture"):
        Coco(tmp_path)


SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]             # 400 pixels
BROKEN = [[[1, 2, 3]], [SQUARE, [1, 2, 3]], [SQUARE, None], "abc", {"size": [40, 60]},
          {"size": [9, 9], "counts": "abc"}, {"size": [40, 60], "counts": [2399.5, 0.5]},
          {"size": [2, 2], "counts": [4]},
          *([[*SQUARE[:-1], number]] for number in (math.nan, math.inf, 2e8))]
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
def test_annotation_that_cannot_be_decoded(tmp_path, segmentation):
    data = annotated(tmp_path, segmentation)
    with pytest.raises(SampleError, match="an annotation of picture 30 cannot be decoded"):
        data[2]
    data[1]


@pytest.mark.parametrize("nothing", EMPTY)
def test_the_good_parts_count(tmp_path, nothing):
    """An annotation without a shape beside a good one; a part of two points before and behind a good one."""
    wanted = np.zeros((40, 60), bool)
    wanted[10:30, 10:30] = True
    data = annotated(tmp_path, nothing, [SQUARE])
    assert np.array_equal(data.picture_and_mask(2)[1], wanted)
    for parts in ([SQUARE, [1, 2, 3, 4]], [[1, 2, 3, 4], SQUARE]):
        assert np.array_equal(annotated(tmp_path, parts).picture_and_mask(2)[1], wanted)


def test_a_triangle_has_a_shape(tmp_path):
    mask = annotated(tmp_path, [[10, 10, 30, 10, 10, 30]]).picture_and_mask(2)[1]
    assert mask[12, 12] and not mask[28, 28] and 150 < mask.sum() < 250


def test_polygon_that_leaves_the_picture_ends_at_its_border(tmp_path):
    mask = annotated(tmp_path, [[50, -5, 75, -5, 75, 10, 50, 10]]).picture_and_mask(2)[1]
    assert mask[:10, 50:].all() and mask.sum() == 100


@pytest.mark.parametrize("size", [(10**9, 60), (60000, 60000), (40, 61), (None, None)])
def test_size_that_is_not_the_pictures(tmp_path, size):
    content = json.loads(annotation_file(coco_tree(tmp_path)).read_text())
    content["images"][0] |= {"height": size[0], "width": size[1]}
    write_annotations(tmp_path, content)
    with pytest.raises(SampleError, match="picture 30 is listed as .*, but is 60 x 40"):
        Coco(tmp_path)[2]


def test_masks_are_pycocotools_own(tmp_path):
    """Against the union of annToMask on shapes of every kind, a crowd among them."""
    data = Coco(coco_tree(tmp_path))
    for index, number in enumerate(data.numbers):
        masks = [data.coco.annToMask(own) for own in data.coco.imgToAnns[number]]
        assert np.array_equal(data.picture_and_mask(index)[1], np.maximum.reduce(masks) > 0)


@pytest.mark.parametrize("number", ["1e999", '"ten"'])
def test_odd_ids_are_one_sentence_or_a_skip(tmp_path, number):
    path = annotation_file(coco_tree(tmp_path))
    path.write_text(path.read_text().replace('"image_id": 30', f'"image_id": {number}'))
    try:
        data = Coco(tmp_path)
    except UserError as why:
        assert "cannot be read as COCO's instances" in str(why)
    else:
        with pytest.raises(SampleError, match="not in the list"):
            data[2]


def test_picture_that_is_not_listed(tmp_path):
    content = json.loads(annotation_file(coco_tree(tmp_path)).read_text())
    content["images"] = content["images"][1:]
    annotation_file(tmp_path).write_text(json.dumps(content))
    with pytest.raises(SampleError, match="picture 30 .* not in the list"):
        Coco(tmp_path)[2]


def test_prints_nothing(tmp_path, capfd):
    Coco(coco_tree(tmp_path))[0]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("seed", range(5))
def test_runs_of_a_compressed_code(seed):
    mask = (np.random.default_rng(seed).random((37, 150)) < 0.02 * 10**seed % 1).astype(np.uint8)
    mask[:, 20:100] |= seed % 2                                      # short runs and very long ones
    assert coco.runs(compressed(mask)["counts"]) == runs(mask)["counts"]


@pytest.mark.parametrize("code", [[5, 5], [9999], [2399, -1, 2], [1], "", "05", "ZZZZZZ", "~~"])
@pytest.mark.parametrize("beside", [[], [[[0, 0, 8, 0, 8, 8, 0, 8]]]])
def test_code_that_does_not_fill_its_mask(tmp_path, code, beside):
    data = annotated(tmp_path, {"size": [40, 60], "counts": code}, *beside)
    with pytest.raises(SampleError, match="an annotation of picture 30 cannot be decoded"):
        data[2]
