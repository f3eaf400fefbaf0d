"""The one call: pictures and classes in, finished maps out."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from .cnn import How
from .errors import UserError, check_choice
from .maps import finish
from .methods import CNN_OPERATIONS, VIT_OPERATIONS, Operation
from .models import CNN, ViT, wrap
from .models.cnn import Shared
from .runs import with_halving


def explain(model: nn.Module, pictures: Tensor, classes: Tensor | Sequence[int] | int, operation: str = "iia", *,
            layer: int | str = "last", definition: str = "paper", steps: int | None = None,
            batch_size: int = 32) -> Tensor:
    """Explain why `model` gives each picture its class.

    Args:
        model: what `iia.load_model` returned, or a torchvision/timm network of a known family (wrapped
            as by `iia.wrap`).
        pictures: normalised for the model, [B, 3, H, W].
        classes: the class to explain, [B] (or one for all).
        operation: a name of `iia.operations(model)`.
        layer: the cut of a CNN, 1..number of stages or "last".
        definition: "paper", or "release" for what the published code computes.
        steps: n, the steps of every path; None for the model's default (CNN 10, ViT 5).
        batch_size: how many rows go through the network at once; it bounds the memory. The pictures
            and path points that make up the rows cannot be told from the result.

    Returns:
        Maps [B, H, W] in [0, 1] on the pictures' device. A map that said nothing (constant or
        non-finite) is all zeros.

    Raises:
        UserError: an unknown operation, definition or layer, or arguments of the wrong shape.
    """
    model = wrap(model)
    if pictures.ndim != 4 or pictures.shape[1] != 3:
        raise UserError(f"pictures are [B, 3, H, W], not {list(pictures.shape)}.")
    if isinstance(model, ViT) and tuple(pictures.shape[-2:]) != (model.size, model.size):
        raise UserError(f"{model.name} reads pictures of {model.size} x {model.size} pixels, "
                        f"not {list(pictures.shape[-2:])}.")
    classes = torch.as_tensor(classes, device=pictures.device, dtype=torch.int64).expand(len(pictures))
    method = operations(model)[check_choice("operation", operation, operations(model))].under(definition)
    steps = model.default_steps if steps is None else steps
    if steps < 1 or batch_size < 1:
        raise UserError(f"steps ({steps}) and batch_size ({batch_size}) are at least 1.")
    cut = model.cut(layer)
    raw = with_halving(lambda size: method(model, pictures, classes, How(cut, steps, definition, size)), batch_size)
    return finish(raw.detach(), tuple(pictures.shape[-2:]), model.upsampling)


@contextlib.contextmanager
def sharing(model: nn.Module, pictures: Tensor) -> Iterator[None]:
    """While the block runs, the operations of IIA compute what they have in common for `pictures` once.

        with iia.sharing(model, pictures):
            maps = {name: iia.explain(model, pictures, classes, name) for name in ("iia", "iia-triple")}

    It changes no map. `model` is what `iia.load_model` or `iia.wrap` returned, `pictures` the very tensor that is
    explained, not to be written to meanwhile. A CNN keeps up to 256 MiB of layers along the input's path; of a ViT
    nothing is shared.
    """
    if not isinstance(model, CNN):
        yield
        return
    model.shared = Shared(pictures)
    try:
        yield
    finally:
        model.shared = Shared()


def operations(model: nn.Module) -> dict[str, Operation]:
    """The table of operations that explain this model, by name."""
    return VIT_OPERATIONS if isinstance(model, ViT) else CNN_OPERATIONS


@torch.no_grad()
def predict(model: nn.Module, pictures: Tensor) -> Tensor:
    """The predicted class of each picture, [B]."""
    return wrap(model)(pictures).argmax(1)
