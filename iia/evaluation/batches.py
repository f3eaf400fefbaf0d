"""A data set by whole batches, so that a reading process hands over one at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor
from torch.utils.data import Dataset, default_collate

from ..errors import UserError
from .rows import Row


@dataclass
class Batch:
    """Some pictures of a data set.

    number: of the batch. indices, ids: of the pictures that can be read. fields: what the data set yields
    before the id, each stacked, such as pictures [B, C, H, W] and masks [B, H, W]. broken: {index: why} of
    the other pictures.
    """
    number: int
    indices: list[int]
    ids: list[str]
    fields: tuple
    broken: dict[int, str]

    def rows(self, operation: str, columns: Mapping[str, Tensor | Sequence],
             skipped: Mapping[int, str] = MappingProxyType({})) -> list[Row]:
        """A row for each picture, with its value in each column [B]. Where `skipped` has the picture's place
        in the batch, {place: why}, the row says why instead."""
        values = [column.tolist() if isinstance(column, Tensor) else column for column in columns.values()]
        return [{"index": index, "operation": operation}
                | ({"skipped": skipped[place]} if place in skipped else dict(zip(columns, row)))
                for place, (index, *row) in enumerate(zip(self.indices, *values))]


class Batches(Dataset):
    """Batch k holds the pictures [k·size, (k + 1)·size) of those named `ids`."""

    def __init__(self, dataset: Dataset, ids: Sequence[str], size: int) -> None:
        self.dataset, self.ids, self.size = dataset, ids, size

    def __len__(self) -> int:
        return -(-len(self.ids) // self.size)

    def members(self, k: int) -> range:
        """The indices of batch k's pictures in the data set."""
        return range(len(self.ids))[k * self.size:(k + 1) * self.size]

    def __getitem__(self, k: int) -> Batch:
        samples = {index: self.load(index) for index in self.members(k)}
        broken = {index: sample for index, sample in samples.items() if isinstance(sample, str)}
        good = {index: sample[:-1] for index, sample in samples.items() if index not in broken}
        fields = tuple(default_collate(list(good.values()))) if good else ()
        return Batch(k, list(good), [self.ids[index] for index in good], fields, broken)

    def load(self, index: int) -> tuple | str:
        """A sample of the data set, or why it cannot be used."""
        try:
            return self.dataset[index]
        except UserError as why:
            return " ".join(str(why).split())
