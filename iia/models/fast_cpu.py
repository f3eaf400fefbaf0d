"""Linear layers of tokens, as a CPU computes them fastest."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW = 128      # tokens: where the convolution begins to pay, at ViT-B's width


class TokenLinear(nn.Linear):
    """A linear layer that computes by `linear`."""

    def forward(self, tokens: Tensor) -> Tensor:
        return linear(tokens, self.weight, self.bias)


def linear(tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear` of tokens [B, ..., D]; on a CPU, in float32,
    as a convolution 1×1 over one long row of pixels.

    oneDNN, which computes convolutions, multiplies up to a third faster forward and backward than the BLAS
    that linear layers call (AMD, AVX-512, ViT-B's width). The same products are summed, in another order.
    Rows of features [B, D] (VGG's classifier) gain nothing.
    """
    rows, on_cpu = tokens.shape[:-1], tokens.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    worth_it = on_cpu and tokens.dtype == torch.float32 and tokens.dim() > 2 and rows.numel() >= FEW
    if not (worth_it and torch.backends.mkldnn.is_available()):
        return F.linear(tokens, weight, bias)
    pixels = tokens.reshape(1, rows.numel(), 1, -1).permute(0, 3, 1, 2)     # [1, D, tokens, 1], channels last
    return F.conv2d(pixels, weight[:, :, None, None], bias).permute(0, 2, 3, 1).reshape(*rows, -1)


def with_token_linears(network: nn.Module) -> nn.Module:
    """The network itself, each of whose plain linear layers has become a `TokenLinear`."""
    for part in network.modules():
        if type(part) is nn.Linear:
            part.__class__ = TokenLinear       # keeps its weights, its hooks and whatever else was done to it
    return network
