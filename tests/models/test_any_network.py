"""Any network: the map is of the network as it runs, or there is one sentence that says why not.

Every map is compared with tests/oracle_hooks.py: loops with hooks on the user's own network.
"""

import contextlib
import copy
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision.models as tv
from timm.layers import StdConv2d
from timm.models.resnetv2 import ResNetV2
from torch import nn
from torch.nn.utils import parametrizations, prune
from torchvision.models.resnet import BasicBlock

import iia
from iia.models.find_attention import find
from iia.models.snapshot import take
from iia.models.vit import RowPass

from .. import oracles
from ..conftest import random_weights, toy_vgg, toy_vit
from ..oracle_hooks import Constant, finished, grid_map, vit_map

BEFORE = "layer3"          # the layer before layer4, for IIA3
RECORDED = []              # what a hook that is a plain function writes to


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks as small as these are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def picture(size: int | tuple = 64, channels: int = 3, seed: int = 1,
            dtype: torch.dtype = torch.float64) -> torch.Tensor:
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(seed),
                       dtype=torch.float64).to(dtype)


def resnet(kind: type = tv.ResNet, depths: tuple = (1, 1, 1, 1), classes: int = 7) -> tv.ResNet:
    """A torchvision ResNet of an eighth of the width; a map takes milliseconds."""
    with torch.device("meta"):                          # its own layers cost nothing
        network = kind(BasicBlock, list(depths), num_classes=classes)
    network.inplanes = 8
    network.conv1, network.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
    for place, depth in enumerate(depths):
        layer = network._make_layer(BasicBlock, 8 * 2**place, depth, stride=min(place, 1) + 1)
        setattr(network, f"layer{place + 1}", layer)
    network.fc = nn.Linear(64, classes)
    return random_weights(network).double()


def weights_like(module: nn.Module, seed: int = 3) -> nn.Module:
    """New parts of a network in its dtype, with weights that matter."""
    return random_weights(module, seed).double()


def check(network: nn.Module, x: torch.Tensor, y, layer="layer4", module: str | None = None,
          before: str | None = BEFORE, operations=("iia", "iia-triple", "gradcam"),
          places: dict | None = None, tolerance: float = 1e-6) -> torch.Tensor:
    """The maps of `network` at `layer` are the oracle's at its module of that name; the oracle's map of the
    first."""
    found = {}
    for name in operations:
        y, wanted = first_that_says(y, lambda y: grid_map(name, network, x, y, 2, module or layer,
                                                          before=before, **(places or {})))
        classes, target = (None, y) if callable(y) else (y, None)
        maps = iia.explain(network, x, classes, name, layer=layer, steps=2, target=target)
        near = tolerance if x.dtype == torch.float64 and name != "gradcam" else 1e-4
        torch.testing.assert_close(maps[0], wanted, rtol=0, atol=near, check_dtype=False,
                                   msg=lambda m: f"{name}: {m}")
        found[name] = wanted
    return found[operations[0]]


def first_that_says(y, wanted) -> tuple:
    """The target y and its map, or those of a class before it where a ReLU leaves nothing of the map of y."""
    for target in [y] if callable(y) else range(y, -1, -1):
        with contextlib.suppress(Constant):
            return target, wanted(target)
    raise AssertionError("no class has a map: a test of nothing")


def check_vit(network: nn.Module, x: torch.Tensor, y, grid: tuple, operations=("iia", "gae"),
              **how) -> torch.Tensor:
    classes, target = (None, y) if callable(y) else (y, None)
    near = 1e-6 if x.dtype == torch.float64 else 1e-4
    for name in operations:
        wanted = vit_map(name, network, x, y, 2, grid, **how)
        maps = iia.explain(network, x, classes, name, steps=2, target=target)
        torch.testing.assert_close(maps[0], wanted, rtol=0, atol=near, check_dtype=False,
                                   msg=lambda m: f"{name}: {m}")
    return wanted


@contextlib.contextmanager
def refused(match: str):
    """A UserError of one sentence (one line) that says `match`."""
    with pytest.raises(iia.UserError, match=match) as why:
        yield
    assert "\n" not in str(why.value) and len(str(why.value)) < 600


def differ(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() > 0.02)


# ------------------------------------------------------------------------- the oracles agree with each other

def test_the_two_oracles_are_the_same():
    x, vit, vgg = picture(16), toy_vit().double(), toy_vgg().double()
    for name in ("iia", "iia-triple", "gae"):
        wanted = finished(oracles.vit_map(name, "paper", vit, x, 3, 2), (16, 16), "bilinear")
        torch.testing.assert_close(vit_map(name, vit, x, 3, 2, (4, 4)), wanted, rtol=0, atol=1e-12)
    for name in ("iia", "iia-triple"):
        wanted = oracles.cnn_map(name, "paper", list(vgg.features),
                                 lambda u: vgg.classifier(vgg.avgpool(u).flatten(1)), x, 3, 5, 2)
        torch.testing.assert_close(grid_map(name, vgg, x, 3, 2, "features.4", before="features.3"),
                                   finished(wanted, (16, 16), "bicubic"), rtol=0, atol=1e-12)


# ----------------------------------------------------------------------------- networks that look like others

class WeightStandardised(nn.Conv2d):
    def forward(self, x):
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-3)
        return F.conv2d(x, w, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Standardised(nn.Module):
    """How an attribute of another convolution is set."""

    @staticmethod
    def of(conv: nn.Conv2d, kind: type) -> nn.Conv2d:
        new = kind(conv.in_channels, conv.out_channels, conv.kernel_size[0], stride=conv.stride[0],
                   padding=conv.padding[0], bias=False)
        return weights_like(new)


class NormFirst(BasicBlock):
    """Lists conv1, bn1 and calls bn1, conv1."""

    def forward(self, x):
        return self.relu(self.bn2(self.conv2(self.relu(self.conv1(self.bn1(x))))) + x)


class ReadTwice(BasicBlock):
    """Reads the convolution's output beside bn(conv)."""

    def forward(self, x):
        conv = self.conv1(x)
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(conv)))) + 0.7 * conv)


