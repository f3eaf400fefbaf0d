"""A table of metrics that survives a crash and that several processes can share.

    run = Run(dataset, folder, operations, columns, batch_size, identity, settings)
    rows = run.complete(score)                   # None where another process makes the table
    summary = run.write(rows, metrics)

    {folder}_{hash of the identity}/
      batches/000000-000007.json                 the rows of pictures 0 to 7: written whole, or not there
      per_image.csv, summary.json                the table, once all batches are there
      first_100/per_image.csv, summary.json      the same of the first 100 pictures, where max_images limits
      them

A batch holds the same pictures whenever and wherever it is computed, and the table is made of all rows in the
data set's order. So an undisturbed run, a resumed one and one of several processes give the same metrics, to
the last digit as long as the device computes the same. (On CPUs a convolution's last digits depend on the
number of threads, of which torchrun gives one to each process; OMP_NUM_THREADS sets it.)
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..choosing import of_paths
from ..errors import UserError
from ..runs import (Skips, computing, pick_device, rank, seconds_since_start, sweep, versions, whole_file,
                    world_size, write_json)
from ..settings import Settings
from .batches import Batch, Batches
from .claims import Claims
from .identity import digest, identity
from .rows import FIRST_COLUMNS, Metrics, Row, by_operation, frame, in_words, measured, skip_message

TABLE = 2**40   # what the table itself is claimed as; no batch has this number
GROWTH = 1.1    # the progress bar's metrics are computed again each time the rows grow by this factor


class Run:
    """The batches of a data set, and the folder where their rows are kept.

    A new `Run` prepares the folder, and looks through what earlier runs of the same identity left in it.

    Args:
        dataset: yields (..., id) and has `ids`, the ids of all its pictures in order. It raises UserError for
            a picture that cannot be used: that picture is named, counted and left out.
        folder: where the results go; a hash of the identity is added to its name.
        operations: the table's rows. columns: what is measured, {name: int, float or str}.
        batch_size: how many pictures are scored together.
        identity: whatever can change a number: network, `fingerprint` of the weights, steps, ... The
            arguments above are added to it.
        settings: all of the script's, for the record.
        max_images: use the first so many pictures of the data set; None = all.
        num_workers: how many processes read pictures while the device computes.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, dataset: Dataset, folder: str | Path, operations: Iterable[str],
                 columns: dict[str, type], batch_size: int, identity: dict, settings: dict,
                 max_images: int | None = None, num_workers: int = 0) -> None:
        ids = list(dataset.ids)
        self.operations, self.columns, self.num_workers = list(operations), columns, num_workers
        self.batches = Batches(dataset, ids[:max_images], batch_size)
        identity = {"operations": self.operations, **identity, "pictures together": batch_size,
                    "data set": digest(ids), "columns": [*FIRST_COLUMNS, *columns]}
        self.key = hashlib.sha256(json.dumps(identity, default=str, sort_keys=True).encode()).hexdigest()
        self.record = {"identity": identity, "settings": settings, "versions": versions()}
        whole, used = Path(f"{folder}_{self.key[:8]}"), len(self.batches.ids)
        self.folder, self.kept = whole if used == len(ids) else whole / f"first_{used}", whole / "batches"
        self.rank, self.size, self.skips = rank(), world_size(), Skips()
        sweep(whole)
        write_json(self.folder / "settings.json", self.record)
        now = (self.folder / "settings.json").stat().st_mtime_ns            # by the clock of the disk
        self.started = now - int(1e9 * seconds_since_start())
        self.claims = Claims(self.folder / ".claims")           # of those that make the same table
        self.seconds, self.seen = 0.0, []            # how long this process has computed; the rows so far
        for k in range(len(self.batches)):
            self.seen += self.kept_rows(k)

    def file(self, k: int) -> Path:
        """Where the rows of batch k are."""
        members = self.batches.members(k)
        return self.kept / f"{members[0]:06d}-{members[-1]:06d}.json"

    def saved(self, k: int) -> dict | None:
        """What the file of batch k holds, {"rows", "versions", "seal"}; None where it is not there, or not as
        this run writes it."""
        try:
            saved = json.loads(self.file(k).read_bytes())
            return saved if saved["seal"] == self.seal(k, saved) else None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def seal(self, k: int, content: dict) -> str:
        """A hash of a batch's rows and of the run they belong to. A file that anything else wrote has another
        one, or none."""
        sealed = [self.key, list(self.batches.members(k)), content["rows"], content["versions"]]
        return hashlib.sha256(json.dumps(sealed).encode()).hexdigest()

    def kept_rows(self, k: int) -> list[Row]:
        """The rows that an earlier run has left of batch k, unless one of its pictures that could not be read
        then can be read now."""
        saved = self.saved(k)
        if saved is None:
            if self.file(k).exists():
                print(f"note: {self.file(k)} is not as it was written; its pictures are computed again",
                      file=sys.stderr)
            return []
        unread = [row["index"] for row in saved["rows"] if row["skipped"] and not row["operation"]]
        if any(not isinstance(self.batches.load(index), str) for index in unread):
            self.forget(unread)
            return []
        return saved["rows"]

    def forget(self, indices: Iterable[int]) -> None:
        """Let the batches of these pictures be computed again."""
        for k in {index // self.batches.size for index in indices}:
            self.file(k).unlink(missing_ok=True)

    def complete(self, score: Callable[[Batch], Iterable[Row]], title: str = "",
                 headline: Callable[[pd.DataFrame], dict[str, float]] = lambda rows: {},
                 ) -> pd.DataFrame | None:
        """Score the batches that are not done yet, and return the table of all rows.

        One of several processes begins with the batches whose numbers are its share, and goes on with those
        that the others have left. It skips a batch that another process is at work on, or has done.

        Args:
            score: a batch -> its rows, as `save` takes them.
            title: of the progress bar. headline: the rows of an operation so far -> the metrics that the bar
                shows.

        Returns:
            All rows in the data set's order; None where another process makes the table.

        Raises:
            UserError: none of the pictures could be used.
        """
        order = sorted(range(len(self.batches)), key=lambda k: k % self.size != self.rank)
        tried, shown, done = set(), 0, len({row["index"] for row in self.seen})
        with computing(), tqdm(total=len(self.batches.ids), initial=done, unit="picture", desc=title,
                               disable=self.rank > 0) as bar:
            while missing := [k for k in order
                              if k not in tried and self.saved(k) is None and self.claims.free(k)]:
                not_done = (k for k in missing if self.saved(k) is None)        # when its turn has come
                for batch in DataLoader(self.batches, sampler=not_done, batch_size=None,
                                        num_workers=self.num_workers):
                    if self.saved(batch.number) is None and self.claims.take(batch.number):
                        tried.add(batch.number)
                        begun = time.perf_counter()
                        self.save(batch, score(batch) if batch.ids else [])
                        self.seconds += time.perf_counter() - begun
                        self.claims.leave(batch.number)
                        if len(self.seen) >= shown * GROWTH:      # so seldom that it takes next to no time
                            parts = by_operation(measured(frame(self.seen, self.columns)), self.operations)
                            bar.set_postfix_str(in_words({name: headline(part)
                                                          for name, part in parts.items()}))
                            shown = len(self.seen)
                        bar.update(len(self.batches.members(batch.number)))
        return self.table()

    def save(self, batch: Batch, rows: Iterable[Row]) -> None:
        """Write a batch's rows, and return when the disk has them.

        Args:
            rows: {"index", "operation", **columns} for each of the batch's pictures and each operation.
                "degenerate": 1 marks a map of zeros. A row with "skipped": "why" needs no columns.

        Raises:
            UserError: the disk does not take them.
        """
        broken = [{"index": index, "operation": "", "skipped": why} for index, why in batch.broken.items()]
        rows = [{"index": row["index"], "id": self.batches.ids[row["index"]], "operation": row["operation"],
                 "skipped": "", "degenerate": 0, **row}
                for row in sorted([*broken, *rows], key=lambda row: row["index"])]
        rows = [{name: value if value == value else None for name, value in row.items()} for row in rows]
        content = {"versions": versions(), "rows": rows}                     # without NaN: JSON has none
        write_json(self.file(batch.number), content | {"seal": self.seal(batch.number, content)})
        for row in rows:
            if row["skipped"]:
                self.skips.add(skip_message(row))
        self.seen += rows

    def table(self) -> pd.DataFrame | None:
        """The table of all rows, as `complete` returns it."""
        saved = [self.saved(k) for k in range(len(self.batches))]
        if None in saved:
            print(f"note: {saved.count(None)} of {len(saved)} batches are computed by another process, which "
                  "then makes the table. If none is running, start the same command again.", file=sys.stderr)
            return None
        idle = self.rank > 0 and not self.seconds               # then the first process finds all there, too
        if self.size > 1 and (idle or not self.claims.take(TABLE) or self.made_meanwhile()):
            return None
        begun_with = [batch["versions"] for batch in saved if batch["versions"] != versions()]
        self.record |= {"begun with versions": begun_with[0]} if begun_with else {}
        rows = [row for batch in saved for row in batch["rows"]]
        if all(row["skipped"] for row in rows):
            raise UserError(f"none of the {len(self.batches.ids)} pictures could be used; the first: "
                            f"{skip_message(rows[0])}")
        return frame(rows, self.columns)

    def made_meanwhile(self) -> bool:
        """Whether another process, which may have ended, has made the table since this one was started."""
        summary = self.folder / "summary.json"
        return summary.exists() and summary.stat().st_mtime_ns > self.started

    def write(self, rows: pd.DataFrame, metrics: Metrics, **more: object) -> dict:
        """Write per_image.csv and summary.json. Return what the summary holds, with the "folder" and the
        "seconds" that this process has computed."""
        skipped, used = rows[rows["skipped"] != ""], measured(rows)
        degenerate = used["operation"][used["degenerate"] > 0]
        summary = {"figures": metrics, "pictures": used["index"].nunique(),
                   "skipped": {"count": skipped["index"].nunique(),
                               "reasons": [skip_message(row) for row in skipped.to_dict("records")]},
                   "degenerate": {name: int((degenerate == name).sum()) for name in self.operations},
                   **more, **self.record}
        with whole_file(self.folder / "per_image.csv") as temporary:
            rows.to_csv(temporary, index=False, lineterminator="\n")
        write_json(self.folder / "summary.json", summary)
        return summary | {"folder": self.folder, "seconds": self.seconds}


def begin(model, settings: Settings, dataset: Dataset, name: str, columns: dict[str, type],
          rows_a_picture: int, suffix: str = "", **dependencies: object) -> Run:
    """The run of a script's settings, in {results_dir}/{name}_{model}_{cut}_{definition}{suffix}_{hash}/.

    It takes the model to the device of the settings.

    Args:
        rows_a_picture: how many rows of batch_size a picture stands for.
        dependencies: what the numbers depend on besides the network and the settings.
    """
    model.to(pick_device(settings.device))
    cut = model.cut(of_paths(settings)["layer"])
    folder = Path(settings.results_dir) / f"{name}_{model.name}_{cut}_{settings.definition}{suffix}"
    return Run(dataset, folder, dict.fromkeys(settings.operations), columns,
               max(1, settings.batch_size // rows_a_picture), identity(model, settings, cut, **dependencies),
               settings.values(), settings.max_images, settings.num_workers)


def exit_code(summary: dict | None) -> int:
    """1 where a table's summary says that something was skipped, else 0; None = another process makes it."""
    return int(summary is not None and summary["skipped"]["count"] > 0)
