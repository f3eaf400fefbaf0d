"""The quicker copy of a network is the same function, and leaves the network as it is."""

import pytest
import torch
import torchvision.models as tv
from torch.nn.modules.batchnorm import _BatchNorm

import iia

from ..conftest import random_weights, toy_vit
from .narrow import narrow


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "densenet201"])
def test_folded_stages_are_the_stages(name):
    network = narrow(name)                                 # its batch norms make folding wrong if it were
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    model, u = iia.wrap(network, image_size=64), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    logits = network(u)
    torch.testing.assert_close(model(u), logits, rtol=1e-9, atol=1e-9 * logits.abs().max().item())
    for cut in range(1, len(model.stage_names) + 1):
        wanted, u = model.segment(model.whole, cut - 1, cut)(u), model.stages(cut - 1, cut, u)
        torch.testing.assert_close(u, wanted, rtol=1e-9, atol=1e-9 * wanted.abs().max().item())
    torch.testing.assert_close(network.state_dict(), weights, rtol=0, atol=0)
    before, after = (sum(isinstance(part, _BatchNorm) for part in stages.modules())
                     for stages in (network, model.quick))
    assert after < before


KINDS, SEEN = (torch.backends.cudnn.conv, torch.backends.cuda.matmul), []


class Watching(torch.nn.Module):
    """A network that notes in each pass, of a copy too, how a GPU would multiply."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        SEEN.append({kind.fp32_precision for kind in KINDS})
        return self.network(x)


@pytest.mark.parametrize("precision, wanted", [("fp32", "ieee"), ("tf32", "tf32")])
@pytest.mark.parametrize("kind", ["vgg", "vit"])
def test_a_gpus_float32_is_float32_unless_tf32_is_asked_for(kind, precision, wanted, pictures, request):
    """Seen by the flags that torch has for it, in wrap, in predictions and in maps; they are restored."""
    before, counts = [kind.fp32_precision for kind in KINDS], []
    SEEN.clear()
    model = iia.wrap(Watching(request.getfixturevalue(kind)), precision=precision, image_size=16)
    for work in (lambda: None, lambda: iia.predict(model, pictures),
                 lambda: iia.explain(model, pictures, 2, steps=1)):
        work()
        counts.append(len(SEEN))
    assert 0 < counts[0] < counts[1] < counts[2] and all(own == {wanted} for own in SEEN)
    assert [kind.fp32_precision for kind in KINDS] == before


def test_half_features_are_near_and_a_vit_refuses_them(vgg, vit, pictures):
    x = pictures.float()
    full = iia.explain(iia.wrap(vgg.float(), image_size=16), x, 2, steps=2)
    for precision in ("bf16", "fp16"):
        half = iia.explain(iia.wrap(vgg, precision=precision, image_size=16), x, 2, steps=2)
        assert 0 < (half - full).abs().max() < 0.05
    with pytest.raises(iia.UserError, match='"fp16" is for a CNN'):
        iia.wrap(vit, precision="fp16")


def test_in_half_a_batch_norm_that_is_not_folded_keeps_its_precision():
    network = random_weights(tv.DenseNet(growth_rate=4, block_config=(1, 1), num_init_features=8))
    model = iia.wrap(network, image_size=64, precision="bf16")
    kinds = {(isinstance(part, _BatchNorm), value.dtype) for part in model.in_half.modules()
             for value in part.parameters(recurse=False)}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}


def test_the_quick_way_is_taken_where_there_is_one(vgg, vit):
    hooked = toy_vit()
    hooked.blocks[1].register_forward_hook(lambda module, inputs, tokens: tokens + 1)
    assert [iia.wrap(network, image_size=16).way for network in (vgg, vit, hooked)] == [
        "skipping", "rows", "skipping"]


def test_blocks_that_write_over_what_they_are_given_are_left_out_too(pictures, classes):
    """What an earlier block has answered is kept apart from what later ones write to."""
    network, plain = toy_vit().double(), toy_vit().double()
    for block in network.blocks[1:]:
        block.register_forward_pre_hook(lambda module, inputs: (inputs[0].mul_(1.5),))
    for block in plain.blocks[1:]:
        block.register_forward_pre_hook(lambda module, inputs: (1.5 * inputs[0],))
    models = [iia.wrap(each) for each in (network, plain)]
    assert [model.way for model in models] == ["skipping", "skipping"]
    torch.testing.assert_close(*(iia.explain(model, pictures, classes, steps=2) for model in models))
