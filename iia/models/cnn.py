"""A network of channels on a grid (a CNN, a Swin transformer) that can be cut at its layers
(METHOD.md, section 2).

"Layer" k is the output of the first k stages; the rest of the network is the tail:
`model.tail(k)(model.features(x, k)) == model(x)`, which is seen to hold before a cut is used.
"""

import copy
import difflib
from collections.abc import Callable

import torch
import torchvision.models as tv
from torch import Tensor, nn

from ..errors import UserError
from .cut import GraphSegment, HookSegment, Layer, NoGraph, find_layers, stages
from .model import Model, Target, class_or_target
from .proof import HALF_TOLERANCE, TOLERANCE, difference, probe_pictures, same
from .quick import half_copy, quick_copy
from .snapshot import ONE_AT_A_TIME, OneByOne, Snapshot

Cut = int | str          # a stage's number (0: the picture), or the dotted name of a layer that is no
                         # stage's end
LARGE = 224              # pixels, where a layer that is one cell for small pictures shows whether it has more


class Shared:
    """What operations on the same pictures need alike, kept up to a number of bytes (see `iia.sharing`)."""

    def __init__(self, pictures: Tensor | None = None, room: int = 2**28) -> None:
        self.pictures, self.room, self.kept = pictures, room, {}

    def get(self, pictures: Tensor, key: tuple, compute: Callable[[], Tensor]) -> Tensor:
        """What `compute` returns, from memory where it was computed before for these of the shared pictures."""
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


class OnlyAttention(UserError):
    """The network's layers with a grid of cells all lie before its attention: it is a vision transformer."""


