"""The method as loops: written from METHOD.md's equations, one picture, one step at a time, float64.

Nothing here knows the fast code. A network is a list of stage functions and a head.
"""

import torch
import torch.nn.functional as F

from .oracle_rules import layer_rule_of, rule_of


def compose(functions, u):
    for function in functions:
        u = function(u)
    return u


def grad(stages, head, v, y):
    """∂f_y/∂v where `stages` and `head` follow v [1, C, h, w]."""
    v = v.detach().clone().requires_grad_()
    head(compose(stages, v.clone()))[0, y].backward()
    return v.grad


LOWEST = {"spatial-minimum": lambda u: u.min(-1, keepdim=True).values.min(-2, keepdim=True).values,
          "channel-minimum": lambda u: u.min(1, keepdim=True).values,
          "zero": lambda u: 0 * u, "mean": lambda u: u.mean(-1, keepdim=True).mean(-2, keepdim=True)}


def cnn_map(operation, definition, stages, head, x, y, L, n, quadrature="riemann",
            baseline="spatial-minimum"):
    """The raw map [h, w] of one picture x [1, 3, H, W] at layer L.

    `stages` are all stages of the network; under "release" `head` is what the release runs.
    """
    L = L - 1 if operation == "iia-previous" else L
    features = lambda picture, k: compose(stages[:k], picture).detach()
    rest = stages[L:]
    relu = torch.relu
    total = 0
    if definition == "paper":
        points, lowest = list(zip(*rule_of(quadrature, n))), LOWEST[baseline]
        inner = list(zip(*layer_rule_of(quadrature, n)))

        def level(u):                                    # the integral over the layer's path
            r, acc = lowest(u), 0
            for a, w in inner:
                v = r + a * (u - r)
                acc = acc + w * (u - r) * v * grad(rest, head, v, y)
            return acc
        if operation in ("iia", "iia-previous"):
            for a, w in points:
                total = total + w * level(features(a * x, L))
        elif operation == "iia-triple":
            for a, w in points:
                u = features(a * x, L - 1)
                for b, v in inner:
                    total = total + w * v * level(stages[L - 1](lowest(u) + b * (u - lowest(u))).detach())
        elif operation == "iia-ablation-im":
            for a, w in points:
                u = features(a * x, L)
                total = total + w * (u - lowest(u)) * u * grad(rest, head, u, y)
        elif operation == "iia-ablation-ac":
            total = level(features(x, L))
    else:
        if operation in ("iia", "iia-previous"):
            for i in range(n + 1):
                u = features(i / n * x, L)
                total = total + grad(rest, head, u, y) * relu(u)
        elif operation == "iia-triple":
            ws = [features(i / n * x, L - 1) for i in range(n + 1)]
            r = torch.stack(ws).min(0).values
            for j in range(n + 1):
                us = [stages[L - 1](r + (j / n) * (w - r)).detach() for w in ws]
                low = torch.stack(us).min(0).values
                for u in us:
                    for k in range(n + 1):
                        v = low + (k / n) * (u - low)
                        total = total + relu(grad(rest, head, v, y) * relu(v))
        elif operation in ("iia-ablation-im", "iia-ablation-ac"):
            for i in range(n + 1):
                u = features(i / n * x if operation == "iia-ablation-im" else x, L)
                total = total + relu(grad(rest, head, u, y)) * relu(u)
    return total.sum(1)[0]


# ------------------------------------------------------------------------------------------------ ViT

