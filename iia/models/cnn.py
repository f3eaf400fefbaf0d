"""A network of channels on a grid (a CNN, a Swin transformer) that can be cut at its layers
(METHOD.md, section 2).

"Layer" k is the output of the first k stages, the tail is the rest, and `tail(features(x)) == network(x)`,
which is seen to hold before a layer is used.
"""

from collections.abc import Callable

import torch
import torchvision.models as tv
from torch import Tensor, nn

from ..errors import UserError, first_line, lacks_memory
from ..precision import HALVES, products
from .calls import ONE_AT_A_TIME, forget
from .layers import Layer, find_layers
from .model import Model, Shared, Target, class_or_target
from .proof import HALF_TOLERANCE, TOLERANCE, difference, each_same, probe_pictures, rough_difference, same
from .quick import channels_last, half_copy, quick_copy
from .segment import NoGradient, Segment, by_rows_of, check_gradient, passing
from .snapshot import Snapshot
from .stages import find_by_name, stages

Cut = int | str          # a stage's number (0: the picture), or the dotted name of another layer
LARGE = 224              # pixels, where a layer of one cell for small pictures shows whether it has more


class OnlyAttention(UserError):
    """The network's layers with a grid of cells all lie before its attention: it is a vision transformer."""


class CNN(Model):
    """A network that is explained at one of its layers.

    Raises:
        UserError: the network has no layer with a grid of cells.
    """

    upsampling = "bicubic"     # of a raw map to the picture's size (METHOD.md, section 5)
    default_steps = {"paper": 10, "release": 10}         # n

    def __init__(self, whole: Snapshot, name: str, mean: tuple, std: tuple, precision: str = "fp32",
                 labels: list[str] | None = None) -> None:
        super().__init__(whole, name, mean, std, precision, labels)
        self.quick = self._proven(lambda: quick_copy(whole)) or whole
        forget(whole.calls)                                 # before the next pass, which keeps all it sees
        found = find_layers(whole, whole.probe)
        self.layers, self.calls = self._with_large_grids(found.layers), (whole.calls, found.calls)
        self._head = found.head
        self._stages = stages(self.layers, self.network)
        if not self._stages:
            raise UserError(f"{whole.name} has no layer with a grid of cells through which everything "
                            "passes; there is no place in the picture to explain.")
        behind = self.ran[self.ran.index(self.network.get_submodule(self._stages[-1].name)):]
        attention = {part for part in self.ran
                     if "attn" in (kind := type(part).__name__.lower()) or "attention" in kind}
        if len(attention) > 1 and attention <= set(behind):
            raise OnlyAttention(f"{whole.name} attends, behind {self._stages[-1].name}, over tokens "
                                "without a grid; cutting before that would not explain the attention")
        whole.attention.clear()
        self.half = HALVES.get(precision)
        self.in_half = half_copy(self.quick, self.half) if self.half else None
        self._segments: dict[tuple, nn.Module] = {}
        self._values: dict[Cut | None, Tensor] = {None: whole.logits}
        last = self._stages[-1]
        if last.name in found.values and not whole.alone:
            self._values[self.cut_of(last)] = found.values[last.name]
        self._at_zero: dict[tuple, Tensor] = {}
        self.shared = Shared()
        tail = self.segment(self.quick, self.cut_of(self._stages[-1]), None)
        self.way = "skipping" if tail.skips else "whole"

    def clear_caches(self) -> None:
        super().clear_caches()
        for kept in (self._segments, self._values, self._at_zero):
            kept.clear()
        self.in_half = half_copy(self.quick, self.half) if self.half else None    # which was converted, too

    def _with_large_grids(self, layers: list[Layer]) -> list[Layer]:
        """Without the layers that are one cell because the network pools there,
        and not because the pictures are small."""
        if all(max(layer.grid) > 1 for layer in layers) or min(self.size) >= LARGE:
            return [layer for layer in layers if max(layer.grid) > 1]
        try:
            probe = probe_pictures((self.channels, LARGE, LARGE), self.whole.probe)
            larger = find_layers(self.whole, probe).layers
        except Exception:                      # it reads its own size only
            larger = []
        cells = {layer.name for layer in larger if max(layer.grid) > 1}
        return [layer for layer in layers if max(layer.grid) > 1 or layer.name in cells]

    def _proven(self, make: Callable[[], nn.Module]) -> nn.Module | None:
        """What `make` returns, if it answers as the network does."""
        try:
            made = make()
            with torch.no_grad():
                return made if same(made(channels_last(self.whole.probe)), self.whole.logits) else None
        except Exception:                      # a network may forbid what a quick copy does
            return None

    # ------------------------------------------------------------------------------- layers

    @property
    def stage_names(self) -> list[str]:
        """The stages in order; stage k of 1..len is `stage_names[k - 1]`."""
        return [layer.name for layer in self._stages]

    def cut(self, layer: int | str | nn.Module, of_map: bool = True) -> Cut:
        """A layer from the setting: a stage's number, "last", a dotted name ("layer3.-1"), or a module.

        `of_map` says that the map has this layer's cells: not so for methods that explain the picture itself.

        Raises:
            UserError: there is none, it is no place to cut, or it has but one cell.
        """
        found = self._stages[layer - 1] if isinstance(layer, int) and not isinstance(layer, bool) \
            and 1 <= layer <= len(self._stages) else find_by_name(self, layer)
        if of_map and max(found.grid) == 1:
            earlier = [k for k, stage in enumerate(self._stages, 1) if max(stage.grid) > 1]
            near = f"; layer {earlier[-1]} ({self.stage_names[earlier[-1] - 1]}) has more" if earlier else ""
            raise UserError(f"{found.name} of {self.name} has one cell for pictures of {self.size[0]} x "
                            f"{self.size[1]}, in which no place can be told from another{near}.")
        return self.cut_of(found)

    def cut_of(self, layer: Layer) -> Cut:
        """A layer's number if it is a stage's end, else its name."""
        equal = [k for k, stage in enumerate(self._stages, 1) if stage.tensor == layer.tensor]
        return next((k for k in equal if self._stages[k - 1] == layer), next(iter(equal), layer.name))

    def before(self, cut: Cut) -> int:
        """The number of the last stage that ends before a cut; 0 is the picture."""
        tensor = self.layer(cut).tensor
        return sum(stage.tensor < tensor for stage in self._stages)

    def layer(self, cut: Cut) -> Layer | None:
        """The layer of a cut; None for 0, the picture."""
        if cut == 0:
            return None
        return self._stages[cut - 1] if isinstance(cut, int) else next(
            each for each in self.layers if each.name == cut)

    # ------------------------------------------------------------------------------- parts of a pass

    def segment(self, network: Snapshot, start: Cut, stop: Cut | None) -> Segment:
        """The part of the network from a cut to another (None: to the logits), proven, or UserError."""
        key = network is self.quick, network is self.in_half, start, stop
        if key not in self._segments:
            self._segments[key] = self._make_segment(network, start, stop)
        return self._segments[key]

    def _make_segment(self, network: Snapshot, start: Cut, stop: Cut | None) -> Segment:
        first, last = self.layer(start), None if stop is None else self.layer(stop)
        half = network is self.in_half
        u, wanted = self._value(start), self._value(stop)
        u = u.contiguous() if stop is None else self._laid_out(u)
        u = u.to(self.half) if half else u
        off, tolerance = (rough_difference, HALF_TOLERANCE) if half else (difference, TOLERANCE)
        odd, why = self.whole.odd.to(self.device, u.dtype), None
        for one in [network] if half else dict.fromkeys([network, self.whole]):
            for skips in (True, False):
                try:
                    made = Segment(one, first, last, self.calls, skips)
                    with torch.no_grad():
                        v, at_odd = passing(one, first, odd)   # nothing of the probe is left in its modules
                        right = all(off(made(u[rows]), wanted[rows]) <= tolerance
                                    for rows in (slice(None), slice(1, None)))
                        if right and first and last is None:
                            right = each_same(made(v), at_odd, wanted, off, tolerance)
                    if right and last is None:
                        check_gradient(made, u)
                    if right:
                        return made
                except Exception as error:  # whatever a network does with zeros, or without a folded layer
                    if lacks_memory(error):
                        raise
                    why = error
        if isinstance(why, NoGradient):
            raise why
        said = f" ({first_line(why)})" if why else ""
        raise UserError(f"{self.name} cannot be cut at {(first or last).name}: what follows does not depend "
                        f"on this layer alone{said}. Give another layer.") from why

    @torch.no_grad()
    def _value(self, cut: Cut | None) -> Tensor:
        """What the network itself has at a cut for the probe, [2, C, h, w] (None: its logits)."""
        if cut not in self._values:
            probe = self.whole.probe.to(self.device, self.dtype)
            run = Segment(self.whole, None, None if cut is None else self.layer(cut), self.calls)
            self._values[cut] = probe if cut == 0 else run(probe)
        return self._values[cut]

    def stages(self, start: Cut, stop: Cut, x: Tensor) -> Tensor:
        """Run from one cut to another without a gradient: [N, C, h, w] -> [N, C', h', w']."""
        if start == stop:
            return x
        half = self.in_half is not None and x.dtype != torch.float64
        with torch.no_grad():
            u = self._laid_out(x.to(self.half) if half else x)
            made = self.segment(self.in_half if half else self.quick, start, stop)
            return made(u).to(x.dtype).contiguous()                # as tails are proven

    def features(self, x: Tensor, cut: Cut) -> Tensor:
        """Pictures [N, C, H, W] -> their representation at layer `cut`, [N, C', h, w]."""
        return self.stages(0, cut, x)

    def at_zero(self, cut: Cut, like: Tensor) -> Tensor:
        """The representation of the baseline picture (all zeros), [1, C, h, w], computed once."""
        key = cut, like.shape[1:]
        if key not in self._at_zero:
            self._at_zero[key] = self.features(torch.zeros_like(like[:1]), cut)
        return self._at_zero[key]

    def tail(self, cut: Cut, definition: str = "paper", network: Snapshot | None = None) -> nn.Sequential:
        """The rest of the network behind layer `cut`: [N, C, h, w] -> logits [N, classes].

        Under "release" it is what the release runs there, which for two families differs. network: the copy
        that is run, `quick` or (None) `whole`.
        """
        network = network or self.whole
        release, last = definition == "release", len(self._stages)
        if release and isinstance(self.network, tv.ConvNeXt):              # METHOD.md, section 9
            to_last = [self.segment(network, cut, last)] if cut != last else []
            return nn.Sequential(*to_last, nn.ReLU(), self.segment(network, last, None))
        if release and isinstance(self.network, tv.DenseNet) and cut != last:
            to_norm = [self.segment(network, cut, last - 1)] if cut != last - 1 else []
            return nn.Sequential(*to_norm, self.segment(network, last, None))
        return nn.Sequential(self.segment(network, cut, None))

    def score(self, cut: Cut, definition: str = "paper",
              target: Target | None = None) -> Callable[[Tensor, Tensor], Tensor]:
        """f behind layer `cut`: (representations [N, C, h, w], classes [N]) -> f_y [N].

        Of a last linear layer only the classes' own rows are computed, if that gives the same.
        """
        tail = self.tail(cut, definition, self.quick)
        key = "rows", cut, definition
        if key not in self._segments:
            self._segments[key] = by_rows_of(tail, self._head, self._value(cut)) if self._head else None
        rows = self._segments[key] if target is None else None
        return rows or (lambda u, y: class_or_target(tail(u), y, target))

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [N, C, H, W] -> logits [N, classes], the network's own."""
        with ONE_AT_A_TIME, products(self.precision):       # another thread may answer for the very modules
            return self.quick(self._laid_out(x))

    def _laid_out(self, u: Tensor) -> Tensor:
        """As the network that is run was proven to read it: channels last if it is the quick copy."""
        return u.contiguous() if self.quick is self.whole else channels_last(u)
