"""Whole files, halved batches, devices."""

import errno
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from iia import runs
from iia.errors import UserError


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with pytest.raises(KeyboardInterrupt):
        with runs.whole_file(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt
    assert list(path.parent.iterdir()) == []
    with runs.whole_file(path) as temporary:
        temporary.write_text("whole")
        assert temporary.suffix == ".txt" and not path.exists()
    assert path.read_text() == "whole" and [p.name for p in path.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o007, 0o660)])
def test_a_file_is_readable_as_others_are(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        runs.write_json(tmp_path / "a.json", {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == mode


def test_the_disk_has_a_file_before_it_gets_its_name(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "fsync", lambda handle: calls.append(os.fstat(handle).st_size))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("named"), replace(*names)))
    with runs.whole_file(tmp_path / "a.txt") as temporary:
        temporary.write_text("seven c")
    assert calls == [7, "named"]


def test_what_killed_processes_left_is_swept_and_nothing_else(tmp_path):
    """Of this machine's dead processes, and of other machines a day later; not of living processes."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    living, mine, others, old = (tmp_path / "below" / f"{runs.TEMPORARY}{name}" for name in (
        f"{os.getppid()}-{runs.HOST}-a.json", f"{dead.pid}-{runs.HOST}-b.json",
        f"{dead.pid}-elsewhere-c.json", f"{dead.pid}-elsewhere-d.json"))
    usual = tmp_path / "below" / f"{dead.pid}-{runs.HOST}.json"
    usual.parent.mkdir()
    for path in (living, mine, others, old, usual):
        path.write_text("")
    os.utime(old, (0, time.time() - 2 * runs.DAY))
    runs.sweep(tmp_path)
    assert sorted(usual.parent.iterdir()) == sorted([living, others, usual])
    runs.sweep(tmp_path / "nowhere")


@pytest.mark.parametrize("variables, said", [
    ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two' in the environment"), ({"RANK": ""}, "RANK is ''"),
    ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2 of a WORLD_SIZE of 2"), ({"RANK": "-1"}, "RANK is -1"),
    ({"WORLD_SIZE": "0"}, "WORLD_SIZE is 0")])
def test_numbers_of_processes_that_are_none(variables, said, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=said):
        runs.rank()


def test_processes_are_numbered_as_torchrun_does_it(monkeypatch):
    assert (runs.rank(), runs.world_size()) == (0, 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert (runs.rank(), runs.world_size()) == (1, 3)


def test_an_unfinished_file_of_this_processs_number_is_an_earlier_ones(tmp_path):
    left = tmp_path / f"{runs.TEMPORARY}{os.getpid()}-{runs.HOST}-a.json"
    left.write_text("")
    runs.sweep(tmp_path)
    assert not left.exists()


@pytest.mark.parametrize("before", [(False, False), (True, True), (True, False)])
def test_what_computing_sets_is_set_back(before):
    def now():
        return (torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled())

    own = now()
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    try:
        with runs.computing():
            torch.use_deterministic_algorithms(True, warn_only=True)       # as on a GPU
        assert now() == before
    finally:
        torch.use_deterministic_algorithms(own[0], warn_only=own[1])


def test_each_process_of_a_machine_takes_a_gpu_of_its_own(monkeypatch):
    """By its number on this machine: the sixth of all may be the third here."""
    monkeypatch.setenv("RANK", "7")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "zeros", lambda count, device: torch.ones(count))       # there is none here
    assert str(runs.pick_device()) == "cuda"
    for number, wanted in (("0", "cuda:0"), ("1", "cuda:1"), ("2", "cuda:0")):
        monkeypatch.setenv("LOCAL_RANK", number)
        assert str(runs.pick_device("auto")) == str(runs.pick_device("cuda")) == wanted
    assert str(runs.pick_device("cpu")) == "cpu"


def test_a_machine_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    runs.versions.cache_clear()
    assert runs.versions()["iia"] == "unknown" and runs.versions()["torch"] == torch.__version__
    runs.versions.cache_clear()


def test_other_errors_of_computing_are_not_taken_for_a_reading_process():
    with pytest.raises(RuntimeError, match="^shapes$"), runs.computing():
        raise RuntimeError("shapes")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        with runs.whole_file(tmp_path / "file" / "a.txt"):
            pass


def test_out_of_memory_halves_the_batch(capsys):
    tried = []

    def work(size):
        tried.append(size)
        if size > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return size

    assert runs.with_halving(work, 16) == 4 and tried == [16, 8, 4]
    assert "batch_size=4" in capsys.readouterr().err


def test_a_batch_of_one_that_does_not_fit():
    def work(size):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(UserError, match="batch of one"):
        runs.with_halving(work, 4)


def test_devices():
    assert runs.pick_device("cpu").type == "cpu" and runs.pick_device("auto").type in ("cuda", "mps", "cpu")
    for name in ("gpu", "meta"):
        with pytest.raises(UserError, match=f"'{name}' cannot be used here"):
            runs.pick_device(name)


def test_a_disk_that_is_full(tmp_path):
    said = "cannot write .*map.npy .No space left"
    with pytest.raises(UserError, match=said), runs.whole_file(tmp_path / "map.npy"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/uptime").is_file(), reason="the system does not say when a process began")
def test_how_long_ago_a_process_was_started():
    code = "import time; time.sleep(0.5); from iia.runs import seconds_since_start as s; print(s())"
    begun = time.monotonic()
    said = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                                check=True).stdout)
    assert 0.4 < said <= time.monotonic() - begun
