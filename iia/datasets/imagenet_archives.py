"""ImageNet's validation archives as downloaded, unpacked to class folders."""

import shutil
import sys
import tarfile
import time
from pathlib import Path

from torchvision.datasets import imagenet as archives

from ..errors import UserError, first_line
from ..evaluation.claims import Claims


def unpack(root: Path) -> None:
    """Unpack the two archives in `root` to class folders in root/val, where there is no val yet.

    They are checked and unpacked in a folder of another name, which becomes `val` once it is whole. What a
    killed process has left of that folder is removed; a second process waits for the first.

    Raises:
        UserError: one is missing, fails its MD5, or does not fit the other; or the disk is full.
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
        staging.mkdir()
        archives.parse_devkit_archive(staging, str(kit.absolute()))
        wnids = archives.load_meta_file(staging)[1]
        archives.parse_val_archive(staging, str(tar.absolute()), wnids)
        made = sorted((staging / "val").rglob("*.JPEG"), key=lambda path: path.name)
        if [path.parent.name for path in made] != wnids:
            raise ValueError(f"{len(wnids)} classes for {len(made)} pictures")
        (staging / "val").rename(root / "val")
    except (RuntimeError, ValueError, KeyError, EOFError, OSError, tarfile.TarError) as why:
        raise UserError(f"{tar.name} and {kit.name} in {root} cannot be unpacked ({first_line(why)}). Where "
                        "one is corrupted (its MD5 is not the published one), fetch it again.") from why
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        lock.leave(0)
