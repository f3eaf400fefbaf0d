"""The resumable loop, on an evaluation of numbers instead of pictures.

Its rows depend on a batch as a whole, as those of a network do in their last digits.
"""

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter

import pandas as pd
import pytest
import torch

import iia
from iia import runs
from iia.errors import UserError
from iia.evaluation import claims, runner
from iia.evaluation.identity import HARMLESS, digest, file_signatures, fingerprint, identity, weights_of
from iia.evaluation.rows import by_operation, in_words
from iia.runs import computing
from iia.settings import Settings
from tests.evaluation.toys import Scrambles


class Numbers(torch.utils.data.Dataset):
    """Picture i is the number i / 7; those in `broken` cannot be read, and reading `deadly` kills the process."""

    def __init__(self, count=23, broken=(), deadly=None):
        self.ids, self.broken, self.deadly = [f"n,{i}" for i in range(count)], broken, deadly

    def __getitem__(self, index):
        if index in self.broken:
            raise UserError(f"number {index} is\nbroken")
        if index == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor(index / 7), self.ids[index]


def evaluate(folder, log=None, count=23, broken=(), deadly=None, batch_size=3, steps=10, die_at=None, fail_at=None,
             slow=0, operations=("once", "thrice"), more=None, headline=lambda rows: "", **how):
    """Two metrics of each number. The process is killed when picture `die_at` is scored, or fails at `fail_at`; a batch
    takes `slow` seconds, and `log` collects what was scored."""
    run = runner.Run(Numbers(count, broken, deadly), folder, operations, {"value": float}, batch_size, **how)
    run.begin({"steps": steps} | (more or {}), {"steps": steps})
    with computing():
        for batch in run.todo("numbers", headline):
            (numbers,) = batch.fields
            time.sleep(slow)
            if die_at in batch.indices:
                os.kill(os.getpid(), signal.SIGKILL)
            if fail_at in batch.indices:
                raise UserError(f"picture {fail_at} is too much")
            if log is not None:
                log.append(batch.indices)
            run.save(batch, [{"index": index, "operation": operation,
                              "value": float(x.double() * factor + numbers.sum() + steps)}
                             for operation, factor in zip(operations, (1, 3)) for index, x in zip(batch.indices, numbers)])
    rows = run.table()
    if rows is None:
        return None
    parts = by_operation(rows, operations)
    return run.write(rows, {name: {"mean": own["value"].sum() / len(own)} for name, own in parts.items()})