class LoRALinear(nn.Linear):
    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base.in_features, base.out_features)
        self.down, self.up = (nn.Parameter(torch.zeros(3, base.in_features)),
                              nn.Parameter(torch.zeros(base.out_features, 3)))

    def forward(self, x):
        return super().forward(x) + x @ self.down.T @ self.up.T


def swap(path: str, make):
    """A change of a network: the module at `path` becomes make(module)."""
    def change(net):
        parent, _, name = path.rpartition(".")
        setattr(net.get_submodule(parent), name, make(net.get_submodule(path)))
        net.eval()
    return change


def hook(path: str, function, pre: bool = False, **settings):
    def change(net):
        module = net.get_submodule(path)
        (module.register_forward_pre_hook if pre else module.register_forward_hook)(function, **settings)
    return change


def pruned(net):
    prune.l1_unstructured(net.layer3[0].conv1, "weight", 0.5)
    prune.random_structured(net.layer4[0].conv2, "weight", 0.5, dim=0)


def bound_forward(net):
    plain = net.layer2.forward
    net.layer2.forward = types.MethodType(lambda self, u: 1.5 * plain(u).tanh(), net.layer2)


def closure_forward(net):
    plain = net.layer4.forward
    net.layer4.forward = lambda u: plain(u.roll(1, 1)).sin()


def patched_root(net):
    plain = net.forward
    net.forward = types.MethodType(lambda self, x: plain(x.flip(-1) * 0.7 + 0.2), net)


def without_statistics(path):
    def batch_norm(old):
        return weights_like(nn.BatchNorm2d(old.num_features, track_running_stats=False))
    return swap(path, batch_norm)


CHANGES = {
    "pre-hook on the root": hook("", lambda m, inputs: ((inputs[0] - 0.3) / 0.6,), pre=True),
    "pre-hook with keywords": hook("", lambda m, inputs, named: (((inputs[0] - 0.3) / 0.6,), named),
                                   pre=True, with_kwargs=True),
    "pre-hook on a block": hook("layer2.0", lambda m, inputs: inputs[0].roll(1, 1), pre=True),
    "hook on the root": hook("", lambda m, inputs, logits: (logits * 0.05).sin() + logits.roll(1, 1) ** 2),
    "hook on a batch norm": hook("layer4.0.bn1", lambda m, inputs, output: output.tanh() + 0.3),
    "hook on the first batch norm": hook("bn1", lambda m, inputs, output: output.abs()),
    "hook on a block": hook("layer1.0", lambda m, inputs, output: output.roll(1, 1)),
    "hook on a container": hook("layer3", lambda m, inputs, output: output.flip(1).sqrt()),
    "hook on the layer": hook("layer4", lambda m, inputs, output: output.sqrt() * output.roll(1, 1)),
    "hook on the head": hook("fc", lambda m, inputs, output: output.roll(2, 1).sin()),
    "weight standardisation before a batch norm": swap("layer3.0.conv2",
                                                       lambda c: Standardised.of(c, WeightStandardised)),
    "weight standardisation at the start": swap("conv1", lambda c: Standardised.of(c, WeightStandardised)),
    "timm's StdConv2d": swap("layer4.0.conv1", lambda c: Standardised.of(c, StdConv2d)),
    "lists conv, bn and calls bn, conv": swap("layer1.0", lambda block: weights_like(NormFirst(8, 8))),
    "a convolution's output read twice": swap("layer1.0", lambda block: weights_like(ReadTwice(8, 8))),
    "LoRA in a subclass of Linear": swap("fc", lambda fc: weights_like(LoRALinear(fc))),
    "pruning": pruned,
    "weight_norm": swap("layer4.0.conv2", lambda c: parametrizations.weight_norm(c)),
    "weight_norm of old": swap("layer4.0.conv2", lambda c: nn.utils.weight_norm(c)),
    "spectral_norm": swap("layer3.0.conv1", lambda c: parametrizations.spectral_norm(c)),
    "spectral_norm of old": swap("layer3.0.conv1", lambda c: nn.utils.spectral_norm(c)),
    "a forward of its own, bound": bound_forward,
    "a forward of its own, a closure": closure_forward,
    "the root's forward replaced": patched_root,
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("change", CHANGES)
def test_the_map_is_of_the_network_as_it_runs(change):
    network, x = resnet(), picture()
    plain = grid_map("iia", network, x, 3, 2, "layer4")
    CHANGES[change](network)
    with torch.no_grad():
        logits = network(x)
    changed = check(network, x, 3)
    assert change.startswith("weight_norm") or differ(plain, changed), "the change says nothing about the map"
    model = iia.wrap(network, image_size=64)
    torch.testing.assert_close(model(x), logits, rtol=0, atol=1e-9 * float(logits.abs().max()))
    assert len(network.get_submodule("")._forward_hooks) == (change == "hook on the root")


@pytest.mark.parametrize("pictures_at_once", [1, 2])
def test_a_batch_norm_of_the_batch_itself(pictures_at_once):
    """track_running_stats=False: a picture's logits hang on the others of its batch, so a refusal is right
    too."""
    network, x = resnet(), picture()
    without_statistics("layer3.0.bn1")(network)
    try:
        found = iia.explain(network, x.expand(pictures_at_once, -1, -1, -1), 3, layer="layer4", steps=2,
                            batch_size=1)
    except iia.UserError as why:
        assert "\n" not in str(why)
    else:
        wanted = grid_map("iia", network, x, 3, 2, "layer4")
        torch.testing.assert_close(found, wanted.expand(pictures_at_once, -1, -1), rtol=0, atol=1e-6)


class Normalising(tv.ResNet):
    def forward(self, x):
        return super().forward((x - 0.4) / 0.5)


class OwnImplementation(tv.ResNet):
    """Attention over the channels behind layer4, as a module; the picture normalised."""

    def __init__(self, *settings, **more) -> None:
        super().__init__(*settings, **more)
        self.gate = nn.Conv2d(64, 64, 1, device="cpu")
        self.attention = Gate(self.gate)

    def _forward_impl(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(2 * x + 0.1))))
        x = self.attention(self.layer4(self.layer3(self.layer2(self.layer1(x)))))
        return self.fc(x.mean((2, 3)))


