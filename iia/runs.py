"""What every run needs: a device, files that survive a crash, a batch that fits, and a list of what was
skipped."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import torch
from tqdm import tqdm

from .errors import UserError, first_line

Result = TypeVar("Result")
TEMPORARY = ".tmp-"               # what the names of unfinished files begin with
HOST = socket.gethostname()[:40]
DAY = 24 * 60 * 60                # seconds


def pick_device(name: str = "auto") -> torch.device:
    """ "auto" is CUDA, else Apple's MPS, else the CPU; any other name is torch's own.

    Of several processes on a machine (torchrun) each takes a GPU of its own.

    Raises:
        UserError: no such device, or not on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        name = f"cuda:{_number('LOCAL_RANK', 0) % torch.cuda.device_count()}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()            # "meta" has no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as why:
        said = first_line(why).partition(". ")[0]
        raise UserError(f'device {name!r} cannot be used here ({said}). Allowed: "auto", "cuda", "cuda:1", '
                        '"mps", "cpu".') from why
    return device


# ------------------------------------------------------------------------------- files

@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it becomes `path` once the block has ended well and the
    disk has it.

    Raises:
        UserError: the folder or the file cannot be written, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{HOST}-{uuid4().hex}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
    except OSError as why:
        raise UserError(f"cannot write to {path.parent} ({why.strerror}).") from why
    try:
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as why:
        raise UserError(f"cannot write {path} ({why.strerror or why}).") from why
    finally:
        temporary.unlink(missing_ok=True)


def sweep(folder: str | Path) -> None:
    """Remove the unfinished files that killed processes left in a folder and below it.

    Files of this machine's living processes stay, and files of other machines until they are a day old.
    """
    for path in Path(folder).rglob(f"{TEMPORARY}*"):
        pid, _, rest = path.name.removeprefix(TEMPORARY).partition("-")
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > DAY or (
                    pid.isdecimal() and rest.startswith(f"{HOST}-") and not _alive(int(pid))):
                path.unlink()


def _alive(pid: int) -> bool:
    """Whether another process of this number is running; True where the system cannot say."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except PermissionError:                # someone else's
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return pid != os.getpid()


def write_json(path: str | Path, values: dict) -> None:
    """Write `values` as a whole file of JSON; what JSON does not know is written as text."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, default=str) + "\n", encoding="utf-8")


@cache
def versions() -> dict[str, str]:
    """What a result was made with: torch, torchvision, timm, and this code's revision where git knows it,
    else the version that pip installed."""
    import timm
    import torchvision
    root = Path(__file__).parents[1]
    try:
        # an installed package may lie inside somebody else's repository
        revision = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True,
                                  text=True).stdout.strip() if (root / ".git").exists() else version("iia")
    except (OSError, PackageNotFoundError):                # no git
        revision = ""
    return {"torch": torch.__version__, "torchvision": torchvision.__version__, "timm": timm.__version__,
            "iia": revision or "unknown"}


# --------------------------------------------------------------------------- computing

def with_halving(work: Callable[[int], Result], batch_size: int) -> Result:
    """`work(batch_size)`; where a GPU's memory does not hold it, again with half the batch.

    Raises:
        UserError: not even a batch of one fits.
    """
    while True:
        try:
            return work(batch_size)
        except torch.OutOfMemoryError as why:
            if batch_size == 1:
                raise UserError("the device's memory does not hold a batch of one; take device=cpu or a "
                                "smaller network.") from why
        torch.cuda.empty_cache()           # outside the handler, whose traceback keeps the tensors alive
        batch_size //= 2
        print(f"warning: out of memory; going on with batch_size={batch_size}", file=sys.stderr)


class Skips:
    """What a run could not use: each is named when it happens, and all are counted at the end."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def add(self, reason: str) -> None:
        self.reasons.append(reason)
        tqdm.write(f"skipped: {reason}", file=sys.stderr)

    def __len__(self) -> int:
        return len(self.reasons)


@contextlib.contextmanager
def computing() -> Iterator[None]:
    """While the block runs, a GPU too adds numbers in a fixed order, so that a second run gives the same
    numbers.

    Raises:
        UserError: a process that reads pictures for a DataLoader was killed.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")        # cuBLAS asks for it
    enabled, warn_only = (torch.are_deterministic_algorithms_enabled(),
                          torch.is_deterministic_algorithms_warn_only_enabled())
    if torch.cuda.is_available():
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    except (RuntimeError, OSError, EOFError) as why:
        if hasattr(signal, "SIGCHLD"):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)        # torch would report the death once more
        files = [frame.f_code.co_filename for frame, _ in traceback.walk_tb(why.__traceback__)]
        if "DataLoader worker" not in str(why) and not any("multiprocessing" in name for name in files):
            raise
        reason = str(why).strip() or type(why).__name__
        raise UserError(f"a process that reads pictures has stopped ({reason}). What is done is kept; "
                        "start the same command again, with a smaller num_workers if memory is "
                        "short.") from why
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)


# ----------------------------------------------------------------------- other processes

def rank() -> int:
    """The number of this process among those that torchrun started; 0 without it.

    Raises:
        UserError: RANK and WORLD_SIZE do not count processes.
    """
    number, size = _number("RANK", 0), world_size()
    if not 0 <= number < size:
        raise UserError(f"RANK is {number} of a WORLD_SIZE of {size}; it is 0 to {size - 1}. torchrun sets "
                        "both.")
    return number


def world_size() -> int:
    """How many processes torchrun started; 1 without it. Raises UserError as `rank`."""
    size = _number("WORLD_SIZE", 1)
    if size < 1:
        raise UserError(f"WORLD_SIZE is {size}; it is at least 1. torchrun sets it.")
    return size


def seconds_since_start() -> float:
    """How long ago this process was started, rather too little than too much; 0 where the system does not
    say so (Linux does)."""
    try:
        began = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])     # in ticks
        since = float(Path("/proc/uptime").read_text().split()[0]) - began / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
    return max(0.0, since - 0.05)             # both are rounded to a hundredth


def _number(variable: str, otherwise: int) -> int:
    text = os.environ.get(variable, str(otherwise))
    try:
        return int(text)
    except ValueError as why:
        raise UserError(f"{variable} is {text!r} in the environment; it is a whole number. torchrun sets "
                        "it.") from why
