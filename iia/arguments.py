"""Checks what a call is to explain: the network, its pictures, and the classes or a target function."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .errors import UserError, rephrased
from .models import CNN, ViT, wrap
from .models.model import Model, Target

WHOLE_NUMBERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def sized(model: nn.Module, pictures: Tensor) -> CNN | ViT:
    """The network, wrapped if it is not yet, set up for pictures of this size.

    Raises:
        UserError: it does not read such pictures.
    """
    if not isinstance(pictures, Tensor) or pictures.layout != torch.strided or pictures.is_nested:
        given = "a sparse or nested one" if isinstance(pictures, Tensor) else type(pictures).__name__
        raise UserError(f"pictures are a torch tensor [B, C, H, W], not {given}; iia.load_pictures makes one "
                        "from files.")
    channels = model.channels if isinstance(model, Model) else None
    if pictures.ndim != 4 or channels not in (None, pictures.shape[1]) or not pictures.is_floating_point():
        raise UserError(f"pictures are [B, {channels or 'C'}, H, W] in floating point, not "
                        f"{list(pictures.shape)} of {pictures.dtype}.")
    if not isinstance(model, Model):
        model = wrap(model, image_size=tuple(pictures.shape[-2:]), in_chans=pictures.shape[1])
    widened = model.dtype == torch.float32 and pictures.dtype in (torch.float16, torch.bfloat16)
    if pictures.device != model.device or not (widened or pictures.dtype == model.dtype):
        raise UserError(f"the pictures are {pictures.dtype} on {pictures.device}, the network is "
                        f"{model.dtype} on {model.device}; give it "
                        f"pictures.to({str(model.device)!r}, {model.dtype}).")
    return model.sized(tuple(pictures.shape[1:]))


def checked_classes(model: CNN | ViT, pictures: Tensor, classes: Tensor | Sequence[int] | int | None,
                    target: Target | None) -> Tensor:
    """The classes as int64 [B] on the pictures' device; zeros where a target function is explained.

    Raises:
        UserError: they are not whole numbers, not as many as the pictures, or not classes of the network; or
            the target function does not return a number for each picture.
    """
    if target is not None:
        if classes is not None:
            raise UserError("classes and target both say what is explained; give only one of them.")
        check_target(target, model, pictures[:1])
        return torch.zeros(len(pictures), dtype=torch.int64, device=pictures.device)
    try:
        numbers = torch.as_tensor(classes, device=pictures.device)
        fit = (numbers.dtype in WHOLE_NUMBERS and numbers.layout == torch.strided
               and numbers.ndim <= 1 and numbers.numel() in (1, len(pictures)))
    except (ValueError, TypeError, RuntimeError):
        fit = False
    if not fit:
        raise UserError(f"classes are whole numbers, one for each of the {len(pictures)} pictures or one for "
                        f"all, not {classes!r}; iia.predict(model, pictures) gives the predicted ones.")
    if model.headless:
        raise UserError(f"{model.name} ends without a head: its {model.classes} outputs are features, not "
                        "classes. Give it its head, or say with target= which function of them is explained.")
    if ((numbers < 0) | (numbers >= model.classes)).any():
        raise UserError(f"classes {numbers.tolist()}: {model.name} has the classes 0..{model.classes - 1}.")
    return numbers.to(torch.int64).expand(len(pictures))


def check_target(target: Target, model: CNN | ViT, picture: Tensor) -> None:
    """Try a target function on the logits of a picture [1, C, H, W], alone and together with another row.

    Raises:
        UserError: it does not return a number for each row, has no gradient, or mixes rows.
    """
    if not callable(target):
        raise UserError(f"target is a function of the logits [N, classes], not {type(target).__name__}.")
    with torch.no_grad():
        logits = model(picture)
    with torch.enable_grad():
        rows = torch.cat([logits, logits.flip(1) + 1]).requires_grad_()
        with rephrased(f"target fails for logits {list(logits.shape)}", "."):
            alone, together = target(rows[:1].clone()), target(rows.clone())
    for value, count in ((alone, 1), (together, 2)):
        if not isinstance(value, Tensor) or value.shape != (count,):
            raise UserError("target returns one number for each row of the logits, a tensor [N], not "
                            f"{list(value.shape) if isinstance(value, Tensor) else type(value).__name__} "
                            f"for {count} row{'s' * (count > 1)}.")
    if not (alone.requires_grad and alone.is_floating_point()):
        raise UserError("what target returns has no gradient with respect to the logits, as of an argmax, a "
                        f"comparison, a constant or a detached tensor ({alone.dtype}).")
    if not torch.allclose(alone[0], together[0], rtol=1e-3, atol=1e-5, equal_nan=True):
        raise UserError("target mixes the rows of the logits; each number must depend on its own row alone, "
                        "since the rows are points of different paths.")