class Gate(nn.Module):
    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, u):
        return u * self.gate(u).sigmoid()


class Functional(tv.ResNet):
    def forward(self, x):
        return F.softplus(super().forward(x.flip(-1))).cumsum(1)


class Keyed(tv.ResNet):
    """More arguments than the picture, with defaults."""

    def forward(self, x, mask=None, scale: float = 0.5, *, twice: bool = True):
        x = x * scale if mask is None else x * mask
        return super().forward(x + 0.2) * (2 if twice else 1)


@pytest.mark.parametrize("kind", [Normalising, OwnImplementation, Functional, Keyed])
def test_a_subclass_with_its_own_forward(kind):
    network, x = resnet(kind), picture()
    plain = resnet()
    plain.load_state_dict(network.state_dict(), strict=False)
    assert differ(check(network, x, 3), grid_map("iia", plain, x, 3, 2, "layer4"))
    if kind is OwnImplementation:
        check(network, x, 3, layer="attention", operations=("iia", "gradcam"))
        check(network, x, 3, layer="last", module="attention", operations=("iia", "gradcam"))


def test_timms_weight_standardised_resnet():
    network = random_weights(ResNetV2((1, 1, 1, 1), (128, 128, 128, 128), num_classes=7, stem_chs=32,
                                      conv_layer=StdConv2d)).double()
    check(network, picture(), 3, "stages.3", before="stages.2", operations=("iia", "gradcam"))
    check(network, picture(), 3, "last", module="norm", operations=("iia", "gradcam"))


# ------------------------------------------------------------------------------------------------- LoRA

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


VIT_CHANGES = {
    "pre-hook on the root": hook("", lambda m, inputs: (2 * inputs[0] + 0.3,), pre=True),
    "hook on the root": hook("", lambda m, inputs, logits: (logits / 3).sin().roll(1, 1)),
    "hook on the tokens": hook("patch_embed", lambda m, inputs, tokens: tokens.roll(1, 2)),
    "hook on a block": hook("blocks.2", lambda m, inputs, tokens: tokens.tanh()),
    "hook on the values": hook("blocks.3.attn.proj", lambda m, inputs, output: output.sin()),
    "pre-hook on a norm": hook("blocks.1.norm1", lambda m, inputs: inputs[0].roll(1, 2), pre=True),
    "pruning": lambda net: prune.l1_unstructured(net.blocks[2].attn.qkv, "weight", 0.6),
}


@pytest.mark.parametrize("change", VIT_CHANGES)
def test_the_vits_map_is_of_the_network_as_it_runs(change):
    network, x = toy_vit().double(), picture(16)
    plain = vit_map("gae", network, x, 3, 2, (4, 4))
    VIT_CHANGES[change](network)
    assert differ(check_vit(network, x, 3, (4, 4), ("iia", "iia-triple", "gae")), plain)


@pytest.mark.parametrize("settings, how", [
    (dict(global_pool="avg", fc_norm=True), dict(pooled=True)), (dict(img_size=(16, 24)), dict(grid=(4, 6))),
    (dict(class_token=False, global_pool="avg"), dict(pooled=True, prefix=0)),
    (dict(reg_tokens=2), dict(prefix=3)), (dict(qk_norm=True, init_values=0.7), {}),
    (dict(pre_norm=True, final_norm=False), {}), (dict(in_chans=1), {}),
])
def test_kinds_of_vits(settings, how):
    grid = how.get("grid", (4, 4))
    network = toy_vit(**settings).double()
    check_vit(network, picture((4 * grid[0], 4 * grid[1]), settings.get("in_chans", 3)), 3,
              **({"grid": grid, "operations": ("iia", "iia-triple", "gae")} | how))


def test_torchvisions_vit():
    network = tv.VisionTransformer(16, 4, 4, 3, 24, 48, num_classes=7)
    check_vit(random_weights(network).double(), picture(16), 3, (4, 4), ("iia", "iia-triple", "gae"))


# ------------------------------------------------------------------------------------------------- snapshots

def data_writes(net):
    for weight in net.parameters():
        weight.data.add_(0.05 * torch.randn(weight.shape, dtype=weight.dtype,
                                            generator=torch.Generator().manual_seed(5)))


def vector(net):
    values = nn.utils.parameters_to_vector(net.parameters())
    nn.utils.vector_to_parameters(0.8 * values + 0.4 * values.roll(1), net.parameters())


def assigned(net):
    net.load_state_dict(random_weights(copy.deepcopy(net), 8).state_dict(), assign=True)


def replaced_parameters(net):
    new = random_weights(copy.deepcopy(net), 9)
    for name, module in net.named_modules():
        for own, weight in list(module.named_parameters(recurse=False)):
            setattr(module, own, nn.Parameter(new.get_submodule(name).get_parameter(own).detach().clone()))


