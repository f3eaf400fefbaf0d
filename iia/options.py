"""How a picture is explained: what `iia.explain` hands to every operation."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .integration import BASELINES, Rule, quadrature_rule


@dataclass(frozen=True)
class IIAOptions:
    """The few values that all operations share.

    layer: the cut L, as `model.cut` gives it. steps: n. definition: "paper" or "release".
    batch_size: how many rows (pictures, path points) go through the network at once.
    target: None for f_y, the logit of the class y; or a function of the logits [N, classes] -> f [N].
    quadrature, baseline: METHOD.md, section 3. halves: whether each map is also made by the rule of every
    second point; maps have a first dimension of 2 then.
    """
    layer: int | str
    steps: int = 10
    definition: str = "paper"
    batch_size: int = 32
    target: Callable[[Tensor], Tensor] | None = None
    quadrature: str = "riemann"
    baseline: str = "spatial-minimum"
    halves: bool = False

    def rule(self, like: Tensor) -> Rule:
        """The points and weights of every path."""
        return quadrature_rule(self.steps, like, self.quadrature, self.halves)

    def start(self, u: Tensor) -> Tensor:
        """r, where the path of a layer's representation u [N, C, H, W] begins."""
        return BASELINES[self.baseline](u)
