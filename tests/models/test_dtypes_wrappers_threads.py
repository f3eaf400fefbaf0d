"""Half networks, wrappers that are looked through, int8, and several threads."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import iia

from ..conftest import toy_vit
from .networks_of_users import CHANGES, picture, refused, resnet


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_half_networks(kind, dtype):
    network = (resnet() if kind == "resnet" else toy_vit()).float().to(dtype)
    x = (picture(96) if kind == "resnet" else picture(16)).to(dtype)
    exact = copy.deepcopy(network).float()
    settings = dict(layer="layer3") if kind == "resnet" else {}
    for name in ("iia", "iia-triple", "gradcam", "layercam", "ig") if kind == "resnet" else ("iia", "gae"):
        found = iia.explain(network, x, 3, name, steps=2, **settings)
        wanted = iia.explain(exact, x.float(), 3, name, steps=2, **settings)
        assert found.max() == 1, name
        both = torch.stack([found.flatten(), wanted.flatten()]).float()
        assert torch.corrcoef(both)[0, 1] > (0.98 if name != "ig" else 0.9), name


def test_wrappers_are_looked_through():
    network, x = resnet().float(), picture(dtype=torch.float32)
    wanted = [iia.explain(network, x, 3, "iia", layer=layer, steps=2) for layer in ("last", "layer3")]
    for wrapper in (nn.DataParallel(network), torch.compile(network, backend="eager"),
                    torch.compile(nn.DataParallel(network), backend="eager")):
        for layer, maps in zip(("last", "layer3", network.layer3), [*wanted, wanted[1]]):
            torch.testing.assert_close(iia.explain(wrapper, x, 3, "iia", layer=layer, steps=2), maps,
                                       rtol=0, atol=1e-6)
    compiled = resnet().float()
    compiled.compile(backend="eager")                   # in place
    torch.testing.assert_close(iia.explain(compiled, x, 3, "iia", steps=2), wanted[0], rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_an_int8_network_is_refused_in_one_sentence():
    quantization = pytest.importorskip("torch.ao.quantization")
    network = quantization.quantize_dynamic(resnet().float(), {nn.Linear}, dtype=torch.qint8)
    vit = quantization.quantize_dynamic(toy_vit(), {nn.Linear}, dtype=torch.qint8)
    for name in ("iia", "gradcam", "ig"):
        with refused("quantis|int8|gradient"):
            iia.explain(network, picture(dtype=torch.float32), 3, name, steps=1)
    with refused("quantis|int8|gradient"):
        iia.explain(vit, picture(16, dtype=torch.float32), 3, steps=1)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_threads_explain_one_network_at_the_same_time(kind, wrapped):
    network, size = (toy_vit().double(), 16) if kind == "vit" else (resnet(), 64)
    if kind == "resnet":
        CHANGES["hook on a container"](network)
    model = iia.wrap(network, image_size=size) if wrapped else network
    work = [(picture(size, seed=seed), seed, name)
            for seed in range(3) for name in ("iia", "gae" if kind == "vit" else "gradcam")]
    alone = [iia.explain(network, x, y, name, steps=2) for x, y, name in work]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: iia.explain(model, *job, steps=2), work * 2))
    for found, wanted in zip(together, alone * 2):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda network: torch.compile(network, backend="eager")])
def test_a_wrapper_with_hooks_of_its_own_is_not_looked_through(wrap):
    wrapper = wrap(resnet().float())
    wrapper.register_forward_hook(lambda module, inputs, logits: logits.flip(1))
    with refused("has hooks of its own; give the network inside, \\.(module|_orig_mod), with them"):
        iia.wrap(wrapper)
