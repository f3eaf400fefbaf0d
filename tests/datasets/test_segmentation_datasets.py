"""The three segmentation data sets, on trees that are built here in the layout of the real ones."""

import json
import pickle
import sys

import pytest
import torch
from torch.utils.data import DataLoader

from iia.datasets.coco import Coco
from iia.datasets.imagenet_segmentation import ImageNetSegmentation
from iia.datasets.voc import Voc
from iia.errors import UserError
from tests.segmentation_trees import annotation_file, coco_tree, gtsegs_tree, voc_tree

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")      # pycocotools under NumPy 2

TREES = {Coco: coco_tree, Voc: voc_tree, ImageNetSegmentation: gtsegs_tree}
every = pytest.mark.parametrize("kind", TREES, ids=lambda kind: kind.name)


@every
def test_a_sample_is_a_normalised_picture_a_mask_and_an_id(kind, tmp_path):
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    means, deviations = (torch.tensor(values)[:, None, None] for values in (mean, std))
    raw, normalised = kind(TREES[kind](tmp_path)), kind(tmp_path, mean, std)
    assert len(raw) == len(raw.ids) == 3
    for (x, mask, name), (z, same, _) in zip(raw, normalised):
        assert x.shape == (3, 224, 224) and x.dtype == torch.float32 and 0 <= x.min() and x.max() <= 1
        assert mask.shape == (224, 224) and mask.dtype == torch.long and set(mask.unique().tolist()) == {0, 1}
        assert isinstance(name, str) and torch.equal(mask, same)
        torch.testing.assert_close(z, (x - means) / deviations)
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
    tree = str(error.value).partition(f"    {tmp_path / 'nowhere'}/")[2].splitlines()[1:]
    assert [line.strip() for line in tree[:-1]] == [f"{path}{inside}" for path, inside in kind.layout.items()]
    assert f"Found instead: {tmp_path / 'nowhere'} does not exist." in str(error.value)
    with pytest.raises(UserError, match="is empty"):
        kind(tmp_path)
    (tmp_path / "something.zip").write_text("")
    with pytest.raises(UserError, match="holds something.zip"):
        kind(tmp_path)
    with pytest.raises(UserError, match="is a file; name the folder around it"):
        kind(tmp_path / "something.zip")


@pytest.mark.parametrize("kind, package, tree", [(Coco, "pycocotools", coco_tree),
                                                 (ImageNetSegmentation, "h5py", gtsegs_tree)])
def test_a_library_that_is_not_installed_is_named(kind, package, tree, tmp_path, monkeypatch):
    tree(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"{package}.coco", raising=False)
    with pytest.raises(UserError, match=f"pip install {package} "):
        kind(tmp_path)


def test_what_a_picture_is_of(tmp_path):
    """By COCO's categories and VOC's labels as ImageNet classes; gtsegs does not say."""
    coco_tree(tmp_path / "coco")
    assert Coco(tmp_path / "coco").classes_of(0) is None
    path = annotation_file(tmp_path / "coco")
    content = json.loads(path.read_text())
    for number, annotation in enumerate(content["annotations"]):
        annotation["category_id"] = 1 + number
    content["categories"] = [{"id": 1, "name": "person"}, {"id": 2, "name": "cat"},
                             {"id": 3, "name": "airplane"}, {"id": 4, "name": "my own"}]
    path.write_text(json.dumps(content))
    data = Coco(tmp_path / "coco")
    assert data.ids == ["10", "20", "30"] and [data.categories(i) for i in range(3)] == [
        {"my own"}, {"cat", "airplane"}, {"person"}]
    assert data.classes_of(1) >= {281, 282, 283, 284, 285, 404}
    assert data.classes_of(0) is data.classes_of(2) is None
    voc_tree(tmp_path / "voc")
    assert Voc(tmp_path / "voc").categories(0) == {"person"} and Voc(tmp_path / "voc").classes_of(0) is None
    gtsegs_tree(tmp_path / "gtsegs")
    assert ImageNetSegmentation(tmp_path / "gtsegs").classes_of(0) is None
