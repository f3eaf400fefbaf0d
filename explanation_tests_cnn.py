"""How faithful are the saliency maps of a CNN? The paper's explanation tests on a list of pictures.

Edit the settings below, or give any of them as a flag: --model_name=densenet201 --operations=iia,iia@release
Restart it and it resumes; under torchrun --nproc-per-node=2 processes share the pictures.
"""

from iia.methods import CNN_OPERATIONS, listing
from iia.settings import run

# ------------------------------------------------------------------------------------- settings
model_name = "resnet101"                    # any name of torchvision or timm: resnet50, efficientnet_b4,
                                            # resnet50.a1_in1k, timm/resnet50; and efficientnet_lite0
fallback_model_name: str | None = "efficientnet_lite0"    # where those weights cannot be had; None = stop
FEATURE_LAYER_NUMBER: int | str = "last"    # the layer that is explained: a stage's number (resnet101: 1..8),
                                            # "last", or a name (layer3.22)
operations = ["random", "gradcam", "iia", "iia-triple",
              "iia-ablation-im", "iia-ablation-ac"]    # the rows: "random" (noise), those that
                                            # --help lists, <operation>@<definition>
protocol = "paper"                          # "paper", "bee", "rise", "road": docs/protocols.md
figures: list | None = None                 # the columns, such as POS,NEG,SRG; None = all of the protocol's.
                                            # AIC and SIC take most of the time
INTERPOLATION_STEPS = 10                    # n, the steps of every path
explained_class = "target"                  # what maps explain: "target", "predicted"; whose answer is
                                            # tested, the protocol says
definition = "paper"                        # "paper", or "release" for what the published code computes
quadrature = "riemann"                      # the paper's sum; or "trapezoid", "gauss", "graded"
baseline = "spatial-minimum"                # a path's start; or "channel-minimum", "zero", "mean"
device = "auto"                             # "auto", "cuda", "cuda:1", "mps", "cpu"
batch_size = 32                             # rows (path points, masked pictures) through the network at
                                            # once; bounds the memory
precision = "fp32"                          # or "tf32", "bf16", "fp16": docs/performance.md
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
results_dir = "explanation_results"         # the tables: {pics_file}_{model}_{layer}_
                                            # {definition}_{explained_class}_{protocol}/
# ----------------------------------------------------------------------------------------------


def main(settings):
    from iia.choosing import chosen_cnn                 # imports torch, which --help need not wait for
    from iia.explanation_table import table
    return table(chosen_cnn(settings, "explanation_tests_vit.py"), settings)


if __name__ == "__main__":
    run(main, globals(), epilog=listing(CNN_OPERATIONS))
