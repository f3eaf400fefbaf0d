"""Iterated Integrated Attributions: saliency maps for CNNs and vision transformers.

    import iia
    model = iia.load_model("resnet101")
    pictures = iia.load_pictures(["cat.jpg"], model)                          # [B, 3, 224, 224]
    maps = iia.explain(model, pictures, classes=[285], operation="iia-triple")  # [B, 224, 224] in [0, 1]
"""

from .datasets.pictures import load_pictures
from .errors import UserError
from .explaining import explain, operations, predict, sharing
from .memory import keep_freed_memory
from .models import wrap
from .models.loading import load_model

__all__ = ["UserError", "explain", "keep_freed_memory", "load_model", "load_pictures", "operations",
           "predict", "sharing", "wrap"]
