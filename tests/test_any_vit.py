"""Any transformer over patches: its maps against loops of whole passes, and what is none."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision.models as tv
from timm.models.vision_transformer import ParallelThingsBlock, ResPostBlock

import iia
from iia.methods import VIT_OPERATIONS
from iia.models.find_attention import NotAViT
from iia.models.snapshot import take
from iia.models.vit import ViT
from iia.options import IIAOptions

from .conftest import random_weights, toy_vit
from .models.networks_of_users import resnet
from .oracle_passes import check_any, reads, slow_map


def test_a_norm_behind_the_attention():
    assert not check_any(toy_vit(block_fn=ResPostBlock).double(), reads(1, 16, "class")).by_rows


def test_parallel_attentions_are_more_heads_of_one_block():
    net = toy_vit(block_fn=ParallelThingsBlock).double()
    model = check_any(net, reads(1, 16, "class"), parallel=2)
    assert len(model.blocks) == 4 and model.heads == [6] * 4


@pytest.mark.parametrize("kind, changes, prefix, which", [
    ("beit", {"use_abs_pos_emb": True, "use_rel_pos_bias": True, "init_values": 0.5}, 1, "patches"),
    ("eva", {"use_rot_pos_emb": True, "global_pool": "token"}, 1, "class"),
    ("eva", {"use_rot_pos_emb": True, "num_reg_tokens": 2, "global_pool": "avg"}, 3, "patches"),
])
def test_other_vits_of_timm(kind, changes, prefix, which):
    kind = {"beit": timm.models.beit.Beit, "eva": timm.models.eva.Eva}[kind]
    net = kind(img_size=16, patch_size=4, embed_dim=24, depth=3, num_heads=3, num_classes=7, **changes)
    assert not check_any(random_weights(net).double(), reads(prefix, 16, which)).by_rows


def test_torchvisions_vit():
    net = random_weights(tv.VisionTransformer(16, 4, 4, 3, 24, 48, num_classes=7)).double()
    check_any(net, reads(1, 16, "class"))


@pytest.mark.parametrize("kind, more, prefix", [("ViT", {"intermediate_size": 48}, 1),
                                                ("DeiT", {"intermediate_size": 48}, 2),
                                                ("Dinov2", {"mlp_ratio": 2}, 1)])
def test_vits_of_transformers(kind, more, prefix):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=3, image_size=16, patch_size=4,
        num_labels=7, **more)
    net = random_weights(getattr(transformers, f"{kind}ForImageClassification")(config)).double()
    net.set_attn_implementation("sdpa")
    check_any(net, reads(prefix, 16, "class"), operations=("iia", "iia-triple", "gae"))
    x = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    fused = iia.explain(net, x, 3, "iia", steps=2)
    net.set_attn_implementation("eager")
    torch.testing.assert_close(iia.explain(net, x, 3, "iia", steps=2), fused, rtol=0, atol=1e-6)


def test_passes_that_cannot_be_gone_on_with_are_made_anew(pictures, classes):
    net = toy_vit(block_fn=ResPostBlock).double()
    model = iia.wrap(net)
    for operation in ("iia", "iia-triple", "ablation-attention"):
        model.passes.replays = True
        wanted = iia.explain(model, pictures, classes, operation, steps=2)
        model.contributions_at_zero.clear()
        model.passes.replays = False
        torch.testing.assert_close(iia.explain(model, pictures, classes, operation, steps=2), wanted)


def test_the_way_by_rows_is_the_general_one(vit, pictures, classes):
    model, plain = iia.wrap(vit), toy_vit().double()
    # acts, and changes nothing
    plain.blocks[0].register_forward_hook(lambda module, inputs, output: output.clone())
    other = iia.wrap(plain)
    assert model.by_rows and not other.by_rows
    for operation in ("iia", "iia-triple", "ablation-image", "ablation-attention", "gae", "rollout"):
        found, wanted = (iia.explain(m, pictures, classes, operation, steps=2) for m in (other, model))
        torch.testing.assert_close(found, wanted)


def test_a_block_with_a_forward_of_its_own_is_not_taken_apart(vit):
    """It may do other things with other pictures than those of the proof."""
    plain = vit.blocks[1].forward
    vit.blocks[1].forward = lambda tokens, **how: plain(tokens.clamp(-1e3, 1e3), **how)
    assert not iia.wrap(vit).by_rows


def test_pictures_of_another_size_have_another_grid():
    net = toy_vit(dynamic_img_size=True).double()
    model = iia.wrap(net)
    x = torch.randn(1, 3, 24, 32, dtype=torch.float64)
    sized, y = model.sized((3, 24, 32)), torch.tensor([3])
    raw = VIT_OPERATIONS["gae"].under("paper")(sized, x, y, IIAOptions(layer=4))
    torch.testing.assert_close(raw[0], slow_map("gae", net, x, 3, 1, (6, 8), reads(1, 48, "class")))
    assert iia.explain(model, x, 3, steps=1).shape == (1, 24, 32) and model.grid == (4, 4)


def test_two_threads_explain_one_model(pictures):
    for net in (toy_vit(), toy_vit(block_fn=ResPostBlock)):
        model = iia.wrap(net.double())
        work = [(pictures[b:b + 1], b + 2, name) for b in range(3) for name in ("iia", "gae")]
        explain = lambda x, y, name: iia.explain(model, x, y, name, steps=2)
        wanted = [explain(*job) for job in work]
        model.contributions_at_zero.clear()
        with ThreadPoolExecutor(3) as pool:
            logits = [pool.submit(model, pictures) for _ in range(6)]
            found = list(pool.map(lambda job: explain(*job), work * 2))
        for f, w in zip(found, wanted * 2, strict=True):
            torch.testing.assert_close(f, w)
        for answer in logits:
            torch.testing.assert_close(answer.result(), net.double()(pictures))


class ChannelAttention(torch.nn.Module):
    """A block whose attention is between channels: square, but not between patches."""

    def __init__(self):
        super().__init__()
        self.qkv = torch.nn.Linear(24, 72)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, 1, 24)).permute(2, 0, 3, 4, 1)
        return x + F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2)


def channel_attention():
    return toy_vit(class_token=False, global_pool="avg", block_fn=lambda **_: ChannelAttention())


def small_swin():
    return timm.create_model("swin_tiny_patch4_window7_224", embed_dim=12, depths=(2, 2), num_heads=(1, 2),
                             img_size=56)


@pytest.mark.parametrize("build, message", [
    (resnet, "no attention"), (small_swin, "between all its patches"),
    (lambda: timm.create_model("pvt_v2_b0"), "between all its patches"),
    (channel_attention, "no row of blocks"), (lambda: with_class_token_last(), "do not lie as"),
    (lambda: with_two_patches_exchanged(), "do not lie as")])
def test_what_is_no_vit(build, message):
    net = build().eval()
    size = getattr(getattr(net, "patch_embed", None), "img_size", None) or (64, 64)
    with pytest.raises(NotAViT, match=message):
        ViT(take(net, [(3, *size), (3, 64, 64), (3, 224, 224)]), "net", (0.5,) * 3, (0.5,) * 3)


def with_two_patches_exchanged():
    """The other fourteen lie as the picture's patches do."""
    net, order = toy_vit(), list(range(16))
    order[12], order[9] = 9, 12
    plain = net._pos_embed
    net._pos_embed = lambda x: plain(x[:, order])
    return net


