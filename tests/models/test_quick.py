"""The quicker copy of a network is the same function, and leaves the network as it is."""

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

import iia
from iia.models.names import build


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "densenet201"])
def test_folded_stages_are_the_stages(name):
    torch.manual_seed(0)
    network = build(name)[0].double().eval()
    for module in network.modules():                       # statistics that make folding wrong if it were
        if isinstance(module, _BatchNorm):
            for values, (low, high) in {module.running_mean: (-0.3, 0.3), module.running_var: (0.5, 2),
                                        module.weight: (0.5, 1.5), module.bias: (-0.3, 0.3)}.items():
                torch.nn.init.uniform_(values, low, high)
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
