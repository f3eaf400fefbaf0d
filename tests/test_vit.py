"""IIA for ViTs and their comparison methods against the loops of oracles.py."""

import pytest
import timm
import torch

import iia
from iia.options import IIAOptions
from iia.methods import VIT_OPERATIONS
from iia.methods.transformer_attribution import attention_relevance
from iia.models.names import old_vit_small
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
    tokens, attention = model.record(x, len(model.blocks))
    torch.testing.assert_close(model.head(tokens), net(x), rtol=0, atol=1e-10)
    before, _ = model.record(x, len(model.blocks) - 1)
    last = model.blocks[-1]
    short = model.through(last, before, model.attention(last, before, 1))
    torch.testing.assert_close(model.head(short), net(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(attention[0].sum(-1), torch.ones_like(attention[0].sum(-1)))


def test_fused_and_explicit_attention_agree_in_single_precision(pictures):
    model = iia.wrap(toy_vit())
    tokens, _ = model.record(pictures.float(), 4)
    torch.testing.assert_close(model.head(tokens), model(pictures.float()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name, size", [("deit_tiny_distilled_patch16_224", 224), ("vit_tiny_patch16_384", 384)])
def test_timms_own_networks(name, size):
    net = random_weights(timm.create_model(name, num_classes=5, depth=3))
    model = iia.wrap(net)
    x = torch.randn(1, 3, size, size)
    assert model.size == (size, size) and model.grid == (size // 16, size // 16)
    tokens, _ = model.record(x, 3)
    torch.testing.assert_close(model.head(tokens), net(x), rtol=1e-4, atol=1e-4)
    for operation in ("iia", "t-attr"):
        heat = iia.explain(model, x, 3, operation, steps=1)
        assert heat.shape == (1, size, size) and heat.max() == 1


def test_hooks_and_flags_are_gone_after_success_and_after_an_error(vit, pictures, classes, monkeypatch):
    model = iia.wrap(vit)

    def state():
        return [(len(m._forward_hooks), len(m._forward_pre_hooks), getattr(m, "fused_attn", None)) for m in model.modules()]

    before = state()
    iia.explain(model, pictures, classes, "iia-triple", steps=1)
    assert state() == before
    monkeypatch.setattr(model.blocks[1].mlp, "forward", lambda x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        iia.explain(model, pictures, classes, steps=1)
    assert state() == before


def test_the_users_network_is_left_as_it_was(vit, pictures, classes):
    vit.train()
    logits = vit(pictures)
    iia.explain(vit, pictures, classes, steps=1)
    assert vit.training and all(p.requires_grad and p.grad is None for p in vit.parameters())
    torch.testing.assert_close(vit(pictures), logits)


def test_nothing_captured_is_an_error(vit, pictures, classes, monkeypatch):
    model = iia.wrap(vit)
    block = model.blocks[2]
    monkeypatch.setattr(block.attn, "forward", lambda x, **_: x)
    with pytest.raises(iia.UserError, match="1 of 3 blocks showed no attention"):
        iia.explain(model, pictures, classes, steps=1)


@pytest.mark.parametrize("changes, message", [
    ({"block_fn": timm.models.vision_transformer.ResPostBlock}, "attention of block 0"),
    ({"block_fn": timm.models.vision_transformer.ParallelThingsBlock}, "attention of block 0"),
])
def test_networks_that_cannot_be_explained(changes, message):
    with pytest.raises(iia.UserError, match=message):
        iia.wrap(toy_vit(**changes))


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
    real = model.record
    monkeypatch.setattr(model, "record", lambda x, stop: rows.append(len(x)) or real(x, stop))
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
    tokens, recorded = model.record(x, 8)
    torch.testing.assert_close(model.head(tokens), model(x), rtol=1e-4, atol=1e-4)
    h = attn.qkv(model.blocks[0].norm1(model.embed(x))).view(1, 197, 3, 8, 96)
    q, k = h[0, :, 0, 5], h[0, :, 1, 5]
    torch.testing.assert_close(recorded[0][0, 5], torch.softmax(q @ k.T * 768**-0.5, -1))


def test_wrong_size_of_picture_is_said(vit):
    with pytest.raises(iia.UserError, match="16 x 16"):
        iia.explain(vit, torch.zeros(1, 3, 20, 20), [0])
