"""The layers at which a network can be cut.

A layer can be cut at when it is a *dominator*: a tensor through which everything goes from picture to logits.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from ..errors import UserError
from .calls import Call, answering, first_tensor, forget, trace
from .proof import TOLERANCE, difference
from .snapshot import Snapshot

POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)         # "last" is the layer before them


@dataclass(frozen=True)
class Layer:
    """The output of a module's last call.

    name: the module's. call: which of its calls, from 1. layout: how the output lies in memory, "nchw",
    "nhwc" or "tokens". grid: (h, w). tensor: the same number for layers that are the same tensor.
    """
    name: str
    call: int
    layout: str
    grid: tuple[int, int]
    tensor: int

    def to_grid(self, output: object, aspect: float) -> Tensor:
        """What the module returned -> [N, C, h, w]; `aspect` is the picture's height / width."""
        u = first_tensor(output)
        if self.layout == "tokens":
            h = round((u.shape[1] * aspect) ** 0.5)
            return u.unflatten(1, (h, u.shape[1] // h)).permute(0, 3, 1, 2)
        return u.permute(0, 3, 1, 2) if self.layout == "nhwc" else u

    def from_grid(self, u: Tensor) -> Tensor:
        """[N, C, h, w] -> as the module returns it."""
        u = u if self.layout == "nchw" else u.permute(0, 2, 3, 1)
        return u.flatten(1, 2) if self.layout == "tokens" else u


# ------------------------------------------------------------------------------- which layers there are

@dataclass
class Traced:
    """A pass that was looked at. layers: at which the network can be cut, in the order of their computation.
    calls: all of them. head: the name of the linear layer whose output the logits are, if any.
    values: of the layers, [2, C, h, w], not overwritten later."""
    layers: list[Layer]
    calls: list[Call]
    head: str | None
    values: dict[str, Tensor]


def find_layers(whole: Snapshot, x: Tensor) -> Traced:
    """The layers at which the network can be cut for pictures x [2, C, H, W].

    Raises:
        UserError: the logits have no gradient with respect to the pictures.
    """
    modules = dict(whole.network.named_modules())
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        logits, calls = trace(whole.network, x)            # all rows at once, even where they mix
        picture = torch.autograd.graph.get_gradient_edge(x).node
    nodes = dominators(logits.grad_fn, picture) if logits.requires_grad else []
    if not nodes:
        raise UserError(f"{whole.name} has no gradient from its logits to its pictures; give a network in "
                        "floating point that does not detach what its gradient needs.")
    is_probe = x.shape == whole.probe.shape and not whole.alone
    if is_probe and difference(logits.detach(), whole.logits) > TOLERANCE:
        raise UserError(f"{whole.name} answers otherwise when gradients are computed, or differently each "
                        "time.")
    head = next((call.name for call in calls
                 if isinstance(modules[call.name], nn.Linear) and call.u is logits), None)
    place = {node: number for number, node in enumerate(nodes)}
    width, layers, values, before, cubes = widths(whole.network), [], {}, None, []
    counts = Counter(call.name for call in calls)
    last_calls = {call.name: call for call in calls}.values()
    for call in sorted(last_calls, key=lambda call: call.end):
        u, node = call.u, None if call.u is None else call.node
        pools = isinstance(modules[call.name], POOLS)
        found = layout_of(u, x, width) if node in place and not pools else None
        if found:
            layer = Layer(call.name, counts[call.name], *found, place[node])
            grid = layer.to_grid(u, x.shape[-2] / x.shape[-1])
            if before is not None and torch.equal(grid, before):                # an Identity, a Permute
                layer = replace(layer, tensor=layers[-1].tensor)
            layers.append(layer)
            cubes += [layer] if layer.layout == "nchw" and u.shape[1:3] == u.shape[2:] else []
            before = grid if u._version == call.version else None               # overwritten since
            values |= {} if before is None else {call.name: grid.detach()}
    forget(calls)
    for layer in out_of_place(whole, x, cubes):                     # as many channels as rows: which is which
        turned = replace(layer, layout="nhwc")
        if not out_of_place(whole, x, [turned]):
            layers[layers.index(layer)] = turned
            values.pop(layer.name, None)
    scrambled = out_of_place(whole, x, [layer for layer in layers if layer.layout != "nchw"])
    return Traced([layer for layer in layers if layer not in scrambled], calls, head, values)


@torch.no_grad()
def out_of_place(whole: Snapshot, x: Tensor, layers: list[Layer]) -> list[Layer]:
    """The layers whose cells do not lie as the picture's places do (Hiera orders its tokens by windows).

    Where one spot of the picture changes, the layer changes most near that spot.
    """
    if not layers:
        return []
    H, W = x.shape[-2:]
    spots = [(1, 7), (7, 1), (3, 5), (6, 4)]                    # eighths of the picture
    changed = x[:1].repeat(len(spots) + 1, 1, 1, 1)
    for row, (i, j) in zip(changed[1:], spots):
        row[:, i * H // 8:(i + 1) * H // 8, j * W // 8:(j + 1) * W // 8] += 3
    seen: dict[str, Tensor] = {}

    def see(layer: Layer, call: Callable, *args: object, **kwargs: object) -> object:
        output = call(*args, **kwargs)
        seen[layer.name] = layer.to_grid(output, H / W).clone()
        return output

    with answering({whole.network.get_submodule(layer.name): partial(see, layer) for layer in layers}):
        whole(changed)
    return [layer for layer in layers if not near_spots(seen[layer.name], spots)]


def near_spots(u: Tensor, spots: list[tuple[int, int]]) -> bool:
    """Whether most rows of u [1 + spots, C, h, w] differ from the first most where their spot is."""
    h, w = u.shape[-2:]
    change = (u[1:] - u[:1]).abs().sum(1).flatten(1).argmax(1)
    places = [((cell // w + 0.5) / h, (cell % w + 0.5) / w) for cell in change.tolist()]
    hits = [abs(a - (i + 0.5) / 8) <= 0.1 + 0.5 / h and abs(b - (j + 0.5) / 8) <= 0.1 + 0.5 / w
            for (a, b), (i, j) in zip(places, spots)]
    return sum(hits) >= 3


def dominators(last: object, picture: object) -> list:
    """The nodes of autograd's graph through which everything goes, from the node `picture` to `last`.

    There are none where an operation on the way has no derivative, as those of int8 have not.
    """
    order, done, stack = [], set(), [(last, False)]
    while stack:                              # nodes after those that they need
        node, ready = stack.pop()
        if ready:
            order.append(node)
        elif node not in done:
            done.add(node)
            stack.append((node, True))
            stack += [(needed, False) for needed, _ in node.next_functions if needed is not None]
    behind = {picture}
    for node in order:
        if any(needed in behind for needed, _ in node.next_functions):
            behind.add(node)
    order = [node for node in reversed(order) if node in behind]      # from the logits to the picture
    if any("NotImplemented" in node.name() for node in order):
        return []
    place, found, reach = {node: number for number, node in enumerate(order)}, [], 0
    for number, node in enumerate(order):
        if reach <= number:                   # nothing in front of it reads anything behind it
            found.append(node)
        reach = max([reach, *(place.get(needed, 0) for needed, _ in node.next_functions)])
    return found[::-1]


def widths(network: nn.Module) -> set[int]:
    """The numbers of channels that the network's layers speak of."""
    names = ("out_channels", "out_features", "num_features", "in_features")
    return {getattr(m, name) for m in network.modules() for name in names
            if isinstance(getattr(m, name, None), int)}


def layout_of(u: Tensor | None, x: Tensor, width: set[int]) -> tuple[str, tuple[int, int]] | None:
    """How a layer of the pictures x lies in memory, and its grid;
    None where it has no place for each cell."""
    if u is None or not u.is_floating_point() or u.ndim not in (3, 4) or len(u) != len(x):
        return None
    H, W = x.shape[-2:]

    def grid(h: int, w: int) -> bool:         # of the picture's shape, to rounding
        return max(h, w) <= max(H, W) and abs(h * W - w * H) <= max(H, W)

    if u.ndim == 3:
        h = round((u.shape[1] * H / W) ** 0.5)
        w = u.shape[1] // max(1, h)
        return ("tokens", (h, w)) if h * w == u.shape[1] > 1 and grid(h, w) else None
    first, last = grid(*u.shape[2:]), grid(*u.shape[1:3])
    if first and last:                        # only the number of channels can tell
        last = u.shape[3] in width and u.shape[1] not in width
    if last and not (first and u.shape[1] in width):
        return "nhwc", tuple(u.shape[1:3])
    return ("nchw", tuple(u.shape[2:])) if first else None
