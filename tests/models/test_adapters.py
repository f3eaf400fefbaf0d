"""LoRA and other subclasses of a linear layer are part of the network that is explained."""

import copy

import pytest
import torch
from torch import nn

import iia

from ..conftest import toy_vit
from ..oracle_hooks import grid_map, vit_map
from .networks_of_users import LoRALinear, check, check_vit, differ, picture, refused, resnet, weights_like


def lora(network: nn.Module, part: str):
    """The network in peft's wrapper, unmerged, and a merged copy of it."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    adapted = peft.get_peft_model(network, peft.LoraConfig(target_modules=[part], r=4, lora_alpha=16,
                                                           init_lora_weights=False))
    adapted = adapted.double().eval()
    return adapted, copy.deepcopy(adapted).merge_and_unload().eval()


def test_peft_on_the_head():
    plain, x = resnet(), picture()
    adapted, merged = lora(copy.deepcopy(plain), "fc")
    wanted = check(merged, x, 3)
    assert differ(wanted, grid_map("iia", plain, x, 3, 2, "layer4"))
    for network in (adapted, adapted.base_model.model):               # in its wrapper, and the network itself
        for name in ("iia", "gradcam"):
            torch.testing.assert_close(iia.explain(network, x, 3, name, steps=2),
                                       iia.explain(merged, x, 3, name, steps=2),
                                       rtol=0, atol=1e-4 if name == "gradcam" else 1e-6)


def test_peft_on_a_vits_qkv():
    plain, x = toy_vit().double(), picture(16)
    adapted, merged = lora(copy.deepcopy(plain), "qkv")
    assert differ(check_vit(merged, x, 3, (4, 4)), vit_map("gae", plain, x, 3, 2, (4, 4)))
    for network in (adapted, adapted.base_model.model):
        with refused("t-attr"):                  # its rules read the weights of plain layers
            iia.explain(network, x, 3, "t-attr")
        for name in ("iia", "iia-triple", "gae", "rollout", "ablation-attention"):
            torch.testing.assert_close(iia.explain(network, x, 3, name, steps=2),
                                       iia.explain(merged, x, 3, name, steps=2),
                                       rtol=0, atol=1e-4)


def test_a_vits_linear_layer_of_a_subclass():
    network, x = toy_vit().double(), picture(16)
    plain = vit_map("gae", network, x, 3, 2, (4, 4))
    network.blocks[3].attn.qkv = weights_like(LoRALinear(network.blocks[3].attn.qkv))
    network.blocks[1].mlp.fc1 = weights_like(LoRALinear(network.blocks[1].mlp.fc1))
    network.head = weights_like(LoRALinear(network.head))
    assert differ(check_vit(network.eval(), x, 3, (4, 4), ("iia", "iia-triple", "gae")), plain)
