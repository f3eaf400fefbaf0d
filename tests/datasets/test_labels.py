"""The names of classes from a file."""

import json

import pytest

from iia.datasets.labels import IMAGENET, ClassNames, read_labels
from iia.errors import UserError

NAMES = ["cat", "great white shark", "Äffchen"]


@pytest.mark.parametrize("file, text", [
    ("names.txt", "cat\n  great white shark \r\n\nÄffchen\n"),
    ("names.json", json.dumps(NAMES)),
    ("names.json", json.dumps({str(number): name for number, name in reversed(list(enumerate(NAMES)))})),
    ("names.JSON", json.dumps({name: number for number, name in reversed(list(enumerate(NAMES)))})),
])
def test_labels_of_every_kind(file, text, tmp_path):
    (tmp_path / file).write_text("\ufeff" + text, encoding="utf-8")
    assert read_labels(tmp_path / file) == NAMES


@pytest.mark.parametrize("text", ["[", "5", '{"cat": 1, "dog": 2}', '{"0": "cat", "2": "dog"}', "null", "[]",
                                  '"abc"', '[["cat"]]', "[" * 100_000])
def test_json_that_names_no_classes(text, tmp_path):
    (tmp_path / "names.json").write_text(text)
    with pytest.raises(UserError, match="labels_file.*names.json.*a name a line"):
        read_labels(tmp_path / "names.json")


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x80")
    (tmp_path / "blank.txt").write_text("\n\n")
    for name in ("absent.txt", "binary.txt", "blank.txt"):
        with pytest.raises(UserError, match=name):
            read_labels(tmp_path / name)


def test_a_thousand_names_of_ones_own_are_not_imagenets():
    names = ClassNames(1000, [f"bird {number}" for number in range(1000)])
    assert names.find("bird 7") == [7] and names.find("tench") == names.find("n01440764") == []
    assert ClassNames(1000, IMAGENET).find("n01440764") == [0]
