"""Weights drawn anew from the top down: which, in what order, from where; and nothing else is touched."""

from itertools import combinations

import pytest
import timm
import torch
from timm.layers import LayerScale
from timm.models import VisionTransformer
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import iia
from iia.models.randomise import parts, randomised, redraw, rewrapped
from tests.conftest import random_weights, toy_vgg, toy_vit
from tests.models.networks_of_users import resnet


def changed(network, original):
    """The names of the tensors that are not as they were."""
    return {name for name, value in network.state_dict().items()
            if not torch.equal(value, original[name]) and "num_batches" not in name}


def test_parts_of_a_cnn_and_of_a_vit():
    assert list(parts(iia.wrap(resnet(), image_size=64))) == [
        "fc", "layer4", "layer3", "layer2", "layer1", "bn1", "conv1"]
    assert list(parts(iia.wrap(toy_vgg(), image_size=16))) == [
        "classifier.2", "classifier.0", "features.5", "features.2", "features.0"]
    found = parts(iia.wrap(toy_vit(), image_size=16))
    assert list(found) == ["head", "norm", "blocks.3", "blocks.2", "blocks.1", "blocks.0", "patch embedding"]
    # "": class token, position embedding
    assert found["patch embedding"] == ["", "patch_embed.proj"]
    efficientnet = parts(iia.wrap(random_weights(timm.create_model("tf_efficientnet_lite0")), image_size=64))
    assert list(efficientnet)[:2] == ["classifier", "bn2"] and efficientnet["bn2"] == ["conv_head", "bn2"]
    assert list(efficientnet)[-2:] == ["blocks.0", "bn1"] and efficientnet["bn1"] == ["conv_stem", "bn1"]


class Own(nn.Module):
    """A user's network: a bare parameter around its stages, a weight that another module reads."""

    def __init__(self):
        super().__init__()
        self.tint = nn.Parameter(torch.randn(1, 3, 1, 1))
        self.one = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.GELU())
        self.two = nn.Sequential(weight_norm(nn.Conv2d(6, 8, 3, padding=1)), nn.GELU())
        self.unused = nn.Linear(3, 3)
        self.attends = nn.MultiheadAttention(8, 2, batch_first=True)    # reads its out_proj uncalled
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        u = self.two(self.one(x + self.tint)).flatten(2).mean(2)[:, None]
        return self.head(self.attends(u, u, u)[0][:, 0])


def test_every_weight_of_a_users_network_changes_once_and_the_users_stay():
    for network in (random_weights(Own()), resnet(), toy_vit(init_values=0.1), toy_vgg()):
        model = iia.wrap(network, image_size=16 if isinstance(network, VisionTransformer) else 64)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        wrapped = {name: value.clone() for name, value in model.state_dict().items()}
        seen, original = set(), model.whole.network.state_dict()
        for step, new in randomised(model, 0):
            now = changed(new, original)
            assert seen < now, step                                           # all of before, and more
            seen = now
        assert seen == {name for name in original if "num_batches" not in name}
        assert not changed(network, before) and not changed(model, wrapped)


def test_order_follows_the_computation():
    model = iia.wrap(random_weights(Own()), image_size=32)
    found = parts(model)
    assert list(found)[:2] == ["head", "attends"] and found["attends"] == ["attends", "attends.out_proj"]
    assert {"", "unused"} <= set(list(found.values())[-1])         # where nothing tells their place: last
    tops = [changed(new, model.whole.network.state_dict()) for _, new in randomised(model, 0)]
    assert tops[0] == {"head.weight", "head.bias"}


def test_where_weights_come_from():
    """Each module's own start; what has none keeps its mean and deviation; statistics are forgotten."""
    model = iia.wrap(resnet(), image_size=64)
    *_, (_, new) = randomised(model, 3)
    bn = new.layer2[0].bn1
    assert bn.running_mean.eq(0).all() and bn.running_var.eq(1).all()
    assert bn.weight.eq(1).all() and bn.bias.eq(0).all()
    bound = new.layer3[0].conv1.weight[0].numel() ** -0.5          # Kaiming's uniform with a = √5
    assert 0.99 * bound < new.layer3[0].conv1.weight.abs().max() <= bound
    token = nn.Module()
    token.cls_token = nn.Parameter(3 + 0.5 * torch.randn(1, 1, 20000))
    token.scale = nn.Parameter(torch.tensor([2.0]))
    old = token.cls_token.detach().clone()
    redraw(token)
    assert abs(token.cls_token.mean() - 3) < 0.02 and abs(token.cls_token.std() - 0.5) < 0.02
    assert torch.corrcoef(torch.stack([old.flatten(), token.cls_token.flatten()]))[0, 1].abs() < 0.05
    assert token.scale.item() == 2
    scale = LayerScale(8, init_values=1e-3)
    nn.init.normal_(scale.gamma)
    redraw(scale)
    assert not scale.gamma.detach().abs().gt(2).any()


def test_a_seed_draws_the_same_again_and_another_one_otherwise(monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("a GPU's were seeded"))
    model = iia.wrap(toy_vit(), image_size=16)
    state = torch.get_rng_state()
    first, again, other = ({step: {name: v.clone() for name, v in new.state_dict().items()}
                            for step, new in randomised(model, seed)} for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    for step in first:
        assert all(torch.equal(first[step][name], again[step][name]) for name in first[step])
    assert not torch.equal(first["head"]["head.weight"], other["head"]["head.weight"])
    assert torch.equal(first["head"]["head.weight"], first["patch embedding"]["head.weight"])    # cumulative


def test_maps_are_those_of_the_randomised_network(pictures):
    model = iia.wrap(toy_vgg().double(), image_size=16)
    for _, new in randomised(model, 0):
        made = rewrapped(new, model)
        assert torch.allclose(made(pictures), new(pictures)) and made.mean == model.mean
        assert not torch.allclose(made(pictures), model(pictures), rtol=0.1)


def test_two_seeds_have_no_draw_in_common():
    model = iia.wrap(toy_vit(), image_size=16)
    *_, (_, first) = randomised(model, 0)
    *_, (_, other) = randomised(model, 1)
    drawn = [block.attn.qkv.weight for network in (first, other) for block in network.blocks]
    assert not any(torch.equal(a, b) for a, b in combinations(drawn, 2))
