"""The settings, maps and results of a small table of explanation tests."""

import csv

import numpy as np

from iia import settings
from iia.evaluation.protocols import PAPER

SIX = list(PAPER[:6])
FOLDER = "list_toy_1_paper_target_paper"


def results(place, name=FOLDER, under="results"):
    """The folder of results whose name begins so, the latest where settings have changed."""
    return max((place / under).glob(f"{name}_????????"), key=lambda path: path.stat().st_mtime_ns)


def chosen(place, **more):
    values = dict(operations=["random", "mine"], figures=SIX, explained_class="target", protocol="paper",
                  definition="paper", device="cpu", batch_size=8, precision="fp32", images_dir=str(place),
                  pics_file=str(place / "list.txt"), max_images=None, heatmaps_dir=str(place / "maps"),
                  num_workers=0, results_dir=str(place / "results"),
                  FEATURE_LAYER_NUMBER="last", INTERPOLATION_STEPS=1, every_nth=None, per_class=None)
    return settings.Settings(**values | more)


def write_maps(place, names=("p0", "p1", "p2", "p3", "p4")):
    """Maps of the operation "mine"; the lower left pixel is the most relevant."""
    for i, name in enumerate(names):
        saliency = np.random.default_rng(i).random((16, 16), dtype=np.float32)
        saliency[15, 0] = 2 + i
        np.save(place / "maps" / f"{name}_mine_toy.npy", saliency)


def rows_of(folder):
    with open(folder / "per_image.csv", newline="") as file:
        return list(csv.DictReader(file))
