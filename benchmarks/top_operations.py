"""Where the time goes: the operations of torch that take most of IIA3 and of a ViT's IIA2, as Markdown.

By the time of a CPU in each operation itself, without what it calls. Random weights serve: the time does not
depend on them.
"""

import sys
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import iia
from benchmarks.timing import machine
from iia import settings
from iia.models.names import build

# ------------------------------------------------------------------------------------- settings
cnn = "resnet101"               # whose IIA3 is measured: a name of torchvision or timm
vit = "vit-base"                # whose IIA2 is measured
steps = 10                      # n
batch_size = 22                 # rows through the network at once
top = 12                        # operations that are shown
# ----------------------------------------------------------------------------------------------


def main(chosen):
    iia.keep_freed_memory()
    print(f"One picture, n = {chosen.steps}, on {machine(torch.device('cpu'))}.")
    for name, operation in ((chosen.cnn, "iia-triple"), (chosen.vit, "iia")):
        print(f"\n`{operation}` of {name}:\n")
        print(table(operations(name, operation, chosen.steps, chosen.batch_size), chosen.top))


def operations(name: str, operation: str, n: int, batch_size: int) -> list:
    """The operations of one map, after another that warms up: `FunctionEventAvg` of torch.profiler."""
    torch.manual_seed(0)
    model = iia.wrap(build(name)[0].eval(), name=name)
    x = torch.randn(1, model.channels, *model.size)
    iia.explain(model, x, 0, operation, steps=1, batch_size=batch_size)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        iia.explain(model, x, 0, operation, steps=n, batch_size=batch_size)
    return list(seen.key_averages())


def table(events: list, top: int) -> str:
    """The first `top` of the events by their own seconds, and what all others take together."""
    events = sorted(events, key=lambda event: event.self_cpu_time_total, reverse=True)
    total = sum(event.self_cpu_time_total for event in events)                          # microseconds
    rows = [(f"`{event.key}`", event.count, event.self_cpu_time_total) for event in events[:top]]
    rest = events[top:]
    rows.append(("all others", sum(event.count for event in rest), total - sum(row[2] for row in rows)))
    lines = [f"| {what} | {calls} | {own / 1e6:.2f} | {100 * own / total:.1f} % |"
             for what, calls, own in rows]
    return "\n".join(["| operation | calls | seconds | share |", "| --- | --- | --- | --- |", *lines])


if __name__ == "__main__":
    settings.run(main, globals())
