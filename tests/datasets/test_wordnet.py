"""The table from categories of VOC and COCO to ImageNet's classes."""

import pytest
from timm.data import ImageNetInfo

from iia.datasets.wordnet import categories, imagenet_classes
from iia.errors import UserError
from iia.models.names import IMAGENET

VOC = ("aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
       "person pottedplant sheep sofa train tvmonitor").split()


def test_every_category_has_its_classes_and_no_class_has_two():
    assert len(categories()) == 80
    every = [number for classes in categories().values() for number in classes]
    assert len(every) == len(set(every)) == 306 and set(every) <= set(range(1000))
    assert imagenet_classes("dog") == tuple(range(151, 269))          # ImageNet lists its 118 dogs in one row
    assert imagenet_classes("bird") == (*range(7, 25), *range(80, 101), *range(127, 147))
    assert imagenet_classes("person") == imagenet_classes("toothbrush") == ()


@pytest.mark.parametrize("category, names", [
    ("cat", {"tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat"}),
    ("aeroplane", {"airliner", "warplane"}), ("tvmonitor", {"monitor", "screen", "television"}),
    ("sofa", {"studio couch"}), ("motorbike", {"moped", "motor scooter"}), ("diningtable", {"dining table"}),
    ("cow", {"ox"}), ("sheep", {"ram"}), ("horse", {"sorrel"}), ("train", {
        "bullet train", "electric locomotive", "steam locomotive", "freight car", "passenger car"}),
    ("zebra", {"zebra"}), ("mouse", {"mouse"}), ("keyboard", {"computer keyboard"}), ("hot dog", {"hotdog"})])
def test_classes_by_name(category, names):
    """torchvision's names of the classes and timm's WordNet ids are in the same order."""
    assert {IMAGENET[number] for number in imagenet_classes(category)} == names
    assert len(ImageNetInfo().label_names()) == len(IMAGENET)


def test_vocs_names_and_a_category_that_does_not_exist():
    assert all(imagenet_classes(name) for name in VOC if name not in ("person", "pottedplant"))
    assert imagenet_classes("aeroplane") == imagenet_classes("airplane")
    with pytest.raises(UserError, match="Did you mean 'bicycle'"):
        imagenet_classes("bicicle")
