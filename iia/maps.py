"""Finishes raw maps, upsampled to the picture and scaled to [0, 1], and names their files."""

import hashlib
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor


def minmax(maps: Tensor) -> Tensor:
    """Scale each map [..., H, W] to [0, 1] by its own minimum and maximum.

    This is the only normalisation of maps in the project. A constant or non-finite map becomes zeros, never
    NaN. A proper map has a maximum of 1, so `is_degenerate` can still tell the two apart.
    """
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    proper = torch.isfinite(low) & torch.isfinite(high) & torch.isfinite(high - low) & (high > low)
    scaled = (maps - low) / torch.where(proper, high - low, 1)
    return torch.where(proper, scaled, 0)


def is_degenerate(maps: Tensor) -> Tensor:
    """Which finished maps [B, H, W] are empty, since they were constant or non-finite: bool [B]."""
    return maps.flatten(1).amax(1) == 0


def finish(raw: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Raw maps [B, h, w] -> finished maps [B, H, W] in [0, 1] (METHOD.md, section 5).

    `mode` is "bicubic" for CNNs and "bilinear" for ViTs.
    """
    raw = raw if raw.dtype == torch.float64 else raw.float()
    if raw.shape[-2:] != size:
        raw = F.interpolate(raw[:, None], size=size, mode=mode, align_corners=False)[:, 0]
    return minmax(raw)


def safe(name: str) -> str:
    """A name that can be part of a file name: without odd characters, and no longer than a disk allows."""
    return shortened(re.sub(r"[^\w.-]+", "_", name).strip("_") or "_")


def shortened(name: str, most: int = 90) -> str:
    """The name if it has at most so many bytes, else its start and a hash of the whole."""
    encoded = name.encode()
    if len(encoded) <= most:
        return name
    return f"{encoded[:most - 9].decode(errors='ignore')}_{hashlib.sha256(encoded).hexdigest()[:8]}"


def map_file(folder: str | Path, stem: str, operation: str, model_name: str) -> Path:
    """The file of a picture's finished map, a float32 array [H, W]."""
    return Path(folder) / f"{stem}_{operation}_{model_name}.npy"
