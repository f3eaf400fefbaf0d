"""ImageNet's validation pictures in the layouts that people have; right are ImageNet's own numbers."""

import hashlib
import io
import multiprocessing
import os
import random
import re
import shutil
import signal
import tarfile
import time

import numpy as np
import pytest
from scipy.io import savemat
from torchvision.datasets import imagenet as archives
from torchvision.datasets.folder import ImageFolder

from iia.datasets.labels import IMAGENET
from iia.datasets.photographs import photograph
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
    assert targets(pics) == {"a.png": 285} and r"\udcff.png" in problem and "no UTF-8" in problem


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
    (lambda at: (at / GROUND_TRUTH).write_bytes(b"\xff\xfe1\n"), "no text in UTF-8"),
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


# ---------------------------------------------------------------------------- the archives

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


# ------------------------------------------------------------------------ names in a list

@pytest.mark.parametrize("name, wanted", [
    ("285", 285), ("Egyptian cat", 285), ("n02124075", 285), ("N02124075", 285), ("EGYPTIAN CAT", 285),
    ("Tinca tinca", 0), ("crane bird", 134), ("toilet paper", 999), ("n03126707", 517)])
def test_names_wordnet_ids_and_synonyms(name, wanted, tmp_path):
    (tmp_path / "pics.txt").write_text(f"my cat.jpg {name}\n")
    (pic,), problems = read(tmp_path, tmp_path / "pics.txt")
    assert (pic.path.name, pic.target, problems) == ("my cat.jpg", wanted, [])


@pytest.mark.parametrize("name, said", [
    ("crane", "'crane' is the name of classes 134, 517; give a number"),
    ("Maillot", "'Maillot' is the name of classes 638, 639"), ("cardigan", "classes 264, 474"),
    ("missile", "classes 657, 744"), ("Egyptain cat", "class 'Egyptain cat' .*Did you mean 'Egyptian cat'"),
    ("toylet paper", "Did you mean 'toilet paper'"), ("n00000001", "class 'n00000001' is no[^?]*$")])
def test_names_that_mean_no_class_or_two(name, said, tmp_path):
    (tmp_path / "pics.txt").write_text(f"my cat.jpg {name}\n")
    pics, problems = read(tmp_path, tmp_path / "pics.txt")
    assert pics == [] and len(problems) == 1
    assert re.search(said, problems[0]), problems


# --------------------------------------------------------------------- a part of the pictures

def listed_in(order, tmp_path):
    (tmp_path / "pics.txt").write_text("".join(f"{name} {number % 3}\n" for name, number in order))
    return tmp_path / "pics.txt"


def test_the_choice_is_the_same_in_whatever_order_the_pictures_are_listed(tmp_path):
    names = [(f"{i:03d}.png", i) for i in range(50)]
    shuffled = random.Random(0).sample(names, 50)
    for how in ({"every_nth": 7}, {"per_class": 4}, {"every_nth": 2, "per_class": 3}):
        one, other = (read(tmp_path, listed_in(order, tmp_path), **how)[0] for order in (names, shuffled))
        one, other = ([(pic.path.name, pic.target) for pic in pics] for pics in (one, other))
        assert one == other == sorted(one)
    assert [pic.path.name for pic in read(tmp_path, tmp_path / "pics.txt", every_nth=20)[0]] == [
        "000.png", "020.png", "040.png"]
    kept = [pic.path.name for pic in read(tmp_path, tmp_path / "pics.txt")[0]]
    assert kept == [name for name, _ in shuffled]                   # without them the list's own order


def test_so_many_of_each_class_by_the_names_hash(tmp_path, capsys):
    names = [(f"{i:03d}.png", i) for i in range(50)]
    pics, _ = read(tmp_path, listed_in(names, tmp_path), per_class=2)
    wanted = {name for rest in range(3)
              for name in sorted((name for name, i in names if i % 3 == rest),
                                 key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:2]}
    assert {pic.path.name for pic in pics} == wanted and len(wanted) == 6
    more, _ = read(tmp_path, tmp_path / "pics.txt", per_class=5)
    assert {pic.path.name for pic in pics} < {pic.path.name for pic in more}
    assert capsys.readouterr().err == ""
    everything, _ = read(tmp_path, tmp_path / "pics.txt", per_class=17)
    assert len(everything) == 50 and "1 of 3 classes have fewer than per_class=17" in capsys.readouterr().err


def test_the_choice_is_the_same_in_every_layout(tmp_path):
    class_folders(tmp_path / "folders")
    devkit(tmp_path)
    touch(tmp_path / "flat", *WANTED)
    for how in ({"every_nth": 3}, {"per_class": 1}):
        one, other = (read(tmp_path / place, **how)[0] for place in ("folders", "flat"))
        assert [(pic.path.name, pic.stem) for pic in one] == [(pic.path.name, pic.stem) for pic in other]


def test_fifty_thousand_lines_take_seconds(tmp_path):
    (touch(tmp_path, "00000.JPEG") / "val.txt").write_text(
        "".join(f"{i:05d}.JPEG {i % 1000}\n" for i in range(50_000)))
    start = time.process_time()
    pics, problems = read(tmp_path, per_class=1)
    assert time.process_time() - start < 5 and len(pics) == 1000 and problems == []
    (tmp_path / "val.txt").write_text("".join(f"{i}.JPEG cat {i}x\n" for i in range(3000)))
    start = time.process_time()         # nothing but unknown names, of which a comparison takes milliseconds
    assert len(read(tmp_path)[1]) == 3000 and time.process_time() - start < 5


def test_a_thousand_files_of_one_name_take_no_longer(tmp_path):
    (tmp_path / "pics.txt").write_text("".join(f"{i}/{j}.png 3\n" for i in range(1000) for j in range(5)))
    start = time.process_time()
    pics, _ = read(tmp_path, tmp_path / "pics.txt")
    assert time.process_time() - start < 2 and len({pic.stem for pic in pics}) == 5000
