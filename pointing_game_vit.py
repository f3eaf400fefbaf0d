"""Do a ViT's saliency maps point into the boxes of VOC's or COCO's objects? Pointing game and energy inside.

Edit the settings below, or give any of them as a flag: --chosen_dataset=coco --model_name=vit-small
Restarted it resumes; torchrun --nproc-per-node=2 pointing_game_vit.py shares it.
"""

from iia.methods import VIT_OPERATIONS, listing
from iia.settings import run

# ------------------------------------------------------------------------------------- settings
model_name = "vit-base"                     # "vit-base", "vit-small", or any ViT by its name in torchvision
                                            # or timm
chosen_dataset = "voc"                      # "voc", "coco"
operations = ["iia", "iia-triple"]          # the rows of the table: any of those that --help lists
ITERATION_STEPS: int | None = None          # n, the steps of every path; None = 10, or 5 under "release"
quadrature = "riemann"                      # the paper's sum; or "trapezoid", "gauss", "graded"
definition = "paper"                        # "paper", or "release" for what the published code computes
device = "auto"                             # "auto", "cuda", "cuda:1", "mps", "cpu"
batch_size = 10                             # rows (pictures x path points) at once; bounds the memory
precision = "fp32"                          # or "tf32", "bf16": docs/performance.md
weights_path: str | None = None             # None for the published weights, or a state dict (.pth,
                                            # .safetensors), of any number of classes
labels_file: str | None = None              # class names, one a line, or JSON; None = ImageNet's, or numbers
image_size: int | str | None = None         # a number, or "height,width"; None = the network's own size
in_chans: int | None = None                 # channels of a picture: 1, 3 or 4; None = those of the weights
allow_random_weights = False                # True goes on without weights; such figures mean nothing
dataset_root: str | None = None             # None = data/VOC (voc), data/COCO (coco)
max_images: int | None = None               # the first so many pictures; None = all
results_dir = "pointing_results"            # the tables: {dataset}_{model}_{cut}_{definition}_{hash}/
num_workers = 2                             # processes that read pictures while the device computes
# ----------------------------------------------------------------------------------------------


def main(settings):
    from iia.choosing import chosen_vit                 # imports torch, which --help need not wait for
    from iia.pointing_table import table
    return table(chosen_vit(settings, "pointing_game_cnn.py"), settings)


if __name__ == "__main__":
    run(main, globals(), epilog=listing(VIT_OPERATIONS))