def start(folder, size=1, of_rank=(), **how):
    """Start `evaluate` in processes of their own, numbered as torchrun does, with {rank: more} arguments for some; what
    they say is in {folder}.{rank}.txt, which batches they score in {folder}.{rank}.log."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=child, args=(folder, rank, size), kwargs=how | dict(of_rank).get(rank, {}))
                 for rank in range(size)]
    for process in processes:
        process.start()
    return processes


def child(folder, rank, size, name="", **how):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size)}
    with (open(f"{folder}.{name or rank}.txt", "w") as sys.stderr,
          open(f"{folder}.{name or rank}.log", "w", buffering=1) as file):
        class Log(list):
            def append(self, indices):
                print(indices[0] // 3, file=file)
        try:
            evaluate(folder, Log(), **how)
        except UserError as why:
            print(why, file=sys.stderr)
            sys.exit(1)


def codes(processes):
    """The exit codes of processes; one that hangs fails the test."""
    for process in processes:
        process.join(30)
        process.kill() if process.exitcode is None else None
    return [process.exitcode for process in processes]


def said(folder, name):
    return open(f"{folder}.{name}.txt").read()


def scored(folder, *names):
    """How many batches each process scored, and how often each batch was."""
    lists = [open(f"{folder}.{name}.log").read().split() for name in names]
    return [len(own) for own in lists], Counter(batch for own in lists for batch in own)


def whole(folder):
    """The one folder of results whose name begins so."""
    found, = (path for path in folder.parent.glob(f"{folder.name}_????????") if path.is_dir())
    return found


def files(folder):
    """What must be the same to the last digit, however the run went."""
    summary = json.loads((folder / "summary.json").read_text())
    return summary["figures"], summary["skipped"], (folder / "per_image.csv").read_text()


def batches(folder):
    return sorted((whole(folder) / "batches").glob("*.json"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    evaluate(folder)
    return files(whole(folder))


# ------------------------------------------------------------------------------ one run

def test_the_files_hold_the_rows(tmp_path):
    summary = evaluate(tmp_path / "run", count=4, batch_size=3, steps=0)
    # rows are x·factor + Σ of the batch: batches (0, 1/7, 2/7) and (3/7,)
    values = {f: [i / 7 * f + (3 / 7) for i in range(4)] for f in (1, 3)}
    assert summary["figures"]["once"]["mean"] == pytest.approx(sum(values[1]) / 4, rel=1e-6)
    assert summary["figures"]["thrice"]["mean"] == pytest.approx(sum(values[3]) / 4, rel=1e-6)
    assert summary["pictures"] == 4
    folder = whole(tmp_path / "run")
    lines = (folder / "per_image.csv").read_text().splitlines()
    assert lines[0] == "index,id,operation,skipped,degenerate,value" and len(lines) == 9
    assert lines[1].startswith('0,"n,0",once,,0,') and lines[2].startswith('0,"n,0",thrice,,0,')
    rows = pd.read_csv(folder / "per_image.csv")
    assert rows["value"][rows["operation"] == "once"].sum() / 4 == summary["figures"]["once"]["mean"]     # every digit
    for name in ("summary.json", "settings.json"):
        record = json.loads((folder / name).read_text())
        assert record["settings"] == {"steps": 0} and record["versions"]["torch"] == torch.__version__
        assert record["identity"]["steps"] == 0 and record["identity"]["pictures together"] == 3
    assert {path.name for path in folder.iterdir()} == {".claims", "batches", "per_image.csv", "settings.json", "summary.json"}


def test_a_finished_run_computes_nothing(tmp_path, undisturbed):
    folder, log = tmp_path / "run", []
    evaluate(folder)
    evaluate(folder, log)
    assert log == [] and files(whole(folder)) == undisturbed


def test_reading_processes_change_nothing(tmp_path, undisturbed):
    evaluate(tmp_path / "run", num_workers=2)
    assert files(whole(tmp_path / "run")) == undisturbed


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_reading_process_that_is_killed_is_one_sentence(tmp_path, num_workers):
    folder = tmp_path / "run"
    assert codes(start(folder, deadly=22, num_workers=num_workers)) == [1]
    last = said(folder, 0).splitlines()[-1]
    assert "a process that reads pictures has stopped" in last and last.endswith("if memory is short.")
    assert "Traceback" not in said(folder, 0) and batches(folder)


def test_the_bar_shows_the_metrics_so_far(tmp_path, capsys):
    def headline(rows):
        return in_words({"once": {"mean": rows["value"].mean(), "more": 1}}, ["mean"], 100)
    evaluate(tmp_path / "run", count=6, max_images=3, headline=headline)
    capsys.readouterr()
    evaluate(tmp_path / "run", count=6, headline=headline)
    shown = capsys.readouterr().err
    first, second = (i / 7 * 2 for i in range(3)), (i / 7 * 2 for i in range(3, 6))
    mean = (sum(first) + sum(second)) / 6 + (3 / 7 + 12 / 7) / 2 + 10
    assert "6/6 " in shown and f"once mean {100 * mean:.4g}" in shown         # of the earlier rows, too


def test_the_bars_metrics_cost_next_to_nothing(tmp_path):
    """They are made of all rows so far, so they are made anew only when there are a tenth more."""
    made = []
    evaluate(tmp_path / "run", count=100, batch_size=1, headline=lambda rows: made.append(len(rows)) or "")
    assert made[:2] == [2, 4] and len(made) < 40 and all(b >= 1.1 * a for a, b in zip(made, made[1:]))


# ------------------------------------------------------------------------ kills and failures

def test_killed_then_resumed_is_as_undisturbed(tmp_path, undisturbed):
    folder, log = tmp_path / "run", []
    assert codes(start(folder, die_at=13)) == [-9]
    evaluate(folder, log)
    assert log == [[12, 13, 14], [15, 16, 17], [18, 19, 20], [21, 22]]
    assert files(whole(folder)) == undisturbed


def test_killed_twenty_times_at_random(tmp_path, undisturbed):
    folder, chance = tmp_path / "run", random.Random(0)
    for _ in range(20):
        process, = start(folder, slow=0.01)
        process.join(chance.uniform(0, 0.12))
        process.kill()
        process.join()
        for path in tmp_path.glob("run_*/**/[!.]*.json"):
            json.loads(path.read_text())                                      # whole, or not there
    evaluate(folder)
    assert files(whole(folder)) == undisturbed


DISK = [(os, "replace"), (os, "fsync"), (os, "chmod"), (os, "mkdir"), (os, "close"), (os, "unlink"),
        (runs.tempfile, "mkstemp")]


def killed_at(folder, number, behind):
    """Run in a process that is killed at its disk call of that number, before or behind it."""
    calls = 0

    def counted(function):
        def call(*arguments, **named):
            nonlocal calls
            calls += 1
            if calls == number and not behind:
                os.kill(os.getpid(), signal.SIGKILL)
            this = calls
            try:
                return function(*arguments, **named)
            finally:
                if this == number:
                    os.kill(os.getpid(), signal.SIGKILL)
        return call
    for module, name in DISK:
        setattr(module, name, counted(getattr(module, name)))
    evaluate(folder, count=5, broken=(4,))


@pytest.mark.parametrize("behind", [False, True])
def test_killed_at_each_disk_call(tmp_path, behind, capfd):
    evaluate(tmp_path / "whole", count=5, broken=(4,))
    wanted, context, number = files(whole(tmp_path / "whole")), multiprocessing.get_context("fork"), 0
    code = -9
    while code == -9:
        number += 1
        folder = tmp_path / f"run{number}"
        process = context.Process(target=killed_at, args=(folder, number, behind))
        process.start()
        (code,) = codes([process])
        evaluate(folder, count=5, broken=(4,))
        assert files(whole(folder)) == wanted
        assert not list(whole(folder).rglob(".tmp-*"))                        # the next start has swept them
    assert code == 0 and number > 20


def test_a_failure_keeps_what_was_done(tmp_path, undisturbed):
    folder, log = tmp_path / "run", []
    with pytest.raises(UserError, match="too much"):
        evaluate(folder, fail_at=10)
    assert not (whole(folder) / "summary.json").exists()
    evaluate(folder, log)
    assert log[0] == [9, 10, 11] and files(whole(folder)) == undisturbed


def test_a_full_disk_is_one_sentence_that_names_the_file(tmp_path, undisturbed, monkeypatch):
    folder, log, sync = tmp_path / "run", [], os.fsync

    def full(handle):
        if log:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*/batches/000000-000002.json \(No space left on device\)"):
        evaluate(folder, log)
    assert not batches(folder) and not list(whole(folder).rglob(".tmp-*"))
    monkeypatch.setattr(os, "fsync", sync)
    evaluate(folder)
    assert files(whole(folder)) == undisturbed


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        evaluate(tmp_path / "file" / "run")
    evaluate(tmp_path / "run")
    shutil.rmtree(whole(tmp_path / "run") / "batches")
    (whole(tmp_path / "run") / "batches").write_text("")
    with pytest.raises(UserError, match="cannot write to .*batches"):
        evaluate(tmp_path / "run")


# -------------------------------------------------------------------- files of other hands

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
        row |= {"a number": {"value": row["value"] + 1e-9}, "NaN": {"value": float("nan")}, "a word": {"value": "7"},
                "an id": {"id": "n,99"}, "a row lacks": {}}[kind]
        content["rows"] = content["rows"][:-1] if kind == "a row lacks" else content["rows"]
        path.write_text(json.dumps(content))
    else:
        path.write_text(json.dumps(kind))


@pytest.mark.parametrize("kind", ["truncated", "empty", "bytes", "deep", "another batch's", "a number", "NaN", "a word",
                                  "an id", "a row lacks", [], [1, None], {}, {"rows": 3}, 5, None, "words",
                                  {"rows": [], "versions": {}, "seal": "0"}], ids=str)
def test_a_file_that_is_not_as_it_was_written_is_named_and_computed_again(tmp_path, undisturbed, kind, capsys):
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


# ---------------------------------------------------------------------------- identities

@pytest.mark.parametrize("change", [{"steps": 11}, {"batch_size": 2}, {"count": 6}, {"operations": ("once",)},
                                    {"more": {"new": None}}, {"operations": ("thrice", "once")}])
def test_each_identity_has_a_folder_of_its_own(tmp_path, change):
    """A setting that changed, came, or went: nothing is moved, nothing believed."""
    usual, log = {"count": 5}, []
    evaluate(tmp_path / "run", **usual)
    before = files(whole(tmp_path / "run"))
    evaluate(tmp_path / "run", log, **usual | change)
    first, second = sorted(tmp_path.glob("run_*"), key=lambda path: path.stat().st_ctime_ns)
    assert sum(map(len, log)) == (usual | change)["count"]
    log.clear()
    evaluate(tmp_path / "run", log, **usual)
    assert log == [] and before in (files(first), files(second)) and len(list(tmp_path.iterdir())) == 2


def test_more_pictures_continue_and_fewer_leave_the_table_of_more(tmp_path, undisturbed):
    folder, log = tmp_path / "run", []
    assert evaluate(folder, log, max_images=7)["pictures"] == 7
    assert log[-1] == [6]
    seven = files(whole(folder) / "first_7")
    log.clear()
    assert evaluate(folder, log, max_images=20)["pictures"] == 20
    assert log[0] == [6, 7, 8] and log[-1] == [18, 19]                       # batches are whole
    log.clear()
    evaluate(folder, log, max_images=100)
    assert log == [[18, 19, 20], [21, 22]]
    assert files(whole(folder)) == undisturbed
    log.clear()
    assert evaluate(folder, log, max_images=7)["pictures"] == 7
    assert log == [] and files(whole(folder) / "first_7") == seven and files(whole(folder)) == undisturbed


def test_versions_that_changed_under_a_resume_are_said(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="too much"):
        evaluate(tmp_path / "run", fail_at=10)
    before = runs.versions()
    monkeypatch.setattr(runner, "versions", lambda: before | {"torch": "9.9"})
    summary = evaluate(tmp_path / "run")
    assert summary["versions"]["torch"] == "9.9" and summary["begun with versions"] == before
    assert "begun with versions" not in evaluate(tmp_path / "other")


def test_fingerprint_tells_weights_and_statistics_apart():
    torch.manual_seed(0)
    one, same = (torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.BatchNorm2d(3)) for _ in range(2))
    same.load_state_dict(one.state_dict())
    assert fingerprint(one) == fingerprint(same)
    same[1].running_mean += 1e-6
    assert fingerprint(one) != fingerprint(same)
    same.load_state_dict(one.state_dict())
    with torch.no_grad():
        same[0].weight[0, 0] += 1e-6
    assert fingerprint(one) != fingerprint(same)
    assert fingerprint(one) != fingerprint(one.bfloat16())


def test_a_table_knows_a_network_by_its_own_weights_and_not_by_its_quicker_copies(vgg):
    model = iia.wrap(vgg, image_size=16)
    before, whole = weights_of(model), fingerprint(model)
    model.quick = torch.nn.Linear(2, 2)                     # as another machine may have rounded it
    assert weights_of(model) == before == fingerprint(model.whole) and fingerprint(model) != whole


def test_a_setting_that_changes_comes_or_goes_is_another_identity():
    model = Scrambles()
    base = {"definition": "paper", "steps": 5, "device": "cpu", "num_workers": 2, "FEATURE_LAYER_NUMBER": "last"}
    usual = identity(model, Settings(**base), 3)
    for change in ({"steps": 6}, {"definition": "release"}, {"new": None}):
        assert identity(model, Settings(**base | change), 3) != usual, change
    assert identity(model, Settings(**{name: base[name] for name in base if name != "steps"}), 3) != usual
    assert identity(model, Settings(**base), 4) != usual != identity(model, Settings(**base), 3, maps="1-a")
    assert identity(model, Settings(**base | {"device": "cuda", "num_workers": 0, "FEATURE_LAYER_NUMBER": 3}), 3) == usual
    assert not HARMLESS & {"definition", "precision", "batch_size", "figures", "explained_class", "heatmaps_dir",
                           "images_dir", "INTERPOLATION_STEPS", "ITERATION_STEPS"}


def test_a_file_of_equal_size_that_was_replaced_has_another_signature(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    before = file_signatures([path, tmp_path / "none"])
    assert before == file_signatures([path, tmp_path / "none"]) and before[1].endswith("none missing")
    path.write_text("two")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert file_signatures([path])[0] != before[0]
    assert digest(["a", "b"]) != digest(["ab"]) != digest(["a,b"])


# ------------------------------------------------------------------------ broken pictures

def test_broken_pictures_are_named_counted_and_tried_again(tmp_path, undisturbed, capsys):
    folder, log = tmp_path / "run", []
    summary = evaluate(folder, broken=(4, 5))
    assert summary["skipped"] == {"count": 2, "reasons": ["n,4: number 4 is broken", "n,5: number 5 is broken"]}
    assert summary["pictures"] == 21
    assert "skipped: n,4: number 4 is broken" in capsys.readouterr().err
    rows = pd.read_csv(whole(folder) / "per_image.csv")
    assert rows["value"].notna().sum() == 42 and rows["index"].tolist() == sorted(rows["index"])      # no zeros instead
    evaluate(folder, log, broken=(4, 5))
    assert log == []
    evaluate(folder, log, broken=(4,))
    assert log == [[3, 5]]
    evaluate(folder, log)
    assert log == [[3, 5], [3, 4, 5]] and files(whole(folder)) == undisturbed


def test_nothing_usable_is_an_error(tmp_path):
    with pytest.raises(UserError, match="none of the 2 pictures could be used; the first: n,0: number 0 is broken"):
        evaluate(tmp_path / "run", count=2, broken=(0, 1))


def test_what_is_skipped_or_degenerate_is_counted(tmp_path):
    run = runner.Run(Numbers(4), tmp_path / "run", ["a"], {"x": int, "y": float}, 2)
    run.begin({}, {})
    for batch in run.todo():
        run.save(batch, [{"index": i, "operation": "a", "skipped": "no map"} if i == 1 else
                         {"index": i, "operation": "a", "x": i, "y": float("nan"), "degenerate": int(i == 2)}
                         for i in batch.indices])
    rows = run.table()
    summary = run.write(rows, {"a": {"x": 5}}, more="said")
    assert summary["degenerate"] == {"a": 1} and summary["more"] == "said" and summary["pictures"] == 3
    assert summary["skipped"] == {"count": 1, "reasons": ["n,1 a: no map"]}
    assert "NaN" not in batches(tmp_path / "run")[0].read_text()
    assert (run.folder / "per_image.csv").read_text().splitlines()[1:] == [
        '0,"n,0",a,,0,0,', '1,"n,1",a,no map,0,,', '2,"n,2",a,,1,2,', '3,"n,3",a,,0,3,']


def test_what_is_forgotten_is_computed_again(tmp_path, undisturbed):
    evaluate(tmp_path / "run")
    run = runner.Run(Numbers(), tmp_path / "run", ["once", "thrice"], {"value": float}, 3)
    run.begin({"steps": 10}, {})
    run.forget([7, 8, 22])
    log = []
    evaluate(tmp_path / "run", log)
    assert log == [[6, 7, 8], [21, 22]] and files(whole(tmp_path / "run")) == undisturbed


# ---------------------------------------------------------------------- several processes

@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_are_as_one(tmp_path, undisturbed, size):
    folder = tmp_path / "run"
    assert codes(start(folder, size, slow=0.1)) == [0] * size
    own, each = scored(folder, *range(size))
    assert files(whole(folder)) == undisturbed
    assert set(each.values()) == {1} and len(each) == 8 and min(own) >= 1


def test_processes_without_locks_do_some_work_twice_and_nothing_wrong(tmp_path, undisturbed, monkeypatch):
    monkeypatch.setattr(claims, "fcntl", None)
    folder = tmp_path / "run"
    assert codes(start(folder, 2, slow=0.02)) == [0, 0]
    assert files(whole(folder)) == undisturbed and len(scored(folder, 0, 1)[1]) == 8


def test_the_share_is_even_after_a_resume(tmp_path, undisturbed):
    """Left are the batches whose numbers are process 0's alone."""
    folder = tmp_path / "run"
    evaluate(folder)
    for path in batches(folder)[::2]:
        path.unlink()
    assert codes(start(folder, 2, slow=0.1)) == [0, 0]
    assert scored(folder, 0, 1) == ([2, 2], Counter("0246")) and files(whole(folder)) == undisturbed


