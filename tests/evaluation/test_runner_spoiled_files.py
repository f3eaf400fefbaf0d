"""Files of the resumable loop that a hand, a crash or another run has changed."""

import json

import pytest

from iia.errors import UserError
from tests.evaluation.runs_of_numbers import batches, evaluate, files, whole


def spoil(kind, path, other):
    """Make of a batch's file what a hand, a crash or another run may leave there."""
    content = json.loads(path.read_text())
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "bytes":
        path.write_bytes(b"\xff\xfe\x00")
    elif kind == "deep":
        path.write_text("[" * 100_000)
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "another batch's":
        path.write_bytes(other.read_bytes())
    elif kind in ("a number", "NaN", "a word", "an id", "a row lacks"):
        row = content["rows"][1]
        row |= {"a number": {"value": row["value"] + 1e-9}, "NaN": {"value": float("nan")},
                "a word": {"value": "7"}, "an id": {"id": "n,99"}, "a row lacks": {}}[kind]
        content["rows"] = content["rows"][:-1] if kind == "a row lacks" else content["rows"]
        path.write_text(json.dumps(content))
    else:
        path.write_text(json.dumps(kind))


@pytest.mark.parametrize("kind", ["truncated", "empty", "bytes", "deep", "another batch's", "a number", "NaN",
                                  "a word",
                                  "an id", "a row lacks", [], [1, None], {}, {"rows": 3}, 5, None, "words",
                                  {"rows": [], "versions": {}, "seal": "0"}], ids=str)
def test_a_file_that_is_not_as_it_was_written_is_named_and_computed_again(tmp_path, undisturbed, kind,
                                                                          capsys):
    folder, log = tmp_path / "run", []
    evaluate(folder)
    spoil(kind, batches(folder)[2], batches(folder)[3])
    evaluate(folder, log)
    assert log == [[6, 7, 8]] and files(whole(folder)) == undisturbed
    assert "000006-000008.json is not as it was written" in capsys.readouterr().err


def test_a_folder_in_a_files_place_is_one_sentence(tmp_path):
    evaluate(tmp_path / "run")
    spoil("folder", batches(tmp_path / "run")[2], None)
    with pytest.raises(UserError, match="cannot write .*000006-000008.json"):
        evaluate(tmp_path / "run")


def test_foreign_files_are_left_alone(tmp_path, undisturbed):
    folder, log = tmp_path / "run", []
    evaluate(folder)
    for name in ("notes.txt", "999999-999999.json", "000000-000001.json"):
        (whole(folder) / "batches" / name).write_text("[1, 2]")
    (whole(folder) / "settings.json").write_text('{"identity": ')
    (whole(folder) / "summary.json").write_text("[]")
    evaluate(folder, log)
    assert log == [] and files(whole(folder)) == undisturbed
    assert (whole(folder) / "batches" / "notes.txt").read_text() == "[1, 2]"


def test_another_runs_rows_are_not_believed(tmp_path):
    """A batch's file copied over from a run with another setting."""
    evaluate(tmp_path / "one", steps=1)
    evaluate(tmp_path / "two", steps=2)
    wanted, log = files(whole(tmp_path / "two")), []
    batches(tmp_path / "two")[0].write_bytes(batches(tmp_path / "one")[0].read_bytes())
    evaluate(tmp_path / "two", log, steps=2)
    assert log == [[0, 1, 2]] and files(whole(tmp_path / "two")) == wanted
