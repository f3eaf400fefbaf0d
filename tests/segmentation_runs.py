"""The segmentation scripts run in this process, and what they leave in the working directory."""

import json
from pathlib import Path

from tests.scripts import run

SIZE = 96
QUICK = ["--INTERPOLATION_STEPS=1", "--operations=iia,iia-ablation-ac", "--model_name=efficientnet_lite0",
         f"--image_size={SIZE}", "--batch_size=2", "--num_workers=0", "--device=cpu"]


def run_coco(*flags):
    return run("segmentation_cnn_coco.py", *QUICK, *flags)


def results(name="coco_efficientnet_lite0_9_*", under="segmentation_results"):
    """The latest folder of results of that name."""
    return max(Path(under).glob(f"{name}_????????"), key=lambda path: path.stat().st_mtime_ns)


def summary_of(folder=None):
    return json.loads(((folder or results()) / "summary.json").read_text())


def read(folder=None):
    """A run's metrics and rows."""
    folder = folder or results()
    return summary_of(folder)["figures"], (folder / "per_image.csv").read_text()
