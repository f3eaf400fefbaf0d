"""ImageNet's validation pictures as people have them: in class folders, or in one folder with a list.

The functions that read them return entries, (picture's path, class, where the class is stated), and problems,
a sentence for each line or folder that gives no picture.
"""

import os
import re
import sys
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from ..errors import UserError, rephrased
from .imagenet_archives import unpack
from .labels import WNID, ClassNames
from .segmentation import missing

Entries = list[tuple[Path, int, str]]
PICTURES = 50_000
DEVKIT = Path("ILSVRC2012_devkit_t12", "data")
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
METAS = ("meta.mat", "map_clsloc.txt")        # the WordNet ids of the devkit's numbers, in 2012 and later
NUMBERED = re.compile(r"ILSVRC2012_val_(\d{8})\.\w+")
FETCH = ("ILSVRC2012_img_val.tar (6.7 GB) and ILSVRC2012_devkit_t12.tar.gz from https://image-net.org\n"
         "and put both there, which unpacks them, or have the pictures there")
TREE = f"""
n01440764/ILSVRC2012_val_00000293.JPEG ... (folders by WordNet id, or by the network's labels)
or
ILSVRC2012_val_00000001.JPEG ...
val.txt, or {GROUND_TRUTH} and meta.mat
"""


def find(images_dir: Path, names: ClassNames) -> tuple[Path, dict[str, int]]:
    """Find the pictures where no list was named: (folder, the classes of its folders), or (list, {}).

    Class folders come first, then pictures with `val.txt` or the devkit's ground truth in or beside their
    folder, then class folders in `val`, to which the archives are unpacked if need be.

    Raises:
        UserError: there is none of these, or only half of one.
    """
    if classes := class_folders(images_dir, names):
        return images_dir, classes
    for path in in_or_beside(images_dir, "val.txt", GROUND_TRUTH) if pictures_in(images_dir) else ():
        if path.name == "val.txt" and not names.imagenet:
            raise UserError(f"{path} has ImageNet's numbers, and the network's classes are others; list the "
                            "pictures with the network's own in a pics_file.")
        return path, {}
    unpack(images_dir)
    val = images_dir / "val"
    if classes := class_folders(val, names):
        return val, classes
    if val.exists():
        raise UserError(f"{val} holds no class folders: remove it if its unpacking was cut short, or give "
                        "it as images_dir if its pictures have a list.")
    raise missing("pics_file is None, and ImageNet's validation set", images_dir, FETCH, TREE)


def pictures_in(folder: Path) -> list[str]:
    """The names of the picture files in a folder, not below it."""
    return sorted(filter(is_picture, os.listdir(folder))) if folder.is_dir() else []


def numbered(folder: Path) -> dict[int, Path]:
    """ImageNet's pictures in a folder, not below it, by the number in their names."""
    matches = filter(None, map(NUMBERED.fullmatch, pictures_in(folder)))
    return {int(match[1]): folder / match[0] for match in matches}


def is_picture(path: str) -> bool:
    """Whether a file's name is that of a picture; not whether it can be decoded."""
    return path.lower().endswith(IMG_EXTENSIONS) and not os.path.basename(path).startswith(".")


def in_or_beside(folder: Path, *names: str) -> list[Path]:
    """The files of these names in a folder, in the one around it, or in a devkit in either."""
    places = [around / below for around in (folder, folder.absolute().parent) for below in ("", DEVKIT)]
    return [place / name for name in names for place in places if (place / name).is_file()]


# ----------------------------------------------------------------------------- class folders

