"""A picture file as the tensor a network sees (METHOD.md, section 1)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as TF

from ..errors import UserError


class PictureError(UserError):
    """A picture is missing or cannot be decoded."""


def open_picture(path: str | Path) -> Image.Image:
    """The picture as RGB, whatever its mode was.

    Raises:
        PictureError: it is missing or cannot be decoded.
    """
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except FileNotFoundError as why:
        raise PictureError(f"{path} is missing") from why
    except Exception as why:           # each of Pillow's readers has errors of its own
        raise PictureError(f"{path} cannot be decoded as a picture ({type(why).__name__})") from why


def squash(picture: Image.Image, size: int = 224) -> Tensor:
    """The whole picture at size x size (no crop, bilinear with antialias), [3, size, size] in [0, 1]."""
    return TF.to_tensor(TF.resize(picture, [size, size]))


def normalise(pictures: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Raw pictures [..., 3, H, W] in [0, 1] -> what the network reads."""
    mean, std = (pictures.new_tensor(value).view(3, 1, 1) for value in (mean, std))
    return (pictures - mean) / std


def denormalise(pictures: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """The inverse of `normalise`."""
    mean, std = (pictures.new_tensor(value).view(3, 1, 1) for value in (mean, std))
    return pictures * std + mean


def load_pictures(paths: Sequence[str | Path], model) -> Tensor:
    """Picture files (or one) -> [B, 3, H, W], normalised as `model` wants them and on its device.

    Raises:
        UserError: no path, or a picture that is missing or cannot be decoded.
    """
    if isinstance(paths, (str, Path)):
        paths = [paths]
    if not paths:
        raise UserError("paths is empty; name at least one picture.")
    raw = torch.stack([squash(open_picture(path), model.size) for path in paths])
    return normalise(raw, model.mean, model.std).to(model.device)
