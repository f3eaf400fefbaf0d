"""IIA for ViTs and their comparison methods against the loops of oracles.py, and of any other network against a loop
of whole passes."""

from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch.overrides import _len_torch_function_stack

import iia
from iia.options import IIAOptions
from iia.methods import VIT_OPERATIONS
from iia.methods.transformer_attribution import attention_relevance
from iia.models.find_attention import NotAViT, tokens_into
from iia.models.names import old_vit_small
from iia.models.snapshot import take
from iia.models.vit import ViT
from iia.vit_attribution import plain_run

from .conftest import random_weights, toy_vit
from .oracles import PlainViT, relevance_of_attention, vit_map


@pytest.mark.parametrize("definition", ["paper", "release"])
@pytest.mark.parametrize("operation", list(VIT_OPERATIONS))
def test_every_operation(operation, definition, vit, pictures, classes):
    how = IIAOptions(layer=4, steps=3, definition=definition, batch_size=4)
    found = VIT_OPERATIONS[operation].under(definition)(iia.wrap(vit), pictures, classes, how)
    wanted = torch.stack([vit_map(operation, definition, vit, pictures[b:b + 1], int(classes[b]), 3) for b in range(3)])
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("quadrature", ["trapezoid", "gauss", "graded"])
@pytest.mark.parametrize("operation", [name for name, row in VIT_OPERATIONS.items() if row.integral])
def test_rules(operation, quadrature, vit, pictures, classes):
    how = IIAOptions(layer=4, steps=3, batch_size=4, quadrature=quadrature)
    found = VIT_OPERATIONS[operation].under("paper")(iia.wrap(vit), pictures, classes, how)
    wanted = torch.stack([vit_map(operation, "paper", vit, pictures[b:b + 1], int(classes[b]), 3, quadrature)
                          for b in range(3)])
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("operation", list(VIT_OPERATIONS))
def test_batched_equals_one_by_one(operation, pictures, classes):
    model, x = iia.wrap(toy_vit()), pictures.float()
    together = iia.explain(model, x, classes, operation, steps=3, batch_size=64)
    model.contributions_at_zero.clear()
    alone = torch.cat([iia.explain(model, x[b:b + 1], classes[b:b + 1], operation, steps=3, batch_size=2) for b in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)
    assert together.amax((1, 2)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("changes", [{}, {"reg_tokens": 2}, {"qk_norm": True, "init_values": 0.5}, {"qkv_bias": False}])
def test_recording_does_not_change_the_logits(changes, pictures):
    net = toy_vit(**changes).double()
    model, x = iia.wrap(net), pictures
    logits, attention = model.passes.plain(x)
    torch.testing.assert_close(logits, net(x), rtol=0, atol=1e-10)
    at = model.passes.record(x, len(model.blocks) - 1)
    last = model.passes.own(at)
    assert model.by_rows and last[0].shape[2] == 1
    torch.testing.assert_close(model.passes.finish(at, last)[0], net(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(attention[0].sum(-1), torch.ones_like(attention[0].sum(-1)))


def test_fused_and_explicit_attention_agree_in_single_precision(pictures):
    model = iia.wrap(toy_vit())
    torch.testing.assert_close(model.passes.plain(pictures.float())[0], model(pictures.float()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name, size", [("deit_tiny_distilled_patch16_224", 224), ("vit_tiny_patch16_384", 384)])
def test_timms_own_networks(name, size):
    net = random_weights(timm.create_model(name, num_classes=5, depth=3))
    model = iia.wrap(net)
    x = torch.randn(1, 3, size, size)
    assert model.size == (size, size) and model.grid == (size // 16, size // 16)
    torch.testing.assert_close(model.passes.plain(x)[0], net(x), rtol=1e-4, atol=1e-4)
    for operation in ("iia", "t-attr"):
        heat = iia.explain(model, x, 3, operation, steps=1)
        assert heat.shape == (1, size, size) and heat.max() == 1


@pytest.mark.parametrize("by_rows", [True, False])
def test_hooks_and_forwards_are_gone_after_success_and_after_an_error(by_rows, vit, pictures, classes, monkeypatch):
    if not by_rows:
        vit.blocks[0].attn.qkv = LoRA(vit.blocks[0].attn.qkv)
    model = iia.wrap(vit)
    assert model.by_rows == by_rows

    def state():
        return [(len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in vars(m), getattr(m, "fused_attn", None))
                for m in model.modules()]

    before = state()
    iia.explain(model, pictures, classes, "iia-triple", steps=1)
    assert state() == before
    with monkeypatch.context() as patch:
        patch.setattr(model.blocks[1].mlp.act, "forward", lambda x: 1 / 0)
        during = state()
        with pytest.raises(ZeroDivisionError):
            iia.explain(model, pictures, classes, steps=1)
        assert state() == during
    assert _len_torch_function_stack() == 0


def test_the_users_network_is_left_as_it_was(vit, pictures, classes):
    vit.train()
    logits = vit(pictures)
    iia.explain(vit, pictures, classes, steps=1)
    assert vit.training and all(p.requires_grad and p.grad is None for p in vit.parameters())
    torch.testing.assert_close(vit(pictures), logits)


def test_nothing_captured_is_an_error(vit, pictures, classes, monkeypatch):
    model = iia.wrap(vit)
    monkeypatch.setattr(model.blocks[2].attn, "forward", lambda x, **_: x)
    with pytest.raises(iia.UserError, match="1 of 3 attention matrices"):
        iia.explain(model, pictures, classes, steps=1)


# ------------------------------------------------------------------------------- any transformer over patches

def attend_by_hand(net, x, y, replaced=None):
    """One picture through any network whose attention is fused -> (A, G): each matrix and ∂f_y/∂A, [heads, N, N]."""
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
    """The raw map of a picture [1, C, H, W]: METHOD.md's section 6 with whole passes. start: what is read, [N].
    parallel: how many attentions each block has."""
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


def check_any(net, wanted, grid=(4, 4), size=(16, 16), operations=("iia", "iia-triple", "iia-previous", "gae"), **how):
    """Maps of two pictures by the general way, together, against the loop with the user's network."""
    model = iia.wrap(net.eval(), image_size=size, in_chans=3)
    x = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x, y = x.to(model.dtype), torch.tensor([3, 5])
    logits = net(x)
    assert isinstance(model, iia.models.ViT) and model.grid == grid and model.dtype == torch.float64
    torch.testing.assert_close(model.passes.plain(x)[0], getattr(logits, "logits", logits), rtol=0, atol=1e-9)
    for operation in operations:
        slow = torch.stack([slow_map(operation, net, x[b:b + 1], int(y[b]), 2, grid, wanted, **how) for b in range(2)])
        model.contributions_at_zero.clear()
        raw = iia.methods.VIT_OPERATIONS[operation].under("paper")(model, x, y, IIAOptions(layer=4, steps=2, batch_size=4))
        torch.testing.assert_close(raw, slow, rtol=1e-7, atol=1e-12)
    return model


def test_a_norm_behind_the_attention():
    assert not check_any(toy_vit(block_fn=timm.models.vision_transformer.ResPostBlock).double(), reads(1, 16, "class")).by_rows


def test_parallel_attentions_are_more_heads_of_one_block():
    net = toy_vit(block_fn=timm.models.vision_transformer.ParallelThingsBlock).double()
    model = check_any(net, reads(1, 16, "class"), parallel=2)
    assert len(model.blocks) == 4 and model.heads == [6] * 4


@pytest.mark.parametrize("kind, changes, prefix, which", [
    ("beit", {"use_abs_pos_emb": True, "use_rel_pos_bias": True, "init_values": 0.5}, 1, "patches"),
    ("eva", {"use_rot_pos_emb": True, "global_pool": "token"}, 1, "class"),
    ("eva", {"use_rot_pos_emb": True, "num_reg_tokens": 2, "global_pool": "avg"}, 3, "patches"),
])
def test_other_vits_of_timm(kind, changes, prefix, which):
    kind = {"beit": timm.models.beit.Beit, "eva": timm.models.eva.Eva}[kind]
    net = kind(img_size=16, patch_size=4, embed_dim=24, depth=3, num_heads=3, num_classes=7, **changes)
    assert not check_any(random_weights(net).double(), reads(prefix, 16, which)).by_rows


def test_torchvisions_vit():
    net = random_weights(tv.VisionTransformer(16, 4, 4, 3, 24, 48, num_classes=7)).double()
    check_any(net, reads(1, 16, "class"))


@pytest.mark.parametrize("kind, prefix, which", [("ViT", 1, "class"), ("DeiT", 2, "class"), ("Dinov2", 1, "class")])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_vits_of_transformers(kind, prefix, which, attention):
    transformers = pytest.importorskip("transformers")
    more = {"mlp_ratio": 2} if kind == "Dinov2" else {"intermediate_size": 48}
    config = getattr(transformers, f"{kind}Config")(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, image_size=16,
                                                   patch_size=4, num_labels=7, **more)
    net = random_weights(getattr(transformers, f"{kind}ForImageClassification")(config)).double()
    net.set_attn_implementation("sdpa")
    if attention == "sdpa":
        check_any(net, reads(prefix, 16, which), operations=("iia", "gae"))
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    fused = iia.explain(net, x, 3, "iia", steps=2)
    net.set_attn_implementation(attention)
    torch.testing.assert_close(iia.explain(net, x, 3, "iia", steps=2), fused, rtol=0, atol=1e-6)


class OwnAttention(torch.nn.Module):
    """As people write it: an explicit softmax, or torch's fused function."""

    def __init__(self, fused):
        super().__init__()
        self.fused, self.norm, self.qkv = fused, torch.nn.LayerNorm(24), torch.nn.Linear(24, 72, bias=False)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 3, 8)).permute(2, 0, 3, 1, 4)
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return (torch.softmax(q @ k.transpose(-2, -1) / 8**0.5, dim=-1) @ v).transpose(1, 2).flatten(2)


class Own(torch.nn.Module):
    """A user's own ViT without a class token or a convolution; its blocks are pairs in a list, added in place."""

    def __init__(self, fused):
        super().__init__()
        self.embed, self.pos, self.head = torch.nn.Linear(48, 24), torch.nn.Parameter(torch.zeros(32, 24)), torch.nn.Linear(24, 7)
        self.layers = torch.nn.ModuleList(torch.nn.ModuleList([
            OwnAttention(fused), torch.nn.Sequential(torch.nn.LayerNorm(24), torch.nn.Linear(24, 24), torch.nn.GELU())])
            for _ in range(3))

    def forward(self, x):
        x = self.embed(F.unfold(x, 4, stride=4).transpose(1, 2)) + self.pos
        for attention, mlp in self.layers:
            x = attention(x).add_(x)
            x = x + mlp(x)
        return self.head(x.mean(1))


def test_a_users_own_vit():
    fused, explicit = (random_weights(Own(kind)).double() for kind in (True, False))
    check_any(fused, reads(0, 32, "patches"), grid=(4, 8), size=(16, 32))
    x = torch.randn(2, 3, 16, 32, dtype=torch.float64)
    for operation in ("iia", "iia-triple", "gae", "rollout", "ablation-image", "ablation-attention"):
        maps = [iia.explain(net, x, [3, 5], operation, steps=2) for net in (fused, explicit)]
        torch.testing.assert_close(*maps, rtol=0, atol=1e-9)


@pytest.mark.parametrize("weights", [True, False])
def test_torchs_own_encoder_takes_no_short_cut(weights):
    """nn.TransformerEncoder and nn.MultiheadAttention have quick ways of their own, where no attention shows."""
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.patch = torch.nn.Conv2d(3, 24, 4, 4)
            layer = torch.nn.TransformerEncoderLayer(24, 3, 48, batch_first=True, norm_first=True)
            self.encoder = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
            self.pool, self.head = torch.nn.MultiheadAttention(24, 3, batch_first=True), torch.nn.Linear(24, 7)

        def forward(self, x):
            x = self.encoder(self.patch(x).flatten(2).transpose(1, 2))
            return self.head(self.pool(x.mean(1, keepdim=True), x, x, need_weights=weights)[0][:, 0])

    check_any(random_weights(Net()).double(), reads(0, 16, "patches"), operations=("iia", "gae"))


def test_passes_that_cannot_be_gone_on_with_are_made_anew(pictures, classes):
    net = toy_vit(block_fn=timm.models.vision_transformer.ResPostBlock).double()
    model = iia.wrap(net)
    for operation in ("iia", "iia-triple", "ablation-attention"):
        model.passes.replays = True
        wanted = iia.explain(model, pictures, classes, operation, steps=2)
        model.contributions_at_zero.clear()
        model.passes.replays = False
        torch.testing.assert_close(iia.explain(model, pictures, classes, operation, steps=2), wanted)


def test_the_way_by_rows_is_the_general_one(vit, pictures, classes):
    model, plain = iia.wrap(vit), toy_vit().double()
    plain.blocks[0].register_forward_hook(lambda module, inputs, output: output.clone())       # acts, and changes nothing
    other = iia.wrap(plain)
    assert model.by_rows and not other.by_rows
    for operation in ("iia", "iia-triple", "ablation-image", "ablation-attention", "gae", "rollout"):
        found, wanted = (iia.explain(m, pictures, classes, operation, steps=2) for m in (other, model))
        torch.testing.assert_close(found, wanted)


def test_pictures_of_another_size_have_another_grid():
    net = toy_vit(dynamic_img_size=True).double()
    model = iia.wrap(net)
    x = torch.randn(1, 3, 24, 32, dtype=torch.float64)
    raw = iia.methods.VIT_OPERATIONS["gae"].under("paper")(model.sized((3, 24, 32)), x, torch.tensor([3]), IIAOptions(layer=4))
    torch.testing.assert_close(raw[0], slow_map("gae", net, x, 3, 1, (6, 8), reads(1, 48, "class")))
    assert iia.explain(model, x, 3, steps=1).shape == (1, 24, 32) and model.grid == (4, 4)


def test_two_threads_explain_one_model(pictures):
    for net in (toy_vit(), toy_vit(block_fn=timm.models.vision_transformer.ResPostBlock)):
        model = iia.wrap(net.double())
        work = [(pictures[b:b + 1], b + 2, name) for b in range(3) for name in ("iia", "gae")]
        explain = lambda x, y, name: iia.explain(model, x, y, name, steps=2)
        wanted = [explain(*job) for job in work]
        model.contributions_at_zero.clear()
        with ThreadPoolExecutor(3) as pool:
            logits = [pool.submit(model, pictures) for _ in range(6)]
            found = list(pool.map(lambda job: explain(*job), work * 2))
        for f, w in zip(found, wanted * 2, strict=True):
            torch.testing.assert_close(f, w)
        for answer in logits:
            torch.testing.assert_close(answer.result(), net.double()(pictures))


class ChannelAttention(torch.nn.Module):
    """A block whose attention is between channels: square, but not between patches."""

    def __init__(self):
        super().__init__()
        self.qkv = torch.nn.Linear(24, 72)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 1, 24)).permute(2, 0, 3, 4, 1)
        return x + F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2)


@pytest.mark.parametrize("build, message", [
    (lambda: tv.resnet18(), "no attention"),
    (lambda: timm.create_model("swin_tiny_patch4_window7_224", embed_dim=12, depths=(2, 2), num_heads=(1, 2), img_size=56),
     "between all its patches"),
    (lambda: timm.create_model("pvt_v2_b0"), "between all its patches"),
    (lambda: toy_vit(class_token=False, global_pool="avg", block_fn=lambda **_: ChannelAttention()), "no row of blocks"),
    (lambda: with_class_token_last(), "do not lie as"),
])
def test_what_is_no_vit(build, message):
    net = build().eval()
    size = getattr(getattr(net, "patch_embed", None), "img_size", None) or (64, 64)
    with pytest.raises(NotAViT, match=message):
        ViT(take(net, [(3, *size), (3, 64, 64), (3, 224, 224)]), "net", (0.5,) * 3, (0.5,) * 3)


def with_class_token_last():
    """Its last tokens are not the patches."""
    net = toy_vit()
    net._pos_embed = lambda x: torch.cat([x, net.cls_token.expand(len(x), -1, -1)], 1) + net.pos_embed
    return net


@pytest.mark.parametrize("changes", [{"class_token": False, "global_pool": "avg"}, {"global_pool": "avg"},
                                     {"global_pool": "map"}, {"img_size": (16, 32)},
                                     {"img_size": (16, 32), "class_token": False, "global_pool": "avg"}])
def test_pooled_tokens_and_pictures_that_are_not_square(changes):
    """Gradient attention by hooks on the user's own network, a picture at a time; rollout starts at what is
    read."""
    net = toy_vit(**changes).double()
    size = changes.get("img_size", (16, 16))
    x = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    grid, pools = (size[0] // 4, size[1] // 4), "global_pool" in changes
    wanted = []
    for b, y in enumerate((3, 5)):
        A, handles = [], []
        for block in net.blocks:
            block.attn.fused_attn = False
            handles.append(block.attn.attn_drop.register_forward_hook(
                lambda m, i, o: (o.retain_grad(), A.append(o))[0]))
        net(x[b:b + 1])[0, y].backward()
        for handle in handles:
            handle.remove()
        R = torch.eye(A[0].shape[-1], dtype=torch.float64)
        for a in A:
            R = R + (a * a.grad).clamp(min=0).mean(1)[0] @ R
        patches = grid[0] * grid[1]
        row = R[-patches:].mean(0) if pools else R[0]
        wanted.append(row[-patches:].view(grid))
    raw = VIT_OPERATIONS["gae"].under("paper")(iia.wrap(net), x, torch.tensor([3, 5]), IIAOptions(layer=4))
    torch.testing.assert_close(raw, torch.stack(wanted).detach(), rtol=1e-8, atol=1e-12)
    heat = iia.explain(net, x, [3, 5], "iia", steps=2)
    assert heat.shape == (2, *size) and heat.amax((1, 2)).tolist() == [1, 1]


class LoRA(torch.nn.Linear):
    """A linear layer with a low-rank part beside its weight."""

    def __init__(self, plain):
        super().__init__(plain.in_features, plain.out_features, dtype=plain.weight.dtype)
        self.load_state_dict(plain.state_dict())
        self.down, self.up = (torch.randn(*shape, dtype=plain.weight.dtype) * 0.3 for shape in
                              ((2, self.in_features), (self.out_features, 2)))

    def forward(self, x):
        return super().forward(x) + x @ self.down.T @ self.up.T

    def merged(self):
        plain = torch.nn.Linear(self.in_features, self.out_features, dtype=self.weight.dtype)
        plain.load_state_dict({"weight": self.weight + self.up @ self.down, "bias": self.bias})
        return plain


@pytest.mark.parametrize("operation", ["iia", "iia-triple", "gae"])
def test_adapters_are_part_of_the_network(operation, pictures, classes):
    torch.manual_seed(0)
    adapted, merged = toy_vit().double(), toy_vit().double()
    for one, other in zip(adapted.blocks, merged.blocks):
        one.attn.qkv = LoRA(one.attn.qkv)
        other.attn.qkv = one.attn.qkv.merged()
    adapted.head = LoRA(adapted.head)
    merged.head = adapted.head.merged()
    found, wanted = (iia.explain(net, pictures, classes, operation, steps=2) for net in (adapted, merged))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8)
    assert (found - iia.explain(toy_vit().double(), pictures, classes, operation, steps=2)).abs().max() > 0.01


def test_a_hook_before_the_first_block_is_part_of_the_network(vit, pictures, classes):
    wanted = iia.explain(vit, pictures / 3, classes, "gae")
    vit.register_forward_pre_hook(lambda module, inputs: (inputs[0] / 3,))
    torch.testing.assert_close(iia.explain(vit, pictures, classes, "gae"), wanted)


def test_a_target_function_of_one_logit_is_that_class(vit, pictures):
    for operation in ("iia", "iia-triple", "gae", "ablation-image", "ablation-attention"):
        found = iia.explain(vit, pictures, operation=operation, steps=2, target=lambda logits: logits[:, 4])
        torch.testing.assert_close(found, iia.explain(vit, pictures, 4, operation, steps=2))
    with pytest.raises(iia.UserError, match="t-attr"):
        iia.explain(vit, pictures, operation="t-attr", target=lambda logits: logits[:, 4])


def test_the_picture_zero_is_computed_once_for_a_class(vit, pictures, classes, monkeypatch):
    model, rows = iia.wrap(vit), []
    real = model.passes.record
    monkeypatch.setattr(model.passes, "record", lambda x, stop: rows.append(len(x)) or real(x, stop))
    iia.explain(model, pictures, classes, steps=3)
    assert sum(rows) == 3 * 3 + 2            # two classes among three pictures
    iia.explain(model, pictures, classes, steps=3)
    assert sum(rows) == 2 * 3 * 3 + 2


def test_relevance_is_conserved_from_layer_to_layer(vit, pictures, classes):
    trace = []
    attention_relevance(iia.wrap(vit), pictures, classes, trace=trace)
    assert len(trace) == 4
    for relevance in trace:
        torch.testing.assert_close(relevance.sum((1, 2)), torch.ones(3, dtype=torch.float64), rtol=1e-3, atol=0)


def test_relevance_and_gradients_are_the_oracles(vit, pictures, classes):
    model = iia.wrap(vit)
    A, G = plain_run(model, pictures, classes)
    relevance = attention_relevance(model, pictures, classes)
    for b in range(3):
        plain = PlainViT(vit).run(pictures[b:b + 1], int(classes[b]))
        slow = relevance_of_attention(vit, pictures[b:b + 1], int(classes[b]))
        for found, wanted in [(A, plain[0]), (G, plain[1]), (relevance, slow)]:
            for f, w in zip(found, wanted, strict=True):
                torch.testing.assert_close(f[b], w, rtol=1e-7, atol=1e-12)


def test_a_file_of_the_old_vit_small_loads_as_that_network(tmp_path, capsys):
    net = random_weights(old_vit_small())
    torch.save(net.state_dict(), tmp_path / "vit_small_p16_224-15ec54c9.pth")
    model = iia.load_model("vit-small", weights_path=tmp_path / "vit_small_p16_224-15ec54c9.pth")
    attn = model.blocks[0].attn
    assert len(model.blocks) == 8 and attn.scale == 768**-0.5 and attn.qkv.bias is None and model.label == "vit-small"
    x = torch.randn(1, 3, 224, 224)
    logits, recorded = model.passes.plain(x)
    torch.testing.assert_close(logits, model(x), rtol=1e-4, atol=1e-4)
    h = attn.qkv(model.blocks[0].norm1(tokens_into(model.whole, model.whole.network.blocks[0], x))).view(1, 197, 3, 8, 96)
    q, k = h[0, :, 0, 5], h[0, :, 1, 5]
    torch.testing.assert_close(recorded[0][0, 5], torch.softmax(q @ k.T * 768**-0.5, -1))


def test_wrong_size_of_picture_is_said(vit):
    with pytest.raises(iia.UserError, match="16 x 16"):
        iia.explain(vit, torch.zeros(1, 3, 20, 20), [0])
