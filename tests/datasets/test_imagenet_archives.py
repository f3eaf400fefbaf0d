"""ImageNet's archives as downloaded: small ones in their format, whose MD5 counts as the published one."""

import hashlib
import io
import multiprocessing
import os
import shutil
import signal
import tarfile
import time

import pytest
from torchvision.datasets import imagenet as archives

from iia.datasets.photographs import photograph
from iia.errors import UserError

from .test_imagenet import CLASSES, GROUND_TRUTH, KIT, OF_PICTURES, WANTED, devkit, read, targets, touch


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Small archives in ImageNet's format, whose MD5 counts as the published one."""
    folder, whole = tmp_path / "imagenet", photograph("rocket.jpg").read_bytes()
    folder.mkdir()
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as tar:
        for i, name in enumerate(sorted(WANTED, reverse=True)):
            info = tarfile.TarInfo(name)
            info.size = len(whole) + i
            tar.addfile(info, io.BytesIO(whole + b"\0" * i))
    devkit(tmp_path / KIT / "data")
    with tarfile.open(folder / f"{KIT}.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / KIT, KIT)
    shutil.rmtree(tmp_path / KIT)
    for part, (name, _) in archives.ARCHIVE_META.items():
        if (folder / name).exists():
            md5 = hashlib.md5((folder / name).read_bytes()).hexdigest()
            monkeypatch.setitem(archives.ARCHIVE_META, part, (name, md5))
    return folder


def test_the_archives_are_unpacked_once(root, capsys):
    pics, problems = read(root)
    assert targets(pics) == WANTED and problems == [] and "unpacking" in capsys.readouterr().err
    assert {pic.path.parent.name: pic.target for pic in pics} == CLASSES
    assert {path.name for path in root.iterdir()} == {
        f"{KIT}.tar.gz", "ILSVRC2012_img_val.tar", "val", ".unpacking.lock"}
    pics[0].path.write_text("the user's own")
    assert read(root)[0] == pics and pics[0].path.read_text() == "the user's own"
    assert capsys.readouterr().err == ""
    shutil.rmtree(root / "val")
    (root / "meta.bin").write_text("cut short")                      # as a killed torchvision leaves it
    assert targets(read(root)[0]) == WANTED


@pytest.mark.parametrize("name", ["ILSVRC2012_img_val.tar", f"{KIT}.tar.gz"])
def test_an_archive_that_is_cut_short(name, root):
    with open(root / name, "r+b") as file:
        file.truncate(1000)
    with pytest.raises(UserError, match=f"{name}.*(?s:.)*corrupted") as error:
        read(root)
    assert "\n" not in str(error.value)
    assert not (root / "val").exists() and not (root / ".unpacking").exists()


def test_an_archive_without_the_other(root):
    (root / f"{KIT}.tar.gz").unlink()
    with pytest.raises(UserError, match=f"put {KIT}.tar.gz beside it"):
        read(root)


def in_another_process(work):
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def test_unpacking_that_was_killed_begins_again(root, monkeypatch):
    def killed():
        moved, move = [], shutil.move
        archives.shutil.move = lambda *paths: moved.append(move(*paths)) or (
            len(moved) == 3 and os.kill(os.getpid(), signal.SIGKILL))
        read(root)

    process = in_another_process(killed)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (root / ".unpacking/val").is_dir() and not (root / "val").exists()
    assert targets(read(root)[0]) == WANTED and not (root / ".unpacking").exists()


def test_processes_that_start_together_unpack_once(root, monkeypatch):
    parse = archives.parse_val_archive

    def slow(*arguments):
        with open(root.parent / "unpacked", "a") as file:
            file.write("once\n")
        time.sleep(0.3)
        parse(*arguments)

    monkeypatch.setattr(archives, "parse_val_archive", slow)
    processes = [in_another_process(lambda: read(root)) for _ in range(3)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (root.parent / "unpacked").read_text() == "once\n" and targets(read(root)[0]) == WANTED


@pytest.mark.parametrize("moved, said", [(0, "val holds no class folders: remove it"),
                                         (3, "4 of ImageNet's pictures beside them")])
def test_what_a_killed_torchvision_leaves_is_seen(moved, said, root):
    for i, (name, wnid) in enumerate(zip(WANTED, OF_PICTURES, strict=True)):
        touch(root / "val" / wnid if i < moved else root / "val", name)
    with pytest.raises(UserError, match=said):
        read(root)


def test_a_devkit_with_fewer_lines_than_the_archive_has_pictures(root, monkeypatch):
    path = devkit(root.parent / KIT / "data") / GROUND_TRUTH
    path.write_text(path.read_text()[:-2])
    with tarfile.open(root / f"{KIT}.tar.gz", "w:gz") as tar:
        tar.add(root.parent / KIT, KIT)
    md5 = hashlib.md5((root / f"{KIT}.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setitem(archives.ARCHIVE_META, "devkit", (f"{KIT}.tar.gz", md5))
    shutil.rmtree(root.parent / KIT)
    with pytest.raises(UserError, match="6 classes for 7 pictures"):
        read(root)
    assert not (root / "val").exists()
