"""How precisely a network computes: the values of `precision`, and what they mean on a GPU."""

import contextlib
from collections.abc import Iterator

import torch

# What features are computed in; "tf32" leaves float32, but lets a GPU round its factors to 10 bits.
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("fp32", *HALVES, "tf32")
KINDS = (torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul)


@contextlib.contextmanager
def products(precision: str) -> Iterator[None]:
    """While the block runs, a GPU multiplies float32 as such, or as TF32 where `precision` says so.

    torch's own default rounds the factors of convolutions, which moves maps by more than 1e-4.
    """
    before = [kind.fp32_precision for kind in KINDS]
    for kind in KINDS:
        kind.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        for kind, own in zip(KINDS, before):
            kind.fp32_precision = own
