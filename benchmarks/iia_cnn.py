"""How near IIA for CNNs comes to the forward passes it cannot do without, and how far from the plain loop.

Random weights serve: the time does not depend on them. Every ratio is of medians of one run.
"""

import copy
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import iia
from benchmarks.timing import machine, medians
from iia import settings
from iia.integration import chunks
from iia.models.names import build
from iia.runs import pick_device
from tests.oracles import cnn_map

# ------------------------------------------------------------------------------------- settings
model_name = "resnet101"        # a torchvision ResNet
pictures = 4                    # explained at once
steps = 10                      # n
batch_size = 22                 # rows through the network at once
rounds = 5                      # measured rounds; the loop is measured in `loop_rounds`
loop_rounds = 1                 # it is slow; 0 leaves it out
device = "auto"                 # "auto", "cuda", "cpu"
# ----------------------------------------------------------------------------------------------


def main(chosen):
    where = pick_device(chosen.device)
    torch.manual_seed(0)
    network = build(chosen.model_name)[0].eval().to(where)
    x = torch.randn(chosen.pictures, 3, 224, 224, device=where)
    y = torch.arange(chosen.pictures, device=where)
    n, b = chosen.steps, chosen.batch_size
    models = {p: iia.wrap(network, name=chosen.model_name, precision=p) for p in ("fp32", "bf16")}
    model, cut = models["fp32"], models["fp32"].cut("last")
    path = torch.cat([x * (i / n) for i in range(1, n + 1)]).contiguous(memory_format=torch.channels_last)
    parts, head = taken_apart(network, model.stage_names)
    stages = copy.deepcopy(torch.nn.Sequential(*parts, *head)).to(      # as it is
        memory_format=torch.channels_last)
    stage_path = model.features(x[:1], cut - 1).expand(n + 1 + chosen.pictures * n * (n + 1), -1, -1, -1)

    @torch.no_grad()
    def plain():                                # of the n pictures of each path
        for rows in chunks(len(path), b):
            stages(path[rows])

    @torch.no_grad()
    def floor3():                   # to the stage before, then the stage for every point of its path
        for rows in chunks(len(path), b):
            stages[:cut - 1](path[rows])
        for rows in chunks(len(stage_path), b):
            stages[cut - 1](stage_path[rows].contiguous(memory_format=torch.channels_last))

    def features(precision):
        return lambda: [models[precision].features(path[rows], cut) for rows in chunks(len(path), b)]

    def ours(operation, precision="fp32"):
        return lambda: iia.explain(models[precision], x, y, operation, steps=n, batch_size=b)

    print(f"{chosen.model_name}, {chosen.pictures} pictures, n = {n}, on {machine(where)}")
    t = medians({"plain": plain, "iia": ours("iia"), "floor3": floor3, "iia-triple": ours("iia-triple"),
                 "iia bf16": ours("iia", "bf16"), "iia-triple bf16": ours("iia-triple", "bf16"),
                 "features": features("fp32"), "features bf16": features("bf16")}, chosen.rounds)
    row("(a) IIA2 / plain forwards of n pictures", t["iia"] / t["plain"], "<= 1.10", t["iia"], t["plain"])
    row("(b) IIA3 / the forwards it needs", t["iia-triple"] / t["floor3"], "<= 1.25", t["iia-triple"],
        t["floor3"])
    row("    features alone: fp32 / bf16", t["features"] / t["features bf16"], "", t["features"],
        t["features bf16"])
    for operation in ("iia", "iia-triple"):
        maps = torch.stack([ours(operation, p)().flatten() for p in models]).float()
        half = t[f"{operation} bf16"]
        row(f"    {operation}: fp32 / bf16", t[operation] / half, ">= 2.5", t[operation], half)
        alike = torch.corrcoef(maps)[0, 1]
        print(f"    {operation}: correlation of bf16's maps with fp32's {alike:.4f} (> 0.99)")
    if chosen.loop_rounds:
        loops = medians({op: loop(parts, head, x, y, op, n) for op in ("iia", "iia-triple")},
                        chosen.loop_rounds)
        row("(c) the loop / IIA2", loops["iia"] / t["iia"], ">= 1.7", loops["iia"], t["iia"])
        row("(c) the loop / IIA3", loops["iia-triple"] / t["iia-triple"], ">= 2.5", loops["iia-triple"],
            t["iia-triple"])


def row(what, ratio, goal, *seconds):
    print(f"{what:42s} {ratio:6.2f}   {goal:8s}   {' / '.join(f'{s:.2f} s' for s in seconds)}")


def taken_apart(network, stage_names):
    """A ResNet's stages, and what follows the last of them."""
    return [getattr(network, name) for name in stage_names], torch.nn.Sequential(
        network.avgpool, torch.nn.Flatten(), network.fc)


def loop(stages, head, x, y, operation, n):
    """Picture by picture and step by step, with the weights' gradients in the graph: tests/oracles.py."""
    return lambda: [cnn_map(operation, "paper", stages, head, x[b:b + 1], int(y[b]), len(stages), n)
                    for b in range(len(x))]


if __name__ == "__main__":
    settings.run(main, globals())