def buffers(net):
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.add_(0.3 * torch.arange(len(module.running_mean)).cos())
            module.running_var.mul_(1.5 + torch.arange(len(module.running_var)).sin())


def replaced_module(net):
    net.layer4 = resnet(depths=(1, 1, 1, 2)).layer4


@pytest.mark.parametrize("write", [data_writes, vector, assigned, replaced_parameters, buffers,
                                   replaced_module])
@pytest.mark.parametrize("kind", ["plain", "hooked", "patched"])
def test_what_wrap_returned_is_a_snapshot(write, kind):
    network, x = resnet(), picture()
    if kind == "hooked":
        CHANGES["pre-hook on the root"](network)
    if kind == "patched":
        bound_forward(network)
    model = iia.wrap(network, image_size=64)
    names = ("iia", "gradcam")
    before = [iia.explain(model, x, 3, name, steps=2) for name in names]
    with torch.no_grad():
        write(network)
    for name, was in zip(names, before):
        assert torch.equal(iia.explain(model, x, 3, name, steps=2), was)
    assert differ(check(network, x, 3, operations=("iia", "gradcam")), before[0][0])


@pytest.mark.parametrize("write", [data_writes, vector, assigned, replaced_parameters])
def test_a_snapshot_of_a_vit(write):
    network, x = toy_vit().double(), picture(16)
    model = iia.wrap(network)
    before = [iia.explain(model, x, 3, name, steps=2) for name in ("iia", "gae", "t-attr")]
    with torch.no_grad():
        write(network)
    for name, was in zip(("iia", "gae", "t-attr"), before):
        assert torch.equal(iia.explain(model, x, 3, name, steps=2), was)
    check_vit(network, x, 3, (4, 4))


# ------------------------------------------------------------------------------------------ hooks that record

class Recorder:
    """Keeps what it sees; it may hold a lock, which cannot be copied."""

    def __init__(self, lock: bool = False) -> None:
        self.seen, self.lock = [], threading.Lock() if lock else contextlib.nullcontext()

    def __call__(self, module, inputs, output=None):
        with self.lock:
            self.seen.append(inputs[0] if output is None else output)

    def method(self, module, inputs, output=None):
        self(module, inputs, output)


def to_global(module, inputs, output=None):
    RECORDED.append(1)


def recording(kind: str):
    """(hook, the list it writes to)."""
    if kind == "global":
        RECORDED.clear()
        return to_global, RECORDED
    if kind == "closure":
        seen = []
        return (lambda module, inputs, output=None: seen.append(output)), seen
    recorder = Recorder(lock=kind == "lock")
    return {"object": recorder, "lock": recorder, "method": recorder.method,
            "partial": partial(Recorder.method, recorder)}[kind], recorder.seen


@pytest.mark.parametrize("pre", [False, True])
@pytest.mark.parametrize("kind", ["closure", "global", "object", "method", "partial", "lock"])
def test_a_recording_hook_is_not_called(kind, pre):
    network, x = resnet(), picture()
    function, seen = recording(kind)
    places = ["", "bn1", "layer2", "layer3.0.conv1", "layer4", "fc"]
    handles = [(m.register_forward_pre_hook if pre else m.register_forward_hook)(function)
               for m in map(network.get_submodule, places)]
    network(x)                                          # what it keeps hangs in a graph, so a deepcopy
                                                        # of it fails
    count = len(seen)
    assert count == len(places)
    model = iia.wrap(network, image_size=64)
    maps = {name: iia.explain(network, x, 3, name, steps=2) for name in ("iia", "iia-triple", "gradcam")}
    iia.explain(model, x, 3, "iia", steps=2)
    assert len(seen) == count
    with torch.no_grad():
        network(x)
    assert len(seen) == 2 * count                       # and it is still there
    for handle in handles:
        handle.remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    for name, found in maps.items():
        torch.testing.assert_close(found[0], grid_map(name, network, x, 3, 2, "layer4", before=BEFORE),
                                   rtol=0, atol=1e-4)


def test_a_recording_hook_of_a_vit_and_a_backward_hook_are_not_called():
    network, x, seen = toy_vit().double(), picture(16), []
    for module in (network, network.blocks[1], network.blocks[3].attn, network.blocks[3].attn.attn_drop,
                   network.norm):
        module.register_forward_hook(lambda module, inputs, output: seen.append(1))
        module.register_forward_pre_hook(lambda module, inputs: seen.append(1))
        module.register_full_backward_hook(lambda module, grads, other: seen.append(1))
    maps = [iia.explain(network, x, 3, name, steps=2)[0] for name in ("iia", "gae", "t-attr")]
    assert not seen
    for name, found in zip(("iia", "gae"), maps):
        torch.testing.assert_close(found, vit_map(name, network, x, 3, 2, (4, 4)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("path", ["", "layer3", "bn1"])
def test_a_hook_that_holds_a_lock_and_changes_the_output(path):
    network, x, lock = resnet(), picture(), threading.Lock()

    class Changing:
        def __init__(self) -> None:
            self.lock, self.calls = lock, []

        def __call__(self, module, inputs, output):
            with self.lock:
                self.calls.append(1)
                return output.sin()

    network.get_submodule(path).register_forward_hook(Changing())
    try:
        check(network, x, 3)
    except iia.UserError as why:                        # its own map, or one sentence
        assert "\n" not in str(why)
    assert not lock.locked()


def test_the_network_is_left_as_it_was():
    network, x = resnet(), picture()
    CHANGES["pre-hook on the root"](network)
    network.layer3.train()
    network.fc.weight.requires_grad_(False)
    network.layer1[0].conv1.weight.grad = torch.ones_like(network.layer1[0].conv1.weight)

    def state():
        return [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks), sorted(vars(m)),
                 getattr(m, "inplace", None))
                for m in network.modules()]

    weights, before = copy.deepcopy(network.state_dict()), state()
    grads = [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in network.parameters()]
    random = torch.get_rng_state()
    for name in ("iia", "iia-triple", "gradcam", "ig", "fullgrad"):
        iia.explain(network, x, 3, name, steps=1)
    assert torch.equal(torch.get_rng_state(), random)
    assert state() == before
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
    for weight, (wanted, grad) in zip(network.parameters(), grads):
        assert weight.requires_grad == wanted and (weight.grad is None) == (grad is None)
        assert grad is None or torch.equal(weight.grad, grad)