class PlainViT:
    """A ViT's forward pass written out, with any block's attention replaced on demand."""

    def __init__(self, net):
        self.net, self.depth = net, len(net.blocks)

    def run(self, x, y, replaced=None):
        """One picture [1, 3, H, W] -> (A, G): each block's attention and ∂f_y/∂A, [heads, N, N]."""
        net, replaced, A = self.net, replaced or {}, []
        t = net.patch_embed(x)
        t = torch.cat([net.cls_token, t], 1) + net.pos_embed
        for b, block in enumerate(net.blocks):
            h = F.layer_norm(t, t.shape[-1:], block.norm1.weight, block.norm1.bias, block.norm1.eps)
            heads, d = block.attn.num_heads, t.shape[-1] // block.attn.num_heads
            q, k, v = [part.view(1, -1, heads, d).transpose(1, 2)
                       for part in block.attn.qkv(h).split(t.shape[-1], -1)]
            a = torch.softmax(q @ k.transpose(-2, -1) / d**0.5, -1)
            if b in replaced:
                a = replaced[b].detach()[None]
            a = a.clone() if a.requires_grad else a.clone().requires_grad_()
            a.retain_grad()
            A.append(a)
            t = t + block.attn.proj((a @ v).transpose(1, 2).reshape(t.shape))
            h = F.layer_norm(t, t.shape[-1:], block.norm2.weight, block.norm2.bias, block.norm2.eps)
            t = t + block.mlp.fc2(F.gelu(block.mlp.fc1(h)))
        t = F.layer_norm(t, t.shape[-1:], net.norm.weight, net.norm.bias, net.norm.eps)
        net.head(t[:, 0])[0, y].backward()
        return [a.detach()[0] for a in A], [a.grad[0] for a in A]


def rollout_of(C, normalise=True, start=0):
    """The class token's row of Π_b (rownorm)(C_b + I), later blocks from the left, its own entry left out."""
    N = C[0].shape[-1]
    R = torch.eye(N, dtype=C[0].dtype)
    for c in C[start:]:
        M = c + torch.eye(N, dtype=c.dtype)
        if normalise:
            M = M / M.sum(1, keepdim=True)
        R = M @ R
    side = int((N - 1) ** 0.5)
    return R[0, 1:].view(side, side)


def vit_map(operation, definition, net, x, y, n, quadrature="riemann"):
    """The raw map [grid, grid] of one picture x [1, 3, H, W]."""
    vit, relu = PlainViT(net), torch.relu
    L = vit.depth - 1
    sums, whole, maps = [0] * vit.depth, 0, 0
    points, inner = list(zip(*rule_of(quadrature, n))), list(zip(*layer_rule_of(quadrature, n)))

    def add(A, G, w=1):
        nonlocal whole, maps
        C = [relu(a * g).mean(0) for a, g in zip(A, G)]
        whole, maps = whole + w, maps + w * rollout_of(C)
        for b in range(vit.depth):
            sums[b] = sums[b] + w * C[b]

    if operation in ("iia", "iia-previous"):
        block = L if operation == "iia" else L - 1
        for a, w in points:
            own = vit.run(a * x, y)[0][block]
            for b, v in inner:
                add(*vit.run(a * x, y, {block: b * own}), w * v)
    elif operation == "iia-triple":
        for a, w in points:
            before = vit.run(a * x, y)[0][L - 1]
            for b, v in inner:
                end = vit.run(a * x, y, {L - 1: b * before})[0][L]
                for c, u in inner:
                    add(*vit.run(a * x, y, {L - 1: b * before, L: c * end}), w * v * u)
    elif operation == "ablation-image":
        for a, w in points:
            _, G = vit.run(a * x, y)
            add([torch.ones_like(g) for g in G], G, w)
        if definition == "release":
            sums = [s.mean(0, keepdim=True).repeat(len(s), 1) for s in sums]
    elif operation == "ablation-attention":
        A, G = vit.run(x, y)
        end = relu(A[L] * G[L])
        for a, w in inner:
            add(*vit.run(x, y, {L: a * end}), w)
    elif operation == "gae":
        return rollout_of([relu(a * g).mean(0) for a, g in zip(*vit.run(x, y))], normalise=False)
    elif operation == "rollout":
        A, _ = vit.run(x, y)
        add(A, [torch.ones_like(a) for a in A])
    elif operation == "t-attr":
        _, G = vit.run(x, y)
        relevance = relevance_of_attention(net, x, y, 1e-5 if definition == "release" else None)
        return rollout_of([relu(r * g).mean(0) for r, g in zip(relevance, G)], normalise=False, start=1)
    if operation.startswith("iia") and definition == "paper":        # rollout inside the integral
        return maps / whole
    return rollout_of([s / whole for s in sums])


