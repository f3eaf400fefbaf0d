"""Which layers are numbered, and how they are named."""

import difflib
import re
from typing import TYPE_CHECKING

from torch import nn

from ..errors import UserError
from .layers import Layer

if TYPE_CHECKING:
    from .cnn import CNN

LISTS = (nn.Sequential, nn.ModuleList)
POINTWISE = ("conv_stem", "conv_head")      # timm's names of convolutions that are one stage with the norm
                                            # behind them


def stages(layers: list[Layer], network: nn.Module) -> list[Layer]:
    """The layers that are numbered: the ends of the network's parts, as its containers name them."""
    ends = []
    for name in part_names("", [layer.name for layer in layers], network):
        inside = [layer for layer in layers if f"{layer.name}.".startswith(f"{name}.")]
        ends.append(next((layer for layer in inside if layer.name == name), inside[-1]))
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


# ------------------------------------------------------------------------------- layers as users name them

def find_by_name(model: "CNN", layer: object) -> Layer:
    """The layer that is "last", a dotted name ("layer3.-1") or a module.

    Raises:
        UserError: there is none, or it is no place to cut.
    """
    if isinstance(layer, nn.Module):
        name = model.modules_names.get(layer) or next(
            (name for name, module in model.network.named_modules() if module is layer), None)
        if not name:
            raise UserError(f"the layer given ({type(layer).__name__}) is no module of {model.name}.")
        layer = name
    names = {each.name: each for each in model.layers}
    if layer == "last":
        return names[model.stage_names[-1]]
    name = counted_forward(layer, model.network) if isinstance(layer, str) else None
    if name in names:
        return names[name]
    if name is None or name not in dict(model.network.named_modules()):
        near = difflib.get_close_matches(str(layer), names, n=1, cutoff=0.5)
        numbered = ", ".join(f"{k} ({stage})" for k, stage in enumerate(model.stage_names, 1))
        raise UserError(f"layer {layer!r} is no layer of {model.name}."
                        f"{f' Did you mean {near[0]!r}?' if near else ''} "
                        f'Allowed: "last", or one of {numbered}, or the dotted name of another module.')
    ancestors = [name.rsplit(".", k)[0] for k in range(1, name.count(".") + 1)]
    ran = [call.name for call in model.calls[0] if call.name in names or call.name == name]
    near = next((part for part in ancestors if part in names), None) or (
        ran[max(0, ran.index(name) - 1)] if name in ran and len(ran) > 1 else model.stage_names[-1])
    raise UserError(f"not everything passes through {layer!r} of {model.name} on its way from the "
                    "picture to the logits, or it has no grid of cells; the nearest layer that can be "
                    f"cut at is {near!r}.")


def counted_forward(name: str, network: nn.Module) -> str:
    """A dotted name with its negative numbers counted from the start: "layer3.-1" -> "layer3.22"."""
    parts: list[str] = []
    for part in name.split("."):
        children = dict(network.get_submodule(".".join(parts)).named_children()) \
            if re.fullmatch(r"-\d+", part) and ".".join(parts) in dict(network.named_modules()) else {}
        parts.append(list(children)[int(part)] if children and -len(children) <= int(part) < 0 else part)
    return ".".join(parts)
