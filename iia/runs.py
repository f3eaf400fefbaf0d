"""What every run needs: a device, results that survive a crash, a batch that fits, a list of what was skipped,
and other processes to share the work with."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed

from .errors import UserError

Result = TypeVar("Result")
PATIENCE = timedelta(hours=12)       # how long a process that has finished waits for the others


def pick_device(name: str = "auto") -> torch.device:
    """ "auto" is CUDA, else Apple's MPS, else the CPU; any other name is torch's own.

    Of several processes on a machine (torchrun) each takes a GPU of its own.

    Raises:
        UserError: no such device, or not on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        name = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as why:
        reason = str(why).splitlines()[0]
        raise UserError(f'device {name!r} cannot be used here ({reason}). Allowed: "auto", "cuda", "cuda:1", '
                        '"mps", "cpu".') from why
    return device


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it becomes `path` only when the block has ended well.

    Raises:
        UserError: the folder or the file cannot be written, or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
    except OSError as why:
        raise UserError(f"cannot write to {path.parent} ({why.strerror}).") from why
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as why:
        raise UserError(f"cannot write {path} ({why.strerror or why}).") from why
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: str | Path, values: dict) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2, default=str) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """What a result was made with: torch, torchvision, timm, and this code's revision where git knows it."""
    import timm
    import torchvision
    here = Path(__file__).parent
    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True)
    return {"torch": torch.__version__, "torchvision": torchvision.__version__, "timm": timm.__version__,
            "iia": git.stdout.strip() or "unknown"}


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
                raise UserError("the device's memory does not hold a batch of one; take device=cpu or a smaller "
                                "network.") from why
        torch.cuda.empty_cache()           # outside the handler, whose traceback keeps the tensors alive
        batch_size //= 2
        print(f"warning: out of memory; going on with batch_size={batch_size}", file=sys.stderr)


class Skips:
    """What a run could not use, named as it happens and counted at the end."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def add(self, reason: str) -> None:
        from tqdm import tqdm
        self.reasons.append(reason)
        tqdm.write(f"skipped: {reason}", file=sys.stderr)

    def __len__(self) -> int:
        return len(self.reasons)


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """While the block runs a GPU too adds numbers in a fixed order, so that what is computed twice is the same."""
    if not torch.cuda.is_available():
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")        # cuBLAS asks for it
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def rank() -> int:
    """The number of this process among those that torchrun started; 0 without it."""
    return int(os.environ.get("RANK", 0))


@dataclass(frozen=True)
class Crew:
    """The processes that share a run: this one's number, and how many there are."""
    rank: int = 0
    size: int = 1

    def first(self, work: Callable[[], Result]) -> Result:
        """Run `work` in process 0 alone and hand what it returns to all, or its UserError."""
        answer = [None, None]
        if self.rank == 0:
            try:
                answer[0] = work()
            except UserError as why:
                answer[1] = str(why)
        if self.size > 1:
            self._exchange(torch.distributed.broadcast_object_list, answer)
        if answer[1] is not None:
            raise UserError(answer[1])
        return answer[0]

    def wait(self) -> None:
        """Return when every process has come this far.

        Raises:
            UserError: one of them has stopped.
        """
        if self.size > 1:
            self._exchange(torch.distributed.all_gather_object, [None] * self.size, self.rank)

    def _exchange(self, collective: Callable, *arguments: object) -> None:
        try:
            collective(*arguments)
        except RuntimeError as why:          # a process that dies closes its connections
            raise UserError("another process of this run has stopped; what is done is kept. Start the same "
                            "command again to go on.") from why


@contextlib.contextmanager
def crew() -> Iterator[Crew]:
    """The processes that torchrun started, joined while the block runs; this one alone without torchrun.

    They exchange words, not tensors, and these go over gloo on GPUs too: unlike nccl it notices a
    process that died while the others wait for it.

    Raises:
        UserError: RANK and WORLD_SIZE are set, but not as torchrun does it.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield Crew()
        return
    try:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend, timeout=PATIENCE)
    except (ValueError, RuntimeError) as why:
        raise UserError(f"WORLD_SIZE is {size}, but the processes cannot be joined ({str(why).splitlines()[0]}). "
                        "Start them with torchrun.") from why
    yield Crew(torch.distributed.get_rank(), size)
    torch.distributed.destroy_process_group()      # not after an error: it would wait for those that are gone
