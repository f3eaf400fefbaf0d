"""Which networks are explained, refused or wrong: torchvision's classification models and timm's variants.

    python benchmarks/networks.py

Random weights and shaken batch norms serve. Each network runs in a process of its own, so that a crash
is one row. A row is a line of `results_file`; a run goes on where the last one stopped.
"""

import json
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import timm
import torch
from torchvision import models
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import iia
from iia import settings
from iia.errors import check_choice
from iia.runs import whole_file

# ------------------------------------------------------------------------------------- settings
library = ["torchvision", "timm"]        # whose networks; timm's are those of benchmarks/timm_names.txt
results_file = "networks.jsonl"          # a line for each network; delete it to begin anew
max_seconds = 600                        # for one network; a longer one counts as refused
limit: int | None = None                 # only so many networks of each library
oracle = False                           # compare the iia map with the loops of tests/oracle_hooks.py too
table = "docs/networks_explained.md"             # the Markdown table
threads = 2                              # of one network's process
one: str | None = None                   # "timm/resnet18": only this network, its row printed as JSON
# ----------------------------------------------------------------------------------------------
NAMES = Path(__file__).with_name("timm_names.txt")
NEAR = 1e-4                              # how far logits and the oracle's map may be off


def main(chosen):
    if chosen.one:
        torch.set_num_threads(chosen.threads)
        return print(json.dumps(row(chosen.one, chosen.oracle)))
    file = Path(chosen.results_file)
    lines = file.read_text().splitlines() if file.exists() else []
    rows = {found["network"]: found for found in map(json.loads, lines)}
    wanted = [f"{kind}/{name}" for kind in chosen.library for name in names(kind)[:chosen.limit]]
    for network in tqdm([n for n in wanted if n not in rows], unit="network"):
        rows[network] = in_a_process(network, chosen)
        with file.open("a") as out:
            out.write(json.dumps(rows[network]) + "\n")
    with whole_file(chosen.table) as temporary:
        temporary.write_text(markdown([rows[network] for network in wanted]))
    print(Path(chosen.table).read_text())


def names(kind: str) -> list[str]:
    check_choice("library", kind, ("torchvision", "timm"))
    return NAMES.read_text().split() if kind == "timm" else models.list_models(module=models)


