"""Comparison methods for ViTs that need only the attention and its gradient (METHOD.md, section 7)."""

import torch
from torch import Tensor

from ..options import IIAOptions
from ..integration import chunks
from ..models.vit import ViT
from ..vit_attribution import by_block, gradient_rollout, plain_run


def gae(model: ViT, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """Generic Attention Explainability (Chefer et al., ICCV 2021): R += mean_heads(max(0, A ∘ G)) · R.

    That is the product of I + C_b, later blocks from the left. x [B, 3, H, W] -> [B, h, w].
    """
    maps = []
    for rows in chunks(len(x), options.batch_size):
        A, G = plain_run(model, x[rows], y[rows], options.target)
        C = [(a * g).relu().mean(1) for a, g in zip(A, G, strict=True)]                  # [P, N, N] of each
        maps.append(gradient_rollout(model, C, normalise=False))
    return torch.cat(maps)


def rollout(model: ViT, x: Tensor, y: Tensor, options: IIAOptions) -> Tensor:
    """Attention rollout (Abnar & Zuidema, ACL 2020): Π_b rownorm(mean_heads(A_b) + I), whatever the class.

    x [B, 3, H, W] -> [B, h, w].
    """
    maps = []
    for rows in chunks(len(x), options.batch_size):
        with torch.no_grad(), model.casting(x):
            _, A = model.passes.plain(x[rows])
        maps.append(gradient_rollout(model, [a.mean(1) for a in by_block(model, A)]))
    return torch.cat(maps)
