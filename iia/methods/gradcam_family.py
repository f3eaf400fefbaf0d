"""Class activation maps by the package `grad-cam`, at the same layer as IIA.

The library runs a network whole, hooks a layer in it, and resizes what it finds to its input. Here the
network it is given is [layer, tail], and its input the layer's representation u: the features are computed
once and without a gradient, Ablation-CAM runs nothing but the tail, the hooks sit on a layer that is ours,
and "its input's size" is the layer's own, so that nothing is resized. The library also scales each map
(after its ReLU) to [0, 1], in float32; the finished map, min-maxed again, is the same as without that.

All explain the logit of y, without the library's smoothing (`aug_smooth`, `eigen_smooth`), which the
release does not use either.
"""

import contextlib
from types import SimpleNamespace

import numpy as np
import torch
from pytorch_grad_cam import AblationCAM, FullGrad, GradCAM, GradCAMPlusPlus, LayerCAM, XGradCAM
from pytorch_grad_cam import ablation_cam as library
from pytorch_grad_cam.ablation_layer import AblationLayer
from pytorch_grad_cam.base_cam import BaseCAM
from torch import Tensor, nn

from ..models.cnn import CNN
from ..models.model import class_or_target
from ..options import IIAOptions
from .plain import plain_copy, replaced


def gradcam(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """Grad-CAM: ReLU(Σ_c w_c u_c), w_c the spatial mean of ∂f_y/∂u_c."""
    return at_layer(GradCAM, model, x, y, options)


def gradcampp(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """Grad-CAM++: w_c = Σ α ∘ ReLU(g), with α = g² / (2 g² + g³ Σu), g = ∂f_y/∂u_c."""
    return at_layer(GradCAMPlusPlus, model, x, y, options)


def xgradcam(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """XGrad-CAM: w_c = Σ(g ∘ u_c) / Σu_c."""
    return at_layer(XGradCAM, model, x, y, options)


def layercam(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """LayerCAM: ReLU(Σ_c ReLU(g) ∘ u_c)."""
    return at_layer(LayerCAM, model, x, y, options)


def ablation(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """Ablation-CAM: w_c = (f_y(u) − f_y(u without channel c)) / |f_y(u)|."""
    with replaced(library, "tqdm", SimpleNamespace(tqdm=lambda steps: steps)):     # a bar for every picture
        return at_layer(SignedAblation, model, x, y, options, ablation_layer=ZeroedChannel(),
                        batch_size=options.batch_size)


def fullgrad(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """FullGrad: |x ∘ ∂f_y/∂x| and, of every convolution and batch norm, |bias ∘ ∂f_y/∂output|.

    It has no layer: its maps are as large as the picture. The library counts no biases of layer norms
    and linear layers (ConvNeXt has many). A picture at a time, since it upsamples every channel of every
    layer to the picture's size.
    """
    with closing(FullGrad(plain_copy(model.tail(0)), [])) as cam:
        return torch.cat([maps(cam, x[row:row + 1], y[row:row + 1], options) for row in range(len(x))])


class SignedAblation(AblationCAM):
    """The library divides by f_y(u) itself: where it is negative, channels for y would speak against it."""

    def get_cam_weights(self, input_tensor: Tensor, target_layer: nn.Module, targets: list,
                        activations: np.ndarray, grads: np.ndarray) -> np.ndarray:
        weights = super().get_cam_weights(input_tensor, target_layer, targets, activations, grads)
        with torch.no_grad():
            logits = self.model(input_tensor)
        signs = [np.sign(float(target(own))) for target, own in zip(targets, logits, strict=True)]
        return weights * np.array(signs)[:, None]


class ZeroedChannel(AblationLayer):
    """Row i of a batch is u without its channel indices[i]: that channel is 0, as in the paper.

    The library's own layer does the same where the least of u is 0. Elsewhere it writes (least − 1e7),
    and takes the least from rows that are already ablated: the map would depend on the batch's size.
    """

    def __call__(self, x: Tensor) -> Tensor:
        u = self.activations                                       # [rows, C, h, w], the library's own copy
        rows = torch.arange(len(u), device=u.device)
        u[rows, torch.as_tensor(self.indices[:len(u)], device=u.device, dtype=torch.int64)] = 0
        return u


def at_layer(kind: type[BaseCAM], model: CNN, x: Tensor, y: Tensor, options: IIAOptions,
             **settings) -> Tensor:
    """The library's maps at the layer options.layer, [B, h, w]; see the top of this file."""
    layer = nn.Identity()
    layer.device = nn.Parameter(torch.empty(0, device=x.device),      # a tail may have no weights to ask
                                requires_grad=False)
    with closing(kind(nn.Sequential(layer, model.tail(options.layer)), [layer], **settings)) as cam:
        return maps(cam, model.features(x, options.layer), y, options)


def maps(cam: BaseCAM, inputs: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """What the library makes of inputs [B, C, h, w]: maps [B, h, w] in [0, 1]."""
    explained = [lambda logits, own=own: class_or_target(logits[None], own, options.target)[0]
                 for own in y.split(1)]
    with torch.enable_grad():
        found = cam(inputs.detach().requires_grad_(), explained)
    return torch.from_numpy(found).to(inputs)


@contextlib.contextmanager
def closing(cam: BaseCAM):
    """Remove the library's hooks at the end. Its own `with` would swallow an IndexError."""
    try:
        yield cam
    finally:
        cam.activations_and_grads.release()