def with_class_token_last():
    """Its last tokens are not the patches."""
    net = toy_vit()
    net._pos_embed = lambda x: torch.cat([x, net.cls_token.expand(len(x), -1, -1)], 1) + net.pos_embed
    return net


@pytest.mark.parametrize("changes", [{"class_token": False, "global_pool": "avg"}, {"global_pool": "avg"},
                                     {"global_pool": "map"}, {"img_size": (16, 32)},
                                     {"img_size": (16, 32), "class_token": False, "global_pool": "avg"}])
def test_pooled_tokens_and_pictures_that_are_not_square(changes):
    """Gradient attention by hooks on the user's own network, a picture at a time; rollout starts at what is
    read."""
    net = toy_vit(**changes).double()
    size = changes.get("img_size", (16, 16))
    x = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    grid, pools = (size[0] // 4, size[1] // 4), "global_pool" in changes
    wanted = []
    for b, y in enumerate((3, 5)):
        A, handles = [], []
        for block in net.blocks:
            block.attn.fused_attn = False
            handles.append(block.attn.attn_drop.register_forward_hook(
                lambda m, i, o: (o.retain_grad(), A.append(o))[0]))
        net(x[b:b + 1])[0, y].backward()
        for handle in handles:
            handle.remove()
        R = torch.eye(A[0].shape[-1], dtype=torch.float64)
        for a in A:
            R = R + (a * a.grad).clamp(min=0).mean(1)[0] @ R
        patches = grid[0] * grid[1]
        row = R[-patches:].mean(0) if pools else R[0]
        wanted.append(row[-patches:].view(grid))
    raw = VIT_OPERATIONS["gae"].under("paper")(iia.wrap(net), x, torch.tensor([3, 5]), IIAOptions(layer=4))
    torch.testing.assert_close(raw, torch.stack(wanted).detach(), rtol=1e-8, atol=1e-12)
    heat = iia.explain(net, x, [3, 5], "iia", steps=2)
    assert heat.shape == (2, *size) and heat.amax((1, 2)).tolist() == [1, 1]
