"""What random pictures alone would not show: memories, masked classes, small differences."""

import pytest
import torch
from torch import nn

import iia
from iia.models import cnn
from iia.models.proof import difference, same
from iia.models.segment import Segment

from ..conftest import random_weights, toy_vgg
from ..oracle_hooks import grid_map


class Small(nn.Module):
    """Two convolutions with one pool behind each, 5 classes; `end` makes logits of them."""

    def __init__(self, end=None):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 12, 3, 1, 1)
        self.pool = nn.MaxPool2d(2)
        self.fc, self.end = nn.Linear(12, 5), end or (lambda logits: logits)

    def forward(self, x):
        u = self.pool(self.conv2(self.pool(self.conv1(x)).relu()).relu())
        return self.end(self.fc(u.mean((2, 3))))


def check_small(network):
    """The map at conv2, which is called once, as the oracle's hooks want it."""
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(7))
    network = random_weights(network)
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
        for operation, before in (("iia", None), ("iia-triple", "3")):
            wanted = grid_map(operation, apart, x[:1], y, 2, "5", before=before)
            found = iia.explain(model, x[:1], y, operation, steps=2)[0]
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


def test_such_a_module_where_the_network_must_run_whole():
    """It looks at what its first layer answers, which therefore cannot be left out."""
    class Looks(Small):
        def forward(self, x):
            u = self.conv1(x)
            assert u.any()
            u = self.pool(self.conv2(self.pool(u).relu()).relu())
            return self.end(self.fc(u.mean((2, 3))))

    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(7))
    model, plain = (iia.wrap(random_weights(kind()), image_size=16) for kind in (Looks, Small))
    assert (model.way, plain.way) == ("whole", "skipping")
    for layer in ("pool", "conv2"):
        found, wanted = (iia.explain(each, x, 1, "iia-triple", layer=layer, steps=2)
                         for each in (model, plain))
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_a_copy_in_half_is_proven_too():
    """Of bfloat16's digits single ones are off, but no quarter of a layer."""
    model, x = iia.wrap(toy_vgg(), precision="bf16", image_size=16), torch.randn(1, 3, 16, 16)
    model.in_half.network.features[5].weight.data *= 1.3
    with pytest.raises(iia.UserError, match="cannot be cut"):
        iia.explain(model, x, 0, layer=6, steps=1)


def test_a_quicker_copy_that_computes_something_else_is_not_taken(monkeypatch):
    quick_copy = cnn.quick_copy

    def wrong(whole):
        made = quick_copy(whole)
        made.network.fc.weight = nn.Parameter(1.01 * made.network.fc.weight, requires_grad=False)
        return made
    monkeypatch.setattr(cnn, "quick_copy", wrong)
    network, x = random_weights(Small()).eval(), torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(iia.wrap(network, image_size=16)(x), network(x))


def test_masked_classes_do_not_hide_what_is_wrong():
    """A class of -1e9 in the logits: errors of the others are still seen."""
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


@pytest.mark.parametrize("why", [torch.OutOfMemoryError("CUDA out of memory"),
                                 RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_proof_that_the_memory_does_not_hold_says_so(why, monkeypatch):
    """It is no wrong cut: whoever explains may try again with fewer rows."""
    model = iia.wrap(Small(), image_size=16)

    def full(*_):
        raise why
    monkeypatch.setattr(Segment, "forward", full)
    with pytest.raises(type(why), match="memory"):
        model.segment(model.quick, 0, 1)


def test_pictures_that_the_memory_does_not_hold_are_not_called_unreadable():
    class Large(Small):
        def forward(self, x):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        iia.wrap(Large(), image_size=16)


@pytest.mark.parametrize("dtype, near, far", [(torch.float32, 5e-5, 5e-4), (torch.float64, 5e-10, 5e-9)])
def test_how_near_a_shortcut_must_come(dtype, near, far):
    wanted = torch.tensor([[1.0, -2.0], [0.5, 1.0]], dtype=dtype)
    assert same(wanted + 2 * near * torch.eye(2, dtype=dtype), wanted)
    assert not same(wanted + 2 * far * torch.eye(2, dtype=dtype), wanted)
