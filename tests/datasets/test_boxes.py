"""Boxes of VOC and COCO: their places in the picture, and what cannot be used."""

import pytest
import torch

from iia.datasets.boxes import CocoBoxes, VocBoxes
from iia.datasets.pictures import squash
from iia.errors import UserError
from tests.box_trees import coco_boxes, voc_boxes


def test_vocs_boxes_count_from_one_and_hold_their_last_pixels(tmp_path):
    data = VocBoxes(voc_boxes(tmp_path, [[("dog", 1, 1, 60, 40), ("person", 11, "5.7", 20, 8)]]), size=32)
    assert data.boxes(0) == [("dog", (0, 0, 60, 40)), ("person", (10, pytest.approx(4.7), 20, 8))]
    picture, size, name = data[0]
    assert picture.shape == (3, 32, 32) and size.tolist() == [60, 40] and name == "2008_000000"


def test_cocos_boxes_are_left_top_width_height(tmp_path):
    root = coco_boxes(tmp_path, [[(18, [10.5, 4, 20, 30]), (1, [0, 0, 60.4, 40])]])
    data = CocoBoxes(root, [0.5] * 3, [0.5] * 3)
    assert data.boxes(0) == [("dog", (10.5, 4, 30.5, 34)), ("person", (0, 0, 60.4, 40))]
    picture, size, name = data[0]
    assert picture.shape == (3, 224, 224) and picture.min() < 0 and size.tolist() == [60, 40] and name == "1"


@pytest.mark.parametrize("objects, said", [
    ([], "has no box"), ([("dgo", 1, 1, 5, 5)], "Did you mean 'dog'"),
    ([("dog", 1, 1, 62, 5)], r"does not lie in its picture of 60 x 40"),
    ([("dog", 9, 1, 5, 5)], "does not lie"),
    ([("dog", 1, 1, 5, "nan")], "does not lie"), ([("dog", 1, 1, 5, "wide")], "cannot be read as VOC's")])
def test_what_vocs_files_have_wrong_is_named(tmp_path, objects, said):
    data = VocBoxes(voc_boxes(tmp_path, [objects]))
    with pytest.raises(UserError, match=said):
        data[0]


@pytest.mark.parametrize("content", ["", "<annotation>", "<other/>",
                                     "<annotation><object><name>dog</name></object></annotation>"])
def test_a_broken_xml_is_named(tmp_path, content):
    data = VocBoxes(voc_boxes(tmp_path, [[("dog", 1, 1, 5, 5)]]))
    path = data.folder / "Annotations" / "2008_000000.xml"
    path.write_text(content)
    with pytest.raises(UserError, match="2008_000000.xml cannot be read"):
        data[0]
    path.unlink()
    with pytest.raises(UserError, match="2008_000000.xml cannot be read"):
        data[0]


@pytest.mark.parametrize("own, said", [
    ((99, [1, 1, 5, 5]), "no category that exists"), ((18, [1, 1, 5]), "no box"), ((18, None), "no box"),
    ((18, "1155"), "no box"), ((18, [10**400, 1, 5, 5]), "OverflowError"),
    ((18, [1, 1, 0, 5]), "does not lie"), ((18, [50, 1, 20, 5]), "does not lie in its picture of 60 x 40")])
def test_what_cocos_file_has_wrong_is_named(tmp_path, own, said):
    data = CocoBoxes(coco_boxes(tmp_path, [[(18, [0, 0, 9, 9]), own]]))
    with pytest.raises(UserError, match=said):
        data[0]


def test_a_category_whose_name_is_no_text(tmp_path):
    data = CocoBoxes(coco_boxes(tmp_path, [[(18, [0, 0, 9, 9])]]))
    data.coco.cats[18]["name"] = ["dog"]
    with pytest.raises(UserError, match="is unknown"):
        data[0]


def test_a_broken_picture_and_a_data_set_that_is_not_there(tmp_path):
    data = VocBoxes(voc_boxes(tmp_path, [[("dog", 1, 1, 5, 5)]]))
    (data.folder / "JPEGImages" / "2008_000000.jpg").write_text("nothing")
    with pytest.raises(UserError, match="cannot be decoded"):
        data[0]
    with pytest.raises(UserError, match="ImageSets/Main/val.txt(.|\n)*Annotations/2007_000033.xml"):
        VocBoxes(tmp_path / "nowhere")


def test_a_cut_picture_is_squashed_to_the_networks_size(tmp_path):
    data = VocBoxes(voc_boxes(tmp_path, [[("dog", 1, 1, 5, 5)]] * 2), [0.0] * 3, [1.0] * 3, (16, 24))
    assert data[1][0].shape == (3, 16, 24) and isinstance(data[1][1], torch.Tensor)


def test_pictures_are_normalised_as_the_network_reads_them(tmp_path):
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    for data in (VocBoxes(voc_boxes(tmp_path / "voc", [[("dog", 1, 1, 5, 5)]]), mean, std, (16, 24)),
                 CocoBoxes(coco_boxes(tmp_path / "coco", [[(18, [0, 0, 9, 9])]]), mean, std, (16, 24))):
        raw = squash(data.picture(0), (16, 24))
        means, deviations = (torch.tensor(values)[:, None, None] for values in (mean, std))
        torch.testing.assert_close(data[0][0], (raw - means) / deviations)
