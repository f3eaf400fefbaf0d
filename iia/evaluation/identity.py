"""What tells one run from another: short names for weights, files and lists."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from ..settings import Settings

# Settings that change no number, or only through the weights, the layer, the pictures or the targets
HARMLESS = {"results_dir", "device", "num_workers", "max_images", "save_overlays", "operations",
            "model_name", "fallback_model_name", "weights_path", "allow_random_weights", "labels_file",
            "image_size", "in_chans", "FEATURE_LAYER_NUMBER", "dataset_root", "chosen_dataset", "pics_file"}


def identity(model, settings: Settings, cut: int | str, **more: object) -> dict:
    """What a table's numbers depend on: the network, where it is cut, `more`, and all settings but the
    harmless.

    A setting that comes or goes thus makes another run, whoever adds it. Steps that are None are the model's.
    """
    values = {name: value for name, value in settings.values().items() if name not in HARMLESS}
    if values.get("ITERATION_STEPS", 0) is None:
        values["ITERATION_STEPS"] = model.default_steps[settings.definition]
    return {"model": model.label, "weights": weights_of(model), "layer": cut,
            "picture size": list(model.size), **values, **more}


def digest(words: Iterable[str]) -> str:
    """A short name for a list: its length, and a hash of its words."""
    words = list(words)
    return f"{len(words)}-{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]}"


def file_signatures(files: Iterable[Path]) -> list[str]:
    """Each file's place, size and time: a file that was replaced has another."""
    return [f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}" if path.is_file()
            else f"{path.resolve()} missing" for path in files]


def weights_of(model: nn.Module) -> str:
    """The fingerprint of what is explained, without its quicker copies, which another machine may round
    otherwise."""
    return fingerprint(getattr(model, "whole", model))


def fingerprint(model: nn.Module) -> str:
    """A hash of a network's weights: a network with other weights has another."""
    hashed = hashlib.sha256()
    for name, value in model.state_dict().items():
        hashed.update(name.encode())
        hashed.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return hashed.hexdigest()[:16]
