"""Freed memory stays with a script's process, and with no other."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import iia
from iia.memory import keep_freed_memory

FAULTS = '''
import os, resource
import iia
import torch
from iia import settings

def main(found=None):
    """Print the page faults of 16 tensors of 64 MiB, each freed before the next."""
    for _ in range(16):                # until the heap has room for them between other things
        torch.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(16):
        torch.ones(2**24)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, flush=True)

def as_a_script():
    settings.run(main, globals())

def when_asked():
    iia.keep_freed_memory()
    main()

torch.set_num_threads(1)              # so that forking is safe
main()
for way in as_a_script, when_asked:    # each in a process of its own, which has torch already
    if not os.fork():
        try:
            way()
        finally:
            os._exit(0)
    os.wait()
'''


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can keep freed memory")
def test_a_script_keeps_freed_memory(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(FAULTS)
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True,
                         env={"PYTHONPATH": str(Path(__file__).resolve().parents[1])})
    by_default, as_a_script, when_asked = map(int, ran.stdout.split())
    assert max(as_a_script, when_asked) < by_default / 4


def test_a_system_that_cannot_is_left_as_it_is(monkeypatch):
    def no_library(name):
        raise OSError(name)
    monkeypatch.setattr("ctypes.CDLL", no_library)
    assert keep_freed_memory() is False


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="there is no /proc")
def test_memory_and_descriptors_stay_flat_over_300_calls(vgg, vit, pictures, classes):
    """Of a network that was wrapped once, and of one that each call wraps."""
    def used():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20, \
            len(os.listdir("/proc/self/fd"))

    models = [iia.wrap(vgg, image_size=16), iia.wrap(vit)]
    after = []
    for number in range(300):
        model = vgg if number % 50 == 49 else models[number % 2]
        iia.explain(model, pictures, (classes + number) % 7, "iia" if number % 3 else "iia-triple", steps=1)
        if number in (99, 299):
            after.append(used())
    (memory, files), (memory_at_end, files_at_end) = after
    assert files_at_end == files and memory_at_end < memory + 30, after
