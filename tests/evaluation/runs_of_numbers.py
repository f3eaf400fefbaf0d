"""The resumable loop of an evaluation of numbers instead of pictures, in this process and in others.

Its rows depend on a batch as a whole, as those of a network do in their last digits.
"""

import json
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter

import torch

from iia.errors import UserError
from iia.evaluation import runner
from iia.evaluation.rows import by_operation


class Numbers(torch.utils.data.Dataset):
    """Picture i is the number i / 7; those in `broken` cannot be read, and reading `deadly` kills the
    process."""

    def __init__(self, count=23, broken=(), deadly=None):
        self.ids, self.broken, self.deadly = [f"n,{i}" for i in range(count)], broken, deadly

    def __getitem__(self, index):
        if index in self.broken:
            raise UserError(f"number {index} is\nbroken")
        if index == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor(index / 7), self.ids[index]


def evaluate(folder, log=None, count=23, broken=(), deadly=None, batch_size=3, steps=10, die_at=None,
             fail_at=None, slow=0, operations=("once", "thrice"), more=None, headline=lambda rows: {}, **how):
    """Two metrics of each number. The process is killed when picture `die_at` is scored, or fails at
    `fail_at`; a batch takes `slow` seconds, and `log` collects what was scored."""
    def score(batch):
        (numbers,) = batch.fields
        time.sleep(slow)
        if die_at in batch.indices:
            os.kill(os.getpid(), signal.SIGKILL)
        if fail_at in batch.indices:
            raise UserError(f"picture {fail_at} is too much")
        if log is not None:
            log.append(batch.indices)
        return [{"index": index, "operation": operation,
                 "value": float(x.double() * factor + numbers.sum() + steps)}
                for operation, factor in zip(operations, (1, 3)) for index, x in zip(batch.indices, numbers)]

    run = runner.Run(Numbers(count, broken, deadly), folder, operations, {"value": float}, batch_size,
                     {"steps": steps} | (more or {}), {"steps": steps}, **how)
    rows = run.complete(score, "numbers", headline)
    if rows is None:
        return None
    parts = by_operation(rows, operations)
    return run.write(rows, {name: {"mean": part["value"].sum() / len(part)} for name, part in parts.items()})


def start(folder, size=1, of_rank=(), **how):
    """Start `evaluate` in processes of their own, numbered as torchrun does, with {rank: more} arguments for
    some; what they say is in {folder}.{rank}.txt, which batches they score in {folder}.{rank}.log."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=child, args=(folder, rank, size),
                                 kwargs=how | dict(of_rank).get(rank, {}))
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
