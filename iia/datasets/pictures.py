"""A picture file as the tensor a network sees (METHOD.md, section 1)."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import functional as TF

from ..errors import UserError, rephrased

MODES = {1: "L", 3: "RGB", 4: "RGBA"}      # Pillow's mode of a picture, by the network's channels
Size = int | tuple[int, int]               # of a picture in pixels: the side of a square, or (height, width)


class PictureError(UserError):
    """A picture is missing or cannot be decoded."""


def mode_of(channels: int) -> str:
    """Pillow's mode of pictures with so many channels.

    Raises:
        UserError: picture files do not have so many.
    """
    if channels not in MODES:
        raise UserError(f"the network reads pictures of {channels} channels, but picture files have "
                        "1, 3 or 4; give it tensors of your own instead (iia.explain).")
    return MODES[channels]


def open_picture(path: str | Path, channels: int = 3, upright: bool = False) -> Image.Image:
    """The picture as RGB (1 channel: grey, 4: RGBA), whatever its mode was.

    Args:
        upright: turn a photograph as its camera says (EXIF); else it is read as stored.

    Raises:
        PictureError: it is missing or cannot be decoded, or the scale of its grey levels is unknown.
        UserError: picture files do not have so many channels.
    """
    mode = mode_of(channels)
    with rephrased(f"{path} cannot be decoded as a picture", kind=PictureError):
        if not Path(path).is_file():                       # a folder, or a pipe, which would never end
            raise PictureError(f"{path} is {'not a file' if Path(path).exists() else 'missing'}")
        with Image.open(path) as picture:
            picture.load()
            levels = in_8_bits(picture, path) if picture.mode[0] in "IF" else picture
            return (ImageOps.exif_transpose(levels) if upright else levels).convert(mode)


def in_8_bits(picture: Image.Image, path: str | Path) -> Image.Image:
    """A picture of 16 or 32 bits a pixel, whole numbers or floating point, as grey levels 0..255.

    Pillow's own conversion cuts such values off at 255. The levels of a PNG, and those of 16 bits, go to
    65535; the scale of others is told by their largest value.

    Raises:
        PictureError: the values fit no known scale.
    """
    levels = np.asarray(picture, dtype=np.float64)
    low, high = levels.min(), levels.max()
    deep = picture.mode.startswith("I;16") or picture.format == "PNG"
    scales = (65535,) if deep else (1, 255) if picture.mode == "F" else (255, 65535)
    top = min((scale for scale in scales if high <= scale), default=None)
    if top is None or low < 0 or not np.isfinite(levels).all():
        raise PictureError(f"{path} has grey levels from {low:g} to {high:g}, whose scale is not known; "
                           "save it with 8 bits a pixel, or as 0..1")
    scaled = Image.fromarray((levels * (255 / top)).round().astype(np.uint8))
    scaled.info = dict(picture.info)                       # exif_transpose looks there
    return scaled


def squash(picture: Image.Image, size: Size = 224) -> Tensor:
    """The whole picture at this size (no crop, bilinear with antialias), [C, height, width] in [0, 1]."""
    return TF.to_tensor(TF.resize(picture, list(parse_size(size))))


def parse_size(image_size: Size | str | None) -> tuple[int, int] | None:
    """A size as (height, width): a number for a square, two of them, or the setting's "height,width".

    Raises:
        UserError: it is none of these.
    """
    if image_size is None:
        return None
    try:
        parts = str(image_size).split(",") if isinstance(image_size, (str, int)) else image_size
        height, width = [int(side) for side in parts] * (2 if len(parts) == 1 else 1)
    except (TypeError, ValueError) as why:
        raise UserError(f"image_size {image_size!r} is no size; "
                        "give a number, or height,width as in 192,256.") from why
    if min(height, width) < 1:
        raise UserError(f"image_size is {height} x {width}; give sides of at least 1.")
    return height, width


def normalise(pictures: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Raw pictures [..., C, H, W] in [0, 1] -> what the network reads."""
    return TF.normalize(pictures, mean, std)


def denormalise(pictures: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """The inverse of `normalise`."""
    mean, std = (pictures.new_tensor(value).view(-1, 1, 1) for value in (mean, std))
    return pictures * std + mean


def for_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """The means or deviations of three channels for another number of them; one channel, and each beyond the
    third, takes their average."""
    values, mean = tuple(values), sum(values) / len(values)
    return (mean,) * channels if channels < len(values) else values + (mean,) * (channels - len(values))


def load_pictures(paths: Sequence[str | Path], model) -> Tensor:
    """Picture files (or one) -> [B, C, H, W], upright, normalised as `model` wants them and on its device.

    Raises:
        UserError: no path, a picture that is missing or cannot be decoded, or a network of other than 1, 3 or
            4 channels.
    """
    if not hasattr(model, "channels"):
        raise UserError("load_pictures wants the model that iia.load_model or iia.wrap returned, not "
                        f"{type(model).__name__}.")
    several = isinstance(paths, Iterable) and not isinstance(paths, (str, Path))
    paths = list(paths) if several else [paths]
    if not paths or not all(isinstance(path, (str, Path)) for path in paths):
        raise UserError("paths are the names of picture files, at least one; a picture that is a tensor "
                        "already goes to iia.explain.")
    raw = torch.stack([squash(open_picture(path, model.channels, upright=True), model.size)
                       for path in paths])
    return normalise(raw, model.mean, model.std).to(model.device)
