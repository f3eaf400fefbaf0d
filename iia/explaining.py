"""Explains pictures: pictures and classes in, finished maps out. Arguments are checked here alone."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from .errors import UserError, check_choice
from .integration import BASELINES, QUADRATURES, chunks
from .maps import finish
from .methods import CNN_OPERATIONS, VIT_OPERATIONS, Operation
from .models import CNN, ViT, wrap
from .models.calls import ONE_AT_A_TIME
from .models.model import Model, Shared, Target
from .options import IIAOptions
from .runs import with_halving

WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
MOST_STEPS = 10_000      # the points of "gauss" take the cube of it


@torch.inference_mode(False)           # there is no gradient inside that mode
def explain(model: nn.Module, pictures: Tensor, classes: Tensor | Sequence[int] | int | None = None,
            operation: str = "iia", *, target: Target | None = None, layer: int | str | nn.Module = "last",
            definition: str = "paper", steps: int | None = None, batch_size: int = 32,
            quadrature: str = "riemann", baseline: str = "spatial-minimum",
            return_error: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """Explain why `model` gives each picture its class.

    Args:
        model: what `iia.load_model` or `iia.wrap` returned, or a network of the user's own, which is wrapped
            as it is now.
        pictures: normalised for the model, [B, C, H, W].
        classes: the class to explain, [B] (or one for all); None where `target` says what is explained.
        operation: a name of `iia.operations(model)`.
        target: a function of the logits [N, classes] -> [N], explained instead of a class's logit, such as
            `lambda logits: logits[:, 285] - logits[:, 281]`. Each row of its result must depend on that row
            alone.
        layer: where a CNN is cut: a stage's number, "last", a dotted name ("layer3.22", "layer3.-1") or a
            module.
        definition: "paper", or "release" for what the published code computes.
        steps: n, the steps of every path; None for 10 (a ViT's under "release": 5).
        batch_size: how many rows go through the network at once; it bounds the memory and never changes the
            result.
        quadrature: "riemann", the paper's sum, "trapezoid" or "gauss"; each with n + 1 points.
        baseline: where a CNN layer's path begins: "spatial-minimum", "channel-minimum", "zero" or "mean".
        return_error: also estimate how far each map is from its limit, n → ∞. It costs no pass.

    Returns:
        Maps [B, H, W] in [0, 1] on the pictures' device. A map that said nothing (constant or
        non-finite) is all zeros. With return_error also the estimates, [B]: of the largest difference in
        [0, 1] between a finished map and its limit; NaN where n = 1 leaves nothing to compare.

    Raises:
        UserError: a network that cannot be explained, an unknown operation, definition or layer, classes that
            the network has not, or arguments of the wrong shape, dtype or device.
    """
    with ONE_AT_A_TIME:                   # answered calls disturb the passes of other threads
        model = sized(model, pictures)
        row, method, options = prepare(model, operation, target=target, layer=layer, definition=definition,
                                       steps=steps, batch_size=batch_size, quadrature=quadrature,
                                       baseline=baseline, return_error=return_error)
        if not len(pictures):
            maps = pictures.new_zeros(0, *pictures.shape[-2:])
            return (maps, maps.new_zeros(0)) if return_error else maps
        x = pictures.to(model.dtype)
        x = x.clone() if x.is_inference() else x
        y = checked_classes(model, x, classes, target)

        def raw_maps(batch_size: int) -> Tensor:
            now, at_once = replace(options, batch_size=batch_size), max(1, batch_size // row.rows)
            return torch.cat([method(model, x[part], y[part], now) for part in chunks(len(x), at_once)], -3)

        raw = with_halving(raw_maps, batch_size).detach()
        if not return_error:
            return finish(raw, tuple(x.shape[-2:]), model.upsampling)
        maps, fewer = (finish(own, tuple(x.shape[-2:]), model.upsampling) for own in raw)
        return maps, distance_to_limit(maps, fewer, options)


def prepare(model: CNN | ViT, operation: str, *, layer: int | str | nn.Module = "last",
            definition: str = "paper", steps: int | None = None, batch_size: int = 32,
            quadrature: str = "riemann", baseline: str = "spatial-minimum", return_error: bool = False,
            target: Target | None = None) -> tuple[Operation, Callable, IIAOptions]:
    """An operation, its function (with its library imported), and its options; the arguments are `explain`'s.

    Raises:
        UserError: one of the arguments is wrong, or the operation's library is not installed.
    """
    row = operations(model)[check_choice("operation", str(operation).lower(), operations(model))]
    definition, quadrature, baseline = (str(name).lower() for name in (definition, quadrature, baseline))
    method = row.under(definition)
    check_choice("quadrature", quadrature, QUADRATURES)
    check_choice("baseline", baseline, BASELINES)
    if definition == "release" and row.integral and (quadrature, baseline) != ("riemann", "spatial-minimum"):
        raise UserError('definition "release" has sums and baselines of its own; quadrature and baseline are '
                        'for "paper".')
    if isinstance(model, ViT) and baseline != "spatial-minimum":
        raise UserError(f"baseline {baseline!r} is for a CNN's layers; the path of a ViT's attention begins at 0.")
    if return_error and not (row.integral and definition == "paper"):
        raise UserError(f"{operation} under {definition!r} approaches no limit; return_error is for IIA's own "
                        'operations under "paper".')
    steps = model.default_steps[definition] if steps is None else steps
    if not all(type(value) is int and value >= 1 for value in (steps, batch_size)) or steps > MOST_STEPS:
        raise UserError(f"steps ({steps!r}) and batch_size ({batch_size!r}) are whole numbers, at least 1, "
                        f"and steps at most {MOST_STEPS}.")
    cut = model.cut(layer, row.of_layer)
    return row, method, IIAOptions(cut, steps, definition, batch_size, target, quadrature, baseline, return_error)


def explain_and_measure(model: nn.Module, pictures: Tensor, classes: Tensor | Sequence[int], operation: str,
                        **options: object) -> tuple[Tensor, Tensor]:
    """Maps [B, H, W] and their estimated distances from the limit, [B]: NaN for what approaches none.

    options: of `explain`.
    """
    limit = options.get("definition", "paper") == "paper" and operations(model)[operation].integral
    found = explain(model, pictures, classes, operation, return_error=limit, **options)
    return found if limit else (found, torch.full((len(found),), torch.nan))


def distance_to_limit(maps: Tensor, fewer: Tensor, options: IIAOptions) -> Tensor:
    """How far finished maps [B, H, W] are from their limit, by those of every second point: [B].

    Where an error falls as n^-p, the difference of both is 2^p − 1 times the error of the first (Richardson).
    """
    if options.steps == 1:
        return torch.full_like(maps[:, 0, 0], torch.nan)
    return (maps - fewer).abs().flatten(1).amax(1) / (2 ** QUADRATURES[options.quadrature] - 1)


def sized(model: nn.Module, pictures: Tensor) -> CNN | ViT:
    """The network, wrapped where it is not yet, as it reads pictures of this size.

    Raises:
        UserError: it does not read such pictures.
    """
    if not isinstance(pictures, Tensor) or pictures.layout != torch.strided or pictures.is_nested:
        what = "a sparse or nested one" if isinstance(pictures, Tensor) else type(pictures).__name__
        raise UserError(f"pictures are a torch tensor [B, C, H, W], not {what}; iia.load_pictures makes one from "
                        "files.")
    channels = model.channels if isinstance(model, Model) else None
    if pictures.ndim != 4 or channels not in (None, pictures.shape[1]) or not pictures.is_floating_point():
        raise UserError(f"pictures are [B, {channels or 'C'}, H, W] of floating point, not "
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
        UserError: they are no whole numbers, not as many as the pictures, or no classes of the network; or
            the target function gives no number for each picture.
    """
    if target is not None:
        if classes is not None:
            raise UserError("classes and target both say what is explained; give one of them.")
        check_target(target, model, pictures[:1])
        return torch.zeros(len(pictures), dtype=torch.int64, device=pictures.device)
    try:
        given = torch.as_tensor(classes, device=pictures.device)
        whole = given.dtype in WHOLE and given.layout == torch.strided
    except (ValueError, TypeError, RuntimeError):
        whole = False
    if not whole:
        raise UserError(f"classes are whole numbers, one for each picture or one for all, not {classes!r}.")
    if given.ndim > 1 or given.numel() not in (1, len(pictures)):
        raise UserError(f"classes are [{len(pictures)}] as the pictures, or one for all, "
                        f"not {list(given.shape)}.")
    if model.headless:
        raise UserError(f"{model.name} ends without a head: its {model.classes} outputs are features, no "
                        "classes. Give it its head, or say with target= which function of them is explained.")
    if ((given < 0) | (given >= model.classes)).any():
        raise UserError(f"classes {given.tolist()}: {model.name} has the classes 0..{model.classes - 1}.")
    return given.to(torch.int64).expand(len(pictures))