def in_a_process(network: str, chosen) -> dict:
    """The row of a network, made by this script in another process."""
    flags = {"one": network, "oracle": chosen.oracle, "threads": chosen.threads}
    command = [sys.executable, __file__, *(f"--{name}={value}" for name, value in flags.items())]
    start = time.perf_counter()
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=chosen.max_seconds)
        found = json.loads(run.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        found = {"outcome": "refused", "reason": f"longer than {chosen.max_seconds} s"}
    except (IndexError, json.JSONDecodeError):
        said = (run.stderr.strip().splitlines() or ["no word"])[-1]
        found = {"outcome": "wrong", "reason": f"crashed ({run.returncode}): {said[:300]}"}
    return {"network": network, **found, "seconds": round(time.perf_counter() - start, 1)}


def row(network: str, with_oracle: bool) -> dict:
    """What became of one network: explained, refused or wrong, and why."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    net = shaken(built(*network.split("/")))
    with torch.no_grad():
        x = torch.randn(1, *picture(net))
        logits = net(x)
    try:
        model = iia.wrap(net, image_size=tuple(x.shape[-2:]))
        with torch.no_grad():
            off = float((model(x) - logits).abs().max() / logits.abs().max())
        what = {"target": lambda outputs: outputs[:, 0]} if model.headless else {"classes": 0}
        maps = {name: iia.explain(model, x, operation=name, steps=1, **what)
                for name in ("iia", "iia-triple")}
    except iia.UserError as why:
        return {"outcome": "refused", "reason": str(why)}
    found = {"way": model.way, "logits off": off}
    wrong = [] if off <= NEAR else [f"logits off by {off:.1e}"]
    wrong += [f"{name}: an empty map" for name, m in maps.items() if m.max() != 1]     # not finite: zeros
    if with_oracle and not model.headless:
        net, x = net.double(), x.double()           # float32's errors may be larger than a map's differences
        model = iia.wrap(net, image_size=tuple(x.shape[-2:]))
        map_off = float((iia.explain(model, x, 0, steps=1)[0] - by_loops(net, model, x)).abs().max())
        found |= {"map off": map_off}
        wrong += [f"map off by {map_off:.1e}"] if map_off > 10 * NEAR else []
    return found | {"outcome": "wrong" if wrong else "explained", "reason": ", ".join(wrong)}


def by_loops(net: torch.nn.Module, model, x: torch.Tensor) -> torch.Tensor:
    """The IIA map of class 0 with one step, [H, W], by loops that run the network itself."""
    from tests.oracle_hooks import grid_map, vit_map
    if isinstance(model, iia.models.ViT):
        prefix = model.passes.tokens - model.grid[0] * model.grid[1]
        return vit_map("iia", net, x, 0, 1, model.grid, prefix, pooled=model.first is None)
    layer = model.layer(model.cut("last"))
    last = {"nchw": None, "nhwc": lambda u: u.permute(0, 3, 1, 2),           # where channels come last
            "tokens": lambda u: u.mT.unflatten(2, layer.grid)}
    return grid_map("iia", net, x, 0, 1, layer.name, to_grid=last[layer.layout])


def built(kind: str, name: str) -> torch.nn.Module:
    if kind == "timm":
        return timm.create_model(name).eval()
    return models.get_model(name, weights=None).eval()


def picture(net: torch.nn.Module) -> tuple[int, int, int]:
    """[C, H, W] of the network's pictures."""
    says = (getattr(net, "pretrained_cfg", None) or {}).get("input_size")
    return tuple(says) if says else (3, *[getattr(net, "image_size", None) or 224] * 2)


def shaken(net: torch.nn.Module) -> torch.nn.Module:
    """Batch norms, and what starts at 0 or next to it (gains, some heads), made to matter."""
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith("running_mean"):
                value.normal_(std=0.1)
            elif name.endswith("running_var"):
                value.uniform_(0.7, 1.4)
            elif value.is_floating_point() and value.ndim > 1 and not value.any():
                value.normal_(std=0.05)
            elif value.is_floating_point() and value.ndim == 1 and not name.endswith("bias"):
                value.uniform_(0.3, 0.7)
    return net


def markdown(rows: list[dict]) -> str:
    """The counts of each library, the ways that were taken, and what was refused or wrong."""
    kinds = ("explained", "refused", "wrong")
    lines = ["# Which networks are explained", "",
             f"`benchmarks/networks.py`: random weights, logits to {NEAR:g}, "
             "`iia` and `iia-triple` not empty.",
             "",
             f"| library | networks | {' | '.join(kinds)} | ways |", "| --- " * 6 + "|"]
    for kind in dict.fromkeys(r["network"].split("/")[0] for r in rows):
        mine = [r for r in rows if r["network"].startswith(f"{kind}/")]
        counts = Counter(r["outcome"] for r in mine)
        ways = Counter(r["way"] for r in mine if r["outcome"] == "explained")
        lines.append(f"| {kind} | {len(mine)} | {' | '.join(str(counts[k]) for k in kinds)} | "
                     f"{', '.join(f'{way} {n}' for way, n in ways.most_common())} |")
    offs = [r["map off"] for r in rows if "map off" in r]
    lines += ["", f"Maps of `iia` with one step against loops that run the network itself (`--oracle`): "
              f"{len(offs)} networks, off by {max(offs):.0e} at most."] if offs else []
    rest = [r for r in rows if r["outcome"] != "explained"]
    lines += ["", "| network | | reason |", "| --- | --- | --- |"] if rest else []
    for r in rest:
        reason = " ".join(r["reason"].replace("|", "/").split())
        lines.append(f"| {r['network']} | {r['outcome']} | {reason} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    settings.run(main, globals())
