"""The list of pictures and the pictures themselves."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

import iia
from iia.datasets.photographs import NAMES, photograph, put_in_place
from iia.datasets.pics import read_pics
from iia.datasets.pictures import (PictureError, denormalise, for_channels, normalise, open_picture,
                                   parse_size, squash)
from iia.errors import UserError
from iia.maps import safe


def test_what_a_list_may_contain(tmp_path):
    path = tmp_path / "pics.txt"
    path.write_bytes(b"\xef\xbb\xbf# mine\r\n\r\na b c.png 0\r\n  d.jpg\t999  \r\n#e.png 3\r\n")
    pics, problems = read_pics(path, "pictures")
    assert [(str(p.path), p.target, p.stem) for p in pics] == [("pictures/a b c.png", 0, "a b c"),
                                                               ("pictures/d.jpg", 999, "d")]
    assert problems == [] and pics[1].line == f"{path}:4"


@pytest.mark.parametrize("line, said", [("a.png", "one word"), ("a.png 1000", "not in 0..999"),
                                        ("a.png -1", "not in 0..999"), ("a.png cat", "without a labels_file"),
                                        ("a b.png", "not a number"), ("a.png 3.5", "not a number"),
                                        ("a.png --5", "not a number"), ("a.png +-5", "not a number")])
def test_a_bad_line_is_named_and_stops_no_other(line, said, tmp_path):
    path = tmp_path / "pics.txt"
    path.write_text(f"good.png 1\n{line}\nalso good.png 2\n")
    pics, problems = read_pics(path, ".")
    assert len(pics) == 2 and len(problems) == 1
    assert problems[0].startswith(f"{path}:2: ") and said in problems[0]


LABELS = ["cat", "Egyptian cat", "crane", "bird", "crane", "7"]


@pytest.mark.parametrize("line, wanted", [("a.png 1", 1), ("a.png cat", 0), ("a.png Egyptian cat", 1),
                                          ("a b.png  egyptian CAT", 1), ("my Egyptian.png cat", 0),
                                          ("a.png 5", 5)])
def test_classes_may_be_named(line, wanted, tmp_path):
    (tmp_path / "pics.txt").write_text(line + "\n")
    (pic,), problems = read_pics(tmp_path / "pics.txt", ".", 6, LABELS)
    assert pic.target == wanted and pic.path.suffix == ".png" and problems == []


@pytest.mark.parametrize("line, said", [
    ("a.png 6", "class 6 is not in 0..5"), ("a.png 7", "class 7 is not in 0..5"),
    ("a.png dog", "class 'dog' is not a number and no class's name"),
    ("a.png crane", "'crane' is the name of classes 2, 4; give a number")])
def test_classes_that_are_not_the_networks(line, said, tmp_path):
    (tmp_path / "pics.txt").write_text(line + "\n")
    pics, (problem,) = read_pics(tmp_path / "pics.txt", ".", 6, LABELS[:-1] + ["bat"])
    assert pics == [] and said in problem


def test_another_way_to_write_a_place_is_the_same_picture(tmp_path):
    (tmp_path / "pics.txt").write_text("a.png 1\n./a.png 1\n")
    pics, (problem,) = read_pics(tmp_path / "pics.txt", ".")
    assert len(pics) == 1 and "listed already" in problem


def test_a_line_that_repeats_another_is_named_and_counts_once(tmp_path):
    path = tmp_path / "pics.txt"
    path.write_text("a.png 0\nb.png 0\na.png cat\na.png 1\na.png 0\n")
    pics, problems = read_pics(path, ".", 2, ["cat", "dog"])
    assert [(pic.path.name, pic.target) for pic in pics] == [("a.png", 0), ("b.png", 0), ("a.png", 1)]
    assert problems == [f"{path}:{line}: a.png with class 0 is listed already in {path}:1" for line in (3, 5)]


@pytest.mark.parametrize("content", ["", "# nothing\n\n"])
def test_an_empty_list(content, tmp_path):
    (tmp_path / "pics.txt").write_text(content)
    with pytest.raises(UserError, match="lists no picture"):
        read_pics(tmp_path / "pics.txt", ".")


def test_no_list(tmp_path):
    with pytest.raises(UserError, match="absent.txt.*cannot be read"):
        read_pics(tmp_path / "absent.txt", ".")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UserError, match="cannot be read .UnicodeDecodeError"):
        read_pics(tmp_path / "binary.txt", ".")


def test_a_relative_list_is_said_to_be_looked_for_in_this_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"'data/pics.txt' cannot be read in {re.escape(str(tmp_path))} "):
        read_pics("data/pics.txt", ".")


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "RGBA", "LA", "I;16", "RGB"])
@pytest.mark.parametrize("size", [(1, 1), (30, 20)])
def test_pictures_of_every_mode_and_size(mode, size, tmp_path):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))
    picture = Image.new("I;16", size, 1000) if mode == "I;16" else noise.convert(mode)
    picture.save(path)
    raw = squash(open_picture(path))
    assert raw.shape == (3, 224, 224) and 0 <= raw.min() and raw.max() <= 1


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_pictures_of_another_size_and_number_of_channels(channels, mode):
    path = photograph("chelsea.png")
    raw = squash(open_picture(path, channels), (20, 30))
    assert raw.shape == (channels, 20, 30)
    wanted = transforms.Compose([transforms.Resize((20, 30)), transforms.ToTensor()])(
        Image.open(path).convert(mode))
    assert torch.equal(raw, wanted)


def test_a_number_of_channels_that_no_picture_has():
    with pytest.raises(UserError, match="of 2 channels.*1, 3 or 4"):
        open_picture(photograph("chelsea.png"), 2)


@pytest.mark.parametrize("given, wanted", [(None, None), (200, (200, 200)), ("200", (200, 200)),
                                           ("192,256", (192, 256)), ("192, 256", (192, 256)),
                                           ((192, 256), (192, 256)), ([64], (64, 64))])
def test_sizes_from_the_setting(given, wanted):
    assert parse_size(given) == wanted


@pytest.mark.parametrize("given", ["", "large", "1,2,3", "192x256", (1, 2, 3), 0, "-5", "100,0", 2.5])
def test_sizes_that_are_none(given):
    with pytest.raises(UserError, match="image_size"):
        parse_size(given)


@pytest.mark.parametrize("values, channels, wanted", [((1, 2, 6), 3, (1, 2, 6)), ((1, 2, 6), 1, (3,)),
                                                      ((1, 2, 6), 4, (1, 2, 6, 3))])
def test_a_normalisation_for_another_number_of_channels(values, channels, wanted):
    assert for_channels(values, channels) == wanted


def test_squashed_as_torchvision_does_it():
    path = photograph("chelsea.png")
    wanted = transforms.Compose([transforms.Resize((224, 224)), transforms.ToTensor(),
                                 transforms.Normalize((0.5,) * 3,
                                                      (0.5,) * 3)])(Image.open(path).convert("RGB"))
    model = iia.load_model("efficientnet_lite0")
    assert torch.equal(iia.load_pictures([path], model)[0], wanted)
    raw = squash(open_picture(path))
    how = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    torch.testing.assert_close(denormalise(normalise(raw, *how), *how), raw)


def test_pictures_that_cannot_be_read(tmp_path):
    whole = photograph("rocket.jpg").read_bytes()
    (tmp_path / "short.jpg").write_bytes(whole[:5000])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    for name in ("short.jpg", "text.png", "folder.png", "absent.png"):
        with pytest.raises(PictureError, match=name):
            open_picture(tmp_path / name)


def test_the_photographs_are_put_in_place_once(tmp_path):
    wanted = [tmp_path / "pictures" / name for name in (*NAMES, "other.png")]
    put_in_place(wanted)
    assert [p.exists() for p in wanted] == [True, True, True, False]
    wanted[0].write_bytes(b"the user's own")
    put_in_place(wanted)
    assert wanted[0].read_bytes() == b"the user's own"


def test_every_line_has_file_names_of_its_own(tmp_path):
    """Also on a disk that ignores case, and where a name has the very suffix that another would get."""
    path, long = tmp_path / "pics.txt", "x" * 235
    path.write_text("a b.png 3\na_b.png 3\na.png 3\na.jpg 3\nA.png 4\na_2.png 4\n"
                    "crane.png 134\ncrane.png 285\n"
                    f"{long}.png 1\n{long}.jpg 1\n")
    pics, problems = read_pics(path, ".")
    assert problems == [] and len(pics) == 10
    stems = [pic.stem for pic in pics]
    assert stems[:8] == ["a b", "a_b_2", "a", "a_2", "A_3", "a_2_2", "crane", "crane_2"]
    assert len({safe(stem).casefold() for stem in stems}) == 10
    assert max(len(stem) for stem in stems) < 100 and stems[8].startswith("xxxx")