def test_a_process_begins_with_its_own_numbers_and_goes_on_with_the_others(tmp_path, undisturbed, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "1")
    log = []
    evaluate(tmp_path / "run", log)
    assert [indices[0] // 3 for indices in log] == [1, 4, 7, 0, 2, 3, 5, 6]
    assert files(whole(tmp_path / "run")) == undisturbed


def test_what_a_dead_process_leaves_is_done_by_the_others(tmp_path, undisturbed):
    folder = tmp_path / "run"
    assert codes(start(folder, 2, slow=0.15, of_rank={1: {"die_at": 10, "slow": 0}})) == [0, -9]
    assert files(whole(folder)) == undisturbed and scored(folder, 0)[1]["3"] == 1


def test_the_same_command_twice_at_once_shares_the_work(tmp_path, undisturbed):
    folder = tmp_path / "run"
    processes = [process for name in "ab" for process in start(folder, slow=0.05, name=name)]
    assert codes(processes) == [0, 0]
    own, each = scored(folder, *"ab")
    assert files(whole(folder)) == undisturbed and set(each.values()) == {1} and min(own) >= 2


@pytest.mark.parametrize("two", [{"steps": 20}, {"max_images": 7}])
def test_different_commands_at_once_never_mix(tmp_path, undisturbed, two):
    folder = tmp_path / "run"
    evaluate(tmp_path / "alone", **two)
    processes = start(folder, slow=0.02, name="a") + start(folder, slow=0.02, name="b", **two)
    assert codes(processes) == [0, 0]
    found = [files(path.parent) for path in tmp_path.glob("run_*/**/summary.json")]
    (wanted,) = (files(path.parent) for path in tmp_path.glob("alone_*/**/summary.json"))
    assert len(found) == 2 and undisturbed in found and wanted in found and wanted != undisturbed


def test_one_of_several_processes_makes_the_table(tmp_path, undisturbed):
    """The others say so, or nothing: also where all was done before."""
    folder = tmp_path / "run"
    for _ in range(2):
        assert codes(start(folder, 2, slow=0.02)) == [0, 0]
    (whole(folder) / "summary.json").unlink()
    assert codes(start(folder, 2, of_rank={0: {"fail_at": 0}})[1:]) == [0]
    batches(folder)[0].unlink()
    assert codes(start(folder, 2, of_rank={0: {"slow": 0.5}})) == [0, 0]
    assert "1 of 8 batches are computed by another process" in said(folder, 1) or scored(folder, 1)[0] == [1]
    assert files(whole(folder)) == undisturbed


def test_an_idle_process_leaves_the_table_to_the_first(tmp_path, monkeypatch):
    evaluate(tmp_path / "run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert evaluate(tmp_path / "run") is None
    monkeypatch.setenv("RANK", "0")
    assert evaluate(tmp_path / "run")["pictures"] == 23


def test_a_table_that_another_process_is_making_is_not_made_twice(tmp_path, monkeypatch):
    evaluate(tmp_path / "run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(claims.Claims, "take", lambda self, number: number != runner.TABLE)
    assert evaluate(tmp_path / "run") is None
