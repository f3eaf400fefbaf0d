"""A hook that only records is not called; one that changes what passes is part of the network."""

import contextlib
import threading
from functools import partial

import pytest
import torch

import iia

from ..conftest import toy_vit
from ..oracle_hooks import grid_map, vit_map
from .networks_of_users import BEFORE, CHANGES, check, differ, picture, resnet

RECORDED = []              # what a hook that is a plain function writes to


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
    network(x)                        # what it keeps hangs in a graph, so a deepcopy of it fails
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


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_hook_that_makes_a_weight_is_no_recorder():
    """It is made anew where the network is converted."""
    network, x = resnet(), picture()
    CHANGES["weight_norm of old"](network)
    wanted = iia.explain(network, x, 3, steps=2)
    found = iia.explain(iia.wrap(network, image_size=64).float(), x.float(), 3, steps=2)
    torch.testing.assert_close(found, wanted.float(), rtol=0, atol=1e-3)


def test_a_hook_with_a_default_of_its_own_keeps_it():
    network, x = resnet(), picture()

    def scaled(module, inputs, output, *, by=0.5, shift=lambda u: u.roll(1, 1)):
        return by * shift(output)
    network.layer4.register_forward_hook(scaled)
    check(network, x, 3, operations=("iia",))


def test_a_hook_that_acts_on_strong_pictures_only_is_no_recorder():
    network, x = resnet(), 12 * picture()

    def guard(module, inputs):
        return (inputs[0].clamp(-6, 6),) if inputs[0].abs().max() > 6 else None

    plain = iia.explain(network, x, 3, steps=2)
    network.register_forward_pre_hook(guard)
    wanted = iia.explain(network, x.clamp(-6, 6), 3, "gradcam")
    torch.testing.assert_close(iia.explain(network, x, 3, "gradcam"), wanted, rtol=0, atol=1e-5)
    assert differ(iia.explain(network, x, 3, steps=2), plain)


def test_a_hook_that_acts_on_black_pictures_only_is_no_recorder():
    network, x = resnet(), torch.zeros_like(picture())

    def filled(module, inputs):
        return None if inputs[0].any() else (inputs[0] + 1,)

    plain = iia.wrap(network, image_size=tuple(x.shape[-2:]))(x)
    network.register_forward_pre_hook(filled)
    assert differ(iia.wrap(network, image_size=tuple(x.shape[-2:]))(x), plain)


@pytest.mark.parametrize("acts", [
    lambda x: x.shape[-1] > 64, lambda x: x.shape[-1] < 64, lambda x: x.min() >= 0 and x.any(),
    lambda x: x.std() < 1e-6 and x.any(), lambda x: len(x) == 1],
    ids=["large", "small", "bright", "even", "one"])
def test_a_hook_that_acts_on_pictures_of_another_kind_is_no_recorder(acts):
    network = resnet()
    network.register_forward_pre_hook(lambda module, inputs: (inputs[0].sin(),) if acts(inputs[0]) else None)
    model = iia.wrap(network, image_size=64)
    assert len(model.network._forward_pre_hooks) == 1
    x = picture(96)
    torch.testing.assert_close(model.sized((3, 96, 96))(x), network(x))


def test_a_hook_that_writes_behind_autograds_back_stays():
    """It returns nothing, and `.data` counts no version."""
    network, x = resnet(), picture()

    def halve(module, inputs, output):
        output.data.mul_(0.5)

    plain = iia.wrap(network, image_size=64)(x)
    network.layer3.register_forward_hook(halve)
    model = iia.wrap(network, image_size=64)
    torch.testing.assert_close(model(x), network.eval()(x))
    assert differ(model(x), plain)
