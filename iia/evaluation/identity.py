"""What tells one run from another: short names for weights, files and lists."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn


def digest(words: Iterable[str]) -> str:
    """A short name for a list: its length, and a hash of its words."""
    words = list(words)
    return f"{len(words)}-{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]}"


def file_signatures(files: Iterable[Path]) -> list[str]:
    """Each file's place, size and time: a file that was replaced has another."""
    return [f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}" if path.is_file()
            else f"{path.resolve()} missing" for path in files]


def fingerprint(model: nn.Module) -> str:
    """A hash of a network's weights: a network with other weights has another."""
    hashed = hashlib.sha256()
    for name, value in model.state_dict().items():
        hashed.update(name.encode())
        hashed.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return hashed.hexdigest()[:16]
