"""Any network taken apart at a layer: by its graph where that can be traced, else by hooks.

A layer can be cut at when it is a *dominator*: a tensor through which everything goes from picture to logits.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from ..errors import UserError
from .snapshot import ONE_AT_A_TIME, Snapshot, logits_of

LISTS = (nn.Sequential, nn.ModuleList)
POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)         # "last" is the layer before them
POINTWISE = ("conv_stem", "conv_head")      # timm's names of convolutions that are one stage with the norm
                                            # behind them


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


def first_tensor(output: object) -> Tensor | None:
    """The tensor that a module hands on: its output, the first of several, or its last hidden state."""
    while isinstance(output, (tuple, list)) and output:
        output = output[0]
    output = getattr(output, "last_hidden_state", output)
    return output if isinstance(output, Tensor) else None


# ------------------------------------------------------------------------------- which layers there are

def find_layers(whole: Snapshot, x: Tensor) -> list[Layer]:
    """The layers at which the network can be cut for pictures x [2, C, H, W],
    in the order of their computation."""
    seen: dict[str, tuple[int, Tensor, object, int]] = {}

    def note(name: str):
        def hook(module: nn.Module, inputs: tuple, output: object) -> None:
            u, call = first_tensor(output), seen.pop(name, (0,))[0] + 1
            seen[name] = (call, u, None if u is None else u.grad_fn, None if u is None else u._version)
        return hook

    modules = dict(whole.network.named_modules())
    hooks = {module: note(name) for name, module in modules.items() if name}
    with ONE_AT_A_TIME, torch.enable_grad(), Hooked(hooks):
        x = x.detach().clone().requires_grad_()
        logits = logits_of(whole.network(x))       # all rows at once, even where they mix
        try:
            torch.autograd.grad(logits.sum(), x, retain_graph=True)
            nodes = dominators(logits.grad_fn)
        except (RuntimeError, NotImplementedError):
            nodes = []
    if not nodes:
        raise UserError(f"{whole.name} has no gradient from its logits to its pictures (it is quantised, or "
                        "detaches them); give the network in floating point.")
    place = {node: number for number, node in enumerate(nodes)}
    width, layers, before = widths(whole.network), [], None
    for name, (call, u, node, version) in seen.items():
        found = layout_of(u, x, width) if node in place and not isinstance(modules[name], POOLS) else None
        if found:
            layer = Layer(name, call, *found, place[node])
            grid = layer.to_grid(u, x.shape[-2] / x.shape[-1])
            if before is not None and torch.equal(grid, before):            # an Identity, a Permute
                layer = replace(layer, tensor=layers[-1].tensor)
            layers.append(layer)
            before = grid if u._version == version else None                # overwritten since
    scrambled = out_of_place(whole, x, [layer for layer in layers if layer.layout != "nchw"])
    return [layer for layer in layers if layer not in scrambled]


class Hooked:
    """Forward hooks that are gone afterwards."""

    def __init__(self, hooks: dict) -> None:
        self.hooks = hooks

    def __enter__(self) -> None:
        self.handles = [module.register_forward_hook(hook) for module, hook in self.hooks.items()]

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:
            handle.remove()


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
    hooks = {whole.network.get_submodule(layer.name): lambda module, inputs, output, layer=layer: seen.update(
        {layer.name: layer.to_grid(output, H / W).clone()}) for layer in layers}
    with ONE_AT_A_TIME, Hooked(hooks):
        whole.network(changed)
    return [layer for layer in layers if not near_spots(seen[layer.name], spots)]


def near_spots(u: Tensor, spots: list[tuple[int, int]]) -> bool:
    """Whether most rows of u [1 + spots, C, h, w] differ from the first most where their spot is."""
    h, w = u.shape[-2:]
    change = (u[1:] - u[:1]).abs().sum(1).flatten(1).argmax(1)
    places = [((cell // w + 0.5) / h, (cell % w + 0.5) / w) for cell in change.tolist()]
    hits = [abs(a - (i + 0.5) / 8) <= 0.1 + 0.5 / h and abs(b - (j + 0.5) / 8) <= 0.1 + 0.5 / w
            for (a, b), (i, j) in zip(places, spots)]
    return sum(hits) >= 3


def dominators(last: object) -> list:
    """The nodes of autograd's graph through which everything goes, from the picture to `last`."""
    order, done, stack = [], set(), [(last, False)]
    while stack:                              # nodes after those that they need
        node, ready = stack.pop()
        if ready:
            order.append(node)
        elif node not in done:
            done.add(node)
            stack.append((node, True))
            stack += [(needed, False) for needed, _ in node.next_functions if needed is not None]
    order.reverse()                           # from the logits to the picture
    place, found, reach = {node: number for number, node in enumerate(order)}, [], 0
    for number, node in enumerate(order):
        if reach <= number:                   # nothing in front of it reads anything behind it
            found.append(node)
        reach = max([reach, *(place[needed] for needed, _ in node.next_functions if needed is not None)])
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


