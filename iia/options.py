"""How a picture is explained: what `iia.explain` hands to every operation."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .integration import BASELINES
from .quadrature import Rule, quadrature_rule


@dataclass(frozen=True)
class IIAOptions:
    """The few values that all operations share.

    layer: the cut L, as `model.cut` gives it. steps: n. definition: "paper" or "release".
    batch_size: how many rows (pictures, path points) go through the network at once.
    target: None for f_y, the logit of the class y; or a function of the logits [N, classes] -> f [N].
    quadrature, baseline: METHOD.md, section 3. guesses: whether two guesses of the limit are made beside each
    map; maps have a first dimension of 3 then.
    """
    layer: int | str
    steps: int = 10
    definition: str = "paper"
    batch_size: int = 32
    target: Callable[[Tensor], Tensor] | None = None
    quadrature: str = "riemann"
    baseline: str = "spatial-minimum"
    guesses: bool = False

    def input_rule(self, like: Tensor) -> Rule:
        """The points and weights of the input's path."""
        return quadrature_rule(self.steps, like, self.quadrature, self.guesses)

    def layer_rule(self, like: Tensor) -> Rule:
        """The same of a layer's path. Where the input's is graded, n points of Gauss: it has no dark end."""
        if self.quadrature == "graded":
            return quadrature_rule(self.steps - 1, like, "gauss", self.guesses)
        return self.input_rule(like)

    def start(self, u: Tensor) -> Tensor:
        """r, where the path of a layer's representation u [N, C, H, W] begins."""
        return BASELINES[self.baseline](u)
