"""An evaluation that survives a crash and that several processes can share.

    per_image.csv    a row for each picture and operation, growing as the run goes
    settings.json    what the rows were computed with
    summary.json     the figures, once all pictures are done

The unit of work is a batch of fixed membership: pictures [kB, (k+1)B) of the data set's order. A batch
is either whole in per_image.csv or computed again as a whole, so that an undisturbed run, a resumed one
and one of several processes send the same batches through the network. The figures are made from the
rows in the data set's order, whoever computed them and when. Floats are written so that they read back
to the last digit. So the figures are the same to the last digit as long as the device computes the same:
on CPUs a convolution's last digits depend on the number of threads, of which torchrun gives one to each
process (OMP_NUM_THREADS says how many).
"""

import csv
import hashlib
import io
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm import tqdm

from ..errors import UserError
from ..runs import Crew, Skips, crew, rank, repeatable, versions, whole_file, write_json

Row = dict[str, object]
FIRST_COLUMNS = {"index": int, "id": str, "operation": str, "skipped": str, "degenerate": int}
RUNNING_COST = 0.01     # the share of the time that the running figures may take


@dataclass
class Batch:
    """Pictures of one batch as they come from the data set; the broken ones are in `skipped` instead.

    indices: their places in the data set. ids: their names. fields: what the data set yields before the
    id, each stacked, for example pictures [B, C, H, W] and masks [B, H, W].
    skipped: {index: reason}.
    """
    indices: list[int]
    ids: list[str]
    fields: tuple
    skipped: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """What is measured on each picture, and what becomes of it.

    operations: the names of the table's rows. columns: the numbers (or words) of a row and their types.
    score: a batch -> for each of its pictures and operations a row {"index", "operation", **columns}, where
    "degenerate": 1 marks a map that said nothing, and "skipped": "reason", without the columns, what cannot
    be measured. The numbers must not depend on anything but the batch.
    summarise: one operation's rows, in the data set's order -> its figures by name.
    headline: the figures that the progress bar shows. scale: what figures are multiplied by to be shown.
    conclude: all operations' rows, {operation: rows} -> what the summary says of them together.
    """
    operations: Sequence[str]
    columns: dict[str, type]
    score: Callable[[Batch], list[Row]]
    summarise: Callable[[list[Row]], dict[str, float]]
    headline: tuple[str, ...] = ()
    scale: float = 1
    conclude: Callable[[dict[str, list[Row]]], dict] = lambda rows: {}

    @property
    def all_columns(self) -> dict[str, type]:
        return FIRST_COLUMNS | self.columns


def evaluate(dataset: Dataset, measure: Measure, folder: str | Path, *, identity: dict, settings: dict,
             batch_size: int, max_images: int | None = None, num_workers: int = 0, redo: Iterable[int] = (),
             title: str = "") -> dict:
    """Measure the data set's pictures, or those that an earlier run has not come to, and write `folder`.

    Args:
        dataset: yields (..., id); has `ids`, the ids of all its pictures in order. Its `__getitem__`
            raises UserError for a picture that cannot be used: that one is named, counted and left out.
        measure: see `Measure`.
        folder: where the files go. Results of another identity found there are moved aside.
        identity: whatever can change a number: network, `fingerprint` of the weights, steps, ...
            The operations, the columns, the data set's ids and batch_size are added here.
        settings: all of the script's, for the record.
        batch_size: B, how many pictures are scored together.
        max_images: the first so many of the data set; None = all.
        num_workers: processes that read pictures while the device computes.
        redo: indices whose batches are computed again even when they are done.
        title: of the progress bar.

    Returns:
        The summary, as in summary.json.

    Raises:
        UserError: the folder cannot be written, no picture can be used, or another process has stopped.
    """
    if max_images is not None and max_images < 1:
        raise UserError(f"max_images is {max_images}; it is at least 1, or None for all.")
    ids = list(dataset.ids)
    identity = {"operations": list(measure.operations), **identity, "pictures together": batch_size,
                "data set": digest(ids), "columns": list(measure.all_columns)}
    work = Work(Path(folder), measure, batch_size, ids[:max_images])
    with crew() as processes, repeatable():
        done, begun_with = processes.first(lambda: begin(work, identity, settings, dataset, redo))
        todo = [k for k in range(work.batches) if k not in done][processes.rank::processes.size]
        if todo:
            compute(work, dataset, todo, processes, num_workers, title)
        processes.wait()
        return processes.first(lambda: finish(work, identity, settings, begun_with))


