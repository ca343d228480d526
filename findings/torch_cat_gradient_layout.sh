#!/usr/bin/env bash
# On a CPU, in channels last, what is concatenated gets its gradient in a slow layout: 4 to 6 times the time.
#
# Behaviour  The gradient of torch.cat along the channels is, for each part, a view of the whole. Such a view of a
#            tensor in channels last counts as contiguous in no layout, and kernels that go by the layout of the
#            gradient take their slow path. Backward, float32, one thread, 64 channels of 64 x 64 beside 40 others,
#            batch of 8: batch norm took 4 to 6 times as long as when the gradient was first copied into channels
#            last, copy included, bilinear interpolation from 32 x 32 too: what the joins of a U-Net do. The results
#            are equal to rounding. Ratios are of one machine, with AVX2; the script demands 2.
# Version    torch 2.14.1, x86-64, Python 3.11.
# Source     https://docs.pytorch.org/tutorials/intermediate/memory_format_tutorial.html: operators keep the layout,
#            but for some that are to be reported; no word of gradients. In the code UpSampleKernel.cpp and
#            batch_norm_kernel.cpp of aten/src/ATen/native/cpu, which choose the path by layout. No report was found.
# Guessed    That a network and its images in channels last run in it throughout, also backward.
# Way out    part.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile torch==2.14.1 numpy==2.4.6

"$work/venv/bin/python" - <<'PY'
import statistics
import sys
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(0)
LAST = torch.channels_last


def maps(channels, side):
    return torch.randn(8, channels, side, side).contiguous(memory_format=LAST)


def backward(operator, channels, side, laid_out):
    """Median milliseconds of the operator's backward behind a concatenation, and the gradient."""
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(8, channels, side, side, generator=generator).contiguous(memory_format=LAST)
    part = operator(start.requires_grad_())
    size = part.shape[-1]
    assert part.is_contiguous(memory_format=LAST)
    whole = torch.cat([part, maps(40, size)], dim=1)
    assert whole.is_contiguous(memory_format=LAST)
    upstream = torch.randn(whole.shape, generator=generator).contiguous(memory_format=LAST)
    [gradient] = torch.autograd.grad(whole, part, upstream, retain_graph=True)
    assert not gradient.is_contiguous() and not gradient.is_contiguous(memory_format=LAST)
    times = []
    for _ in range(13):
        begun = time.process_time_ns()
        given = gradient.contiguous(memory_format=LAST) if laid_out else gradient
        [found] = torch.autograd.grad(part, start, given, retain_graph=True)
        times.append((time.process_time_ns() - begun) / 1e6)
    return statistics.median(times[2:]), found


print("torch", torch.__version__, "|", torch.backends.cpu.get_cpu_capability())
held = True
for name, operator in {
    "batch norm": torch.nn.BatchNorm2d(64),
    "bilinear interpolation": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
}.items():
    side = 64 if name == "batch norm" else 32
    (slow, one), (fast, other) = (backward(operator, 64, side, laid_out) for laid_out in (False, True))
    print(f"{name}: {slow:.1f} ms, laid out in channels last first {fast:.1f} ms, {slow / fast:.1f} times")
    held &= slow > 2 * fast and torch.allclose(one, other, atol=1e-4)
print("as described" if held else "NOT as described")
sys.exit(not held)
PY