# ------------------------------------------------------------------------------------------ classes and heads

def with_head(*layers: nn.Module) -> tv.ResNet:
    network = resnet()
    network.fc = weights_like(nn.Sequential(*layers) if len(layers) > 1 else layers[0])
    return network.eval()


@pytest.mark.parametrize("operation", ["iia", "gradcam", "ig"])
@pytest.mark.parametrize("wrong", [-1, 10, 285])
def test_classes_that_a_head_of_several_layers_has_not(operation, wrong):
    network = with_head(nn.Linear(64, 16), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(16, 10))
    with refused(r"0\.\.9"):
        iia.explain(network, picture(), wrong, operation, steps=1)
    if operation == "iia":
        check(network, picture(), 9)


def test_a_network_without_a_head_says_so():
    network, x = with_head(nn.Identity()), picture()
    headless = random_weights(timm.create_model("test_resnet", num_classes=0)).double()
    for headless in (network, headless, toy_vit(num_classes=0).double()):
        with refused("head"):
            iia.explain(headless, picture(16) if hasattr(headless, "blocks") else x, 3, steps=1)
    direction = torch.randn(64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    check(network, x, lambda features: F.cosine_similarity(features, direction[None]))


class OfGroups(nn.Module):
    """Two logits that are made of ten by no layer with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.ten = with_head(nn.Linear(64, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([part.logsumexp(1) for part in self.ten(x).split([4, 6], 1)], 1)


def test_logits_that_are_combined_without_weights_are_no_features():
    groups = OfGroups()
    found = iia.explain(groups, picture(), 1, steps=2)
    same = iia.explain(groups.ten, picture(), target=lambda rows: rows[:, 4:].logsumexp(1), steps=2)
    torch.testing.assert_close(found, same, rtol=0, atol=1e-6)


@pytest.mark.parametrize("how, said", [
    ({"image_size": -1}, "sides of at least 1"), ({"image_size": (3, 32, 32)}, "is no size"),
    ({"image_size": 32.0}, "is no size"), ({"in_chans": -1}, "in_chans is -1"), ({"mean": 0.5}, "mean is 0.5"),
    ({"mean": (1, 2)}, "for each of the 3 channels"), ({"std": (1, 0, 1)}, "above 0"),
    ({"std": (1, float("nan"), 1)}, "above 0"), ({"labels": "abcdefghij"}, "list of names")])
def test_what_wrap_is_told_wrong(how, said):
    with refused(said):
        iia.wrap(resnet(), **how)


@pytest.mark.parametrize("network, said", [(None, "not NoneType"), ("resnet50", "not str"),
                                           (resnet, "not function")])
def test_what_is_no_network(network, said):
    with refused(said):
        iia.wrap(network)
    with refused("on the device meta"):
        iia.wrap(resnet().to("meta"))
    for name in (None, 5):
        with refused(f"model_name '{name}' is unknown"):
            iia.load_model(name)


def test_one_output_is_explained_and_its_probability_is_the_sigmoid():
    network, x = with_head(nn.Linear(64, 1)), 0.2 * picture()
    check(network, x, 0)
    two = copy.deepcopy(network)                        # softmax of (0, z) is the sigmoid of z
    two.fc = nn.Linear(64, 2).double()
    with torch.no_grad():
        for weight, one in zip(two.fc.parameters(), network.fc.parameters()):
            weight.copy_(torch.cat([0 * one, one]))
    for name in ("ig", "guidedig"):
        found = iia.explain(network, x, 0, name, steps=2)
        assert found.max() == 1
        torch.testing.assert_close(found, iia.explain(two, x, 1, name, steps=2), rtol=0, atol=1e-4)
    assert iia.explain(network, x, 0, "blurig", steps=2).max() == 1
    with refused(r"0\.\.0|class 0"):
        iia.explain(network, x, 1)


def spread(logits):
    return logits[:, 3] - logits[:, 5]


def test_a_target_function():
    network, x = resnet(), picture()
    assert differ(check(network, x, spread), grid_map("iia", network, x, 3, 2, "layer4"))
    check(network, x, lambda logits: logits.logsumexp(1))
    check_vit(toy_vit().double(), picture(16), spread, (4, 4), ("iia", "iia-triple", "gae"))
    probability = iia.explain(network, x, None, "ig", target=lambda logits: logits.softmax(1)[:, 3])
    torch.testing.assert_close(probability, iia.explain(network, x, 3, "ig"), rtol=0, atol=1e-4)
    two = copy.deepcopy(network)
    two.fc.weight.data[0], two.fc.bias.data[0] = (p.data[3] - p.data[5]
                                                  for p in (network.fc.weight, network.fc.bias))
    for name in ("ig", "x-gradcam", "layercam", "gradcampp", "lift-cam"):
        found = iia.explain(network, x, operation=name, target=spread)
        assert found.max() == 1
        torch.testing.assert_close(found,
                                   iia.explain(two, x, operation=name, target=lambda logits: logits[:, 0]),
                                   rtol=0, atol=1e-4)


# ---------------------------------------------------------------------------------------- pictures and dtypes

@pytest.mark.parametrize("channels", [1, 4])
def test_channels_and_pictures_that_are_not_square(channels):
    network = resnet()
    network.conv1 = weights_like(nn.Conv2d(channels, 8, 7, 2, 3, bias=False))
    check(network, picture((64, 96), channels), 3)
    assert iia.wrap(network).channels == channels


def test_small_pictures_and_a_layer_of_one_cell():
    network, x = resnet(), picture(32)
    for layer in ("last", "layer4"):
        for name in ("iia", "gradcam"):
            with refused("layer3"):
                iia.explain(network, x, 3, name, layer=layer, steps=1)
    check(network, x, 3, "layer3", before="layer2")
    assert iia.explain(network, x, 3, "ig").max() == 1


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


# ------------------------------------------------------------------------------------------ wrappers, threads

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


# ------------------------------------------------------------------------------------------------- layers

@pytest.mark.parametrize("layer, module", [
    ("layer3", "layer3"), ("layer3.0", "layer3.0"), ("layer3.-1", "layer3.1"), ("layer3.-2", "layer3.0"),
    (7, "layer3"), (8, "layer4"), ("last", "layer4"), ("layer4", "layer4"), ("layer4.-1", "layer4.0"),
    ("maxpool", "maxpool"), (1, "conv1"), ("module", "layer3"), ("module of a container", "layer3.0"),
])
def test_layers(layer, module):
    network, x = resnet(depths=(1, 1, 2, 1)), picture()
    network.maxpool = nn.AvgPool2d(3, 2, 1)             # a maximum's choice on the picture 0 hangs on
                                                        # rounding
    layer = network.get_submodule(module) if str(layer).startswith("module") else layer
    check(network, x, 3, layer, module=module, operations=("iia", "gradcam"))


@pytest.mark.parametrize("layer, said", [
    ("layer3.0.conv1", r"layer3\.0(?!\.)|layer2"), ("layer3.0.downsample", r"layer3\.0(?!\.)|layer2"),
    ("layer3.1.bn1", r"layer3\.[01](?!\.)"), ("layer9", "layer9"), ("layer3.7", r"layer3\.7"),
    ("layer3.-3", r"layer3\.-3"), (0, "0"), (99, "99"), ("fc", "layer4"), ("avgpool", "layer4"),
    ("stranger", "layer"),
])
def test_layers_that_are_none(layer, said):
    network = resnet(depths=(1, 1, 2, 1))
    with refused(said):
        iia.explain(network, picture(), 3, layer=nn.Conv2d(3, 3, 1) if layer == "stranger" else layer,
                    steps=1)


# ----------------------------------------------------------------------------------------------- odd forwards

@dataclass
class Output:
    logits: torch.Tensor
    features: torch.Tensor


class Wrapped(nn.Module):
    """Outputs an object with logits."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x):
        return Output(self.net(x) ** 2, x)


class Checked(tv.ResNet):
    """Looks at its values, which no trace can."""

    def forward(self, x):
        assert torch.isfinite(x).all()
        if x.abs().max() > 1e9:
            raise ValueError("no picture")
        return super().forward(x + 0.1)


class RowByRow(tv.ResNet):
    """A branch for each picture, before and behind the layer."""

    def forward(self, x):
        x = torch.stack([row.flip(-1) if row.mean() > 0 else 0.3 * row for row in x])
        u = self.layer4(self.layer3(self.layer2(self.layer1(
            self.maxpool(self.relu(self.bn1(self.conv1(x))))))))
        return torch.stack([self.fc(v) if v[0] > v[1] else self.fc(v.roll(1)).sin() for v in u.mean((2, 3))])


class Numbers(tv.ResNet):
    """Python numbers of a buffer and of sizes on the way."""

    def __init__(self, *settings, **more) -> None:
        super().__init__(*settings, **more)
        self.register_buffer("scale", torch.tensor(1.5, device="cpu"))

    def forward(self, x):
        h, w = x.shape[-2:]
        x = x.view(len(x), 3, h, w) * float(self.scale)
        u = self.layer4(self.layer3(self.layer2(self.layer1(
            self.maxpool(self.relu(self.bn1(self.conv1(x))))))))
        for turn in range(int(self.scale * 2)):
            u = u.roll(1, 1) + u.sqrt()
        return self.fc(u.sum((2, 3)) * 100 / (h * w))


class TwoPictures(tv.ResNet):
    """The picture is read again behind the layer: layer4 is no cut."""

    def forward(self, x):
        return super().forward(x) + x.mean((2, 3)).sum(1, keepdim=True).sin() * 30


@pytest.mark.parametrize("kind", [Checked, RowByRow, Numbers])
def test_networks_that_cannot_be_traced(kind):
    network = resnet(kind)
    for seed in (1, 2):
        check(network, picture(seed=seed), 3)
    check(network, picture(), 3, "layer3.0", operations=("iia", "gradcam"))


def test_outputs_with_logits():
    check(Wrapped(resnet()), picture(), 3, "net.layer4", before="net.layer3")

    class Pair(Wrapped):
        def forward(self, x):
            return [self.net(x), x]

    with refused("logits"):
        iia.explain(Pair(resnet()), picture(), 3, steps=1)


def test_a_layer_that_is_passed_by_is_no_cut():
    with refused("layer4|layer"):
        iia.explain(resnet(TwoPictures), picture(), 3, layer="layer4", steps=1)


class Columns(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 20), nn.ReLU(), nn.Linear(20, 7))

    def forward(self, x):
        return self.layers(x)


