"""Whole files, halved batches, devices."""

import errno
import stat

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
    assert path.read_text() == "whole" and [p.name for p in path.parent.iterdir()] == ["a.txt"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o600 == 0o600


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
    with pytest.raises(UserError, match="'gpu' cannot be used here"):
        runs.pick_device("gpu")


def test_a_disk_that_is_full(tmp_path):
    with pytest.raises(UserError, match="cannot write .*map.npy .No space left"), runs.whole_file(tmp_path / "map.npy"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())
