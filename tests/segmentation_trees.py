"""Small data sets on disk in the layouts of the real ones, with masks that are known."""

import json
from pathlib import Path

import h5py
import numpy as np
import torch
from PIL import Image
from pycocotools import mask as rle

SIZES = [(60, 40), (48, 66), (50, 50), (33, 71), (66, 48)]      # width, height


def picture(index: int) -> np.ndarray:
    """A smooth coloured picture [H, W, 3] that differs for each index."""
    width, height = SIZES[index % len(SIZES)]
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    waves = [np.sin(3 * (index + 1) * x + c) * np.cos((2 * index + c) * y) for c in range(3)]
    return ((np.stack(waves, -1) + 1) * 127).astype(np.uint8)


def box(index: int) -> np.ndarray:
    """The object of picture `index`: a box, [H, W] of 0 and 1."""
    width, height = SIZES[index % len(SIZES)]
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4:height // 2 + index, width // 5:width // 2] = 1
    return mask


def nearest(mask, size=224):
    """A mask at size x size: each pixel takes the value under its centre."""
    rows, columns = (((np.arange(size) + 0.5) * side / size).astype(int) for side in mask.shape)
    return torch.from_numpy(mask[rows][:, columns]).long()


def save_jpeg(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


# -------------------------------------------------------------------------------- COCO

def polygon(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def runs(mask: np.ndarray) -> dict:
    """An uncompressed run-length code: lengths of 0s and 1s in turn, down the columns."""
    flat, counts, value = mask.T.flatten(), [], 0
    while len(flat):
        length = int(np.argmax(flat != value)) if (flat != value).any() else len(flat)
        counts.append(length)
        flat, value = flat[length:], 1 - value
    return {"size": list(mask.shape), "counts": counts}


def compressed(mask: np.ndarray) -> dict:
    code = rle.encode(np.asfortranarray(mask))
    return {"size": code["size"], "counts": code["counts"].decode()}


def coco_tree(root: Path, count: int = 3) -> Path:
    """COCO val2017: pictures 10 · (count − i) of which the first three bear a polygon, an uncompressed and a
    compressed code (the middle one a crowd beside a polygon); one more picture bears nothing."""
    images, annotations = [], []
    for index in range(count + 1):
        number = 10 * (count - index) if index < count else 5
        width, height = SIZES[index % len(SIZES)]
        images.append({"id": number, "file_name": f"{number:012d}.jpg", "height": height, "width": width})
        save_jpeg(root / "val2017" / images[-1]["file_name"], picture(index))
        if index == count:
            continue
        if index == 0:
            shapes = [(polygon(10, 8, 30, 20), 0)]
        elif index == 1:
            shapes = [(runs(box(index)), 1), (polygon(0, 0, 8, 8), 0)]
        else:
            shapes = [(compressed(box(index)), 0)]
        annotations += [{"id": 100 + len(annotations) + i, "image_id": number, "segmentation": shape,
                         "iscrowd": crowd, "category_id": 1} for i, (shape, crowd) in enumerate(shapes)]
    write_annotations(root, {"images": images, "annotations": annotations})
    return root


def coco_masks() -> dict[str, np.ndarray]:
    """The masks of `coco_tree(count=3)` by id."""
    first = np.zeros((40, 60), np.uint8)
    first[8:20, 10:30] = 1
    second = box(1)
    second[0:8, 0:8] = 1
    return {"10": box(2), "20": second, "30": first}


def annotation_file(root: Path) -> Path:
    return root / "annotations" / "instances_val2017.json"


def write_annotations(root: Path, content: dict) -> None:
    annotation_file(root).parent.mkdir(parents=True, exist_ok=True)
    annotation_file(root).write_text(json.dumps(content))


# --------------------------------------------------------------------------------- VOC

def voc_tree(root: Path, count: int = 3, below: str = "VOCdevkit/VOC2012", end: str = "\n") -> Path:
    """VOC 2012: palette masks with class 15 in a box and the void border (255) in the first row."""
    folder = root / below
    names = [f"2008_{index:06d}" for index in range(count)]
    for index, name in enumerate(names):
        save_jpeg(folder / "JPEGImages" / f"{name}.jpg", picture(index))
        mask = Image.fromarray(voc_labels(index))
        # so its mode is P
        mask.putpalette([value for n in range(256) for value in (n, 255 - n, 7 * n % 256)])
        path = folder / "SegmentationClass" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask.save(path)
    listed = folder / "ImageSets" / "Segmentation" / "val.txt"
    listed.parent.mkdir(parents=True)
    listed.write_bytes("".join(name + end for name in names).encode())
    return root


def voc_labels(index: int) -> np.ndarray:
    labels = box(index) * np.uint8(15)
    labels[0] = 255
    return labels


# ---------------------------------------------------------------------------- ImageNet

def gtsegs_tree(root: Path, count: int = 3) -> Path:
    """gtsegs_ijcv.mat: arrays behind references, axes reversed as MATLAB stores them, two annotations a
    picture."""
    root.mkdir(parents=True, exist_ok=True)
    with h5py.File(root / "gtsegs_ijcv.mat", "w") as file:
        reference = h5py.ref_dtype
        pictures = file.create_dataset("value/img", (count, 1), dtype=reference)
        masks = file.create_dataset("value/gt", (count, 1), dtype=reference)
        for index in range(count):
            pictures[index, 0] = file.create_dataset(f"#refs#/img{index}", data=picture(index).T).ref
            both = file.create_dataset(f"#refs#/gt{index}", (2, 1), dtype=reference)
            both[0, 0] = file.create_dataset(f"#refs#/first{index}", data=box(index).T).ref
            both[1, 0] = file.create_dataset(f"#refs#/second{index}", data=1 - box(index).T).ref
            masks[index, 0] = both.ref
    return root
