"""How faithful are a vision transformer's saliency maps? The paper's explanation tests on a list of pictures.

Edit the settings below, or give any of them as a flag: --model_name=vit-small --operations=iia,gae,random
Restart it and it resumes; under torchrun --nproc-per-node=2 processes share the pictures.
"""

from iia.methods import VIT_OPERATIONS, listing
from iia.settings import run

# ------------------------------------------------------------------------------------- settings
model_name = "vit-base"                     # "vit-base", "vit-small", or any ViT by its name in torchvision
                                            # or timm
operations = ["random", "gae", "iia", "iia-triple",
              "ablation-image", "ablation-attention"]    # the rows: "random" (noise), those that
                                            # --help lists, <operation>@<definition>
protocol = "paper"                          # "paper", "bee", "rise", "road": docs/protocols.md
figures: list | None = None                 # the columns, such as POS,NEG,SRG; None = all of the protocol's.
                                            # AIC and SIC take most of the time
ITERATION_STEPS: int | None = None          # n, the steps of every path; None = 10, or 5 under "release"
explained_class = "target"                  # what maps explain: "target", "predicted"; whose answer is
                                            # tested, the protocol says
definition = "paper"                        # "paper", or "release" for what the published code computes
quadrature = "riemann"                      # the paper's sum; or "trapezoid", "gauss", "graded"
device = "auto"                             # "auto", "cuda", "cuda:1", "mps", "cpu"
batch_size = 32                             # rows (path points, masked pictures) through the network at
                                            # once; bounds the memory
precision = "fp32"                          # or "tf32", "bf16": docs/performance.md
weights_path: str | None = None             # None for the published weights, or a state dict (.pth,
                                            # .safetensors), of any number of classes
labels_file: str | None = None              # class names, one a line, or JSON; None = ImageNet's, or numbers
image_size: int | str | None = None         # a number, or "height,width"; None = the network's own size
in_chans: int | None = None                 # channels of a picture: 1, 3 or 4; None = those of the weights
allow_random_weights = False                # True goes on without weights; such figures mean nothing
images_dir = "data/ILSVRC2012_img_val"      # where the pictures are
pics_file: str | None = "data/pics.txt"     # lines of <file name> <class number, name or WordNet id>; None =
                                            # what images_dir holds of ImageNet (docs/datasets.md)
every_nth: int | None = None                # each n-th picture by file name: 50 leaves 1,000 of ImageNet's
per_class: int | None = None                # so many pictures of each class, the same ones everywhere
max_images: int | None = None               # None = all
heatmaps_dir: str | None = None             # maps to test instead: {picture}_{operation}_{model}.npy
num_workers = 2                             # processes that read pictures while the device computes
results_dir = "explanation_results"         # the tables: {pics_file}_{model}_{blocks}_
                                            # {definition}_{explained_class}_{protocol}/
# ----------------------------------------------------------------------------------------------


def main(settings):
    from iia.choosing import chosen_vit                 # imports torch, which --help need not wait for
    from iia.explanation_table import table
    return table(chosen_vit(settings, "explanation_tests_cnn.py"), settings)


if __name__ == "__main__":
    run(main, globals(), epilog=listing(VIT_OPERATIONS))