def test_a_network_without_a_spatial_layer():
    for name in ("iia", "iia-triple", "gradcam"):
        with refused("layer|spatial|grid"):
            iia.explain(random_weights(Columns()).double(), picture(16), 3, name, steps=1)
    with refused("layer|spatial|grid|pictures"):
        iia.wrap(random_weights(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 7))), image_size=16)


# -------------------------------------------------------------------------------------- timm and transformers

def nhwc(u):
    return u.permute(0, 3, 1, 2)


@pytest.mark.parametrize("name, layer, module, size, places", [
    ("test_resnet", "last", "layer4", 64, {}), ("test_byobnet", "last", "stages.3", 64, {}),
    ("test_convnext", "stages.3", "stages.3", 64, {}), ("test_convnext2", "stages.2", "stages.2", 64, {}),
    ("test_efficientnet", "conv_head", "conv_head", 64, {}), ("test_efficientnet", "last", "bn2", 64, {}),
    ("test_efficientnet_gn", "blocks", "blocks", 64, {}),
    ("test_nfnet", "last", "final_act", 64, {}), ("test_mambaout", "last", "stages.3", 64, {"to_grid": nhwc}),
    ("test_maxvit", "last", "norm", 160, {}), ("test_coatnet", "stages.2", "stages.2", 160, {}),
])
def test_timm(name, layer, module, size, places):
    network = random_weights(timm.create_model(name, num_classes=7)).double()
    check(network, picture(size), 3, layer, module=module, operations=("iia", "gradcam"), places=places,
          tolerance=1e-5)


