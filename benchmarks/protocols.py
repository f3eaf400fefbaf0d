"""Does the order of the methods hold under other protocols? All four on the same pictures.

    python benchmarks/protocols.py --pics_file=mine.txt --images_dir=mine --pictures=200

Prints each protocol's table, the Markdown tables of ranks, and the seconds of one core that a picture took.
Restarted it resumes; under torchrun --nproc-per-node=2 processes share the pictures.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import iia
from iia import explanation_table, settings
from iia.evaluation.protocols import PROTOCOLS
from iia.evaluation.ranks import markdown

# ------------------------------------------------------------------------------------- settings
operations = ["random", "gradcam", "gradcampp", "layercam", "ablation-cam", "fullgrad", "ig",
              "iia", "iia-triple", "iia@release"]          # the methods that are ranked
protocols = ["paper", "bee", "rise", "road"]
pictures: int | None = 8                    # the first so many of the list; None = all
pics_file = "data/pics.txt"                 # lines of <file name> <class number>, or <file name> <class name>
images_dir = "data/ILSVRC2012_img_val"      # where the pictures are
batch_size = 8                              # rows through the network at once
steps = 10                                  # n
results_dir = "explanation_results/protocols"
# ----------------------------------------------------------------------------------------------

MODEL = "efficientnet_lite0"


def main(chosen: settings.Settings) -> None:
    model, tables, seconds = iia.load_model(MODEL), {}, {}
    for protocol in chosen.protocols:
        of_protocol = settings.Settings(
            operations=chosen.operations, protocol=protocol, figures=None,
            explained_class=PROTOCOLS[protocol].asked,      # maps of the class that is asked for
            definition="paper", precision="fp32", device="auto", batch_size=chosen.batch_size,
            FEATURE_LAYER_NUMBER="last", INTERPOLATION_STEPS=chosen.steps, images_dir=chosen.images_dir,
            pics_file=chosen.pics_file, every_nth=None, per_class=None, max_images=chosen.pictures,
            heatmaps_dir=None, num_workers=0, results_dir=chosen.results_dir)
        start = time.process_time()
        tables[protocol] = explanation_table.tested(model, of_protocol)
        seconds[protocol] = time.process_time() - start
    if None in tables.values():             # another process makes the tables
        return
    print(f"\n{markdown(tables)}\n")
    for protocol, spent in seconds.items():
        print(f"{protocol}: {spent / tables[protocol]['pictures']:.1f} s of a core a picture, in this "
              "process")


if __name__ == "__main__":
    settings.run(main, globals())
