"""What a kernel does, told by its name alone.

In:  names as the device's tools give them: those of CUDA, ROCm, PyTorch, Triton and of collectives.
Out: a family, the kind of a collective, and whether it runs on tensor (matrix) cores.

Sources of the names: those of cuBLAS, cuDNN and CUTLASS carry the shape of the matrix instruction (16816, 884) or the
words tensorop, hmma and wgmma; Hopper's cuBLAS calls its own nvjet; those of ROCm's Tensile carry MI and its shape,
composable kernels say xdl (matrix) or dl (none).
"""

from __future__ import annotations

import re
from functools import lru_cache

_FAMILIES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (family, re.compile(pattern, re.IGNORECASE))
    for family, pattern in (
        (
            "collective",
            r"nccl|rccl|oneccl|\bccl_|hccl|mscclpp?_|nvshmem|deep_ep|cross_device_reduce|"
            r"(one|two)_?shot_all_?reduce|multimem_",
        ),
        ("attention", r"flash_|fmha|attention|\bmha_|_attn|sdpa|mem_?eff"),
        (
            "embedding",
            r"embedding|index_?select|fbgemm_gpu|index_put|indexing_backward|linearize_index|check_indices|"
            r"\bgather_|scatter_gather",
        ),
        (
            "optimizer",
            r"multi_tensor_apply|multitensor|adam(?!ax)|\blamb(?!da)|adagrad|adafactor|_sgd_|sgd_kernel|optimizer|\bmuon",
        ),
        (
            "normalization",
            r"batch_?norm|layer_?norm|group_?norm|rms_?norm|instance_?norm|\bbn_(fw|bw)|_bn_(fw|bw)|bnfwd|bnbwd|"
            r"softmax|rowwisemoments|cuComputePartGradGammaBeta|cuComputeGradInput|gammabeta",
        ),
        (
            "convolution",
            r"conv|cudnn::cnn|[sh]cudnn|fft[12]d_|winograd|[wd]grad|fprop|im2col|col2im|im2d2col|nchwtonhwc|nhwctonchw|nchwaddpadding|"
            r"miopensp3|igemm_(fwd|bwd|wrw)|implicit_gemm",
        ),
        (
            "gemm",
            r"gemm|gemv|gemmk1|cutlass|cublas|\bcijk_|nvjet|splitkreduce|matmul|xmma|_bmm|triton_(tem_fused_)?\w*mm\b|"
            r"triton_tem_|\bmma_|dot_kernel|hipblas|xdlops",
        ),
        (
            "reduction",
            r"reduce|triton_(red|per)_|argm(ax|in)|topk|sort|scan_|cumsum|cub::device|nll_?loss|pool",
        ),
        (
            "copy",
            r"catarray|transpose|permute|copybuffer|fillbuffer|memcpy|memset|\bcopy_|contiguous|direct_copy_kernel",
        ),
        ("elementwise", r"elementwise|vectorized|unrolled|triton_poi_|dropout|fill|pointwise|foreach|relu|gelu|silu"),
    )
)
_MATRIX = re.compile(
    r"[a-z](884|1684|1688|16816|16832|16864|8816|8832|168128|168256)(?!\d)|tensorop|tensor\d+x\d+|warpgroup|"
    r"[hi]mma|gmma|wmma|mma_sync|nvjet|fmha|flash_(fwd|bwd|attn)|first_layer_wgrad_kernel|dgrad_1x1_stride_2x2|"
    r"conv2d_c1_k1|xdl|mfma|(?<![a-z])MI\d+x\d+x\d+",
    re.IGNORECASE,
)
_OPEN = re.compile(r"triton|attention|cutlass|\bck::|ck_tile", re.IGNORECASE)  # names that don't say
_PLAIN = re.compile(r"simt|ffma|[sd]gemm", re.IGNORECASE)
_ARITHMETIC = ("gemm", "convolution", "attention")
_COLLECTIVES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        ("reduce_scatter", r"reduce_?scatter"),
        ("all_reduce", r"all_?reduce|cross_device_reduce"),
        ("all_gather", r"all_?gather"),
        ("all_to_all", r"all_?to_?all|alltoall|a2a|deep_ep"),
        ("broadcast", r"broadcast"),
        ("send_recv", r"send_?recv|\bsend|\brecv|_p2p"),
        ("gather", r"gather"),
        ("scatter", r"scatter"),
        ("reduce", r"reduce"),
        ("barrier", r"barrier"),
    )
)


@lru_cache(maxsize=65536)
def family_of(name: str) -> str:
    """One of `device_facts.FAMILIES`."""
    return next((family for family, pattern in _FAMILIES if pattern.search(name)), "other")


@lru_cache(maxsize=65536)
def tensor_cores_of(name: str) -> bool | None:
    """Whether the kernel runs on tensor cores; None where its name does not tell."""
    if _MATRIX.search(name):
        return True
    family = family_of(name)
    if family not in _ARITHMETIC or _PLAIN.search(name):
        return False
    return None if _OPEN.search(name) else False


def is_collective(name: str) -> bool:
    """Whether a kernel moves data between devices."""
    return family_of(name) == "collective"


@lru_cache(maxsize=65536)
def collective_kind(name: str) -> str | None:
    """The kind of collective that a kernel, a host range or a recorded word names; None where it names none."""
    return next((kind for kind, pattern in _COLLECTIVES if pattern.search(name)), None)
