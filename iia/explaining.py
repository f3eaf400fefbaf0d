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


@torch.inference_mode(False)           # there is no gradient inside that mode
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
        UserError: an unknown operation, definition or layer, classes that the network has not, or arguments of
            the wrong shape, dtype or device.
    """
    model = wrap(model)
    method = operations(model)[check_choice("operation", operation, operations(model))].under(definition)
    steps = model.default_steps if steps is None else steps
    if not all(isinstance(value, int) and value >= 1 for value in (steps, batch_size)):
        raise UserError(f"steps ({steps!r}) and batch_size ({batch_size!r}) are whole numbers, at least 1.")
    cut = model.cut(layer)
    check_pictures(model, pictures)
    if not len(pictures):
        return pictures.new_zeros(0, *pictures.shape[-2:])
    pictures = pictures.clone() if pictures.is_inference() else pictures
    classes = checked_classes(model, pictures, classes)
    model.refresh()
    raw = with_halving(lambda size: method(model, pictures, classes, How(cut, steps, definition, size)), batch_size)
    return finish(raw.detach(), tuple(pictures.shape[-2:]), model.upsampling)


def check_pictures(model: CNN | ViT, pictures: Tensor) -> None:
    """Raise UserError for what `model` cannot read."""
    if not isinstance(pictures, Tensor):
        raise UserError(f"pictures are a torch tensor [B, 3, H, W], not {type(pictures).__name__}; "
                        "iia.load_pictures makes one from files.")
    if pictures.ndim != 4 or pictures.shape[1] != 3:
        raise UserError(f"pictures are [B, 3, H, W], not {list(pictures.shape)}.")
    if isinstance(model, ViT) and tuple(pictures.shape[-2:]) != (model.size, model.size):
        raise UserError(f"{model.name} reads pictures of {model.size} x {model.size} pixels, "
                        f"not {list(pictures.shape[-2:])}.")
    weights = next(model.network.parameters())
    if (pictures.dtype, pictures.device) != (weights.dtype, weights.device):
        raise UserError(f"the pictures are {pictures.dtype} on {pictures.device}, the network is {weights.dtype} on "
                        f"{weights.device}; give it pictures.to({str(weights.device)!r}, {weights.dtype}).")


def checked_classes(model: CNN | ViT, pictures: Tensor, classes: Tensor | Sequence[int] | int) -> Tensor:
    """The classes as int64 [B] on the pictures' device.

    Raises:
        UserError: they are no whole numbers, not as many as the pictures, or no classes of the network.
    """
    try:
        given = torch.as_tensor(classes, device=pictures.device)
        whole = not given.is_floating_point() and given.dtype != torch.bool
    except (ValueError, TypeError, RuntimeError):
        whole = False
    if not whole:
        raise UserError(f"classes are whole numbers, one for each picture or one for all, not {classes!r}.")
    if given.ndim > 1 or given.numel() not in (1, len(pictures)):
        raise UserError(f"classes are [{len(pictures)}] as the pictures, or one for all, not {list(given.shape)}.")
    count = model.classes
    if count is not None and ((given < 0) | (given >= count)).any():
        raise UserError(f"classes {given.tolist()}: {model.name} has the classes 0..{count - 1}.")
    return given.to(torch.int64).expand(len(pictures))


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
    model.refresh()                     # which forgets all that is kept
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
