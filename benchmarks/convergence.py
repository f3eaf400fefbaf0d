"""How far the maps of each quadrature are from their limit, what they cost, and whether the estimate says so.

The distance is the largest difference, in [0, 1], of a finished map from that of the graded rule with many
points. Prints Markdown, and writes a plot where `plot` names a file.
"""

import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import iia
from iia import settings
from iia.datasets.pics import read_pics
from iia.quadrature import QUADRATURES

# ------------------------------------------------------------------------------------- settings
model_name = "efficientnet_lite0"       # any network whose weights are at hand; "small-cnn" and "small-vit"
                                        # are those that tests/test_pointing.py trains, on its pictures
layer: int | str = "last"               # where a CNN is cut
operation = "iia"                       # an operation of IIA
steps = "3,5,10,20,50"                  # n
limit = 100                             # n of the graded points that stand for the limit
images_dir = "data/ILSVRC2012_img_val"
pics_file = "data/pics.txt"
max_images: int | None = None           # None = all
batch_size = 32
weights_path: str | None = None
allow_random_weights = False
plot: str | None = None                 # a file for the curves
# ----------------------------------------------------------------------------------------------


def main(chosen):
    model, pictures = small(chosen) if chosen.model_name.startswith("small") else real(chosen)
    distance, estimate, seconds = defaultdict(list), defaultdict(list), defaultdict(list)
    for x, y in tqdm(pictures, unit="picture"):
        how = dict(classes=[y], operation=chosen.operation, layer=chosen.layer,
                   batch_size=chosen.batch_size)
        goal = iia.explain(model, x, **how, steps=chosen.limit, quadrature="graded")
        for quadrature in QUADRATURES:
            for n in map(int, chosen.steps.split(",")):
                start = time.perf_counter()
                maps, error = iia.explain(model, x, **how, steps=n, quadrature=quadrature, return_error=True)
                seconds[quadrature, n].append(time.perf_counter() - start)
                distance[quadrature, n].append((maps - goal).abs().max().item())
                estimate[quadrature, n].append(error.item())
    report(chosen, distance, estimate, seconds)


def real(chosen):
    """A network by name, and its pictures: (model, [(picture [1, 3, H, W], class)])."""
    model = iia.load_model(chosen.model_name, weights_path=chosen.weights_path,
                           allow_random_weights=chosen.allow_random_weights)
    pics, _ = read_pics(chosen.pics_file, chosen.images_dir, model.classes, model.labels)
    return model, [(iia.load_pictures([pic.path], model), pic.target) for pic in pics[:chosen.max_images]]


def small(chosen):
    """A network that is trained here, and pictures of its task, as `real`."""
    from tests import test_pointing as task
    network = task.small_vit() if chosen.model_name == "small-vit" else task.small_cnn()
    x, y, _ = task.make(chosen.max_images or 60, seed=3)
    return iia.wrap(network), [(x[i:i + 1], int(y[i])) for i in range(len(x))]


def report(chosen, distance, estimate, seconds):
    count = len(next(iter(distance.values())))
    print(f"{chosen.model_name}, layer {chosen.layer}, {chosen.operation}, {count} pictures; "
          f"limit: graded, n = {chosen.limit}")
    print("| quadrature | n | distance: mean | 90 % are below | estimate: mean | within a factor of 2 "
          "| bounds it | seconds |\n| --- | --- | --- | --- | --- | --- | --- | --- |")
    for key, values in distance.items():
        true, said = np.array(values), np.array(estimate[key])
        ratio = said / np.maximum(true, 1e-12)
        print(f"| {key[0]} | {key[1]} | {true.mean():.4f} | {np.quantile(true, 0.9):.4f} | "
              f"{said.mean():.4f} | {100 * ((ratio >= 0.5) & (ratio <= 2)).mean():.0f} % | "
              f"{100 * (ratio >= 1).mean():.0f} % | "
              f"{np.median(seconds[key]):.3f} |")
    if chosen.plot:
        draw(chosen, distance)


def draw(chosen, distance):
    from matplotlib.figure import Figure
    figure = Figure(figsize=(5, 3.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    for quadrature in dict.fromkeys(name for name, _ in distance):
        own = {n: np.mean(values) for (name, n), values in distance.items() if name == quadrature}
        axes.loglog(list(own), list(own.values()), "o-", label=quadrature)
    axes.set(xlabel="n", ylabel="distance to the limit",
             title=f"{chosen.operation}, {chosen.model_name}, {chosen.layer}")
    axes.legend()
    figure.savefig(chosen.plot)


if __name__ == "__main__":
    settings.run(main, globals())
