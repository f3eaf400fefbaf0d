"""IIA for ViTs and their comparison methods against the loops of oracles.py."""

import pytest
import timm
import torch

import iia
from iia.cnn import How
from iia.methods import VIT_OPERATIONS
from iia.methods.transformer_attribution import attention_relevance
from iia.models.vit import ViT, old_vit_small
from iia.vit import plain_run

from .conftest import random_weights, toy_vit
from .oracles import PlainViT, relevance_of_attention, vit_map


@pytest.mark.parametrize("definition", ["paper", "release"])
@pytest.mark.parametrize("operation", list(VIT_OPERATIONS))
def test_every_operation(operation, definition, vit, pictures, classes):
    how = How(layer=4, steps=3, definition=definition, batch_size=4)
    found = VIT_OPERATIONS[operation].under(definition)(ViT(vit), pictures, classes, how)
    wanted = torch.stack([vit_map(operation, definition, vit, pictures[b:b + 1], int(classes[b]), 3) for b in range(3)])
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("operation", list(VIT_OPERATIONS))
def test_batched_equals_one_by_one(operation, pictures, classes):
    model, x = ViT(toy_vit()), pictures.float()
    together = iia.explain(model, x, classes, operation, steps=3, batch_size=64)
    model.contributions_at_zero.clear()
    alone = torch.cat([iia.explain(model, x[b:b + 1], classes[b:b + 1], operation, steps=3, batch_size=2) for b in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)
    assert together.amax((1, 2)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("changes", [{}, {"reg_tokens": 2}, {"qk_norm": True, "init_values": 0.5}, {"qkv_bias": False}])
def test_recording_does_not_change_the_logits(changes, pictures):
    net = toy_vit(**changes).double()
    model, x = ViT(net), pictures
    tokens, attention = model.record(x, len(model.blocks))
    torch.testing.assert_close(model.head(tokens), net(x), rtol=0, atol=1e-10)
    before, _ = model.record(x, len(model.blocks) - 1)
    last = model.blocks[-1]
    short = model.through(last, before, model.attention(last, before, 1))
    torch.testing.assert_close(model.head(short), net(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(attention[0].sum(-1), torch.ones_like(attention[0].sum(-1)))


def test_fused_and_explicit_attention_agree_in_single_precision(pictures):
    model = ViT(toy_vit())
    tokens, _ = model.record(pictures.float(), 4)
    torch.testing.assert_close(model.head(tokens), model(pictures.float()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name, size", [("deit_tiny_distilled_patch16_224", 224), ("vit_tiny_patch16_384", 384)])
def test_timms_own_networks(name, size):
    net = random_weights(timm.create_model(name, num_classes=5, depth=3))
    model = iia.wrap(net)
    x = torch.randn(1, 3, size, size)
    assert model.size == size and model.grid == (size // 16, size // 16)
    tokens, _ = model.record(x, 3)
    torch.testing.assert_close(model.head(tokens), net(x), rtol=1e-4, atol=1e-4)
    for operation in ("iia", "t-attr"):
        heat = iia.explain(model, x, 3, operation, steps=1)
        assert heat.shape == (1, size, size) and heat.max() == 1


def test_hooks_and_flags_are_gone_after_success_and_after_an_error(vit, pictures, classes, monkeypatch):
    model = ViT(vit)

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
    model = ViT(vit)
    block = model.blocks[2]
    monkeypatch.setattr(block.attn, "forward", lambda x, **_: x)
    with pytest.raises(iia.UserError, match="1 of 3 blocks showed no attention"):
        iia.explain(model, pictures, classes, steps=1)


@pytest.mark.parametrize("changes, message", [
    ({"class_token": False, "global_pool": "avg"}, "pools its tokens"),
    ({"global_pool": "avg"}, "pools its tokens"),
    ({"img_size": (16, 32)}, "only square"),
    ({"block_fn": timm.models.vision_transformer.ResPostBlock}, "attention of block 0"),
])
def test_networks_that_cannot_be_explained(changes, message):
    with pytest.raises(iia.UserError, match=message):
        iia.wrap(toy_vit(**changes))


def test_the_picture_zero_is_computed_once_for_a_class(vit, pictures, classes, monkeypatch):
    model, rows = ViT(vit), []
    real = model.record
    monkeypatch.setattr(model, "record", lambda x, stop: rows.append(len(x)) or real(x, stop))
    iia.explain(model, pictures, classes, steps=3)
    assert sum(rows) == 3 * 3 + 2            # two classes among three pictures
    iia.explain(model, pictures, classes, steps=3)
    assert sum(rows) == 2 * 3 * 3 + 2


def test_relevance_is_conserved_from_layer_to_layer(vit, pictures, classes):
    trace = []
    attention_relevance(ViT(vit), pictures, classes, trace=trace)
    assert len(trace) == 4
    for relevance in trace:
        torch.testing.assert_close(relevance.sum((1, 2)), torch.ones(3, dtype=torch.float64), rtol=1e-3, atol=0)


def test_relevance_and_gradients_are_the_oracles(vit, pictures, classes):
    model = ViT(vit)
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
