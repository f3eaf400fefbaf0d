"""The classes of ImageNet that belong to a category of VOC or COCO; wordnet.json has their WordNet ids."""

import json
from functools import cache
from pathlib import Path

from ..errors import unknown
from .labels import IMAGENET

# VOC's names that differ from COCO's; its other fourteen categories have the same ones.
VOC_NAMES = {"aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle",
             "pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv"}


@cache
def categories() -> dict[str, tuple[int, ...]]:
    """COCO's 80 categories, each with its ImageNet classes in ascending order."""
    from timm.data import ImageNetInfo                 # takes long to import
    number = {wnid: index for index, wnid in enumerate(ImageNetInfo().label_names())}
    table = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return {category: tuple(sorted(number[wnid] for wnid in wnids)) for category, wnids in table.items()}


def has_imagenet_classes(model) -> bool:
    """Whether a network's classes are ImageNet's: as many, and under no other names."""
    return model.classes == len(IMAGENET) and model.labels in (None, IMAGENET)


def imagenet_classes(category: str) -> tuple[int, ...]:
    """The ImageNet classes that belong to a category of VOC ("aeroplane") or COCO ("airplane"), by number.

    They are () where ImageNet has none, as for 23 of COCO's categories, "person" among them.

    Raises:
        UserError: neither data set has such a category.
    """
    name = VOC_NAMES.get(category, category)
    if name not in categories():
        raise unknown("category", category, [*categories(), *VOC_NAMES])
    return categories()[name]
