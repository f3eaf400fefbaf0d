"""How well a CNN's saliency maps segment COCO val2017: pixAcc, mIoU, mAP, mF1 and F1.

Edit the settings below, or give any of them as a flag: --model_name=densenet201 --operations=iia,iia-triple
Restarted it resumes; torchrun --nproc-per-node=2 segmentation_cnn_coco.py shares it.
"""

from iia.methods import CNN_OPERATIONS, listing
from iia.settings import run

# ------------------------------------------------------------------------------------- settings
model_name = "resnet101"                    # any name of torchvision or timm: resnet50, efficientnet_b4,
                                            # resnet50.a1_in1k, timm/resnet50; and efficientnet_lite0
fallback_model_name: str | None = "efficientnet_lite0"    # where those weights cannot be had; None = stop
FEATURE_LAYER_NUMBER: int | str = "last"    # the layer that is explained: a stage's number (resnet101: 1..8),
                                            # "last", or a name (layer3.22)
operations = ["iia", "iia-triple"]          # the rows of the table: any of those that --help lists
INTERPOLATION_STEPS = 10                    # n, the steps of every path
definition = "paper"                        # "paper", or "release" for what the published code computes
quadrature = "riemann"                      # the paper's sum; or "trapezoid", "gauss", "graded"
baseline = "spatial-minimum"                # a path's start; or "channel-minimum", "zero", "mean"
device = "auto"                             # "auto", "cuda", "cuda:1", "mps", "cpu"
batch_size = 32                             # rows (pictures x path points) at once; bounds the memory
precision = "fp32"                          # or "tf32", "bf16", "fp16": docs/performance.md
weights_path: str | None = None             # None for the published weights, or a state dict (.pth,
                                            # .safetensors), of any number of classes
labels_file: str | None = None              # class names, one a line, or JSON; None = ImageNet's, or numbers
image_size: int | str | None = None         # a number, or "height,width"; None = the network's own size
in_chans: int | None = None                 # channels of a picture: 1, 3 or 4; None = those of the weights
allow_random_weights = False                # True goes on without weights; such figures mean nothing
dataset_root = "data/COCO"                  # the folder with annotations/ and val2017/, or with 2017/
max_images: int | None = None               # the first so many pictures; None = all
results_dir = "segmentation_results"        # the tables: coco_{model}_{cut}_{definition}_{hash}/
save_overlays = 0                           # so many panels: picture, maps, mask, what each map calls the
                                            # object
num_workers = 2                             # processes that read pictures while the device computes
# ----------------------------------------------------------------------------------------------


def main(settings):
    from iia.choosing import chosen_cnn                 # imports torch, which --help need not wait for
    from iia.segmentation_table import table
    return table(chosen_cnn(settings, "seg_vit_datasets.py"), settings, "coco")


if __name__ == "__main__":
    run(main, globals(), epilog=listing(CNN_OPERATIONS))
