"""Pictures of more than 8 bits, and photographs that lie on their side."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as TF

import iia
from iia.datasets.photographs import photograph
from iia.datasets.pictures import PictureError, open_picture

from ..conftest import toy_vgg

GREY = np.asarray(Image.open(photograph("chelsea.png")).convert("L"))


def deep(kind: str) -> Image.Image:
    """The grey photograph in another depth."""
    levels = GREY.astype(np.float32)
    return {"I;16": lambda: Image.fromarray((levels * 257).astype(np.uint16)),
            "I of 16 bits": lambda: Image.fromarray((levels * 257).astype(np.int32)),
            "I of 8 bits": lambda: Image.fromarray(levels.astype(np.int32)),
            "F to 1": lambda: Image.fromarray(levels / 255),
            "F to 255": lambda: Image.fromarray(levels)}[kind]()


@pytest.mark.parametrize("kind, name", [("I;16", "a.png"), ("I;16", "a.tif"), ("I of 16 bits", "a.tif"),
                                        ("I of 8 bits", "a.tif"), ("F to 1", "a.tif"), ("F to 255", "a.tif")])
def test_deep_grey_is_the_grey_of_8_bits(kind, name, tmp_path):
    deep(kind).save(tmp_path / name)
    for channels in (1, 3):
        found = np.asarray(open_picture(tmp_path / name, channels)).astype(int)
        found = found[..., None] if channels == 1 else found
        assert np.abs(found - GREY[..., None].astype(int)).max() <= 1


def test_a_dark_16_bit_picture_stays_dark(tmp_path):
    Image.fromarray(np.full((4, 4), 200, np.uint16)).save(tmp_path / "dark.png")
    assert np.asarray(open_picture(tmp_path / "dark.png")).max() == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1000.0])
def test_levels_without_a_known_scale(value, tmp_path):
    levels = np.full((4, 4), 0.5, np.float32)
    levels[0, 0] = value
    Image.fromarray(levels).save(tmp_path / "odd.tif")
    with pytest.raises(PictureError, match="odd.tif has grey levels from .* scale is not known"):
        open_picture(tmp_path / "odd.tif")


@pytest.mark.parametrize("orientation, turn",
                         [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90),
                                               (8, Image.Transpose.ROTATE_270)])
def test_photographs_are_set_upright(orientation, turn, tmp_path):
    upright = Image.open(photograph("chelsea.png")).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright.transpose(turn).save(tmp_path / "phone.png", exif=exif)
    model = iia.wrap(toy_vgg(), image_size=16)
    found = iia.load_pictures(tmp_path / "phone.png", model)
    upright.save(tmp_path / "upright.png")
    assert torch.equal(found, iia.load_pictures(tmp_path / "upright.png", model))
    stored = TF.to_tensor(open_picture(tmp_path / "phone.png"))
    assert torch.equal(stored, TF.to_tensor(upright.transpose(turn)))


def test_a_deep_photograph_is_set_upright_too(tmp_path):
    levels, exif = np.arange(6, dtype=np.uint16).reshape(2, 3) * 257, Image.Exif()
    exif[0x0112] = 6                                                # its left side is up
    Image.fromarray(np.rot90(levels).copy()).save(tmp_path / "phone.png", exif=exif)
    found = np.asarray(open_picture(tmp_path / "phone.png", 1, upright=True))
    assert found.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "folder.png"):
        with pytest.raises(PictureError, match="is not a file"):
            open_picture(tmp_path / name)
    with pytest.raises(PictureError, match="cannot be decoded"):
        open_picture(tmp_path / ("long" * 100))


@pytest.mark.parametrize("paths", [5, [5], b"a.png", [Image.new("RGB", (4, 4))]])
def test_paths_that_are_no_names(paths):
    with pytest.raises(iia.UserError, match="names of picture files"):
        iia.load_pictures(paths, iia.wrap(toy_vgg(), image_size=16))
    with pytest.raises(iia.UserError, match="not VGG"):
        iia.load_pictures(["a.png"], toy_vgg())
