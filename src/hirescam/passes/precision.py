"""In which precision numbers are really multiplied, which need not be that of the tensors.

The factors of float32 products may be rounded first. On a GPU those of convolutions are by default, to TF32
(10 bits instead of 23), and `torch.set_float32_matmul_precision` asks for as much, or for bfloat16, in matrix
products, on some CPUs too.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

# TF32 has as many bits as float16, and a wider range.
_SEEN_AS = {"tf32": torch.float16, "bf16": torch.bfloat16}


def precision_of(*tensors: Tensor, convolves: bool = True) -> torch.dtype:
    """The dtype that rounds like the arithmetic behind some tensors, now: the coarsest that may be in it.

    Args:
        tensors: what came out of that arithmetic, or went in.
        convolves: whether there are convolutions in it.

    Returns:
        The dtype of a tensor, or the one that float32 factors are rounded to; float16 stands for TF32 too.

    Example:
        >>> precision_of(torch.zeros(1, dtype=torch.float64))
        torch.float64
    """
    device = tensors[0].device.type
    dtypes = {tensor.dtype for tensor in tensors}
    if torch.is_autocast_enabled(device):
        dtypes.add(torch.get_autocast_dtype(device))
    if torch.float32 in dtypes:
        dtypes |= {_SEEN_AS[name] for name in _rounded(device, convolves) if name in _SEEN_AS}
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)


def is_half(dtype: torch.dtype) -> bool:
    """Whether it rounds like half precision: too coarsely for a sum to show a change of one weight."""
    return dtype in (torch.float16, torch.bfloat16)


def products_are_rounded(tensor: Tensor) -> bool:
    """Whether matrix products of such tensors are rounded before they are added up."""
    return tensor.dtype is torch.float32 and is_half(precision_of(tensor, convolves=False))


def _rounded(device: str, convolves: bool) -> Iterable[str]:
    """What float32 factors are rounded to: names such as ``"tf32"``, ``"ieee"`` and ``"none"``."""
    backends = torch.backends
    if not hasattr(backends.cuda.matmul, "fp32_precision"):  # before torch 2.9
        return _rounded_before(device, convolves)
    if device == "cuda":
        return [backends.cuda.matmul.fp32_precision] + [_of(backends.cudnn, "conv")] * convolves
    if device == "cpu":  # where small convolutions are matrix products
        return [_of(backends.mkldnn, "matmul"), _of(backends.mkldnn, "conv")]
    return []


def _of(backend: object, operation: str) -> str:
    return str(getattr(backend, operation).fp32_precision)


def _rounded_before(device: str, convolves: bool) -> Iterable[str]:
    allowed = torch.get_float32_matmul_precision()
    if device == "cuda":
        tf32 = allowed != "highest" or (convolves and torch.backends.cudnn.allow_tf32)
        return ["tf32"] * tf32
    return ["bf16"] * (device == "cpu" and allowed == "medium")
