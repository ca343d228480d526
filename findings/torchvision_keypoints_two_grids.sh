#!/usr/bin/env bash
# torchvision's KeyPoints are flipped as numbers of pixels, but turned and resized as places in the plane.
#
# Behaviour  A labelled pixel in column 3 may be given as 3, its number, or 3.5, its middle. Given as numbers, points
#            follow their pixels through flips; through rotation by 90 degrees they come to lie one pixel off, by 180
#            degrees one in each direction. Given as middles they follow through rotation and resizing; flips put
#            them one off. So both flips together are not what half a turn is: all points differ by 1, 1. Boxes,
#            of the same module, are flipped as places in the plane: a point on a box's corner leaves it.
# Version    torchvision 0.29.1, torch 2.14.1, Python 3.11. KeyPoints came with 0.23.
# Source     https://docs.pytorch.org/vision/stable/generated/torchvision.tv_tensors.KeyPoints.html: x and y along
#            width and height; no word of where in a pixel they lie. No report of it was found. In the code,
#            torchvision/transforms/v2/functional/_geometry.py: width - 1 in the flips, width / 2 in the rotation.
# Guessed    That one of the two ways is right throughout.
# Way out    Let labels go along as a tv_tensors.Mask; or give middles, and add 1 to the coordinate that a flip turned.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile torchvision==0.29.1 torch==2.14.1 numpy==2.4.6

"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import torch
import torchvision
from torchvision import tv_tensors as tv
from torchvision.transforms.v2 import functional as F

print("torchvision", torchvision.__version__, "| torch", torch.__version__)
height, width = 6, 8
numbers = torch.arange(height * width)
image = tv.Mask(numbers.reshape(1, height, width))  # each pixel has a value of its own
pixels = torch.stack([numbers % width, numbers // width], 1).float()
steps = {
    "horizontal flip": F.horizontal_flip,
    "vertical flip": F.vertical_flip,
    "both flips": lambda item: F.vertical_flip(F.horizontal_flip(item)),
    "half a turn": lambda item: F.rotate(item, 180),
    "quarter turn": lambda item: F.rotate(item, 90, expand=True),
    "three times the size": lambda item: F.resize(item, [3 * height, 3 * width]),
}
expected = {  # the error in pixels of numbers and of middles
    "horizontal flip": ([0, 0], [-1, 0]),
    "vertical flip": ([0, 0], [0, -1]),
    "both flips": ([0, 0], [-1, -1]),
    "half a turn": ([1, 1], [0, 0]),
    "quarter turn": ([0, 1], [0, 0]),
    "three times the size": ([-1, -1], [0, 0]),  # of the middle of its nine pixels
}

held = True
for name, step in steps.items():
    found = step(image)[0]
    places = torch.stack([(found == number).nonzero().flip(1).float().mean(0) for number in numbers])
    for way, shift, right in zip(("numbers", "middles"), (0, 0.5), expected[name], strict=True):
        points = step(tv.KeyPoints(pixels + shift, canvas_size=(height, width)))
        off = (points.as_subclass(torch.Tensor) - shift - places).unique(dim=0)
        print(f"{name}, {way}: off by", [[round(value, 3) + 0.0 for value in one] for one in off.tolist()])
        held &= torch.allclose(off, torch.tensor(right).float(), atol=1e-4)

box = tv.BoundingBoxes(torch.tensor([[2.0, 1, 5, 4]]), format="XYXY", canvas_size=(height, width))
corner = tv.KeyPoints(box[:, :2].as_subclass(torch.Tensor), canvas_size=(height, width))
sides, point = F.horizontal_flip(box)[0, [0, 2]].tolist(), F.horizontal_flip(corner)[0, 0].item()
print("flipped: a box from 2 to 5 is from", *sides, "| a point on its side at 2 is at", point)
held &= sides == [3, 6] and point == 5
print("as described" if held else "NOT as described")
sys.exit(not held)
PY
