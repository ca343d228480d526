#!/usr/bin/env bash
# MONAI's FocalLoss is as many times larger as there are classes, as soon as ignore_index is given.
#
# Behaviour  FocalLoss(to_onehot_y=True, ignore_index=255) of targets without a single 255 is 4 times the loss without
#            ignore_index for 4 classes, 20 times for 20; its gradient, too. include_background=False takes one class
#            less. The sum over classes and pixels is divided by classes times pixels without ignore_index, with it by
#            the pixels left alone. reduction="sum" and "none" do not change, nor do DiceLoss and TverskyLoss of the
#            same package. So in a sum, as Dice + focal, the weights of the two shift with the number of classes.
# Version    MONAI 1.6.1, torch 2.14.1, numpy 2.4.6, Python 3.11. ignore_index is new in 1.6.
# Source     https://docs.monai.io/en/stable/losses.html: "mean" is by the number of elements in the output.
#            ignore_index came with https://github.com/Project-MONAI/MONAI/pull/8757. No report of this was found.
# Guessed    That ignoring what does not occur changes nothing.
# Way out    Divide by the number of channels that count, or reduction="none" and a mean of one's own.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile monai==1.6.1 torch==2.14.1 numpy==2.4.6

"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import monai
import torch
from monai.losses import DiceLoss, FocalLoss, TverskyLoss

print("MONAI", monai.__version__)
held = True
for classes in (4, 20):
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, 32, 32, generator=draw)
    target = torch.randint(0, classes, (2, 1, 32, 32), generator=draw)
    for loss, options, expected in (
        (FocalLoss, {}, classes),
        (FocalLoss, {"use_softmax": True}, classes),
        (FocalLoss, {"include_background": False}, classes - 1),
        (FocalLoss, {"reduction": "sum"}, 1),
        (FocalLoss, {"reduction": "none"}, 1),
        (DiceLoss, {"softmax": True}, 1),
        (TverskyLoss, {"softmax": True}, 1),
    ):
        values, slopes = [], []
        for ignored in ({}, {"ignore_index": 255}):
            given = logits.clone().requires_grad_()
            value = loss(to_onehot_y=True, **options, **ignored)(given, target).sum()
            value.backward()
            values.append(value.item())
            slopes.append(given.grad.norm().item())
        ratios = [values[1] / values[0], slopes[1] / slopes[0]]
        print(f"{classes} classes, {loss.__name__}, {options}: loss times {ratios[0]:.2f}, gradient {ratios[1]:.2f}")
        held &= all(abs(ratio - expected) < 0.01 * expected for ratio in ratios)
print("as described" if held else "NOT as described")
sys.exit(not held)
PY
