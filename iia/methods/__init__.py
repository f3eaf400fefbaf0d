"""The table of operations: what a script's `operations` may name.

Adding a comparison method is a function (model, x, y, how) -> raw maps in a file of this folder and a
row here.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .. import cnn, vit
from ..errors import check_choice
from .transformer_attribution import t_attr
from .vit_methods import gae, rollout

DEFINITIONS = ("paper", "release")
Method = Callable[..., Tensor]


@dataclass(frozen=True)
class Operation:
    """A row of the table.

    explain: (model, x [B, 3, H, W], y [B], how) -> raw maps [B, h, w].
    source: the paper, or what it is. cost: network passes for a picture; n is the number of steps.
    released: the function under `definition = "release"` where that differs.
    """
    explain: Method
    source: str
    cost: str
    released: Method | None = None

    def under(self, definition: str) -> Method:
        check_choice("definition", definition, DEFINITIONS)
        return self.released if definition == "release" and self.released else self.explain


IIA = "Barkan et al., ICCV 2023"

CNN_OPERATIONS: dict[str, Operation] = {
    "iia": Operation(cnn.iia2, f"{IIA}: two levels", "n forward, (n+1)² of the tail", cnn.released_iia),
    "iia-triple": Operation(cnn.iia3, f"{IIA}: three levels", "n forward, (n+1)² of stage L, (n+1)³ of the tail",
                            cnn.released_iia3),
    "iia-ablation-im": Operation(cnn.ablation_input, f"{IIA}: the input's path alone", "n forward, n+1 of the tail",
                                 cnn.released_ablation_input),
    "iia-ablation-ac": Operation(cnn.ablation_layer, f"{IIA}: the layer's path alone", "1 forward, n+1 of the tail",
                                 cnn.released_ablation_layer),
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
