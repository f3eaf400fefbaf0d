"""Small networks and pictures that the tests share. Everything is seeded and offline."""

import os
import shutil
import threading
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:                 # processes beside each other: a thread each
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import pytest
import torch
import torchvision.models as tv
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from tqdm import tqdm

import iia
from iia.datasets.photographs import photograph

# tqdm's lock is shared with forked processes: one that is killed while it has it would stop all others.
os.register_at_fork(after_in_child=lambda: tqdm.set_lock(threading.RLock()))
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")       # the same figures on every machine
torch.set_num_threads(min(2, torch.get_num_threads()))


def random_weights(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights that make every part matter: no zero biases, no trivial batch norms."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.dtype)
            if name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
                value.copy_(1 + 0.2 * noise.abs())
            elif value.ndim <= 1:
                value.copy_(0.1 * noise)
            elif name.endswith(("cls_token", "pos_embed")):
                value.copy_(0.5 * noise)
            else:
                value.copy_(noise * (2 / value[0].numel()) ** 0.5)
    return network.eval()


def toy_vgg() -> tv.VGG:
    """Six stages, in-place ReLUs, a nonlinear tail.

    They are conv, relu, conv, relu, pool, conv | pool, linear, relu, linear.
    The pool averages: the picture 0 gives constant planes, where a maximum's choice would hang on rounding.
    """
    features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True),
                             nn.Conv2d(4, 5, 3, stride=2), nn.ReLU(inplace=True),
                             nn.AvgPool2d(2), nn.Conv2d(5, 6, 3, padding=1))
    with torch.device("meta"):               # its own classifier has 120 million weights
        network = tv.VGG(features, num_classes=7, init_weights=False)
    network.avgpool = nn.AdaptiveAvgPool2d(2)
    network.classifier = nn.Sequential(nn.Linear(24, 9), nn.ReLU(inplace=True), nn.Linear(9, 7))
    return random_weights(network)


def toy_vit(**changes) -> VisionTransformer:
    """Four blocks of width 24 with three heads on a 4 x 4 grid."""
    settings = dict(img_size=16, patch_size=4, embed_dim=24, depth=4, num_heads=3, num_classes=7) | changes
    return random_weights(VisionTransformer(**settings))


@pytest.fixture
def vgg() -> tv.VGG:
    return toy_vgg().double()


@pytest.fixture
def vit() -> VisionTransformer:
    return toy_vit().double()


@pytest.fixture
def pictures() -> torch.Tensor:
    """Three pictures, [3, 3, 16, 16], float64."""
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def classes() -> torch.Tensor:
    return torch.tensor([2, 5, 2])


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """An empty working directory, and one core, so that figures of different runs may be compared."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.fixture
def coco(own_folder):
    """The small COCO of segmentation_trees.py where the scripts look for it."""
    from .segmentation_trees import coco_tree              # and h5py, which most tests need not wait for
    return coco_tree(own_folder / "data/COCO").relative_to(own_folder)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A network and three photographs with their list; the working directory is theirs."""
    monkeypatch.chdir(tmp_path)
    for name in ("chelsea.png", "coffee.png", "rocket.jpg"):
        shutil.copy(photograph(name), name)
    Path("pics.txt").write_text("chelsea.png 2\ncoffee.png 5\nrocket.jpg 1\n")
    return iia.wrap(toy_vgg(), "toy", (0.5,) * 3, (0.5,) * 3, image_size=32)
