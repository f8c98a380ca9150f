"""A product with a weight under autocast, without keeping a short copy of the weight until backward.

torch.autocast casts a float32 weight for every product, and autograd keeps that copy: half the model's size again, and
in fsdp stage 3, which lends weights to autograd and takes them back, a copy nobody could take back. Here autograd keeps
the weight itself; backward casts it again. The products are those of autocast.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


class _ShortProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
        short = x.to(dtype)
        ctx.save_for_backward(short, weight)
        ctx.x_dtype = x.dtype
        return functional.linear(short, weight.to(dtype).t(), bias.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        short, weight = ctx.saved_tensors
        rows, inputs = grad.flatten(0, -2), short.flatten(0, -2)
        need_x, need_weight, need_bias, _ = ctx.needs_input_grad
        grad_x = (grad @ weight.to(short.dtype).t()).to(ctx.x_dtype) if need_x else None
        grad_weight = (inputs.t() @ rows).to(weight.dtype) if need_weight else None
        grad_bias = rows.sum(0, dtype=weight.dtype) if need_bias else None
        return grad_x, grad_weight, grad_bias, None


def product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x @ weight + bias; (..., in), (in, out), (out) -> (..., out), in autocast's type where that is on."""
    device = x.device.type
    # torch.compile decides by itself what backward computes again, and a cast is cheap enough for it.
    if torch.is_grad_enabled() and torch.is_autocast_enabled(device) and not torch.compiler.is_compiling():
        return cast(Tensor, _ShortProduct.apply(x, weight, bias, torch.get_autocast_dtype(device)))
    return functional.linear(x, weight.t(), bias)