def check_target(target: Target, model: CNN | ViT, picture: Tensor) -> None:
    """Try a target function on the logits of a picture [1, C, H, W], alone and beside another row.

    Raises:
        UserError: it gives no number for each row, none with a gradient, or mixes rows.
    """
    if not callable(target):
        raise UserError(f"target is a function of the logits [N, classes], not {type(target).__name__}.")
    with torch.no_grad():
        logits = model(picture)
    with torch.enable_grad():
        rows = torch.cat([logits, logits.flip(1) + 1]).requires_grad_()
        alone, both = target(rows[:1].clone()), target(rows.clone())
    for value, count in ((alone, 1), (both, 2)):
        if not isinstance(value, Tensor) or value.shape != (count,):
            raise UserError("target returns one number for each row of the logits, a tensor [N], not "
                            f"{list(value.shape) if isinstance(value, Tensor) else type(value).__name__} "
                            f"for {count} row{'s' * (count > 1)}.")
    if not (alone.requires_grad and alone.is_floating_point()):
        raise UserError("target returns what has no gradient with respect to the logits, as an argmax, a "
                        f"comparison, a constant or what is detached ({alone.dtype}).")
    if not torch.allclose(alone[0], both[0], rtol=1e-3, atol=1e-5, equal_nan=True):
        raise UserError("target mixes the rows of the logits; each number is of its own row alone, since rows "
                        "are points of different paths.")


@contextlib.contextmanager
def sharing(model: nn.Module, pictures: Tensor) -> Iterator[None]:
    """While the block runs, the operations of IIA compute what they have in common for `pictures` once.

        with iia.sharing(model, pictures):
            maps = {name: iia.explain(model, pictures, classes, name) for name in ("iia", "iia-triple")}

    It changes no map. `model` is what `iia.load_model` or `iia.wrap` returned, `pictures` the very tensor
    that is explained, not to be written to meanwhile. A CNN keeps up to 256 MiB of layers along the input's
    path; of a ViT nothing is shared.
    """
    model = sized(model, pictures)
    model.shared = Shared(pictures)
    try:
        yield
    finally:
        model.shared = Shared()


def operations(model: nn.Module) -> dict[str, Operation]:
    """The table of operations that explain this model, by name; a network is wrapped to tell."""
    model = wrap(model)
    return VIT_OPERATIONS if isinstance(model, ViT) else CNN_OPERATIONS


@torch.no_grad()
def predict(model: nn.Module, pictures: Tensor) -> Tensor:
    """The predicted class of each picture, [B]."""
    model = sized(model, pictures)
    return model(pictures.to(model.dtype)).argmax(1)
