"""Every table of the paper by one command, and one page of ours beside the paper's figures.

First see what is there and how long it takes (it times a few pictures): python reproduce.py --dry_run
Then start it; restarted it resumes. What is missing is listed, and the rest is made.
"""

from pathlib import Path

from iia.settings import run

# ------------------------------------------------------------------------------------- settings
tables = ["explanation-cnn", "explanation-vit", "segmentation",
          "ablations", "sanity", "pointing"]    # those to make: any of these
networks = ["resnet101", "densenet201", "convnext_base",
            "vit-base", "vit-small"]        # any names that the other scripts take as model_name
dry_run = False                             # True says what each table needs and costs, and makes none
timed_pictures = 2                          # of each table, by the dry run: at most 8; 0 = none
pictures = 50000                            # of each table, at most. Fewer than there are: as many of each
                                            # class, else every n-th by name; masks and boxes: the first
sanity_pictures = 500                       # the same of "sanity", where each is explained 25 times and more
figures: list | None = None                 # columns of the explanation tests, such as POS,NEG; None = all
INTERPOLATION_STEPS = 10                    # n, the steps of every path, of CNNs
ITERATION_STEPS: int | None = None          # the same of ViTs; None = 10
device = "auto"                             # "auto", "cuda", "cuda:1", "mps", "cpu"
batch_size: int | None = None               # rows through the network at once; None = each script's own
num_workers = 2                             # processes that read pictures while the device computes
images_dir = "data/ILSVRC2012_img_val"      # where ImageNet's validation pictures are
pics_file: str | None = None                # None = as images_dir has them (docs/datasets.md), or a list
imagenet_root = "data"                      # the folder with gtsegs_ijcv.mat
coco_root = "data/COCO"                     # the folder with annotations/ and val2017/
voc_root = "data/VOC"                       # the folder with VOCdevkit/VOC2012/
results_dir = "reproduction"                # the page reproduction.md, and a folder for each table
# ----------------------------------------------------------------------------------------------


def main(settings):
    from iia.reproduction import reproduce              # imports torch, which --help need not wait for
    return reproduce(settings, scripts=Path(__file__).parent)


if __name__ == "__main__":
    run(main, globals())
