"""What a network says of the class it is asked for: the two numbers that the explanation tests are made
of."""

import torch
from torch import Tensor

from ..integration import chunks
from ..models.model import probability

TOP1, SOFTMAX = 0, 1        # the columns of an answer


@torch.no_grad()
def ask(model, pictures: Tensor, classes: Tensor, batch_size: int = 32) -> Tensor:
    """The network's answers for normalised pictures [N, C, H, W] and classes [N], batch_size rows a pass.

    Returns:
        [N, 2]: 1 where the class is the predicted one, else 0; and its softmax probability.
    """
    return torch.cat([_answers(model(pictures[rows]), classes[rows])
                      for rows in chunks(len(pictures), batch_size)])


@torch.no_grad()
def ask_mixtures(model, outside: Tensor, inside: Tensor, ranks: Tensor, counts: Tensor, classes: Tensor,
                 batch_size: int = 32) -> Tensor:
    """The answers for pictures whose first pixels, in an order and up to a count, come from elsewhere.

    Mixture (p, k) is `inside` at the pixels with ranks[p] < counts[k] and `outside[p]` at all others. It is
    made on the device from the whole pictures just before it is asked about, so the memory is that of
    batch_size rows.

    Args:
        outside: normalised pictures, [P, C, H, W].
        inside: what replaces their pixels, broadcast against `outside`.
        ranks: each pixel's place in the picture's order, 0..H·W − 1, [P, H, W].
        counts: how many pixels are replaced, [K].
        classes: the class that is asked for, [P].

    Returns:
        [P, K, 2], as `ask`.
    """
    inside, steps = inside.expand_as(outside), len(counts)
    answers = []
    for rows in chunks(len(outside) * steps, batch_size):
        row = torch.arange(rows.start, rows.stop, device=outside.device)
        p, k = row // steps, row % steps
        replaced = ranks[p] < counts[k, None, None]                                          # [N, H, W]
        answers.append(_answers(model(torch.where(replaced[:, None], inside[p], outside[p])), classes[p]))
    return torch.cat(answers).view(len(outside), steps, 2)


def _answers(logits: Tensor, classes: Tensor) -> Tensor:
    logits = logits if logits.dtype == torch.float64 else logits.float()
    # argmax takes NaN for the most
    top1 = ((logits.argmax(1) == classes) & ~logits.isnan().any(1)).to(logits.dtype)
    return torch.stack([top1, probability(logits, classes)], dim=1)
