"""How a picture is explained: what `iia.explain` hands to every operation."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class IIAOptions:
    """The few values that all operations share.

    layer: the cut L, as `model.cut` gives it. steps: n. definition: "paper" or "release".
    batch_size: how many rows (pictures, path points) go through the network at once.
    target: None for f_y, the logit of the class y; or a function of the logits [N, classes] -> f [N].
    """
    layer: int | str
    steps: int = 10
    definition: str = "paper"
    batch_size: int = 32
    target: Callable[[Tensor], Tensor] | None = None
