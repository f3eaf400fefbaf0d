"""ImageNet's validation pictures in the layouts that people have; right are ImageNet's own numbers."""

import os
import shutil

import numpy as np
import pytest
from scipy.io import savemat
from torchvision.datasets.folder import ImageFolder

from iia.datasets.labels import IMAGENET
from iia.datasets.pics import read_pics
from iia.errors import UserError

# ImageNet's numbers of five classes. The devkit's own are SHUFFLED: 1 means n02124075, ...
CLASSES = {"n01440764": 0, "n01751748": 65, "n02124075": 285, "n02504458": 386, "n15075141": 999}
SHUFFLED = ["n02124075", "n15075141", "n01751748", "n02504458", "n01440764"]
OF_PICTURES = ["n01751748", "n15075141", "n01440764", "n01751748", "n02124075", "n02124075", "n02504458"]
WANTED = {f"ILSVRC2012_val_{i:08d}.JPEG": CLASSES[wnid] for i, wnid in enumerate(OF_PICTURES, 1)}
KIT = "ILSVRC2012_devkit_t12"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def read(images_dir, pics_file=None, labels=IMAGENET, **how):
    return read_pics(pics_file, images_dir, len(labels), list(labels), **how)


def targets(pics):
    return {pic.path.name: pic.target for pic in pics}


def touch(folder, *names):
    """Files that are no pictures: nothing may open them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def class_folders(folder):
    for name, wnid in zip(WANTED, OF_PICTURES, strict=True):
        touch(folder / wnid, name)
    return folder


def devkit(folder, extra_lines=""):
    """meta.mat in the real structure, with a synset above the classes, and the ground truth."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height",
              "num_train_images")
    rows = [(number, wnid, "cat, true cat", "an animal", 0, np.zeros((0, 0)), 0, 1300)
            for number, wnid in enumerate(SHUFFLED, 1)]
    rows.insert(2, (1001, "n01440764", "above", "all", 2, np.array([[1, 2]]), 9, 0))
    savemat(folder / "meta.mat", {"synsets": np.array(rows, [(name, object) for name in fields])[:, None]})
    lines = [f"{SHUFFLED.index(wnid) + 1}\n" for wnid in OF_PICTURES]
    (folder / GROUND_TRUTH).write_text("".join(lines) + extra_lines)
    return folder


# ----------------------------------------------------------------------------- class folders

def test_class_folders_have_imagenets_numbers_whichever_of_them_are_there(tmp_path):
    pics, problems = read(class_folders(tmp_path))
    assert targets(pics) == WANTED and problems == []
    assert [pic.path.name for pic in pics] == sorted(WANTED)            # not by class
    by_position = {os.path.basename(path): number for path, number in
                   ImageFolder(tmp_path, is_valid_file=lambda path: True).samples}
    assert by_position != WANTED and max(by_position.values()) == 4     # what must not come out


def test_torchvisions_root_and_folders_in_folders(tmp_path):
    class_folders(tmp_path / "val")
    touch(tmp_path / "train" / "n01440764", "n01440764_1.JPEG")
    touch(tmp_path / "val" / "n02124075" / "more", "b.PNG", "notes.txt", "._b.png")
    touch(tmp_path / "val" / ".thumbnails", "c.png")
    touch(tmp_path / "val", "chelsea.png")              # as a script puts it into its own images_dir
    assert targets(read(tmp_path)[0]) == WANTED | {"b.PNG": 285}


def test_an_empty_class_folder_is_named(tmp_path):
    (class_folders(tmp_path) / "n02085620").mkdir()
    pics, problems = read(tmp_path)
    assert targets(pics) == WANTED and problems == [f"{tmp_path / 'n02085620'} holds no picture"]


def test_a_name_that_is_no_utf_8_is_named(tmp_path):
    touch(tmp_path / "n02124075", "a.png")
    (tmp_path / "n02124075" / os.fsdecode(b"\xff.png")).touch()
    pics, (problem,) = read(tmp_path)
    assert targets(pics) == {"a.png": 285} and r"\udcff.png" in problem and "not in UTF-8" in problem


@pytest.mark.parametrize("folder, said", [
    ("cats", "'cats' is no class of the network"), ("n00000001", "'n00000001' is no class"),
    ("crane", "'crane' is the name of classes 134, 517. Its WordNet id")])
def test_folders_that_are_no_classes(folder, said, tmp_path):
    touch(class_folders(tmp_path) / folder, "a.png")
    with pytest.raises(UserError, match=said):
        read(tmp_path)


