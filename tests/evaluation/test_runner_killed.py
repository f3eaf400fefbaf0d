"""The resumable loop after kills, failures, a full disk; killed at each of its disk calls."""

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal

import pytest

from iia.errors import UserError
from tests.evaluation.runs_of_numbers import batches, codes, evaluate, files, start, whole


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


DISK = [(os, "replace"), (os, "fsync"), (os, "mkdir"), (os, "open"), (os, "close"), (os, "unlink")]


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
    with pytest.raises(UserError,
                       match=r"cannot write .*/batches/000000-000002.json \(No space left on device\)"):
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
