"""Class activation maps by the package `grad-cam`, at the same layer as IIA.

The library runs a network whole, hooks a layer in it, and resizes what it finds to its input. Here the
network it is given is [layer, tail], and its input the layer's representation u: the features are computed
once and without a gradient, Ablation-CAM runs nothing but the tail, the hooks sit on a layer that is ours,
and "its input's size" is the layer's own, so that nothing is resized. The library also scales each map
(after its ReLU) to [0, 1], in float32; the finished map, min-maxed again, is the same as without that.

All but Eigen-CAM explain the logit of y, without the library's smoothing (`aug_smooth`, `eigen_smooth`),
which the release does not use either. Score-CAM and Eigen-CAM are written out here, with the reasons.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_grad_cam import AblationCAM, FullGrad, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from pytorch_grad_cam import ablation_cam as library
from pytorch_grad_cam.ablation_layer import AblationLayer
from pytorch_grad_cam.base_cam import BaseCAM
from torch import Tensor, nn

from ..errors import UserError
from ..integration import chunks
from ..maps import minmax
from ..models.cnn import CNN
from ..models.model import class_or_target
from ..options import IIAOptions
from .plain import plain_copy, replaced

Score = Callable[[Tensor, Tensor], Tensor]          # (logits [1, classes], y [1]) -> what is explained, [1]


def finercam(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """Finer-CAM: Grad-CAM of what sets y apart from the classes most like it; see `difference`.

    Raises:
        UserError: a target function is to be explained, or there is one class.
    """
    if options.target is not None or model.classes < 2:
        raise UserError("finer-cam sets a class apart from others; take another operation for a target "
                        "function or a network of one class.")
    return at_layer(GradCAM, model, x, y, options, difference)


def difference(logits: Tensor, y: Tensor) -> Tensor:
    """Σ_k w_k (f_y − f_k) over the three classes k whose logits are nearest to f_y.

    w is the softmax of their logits, and is differentiated too, as by the library, whose settings these are.
    The library takes one class for a whole batch, and loses w where the classes' probabilities are below
    1e-9.
    """
    distance = (logits - logits[:, y]).detach()[0].abs()
    distance[y] = -1                                                    # first, also before its equals
    like = logits[:, distance.argsort(stable=True)[1:4]]
    return (like.softmax(1) * (logits[:, y] - like)).sum(1)


@torch.no_grad()
def scorecam(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """Score-CAM: ReLU(Σ_c w_c u_c), w the softmax over the channels of f_y(x ∘ mask_c), mask_c = u_c in
    [0, 1], upsampled as by the library (corners aligned).

    mask_c is u_c, upsampled as by the library (corners aligned) and scaled to [0, 1]. Each channel is a pass
    of the whole network, `batch_size` at once. The library masks the pictures by all channels before the
    first pass: EfficientNet-Lite0's 1,280 take 770 MB for each picture of a batch.
    """
    u, score = model.features(x, options.layer), model.score(options.layer, target=options.target)
    scores = [score(model.features(masked, options.layer), label.expand(len(masked)))
              for channels, picture, label in zip(u, x, y, strict=True)
              for masked in masked_pictures(channels, picture, options.batch_size)]
    w = torch.cat(scores).view(u.shape[:2]).softmax(1)
    return torch.einsum("bc,bchw->bhw", w, u).relu()


def masked_pictures(u: Tensor, picture: Tensor, batch_size: int) -> Iterator[Tensor]:
    """A picture [3, H, W] masked by each channel of u [C, h, w], in batches: [rows, 3, H, W]."""
    for part in u.split(batch_size):
        larger = F.interpolate(part[:, None], picture.shape[1:], mode="bilinear", align_corners=True)
        yield minmax(larger) * picture


def eigencam(model: CNN, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """Eigen-CAM: ReLU(±(u − mean u) v), v the first principal component of a layer's cells, of no class.

    It is the same for every class. Its sign is arbitrary: the library's is what LAPACK gave; here the value
    largest in size is positive, which is the library's rule for Seg-Eigen-CAM. The library's SVD makes
    square matrices: 10 GB for a layer of 224 x 224 cells.
    """
    u = model.features(x, options.layer)
    proper = u.isfinite().flatten(1).all(1)[:, None, None]
    cells = torch.where(proper, u.flatten(2).mT, 0)       # [B, h·w, C]; zeros are degenerate when finished
    cells = cells - cells.mean(1, keepdim=True)
    v = torch.linalg.svd(cells, full_matrices=False).Vh[:, 0]
    along = (cells @ v[:, :, None])[:, :, 0]
    opposite = -along.amin(1, keepdim=True) > along.amax(1, keepdim=True)
    return torch.where(opposite, -along, along).relu().unflatten(1, u.shape[2:])


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
    score = partial(class_or_target, target=options.target)
    with closing(FullGrad(plain_copy(model.tail(0)), [])) as cam:
        return torch.cat([maps(cam, x[row], y[row], score) for row in chunks(len(x), 1)])


class SignedAblation(AblationCAM):
    """The library divides by f_y(u) itself: where it is negative, channels for y would speak against it."""

    def get_cam_weights(self, input_tensor: Tensor, target_layer: nn.Module, targets: list,
                        activations: np.ndarray, grads: np.ndarray) -> np.ndarray:
        weights = super().get_cam_weights(input_tensor, target_layer, targets, activations, grads)
        with torch.no_grad():
            logits = self.model(input_tensor)
        signs = [np.sign(float(target(row))) for target, row in zip(targets, logits, strict=True)]
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
             score: Score | None = None, **settings) -> Tensor:
    """The library's maps at the layer options.layer, [B, h, w]; see the top of this file.

    score: what is explained; None for the logit of y, or the target function.
    """
    layer = nn.Identity()
    layer.device = nn.Parameter(torch.empty(0, device=x.device),      # a tail may have no weights to ask
                                requires_grad=False)
    score = score or partial(class_or_target, target=options.target)
    with closing(kind(nn.Sequential(layer, model.tail(options.layer)), [layer], **settings)) as cam:
        return maps(cam, model.features(x, options.layer), y, score)


def maps(cam: BaseCAM, inputs: Tensor, y: Tensor, score: Score) -> Tensor:
    """What the library makes of inputs [B, C, h, w]: maps [B, h, w] in [0, 1]."""
    explained = [lambda logits, label=label: score(logits[None], label)[0] for label in y.split(1)]
    with torch.enable_grad():
        heatmaps = cam(inputs.detach().requires_grad_(), explained)
    return torch.from_numpy(heatmaps).to(inputs)


@contextlib.contextmanager
def closing(cam: BaseCAM):
    """Remove the library's hooks at the end. Its own `with` would swallow an IndexError."""
    try:
        yield cam
    finally:
        cam.activations_and_grads.release()


# u is the layer's output, g = ∂f_y/∂u. Each map is ReLU(Σ_c w_c u_c).
gradcam = partial(at_layer, GradCAM)                # w_c the spatial mean of g
gradcampp = partial(at_layer, GradCAMPlusPlus)      # w_c = Σ α ∘ ReLU(g), α = g² / (2 g² + g³ Σu)
xgradcam = partial(at_layer, XGradCAM)              # w_c = Σ(g ∘ u_c) / Σu_c
layercam = partial(at_layer, LayerCAM)              # w_c = ReLU(g), at each place
hirescam = partial(at_layer, HiResCAM)              # w_c = g, at each place
