"""Do the maps point at what decides? Two small networks are trained here, on pictures made here.

A picture has a textured background and four squares, each with a pattern of its own and at random places.
One of them, of one of four deciding colours, gives the class; the others' colours mean nothing. So the
place of the evidence is known, and a map is right when its highest point lies on the deciding square, or
within TOLERANCE pixels of it, as the pointing game has it: half a patch here.
"""

import timm
import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import nn

import iia

SIDE, OBJECT, TOLERANCE = 64, 16, 4
DECIDING = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.1], [0.15, 0.2, 0.95], [0.9, 0.85, 0.1]])
OTHERS = torch.tensor([[0.1, 0.8, 0.8], [0.85, 0.1, 0.85], [0.9, 0.9, 0.9], [0.1, 0.1, 0.1]])


def make(count: int, seed: int):
    """Pictures [count, 3, 64, 64], classes [count], where the deciding object is near [count, 64, 64]."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 9, 9, generator=g)
    noise = 0.15 * torch.randn(count, 3, SIDE, SIDE, generator=g)
    x = 0.25 + 0.5 * F.interpolate(coarse, (SIDE, SIDE), mode="bilinear") + noise
    y = torch.randint(4, (count,), generator=g)
    where = torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    cells = [(r, c) for r in (0, 22, 44) for c in (0, 22, 44)]
    stripes = (torch.arange(OBJECT) // 2 % 2).float()
    patterns = [stripes[None].expand(OBJECT, -1), stripes[:, None].expand(-1, OBJECT),
                torch.ones(OBJECT, OBJECT)]
    for b in range(count):
        for k, cell in enumerate(torch.randperm(9, generator=g)[:4].tolist()):
            top, left = (cells[cell][i] + int(torch.randint(5, (1,), generator=g)) for i in (0, 1))
            colour = DECIDING[y[b]] if k == 0 else OTHERS[torch.randint(4, (1,), generator=g)[0]]
            pattern = 0.7 + 0.3 * patterns[int(torch.randint(3, (1,), generator=g))]
            x[b, :, top:top + OBJECT, left:left + OBJECT] = colour[:, None, None] * pattern
            if k == 0:
                near = (slice(max(0, start - TOLERANCE), start + OBJECT + TOLERANCE) for start in (top, left))
                where[b, *near] = True
    return (x - 0.5) / 0.5, y, where


def train(network: nn.Module, rate: float, steps: int, decay: float = 0.01) -> nn.Module:
    x, y, _ = make(1500, seed=1)
    optimiser = torch.optim.AdamW(network.parameters(), rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    g = torch.Generator().manual_seed(2)
    network.train()
    for _ in range(steps):
        batch = torch.randint(len(x), (48,), generator=g)
        F.cross_entropy(network(x[batch]), y[batch]).backward()
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
    return network.eval()


def small_vit() -> nn.Module:
    torch.manual_seed(0)
    net = timm.models.VisionTransformer(img_size=SIDE, patch_size=8, embed_dim=64, depth=3, num_heads=8,
                                      num_classes=4)
    return train(net, 2e-3, 300, decay=0.5)


def small_cnn(steps: int = 120) -> nn.Module:
    torch.manual_seed(0)
    layers, channels = [], 3
    for width in (12, 24, 48):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
                   nn.MaxPool2d(2)]
        channels = width
    net = tv.VGG(nn.Sequential(*layers), num_classes=4)
    net.avgpool, net.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(48, 4)
    return train(net, 5e-3, steps)


def shares() -> dict[tuple[str, str], float]:
    """Of each (network, operation) the share of maps that point at the deciding object."""
    x, y, where = make(60, seed=3)
    rows = {("random maps", "area share"): where.float().mean().item()}
    cases = {"ViT": (small_vit(), ("iia", "iia-triple", "iia@release", "iia-triple@release")),
             "CNN": (small_cnn(steps=60), ("iia", "iia-triple"))}
    for name, (network, operations) in cases.items():
        right = iia.predict(network, x) == y
        rows[name, "accuracy"] = right.float().mean().item()
        for operation in operations:
            method, _, definition = operation.partition("@")
            maps = iia.explain(network, x[right], y[right], method, definition=definition or "paper",
                               steps=5 if method == "iia" else 3, batch_size=60)
            peak = maps.flatten(1).argmax(1, keepdim=True)
            rows[name, operation] = where[right].flatten(1).gather(1, peak).float().mean().item()
    return rows


def test_iia_points_at_the_deciding_object():
    """One test, since the networks are trained for it in a minute. Rounding alone trains other ones."""
    found = shares()
    assert found["ViT", "accuracy"] > 0.95 and found["CNN", "accuracy"] > 0.95
    assert found["random maps", "area share"] < 0.15
    ours = {row: share for row, share in found.items() if row[1].startswith("iia")}
    assert len(ours) == 6 and min(ours.values()) >= 0.9, found
