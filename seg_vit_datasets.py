"""How well a ViT's saliency maps segment ImageNet, COCO or VOC: pixAcc, mIoU, mAP, mF1 and F1.

Edit the settings below, or give any of them as a flag: --chosen_dataset=voc --model_name=vit-small
Started again it goes on where it was; torchrun --nproc-per-node=2 seg_vit_datasets.py shares it.
"""

from iia import choosing, methods, segmentation_table, settings

# ------------------------------------------------------------------------------------- settings
model_name = "vit-base"                     # "vit-base", "vit-small", or any ViT by its name in torchvision
                                            # or timm
chosen_dataset = "coco"                     # "imagenet", "coco", "voc"
operations = ["iia", "iia-triple"]          # the table's rows: any of iia, iia-triple, ablation-image,
                                            # ablation-attention, gae, rollout, t-attr
ITERATION_STEPS = 5                         # n, the steps of every path: 5 as in the release, 10 in the paper
definition = "paper"                        # "paper", or "release" for what the published code computes
device = "auto"                             # "auto", "cuda", "cuda:1", "mps", "cpu"
batch_size = 10                             # pictures x path points through the network at once; bounds the memory
precision = "fp32"                          # "fp32", or "bf16" to run in bfloat16 where that is safe
weights_path: str | None = None             # None for the published weights, or a state dict (.pth,
                                            # .safetensors), of any number of classes
labels_file: str | None = None              # the classes' names: one a line, or JSON; None = ImageNet's, or
                                            # numbers
image_size: int | str | None = None         # of a picture: a number, or "height,width"; None = the network's
                                            # own
in_chans: int | None = None                 # a picture's channels: 1 (grey), 3 or 4; None = those of the
                                            # weights
allow_random_weights = False                # True goes on without weights; such figures mean nothing
dataset_root: str | None = None             # None = data (imagenet), data/COCO (coco), data/VOC (voc)
max_images: int | None = None               # the first so many pictures; None = all
results_dir = "segmentation_results"        # the files: {results_dir}/{dataset}_{model}_{cut}_{definition}/
save_overlays = 0                           # so many panels: picture, maps, mask, what each map calls the object
num_workers = 2                             # processes that read pictures while the device computes
# ----------------------------------------------------------------------------------------------


def main(chosen):
    model = choosing.chosen_vit(chosen, f"segmentation_cnn_{chosen.chosen_dataset}.py")
    return segmentation_table.table(model, chosen, chosen.chosen_dataset)


if __name__ == "__main__":
    settings.run(main, globals(), epilog=methods.listing(methods.VIT_OPERATIONS))
