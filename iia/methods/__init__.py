"""The table of operations: what a script's `operations` may name.

Adding a comparison method is a function (model, x, y, how) -> raw maps in a file of this folder and a
row here. The comparison methods explain the network as it is, under "release" too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from torch import Tensor

from .. import cnn_attribution as cnn, vit_attribution as vit
from ..errors import UserError, check_choice
from .transformer_attribution import t_attr
from .vit_methods import gae, rollout

DEFINITIONS = ("paper", "release")
Method = Callable[..., Tensor]


@dataclass(frozen=True)
class Adapter:
    """A method in a file of this folder that needs a library, imported when it is first asked for.

    The libraries take seconds to import, and IIA itself needs none of them.
    """
    package: str      # what pip calls the library
    place: str        # "<file>.<function>"

    def load(self) -> Method:
        """The function.

        Raises:
            UserError: the library is not installed.
        """
        file, function = self.place.split(".")
        try:
            return getattr(import_module(f"{__name__}.{file}"), function)
        except ModuleNotFoundError as why:
            raise UserError(f"{function} needs the package {self.package} ({why}): pip install {self.package}") from why

    def __call__(self, *arguments) -> Tensor:
        return self.load()(*arguments)


@dataclass(frozen=True)
class Operation:
    """A row of the table.

    explain: (model, x [B, 3, H, W], y [B], how) -> raw maps [B, h, w].
    source: the paper, or what it is. cost: network passes for a picture; n is the number of steps.
    released: the function under `definition = "release"` where that differs.
    of_layer: whether it explains a layer.
    """
    explain: Method
    source: str
    cost: str
    released: Method | None = None
    of_layer: bool = True

    def under(self, definition: str) -> Method:
        """The function for a definition, its library imported."""
        check_choice("definition", definition, DEFINITIONS)
        method = self.released if definition == "release" and self.released else self.explain
        return method.load() if isinstance(method, Adapter) else method


IIA = "Barkan et al., ICCV 2023"

CNN_OPERATIONS: dict[str, Operation] = {
    "iia": Operation(cnn.iia2, f"{IIA}: two levels", "n forward, (n+1)² of the tail", cnn.released_iia),
    "iia-triple": Operation(cnn.iia3, f"{IIA}: three levels", "n forward, (n+1)² of stage L, (n+1)³ of the tail",
                            cnn.released_iia3),
    "iia-ablation-im": Operation(cnn.ablation_input, f"{IIA}: the input's path alone", "n forward, n+1 of the tail",
                                 cnn.released_ablation_input),
    "iia-ablation-ac": Operation(cnn.ablation_layer, f"{IIA}: the layer's path alone", "1 forward, n+1 of the tail",
                                 cnn.released_ablation_layer),

    # The same layer as IIA: one pass of the features, then the tail.
    "gradcam": Operation(Adapter("grad-cam", "gradcam_family.gradcam"), "Selvaraju et al., ICCV 2017",
                         "1 forward, 1 of the tail"),
    "gradcampp": Operation(Adapter("grad-cam", "gradcam_family.gradcampp"), "Chattopadhay et al., WACV 2018",
                           "1 forward, 1 of the tail"),
    "x-gradcam": Operation(Adapter("grad-cam", "gradcam_family.xgradcam"), "Fu et al., BMVC 2020",
                           "1 forward, 1 of the tail"),
    "layercam": Operation(Adapter("grad-cam", "gradcam_family.layercam"), "Jiang et al., IEEE TIP 2021",
                          "1 forward, 1 of the tail"),
    "ablation-cam": Operation(Adapter("grad-cam", "gradcam_family.ablation"), "Desai & Ramaswamy, WACV 2020",
                              "1 forward, one of the tail for each channel"),
    "lift-cam": Operation(Adapter("captum", "captum_methods.lift_cam"),
                          "Jung & Oh, ICCV 2021: DeepLift on the tail, baseline 0", "1 forward, 2 of the tail"),

    # The whole network; the maps are as large as the picture.
    "fullgrad": Operation(Adapter("grad-cam", "gradcam_family.fullgrad"), "Srinivas & Fleuret, NeurIPS 2019",
                          "1 forward and backward, then a resize for every channel of every layer",
                          of_layer=False),
    "ig": Operation(Adapter("captum", "captum_methods.ig"),
                    "Sundararajan et al., ICML 2017: 25 steps from 0, softmax, grey",
                    "25 forward and backward", of_layer=False),
    "blurig": Operation(Adapter("saliency", "saliency_methods.blurig"),
                        "Xu et al., CVPR 2020: 100 steps up to σ = 50, softmax, grey",
                        "100 forward and backward", of_layer=False),
    "guidedig": Operation(Adapter("saliency", "saliency_methods.guidedig"),
                          "Kapishnikov et al., CVPR 2021: 25 steps from 0, fraction 0.5, softmax, grey",
                          "25 forward and backward, one row at a time", of_layer=False),
}

VIT_OPERATIONS: dict[str, Operation] = {
    "iia": Operation(vit.iia2, f"{IIA}: two levels", "n forward, n (n+1) backward"),
    "iia-triple": Operation(vit.iia3, f"{IIA}: three levels", "n forward, n (n+1)² backward"),
    "ablation-image": Operation(vit.ablation_image, f"{IIA}: the input's path alone", "n+1 forward and backward",
                                vit.released_ablation_image),
    "ablation-attention": Operation(vit.ablation_attention, f"{IIA}: the attention's path alone", "1 forward, n+2 backward"),
    "gae": Operation(gae, "Chefer et al., ICCV 2021", "1 forward and backward"),
    "rollout": Operation(rollout, "Abnar & Zuidema, ACL 2020", "1 forward"),
    "t-attr": Operation(t_attr, "Chefer et al., CVPR 2021", "2 forward, 1 backward, 1 of relevance"),
}


def listing(table: dict[str, Operation]) -> str:
    """The table as text for `--help`: each operation with its paper and its cost."""
    lines = [f"  {name:<18}{row.source}\n{'':<20}{row.cost}" for name, row in table.items()]
    return "operations, and what each costs a picture (n = the steps of a path):\n" + "\n".join(lines)
