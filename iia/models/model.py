"""What the models of CNNs and of ViTs have in common."""

import itertools
import weakref
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import rephrased
from .calls import ONE_AT_A_TIME
from .snapshot import Snapshot

Target = Callable[[Tensor], Tensor]
SIZES_KEPT = 4           # of pictures, for which a model is kept


class Model(nn.Module):
    """A snapshot of a network, and what is known of its pictures and classes.

    Attributes:
        network: the copy of the user's network. whole: the same as pictures -> logits.
        mean, std: the normalisation of its pictures, a number for each channel.
        size: (height, width) of a picture. channels: of a picture.
        classes: how many it tells apart. labels: their names, or None.
        headless: whether the outputs are features, since no last layer makes classes of them.
        way: how its parts are run: "skipping" what lies before a layer, by "rows" of plain blocks, or
            "whole", which is slow.
    """

    def __init__(self, whole: Snapshot, name: str, mean: tuple, std: tuple, precision: str = "fp32",
                 labels: list[str] | None = None) -> None:
        super().__init__()
        self.whole, self.network = whole, whole.network
        self.name = self.label = name
        self.mean, self.std, self.precision, self.labels = tuple(mean), tuple(std), precision, labels
        self.channels, *size = whole.probe.shape[1:]
        self.size, self.classes = tuple(size), whole.logits.shape[1]
        # of the user's own modules
        self.modules_names: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
        self._sizes: dict[tuple, Model] = {}
        self.ran = [*(self.network.get_submodule(call.name) for call in whole.calls), self.network]
        self.headless = ends_without_head(whole.logits.shape[1], self.ran)

    @property
    def _number(self) -> Tensor:
        """One of the network's tensors, or a picture where it has none."""
        tensors = itertools.chain(self.parameters(), self.buffers(), [self.whole.probe])
        return next(tensor for tensor in tensors if tensor.is_floating_point())

    @property
    def device(self) -> torch.device:
        return self._number.device

    @property
    def dtype(self) -> torch.dtype:
        return self._number.dtype

    def _apply(self, *args: object, **kwargs: object) -> "Model":
        """As torch's (`to`, `float`, `double`); what was computed with the numbers before is forgotten."""
        before = self._places()
        super()._apply(*args, **kwargs)
        if self._places() != before:
            self.clear_caches()
        return self

    def _places(self) -> list[int]:
        """Where the network's numbers lie in memory."""
        return [tensor.data_ptr() for tensor in itertools.chain(self.parameters(), self.buffers())]

    def clear_caches(self) -> None:
        """Forget all that was computed with the network's numbers."""
        self._sizes.clear()

    @torch.inference_mode(False)
    def sized(self, shape: tuple[int, int, int]) -> "Model":
        """This model for pictures of another size: the layers are looked for, and everything is proven, anew.

        Raises:
            UserError: the network does not read them.
        """
        shape = tuple(shape)
        if shape == tuple(self.whole.probe.shape[1:]):
            return self
        with ONE_AT_A_TIME:
            if shape not in self._sizes:
                self._sizes[shape] = self._made_for(shape)
            while len(self._sizes) > SIZES_KEPT:
                self._sizes.pop(next(iter(self._sizes)))
            return self._sizes[shape]

    def _made_for(self, shape: tuple[int, int, int]) -> "Model":
        with rephrased(f"{self.name} reads pictures of {self.channels} x {self.size[0]} x {self.size[1]}, "
                       f"not {' x '.join(map(str, shape))}", "."):
            whole = self.whole.sized(shape)
        made = type(self)(whole, self.name, self.mean, self.std, self.precision, self.labels)
        made.label, made.modules_names = self.label, self.modules_names
        return made

    def class_name(self, number: int) -> str:
        """The name of a class, "class 3" if the network has no labels."""
        return self.labels[number] if self.labels else f"class {number}"


class Shared:
    """What operations on the same pictures need alike, kept up to a number of bytes (see `iia.sharing`)."""

    def __init__(self, pictures: Tensor | None = None, room: int = 2**28) -> None:
        self.pictures, self.room, self.kept = pictures, room, {}

    def get(self, pictures: Tensor, key: tuple, compute: Callable[[], Tensor]) -> Tensor:
        """What `compute` returns, from memory if it was computed before for these of the shared pictures."""
        if self.pictures is None or storage(pictures) != storage(self.pictures):
            return compute()
        key = *key, pictures.storage_offset(), pictures.shape, pictures.stride()
        if key in self.kept:
            return self.kept[key]
        value = compute()
        if value.nbytes <= self.room:
            self.kept[key], self.room = value, self.room - value.nbytes
        return value


def storage(x: Tensor) -> int:
    """Where a tensor and all parts of it lie in memory."""
    return x.untyped_storage().data_ptr()


def probability(logits: Tensor, classes: Tensor, target: Target | None = None) -> Tensor:
    """The classes' softmax [N] (of a single logit the sigmoid), or what `target` makes of the logits."""
    if target is None:
        logits = logits.softmax(1) if logits.shape[1] > 1 else logits.sigmoid()
    return class_or_target(logits, classes, target)


class Explained(nn.Module):
    """A tail whose outputs are its logits [N, classes], or what `target` makes of them in column 0."""

    def __init__(self, tail: nn.Module, target: Target | None) -> None:
        super().__init__()
        self.tail, self.target = tail, target

    def forward(self, u: Tensor) -> Tensor:
        logits = self.tail(u)
        return logits if self.target is None else self.target(logits)[:, None]


def class_or_target(logits: Tensor, classes: Tensor, target: Target | None) -> Tensor:
    """f_y: the logits [N, classes] of the classes [N], or what `target` makes of the logits: [N]."""
    return logits.gather(1, classes[:, None])[:, 0] if target is None else target(logits)


def ends_without_head(classes: int, ran: list[nn.Module]) -> bool:
    """Whether no layer behind the features makes classes of them (`fc` is Identity, `num_classes=0`).

    The last layer with weights, norms aside, has as many outputs as there are classes, and no norm behind it.
    """
    leaves = [part for part in ran if not any(True for _ in part.children())]
    sizes = {part: [p.shape for p in part.parameters(recurse=False)] for part in ran}
    weighted = [part for part in leaves if sizes[part]]
    norms = [part for part in weighted if all(len(shape) == 1 for shape in sizes[part])]
    last = next((part for part in reversed(weighted) if part not in norms), None)
    matrices = [shape for part in ran if part not in leaves for shape in sizes[part] if len(shape) > 1]
    if any(classes in shape[:2] for shape in matrices):
        return False                            # one of a part that has no last layer as a module
    if last is None or not any(classes in shape[:2] for shape in sizes[last]):
        return bool(weighted) and (weighted[-1] in norms or not isinstance(last, nn.Linear))
    return weighted[-1] in norms or isinstance(last, nn.Conv2d) and isinstance(leaves[-1], nn.Identity)
