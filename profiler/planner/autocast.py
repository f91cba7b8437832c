"""What `torch.autocast` would do on a GPU, on the meta device, where it does nothing.

The operators are those of the PyTorch documentation, "Automatic Mixed Precision package", CUDA op-specific behavior.
Only cross entropy is not as documented: on CUDA it is no operator of its own there but a log-softmax, which stays in
16 bit, and a negative log-likelihood, which copies it to float32; both are kept, six bytes for each logit. (The CPU's
autocast converts the logits first and keeps four.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree

TO_16_BIT = """
__matmul__ __rmatmul__ addbmm addmm addmv addr baddbmm bmm chain_matmul multi_dot conv1d conv2d conv3d
conv_transpose1d conv_transpose2d conv_transpose3d linear matmul mm mv prelu scaled_dot_product_attention
lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell
"""
TO_FLOAT32 = """
__pow__ __rpow__ acos asin binary_cross_entropy_with_logits cosh cosine_embedding_loss cdist cosine_similarity
cumprod cumsum dist erfinv exp expm1 group_norm hinge_embedding_loss kl_div l1_loss layer_norm
log log10 log_softmax log1p log2 margin_ranking_loss mse_loss multilabel_margin_loss multi_margin_loss
nll_loss norm normalize pdist poisson_nll_loss pow prod reciprocal rsqrt sinh smooth_l1_loss soft_margin_loss
softmax softmin softplus sum renorm tan triplet_margin_loss
"""
_TO_16_BIT, _TO_FLOAT32 = frozenset(TO_16_BIT.split()), frozenset(TO_FLOAT32.split())


class Autocast(TorchFunctionMode):  # type: ignore[misc]
    """Products in bf16, sums and losses in float32. Weights are cast once; the copies live until the backward pass.

    `copied_bytes` is what those copies hold.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copied_bytes = 0
        self._copies: dict[int, torch.Tensor] = {}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if name == "cross_entropy" and is_low(args[0] if args else kwargs["input"]):
            return cross_entropy(*args, **kwargs)
        if name in _TO_16_BIT:
            args, kwargs = _pytree.tree_map(self._lowered, (args, kwargs))
        elif name in _TO_FLOAT32:
            args, kwargs = _pytree.tree_map(_raised, (args, kwargs))
        return function(*args, **kwargs)

    def _lowered(self, leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or leaf.dtype != torch.float32:
            return leaf
        if not (leaf.is_leaf and leaf.requires_grad):
            return leaf.to(torch.bfloat16)
        if id(leaf) not in self._copies:
            copy = self._copies[id(leaf)] = leaf.to(torch.bfloat16)
            if copy.dim() > 1:  # a bias is not kept for the backward pass
                self.copied_bytes += copy.untyped_storage().nbytes()
        return self._copies[id(leaf)]


def cross_entropy(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Cross entropy of 16-bit logits as CUDA's autocast runs it. Smoothing keeps nothing more, and is left out."""
    functional = torch.nn.functional
    if target.is_floating_point():  # probabilities: no negative log-likelihood, and so no copy
        return functional.cross_entropy(input, target.to(input.dtype), weight, reduction=reduction)
    likelihood = functional.log_softmax(input, 1 if input.dim() > 1 else 0).float()
    return functional.nll_loss(likelihood, target, weight, size_average, ignore_index, reduce, reduction)


def is_low(leaf: Any) -> bool:
    """Whether it is a tensor of 16-bit floats."""
    return isinstance(leaf, torch.Tensor) and leaf.dtype in (torch.bfloat16, torch.float16)


def _raised(leaf: Any) -> Any:
    return leaf.float() if is_low(leaf) else leaf
