"""How near IIA for ViTs comes to the passes it cannot do without, and how far it is from the plain loop.

Random weights serve: the time does not depend on them. Every ratio is of medians of one run. A backward
pass without weights' gradients costs about a forward one, hence the floors.
"""

import resource
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import iia
from benchmarks.timing import machine, medians
from iia import settings
from iia.models.names import build
from iia.runs import pick_device

# ------------------------------------------------------------------------------------- settings
model_name = "vit-base"         # the network
pictures = 1                    # explained at once, all of one class
steps = 5                       # n
batch_size = 10                 # rows through the network at once
rounds = 5                      # measured rounds
triple = True                   # False leaves iia-triple out
loop = True                     # False leaves the plain loop out
device = "auto"                 # "auto", "cuda", "cpu"
# ----------------------------------------------------------------------------------------------


def main(chosen):
    where = pick_device(chosen.device)
    torch.manual_seed(0)
    network = build(chosen.model_name)[0].eval().to(where)
    x = torch.randn(chosen.pictures, 3, 224, 224, device=where)
    y = torch.zeros(chosen.pictures, dtype=torch.long, device=where)
    n = chosen.steps
    models = {p: iia.wrap(network, name=chosen.model_name, precision=p) for p in ("fp32", "bf16")}
    path = torch.cat([x * (i / n) for i in range(n + 1)])

    def plain():                                   # one forward pass of the n + 1 pictures of each path
        with torch.no_grad():
            for rows in path.split(chosen.batch_size):
                models["fp32"](rows)

    def ours(operation, precision="fp32"):
        return lambda: iia.explain(models[precision], x, y, operation, steps=n, batch_size=chosen.batch_size)

    print(f"{chosen.model_name}, {chosen.pictures} pictures, n = {n}, on {machine(where)}")
    work = {"plain": plain, "iia": ours("iia"), "iia bf16": ours("iia", "bf16")}
    work |= {"iia-triple": ours("iia-triple")} if chosen.triple else {}
    work |= {"loop": lambda: released_loop(network, x[:1], 0, n)} if chosen.loop else {}
    t = medians(work, chosen.rounds)
    floors = {"iia": 1 + (n + 1), "iia-triple": 1 + (n + 1) ** 2}
    for operation in [op for op in floors if op in t]:
        floor = floors[operation] * t["plain"]
        row(f"{operation} / ({floors[operation]} plain passes of {len(path)})", t[operation] / floor,
            {"iia": "<= 1.15", "iia-triple": "<= 1.3"}[operation], t[operation], floor)
    row("iia: fp32 / bf16", t["iia"] / t["iia bf16"], "", t["iia"], t["iia bf16"])
    if chosen.loop:
        row("the loop / iia, a picture", t["loop"] * chosen.pictures / t["iia"], ">= 5", t["loop"],
            t["iia"] / chosen.pictures)
    for operation in ("iia", "iia bf16", "iia-triple"):
        if operation in t:
            print(f"{operation}: {t[operation] / chosen.pictures:.3f} s a picture")
    if where.type == "cuda":
        peak, whose = torch.cuda.max_memory_allocated() / 2**30, "the device"
    else:
        peak, whose = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "this process"
    print(f"peak memory of {whose}: {peak:.2f} GiB at batch_size {chosen.batch_size}")


def row(what, ratio, goal, *seconds):
    print(f"{what:42s} {ratio:6.2f}   {goal:8s}   {' / '.join(f'{s:.2f} s' for s in seconds)}")


def released_loop(network, x, target, n):
    """Section 6 as a loop, as the release runs it: (n + 1) + (n + 1)² full forward and backward passes of
    one picture each, with gradients of the weights."""
    last, attention = network.blocks[-1].attn, []
    fused = [block.attn.fused_attn for block in network.blocks]

    def keep(module, inputs, output):
        output.retain_grad()
        attention.append(output)

    hooks = [block.attn.attn_drop.register_forward_hook(keep) for block in network.blocks]
    for block in network.blocks:
        block.attn.fused_attn = False
    sums = 0
    for i in range(n + 1):
        for j in range(-1, n + 1):                 # j = -1 is the run that gives A_L(x_i)
            attention.clear()
            end = None if j < 0 else last.attn_drop.register_forward_hook(
                lambda m, inputs, output, a=j / n: (a * whole).requires_grad_(), prepend=True)
            network.zero_grad()
            network(i / n * x)[0, target].backward()
            if end:
                end.remove()
                sums = sums + torch.stack([(A * A.grad).clamp(min=0).mean(1)[0] for A in attention]).detach()
            else:
                whole = attention[-1].detach()
    for hook, block, was in zip(hooks, network.blocks, fused):
        hook.remove()
        block.attn.fused_attn = was
    return sums / (n + 1) ** 2


if __name__ == "__main__":
    settings.run(main, globals())
