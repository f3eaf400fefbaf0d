"""How much faster is a segmentation table than the straightforward way? Both in one run, end to end.

Both explain the same pictures by IIA2 and IIA3 (n steps), as the scripts do, with the same random weights,
and score the maps. The straightforward way goes as published code does: it builds the network and loads its
weights for every picture, goes picture by picture and step by step, and asks scikit-learn for every metric.
Prints the ratio of the times (median of the rounds), the metrics of IIA2 both ways, and where this project's
time goes.
"""

import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import iia
from iia import segmentation_table, settings
from iia.datasets.coco import Coco
from iia.evaluation import runner, segmentation
from iia.models import IMAGENET
from tests import oracles_segmentation
from tests.oracles import cnn_map
from tests.segmentation_trees import coco_tree

# ------------------------------------------------------------------------------------- settings
network = "resnet101"           # a torchvision ResNet
pictures = 4                    # explained, of a data set that the benchmark makes
steps = 10                      # n
rounds = 1                      # measured rounds
threads = 2                     # of torch
# ----------------------------------------------------------------------------------------------

OPERATIONS = ("iia", "iia-triple")


def ours(network: str, weights: Path, root: Path, results: Path, steps: int) -> dict[str, float]:
    """The table as the script makes it; IIA2's metrics."""
    model = iia.wrap(build(network, weights), name=network)
    chosen = settings.Settings(operations=list(OPERATIONS), definition="paper", precision="fp32",
                               batch_size=32, dataset_root=str(root), results_dir=str(results),
                               save_overlays=0, num_workers=2, max_images=None, device="cpu",
                               FEATURE_LAYER_NUMBER="last", INTERPOLATION_STEPS=steps)
    segmentation_table.table(model, chosen, "coco")
    summary = next(results.glob("*/summary.json"))
    return json.loads(summary.read_text())["figures"]["iia"]


def straightforward(network: str, weights: Path, root: Path, steps: int) -> dict[str, float]:
    """The same metrics, picture by picture and step by step."""
    seen = {operation: ([], [], []) for operation in OPERATIONS}
    for x, mask, _ in Coco(root, **IMAGENET):
        net = build(network, weights)
        stages = [child for name, child in net.named_children() if name not in ("avgpool", "fc")]
        head = torch.nn.Sequential(net.avgpool, torch.nn.Flatten(), net.fc)
        with torch.no_grad():
            y = net(x[None]).argmax(1).item()
        for operation, (maps, masks, per_picture) in seen.items():
            m = cnn_map(operation, "paper", stages, head, x[None], y, len(stages), steps).detach()
            m = F.interpolate(m[None, None], size=x.shape[1:], mode="bicubic", align_corners=False)[0, 0]
            maps.append(((m - m.min()) / (m.max() - m.min())).numpy())
            masks.append(mask.numpy().astype(np.uint8))
            per_picture.append(oracles_segmentation.metrics(maps[-1][None], masks[-1][None]))
    maps, masks, per_picture = seen["iia"]
    called, masks = np.stack([m > m.mean(dtype=np.float64) for m in maps]), np.stack(masks)
    ratios = [((called == label) & (masks == label)).sum() / ((called == label) | (masks == label)).sum()
              for label in (0, 1)]
    return {"mIoU": np.mean(ratios)} | {name: np.mean([own[name] for own in per_picture])
                                        for name in ("pixAcc", "mAP", "mF1", "F1")}


def build(network: str, weights: Path) -> torch.nn.Module:
    net = getattr(torchvision.models, network)()
    net.load_state_dict(torch.load(weights, weights_only=True))
    return net.eval()


class Clock:
    """Seconds by part, summed over the calls of wrapped functions."""

    def __init__(self) -> None:
        self.seconds = Counter()

    def wrap(self, part: str, function: Callable) -> Callable:
        def timed(*arguments, **named):
            start = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds[part] += time.perf_counter() - start
        return timed

    def time(self, part: str, function: Callable, *arguments) -> object:
        return self.wrap(part, function)(*arguments)


def main(chosen: settings.Settings) -> None:
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    clock, ratios = Clock(), []
    segmentation.measure = clock.wrap("metrics", segmentation.measure)
    segmentation_table.explain_and_measure = clock.wrap("explaining",
                                                        segmentation_table.explain_and_measure)
    segmentation_table.predict = clock.wrap("predicting", segmentation_table.predict)
    runner.identity = clock.wrap("fingerprint of the weights", runner.identity)
    runner.write_json = clock.wrap("writing rows", runner.write_json)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        root, weights = coco_tree(folder / "coco", chosen.pictures), folder / "weights.pth"
        torch.save(getattr(torchvision.models, chosen.network)().state_dict(), weights)
        for number in range(chosen.rounds):
            before = dict(clock.seconds)
            fast = clock.time("all", ours, chosen.network, weights, root, folder / f"results{number}",
                              chosen.steps)
            slow = clock.time("straightforward", straightforward, chosen.network, weights, root, chosen.steps)
            ratios.append((clock.seconds["straightforward"] - before.get("straightforward", 0))
                          / (clock.seconds["all"] - before.get("all", 0)))
    report(chosen, clock.seconds, ratios, fast, slow)


def report(chosen: settings.Settings, seconds: Counter, ratios: list[float], fast: dict, slow: dict) -> None:
    print(f"\n{chosen.network}, IIA2 and IIA3, n = {chosen.steps}, {chosen.pictures} pictures, "
          f"{chosen.threads} threads, {chosen.rounds} rounds")
    print(f"straightforward / this project: {statistics.median(ratios):.2f}  (rounds: "
          + ", ".join(f"{ratio:.2f}" for ratio in ratios) + ")")
    for name in fast:
        print(f"  {name:7} {fast[name]:.6f}, straightforward {slow[name]:.6f}")
    parts = {part: value for part, value in seconds.items() if part not in ("all", "straightforward")}
    rest = seconds["all"] - sum(parts.values())
    parts["the rest: building the network, reading, starting processes"] = rest
    for part, value in sorted(parts.items(), key=lambda item: -item[1]):
        print(f"  {value / seconds['all']:6.1%}  {part}")


if __name__ == "__main__":
    settings.run(main, globals())
