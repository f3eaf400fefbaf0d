"""IIA with the interfaces of Quantus, captum and grad-cam, for code that was written for them.

    quantus.MaxSensitivity()(network, x, y, explain_func=bridges.quantus_explain)
    NoiseTunnel(bridges.CaptumIIA(network)).attribute(pictures, target=285)
    bridges.GradCamIIA(network, [network.layer4])(pictures, [ClassifierOutputTarget(285)])

Each takes an unwrapped network, explains it as it is at the time of the call, and passes `operation`,
`layer`, `steps` and every other keyword on to `iia.explain`. None of these packages is imported here.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .errors import UserError, first_line
from .explaining import explain, predict, sized
from .maps import minmax
from .models.model import Model


def as_input(model: nn.Module, pictures: np.ndarray | Tensor) -> Tensor:
    """Pictures as a tensor of the network's dtype and on its device, where these packages put them too."""
    try:
        return torch.as_tensor(pictures).to(next(model.parameters(), torch.empty(0)))
    except (AttributeError, TypeError, ValueError, RuntimeError) as why:
        raise UserError(f"{type(model).__name__} and {type(pictures).__name__} are no network and its "
                        f"pictures [B, C, H, W] ({first_line(why)}).") from why


def maps_alone(options: dict) -> dict:
    """The options; raises UserError where they ask for error estimates beside the maps."""
    if options.get("return_error"):
        raise UserError("return_error has no place in this interface, which returns maps alone. Use "
                        "iia.explain, or captum's return_convergence_delta.")
    return options


def quantus_explain(model: nn.Module, inputs: np.ndarray, targets: np.ndarray, method: str = "iia",
                    device: str | None = None, **options) -> np.ndarray:
    """Quantus's `explain_func`: pictures [B, C, H, W] and classes [B] -> maps [B, 1, H, W] in [0, 1].

    Args:
        method: the operation. Quantus passes the names in its table of methods:
            `quantus.evaluate(..., xai_methods={"iia": quantus_explain, "iia-triple": quantus_explain},
            explain_func_kwargs={})`.
        device: passed by Quantus and ignored; the network's own counts.
        options: of `iia.explain`, from Quantus's `explain_func_kwargs`.

    Raises:
        UserError: the model is a snapshot, whose maps would not change with the weights of the network, as
            metrics such as MPRT expect; or as `iia.explain`.
    """
    if isinstance(model, Model):
        raise UserError("Quantus changes the weights of what it is given, and a snapshot made by iia keeps "
                        "its own: give it the network itself (that of iia.load_model is model.network).")
    maps = explain(model, as_input(model, inputs), targets, **{"operation": method} | maps_alone(options))
    return maps[:, None].cpu().numpy()


def wrapped(attribute: Callable) -> Callable:
    """A method with the `__wrapped__` that captum's own decorator sets and its NoiseTunnel needs."""
    @functools.wraps(attribute)
    def outer(*args, **options):
        return attribute(*args, **options)
    return outer


class CaptumIIA:
    """captum's interface, for its NoiseTunnel and its metrics: see `attribute`.

    Args:
        forward_func: the network. layer: as for `iia.explain`. options: more of its arguments.
    """

    multiplies_by_inputs = False                # captum reads it, and calls the two methods below

    def __init__(self, forward_func: nn.Module, layer: int | str | nn.Module = "last", **options) -> None:
        self.forward_func, self.options = forward_func, {"layer": layer} | options

    def has_convergence_delta(self) -> bool:
        return True

    @wrapped
    def attribute(self, inputs: Tensor | tuple[Tensor], target: int | Sequence[int] | Tensor | None = None,
                  return_convergence_delta: bool = False, **options) -> Tensor | tuple:
        """Maps [B, 1, H, W] in [0, 1] of pictures [B, C, H, W]; a tuple of one, if one is given.

        Args:
            target: the class to explain, [B] or one for all.
            return_convergence_delta: also return the estimated distance of each map from its limit of
                infinitely many steps, [B] (`return_error` of `iia.explain`).
        """
        if isinstance(inputs, tuple) and len(inputs) != 1:
            raise UserError(f"inputs are one tensor of pictures [B, C, H, W], not a tuple of {len(inputs)}.")
        pictures = inputs[0] if isinstance(inputs, tuple) else inputs
        if isinstance(target, tuple):
            raise UserError(f"target is a class, or a list of one for each picture, not the tuple {target}.")
        if return_convergence_delta:
            options["return_error"] = True
        else:
            maps_alone(self.options | options)
        result = explain(self.forward_func, pictures, target, **self.options | options)
        maps, *delta = result if return_convergence_delta else [result]
        maps = (maps[:, None],) if isinstance(inputs, tuple) else maps[:, None]
        return (maps, *delta) if return_convergence_delta else maps


class GradCamIIA(contextlib.AbstractContextManager):
    """grad-cam's interface; the maps of several layers are averaged, as there.

    Args:
        target_layers: modules of the network, or whatever else `layer` may be in `iia.explain`.
        options: more of its arguments.
    """

    def __init__(self, model: nn.Module, target_layers: Sequence[nn.Module | str | int] = ("last",),
                 **options) -> None:
        single = isinstance(target_layers, (nn.Module, str, int))
        self.model, self.target_layers = model, [target_layers] if single else list(target_layers)
        self.options = maps_alone(options)
        if not self.target_layers:
            raise UserError("target_layers is empty; give a layer, or leave it out.")

    def __call__(self, input_tensor: Tensor, targets: Sequence[Callable[[Tensor], Tensor]] | None = None,
                 aug_smooth: bool = False, eigen_smooth: bool = False) -> np.ndarray:
        """Maps [B, H, W] in [0, 1], float32, of pictures [B, C, H, W].

        Args:
            targets: for each picture a function of its row of the logits; None for the predicted classes.
        """
        if aug_smooth or eigen_smooth:
            raise UserError("aug_smooth and eigen_smooth are not for IIA, whose maps are already sums over a "
                            "path; leave them out.")
        pictures = as_input(self.model, input_tensor)
        model = sized(self.model, pictures)
        if targets is None:
            targets = [lambda row, y=y: row[y] for y in predict(model, pictures)]
        if not isinstance(targets, Sequence) or not all(map(callable, targets)):
            raise UserError("targets are functions of a row of the logits, in a list with one for each "
                            "picture, such as grad-cam's ClassifierOutputTarget(285).")
        if len(targets) != len(pictures):
            raise UserError(f"{len(targets)} targets for {len(pictures)} pictures; give one for each.")
        if not len(pictures):
            return np.zeros((0, *pictures.shape[-2:]), np.float32)
        of_layers = [torch.cat([explain(model, x[None], target=of_rows(target), layer=layer, **self.options)
                                for x, target in zip(pictures, targets)]) for layer in self.target_layers]
        return minmax(torch.stack(of_layers).mean(0)).float().cpu().numpy()

    def __exit__(self, *_) -> None:
        """Do nothing: grad-cam's own classes release their hooks here, and this one holds none."""


def of_rows(target: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """grad-cam's target, a function of one row of the logits, for all rows: [N, classes] -> [N]."""
    return lambda logits: torch.stack([target(row).squeeze() for row in logits])