def hugging_face(kind: str, **settings):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")(num_labels=7, **settings)
    return random_weights(getattr(transformers, f"{kind}ForImageClassification")(config)).double()


def tokens(u):
    side = round(u.shape[1] ** 0.5)
    return u.transpose(1, 2).unflatten(2, (side, side))


@pytest.mark.parametrize("kind, settings, module, before, places", [
    ("ResNet", dict(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic"),
     "resnet.encoder.stages.3", "resnet.encoder.stages.2", {}),
    ("ConvNext", dict(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], image_size=64),
     "convnext.encoder.stages.3", "convnext.encoder.stages.2", {}),
    ("Swin", dict(embed_dim=12, depths=[1, 2], num_heads=[2, 4], window_size=4, image_size=64),
     "swin.layernorm", None, {"to_grid": tokens}),
])
def test_cnns_of_transformers(kind, settings, module, before, places):
    network = hugging_face(kind, **settings)
    operations = ("iia", "gradcam") if before is None else ("iia", "iia-triple", "gradcam")
    check(network, picture(), 3, "last", module=module, before=before, operations=operations, places=places)
    if before:
        check(network, picture(), 3, module, before=before)


@pytest.mark.parametrize("kind, settings, prefix", [("ViT", {}, 1), ("DeiT", {}, 2),
                                                    ("Dinov2", dict(mlp_ratio=2), 1)])
def test_vits_of_transformers(kind, settings, prefix):
    network = hugging_face(kind, hidden_size=24, num_hidden_layers=4, num_attention_heads=3, image_size=16,
                           patch_size=4, **({"intermediate_size": 48} if kind != "Dinov2" else {}),
                           **settings)
    operations = ("iia", "iia-triple", "gae")
    if kind == "Dinov2":        # reads the class token and the mean of the patches; the class token's row is
                                # explained
        operations = ("iia", "gae")
    check_vit(network, picture(16), 3, (4, 4), operations, prefix=prefix)


def test_a_hook_that_acts_on_strong_pictures_only_is_no_recorder():
    network, x = resnet(), 12 * picture()

    def guard(module, inputs):
        return (inputs[0].clamp(-6, 6),) if inputs[0].abs().max() > 6 else None

    plain = iia.explain(network, x, 3, steps=2)
    network.register_forward_pre_hook(guard)
    wanted = iia.explain(network, x.clamp(-6, 6), 3, "gradcam")
    torch.testing.assert_close(iia.explain(network, x, 3, "gradcam"), wanted, rtol=0, atol=1e-5)
    assert differ(iia.explain(network, x, 3, steps=2), plain)


def test_rows_that_mix_are_run_one_by_one_at_every_size():
    network = random_weights(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(),
                                           nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))).double()
    model, x = iia.wrap(network, image_size=16), picture(24)
    for size in (16, 24):
        pictures = torch.cat([picture(size), 2 * picture(size).flip(3)])
        found = iia.explain(model, pictures, 3, layer=3, steps=2)
        alone = torch.cat([iia.explain(network, row, 3, layer=3, steps=2) for row in pictures.split(1)])
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-9)
        torch.testing.assert_close(model.sized(pictures.shape[1:])(x), network(x))


def test_weights_that_are_not_finite_are_named():
    network = random_weights(tv.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=7))
    network.layer2[0].conv1.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(iia.UserError, match="layer2.0.conv1.weight is not finite"):
        iia.wrap(network)


@pytest.mark.parametrize("make", [torch.jit.script, lambda net: torch.jit.trace(net, torch.zeros(1, 3, 32, 32))])
def test_scripted_networks_are_refused_in_a_sentence(make):
    network = random_weights(tv.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=7)).eval()
    with pytest.raises(iia.UserError, match="scripted by torch.jit"):
        iia.wrap(make(network))


# ------------------------------------------------------------------------------------------ what a proof can miss

class Small(nn.Module):
    """Two convolutions with one pool behind each, 5 classes; `end` makes logits of them."""

    def __init__(self, end=None):
        super().__init__()
        self.conv1, self.conv2, self.pool = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 12, 3, 1, 1), nn.MaxPool2d(2)
        self.fc, self.end = nn.Linear(12, 5), end or (lambda logits: logits)

    def forward(self, x):
        u = self.pool(self.conv2(self.pool(self.conv1(x)).relu()).relu())
        return self.end(self.fc(u.mean((2, 3))))


