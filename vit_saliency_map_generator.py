"""Saliency maps of a vision transformer: a panel in qualitive_results/ for each picture of data/pics.txt.

Edit the settings below, or give any of them as a flag: --model_name=vit-small --operations=iia,gae,rollout
"""

from iia.methods import VIT_OPERATIONS, listing
from iia.settings import run

# ------------------------------------------------------------------------------------- settings
model_name = "vit-base"                     # "vit-base", "vit-small", or any ViT by its name in torchvision
                                            # or timm
operations = ["iia", "iia-triple"]          # any of those that --help lists
ITERATION_STEPS: int | None = None          # n, the steps of every path; None = 10, or 5 under "release"
BY_MAX_CLASS = False                        # True explains the predicted class, False that of pics_file
definition = "paper"                        # "paper", or "release" for what the published code computes
quadrature = "riemann"                      # the paper's sum; or "trapezoid", "gauss", "graded"
device = "auto"                             # "auto", "cuda", "cuda:1", "mps", "cpu"
batch_size = 10                             # rows (pictures x path points) at once; bounds the memory
precision = "fp32"                          # or "tf32", "bf16": docs/performance.md
weights_path: str | None = None             # None for the published weights, or a state dict (.pth,
                                            # .safetensors), of any number of classes
labels_file: str | None = None              # class names, one a line, or JSON; None = ImageNet's, or numbers
image_size: int | str | None = None         # a number, or "height,width"; None = the network's own size
in_chans: int | None = None                 # channels of a picture: 1, 3 or 4; None = those of the weights
allow_random_weights = False                # True goes on without weights; such maps mean nothing
images_dir = "data/ILSVRC2012_img_val"      # where the pictures are
pics_file: str | None = "data/pics.txt"     # lines of <file name> <class number, name or WordNet id>; None =
                                            # what images_dir holds of ImageNet (docs/datasets.md)
every_nth: int | None = None                # each n-th picture by file name: 50 leaves 1,000 of ImageNet's
per_class: int | None = None                # so many pictures of each class, the same ones everywhere
max_images: int | None = None               # None = all
results_dir = "qualitive_results"           # index.html, and the panels: {model}_{class name}_{picture}.png
tables_dir = "explanation_results"          # tables of the explanation tests: index.html is sorted by them
save_heatmaps_masks = False                 # True also writes each map (.npy) and picture x map (.png)
heatmaps_dir = "heatmaps"                   # {picture}_{operation}_{model}.npy, float32 [H, W] in [0, 1]
# ----------------------------------------------------------------------------------------------


def main(settings):
    from iia.choosing import chosen_vit               # imports torch, which --help need not wait for
    from iia.generator import explain_pics
    return explain_pics(chosen_vit(settings, "cnn_saliency_map_generator.py"), settings)


if __name__ == "__main__":
    run(main, globals(), epilog=listing(VIT_OPERATIONS))
