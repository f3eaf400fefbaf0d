"""The table of operations: what a script's `operations` may name.

Adding a comparison method is a function (model, x, y, options) -> raw maps in a file of this folder and a
row here. The comparison methods explain the network as it is, under "release" too. Functions and their
libraries are imported when they are first asked for: this file imports nothing that takes long.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from ..errors import UserError, check_choice

DEFINITIONS = ("paper", "release")
# What pip calls the libraries of the comparison methods, by the module that Python imports.
PACKAGES = {"pytorch_grad_cam": "grad-cam", "captum": "captum", "saliency": "saliency"}


@dataclass(frozen=True)
class Operation:
    """A row of the table.

    place: "<module of iia>.<function>" of (model, x [B, 3, H, W], y [B], options) -> raw maps [B, h, w].
    source: the paper, or what it is. cost: network passes for a picture; n is the number of steps.
    released: the place under `definition = "release"` where that differs.
    of_layer: whether it explains a layer. rows: of a batch, that a picture takes at once.
    integral: whether the map approaches a limit as n grows.
    """
    place: str
    source: str
    cost: str
    released: str | None = None
    of_layer: bool = True
    rows: int = 1
    integral: bool = False

    def under(self, definition: str) -> Callable:
        """The function for a definition.

        Raises:
            UserError: no such definition, or a library that is not installed.
        """
        check_choice("definition", definition, DEFINITIONS)
        released = definition == "release" and self.released
        file, function = (released or self.place).rsplit(".", 1)
        try:
            return getattr(import_module(f"iia.{file}"), function)
        except ModuleNotFoundError as why:
            package = PACKAGES.get(str(why.name).partition(".")[0])
            if package is None:
                raise
            raise UserError(f"{function} needs the package {package}, which is not installed: "
                            f"pip install {package} (the extra iia[comparison] has all of them).") from why


IIA = "Barkan et al., ICCV 2023"

CNN_OPERATIONS: dict[str, Operation] = {
    "iia": Operation("cnn_attribution.iia2", f"{IIA}: two levels", "n forward, (n+1)² of the tail",
                     released="cnn_attribution.released_iia", integral=True),
    "iia-triple": Operation("cnn_attribution.iia3", f"{IIA}: three levels",
                            "n forward, (n+1)² of stage L, (n+1)³ of the tail",
                            released="cnn_attribution.released_iia3", integral=True),
    "iia-previous": Operation("cnn_attribution.iia_previous", f"{IIA}: two levels, at the stage before",
                              "n forward, (n+1)² of its tail", integral=True),
    "iia-ablation-im": Operation("cnn_attribution.ablation_input", f"{IIA}: the input's path alone",
                                 "n forward, n+1 of the tail",
                                 released="cnn_attribution.released_ablation_input", integral=True),
    "iia-ablation-ac": Operation("cnn_attribution.ablation_layer", f"{IIA}: the layer's path alone",
                                 "1 forward, n+1 of the tail",
                                 released="cnn_attribution.released_ablation_layer", integral=True),

    # The same layer as IIA: one pass of the features, then the tail.
    "gradcam": Operation("methods.gradcam_family.gradcam", "Selvaraju et al., ICCV 2017",
                         "1 forward, 1 of the tail"),
    "gradcampp": Operation("methods.gradcam_family.gradcampp", "Chattopadhay et al., WACV 2018",
                           "1 forward, 1 of the tail"),
    "x-gradcam": Operation("methods.gradcam_family.xgradcam", "Fu et al., BMVC 2020",
                           "1 forward, 1 of the tail"),
    "hirescam": Operation("methods.gradcam_family.hirescam", "Draelos & Carin, 2020",
                          "1 forward, 1 of the tail"),
    "layercam": Operation("methods.gradcam_family.layercam", "Jiang et al., IEEE TIP 2021",
                          "1 forward, 1 of the tail"),
    "finer-cam": Operation("methods.gradcam_family.finercam",
                           "Zhang et al., CVPR 2025: Grad-CAM of y against the three classes nearest to it",
                           "1 forward, 1 of the tail"),
    "eigen-cam": Operation("methods.gradcam_family.eigencam",
                           "Muhammad & Yeasin, IJCNN 2020: whatever the class", "1 forward, an SVD"),
    "ablation-cam": Operation("methods.gradcam_family.ablation", "Desai & Ramaswamy, WACV 2020",
                              "1 forward, one of the tail for each channel"),
    "score-cam": Operation("methods.gradcam_family.scorecam", "Wang et al., CVPR Workshops 2020",
                           "1 forward, and one for each channel"),
    "lift-cam": Operation("methods.captum_methods.lift_cam",
                          "Jung & Oh, ICCV 2021: DeepLift on the tail, baseline 0",
                          "1 forward, 2 of the tail", rows=2),

    # The whole network; the maps are as large as the picture.
    "fullgrad": Operation("methods.gradcam_family.fullgrad", "Srinivas & Fleuret, NeurIPS 2019",
                          "1 forward and backward, then a resize for every channel of every layer",
                          of_layer=False),
    "ig": Operation("methods.captum_methods.ig",
                    "Sundararajan et al., ICML 2017: 25 steps from 0, softmax, grey",
                    "25 forward and backward", of_layer=False),
    "blurig": Operation("methods.saliency_methods.blurig",
                        "Xu et al., CVPR 2020: 100 steps up to σ = 50, softmax, grey",
                        "100 forward and backward", of_layer=False),
    "guidedig": Operation("methods.saliency_methods.guidedig",
                          "Kapishnikov et al., CVPR 2021: 25 steps from 0, fraction 0.5, softmax, grey",
                          "25 forward and backward, one row at a time", of_layer=False),
}

VIT_OPERATIONS: dict[str, Operation] = {
    "iia": Operation("vit_attribution.iia2", f"{IIA}: two levels", "n forward, n (n+1) backward",
                     integral=True),
    "iia-triple": Operation("vit_attribution.iia3", f"{IIA}: three levels", "n forward, n (n+1)² backward",
                            integral=True),
    "iia-previous": Operation("vit_attribution.iia_previous", f"{IIA}: two levels, at the block before",
                              "n forward, n (n+1) backward", integral=True),
    "ablation-image": Operation("vit_attribution.ablation_image", f"{IIA}: the input's path alone",
                                "n+1 forward and backward",
                                released="vit_attribution.released_ablation_image", integral=True),
    "ablation-attention": Operation("vit_attribution.ablation_attention",
                                    f"{IIA}: the attention's path alone", "1 forward, n+2 backward",
                                    integral=True),
    "gae": Operation("methods.vit_methods.gae", "Chefer et al., ICCV 2021", "1 forward and backward"),
    "rollout": Operation("methods.vit_methods.rollout", "Abnar & Zuidema, ACL 2020", "1 forward"),
    "t-attr": Operation("methods.transformer_attribution.t_attr", "Chefer et al., CVPR 2021",
                        "2 forward, 1 backward, 1 of relevance"),
}


def listing(table: dict[str, Operation]) -> str:
    """The table as text for `--help`: each operation with its paper and its cost."""
    lines = [f"  {name:<18}{row.source}\n{'':<20}{row.cost}" for name, row in table.items()]
    head = "operations, and what each costs a picture (n = the steps of a path, by the paper's sum):"
    return "\n".join([head, *lines])
