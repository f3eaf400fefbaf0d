"""Maps of any transformer over patches by whole passes of the user's own network, and the check of ours."""

from unittest import mock

import torch
import torch.nn.functional as F

import iia
from iia.methods import VIT_OPERATIONS
from iia.options import IIAOptions


def attend_by_hand(net, x, y, replaced=None):
    """One picture through any network whose attention is fused -> (A, G): each matrix and ∂f_y/∂A,
    [heads, N, N]."""
    A, replaced = [], replaced or {}

    def explicit(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        if q.shape[-2] != k.shape[-2]:
            return fused(q, k, v, attn_mask, scale=scale)
        a = torch.einsum("bhid,bhjd->bhij", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
        a = torch.softmax(a if attn_mask is None else a + attn_mask, -1)
        a = replaced[len(A)][None].clone() if len(A) in replaced else a.clone()
        a = a if a.requires_grad else a.requires_grad_()
        A.append(a)
        return torch.einsum("bhij,bhjd->bhid", a, v)

    fused = F.scaled_dot_product_attention
    with mock.patch.object(F, "scaled_dot_product_attention", explicit):
        logits = net(x.clone().requires_grad_())          # without it torch's own encoder takes a short cut
    logits = getattr(logits, "logits", logits)
    return [a.detach()[0] for a in A], [g[0] for g in torch.autograd.grad(logits[0, y], A)]


def slow_map(operation, net, x, y, n, grid, start, parallel=1):
    """The raw map of a picture [1, C, H, W]: METHOD.md's section 6 with whole passes.

    start: what is read, [N]. parallel: how many attentions each block has.
    """
    rows = []

    def add(A, G):
        R, C = torch.eye(len(start), dtype=x.dtype), [torch.relu(a * g) for a, g in zip(A, G)]
        for b in range(0, len(C), parallel):
            M = torch.cat(C[b:b + parallel]).mean(0) + torch.eye(len(start), dtype=x.dtype)
            R = (M if operation == "gae" else M / M.sum(1, keepdim=True)) @ R
        rows.append(start @ R)

    L = len(attend_by_hand(net, x, y)[0]) - parallel
    own = range(L, L + parallel)
    if operation == "gae":
        add(*attend_by_hand(net, x, y))
    for i in range(n + 1 if operation == "iia" else 0):
        whole = attend_by_hand(net, i / n * x, y)[0]
        for j in range(n + 1):
            add(*attend_by_hand(net, i / n * x, y, {b: j / n * whole[b] for b in own}))
    for i in range(n + 1 if operation in ("iia-triple", "iia-previous") else 0):
        whole = attend_by_hand(net, i / n * x, y)[0]
        for k in range(n + 1):
            before = {b - parallel: k / n * whole[b - parallel] for b in own}
            if operation == "iia-previous":
                add(*attend_by_hand(net, i / n * x, y, before))
                continue
            end = attend_by_hand(net, i / n * x, y, before)[0]
            for j in range(n + 1):
                add(*attend_by_hand(net, i / n * x, y, before | {b: j / n * end[b] for b in own}))
    return (sum(rows) / len(rows))[-grid[0] * grid[1]:].view(grid)


def reads(prefix, patches, which):
    """The rows that rollout starts with, [N]: of the "class" token, the mean of the "patches"."""
    row = torch.zeros(prefix + patches, dtype=torch.float64)
    row[prefix:] = (which == "patches") / patches
    row[0] = max(row[0], which == "class")
    return row


def check_any(net, wanted, grid=(4, 4), size=(16, 16),
              operations=("iia", "iia-triple", "iia-previous", "gae"), **how):
    """Maps of two pictures by the general way, together, against the loop with the user's network."""
    model = iia.wrap(net.eval(), image_size=size, in_chans=3)
    x = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x, y = x.to(model.dtype), torch.tensor([3, 5])
    logits = net(x)
    assert isinstance(model, iia.models.ViT) and model.grid == grid and model.dtype == torch.float64
    torch.testing.assert_close(model.passes.plain(x)[0], getattr(logits, "logits", logits), rtol=0, atol=1e-9)
    for operation in operations:
        slow = torch.stack([slow_map(operation, net, one, int(label), 2, grid, wanted, **how)
                            for one, label in zip(x.split(1), y)])
        model.contributions_at_zero.clear()
        options = IIAOptions(layer=4, steps=2, batch_size=4)
        raw = VIT_OPERATIONS[operation].under("paper")(model, x, y, options)
        torch.testing.assert_close(raw, slow, rtol=1e-7, atol=1e-12)
    return model
