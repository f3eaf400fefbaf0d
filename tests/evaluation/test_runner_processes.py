"""The resumable loop in several processes at once."""

import errno
import os
from collections import Counter

import pytest

from iia.evaluation import claims, runner
from iia.evaluation.claims import Claims
from tests.evaluation.runs_of_numbers import batches, codes, evaluate, files, said, scored, start, whole


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
    assert codes(start(folder, 2, slow=0.2)) == [0, 0]
    assert scored(folder, 0, 1) == ([2, 2], Counter("0246")) and files(whole(folder)) == undisturbed


def test_a_process_begins_with_its_own_numbers_and_goes_on_with_the_others(tmp_path, undisturbed,
                                                                           monkeypatch):
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


def test_a_table_that_another_process_has_made_meanwhile_is_left(tmp_path, undisturbed, monkeypatch):
    """The other has ended already, so that nobody claims the table any more."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    folder, table = tmp_path / "run", runner.Run.table

    def late(run):
        monkeypatch.setattr(runner.Run, "table", table)
        assert codes(start(folder)) == [0]                        # which finds all batches done
        return table(run)
    monkeypatch.setattr(runner.Run, "table", late)
    monkeypatch.setattr(runner, "seconds_since_start", lambda: 0.0)
    assert evaluate(folder) is None and files(whole(folder)) == undisturbed
    assert evaluate(folder) is not None                           # a later start says again what there is
    monkeypatch.setattr(runner, "seconds_since_start", lambda: 60.0)
    assert evaluate(folder) is None           # it was started before, and has only now come to look


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
    monkeypatch.setattr(runner, "seconds_since_start", lambda: 0.0)
    assert evaluate(tmp_path / "run")["pictures"] == 23


def test_a_table_that_another_process_is_making_is_not_made_twice(tmp_path, monkeypatch):
    evaluate(tmp_path / "run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(claims.Claims, "take", lambda self, number: number != runner.TABLE)
    assert evaluate(tmp_path / "run") is None


@pytest.mark.parametrize("error, taken", [(errno.EAGAIN, False), (errno.EACCES, False), (errno.ENOLCK, True),
                                          (errno.EOPNOTSUPP, True)])
def test_a_disk_without_locks_refuses_nothing_and_one_with_them_says_who_has_it(error, taken, tmp_path,
                                                                               monkeypatch):
    def refuse(*_):
        raise OSError(error, os.strerror(error))
    held = Claims(tmp_path / "claims")
    monkeypatch.setattr(claims.fcntl, "lockf", refuse)
    assert held.take(3) == taken