def check_small(network):
    """The map at conv2, which is called once, as the oracle's hooks want it."""
    network, x = random_weights(network).eval(), torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(7))
    model = iia.wrap(network, image_size=16)
    for y in range(4):
        wanted = grid_map("iia", network, x[:1], y, 2, "conv2")
        found = iia.explain(model, x, [y, y], layer="conv2", steps=2)
        torch.testing.assert_close(found[0], wanted, rtol=0, atol=1e-4)


def test_a_module_that_is_called_again_lies_where_its_last_call_does():
    shared, x = random_weights(Small()).eval(), torch.randn(2, 3, 16, 16)
    model = iia.wrap(shared, image_size=16)
    assert model.stage_names == ["conv1", "conv2", "pool"] and model.before(3) == 2
    apart = nn.Sequential(shared.conv1, nn.MaxPool2d(2), nn.ReLU(), shared.conv2, nn.ReLU(), nn.MaxPool2d(2),
                          nn.AdaptiveAvgPool2d(1), nn.Flatten(), shared.fc)
    for y in range(2):
        wanted = [grid_map("iia", apart, x[:1], y, 2, "5"), grid_map("iia-triple", apart, x[:1], y, 2, "5", before="3")]
        found = [iia.explain(model, x[:1], y, operation, steps=2)[0] for operation in ("iia", "iia-triple")]
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


def test_masked_classes_do_not_hide_what_is_wrong():
    """A class of -1e9 in the logits: errors of the others are still seen."""
    from iia.models.proof import difference, same
    wanted = torch.tensor([[1.0, 2, -1e9], [2, -1, -1e9]])
    assert difference(wanted + torch.tensor([0.5, 0, 0]), wanted) == pytest.approx(0.25)
    assert same(wanted + torch.tensor([0, 0, 64.0]), wanted)
    check_small(Small(lambda logits: logits.masked_fill(torch.arange(5) > 3, -1e9)))


@pytest.mark.parametrize("end", ["scaled in place", "shifted"])
def test_a_head_that_is_changed_behind_its_layer(end):
    def change(logits):
        logits[:, 1:] *= 3 if end == "scaled in place" else 1
        logits[:, 3] += 1
        return logits.softmax(1)
    check_small(Small(change))


class Remembering(nn.Conv2d):
    """Remembers, of the picture that it saw last, the size and the brightness."""

    def forward(self, x):
        self.size_seen, self.brightness = x.shape[-2:], x.detach().mean((1, 2, 3))
        return super().forward(x)


class Remembers(Small):
    """What its first layer remembers matters behind it: the brightness at the end, the size for the rows."""

    def __init__(self, what):
        super().__init__()
        self.conv1, self.what = Remembering(3, 8, 3, 1, 1), what

    def forward(self, x):
        if self.what == "brightness":
            return super().forward(x) * (1 + self.conv1.brightness[:, None])
        u = self.conv1(x).flatten(2).unflatten(2, self.conv1.size_seen)
        return self.fc(self.conv2(u).relu().mean((2, 3)))


def test_what_a_network_remembers_of_another_picture_is_no_proof():
    with pytest.raises(iia.UserError, match="cannot be cut"):
        iia.wrap(random_weights(Remembers("brightness")).eval(), image_size=16)


def test_models_of_two_sizes_do_not_share_what_modules_remember():
    wide, high = torch.randn(1, 3, 16, 32), torch.randn(1, 3, 32, 16)
    model = iia.wrap(random_weights(Remembers("size")).eval(), image_size=(16, 32))
    first = iia.explain(model, wide, 0, layer="conv1", steps=2)
    tail, u = model.tail(model.cut("conv1")), model.features(wide, model.cut("conv1"))
    iia.explain(model, high, 0, layer="conv1", steps=2)
    model.whole(wide), model.sized((3, 32, 16)).whole(high)
    torch.testing.assert_close(tail(u), model(wide), rtol=0, atol=1e-5)
    assert torch.equal(iia.explain(model, wide, 0, layer="conv1", steps=2), first)


def test_of_the_patches_all_are_read_or_none():
    """A maximum over patches takes each of them of some picture, if not of the two of the proof."""
    whole = take(toy_vit(global_pool="max").eval(), [(3, 16, 16)])
    found = find(whole)
    some = [False] + [True] * 3 + [False] * 13
    assert len(found.read) == 17 and RowPass(whole, replace(found, read=some)).read == 17
    assert RowPass(whole, replace(found, read=[True] + [False] * 16)).read == 1


def test_softmax_by_keywords_is_attention_too():
    network = toy_vit().eval()
    for block in network.blocks:
        block.attn.fused_attn = False
    plain = iia.explain(network, torch.ones(1, 3, 16, 16), 3, steps=1)
    for block in network.blocks:
        def forward(x, attn=block.attn, **_):
            q, k, v = attn.qkv(x).unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
            a = torch.softmax(input=q @ k.mT * attn.scale, dim=-1)
            return attn.proj((a @ v).transpose(1, 2).flatten(2))
        block.attn.forward = forward
    torch.testing.assert_close(iia.explain(network, torch.ones(1, 3, 16, 16), 3, steps=1), plain, rtol=0, atol=1e-4)


def test_a_side_path_that_only_a_black_picture_shows():
    """Random pictures have no black ones among them; every path of IIA begins at one."""
    class Padded(Small):
        def forward(self, x):
            return super().forward(x) * torch.where((x == 0).flatten(1).all(1), 0.3, 1.0)[:, None]
    with pytest.raises(iia.UserError, match="cannot be cut"):
        iia.wrap(random_weights(Padded()).eval(), image_size=16)
