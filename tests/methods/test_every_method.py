"""What holds for every comparison method: on every family of networks, at the last and at a middle layer."""

import copy
import runpy
import sys
from pathlib import Path

import pytest
import torch

import iia
from iia.methods import CNN_OPERATIONS

from .small_networks import network

METHODS = [name for name, row in CNN_OPERATIONS.items() if row.place.startswith("methods.")]
WHOLE = ["fullgrad", "ig", "blurig", "guidedig"]       # explain the network as a whole; the others a layer
SCRIPT = Path(__file__).parents[2] / "cnn_saliency_map_generator.py"


def state(net):
    """All that a method might leave behind in a network: flags, hooks, tensors and their gradients."""
    modules = [(type(m), m.training, getattr(m, "inplace", None),
                [list(hooks) for name, hooks in sorted(vars(m).items()) if name.endswith("_hooks")])
               for m in net.modules()]
    tensors = [(t.requires_grad, t.grad is None, t.data_ptr(), t.sum().item())
               for t in [*net.parameters(), *net.buffers()]]
    return modules, tensors


def test_all_fourteen_are_there():
    assert sorted(METHODS) == sorted(["gradcam", "gradcampp", "x-gradcam", "hirescam", "layercam",
                                      "finer-cam", "eigen-cam", "ablation-cam", "score-cam", "lift-cam",
                                      "fullgrad", "ig", "blurig", "guidedig"])


@pytest.mark.parametrize("operation", METHODS)
def test_explains_a_picture_alone_as_in_a_batch_and_leaves_the_networks_alone(family, operation, x, y):
    """In float64; the user's network in training mode; alone under no_grad and with another batch size."""
    net = network(family).double().train()
    whole = operation in WHOLE
    x = x.repeat(1, 1, 2, 2) if whole else x.repeat(1, 1, 4, 4)
    model = iia.wrap(net, image_size=len(x[0, 0])).eval()
    last = len(model.stage_names)
    layers = [last] if whole else [last, last // 2 + 1]
    with torch.no_grad():
        logits = model(x)
    before = copy.deepcopy((state(net), state(model)))
    for layer in layers:
        maps = iia.explain(model, x, y, operation, layer=layer, batch_size=32)
        with torch.no_grad():
            alone = iia.explain(model, x[1:], y[1:], operation, layer=layer, batch_size=3)
        assert maps.shape == x[:, 0].shape and maps.dtype == torch.float64
        torch.testing.assert_close(maps[1:], alone, atol=1e-3, rtol=0)
    assert (state(net), state(model)) == before
    assert torch.equal(model(x), logits) and not (maps.requires_grad or x.requires_grad)


@pytest.mark.parametrize("operation", METHODS)
def test_leaves_the_network_alone_after_an_exception(operation, x, y, monkeypatch):
    net = network("resnet").double()
    model, x = iia.wrap(net, image_size=32), x.repeat(1, 1, 2, 2)
    before = copy.deepcopy((state(net), state(model)))
    with pytest.raises(Exception):
        iia.explain(model, x, torch.tensor([3, 99]), operation, layer=6)         # the network has ten classes
    assert (state(net), state(model)) == before


@pytest.mark.parametrize("operation", METHODS)
def test_explains_the_class_it_is_asked_for(x, operation):
    net = network("vgg").double()
    net.classifier[2].weight.data *= 10                     # Score-CAM's softmax tells no close logits apart
    first, other = iia.explain(net, x, 3, operation), iia.explain(net, x, 7, operation)
    off = (first - other).abs().amax((1, 2))
    assert off.max() == 0 if operation == "eigen-cam" else off.min() > 0.01       # it is of no class


def test_help_lists_every_operation(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    text = capsys.readouterr().out
    for name, row in CNN_OPERATIONS.items():
        assert f"  {name} " in text and row.source in text and row.cost in text
