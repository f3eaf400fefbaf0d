"""Unpacks ImageNet's validation archives, as they are downloaded, to class folders."""

import shutil
import sys
import time
from pathlib import Path

from torchvision.datasets import imagenet as archives

from ..errors import UserError, rephrased
from ..evaluation.claims import Claims


def unpack(root: Path) -> None:
    """Unpack the two archives in `root` to class folders in root/val, where there is no val yet.

    They are checked and unpacked in a folder of another name, which becomes `val` once it is whole. A second
    process waits for the first. What a killed process has left behind is removed.

    Raises:
        UserError: an archive is missing, fails its MD5 or does not fit the other; or the disk is full.
    """
    tar, kit = (root / archives.ARCHIVE_META[name][0] for name in ("val", "devkit"))
    if (root / "val").exists() or not tar.is_file():
        return
    if not kit.is_file():
        raise UserError(f"{tar} has no classes: put {kit.name} beside it.")
    lock, staging = Claims(root / ".unpacking.lock"), root / ".unpacking"
    while not lock.take(0):
        time.sleep(1)
    try:
        if (root / "val").exists():
            return
        print(f"unpacking {tar} to {root / 'val'}, once; minutes for 50,000 pictures", file=sys.stderr)
        shutil.rmtree(staging, ignore_errors=True)
        with rephrased(f"{tar.name} and {kit.name} in {root} cannot be unpacked",
                       ". Where one is corrupted (its MD5 is not the published one), fetch it again."):
            staging.mkdir()
            archives.parse_devkit_archive(staging, str(kit.absolute()))
            wnids = archives.load_meta_file(staging)[1]
            archives.parse_val_archive(staging, str(tar.absolute()), wnids)
            unpacked = sorted((staging / "val").rglob("*.JPEG"), key=lambda path: path.name)
            if [path.parent.name for path in unpacked] != wnids:
                raise ValueError(f"{len(wnids)} classes for {len(unpacked)} pictures")
            (staging / "val").rename(root / "val")
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        lock.leave(0)
