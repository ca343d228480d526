#!/usr/bin/env bash
# MONAI's MaskedDiceLoss counts every masked pixel as background, if it makes the one-hot classes itself.
#
# Behaviour  A tile of 64 x 64 pixels and 4 classes, 1% of it labelled, the rest out by the mask. The prediction is
#            right everywhere. MaskedDiceLoss(softmax=True, to_onehot_y=True) is 0.25 instead of 0; with 2 classes
#            0.49. With one-hot targets given to it, it is 0; so is DiceLoss(ignore_index=255), whose ignored pixels
#            are none. The mask sets the target to 0 first, and 0 is a class: class 0 has 4055 pixels too many, none
#            predicted as it. Its Dice stays near 0 however right the labels are, and of an undecided prediction the
#            gradient that its labelled pixels get for it is a tenth of what they get with one-hot targets.
# Version    MONAI 1.6.1, torch 2.14.1, numpy 2.4.6, Python 3.11.
# Source     https://docs.monai.io/en/stable/losses.html: only the masked region contributes to the loss and to the
#            gradient. The same for softmax and sigmoid was reported and mended:
#            https://github.com/Project-MONAI/MONAI/issues/8655. That masks by product suit few losses, and that of
#            sparse labels, is said at https://github.com/Project-MONAI/MONAI/issues/4193, closed; of to_onehot_y no
#            word there.
# Guessed    What the documentation says, whichever form the target has.
# Way out    Give one-hot targets; or DiceLoss(ignore_index=255) with 255 where the mask is 0, new in 1.6.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile monai==1.6.1 torch==2.14.1 numpy==2.4.6

"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import monai
import torch
import torch.nn.functional as F
from monai.losses import DiceLoss, MaskedDiceLoss

print("MONAI", monai.__version__)
held = True
for classes, expected in ((2, 0.49), (4, 0.25)):
    draw = torch.Generator().manual_seed(0)
    target = torch.randint(0, classes, (1, 1, 64, 64), generator=draw)
    mask = torch.zeros(1, 1, 64, 64)
    mask.view(-1)[torch.randperm(4096, generator=draw)[:41]] = 1
    one_hot = F.one_hot(target[:, 0], classes).permute(0, 3, 1, 2).float()
    logits = (20 * one_hot - 10).requires_grad_()
    options = {"softmax": True, "to_onehot_y": True}
    found = {
        "masked, classes": MaskedDiceLoss(**options)(logits, target, mask).item(),
        "masked, one-hot": MaskedDiceLoss(softmax=True)(logits, one_hot, mask).item(),
        "255 ignored": DiceLoss(**options, ignore_index=255)(logits, torch.where(mask > 0, target, 255)).item(),
    }
    print(f"{classes} classes, all right:", {name: round(value, 4) for name, value in found.items()})
    held &= abs(found["masked, classes"] - expected) < 0.02
    held &= abs(found["masked, one-hot"]) < 0.001 and abs(found["255 ignored"]) < 0.001

# an undecided prediction: the gradient at labelled pixels of class 0 and of class 1
flat = torch.zeros(1, 4, 64, 64)
slope = {}
for name, given, rest in (("classes", target, {"to_onehot_y": True}), ("one-hot", one_hot, {})):
    logits = flat.clone().requires_grad_()
    MaskedDiceLoss(softmax=True, **rest)(logits, given, mask).backward()
    slope[name] = [logits.grad[0, c][((target == c) & (mask > 0))[0, 0]].mean().abs().item() for c in (0, 1)]
    print(f"{name}: gradient of a pixel's own class, class 0 and 1:", [f"{value:.1e}" for value in slope[name]])
held &= slope["classes"][0] < 0.15 * slope["one-hot"][0] and slope["classes"][1] > 0.8 * slope["one-hot"][1]
print("as described" if held else "NOT as described")
sys.exit(not held)
PY
