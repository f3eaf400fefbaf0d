"""Networks that take another way for black, bright or strong pictures, or one way for a whole batch."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import iia

from ..conftest import random_weights
from ..oracle_hooks import grid_map, vit_map
from .test_what_a_proof_can_miss import Small


def test_a_side_path_that_only_a_black_picture_shows():
    """Random pictures have no black ones among them; every path of IIA begins at one."""
    class Padded(Small):
        def forward(self, x):
            return super().forward(x) * torch.where((x == 0).flatten(1).all(1), 0.3, 1.0)[:, None]
    with pytest.raises(iia.UserError, match="cannot be cut"):
        iia.wrap(random_weights(Padded()).eval(), image_size=16)


def test_a_side_path_from_a_layer_that_is_left_out_and_that_only_a_black_picture_takes():
    """A layer that is left out answers zeros, which random pictures would not tell from its own answer."""
    class Side(Small):
        def forward(self, x):
            u = self.conv1(x)
            side = u.detach().mean((1, 2, 3)) * (x == 0).flatten(1).all(1)
            v = self.pool(self.conv2(self.pool(u).relu()).relu())
            return self.fc(v.mean((2, 3))) + side[:, None]
    with pytest.raises(iia.UserError, match="cannot be cut"):
        iia.wrap(random_weights(Side()).eval(), image_size=16)


class TellsDark(Small):
    """Adds 5 to class 0 of a picture that has nothing dark in it, without a gradient: no random picture."""

    class Side(nn.Module):
        def forward(self, x):
            return (x.detach().amin((1, 2, 3)) > -0.5).float()

    def __init__(self):
        super().__init__()
        self.side = self.Side()

    def forward(self, x):
        bonus = self.side(x)
        return super().forward(x) + 5 * bonus[:, None] * torch.eye(5)[0]


def test_a_module_beside_the_layers_that_answers_to_black_pictures_alone():
    with pytest.raises(iia.UserError, match="what follows does not depend on this layer alone"):
        iia.wrap(random_weights(TellsDark()), image_size=16)


class OneWayForAll(Small):
    """One branch for all pictures of a batch, which random pictures take together."""

    def forward(self, x):
        return super().forward(x / 255 if x.max() > 2.5 else x)


class OneStepForAll(Small):
    """The same without a comparison."""

    def forward(self, x):
        bright = torch.sign(x.max() - 2.5).add(1) / 2
        return super().forward(x * (1 - bright) + x / 255 * bright)


@pytest.mark.parametrize("kind", [OneWayForAll, OneStepForAll])
def test_rows_of_one_batch_that_take_one_branch_are_run_one_by_one(kind):
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(7))
    x = torch.stack([x[0].sigmoid(), 255 * x[1].sigmoid()])
    network = random_weights(kind())
    for operation in ("iia", "gradcam"):
        found = iia.explain(network, x, 1, operation, layer="conv2", steps=2)
        for row, maps in zip(x.split(1), found):
            wanted = grid_map(operation, network, row, 1, 2, "conv2")
            torch.testing.assert_close(maps, wanted, rtol=0, atol=1e-4)


def test_blocks_of_a_vit_that_takes_one_branch_for_all():
    class Scaled(VisionTransformer):
        def forward(self, x):
            return super().forward(x / 255 if x.max() > 2.5 else x)

    network = random_weights(Scaled(16, 4, num_classes=5, embed_dim=24, depth=3, num_heads=3)).double()
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    x = torch.cat([x.sigmoid(), 255 * x.sigmoid()])
    found = iia.explain(network, x, 3, steps=2)
    for row, maps in zip(x.split(1), found):
        torch.testing.assert_close(maps, vit_map("iia", network, row, 3, 2, (4, 4)), rtol=0, atol=1e-6)


class BrightPaths(Small):
    def forward(self, x):
        z = super().forward(x)
        return torch.where(x.detach().mean((1, 2, 3))[:, None] > 1, z.flip(1), z)


class RowsFlipped(Small):
    def forward(self, x):
        return super().forward(x.flip(0)).flip(0)


@pytest.mark.parametrize("kind", [BrightPaths, RowsFlipped])
def test_side_paths_of_bright_pictures_and_rows_in_another_order(kind):
    with pytest.raises(iia.UserError, match="cannot be cut"):
        iia.wrap(random_weights(kind()), image_size=16)


class BrightPathsOfMixedRows(BrightPaths):
    """Its batch norm without statistics mixes rows, whatever they are."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Sequential(self.conv1, nn.BatchNorm2d(8, track_running_stats=False))


def test_side_paths_of_a_network_whose_rows_run_alone_anyway():
    with pytest.raises(iia.UserError, match="cannot be cut"):
        iia.wrap(random_weights(BrightPathsOfMixedRows()), image_size=16)


def test_a_batch_norm_that_does_more_to_strong_pictures_is_not_folded():
    class Guarded(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).clamp(-30, 30)

    network = random_weights(nn.Sequential(nn.Conv2d(3, 8, 3), Guarded(8), nn.AdaptiveAvgPool2d(2),
                                           nn.Flatten(), nn.Linear(32, 5)))
    x = 50 * torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(iia.wrap(network, image_size=16)(x), network(x))


def test_a_timm_vit_of_its_own_forward_does_not_run_by_rows():
    class Bright(VisionTransformer):
        def forward(self, x):
            z = super().forward(x)
            return torch.where(x.mean((1, 2, 3))[:, None] > 1, z.flip(1), z)

    network = random_weights(Bright(16, 4, num_classes=5, embed_dim=24, depth=3, num_heads=3)).double()
    x = 3 + torch.randn(1, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(iia.explain(network, x, 1, steps=2)[0],
                               vit_map("iia", network, x, 1, 2, (4, 4)), rtol=0, atol=1e-6)


def test_a_vit_that_leaves_out_a_block_for_some_pictures():
    class Shallow(VisionTransformer):
        def forward_features(self, x, **how):
            strong, tokens = x.abs().mean() > 5, self._pos_embed(self.patch_embed(x))
            for number, block in enumerate(self.blocks):
                tokens = tokens if strong and number == 1 else block(tokens)
            return self.norm(tokens)

    network = random_weights(Shallow(16, 4, num_classes=5, embed_dim=24, depth=4, num_heads=3)).double()
    model, x = iia.wrap(network), torch.randn(1, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(iia.explain(model, x, 1, steps=2)[0], vit_map("iia", network, x, 1, 2, (4, 4)),
                               rtol=0, atol=1e-6)
    with pytest.raises(iia.UserError, match="leaves out a block"):
        iia.explain(model, 20 * x, 1, steps=2)
