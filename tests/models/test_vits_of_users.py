"""A ViT's map is of the network as it runs, of whatever kind it is."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

import iia
from iia.models.find_attention import find
from iia.models.snapshot import take
from iia.models.vit import RowPass

from ..conftest import random_weights, toy_vit
from ..oracle_hooks import vit_map
from ..oracle_passes import check_any, reads
from .networks_of_users import check_vit, differ, hook, picture

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
    x = torch.ones(1, 3, 16, 16)
    plain = iia.explain(network, x, 3, steps=1)
    for block in network.blocks:
        def forward(x, attn=block.attn, **_):
            q, k, v = attn.qkv(x).unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
            a = torch.softmax(input=q @ k.mT * attn.scale, dim=-1)
            return attn.proj((a @ v).transpose(1, 2).flatten(2))
        block.attn.forward = forward
    torch.testing.assert_close(iia.explain(network, x, 3, steps=1), plain, rtol=0, atol=1e-4)


class OwnAttention(nn.Module):
    """As people write it: an explicit softmax, or torch's fused function."""

    def __init__(self, fused):
        super().__init__()
        self.fused, self.norm, self.qkv = fused, nn.LayerNorm(24), nn.Linear(24, 72, bias=False)

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 3, 8)).permute(2, 0, 3, 1, 4)
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return (torch.softmax(q @ k.transpose(-2, -1) / 8**0.5, dim=-1) @ v).transpose(1, 2).flatten(2)


class Own(nn.Module):
    """A ViT without a class token or a convolution; its blocks are pairs in a list, added in place."""

    def __init__(self, fused):
        super().__init__()
        self.embed, self.pos = nn.Linear(48, 24), nn.Parameter(torch.zeros(32, 24))
        self.head = nn.Linear(24, 7)
        self.layers = nn.ModuleList(nn.ModuleList([
            OwnAttention(fused), nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 24), nn.GELU())])
            for _ in range(3))

    def forward(self, x):
        x = self.embed(F.unfold(x, 4, stride=4).transpose(1, 2)) + self.pos
        for attention, mlp in self.layers:
            x = attention(x).add_(x)
            x = x + mlp(x)
        return self.head(x.mean(1))


def test_a_users_own_vit():
    fused, explicit = (random_weights(Own(kind)).double() for kind in (True, False))
    check_any(fused, reads(0, 32, "patches"), grid=(4, 8), size=(16, 32))
    x = torch.randn(2, 3, 16, 32, dtype=torch.float64)
    for operation in ("iia", "iia-triple", "gae", "rollout", "ablation-image", "ablation-attention"):
        maps = [iia.explain(net, x, [3, 5], operation, steps=2) for net in (fused, explicit)]
        torch.testing.assert_close(*maps, rtol=0, atol=1e-9)


@pytest.mark.parametrize("weights", [True, False])
def test_torchs_own_encoder_takes_no_short_cut(weights):
    """nn.TransformerEncoder and nn.MultiheadAttention have quick ways in which no attention shows."""
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch = nn.Conv2d(3, 24, 4, 4)
            layer = nn.TransformerEncoderLayer(24, 3, 48, batch_first=True, norm_first=True)
            self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
            self.pool, self.head = nn.MultiheadAttention(24, 3, batch_first=True), nn.Linear(24, 7)

        def forward(self, x):
            x = self.encoder(self.patch(x).flatten(2).transpose(1, 2))
            return self.head(self.pool(x.mean(1, keepdim=True), x, x, need_weights=weights)[0][:, 0])

    check_any(random_weights(Net()).double(), reads(0, 16, "patches"), operations=("iia", "gae"))
