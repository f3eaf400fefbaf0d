"""Classes by name in a list, and a part of the pictures that is the same for everyone."""

import hashlib
import random
import re
import time

import pytest

from .test_imagenet import WANTED, class_folders, devkit, read, touch


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
