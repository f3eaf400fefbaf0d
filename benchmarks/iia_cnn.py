"""How near IIA for CNNs comes to the forward passes it cannot do without, and how far from two rivals.

"The release's passes" are the forward and backward passes that the published code makes, in its batches, and
nothing of its other work. "The loop with everything" is the whole method, picture by picture and step by
step. Random weights serve: the time does not depend on them. Every ratio is of medians of one run.
"""

import copy
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import iia
from benchmarks.timing import has_bf16, machine, medians
from iia import settings
from iia.integration import chunks
from iia.models.names import build
from iia.runs import pick_device
from tests.oracles import cnn_map

# ------------------------------------------------------------------------------------- settings
model_name = "resnet101"        # a torchvision ResNet
pictures = 4                    # explained at once
steps = 10                      # n, of the sum "riemann" and of both rivals
batch_size = 22                 # rows through the network at once
rounds = 5                      # measured rounds; the loop is measured in `loop_rounds`
loop_rounds = 1                 # it is slow, and has a round to warm up; 0 leaves it out
device = "auto"                 # "auto", "cuda", "cpu"
# ----------------------------------------------------------------------------------------------
NAMES = {"iia": "IIA2", "iia-triple": "IIA3"}
# Rules about as near to the integral as the paper's sum with n = 10 (docs/results.md), and their n.
QUICKER = {"iia": {"gauss": 7, "graded": 6}, "iia-triple": {"gauss": 5, "graded": 4}}


def main(chosen):
    where = pick_device(chosen.device)
    torch.manual_seed(0)
    network = build(chosen.model_name)[0].eval().to(where)
    x = torch.randn(chosen.pictures, 3, 224, 224, device=where)
    y = torch.arange(chosen.pictures, device=where)
    n, b = chosen.steps, chosen.batch_size
    models = {p: iia.wrap(network, name=chosen.model_name, precision=p)
              for p in ("fp32", "bf16")[:1 + has_bf16(where)]}
    stages, head = taken_apart(network, models["fp32"].stage_names)
    explain = partial(iia.explain, pictures=x, classes=y, batch_size=b)
    ours = {op: partial(explain, models["fp32"], operation=op, steps=n) for op in NAMES}
    quicker = {f"{op}, {rule}, n = {k}": partial(explain, models["fp32"], operation=op, steps=k,
                                                 quadrature=rule)
               for op, rules in QUICKER.items() for rule, k in rules.items()}
    half = {f"{op} bf16": partial(explain, models["bf16"], operation=op, steps=n)
            for op in NAMES if "bf16" in models}
    both = {f"{op}, graded, n = {rules['graded']}, bf16": partial(
        explain, models["bf16"], operation=op, steps=rules["graded"], quadrature="graded")
        for op, rules in QUICKER.items() if half}
    passes = {f"passes of {op}": partial(release_passes, stages, head, x, y, op, n) for op in NAMES}

    print(f"{chosen.model_name}, {chosen.pictures} pictures, n = {n}, on {machine(where)}")
    work = needed(models, stages, head, x, n, b) | ours | quicker | half | both | passes
    t = medians(work, chosen.rounds)
    row("IIA2 / plain forwards of n pictures", t["iia"], t["plain"], "<= 1.10")
    row("IIA3 / the forwards it needs", t["iia-triple"], t["needed of iia-triple"], "<= 1.25")
    if half:
        row("features alone: fp32 / bf16", t["features fp32"], t["features bf16"])
        for op, name in NAMES.items():
            row(f"{name}: fp32 / bf16", t[op], t[f"{op} bf16"], ">= 2.5")
            maps = torch.stack([work[key]().flatten() for key in (op, f"{op} bf16")]).float()
            print(f"{name}: correlation of bf16's maps with fp32's {torch.corrcoef(maps)[0, 1]:.4f} (> 0.99)")
    else:
        print("bf16 is left out: this processor computes it in float32's place, which takes minutes.")

    loops = {op: partial(loop, stages, head, x, y, op, n) for op in NAMES}
    t_loop = medians(loops, chosen.loop_rounds) if chosen.loop_rounds else {}
    for key in ours | quicker | half | both:
        op = key.replace(",", " ").split()[0]
        name = key.replace(op, NAMES[op])
        row(f"the release's passes / {name}", t[f"passes of {op}"], t[key])
        if t_loop:
            row(f"the loop with everything / {name}", t_loop[op], t[key],
                {"iia": ">= 1.7", "iia-triple": ">= 2.5"}.get(key, ""))


def row(what: str, over: float, under: float, goal: str = "") -> None:
    print(f"{what:48s} {over / under:6.2f}   {goal:8s}   {over:.2f} s / {under:.2f} s")


def taken_apart(network: nn.Module, stage_names: list[str]) -> tuple[nn.Sequential, nn.Sequential]:
    """A ResNet's stages, and what follows the last of them; the network's own modules."""
    stages = nn.Sequential(*[getattr(network, name) for name in stage_names])
    return stages, nn.Sequential(network.avgpool, nn.Flatten(), network.fc)


def needed(models: dict, stages: nn.Sequential, head: nn.Sequential, x: Tensor, n: int,
           b: int) -> dict[str, Callable[[], object]]:
    """The forward passes that no map can do without, of the network in channels-last memory."""
    cut = len(stages)
    path = torch.cat([x * (i / n) for i in range(1, n + 1)]).contiguous(memory_format=torch.channels_last)
    of_stage = models["fp32"].features(x[:1], cut - 1).expand(n + 1 + len(x) * n * (n + 1), -1, -1, -1)
    layers = copy.deepcopy(nn.Sequential(*stages, *head)).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def plain():                                # of the n pictures of each path
        for rows in chunks(len(path), b):
            layers(path[rows])

    @torch.no_grad()
    def of_triple():                # to the stage before, then the stage for every point of its path
        for rows in chunks(len(path), b):
            layers[:cut - 1](path[rows])
        for rows in chunks(len(of_stage), b):
            layers[cut - 1](of_stage[rows].contiguous(memory_format=torch.channels_last))

    def features(model):
        return lambda: [model.features(path[rows], cut) for rows in chunks(len(path), b)]

    return {"plain": plain, "needed of iia-triple": of_triple,
            **{f"features {p}": features(model) for p, model in models.items()}}


def release_passes(stages: nn.Sequential, head: nn.Sequential, x: Tensor, y: Tensor, operation: str,
                   n: int) -> None:
    """The release's passes and no more: picture by picture, the n + 1 pictures of its path in one batch.

    IIA2: a forward pass of the batch; then n + 1 times the tail, forward and backward. IIA3: the same behind
    each of n + 1 passes of the last stage. The network as torchvision has it, with gradients of the weights.
    """
    def tails(u: Tensor, wanted: Tensor) -> None:
        for _ in range(n + 1):
            v = u.detach().requires_grad_()
            head(v)[:, wanted].sum().backward()

    for picture, wanted in zip(x, y):
        path = torch.stack([picture * (i / n) for i in range(n + 1)])
        if operation == "iia":
            tails(stages(path), wanted)
        else:
            before = stages[:-1](path)
            for _ in range(n + 1):
                tails(stages[-1](before), wanted)
        head.zero_grad()


def loop(stages: nn.Sequential, head: nn.Sequential, x: Tensor, y: Tensor, operation: str, n: int) -> None:
    """Picture by picture and step by step, with the weights' gradients in the graph: tests/oracles.py."""
    for picture, wanted in zip(x, y.tolist()):
        cnn_map(operation, "paper", list(stages), head, picture[None], wanted, len(stages), n)


if __name__ == "__main__":
    settings.run(main, globals())