class CNN(Model):
    """A network that is explained at one of its layers.

    Raises:
        UserError: the network has no layer with a grid of cells.
    """

    upsampling = "bicubic"     # of a raw map to the picture's size (METHOD.md, section 5)
    default_steps = 10         # n, as in the release

    def __init__(self, whole: Snapshot, name: str, mean: tuple, std: tuple, precision: str = "fp32",
                 labels: list[str] | None = None) -> None:
        super().__init__(whole, name, mean, std, precision, labels)
        self.layers = self._with_large_grids(find_layers(whole, whole.probe))
        self._stages = stages(self.layers, self.network)
        if not self._stages:
            raise UserError(f"{whole.name} has no layer with a grid of cells through which everything "
                            "passes; there is no place in the picture to explain.")
        behind = self.ran[self.ran.index(self.network.get_submodule(self._stages[-1].name)):]
        attention = {part for part in self.ran
                     if "attn" in (kind := type(part).__name__.lower()) or "attention" in kind}
        if len(attention) > 1 and attention <= set(behind):
            raise OnlyAttention(f"{whole.name} attends over tokens that have no grid of their own behind "
                                f"{self._stages[-1].name}, where a map would say nothing of it")
        self.quick = self._proven(lambda: quick_copy(whole, whole.probe)) or whole
        self.in_bf16 = half_copy(self.quick) if precision == "bf16" else None
        self._segments: dict[tuple, nn.Module] = {}
        self._traces: dict[tuple, dict] = {}
        self._values: dict[tuple, Tensor] = {}
        self._at_zero: dict[tuple, Tensor] = {}
        self.shared = Shared()
        tail = self.segment(self.quick, self.cut_of(self._stages[-1]), None)
        self.way = "graph" if isinstance(tail, GraphSegment) else "hooks"

    def _with_large_grids(self, layers: list[Layer]) -> list[Layer]:
        """Without the layers that are one cell because the network pools there,
        and not because the pictures are small."""
        if all(max(layer.grid) > 1 for layer in layers) or min(self.size) >= LARGE:
            return [layer for layer in layers if max(layer.grid) > 1]
        try:
            larger = find_layers(self.whole, probe_pictures((self.channels, LARGE, LARGE), self.whole.probe))
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
        found = self._find(layer)
        if of_map and max(found.grid) == 1:
            earlier = [k for k, stage in enumerate(self._stages, 1) if max(stage.grid) > 1]
            near = f"; layer {earlier[-1]} ({self.stage_names[earlier[-1] - 1]}) has more" if earlier else ""
            raise UserError(f"{found.name} of {self.name} has one cell for pictures of {self.size[0]} x "
                            f"{self.size[1]}, in which no place can be told from another{near}.")
        return self.cut_of(found)

    def _find(self, layer: int | str | nn.Module) -> Layer:
        if isinstance(layer, nn.Module):
            name = self.modules_names.get(layer) or self._name(layer)
            if name is None:
                raise UserError(f"the layer given ({type(layer).__name__}) is no module of {self.name}.")
            layer = name
        if layer == "last":
            return self._stages[-1]
        if isinstance(layer, int) and not isinstance(layer, bool) and 1 <= layer <= len(self._stages):
            return self._stages[layer - 1]
        names = {each.name: each for each in self.layers}
        if not isinstance(layer, str):
            raise self._no_layer(layer)
        name = counted_forward(layer, self.network)
        if name in names:
            return names[name]
        if name not in dict(self.network.named_modules()):
            near = difflib.get_close_matches(layer, names, n=1, cutoff=0.5)
            raise self._no_layer(layer, f" Did you mean {near[0]!r}?" if near else "")
        ancestors = [name.rsplit(".", k)[0] for k in range(1, name.count(".") + 1)]
        ran = [other for module in self.ran for other in [self._name(module)]
               if other in names or other == name]
        near = next((part for part in ancestors if part in names), None) or (
            ran[max(0, ran.index(name) - 1)] if name in ran and len(ran) > 1 else self._stages[-1].name)
        raise UserError(f"not everything passes through {layer!r} of {self.name} on its way from the "
                        "picture to the logits, or it has no grid of cells; the nearest layer that can be "
                        f"cut at is {near!r}.")

    def _name(self, module: nn.Module) -> str | None:
        return next((name for name, own in self.network.named_modules() if own is module), None)

    def _no_layer(self, layer: object, hint: str = "") -> UserError:
        numbered = ", ".join(f"{k} {name}" for k, name in enumerate(self.stage_names, 1))
        return UserError(f'FEATURE_LAYER_NUMBER {layer!r} is no layer of {self.name}.{hint} '
                         f'Allowed: "last", or one of {numbered}, or the dotted name of another module.')

    def cut_of(self, layer: Layer) -> Cut:
        """A layer's number if it is a stage's end, else its name."""
        same_tensor = [k for k, stage in enumerate(self._stages, 1) if stage.tensor == layer.tensor]
        return next((k for k in same_tensor if self._stages[k - 1] == layer),
                    next(iter(same_tensor), layer.name))

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

    def segment(self, network: Snapshot, start: Cut, stop: Cut | None) -> nn.Module:
        """The part of the network from a cut to another (None: to the logits), by its graph if that is right.

        Raises:
            UserError: no way to take it apart reproduces the network.
        """
        key = network is self.quick, network is self.in_bf16, start, stop, self.device, self.dtype
        if key not in self._segments:
            self._segments[key] = self._make_segment(network, start, stop)
        return self._segments[key]

    def _make_segment(self, network: Snapshot, start: Cut, stop: Cut | None) -> nn.Module:
        first, last = self.layer(start), None if stop is None else self.layer(stop)
        half, alone = network is self.in_bf16, isinstance(self.whole, OneByOne)
        inner, truth = (network.whole, self.whole.whole) if alone else (network, self.whole)
        u, wanted = self._value(start), self._value(stop)
        u = u.to(torch.bfloat16) if half else u
        # a folded copy has other layers inside
        for one in [inner] if half else dict.fromkeys([inner, truth]):
            for way in (self._by_graph, HookSegment):
                try:
                    made = way(one, first, last)
                    made = OneByOne(made) if alone else made
                    if difference(run_carefully(made, u), wanted) <= (HALF_TOLERANCE if half else TOLERANCE):
                        return made
                except (NoGraph, RuntimeError, TypeError, ValueError, LookupError, AttributeError):
                    pass                    # what is traced may not run, what runs may not come to the layer
        raise UserError(f"{self.name} cannot be cut at {(first or last).name}: what follows does not depend "
                        "on this layer alone. Give another layer.")

    @torch.no_grad()
    def _value(self, cut: Cut | None) -> Tensor:
        """What the network itself has at a cut for the probe, [2, C, h, w] (None: its logits)."""
        key = cut, self.device, self.dtype
        if cut is None and (self.device, self.dtype) == (self.whole.logits.device, self.whole.logits.dtype):
            return self.whole.logits
        if key not in self._values:
            probe = self.whole.probe.to(self.device, self.dtype)
            alone = isinstance(self.whole, OneByOne)
            run = HookSegment(self.whole.whole if alone else self.whole, None,
                              None if cut is None else self.layer(cut))
            self._values[key] = probe if cut == 0 else (OneByOne(run) if alone else run)(probe)
        return self._values[key]

    def _by_graph(self, one: Snapshot, first: Layer | None, last: Layer | None) -> GraphSegment:
        return GraphSegment(one, first, last, self._traces.setdefault((id(one), self.device, self.dtype), {}))

    def stages(self, start: Cut, stop: Cut, x: Tensor) -> Tensor:
        """Run from one cut to another without a gradient: [N, C, h, w] -> [N, C', h', w']."""
        if start == stop:
            return x
        half = self.in_bf16 is not None and x.dtype != torch.float64
        with torch.no_grad():
            u = channels_last(x.to(torch.bfloat16) if half else x)
            return self.segment(self.in_bf16 if half else self.quick, start, stop)(u).to(x.dtype)

    def features(self, x: Tensor, cut: Cut) -> Tensor:
        """Pictures [N, C, H, W] -> their representation at layer `cut`, [N, C', h, w]."""
        return self.stages(0, cut, x)

    def at_zero(self, cut: Cut, like: Tensor) -> Tensor:
        """The representation of the baseline picture (all zeros), [1, C, h, w], computed once."""
        key = (cut, like.shape[1:], like.dtype, like.device)
        if key not in self._at_zero:
            self._at_zero[key] = self.features(torch.zeros_like(like[:1]), cut)
        return self._at_zero[key]

    def tail(self, cut: Cut, definition: str = "paper") -> nn.Sequential:
        """The rest of the network behind layer `cut`: [N, C, h, w] -> logits [N, classes].

        Under "release" it is what the release runs there, which for two families differs.
        """
        return self._rest(self.whole, cut, definition)

    def _rest(self, network: Snapshot, cut: Cut, definition: str = "paper") -> nn.Sequential:
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
        tail = self._rest(self.quick, cut, definition)
        rows = self._rows(tail, cut, definition) if target is None else None
        return rows or (lambda u, y: class_or_target(tail(u), y, target))

    def _rows(self, tail: nn.Sequential, cut: Cut,
              definition: str) -> Callable[[Tensor, Tensor], Tensor] | None:
        """`score` by the rows of the last linear layer, if there is one and it gives the same."""
        key = "rows", cut, definition, self.device, self.dtype
        if key not in self._segments:
            parts = tail[-1].without_last_linear() if isinstance(tail[-1], GraphSegment) else None
            body, last = (nn.Sequential(*tail[:-1], parts[0]), parts[1]) if parts else (None, None)

            def rows(u: Tensor, y: Tensor) -> Tensor:
                f = (body(u) * last.weight[y]).sum(1)
                return f if last.bias is None else f + last.bias[y]

            with torch.no_grad():
                u = self._value(cut)
                y = torch.arange(len(u), device=u.device) % self.classes
                right = parts and same(rows(u, y), tail(u).gather(1, y[:, None])[:, 0])
            self._segments[key] = rows if right else None
        return self._segments[key]

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [N, C, H, W] -> logits [N, classes], the network's own."""
        with ONE_AT_A_TIME:                    # another thread may trace the very modules
            return self.quick(channels_last(x))


@torch.no_grad()
def run_carefully(segment: nn.Module, u: Tensor) -> Tensor:
    """What a segment makes of u; one that writes to what it reads is given copies from now on."""
    v = u.clone()
    found = segment(v)
    if torch.equal(v, u):
        return found
    getattr(segment, "whole", segment).careful = True
    return segment(u)


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def counted_forward(name: str, network: nn.Module) -> str:
    """A dotted name with its negative numbers counted from the start: "layer3.-1" -> "layer3.22"."""
    parts: list[str] = []
    for part in name.split("."):
        children = dict(network.get_submodule(".".join(parts)).named_children()) if not part.isdigit() and \
            part.lstrip("-").isdigit() and ".".join(parts) in dict(network.named_modules()) else {}
        parts.append(list(children)[int(part)] if children and -len(children) <= int(part) < 0 else part)
    return ".".join(parts)

