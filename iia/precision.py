"""How precisely a network computes: the values of `precision`, and their meaning on a GPU."""

import contextlib
from collections.abc import Iterator

import torch

# The dtypes in which features are computed; "tf32" leaves float32, but a GPU may round factors to 10 bits.
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("fp32", *HALVES, "tf32")
BACKENDS = (torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul)


@contextlib.contextmanager
def products(precision: str) -> Iterator[None]:
    """While the block runs, a GPU multiplies float32 exactly as such, or as TF32 where `precision` says so.

    torch's default rounds the factors of convolutions, which changes maps by more than 1e-4.
    """
    before = [backend.fp32_precision for backend in BACKENDS]
    for backend in BACKENDS:
        backend.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        for backend, setting in zip(BACKENDS, before):
            backend.fp32_precision = setting
