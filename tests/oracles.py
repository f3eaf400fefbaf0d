"""The method as loops: written from METHOD.md's equations, one picture, one step at a time, float64.

Nothing here knows the fast code. A network is a list of stage functions and a head.
"""

import torch
import torch.nn.functional as F


def compose(functions, u):
    for function in functions:
        u = function(u)
    return u


def grad(stages, head, v, y):
    """∂f_y/∂v where `stages` and `head` follow v [1, C, h, w]."""
    v = v.detach().clone().requires_grad_()
    head(compose(stages, v.clone()))[0, y].backward()
    return v.grad


def spatial_min(u):
    return u.min(-1, keepdim=True).values.min(-2, keepdim=True).values


def cnn_map(operation, definition, stages, head, x, y, L, n):
    """The raw map [h, w] of one picture x [1, 3, H, W] at layer L.

    `stages` are all stages of the network; under "release" `head` is what the release runs.
    """
    features = lambda picture, k: compose(stages[:k], picture).detach()
    rest = stages[L:]
    relu = torch.relu
    total = 0
    if definition == "paper":
        def level(u):                                    # Σ_j over the layer's path, not yet divided
            r, acc = spatial_min(u), 0
            for j in range(n + 1):
                v = r + (j / n) * (u - r)
                acc = acc + (u - r) * v * grad(rest, head, v, y)
            return acc
        if operation == "iia":
            for i in range(n + 1):
                total = total + level(features(i / n * x, L))
            total = total / n**2
        elif operation == "iia-triple":
            for i in range(n + 1):
                w = features(i / n * x, L - 1)
                for j in range(n + 1):
                    v = spatial_min(w) + (j / n) * (w - spatial_min(w))
                    total = total + level(stages[L - 1](v).detach())
            total = total / n**3
        elif operation == "iia-ablation-im":
            for i in range(n + 1):
                u = features(i / n * x, L)
                total = total + (u - spatial_min(u)) * u * grad(rest, head, u, y)
            total = total / n
        elif operation == "iia-ablation-ac":
            total = level(features(x, L)) / n
    else:
        if operation == "iia":
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
        elif operation == "iia-ablation-im":
            for i in range(n + 1):
                u = features(i / n * x, L)
                total = total + relu(grad(rest, head, u, y)) * relu(u)
        elif operation == "iia-ablation-ac":
            u = features(x, L)
            for _ in range(n + 1):
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
            q, k, v = [part.view(1, -1, heads, d).transpose(1, 2) for part in block.attn.qkv(h).split(t.shape[-1], -1)]
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


def vit_map(operation, definition, net, x, y, n):
    """The raw map [grid, grid] of one picture x [1, 3, H, W]."""
    vit, relu = PlainViT(net), torch.relu
    L = vit.depth - 1
    sums, count = [0] * vit.depth, 0

    def add(A, G):
        nonlocal count
        count += 1
        for b in range(vit.depth):
            sums[b] = sums[b] + relu(A[b] * G[b]).mean(0)

    if operation == "iia":
        for i in range(n + 1):
            end = vit.run(i / n * x, y)[0][L]
            for j in range(n + 1):
                add(*vit.run(i / n * x, y, {L: j / n * end}))
    elif operation == "iia-triple":
        for i in range(n + 1):
            before = vit.run(i / n * x, y)[0][L - 1]
            for k in range(n + 1):
                end = vit.run(i / n * x, y, {L - 1: k / n * before})[0][L]
                for j in range(n + 1):
                    add(*vit.run(i / n * x, y, {L - 1: k / n * before, L: j / n * end}))
    elif operation == "ablation-image":
        for i in range(n + 1):
            _, G = vit.run(i / n * x, y)
            add([torch.ones_like(g) for g in G], G)
        if definition == "release":
            sums = [s.mean(0, keepdim=True).repeat(len(s), 1) for s in sums]
    elif operation == "ablation-attention":
        A, G = vit.run(x, y)
        end = relu(A[L] * G[L])
        for j in range(n + 1):
            add(*vit.run(x, y, {L: j / n * end}))
    elif operation == "gae":
        add(*vit.run(x, y))
        return rollout_of(sums, normalise=False)
    elif operation == "rollout":
        A, _ = vit.run(x, y)
        add(A, [torch.ones_like(a) for a in A])
    elif operation == "t-attr":
        _, G = vit.run(x, y)
        relevance = relevance_of_attention(net, x, y, 1e-5 if definition == "release" else None)
        return rollout_of([relu(r * g).mean(0) for r, g in zip(relevance, G)], normalise=False, start=1)
    return rollout_of([s / count for s in sums])


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
        parts = split(lambda p, m: p @ w.clamp(min=0).T + m @ w.clamp(max=0).T, [value.clamp(min=0), value.clamp(max=0)], R)
        return parts[0] + parts[1]

    def add(a, b, R):
        ra, rb = split(lambda p, q: p + q, [a, b], R)
        sa, sb = ra.sum(), rb.sum()
        share = sa.abs() / (sa.abs() + sb.abs())
        return ra * share * R.sum() / sa, rb * (1 - share) * R.sum() / sb

    def product(a, b, R):
        ra, rb = split(lambda p, q: p @ q, [a, b], R)
        return ra / 2, rb / 2

    with torch.no_grad():
        t = torch.cat([net.cls_token, net.patch_embed(x)], 1) + net.pos_embed
        kept = []
        for block in net.blocks:
            h1 = block.norm1(t)
            D, heads = t.shape[-1], block.attn.num_heads
            q, k, v = [p.view(1, -1, heads, D // heads).transpose(1, 2) for p in block.attn.qkv(h1).split(D, -1)]
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
        R_heads = linear(block.attn.proj, mixed, R_branch).view(1, t.shape[1], -1, v.shape[-1]).transpose(1, 2)
        R_a, R_v = product(a, v, R_heads)
        R_q, R_k = product(q, k.transpose(-2, -1), R_a)
        merged = torch.cat([p.transpose(1, 2).reshape(t.shape) for p in (R_q, R_k.transpose(-2, -1), R_v)], -1)
        R = R_t + linear(block.attn.qkv, h1, merged)
        matrices.insert(0, R_a[0])
    return matrices
