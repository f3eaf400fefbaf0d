"""IIA for ViTs and their comparison methods against the loops of oracles.py."""

import pytest
import timm
import torch
from torch.overrides import _len_torch_function_stack

import iia
from iia.methods import VIT_OPERATIONS
from iia.methods.transformer_attribution import attention_relevance
from iia.models.names import old_vit_small
from iia.models.token_order import tokens_into
from iia.options import IIAOptions
from iia.vit_attribution import plain_run

from .conftest import random_weights, toy_vit
from .oracles import PlainViT, relevance_of_attention, vit_map


@pytest.mark.parametrize("definition", ["paper", "release"])
@pytest.mark.parametrize("operation", list(VIT_OPERATIONS))
def test_every_operation(operation, definition, vit, pictures, classes):
    how = IIAOptions(layer=4, steps=3, definition=definition, batch_size=4)
    found = VIT_OPERATIONS[operation].under(definition)(iia.wrap(vit), pictures, classes, how)
    wanted = torch.stack([vit_map(operation, definition, vit, one, int(y), 3)
                          for one, y in zip(pictures.split(1), classes)])
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("quadrature", ["trapezoid", "gauss", "graded"])
@pytest.mark.parametrize("operation", [name for name, row in VIT_OPERATIONS.items() if row.integral])
def test_rules(operation, quadrature, vit, pictures, classes):
    how = IIAOptions(layer=4, steps=3, batch_size=4, quadrature=quadrature)
    found = VIT_OPERATIONS[operation].under("paper")(iia.wrap(vit), pictures, classes, how)
    wanted = torch.stack([vit_map(operation, "paper", vit, one, int(y), 3, quadrature)
                          for one, y in zip(pictures.split(1), classes)])
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("operation", list(VIT_OPERATIONS))
def test_batched_equals_one_by_one(operation, pictures, classes):
    model, x = iia.wrap(toy_vit()), pictures.float()
    together = iia.explain(model, x, classes, operation, steps=3, batch_size=64)
    model.contributions_at_zero.clear()
    alone = torch.cat([iia.explain(model, one, int(y), operation, steps=3, batch_size=2)
                       for one, y in zip(x.split(1), classes)])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)
    assert together.amax((1, 2)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("changes", [{}, {"reg_tokens": 2}, {"qk_norm": True, "init_values": 0.5},
                                     {"qkv_bias": False}])
def test_recording_does_not_change_the_logits(changes, pictures):
    net = toy_vit(**changes).double()
    model, x = iia.wrap(net), pictures
    logits, attention = model.passes.plain(x)
    torch.testing.assert_close(logits, net(x), rtol=0, atol=1e-10)
    at = model.passes.record(x, len(model.blocks) - 1)
    last = model.passes.own_attention(at)
    assert model.by_rows and last[0].shape[2] == 1
    torch.testing.assert_close(model.passes.finish(at, last)[0], net(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(attention[0].sum(-1), torch.ones_like(attention[0].sum(-1)))


def test_fused_and_explicit_attention_agree_in_single_precision(pictures):
    model, x = iia.wrap(toy_vit()), pictures.float()
    torch.testing.assert_close(model.passes.plain(x)[0], model(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name, size", [("deit_tiny_distilled_patch16_224", 224),
                                        ("vit_tiny_patch16_384", 384)])
def test_timms_own_networks(name, size):
    net = random_weights(timm.create_model(name, num_classes=5, depth=3, embed_dim=24))
    model = iia.wrap(net)
    x = torch.randn(1, 3, size, size)
    assert model.size == (size, size) and model.grid == (size // 16, size // 16)
    torch.testing.assert_close(model.passes.plain(x)[0], net(x), rtol=1e-4, atol=1e-4)
    for operation in ("iia", "t-attr"):
        heat = iia.explain(model, x, 3, operation, steps=1)
        assert heat.shape == (1, size, size) and heat.max() == 1


@pytest.mark.parametrize("by_rows", [True, False])
def test_hooks_and_forwards_are_gone_after_success_and_after_an_error(by_rows, vit, pictures, classes,
                                                                      monkeypatch):
    if not by_rows:
        vit.blocks[0].attn.qkv = LoRA(vit.blocks[0].attn.qkv)
    model = iia.wrap(vit)
    assert model.by_rows == by_rows

    def state():
        return [(len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in vars(m),
                 getattr(m, "fused_attn", None)) for m in model.modules()]

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
    ones = torch.ones(3, dtype=torch.float64)
    for relevance in trace:
        torch.testing.assert_close(relevance.sum((1, 2)), ones, rtol=1e-3, atol=0)


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
    assert len(model.blocks) == 8 and model.label == "vit-small"
    assert attn.scale == 768**-0.5 and attn.qkv.bias is None
    x = torch.randn(1, 3, 224, 224)
    logits, recorded = model.passes.plain(x)
    torch.testing.assert_close(logits, model(x), rtol=1e-4, atol=1e-4)
    tokens = tokens_into(model.whole, model.whole.network.blocks[0], x)
    h = attn.qkv(model.blocks[0].norm1(tokens)).view(1, 197, 3, 8, 96)
    q, k = h[0, :, 0, 5], h[0, :, 1, 5]
    torch.testing.assert_close(recorded[0][0, 5], torch.softmax(q @ k.T * 768**-0.5, -1))


def test_wrong_size_of_picture_is_said(vit):
    with pytest.raises(iia.UserError, match="16 x 16"):
        iia.explain(vit, torch.zeros(1, 3, 20, 20), [0])


def test_bf16_is_where_a_vits_passes_and_predictions_are(pictures):
    network, x = toy_vit(), pictures.float()
    model, full = iia.wrap(network, precision="bf16"), iia.wrap(network)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        wanted = network(x).float()
    assert torch.equal(model(x), wanted) and not torch.equal(full(x), wanted)
    for operation in ("iia", "gae", "rollout", "ablation-image", "ablation-attention"):
        found, wanted = (iia.explain(own, x, 2, operation, steps=2) for own in (model, full))
        assert 0 < (found - wanted).abs().max() and torch.corrcoef(
            torch.stack([found.flatten(), wanted.flatten()]))[0, 1] > 0.9
