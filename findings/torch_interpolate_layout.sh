#!/usr/bin/env bash
# On a CPU, enlarging small feature maps takes 20 times as long in torch's default layout as in channels last.
#
# Behaviour  F.interpolate by a factor of two, float32, one thread: (8, 128, 16, 16) took 18 to 21 times as
#            long contiguous as in channels last when bilinear, 30 to 50 times when nearest; (4, 512, 16, 16)
#            33 to 76 times. Even to convert, enlarge and convert back took less than half as long. The same
#            with ATEN_CPU_CAPABILITY=avx2. The gap closes as maps grow and channels dwindle: at
#            (8, 5, 64, 64) both layouts cost the same. The values are equal to rounding. Ratios are of one
#            machine; the script demands 4, 8 and 1.2.
# Version    torch 2.14.1, x86-64, Python 3.11.
# Source     https://github.com/pytorch/pytorch, aten/src/ATen/native/cpu/UpSampleKernel.cpp, which has a
#            path of its own for each layout. No word of layout or cost at
#            https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.interpolate.html.
# Guessed    That the layout matters to convolutions, and little to a copy of neighbouring pixels.
# Way out    Keep the decoder of a network in channels last on CPUs, as one would for its convolutions.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile torch==2.14.1 numpy==2.4.6

cat > "$work/run.py" <<'EOF'
import statistics
import sys
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(1)
torch.manual_seed(0)


def milliseconds(work, repeats=41):
    times = []
    for _ in range(repeats + 2):
        start = time.process_time_ns()
        work()
        times.append((time.process_time_ns() - start) / 1e6)
    return statistics.median(times[2:])


def enlarge(images, mode):
    return F.interpolate(images, scale_factor=2, mode=mode)


def there_and_back(images, mode):
    return enlarge(images.contiguous(memory_format=torch.channels_last), mode).contiguous()


print("torch", torch.__version__, "|", torch.backends.cpu.get_cpu_capability())
held = True
for shape in ((8, 128, 16, 16), (4, 512, 16, 16)):
    plain = torch.randn(shape)
    last = plain.contiguous(memory_format=torch.channels_last)
    for mode, least in (("bilinear", 4), ("nearest", 8)):
        same = torch.allclose(enlarge(plain, mode), enlarge(last, mode), atol=1e-5)
        slow, fast = (milliseconds(lambda x=x, m=mode: enlarge(x, m)) for x in (plain, last))
        detour = milliseconds(lambda m=mode: there_and_back(plain, m))
        print(f"{shape} {mode}: {slow:.2f} ms, channels last {fast:.2f}, there and back {detour:.2f}")
        held = held and same and slow > least * fast and slow > 1.2 * detour
print("as described" if held else "NOT as described")
sys.exit(not held)
EOF
OMP_NUM_THREADS=1 "$work/venv/bin/python" "$work/run.py"
