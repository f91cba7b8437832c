"""Operations counted from recorded shapes are those that torch's own counter counts while the step runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.autograd.profiler as autograd_profiler
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from profiler.capture.flops import flops_of
from profiler.capture.operators import watched


def counted(step: Callable[[], None]) -> int:
    """By what the deep window records."""
    profile = autograd_profiler.profile(use_kineto=True, record_shapes=True)
    profile._prepare_trace()
    profile._start_trace()
    step()
    results = autograd_profiler._disable_profiler()
    autograd_profiler._run_on_profiler_stop()
    return watched(results.events(), lambda time_ns: "forward", steps=1).flops


def by_torch(step: Callable[[], None]) -> int:
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def mlp() -> Callable[[], None]:
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5, bias=False))
    x = torch.randn(4, 10)
    return lambda: model(x).sum().backward()


def batched() -> Callable[[], None]:
    a, b = torch.randn(3, 4, 5, requires_grad=True), torch.randn(3, 5, 6, requires_grad=True)
    return lambda: torch.baddbmm(torch.randn(3, 4, 6), a, b).bmm(b.mT).sum().backward()


def convolutions(transposed: bool) -> Callable[[], None]:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), kind(8, 4, (3, 2), padding=(1, 0)))
    x = torch.randn(2, 3, 17, 12)
    return lambda: model(x).sum().backward()


def dilated_1d() -> Callable[[], None]:
    model = nn.Conv1d(4, 6, 5, dilation=2, padding=3)
    x = torch.randn(2, 4, 40, requires_grad=True)
    return lambda: model(x).sum().backward()


def volume() -> Callable[[], None]:
    model = nn.Conv3d(2, 3, 3)
    x = torch.randn(1, 2, 6, 7, 8)
    return lambda: model(x).sum().backward()


def transformer() -> Callable[[], None]:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    x = torch.randn(2, 7, 16)

    def step() -> None:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            layer(x).sum().backward()

    return step


@pytest.mark.parametrize(
    "step",
    [mlp(), batched(), convolutions(False), convolutions(True), dilated_1d(), volume(), transformer()],
    ids=["mlp", "batched", "convolutions", "transposed", "dilated", "volume", "transformer"],
)
def test_counted_as_torch_counts(step: Callable[[], None]) -> None:
    assert counted(step) == by_torch(step) > 0


def test_fused_attention_is_counted_as_on_a_gpu() -> None:
    """On the CPU torch's own counter does not know the fused operator; on a GPU it does, by these formulas."""
    query, key = torch.randn(2, 3, 8, 16, requires_grad=True), torch.randn(2, 3, 24, 16, requires_grad=True)
    found = counted(lambda: functional.scaled_dot_product_attention(query, key, key).sum().backward())
    product = 2 * 2 * 3 * 8 * 24 * 16
    assert found == (2 + 5) * product
    from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count

    shapes = (query.shape, key.shape, key.shape)
    assert found == sdpa_flop_count(*shapes) + sdpa_backward_flop_count(query.shape, *shapes)


def test_a_grouped_convolution_counts_only_its_own_channels() -> None:
    model = nn.Conv2d(8, 8, 3, groups=8, padding=1, bias=False)
    x = torch.randn(2, 8, 10, 10, requires_grad=True)
    assert counted(lambda: model(x).sum().backward()) == 3 * (2 * 2 * 100 * 8 * 9)


def test_what_has_no_count_or_no_shapes_is_none() -> None:
    assert flops_of("aten::add", [[2, 3], [2, 3]], [None, None]) is None
    assert flops_of("aten::mm", [], []) is None
    assert flops_of("aten::mm", [[], []], [None, None]) is None
    assert flops_of("aten::convolution", [[2, 3, 4, 4], [8, 3, 3, 3]], [None]) is None
    assert flops_of("aten::convolution_backward", [[1], [2], [3]], []) is None
    assert flops_of("aten::_scaled_dot_product_attention_math", [[2, 3], [2, 3], [2, 3]], []) is None