# ------------------------------------------------------------------------------- which of them are numbered

def stages(layers: list[Layer], network: nn.Module) -> list[Layer]:
    """The layers that are numbered: the ends of the network's parts, as its containers name them."""
    ends = []
    for name in part_names("", [layer.name for layer in layers], network):
        own = [layer for layer in layers if f"{layer.name}.".startswith(f"{name}.")]
        ends.append(next((layer for layer in own if layer.name == name), own[-1]))
    return [layer for layer in ends if layer.name.split(".")[-1] not in POINTWISE]


def part_names(name: str, layers: list[str], network: nn.Module) -> list[str]:
    """The parts into which a module is taken: its children, but those of children that hold stages."""
    groups = children_of(name, layers)
    found = []
    for child in groups:
        inside = children_of(child, layers)
        module = network.get_submodule(child)
        alone = inside and (child == "features" or len(groups) == 1 and (
            name == "" or holds_blocks(module) or isinstance(module, LISTS)))
        stage_like = [holds_blocks(network.get_submodule(part))
                      or isinstance(network.get_submodule(part), LISTS)
                      and len(children_of(part, layers)) > 1 for part in inside]
        opened = alone or (isinstance(module, LISTS) and sum(stage_like) * 2 > len(inside)) \
            or (len(inside) == 1 and not isinstance(module, LISTS) and holds_blocks(module))
        found += part_names(child, layers, network) if opened else [child]
    return found


def children_of(name: str, layers: list[str]) -> list[str]:
    start = f"{name}." if name else ""
    return list(dict.fromkeys(start + layer[len(start):].split(".")[0]
                              for layer in layers if layer.startswith(start)))


def holds_blocks(module: nn.Module) -> bool:
    """Whether a module of its own kind has a list of blocks in it, as a stage or an encoder has."""
    def blocks(part: nn.Module) -> int:
        return sum(not isinstance(child, LISTS) and any(True for _ in child.children())
                   for child in part.children())
    return not isinstance(module, LISTS) and any(isinstance(part, LISTS) and blocks(part) > 1
                                                 for part in module.children())


# ------------------------------------------------------------------------------- the two ways to cut

class NoGraph(Exception):
    """The network's graph cannot be traced, or does not pass through the layer alone."""


class Tracer(fx.Tracer):
    """Traces a network's own forward. Its parts stay whole,
    but for containers and those on the way to `inside`."""

    def __init__(self, inside: str) -> None:
        super().__init__()
        self.inside, self.ends = f"network.{inside}", {}

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        container = type(module).forward is nn.Sequential.forward
        return not (container or f"{self.inside}.".startswith(f"{name}.") and name != self.inside)

    def call_module(self, module: nn.Module, forward, args: tuple, kwargs: dict) -> object:
        try:
            output = super().call_module(module, forward, args, kwargs)
        except NameError:                 # another thread's module, or one that the network hides from torch
            return forward(*args, **kwargs)
        if isinstance(output, fx.Proxy):
            self.ends[self.path_of_module(module).removeprefix("network.")] = output.node
        return output


def traced(whole: Snapshot, inside: str) -> tuple[fx.GraphModule, dict[str, fx.Node]] | None:
    """The network as a graph, and the node of each module's last call; None where it cannot be traced."""
    tracer = Tracer(inside)
    try:
        graph = tracer.trace(whole)
    except Exception:                         # whatever a forward does with what is no tensor yet
        return None
    for name, value in list(vars(whole).items()):
        if isinstance(value, Tensor) and name.startswith("_tensor_constant"):
            delattr(whole, name)
            whole.register_buffer(name, value, persistent=False)        # so that it moves along
    return fx.GraphModule(whole, graph), tracer.ends


