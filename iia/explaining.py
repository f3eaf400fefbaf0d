"""Explains pictures: pictures and classes in, finished maps out. `arguments` checks what is explained."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from .arguments import checked_classes, sized
from .errors import UserError, check_choice, rephrased
from .integration import BASELINES, chunks
from .maps import finish, is_degenerate
from .methods import CNN_OPERATIONS, VIT_OPERATIONS, Operation
from .models import CNN, ViT, wrap
from .models.calls import ONE_AT_A_TIME
from .models.model import Shared, Target
from .options import IIAOptions
from .precision import products
from .quadrature import QUADRATURES
from .runs import with_halving

MOST_STEPS = 10_000      # Gauss-Legendre's points take O(n³)


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
        quadrature: "riemann", the paper's sum, "trapezoid", "gauss" or "graded" (METHOD.md, section 3).
        baseline: where a CNN layer's path begins: "spatial-minimum", "channel-minimum", "zero" or "mean".
        return_error: also estimate how far each map is from its limit, n → ∞. It costs no pass.

    Returns:
        Maps [B, H, W] in [0, 1] on the pictures' device. A map that is constant or not finite is all zeros.
        With return_error also the estimates, [B]: of the largest difference in [0, 1] between a finished map
        and its limit; NaN of a map of zeros, and where n = 1 leaves nothing to compare.

    Raises:
        UserError: a network that cannot be explained, an unknown operation, definition or layer, classes that
            the network does not have, or arguments of the wrong shape, dtype or device.
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

        @products(model.precision)
        def raw_maps(batch_size: int) -> Tensor:
            now, at_once = replace(options, batch_size=batch_size), max(1, batch_size // row.rows)
            return torch.cat([method(model, x[part], y[part], now) for part in chunks(len(x), at_once)], -3)

        by_library = rephrased(f"{operation} cannot explain {model.name}", "; take another operation.")
        with contextlib.nullcontext() if row.integral else by_library:       # it may know few kinds of layers
            raw = with_halving(raw_maps, 1 if model.whole.alone else batch_size).detach()
        if not return_error:
            return finish(raw, tuple(x.shape[-2:]), model.upsampling)
        maps, *guesses = (finish(each, tuple(x.shape[-2:]), model.upsampling) for each in raw)
        return maps, distance_to_limit(maps, guesses, options.steps)


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
        raise UserError(f"baseline {baseline!r} is for a CNN's layers; a ViT's attention starts at 0.")
    if return_error and not (row.integral and definition == "paper"):
        raise UserError(f"{operation} under {definition!r} approaches no limit; return_error is for IIA's "
                        'own operations under "paper".')
    steps = model.default_steps[definition] if steps is None else steps
    for name, value, most in (("steps", steps, MOST_STEPS), ("batch_size", batch_size, math.inf)):
        if type(value) is not int or not 1 <= value <= most:
            raise UserError(f"{name} is {value!r}; it must be a whole number, at least 1"
                            f"{f' and at most {most}' if most < math.inf else ''}.")
    cut = model.cut(layer, row.of_layer)
    return row, method, IIAOptions(cut, steps, definition, batch_size, target, quadrature, baseline,
                                   guesses=return_error)


def explain_and_measure(model: nn.Module, pictures: Tensor, classes: Tensor | Sequence[int], operation: str,
                        **options: object) -> tuple[Tensor, Tensor]:
    """Maps [B, H, W] and their estimated distances from the limit, [B]: NaN for what approaches none.

    options: of `explain`.
    """
    row, _, chosen = prepare(model, operation, **options)
    limit = row.integral and chosen.definition == "paper"
    found = explain(model, pictures, classes, operation, return_error=limit, **options)
    return found if limit else (found, torch.full((len(found),), torch.nan))


def distance_to_limit(maps: Tensor, guesses: Sequence[Tensor], steps: int) -> Tensor:
    """How far finished maps [B, H, W] are from their limit, [B]: the largest difference from a guess of it
    (`quadrature_rule`), averaged over the guesses.

    NaN where a map is constant or not finite, or where one step leaves nothing to compare.
    """
    difference = sum((maps - guess).abs().flatten(1).amax(1) for guess in guesses) / len(guesses)
    return difference.masked_fill(is_degenerate(maps) | (steps == 1), torch.nan)


@contextlib.contextmanager
def sharing(model: nn.Module, pictures: Tensor) -> Iterator[None]:
    """While the block runs, the operations of IIA compute what they have in common for `pictures` once.

        with iia.sharing(model, pictures):
            maps = {name: iia.explain(model, pictures, classes, name) for name in ("iia", "iia-triple")}

    It changes no map. `model` is what `iia.load_model` or `iia.wrap` returned, `pictures` the very tensor
    that is explained, not to be written to meanwhile. A CNN keeps up to 256 MiB of layers along the input's
    path; of a ViT nothing is shared. What a ViT keeps of earlier pictures' classes is forgotten, so that the
    maps are the same to the last digit whatever was explained before.
    """
    model = sized(model, pictures)
    model.shared = Shared(pictures)
    if isinstance(model, ViT):
        model.contributions_at_zero.clear()
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