def class_folders(folder: Path, names: ClassNames) -> dict[str, int]:
    """The class of each folder in it, by the folder's name; {} where it holds no class folders.

    Raises:
        UserError: only some folders are of classes, or pictures of ImageNet lie beside them.
    """
    inside = os.scandir(folder) if folder.is_dir() else ()
    classes = {entry.name: names.find(entry.name) for entry in inside
               if entry.is_dir() and not entry.name.startswith(".")}
    for name in [name for name, numbers in classes.items() if len(numbers) > 1]:
        raise UserError(f"{folder / name}: {names.ambiguity(name)}. Its WordNet id would tell which.")
    foreign = sorted(name for name, numbers in classes.items() if not numbers)
    if len(foreign) == len(classes) and not any(map(WNID.fullmatch, foreign)):
        return {}
    if foreign:
        raise UserError(f"{folder} holds folders of classes, but {foreign[0]!r} is no class of the network "
                        f"({len(foreign)} of {len(classes)}). A folder is named by a class's label, or by "
                        "its WordNet id, known for ImageNet's classes and where the labels begin with it.")
    if beside := len(numbered(folder)):
        raise UserError(f"{folder} holds folders of classes, and {beside} of ImageNet's pictures beside "
                        "them: it is half unpacked. Remove it and unpack it again, or sort them in.")
    return {name: number for name, (number,) in classes.items()}


def read_class_folders(folder: Path, classes: dict[str, int]) -> tuple[Entries, list[str]]:
    """The pictures in and below class folders, sorted by file name, and the folders that hold none."""
    pictures = sorted(make_dataset(str(folder), classes, is_valid_file=is_picture, allow_empty=True),
                      key=lambda picture: (os.path.basename(picture[0]), picture[0]))
    seen = {target for _, target in pictures}
    return ([(Path(path), target, path) for path, target in pictures],
            [f"{folder / name} holds no picture" for name in sorted(classes) if classes[name] not in seen])


# ------------------------------------------------------------------------------ the devkit

def is_ground_truth(path: Path, lines: list[str]) -> bool:
    """Whether a list is the devkit's, which has only numbers, on line i the class of picture i."""
    return path.name == GROUND_TRUTH or bool(lines) and all(line.strip().isdecimal() for line in lines)


def read_ground_truth(path: Path, lines: list[str], images_dir: Path,
                      names: ClassNames) -> tuple[Entries, list[str]]:
    """The pictures ILSVRC2012_val_00000001.JPEG ..., whose classes have the devkit's own numbers. One of
    `METAS` gives the WordNet id of each number.

    Raises:
        UserError: there is no such file, there are no such pictures or not a line for each, or the network
            lacks a class.
    """
    metas = [*in_or_beside(path.parent, *METAS), *in_or_beside(images_dir, *METAS)]
    if not metas:
        raise UserError(f"{path} numbers classes as the devkit does, in an order that only its "
                        f"{' or '.join(METAS)} tells (synset_words.txt has another); put it beside that.")
    wnids, pictures = read_meta(metas[0]), numbered(images_dir)
    fits = len(lines) in (PICTURES, len(pictures)) and pictures.keys() <= set(range(1, len(lines) + 1))
    if not (pictures and fits):
        raise UserError(f"{path} has {len(lines)} lines, and {images_dir} {len(pictures)} pictures named as "
                        f"ILSVRC2012_val_00000001.JPEG; there are {PICTURES} lines, or one for each.")
    if len(pictures) < len(lines):
        print(f"note: {images_dir} holds {len(pictures)} of {len(lines)} pictures", file=sys.stderr)
    entries, problems = [], []
    for number, picture in sorted(pictures.items()):
        line, place = lines[number - 1].strip(), f"{path}:{number}"
        if line not in wnids:
            problems.append(f"{place}: {line!r} is no class of {metas[0]}")
        elif len(targets := names.find(wnids[line])) != 1:
            raise UserError(f"{place}: the network is not known to have the class {wnids[line]}; list the "
                            "pictures with its own classes in a pics_file.")
        else:
            entries.append((picture, targets[0], place))
    return entries, problems


def read_meta(path: Path) -> dict[str, str]:
    """The WordNet id of each of the devkit's numbers; a synset with children is no class and is left out."""
    with rephrased(f"{path} cannot be read as the devkit's", "."):
        if path.suffix == ".txt":                                       # n02119789 1 kit_fox
            lines = path.read_text(encoding="utf-8").splitlines()
            return {line.split()[1]: line.split()[0] for line in lines}
        synsets = np.atleast_1d(loadmat(path, squeeze_me=True)["synsets"])
        return {str(int(synset["ILSVRC2012_ID"])): str(synset["WNID"])
                for synset in synsets if synset["num_children"] == 0}