def relevance_of_attention(net, x, y, eps=None):
    """Deep-Taylor relevance of every attention matrix: each rule by autograd on its own small operation."""

    def split(operation, inputs, R):
        """factor ∘ (∂Z/∂factor)·(R / Z) for each input of a (multi)linear operation."""
        inputs = [i.detach().requires_grad_() for i in inputs]
        Z = operation(*inputs)
        S = torch.where(Z.abs() < 1e-9, 0, R / Z).detach()
        return [i.detach() * g for i, g in zip(inputs, torch.autograd.grad(Z, inputs, S))]

    def linear(layer, value, R):
        w = layer.weight.detach()
        parts = split(lambda p, m: p @ w.clamp(min=0).T + m @ w.clamp(max=0).T,
                      [value.clamp(min=0), value.clamp(max=0)], R)
        return parts[0] + parts[1]

    def add(a, b, R):
        ra, rb = split(lambda p, q: p + q, [a, b], R)
        sa, sb = ra.sum(), rb.sum()
        share = sa.abs() / (sa.abs() + sb.abs())
        return ra * share * R.sum() / sa, rb * (1 - share) * R.sum() / sb

    def product(a, b, R):
        return [part / 2 for part in split(lambda p, q: p @ q, [a, b], R)]

    with torch.no_grad():
        t = torch.cat([net.cls_token, net.patch_embed(x)], 1) + net.pos_embed
        kept = []
        for block in net.blocks:
            h1 = block.norm1(t)
            D, heads = t.shape[-1], block.attn.num_heads
            q, k, v = [p.view(1, -1, heads, D // heads).transpose(1, 2)
                       for p in block.attn.qkv(h1).split(D, -1)]
            a = torch.softmax(q @ k.transpose(-2, -1) / (D // heads) ** 0.5, -1)
            mixed = (a @ v).transpose(1, 2).reshape(t.shape)
            branch = block.attn.proj(mixed)
            mid = t + branch
            h2 = block.norm2(mid)
            g = F.gelu(block.mlp.fc1(h2))
            out = block.mlp.fc2(g)
            kept.append((t, h1, q, k, v, a, mixed, branch, mid, h2, g, out))
            t = mid + out
        last = F.layer_norm(t, t.shape[-1:], net.norm.weight, net.norm.bias, eps or net.norm.eps)[:, 0]
        one_hot = torch.zeros_like(net.head(last))
        one_hot[0, y] = 1
    R = torch.zeros_like(t)
    R[:, 0] = linear(net.head, last, one_hot)
    matrices = []
    for block, (t, h1, q, k, v, a, mixed, branch, mid, h2, g, out) in reversed(list(zip(net.blocks, kept))):
        R_mid, R_out = add(mid, out, R)
        R_mid = R_mid + linear(block.mlp.fc1, h2, linear(block.mlp.fc2, g, R_out))
        R_t, R_branch = add(t, branch, R_mid)
        R_heads = linear(block.attn.proj, mixed, R_branch).unflatten(2, (-1, v.shape[-1])).transpose(1, 2)
        R_a, R_v = product(a, v, R_heads)
        R_q, R_k = product(q, k.transpose(-2, -1), R_a)
        merged = [p.transpose(1, 2).reshape(t.shape) for p in (R_q, R_k.transpose(-2, -1), R_v)]
        R = R_t + linear(block.attn.qkv, h1, torch.cat(merged, -1))
        matrices.insert(0, R_a[0])
    return matrices
