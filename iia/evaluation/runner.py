"""A table of metrics that survives a crash and that several processes can share.

    run = Run(dataset, folder, operations, columns, batch_size)
    run.begin(identity, settings)
    for batch in run.todo():
        run.save(batch, score(batch))
    rows = run.table()                           # None where another process makes the table

    {folder}_{hash of the identity}/
      batches/000000-000007.json                 the rows of pictures 0 to 7: written whole, or not there
      per_image.csv, summary.json                the table, once all batches are there
      first_100/per_image.csv, summary.json      the same of the first 100 pictures, where max_images limits
      them

A batch holds the same pictures whenever and wherever it is computed, and the table is made of all rows in the
data set's order. So an undisturbed run, a resumed one and one of several processes give the same metrics, to
the last digit as long as the device computes the same. (On CPUs a convolution's last digits depend on the
number of threads, of which torchrun gives one to each process; OMP_NUM_THREADS says how many.)
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..errors import UserError
from ..runs import Skips, rank, sweep, versions, whole_file, world_size, write_json
from .batches import Batch, Batches
from .claims import Claims
from .identity import digest
from .rows import FIRST_COLUMNS, Metrics, Row, frame, measured, skip_message, unread

TABLE = 2**40   # what the table itself is claimed as; no batch has this number
GROWTH = 1.1    # the progress bar's metrics are rebuilt each time the rows grow by this factor


class Run:
    """The batches of a data set, and where their rows are kept.

    Args:
        dataset: yields (..., id) and has `ids`, the ids of all its pictures in order. It raises UserError for
            a picture that cannot be used: that one is named, counted and left out.
        folder: where the results go; `begin` adds the hash.
        operations: the table's rows. columns: what is measured, {name: int, float or str}.
        batch_size: how many pictures are scored together.
        max_images: the first so many of the data set; None = all.
        num_workers: processes that read pictures while the device computes.
    """

    def __init__(self, dataset: Dataset, folder: str | Path, operations: Sequence[str],
                 columns: dict[str, type], batch_size: int, max_images: int | None = None,
                 num_workers: int = 0) -> None:
        self.dataset, self.name, self.num_workers = dataset, Path(folder), num_workers
        self.operations, self.columns = list(operations), dict(columns)
        self.batches = Batches(dataset, list(dataset.ids)[:max_images], batch_size)
        self.computed, self.seen, self.show, self.show_at = 0, [], lambda rows: None, 0.0
        self.seconds = 0.0                                      # that this process has computed for

    def begin(self, identity: dict, settings: dict) -> None:
        """Make the folder of this identity ready, and look through what earlier runs left in it.

        Args:
            identity: whatever can change a number: network, `fingerprint` of the weights, steps, ... What
                this class was given is added here.
            settings: all of the script's, for the record.

        Raises:
            UserError: the folder cannot be written.
        """
        ids, used = list(self.dataset.ids), len(self.batches.ids)
        identity = {"operations": self.operations, **identity, "pictures together": self.batches.size,
                    "data set": digest(ids), "columns": [*FIRST_COLUMNS, *self.columns]}
        self.key = hashlib.sha256(json.dumps(identity, default=str, sort_keys=True).encode()).hexdigest()
        self.record = {"identity": identity, "settings": settings, "versions": versions()}
        whole = self.name.with_name(f"{self.name.name}_{self.key[:8]}")
        self.folder, self.kept = whole if used == len(ids) else whole / f"first_{used}", whole / "batches"
        self.rank, self.size, self.skips = rank(), world_size(), Skips()
        sweep(whole)
        write_json(self.folder / "settings.json", self.record)
        self.claims = Claims(self.folder / ".claims")           # of those that make the same table
        for k in range(len(self.batches)):
            rows = self.rows(k)
            if rows is None and self.file(k).exists():
                print(f"note: {self.file(k)} is not as it was written; its pictures are computed again",
                      file=sys.stderr)
            broken = [row["index"] for row in rows or () if unread(row)]
            if any(not isinstance(self.batches.load(index), str) for index in broken):
                self.forget(broken)                               # one can be read now
                rows = None
            self.seen += rows or ()

    # --------------------------------------------------------------------- rows on disk

    def file(self, k: int) -> Path:
        """Where the rows of batch k are."""
        members = self.batches.members(k)
        return self.kept / f"{members[0]:06d}-{members[-1]:06d}.json"

    def rows(self, k: int) -> list[Row] | None:
        """The rows of batch k; None where they are not there, or not as this run writes them."""
        return (self.saved(k) or {}).get("rows")

    def saved(self, k: int) -> dict | None:
        """What the file of batch k holds, {"rows", "versions", "seal"}; None as `rows`."""
        try:
            saved = json.loads(self.file(k).read_bytes())
            return saved if saved["seal"] == self.seal(k, saved) else None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def seal(self, k: int, content: dict) -> str:
        """A hash of a batch's rows and of whose they are. What anything else wrote has another, or none."""
        sealed = [self.key, list(self.batches.members(k)), content["rows"], content["versions"]]
        return hashlib.sha256(json.dumps(sealed).encode()).hexdigest()

    def forget(self, indices: Iterable[int]) -> None:
        """Let the batches of these pictures be computed again."""
        for k in {index // self.batches.size for index in indices}:
            self.file(k).unlink(missing_ok=True)

    # -------------------------------------------------------------------------- computing

    def todo(self, title: str = "",
             headline: Callable[[pd.DataFrame], str] = lambda rows: "") -> Iterator[Batch]:
        """The batches that are to do, one after the other; the caller saves each before the next.

        A process of several begins with those whose number is its own, and goes on with what the others have
        left. It leaves out what another one is at work on, and what it finds done when it comes to it.

        Args:
            title: of the progress bar. headline: the rows so far -> what the bar says of them.
        """
        order = sorted(range(len(self.batches)), key=lambda k: k % self.size != self.rank)
        tried, done = set(), len({row["index"] for row in self.seen})
        with tqdm(total=len(self.batches.ids), initial=done, unit="picture", desc=title,
                  disable=self.rank > 0) as bar:
            self.show = lambda rows: bar.set_postfix_str(headline(measured(frame(rows, self.columns))))
            while missing := [k for k in order
                              if k not in tried and self.rows(k) is None and self.claims.free(k)]:
                not_done = (k for k in missing if self.rows(k) is None)         # when its turn has come
                for batch in DataLoader(self.batches, sampler=not_done, batch_size=None,
                                        num_workers=self.num_workers):
                    if self.rows(batch.number) is None and self.claims.take(batch.number):
                        tried.add(batch.number)
                        self.computed += 1
                        if batch.ids:
                            begun = time.perf_counter()
                            yield batch
                            self.seconds += time.perf_counter() - begun
                        else:
                            self.save(batch, [])
                        self.claims.leave(batch.number)
                        bar.update(len(self.batches.members(batch.number)))

    def save(self, batch: Batch, rows: Iterable[Row]) -> None:
        """Write a batch's rows, and return when the disk has them.

        Args:
            rows: {"index", "operation", **columns} for each of the batch's pictures and each operation.
                "degenerate": 1 marks a map of zeros; "skipped": "why", without the columns, what
                cannot be measured.

        Raises:
            UserError: the disk does not take them.
        """
        broken = [{"index": index, "operation": "", "skipped": why} for index, why in batch.broken.items()]
        rows = [{"index": row["index"], "id": self.batches.ids[row["index"]], "operation": row["operation"],
                 "skipped": "", "degenerate": 0, **row}
                for row in sorted([*broken, *rows], key=lambda row: row["index"])]
        # no NaN
        rows = [{name: value if value == value else None for name, value in row.items()} for row in rows]
        content = {"versions": versions(), "rows": rows}
        write_json(self.file(batch.number), content | {"seal": self.seal(batch.number, content)})
        for row in rows:
            if row["skipped"]:
                self.skips.add(skip_message(row))
        self.seen += rows
        if len(self.seen) >= self.show_at:              # so seldom that it takes next to none of the time
            self.show(self.seen)
            self.show_at = len(self.seen) * GROWTH

    # ------------------------------------------------------------------------------ table

    def table(self) -> pd.DataFrame | None:
        """All rows in the data set's order; None where another process makes the table.

        Raises:
            UserError: none of the pictures could be used.
        """
        saved = [self.saved(k) for k in range(len(self.batches))]
        if None in saved:
            print(f"note: {saved.count(None)} of {len(saved)} batches are computed by another process, which "
                  "then makes the table. If none is running, start the same command again.", file=sys.stderr)
            return None
        idle = self.rank > 0 and not self.computed              # then the first process finds all there, too
        if self.size > 1 and (idle or not self.claims.take(TABLE)):
            return None
        begun_with = [own["versions"] for own in saved if own["versions"] != versions()]
        self.record |= {"begun with versions": begun_with[0]} if begun_with else {}
        rows = [row for own in saved for row in own["rows"]]
        if all(row["skipped"] for row in rows):
            raise UserError(f"none of the {len(self.batches.ids)} pictures could be used; the first: "
                            f"{skip_message(rows[0])}")
        return frame(rows, self.columns)

    def write(self, rows: pd.DataFrame, metrics: Metrics, **more: object) -> dict:
        """Write per_image.csv and summary.json, and return what the summary holds; beside it its "folder",
        and the "seconds" that this process has computed for."""
        skipped, used = rows[rows["skipped"] != ""], measured(rows)
        flat = used["operation"][used["degenerate"] > 0]
        summary = {"figures": metrics, "pictures": used["index"].nunique(),
                   "skipped": {"count": skipped["index"].nunique(),
                               "reasons": [skip_message(row) for row in skipped.to_dict("records")]},
                   "degenerate": {name: int((flat == name).sum()) for name in self.operations},
                   **more, **self.record}
        with whole_file(self.folder / "per_image.csv") as temporary:
            rows.to_csv(temporary, index=False, lineterminator="\n")
        write_json(self.folder / "summary.json", summary)
        return summary | {"folder": self.folder, "seconds": self.seconds}


def exit_code(summary: dict | None) -> int:
    """1 where a table's summary says that something was skipped, else 0; None = another process makes it."""
    return int(summary is not None and summary["skipped"]["count"] > 0)