def between(graph_module: fx.GraphModule, start: fx.Node, stop: fx.Node) -> fx.GraphModule:
    """What computes `stop` from `start`."""
    graph = fx.Graph()
    copies = {start: graph.placeholder("u")}
    for node in graph_module.graph.nodes:
        computes = node not in copies and node.op not in ("placeholder", "output")
        if computes and all(needed in copies for needed in node.all_input_nodes):
            copies[node] = graph.node_copy(node, copies.__getitem__)
        if node is stop:
            break
    if stop not in copies:
        raise NoGraph(f"{stop} needs more than {start}")
    graph.output(copies[stop])
    return fx.GraphModule(graph_module, graph)


class GraphSegment(nn.Module):
    """The part of a traced network between two layers (None: the pictures, the logits):
    [N, C, h, w] in and out."""

    def __init__(self, whole: Snapshot, start: Layer | None, stop: Layer | None, traces: dict) -> None:
        super().__init__()
        names = [layer.name for layer in (start, stop) if layer]
        for inside in ("", *names):
            if inside not in traces:
                traces[inside] = traced(whole, inside)
            if traces[inside] is None:
                raise NoGraph("the network's forward cannot be traced")
            graph, ends = traces[inside]
            if all(name in ends for name in names):
                break
        else:
            raise NoGraph(f"{names} are not in one trace")
        self.start, self.stop, self.aspect = start, stop, whole.probe.shape[-2] / whole.probe.shape[-1]
        nodes = list(graph.graph.nodes)
        first = ends[start.name] if start else next(node for node in nodes if node.op == "placeholder")
        last = ends[stop.name] if stop else nodes[-1].args[0]
        self.body = between(graph, first, last)
        self.careful = False                  # whether it writes to what it reads

    def forward(self, u: Tensor) -> Tensor:
        u = self.start.from_grid(u) if self.start else u
        u = self.body(u.clone() if self.careful else u)
        return self.stop.to_grid(u, self.aspect) if self.stop else u

    def without_last_linear(self) -> tuple[nn.Module, nn.Linear] | None:
        """The segment without its last layer, and that layer, where it is a plain linear one."""
        *_, last, output = self.body.graph.nodes
        layer = self.body.get_submodule(last.target) \
            if last.op == "call_module" and output.args[0] is last else None
        if not isinstance(layer, nn.Linear) or len(last.all_input_nodes) != 1:
            return None
        nodes = list(self.body.graph.nodes)
        short = GraphSegment.__new__(GraphSegment)
        nn.Module.__init__(short)
        short.start, short.stop, short.aspect, short.careful = self.start, None, self.aspect, self.careful
        short.body = between(self.body, nodes[0], last.all_input_nodes[0])
        return short, layer


class Left(BaseException):
    """Leaves a forward pass at a layer; no `except Exception` of a network's stops it."""


class HookSegment(nn.Module):
    """The same for a network that cannot be traced: it runs whole, with u put in place of layer `start`."""

    def __init__(self, whole: Snapshot, start: Layer | None, stop: Layer | None) -> None:
        super().__init__()
        self.whole, self.start, self.stop = whole, start, stop
        self.shape = tuple(whole.probe.shape[1:])

    def forward(self, u: Tensor) -> Tensor:
        if self.start is None and self.stop is None:
            return self.whole(u)
        calls, found = {}, []

        def put(module: nn.Module, inputs: tuple, output: object) -> object:
            if not at(module, self.start):
                return None
            own = self.start.from_grid(u).clone()
            if isinstance(output, (tuple, list)):
                return type(output)((own, *output[1:]))
            if hasattr(output, "last_hidden_state"):
                output.last_hidden_state = own
                return output
            return own

        def leave(module: nn.Module, inputs: tuple, output: object) -> None:
            if at(module, self.stop):
                found.append(self.stop.to_grid(output, self.shape[-2] / self.shape[-1]).clone())
                raise Left

        def at(module: nn.Module, layer: Layer) -> bool:
            calls[module] = calls.get(module, 0) + 1
            return calls[module] == layer.call

        network, hooks = self.whole.network, {}
        if self.start:
            hooks[network.get_submodule(self.start.name)] = put
        if self.stop:
            hooks[network.get_submodule(self.stop.name)] = leave
        x = u if self.start is None else u.new_zeros(1, *self.shape).expand(len(u), *self.shape)
        with ONE_AT_A_TIME, Hooked(hooks):
            try:
                logits = self.whole(x)
            except Left:
                return found[0]
        if self.stop:
            raise RuntimeError(f"the forward pass never came to {self.stop.name}")
        return logits
