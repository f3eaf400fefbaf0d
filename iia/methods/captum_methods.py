"""Integrated Gradients and LIFT-CAM by the package `captum`."""

import warnings

import torch.nn.functional as F
from captum.attr import DeepLift, IntegratedGradients
from captum.attr._core import deep_lift as library
from torch import Tensor, nn

from ..models.cnn import CNN
from ..models.model import Explained, probability
from ..options import IIAOptions
from .plain import AsModules, plain_copy, replaced, separate_calls
from .saliency_methods import grey

IG_STEPS = 25     # as the release runs it


def summed(values: Tensor, indices: Tensor, kernel_size: int, stride: int, padding: int,
           size: list[int]) -> Tensor:
    """torch's max_unpool2d, but a pixel that is the maximum of several windows gets their sum."""
    return values.new_zeros(size).flatten(2).scatter_add(2, indices.flatten(2), values.flatten(2)).view(size)


def maxpool(module: nn.Module, *seen: Tensor, eps: float) -> Tensor:
    """captum's rule for max pooling, right where windows overlap too (the stem of a ResNet)."""
    return library.maxpool(module, F.max_pool2d, summed, *seen, eps=eps)


# DeepLift's rescale rule holds for any element-wise function; captum knows it for ReLU and a few more,
# and would take the plain gradient of the others.
ELEMENT_WISE = (nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Mish)
RULES = (library.SUPPORTED_NON_LINEAR | dict.fromkeys(ELEMENT_WISE, library.nonlinear)
         | {nn.MaxPool2d: maxpool})


def ig(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """Integrated Gradients of the softmax probability (or of the target function), from the picture 0
    (normalised; "black"), in grey.

    25 steps as in the release, by captum's default quadrature (Gauss-Legendre). The maps
    are as large as the picture.
    """
    method = IntegratedGradients(lambda rows, classes: probability(model(rows), classes, options.target))
    return grey(method.attribute(x, baselines=0, additional_forward_args=y, n_steps=IG_STEPS,
                                 internal_batch_size=options.batch_size))


def lift_cam(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """LIFT-CAM: ReLU(Σ_c w_c u_c), w_c the sum over space of DeepLift's contributions of u_c to f_y.

    DeepLift (rescale rule, baseline u = 0) explains a copy of the tail in which nothing is in place and
    every call has a module of its own. It takes the gradient of layer norms (ConvNeXt), for which it has no
    rule. It runs two rows of the tail for a picture, u and 0.
    """
    tail = separate_modules(model.tail(options.layer), model.at_zero(options.layer, x))
    u = model.features(x, options.layer)
    weights = contributions(Explained(tail, options.target), u, y).sum((2, 3), keepdim=True)
    return (weights * u).sum(1).relu()


def separate_modules(tail: nn.Module, example: Tensor) -> nn.Module:
    """A copy of the tail in which every call that DeepLift has a rule for is of a module of its own."""
    return AsModules(separate_calls(plain_copy(tail), RULES, example), example)


def contributions(tail: nn.Module, u: Tensor, y: Tensor) -> Tensor:
    """DeepLift's contributions of u [B, C, h, w] to f_y(u) − f_y(0), of which they are the parts."""
    with replaced(library, "SUPPORTED_NON_LINEAR", RULES), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*forward, backward hooks")     # they are on our copy
        return DeepLift(tail).attribute(u.detach().requires_grad_(), baselines=0, target=y).detach()