@dataclass(frozen=True)
class Work:
    """A run's files, and which pictures make up which batch."""
    folder: Path
    measure: Measure
    size: int
    ids: list[str]

    @property
    def batches(self) -> int:
        return -(-len(self.ids) // self.size)

    def members(self, k: int) -> range:
        """The places of batch k's pictures in the data set."""
        return range(k * self.size, min((k + 1) * self.size, len(self.ids)))

    def part(self, rank: int) -> Path:
        """The file that a process appends to."""
        return self.folder / ("per_image.csv" if rank == 0 else f"per_image.{rank}.csv")

    def parts(self) -> list[Path]:
        return sorted(self.folder.glob("per_image*.csv"))


# ------------------------------------------------------------------------------- begin

def begin(work: Work, identity: dict, settings: dict, dataset: Dataset, redo: Iterable[int]) -> tuple[set[int], dict]:
    """Make the folder ready: which batches are done, and the versions that the run was begun with."""
    identity = json.loads(json.dumps(identity, default=str))
    old = read_settings(work.folder)
    change = what_changed(work, old, identity)
    if change:
        aside = move_aside(work.folder)
        print(f"note: {work.folder} is begun anew, because {change}; the old results are kept in {aside}",
              file=sys.stderr)
        old = {}
    begun_with = old.get("versions") or versions()
    write_json(work.folder / "settings.json", {"identity": identity, "settings": settings, "versions": begun_with})
    rows = whole_batches(work, read_rows(work))
    write_rows(work, rows)
    done = set(rows) - {index // work.size for index in redo} - {k for k in rows if mended(dataset, rows[k])}
    if len(done) < work.batches:
        (work.folder / "summary.json").unlink(missing_ok=True)       # of fewer pictures; no longer true
    return done, begun_with


def read_settings(folder: Path) -> dict:
    """The settings.json of an earlier run, {} where there is none that can be read."""
    try:
        return json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def what_changed(work: Work, old: dict, identity: dict) -> str | None:
    """Why the rows in the folder do not belong to this run; None when they do, or there are none."""
    if not work.folder.is_dir() or not work.parts():
        return None
    before = old.get("identity", {})
    if not before:
        return "its rows come without the settings that made them"
    names = [name for name in identity.keys() | before.keys() if identity.get(name) != before.get(name)]
    if names:
        return f"{', '.join(sorted(names))} changed"
    if any(row["index"] >= len(work.ids) for row in read_rows(work).values()):
        return "max_images is smaller than before"
    return None


def move_aside(folder: Path) -> Path:
    """Rename the folder to the first free of folder.1, folder.2, ..."""
    numbers = itertools.count(1)
    aside = next(name for n in numbers if not (name := folder.with_name(f"{folder.name}.{n}")).exists())
    try:
        return folder.rename(aside)
    except OSError as why:
        raise UserError(f"cannot move {folder} to {aside} ({why.strerror}).") from why


def mended(dataset: Dataset, rows: list[Row]) -> bool:
    """Whether a picture that an earlier run could not read can be read now."""
    broken = [row["index"] for row in rows if row["skipped"] and not row["operation"]]
    return any(not isinstance(load(dataset, index), str) for index in broken)


# ----------------------------------------------------------------------------- compute

def compute(work: Work, dataset: Dataset, todo: list[int], processes: Crew, num_workers: int, title: str) -> None:
    """Score the batches `todo` and append their rows, a batch at a time, to this process's file."""
    loader = DataLoader(Batches(dataset, work), sampler=todo, batch_size=None, num_workers=num_workers)
    mine = sum(len(work.members(k)) for k in todo)
    total = len(work.ids) if processes.size == 1 else mine
    before = [row for row in read_rows(work).values() if row["index"] // work.size not in todo]
    running = RunningFigures(work.measure, before)
    skips = Skips()
    with (open_part(work, processes.rank) as file,
          tqdm(total=total, initial=total - mine, unit="picture", desc=title, disable=processes.rank > 0) as progress):
        for batch in loader:
            rows = [{"index": index, "operation": "", "skipped": why} for index, why in batch.skipped.items()]
            rows += work.measure.score(batch) if batch.indices else []
            rows = [{"id": work.ids[row["index"]], "skipped": "", "degenerate": 0, **row} for row in rows]
            append(file, work.measure, rows)
            for row in rows:
                if row["skipped"]:
                    skips.add(said(row))
            progress.update(len(batch.indices) + len(batch.skipped))
            progress.set_postfix_str(running.after(rows))


def said(row: Row) -> str:
    """What was skipped, and why."""
    return f"{row['id']} {row['operation']}".strip() + f": {row['skipped']}"


class Batches(Dataset):
    """The data set by whole batches, so that a reading process hands over one at a time."""

    def __init__(self, dataset: Dataset, work: Work) -> None:
        self.dataset, self.members = dataset, [work.members(k) for k in range(work.batches)]
        self.ids = work.ids

    def __getitem__(self, k: int) -> Batch:
        samples = {index: load(self.dataset, index) for index in self.members[k]}
        skipped = {index: sample for index, sample in samples.items() if isinstance(sample, str)}
        samples = {index: sample[:-1] for index, sample in samples.items() if index not in skipped}
        fields = tuple(default_collate(list(samples.values()))) if samples else ()
        return Batch(list(samples), [self.ids[index] for index in samples], fields, skipped)


def load(dataset: Dataset, index: int) -> tuple | str:
    """A sample of the data set, or why it cannot be used."""
    try:
        return dataset[index]
    except UserError as why:
        return " ".join(str(why).split())


class RunningFigures:
    """The headline figures of the rows so far, computed anew now and then so that they cost next to nothing."""

    def __init__(self, measure: Measure, rows: list[Row]) -> None:
        self.measure, self.text, self.due = measure, "", 0.0
        self.rows = [row for row in rows if not row["skipped"]]

    def after(self, rows: list[Row]) -> str:
        self.rows += [row for row in rows if not row["skipped"]]
        start = time.monotonic()
        if start >= self.due:
            self.text = " | ".join(self._figures())
            self.due = time.monotonic() + (time.monotonic() - start) / RUNNING_COST
        return self.text

    def _figures(self) -> Iterator[str]:
        for operation in self.measure.operations:
            rows = [row for row in self.rows if row["operation"] == operation]
            figures = self.measure.summarise(rows) if rows else {}
            names = [name for name in self.measure.headline if name in figures]
            if names:
                yield " ".join([operation, *(f"{name} {figures[name] * self.measure.scale:.4g}" for name in names)])


# ---------------------------------------------------------------------- the rows on disk

def open_part(work: Work, rank: int) -> io.TextIOBase:
    """This process's file, open for appending; its header is there afterwards."""
    path = work.part(rank)
    try:
        file = open(path, "a", encoding="utf-8", newline="")
    except OSError as why:
        raise UserError(f"cannot write to {path} ({why.strerror}).") from why
    if file.tell() == 0:
        append(file, work.measure, [], header=True)
    return file


def append(file: io.TextIOBase, measure: Measure, rows: list[Row], header: bool = False) -> None:
    """Write rows in one go, and return when the disk has them.

    Raises:
        UserError: the disk does not take them.
    """
    try:
        file.write(as_csv(measure, rows, header))
        file.flush()
        os.fsync(file.fileno())
    except OSError as why:
        raise UserError(f"cannot write to {file.name} ({why.strerror}); what is done is kept.") from why


def as_csv(measure: Measure, rows: Iterable[Row], header: bool = False) -> str:
    """Rows as text. Python writes a float with as many digits as it takes to read it back exactly."""
    text = io.StringIO()
    writer = csv.DictWriter(text, measure.all_columns, lineterminator="\n")
    if header:
        writer.writeheader()
    for row in rows:
        writer.writerow({name: kind(row[name]) for name, kind in measure.all_columns.items() if name in row})
    return text.getvalue()


def read_rows(work: Work) -> dict[tuple[int, str], Row]:
    """All rows of all processes' files by (index, operation). A line that was torn is left out."""
    rows = {}
    for path in work.parts():
        text = path.read_text(encoding="utf-8", errors="replace")
        for raw in csv.DictReader(io.StringIO(text[:text.rfind("\n") + 1], newline="")):
            row = parse_row(work.measure, raw)
            if row:
                rows[row["index"], row["operation"]] = row
    return rows


def parse_row(measure: Measure, raw: dict) -> Row | None:
    """A line's words as a row with the columns' types; None when it is not one."""
    kinds = measure.all_columns
    if raw.keys() != kinds.keys() or None in raw.values():
        return None
    try:
        return {name: kind(raw[name]) for name, kind in kinds.items() if raw[name] or kind is str}
    except ValueError:
        return None


def whole_batches(work: Work, rows: dict[tuple[int, str], Row]) -> dict[int, list[Row]]:
    """The rows of each batch that is complete: every picture has all operations, or was skipped."""
    return {k: [row for index in work.members(k) for row in rows_of(work, rows, index)]
            for k in range(work.batches) if all(rows_of(work, rows, index) for index in work.members(k))}


def rows_of(work: Work, rows: dict[tuple[int, str], Row], index: int) -> list[Row]:
    """A picture's rows, in the operations' order; [] when one is lacking."""
    operations = [rows.get((index, operation)) for operation in work.measure.operations]
    if all(operations):
        return operations
    return [rows[index, ""]] if (index, "") in rows else []


def write_rows(work: Work, batches: dict[int, list[Row]]) -> None:
    """Make per_image.csv hold these rows, in order, and remove the other processes' files."""
    rows = [row for k in sorted(batches) for row in batches[k]]
    with whole_file(work.part(0)) as temporary:
        temporary.write_text(as_csv(work.measure, rows, header=True), encoding="utf-8")
    for path in work.parts():
        if path != work.part(0):
            path.unlink()


# ------------------------------------------------------------------------------ finish

def finish(work: Work, identity: dict, settings: dict, begun_with: dict) -> dict:
    """Merge the processes' rows, make the figures and write summary.json."""
    batches = whole_batches(work, read_rows(work))
    if len(batches) < work.batches:
        raise UserError(f"{work.batches - len(batches)} of {work.batches} batches are not in {work.folder}: another "
                        "process has stopped. Start the same command again to go on.")
    write_rows(work, batches)
    summary = summarise(work, [row for k in sorted(batches) for row in batches[k]])
    summary |= {"identity": identity, "settings": settings, "versions": versions()}
    if begun_with != summary["versions"]:
        summary["begun with versions"] = begun_with
    write_json(work.folder / "summary.json", summary)
    return summary


def summarise(work: Work, rows: list[Row]) -> dict:
    """Each operation's figures, and what was skipped or degenerate.

    Raises:
        UserError: no picture could be used.
    """
    skipped = [row for row in rows if row["skipped"]]
    rows = [row for row in rows if not row["skipped"]]
    if not rows:
        raise UserError(f"none of the {len(work.ids)} pictures could be used; the first: {said(skipped[0])}")
    by_operation = {name: [row for row in rows if row["operation"] == name] for name in work.measure.operations}
    return {
        "figures": {name: work.measure.summarise(own) for name, own in by_operation.items() if own},
        "pictures": len({row["index"] for row in rows}),
        "skipped": {"count": len({row["index"] for row in skipped}),
                    "reasons": [said(row) for row in skipped]},
        "degenerate": {name: sum(row["degenerate"] for row in own) for name, own in by_operation.items()},
        **work.measure.conclude(by_operation),
    }


# ----------------------------------------------------------------------------- identity

def digest(words: Iterable[str]) -> str:
    """A short name for a list: its length, and a hash of its words."""
    words = list(words)
    return f"{len(words)}-{hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]}"


def stamps(files: Iterable[Path]) -> list[str]:
    """Each file's place, size and time: a file that was replaced has another."""
    return [f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}" if path.is_file() else f"{path.resolve()} missing"
            for path in files]


def fingerprint(model: nn.Module) -> str:
    """A hash of a network's weights: a network with other weights has another."""
    hashed = hashlib.sha256()
    for name, value in model.state_dict().items():
        hashed.update(name.encode())
        hashed.update(_bytes(value))
    return hashed.hexdigest()[:16]


def _bytes(value: Tensor) -> memoryview:
    return memoryview(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def exit_code(summary: dict) -> int:
    """1 when a picture was skipped. The first of several processes says so alone: torchrun stops all of them when one
    ends with an error, and that one may still be reporting."""
    return int(rank() == 0 and summary["skipped"]["count"] > 0)


def print_table(figures: dict[str, dict[str, float]], scale: float = 1, digits: int = 2) -> None:
    """Operations as rows, figures as columns."""
    names = list(dict.fromkeys(name for own in figures.values() for name in own))
    wide = max(len("operation"), *(len(operation) for operation in figures))
    print(f"{'operation':{wide}}" + "".join(f"{name:>9}" for name in names))
    for operation, own in figures.items():
        print(f"{operation:{wide}}" + "".join(f"{own.get(name, float('nan')) * scale:9.{digits}f}" for name in names))