def test_folders_of_a_network_with_labels_of_its_own(tmp_path):
    touch(tmp_path / "Dog", "a.png")
    touch(tmp_path / "ant", "b.png")
    assert targets(read(tmp_path, labels=["ant", "cat", "dog"])[0]) == {"a.png": 2, "b.png": 0}
    class_folders(tmp_path / "wnids")
    ids = ["n15075141 toilet tissue", "n02504458", "n02124075 Egyptian cat", "n01751748", "n01440764"]
    own = {name: [each.split()[0] for each in ids].index(wnid)
           for name, wnid in zip(WANTED, OF_PICTURES, strict=True)}
    assert targets(read(tmp_path / "wnids", labels=ids)[0]) == own
    with pytest.raises(UserError, match="'n01440764' is no class .*5 of 5.*labels begin with it"):
        read(tmp_path / "wnids", labels=["ant", "cat", "dog"])


@pytest.mark.parametrize("found", [None, "cats", "notes.txt"])
def test_a_folder_with_nothing_of_imagenet(found, tmp_path):
    if found:
        touch(tmp_path / "here" / found if found == "cats" else tmp_path / "here", found)
    with pytest.raises(UserError, match=f"is not in (.|\n)*{found or 'does not exist'}"):
        read(tmp_path / "here")


# ------------------------------------------------------------------------ flat, with a list

@pytest.mark.parametrize("place", ["images", "."])
def test_flat_pictures_with_val_txt(place, tmp_path):
    touch(tmp_path / "images", *WANTED)
    lines = [f"{name} {WANTED[name]}\r\n" for name in reversed(WANTED)]
    (tmp_path / place / "val.txt").write_text("".join(lines))
    pics, problems = read(tmp_path / "images")
    assert targets(pics) == WANTED and problems == []
    assert [pic.path.parent for pic in pics] == [tmp_path / "images"] * 7
    with pytest.raises(UserError, match="val.txt has ImageNet's numbers"):
        read(tmp_path / "images", labels=["ant", "cat"])


@pytest.mark.parametrize("place", [".", KIT + "/data", f"images/{KIT}/data"])
def test_flat_pictures_with_the_devkits_numbers(place, tmp_path):
    devkit(tmp_path / place)
    pics, problems = read(touch(tmp_path / "images", *WANTED))
    assert targets(pics) == WANTED and problems == []
    named, _ = read(tmp_path / "images", tmp_path / place / GROUND_TRUTH)
    assert named == pics


def test_a_ground_truth_under_another_name_with_a_textual_map(tmp_path):
    shutil.move(devkit(tmp_path) / GROUND_TRUTH, tmp_path / "mine.txt")
    (tmp_path / "meta.mat").unlink()
    (tmp_path / "map_clsloc.txt").write_text("".join(f"{w} {i} a_b\n" for i, w in enumerate(SHUFFLED, 1)))
    assert targets(read(touch(tmp_path / "images", *WANTED), tmp_path / "mine.txt")[0]) == WANTED


def test_a_bad_line_of_the_ground_truth_is_named(tmp_path):
    path = devkit(tmp_path) / GROUND_TRUTH
    path.write_text(path.read_text().replace("4\n", "1001\n"))
    pics, problems = read(touch(tmp_path, *WANTED), path)
    *all_but_last, last = WANTED
    assert targets(pics) == {name: WANTED[name] for name in all_but_last}
    assert problems == [f"{path}:7: '1001' is no class of {tmp_path / 'meta.mat'}"]


def test_a_part_of_the_pictures_with_all_lines(tmp_path, capsys):
    devkit(tmp_path, "1\n" * (50_000 - 7))
    pics, problems = read(touch(tmp_path / "images", *list(WANTED)[3:5]))
    assert targets(pics) == dict(list(WANTED.items())[3:5]) and problems == []
    assert "holds 2 of 50000 pictures" in capsys.readouterr().err


@pytest.mark.parametrize("spoil, said", [
    (lambda at: (at / "meta.mat").unlink(), "only its meta.mat or map_clsloc.txt"),
    (lambda at: (at / "meta.mat").write_bytes(b"MATLAB 5.0"), "meta.mat cannot be read"),
    (lambda at: (at / GROUND_TRUTH).write_text("1\n" * 6), "6 lines.* 7 pictures"),
    (lambda at: (at / GROUND_TRUTH).write_text("1\n" * 8), "8 lines.* 7 pictures"),
    (lambda at: (at / GROUND_TRUTH).write_bytes(b"\xff\xfe1\n"), "cannot be read .UnicodeDecodeError"),
    (lambda at: [path.unlink() for path in at.glob("*.JPEG")], "holds no|7 lines, and .* 0 pictures")])
def test_a_devkit_that_does_not_fit_is_one_sentence(spoil, said, tmp_path):
    touch(devkit(tmp_path), *WANTED)
    spoil(tmp_path)
    with pytest.raises(UserError, match=said) as error:
        read(tmp_path, tmp_path / GROUND_TRUTH)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError):
        read(tmp_path)


def test_the_devkit_is_of_imagenets_classes_only(tmp_path):
    with pytest.raises(UserError, match="not known to have the class n01751748"):
        read(touch(devkit(tmp_path), *WANTED), labels=["ant", "cat"])
