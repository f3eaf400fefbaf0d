"""Attention matrices seen, and replaced, where a pass computes them."""

import math
import types
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# what decides by numbers: comparisons, steps, and what hands numbers to Python
DECIDING = {"gt", "ge", "lt", "le", "eq", "ne", "__eq__", "__ne__", "where", "equal", "allclose", "isclose",
            "sign", "floor", "ceil", "round", "heaviside", "bucketize", "argmax", "argmin", "nonzero",
            "unique", "is_nonzero", "__bool__", "__float__", "__int__", "__index__", "__array__", "item",
            "tolist", "numpy"}


class Recorder(TorchFunctionMode):
    """Hands every attention matrix after softmax to `see`, in this thread, and goes on with what it returns.

    Fused attention is written out; an explicit softmax over the last of three or more dimensions counts as
    one. torch's own quick ways around both are not taken while such a mode is on.

    Attributes:
        decides: whether numbers were compared or went to Python, and may decide what is computed.
    """

    def __init__(self, see: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.see, self.decides = see, False

    def __torch_function__(self, func: Callable, types: tuple, args: tuple = (),
                           kwargs: dict | None = None) -> object:
        kwargs, name = kwargs or {}, getattr(func, "__name__", None)
        self.decides |= name in DECIDING
        if name == "scaled_dot_product_attention":
            return self.attend(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            with self:                        # what it calls is seen too
                return written_out(*args, **kwargs)
        output = func(*args, **kwargs)
        if name != "softmax" or output.ndim < 3:
            return output
        dim = kwargs["dim"] if "dim" in kwargs else args[1]
        return self.see(output) if dim in (-1, output.ndim - 1) else output

    def attend(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
               dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
               enable_gqa: bool = False) -> Tensor:
        """torch's scaled_dot_product_attention, without its dropout: networks are in eval mode."""
        if enable_gqa:
            groups = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
        scores = query * (query.shape[-1] ** -0.5 if scale is None else scale) @ key.mT
        if is_causal:
            attn_mask = torch.ones_like(scores, dtype=torch.bool).tril()
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool \
                else scores + attn_mask
        return self.see(scores.softmax(-1)) @ value


# torch's function, but for its first question, whether a mode should do it all.
written_out = types.FunctionType(F.multi_head_attention_forward.__code__,
                                 vars(F) | {"has_torch_function": lambda _: False},
                                 argdefs=F.multi_head_attention_forward.__defaults__)


def by_heads(A: Tensor, pictures: int) -> Tensor | None:
    """An attention matrix as [B, heads, N, N]; None where it is not between all tokens of each picture."""
    per_picture = len(A) == pictures or A.ndim == 3 and len(A) % pictures == 0
    return A.reshape(pictures, -1, *A.shape[-2:]) if per_picture and A.shape[-1] == A.shape[-2] else None
