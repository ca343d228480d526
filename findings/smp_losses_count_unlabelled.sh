#!/usr/bin/env bash
# Two losses of segmentation_models_pytorch leave ignored pixels out of the sum, but not out of the count.
#
# Behaviour  A tile of 256 x 256 pixels has 100 labels, the rest is 255. SoftCrossEntropyLoss(ignore_index=255) is the
#            sum over 100 pixels, divided by 65536: it and its gradient are 655 times smaller than those of
#            torch's cross_entropy, and the sparser the labels, the smaller. SoftBCEWithLogitsLoss does the same.
#            FocalLoss, DiceLoss, TverskyLoss and LovaszLoss of the same package give what the 100 pixels alone give.
#            So in a sum, as cross entropy + Dice, the first hardly counts: its share in the gradients is 0.8% here,
#            where torch's has 83%.
# Version    segmentation_models_pytorch 0.6.0, torch 2.14.1, Python 3.11.
# Source     https://smp.readthedocs.io/en/latest/losses.html calls it a drop-in replacement for torch's. Reported,
#            and closed as stale: https://github.com/qubvel-org/segmentation_models.pytorch/issues/852
# Guessed    That ignored pixels change nothing, as in torch and in the package's other losses.
# Way out    reduction="sum", divided by the number of labels (at least 1); or torch's cross_entropy, which has
#            label_smoothing, too.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile segmentation-models-pytorch==0.6.0 torch==2.14.1 \
    torchvision==0.29.1 timm==1.0.31 numpy==2.4.6

"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from segmentation_models_pytorch import losses

print("segmentation_models_pytorch", smp.__version__, "| torch", torch.__version__)
torch.manual_seed(0)
classes, side, labels = 4, 256, 100
logits = torch.randn(1, classes, side, side)
truth = torch.randint(classes, (1, side, side))
known = torch.zeros(side * side, dtype=torch.bool)
known[torch.randperm(side * side)[:labels]] = True
known = known.reshape(1, side, side)


def outcome(loss, logits: torch.Tensor, targets: torch.Tensor) -> tuple[float, float]:
    """A loss and the sum of its gradient's absolute values."""
    logits = logits.clone().requires_grad_()
    value = loss(logits, targets)
    value.backward()
    return value.item(), logits.grad.abs().sum().item()


def one_class(loss):
    return lambda logits, targets: loss(logits[:, :1], torch.where(targets == 255, 255, targets % 2)[:, None].float())


cases = {
    "torch's cross_entropy": (lambda *of: F.cross_entropy(*of, ignore_index=255), 1),
    "SoftCrossEntropyLoss": (losses.SoftCrossEntropyLoss(smooth_factor=0.0, ignore_index=255), labels / side**2),
    "the same, smoothed": (losses.SoftCrossEntropyLoss(smooth_factor=0.1, ignore_index=255), labels / side**2),
    "the same, as a sum": (losses.SoftCrossEntropyLoss("sum", 0.1, ignore_index=255), 1),
    "SoftBCEWithLogitsLoss": (one_class(losses.SoftBCEWithLogitsLoss(ignore_index=255)), labels / side**2),
    "FocalLoss": (losses.FocalLoss("multiclass", ignore_index=255), 1),
    "DiceLoss": (losses.DiceLoss("multiclass", ignore_index=255), 1),
    "TverskyLoss": (losses.TverskyLoss("multiclass", ignore_index=255), 1),
    "LovaszLoss": (losses.LovaszLoss("multiclass", ignore_index=255), 1),
}
held, pulls = True, {}
for name, (loss, share) in cases.items():
    sparse = outcome(loss, logits, torch.where(known, truth, 255))
    alone = outcome(loss, logits.permute(0, 2, 3, 1)[known].T[None, :, None], truth[known][None, None])
    pulls[name] = sparse[1]
    print(f"{name}: {sparse[0]:.6f}, of the labels alone {alone[0]:.6f}; gradient {sparse[1] / alone[1]:.5f} of theirs")
    held &= all(abs(one / other / share - 1) < 1e-3 for one, other in zip(sparse, alone, strict=True))
hard, soft, dice = (pulls[name] for name in ("torch's cross_entropy", "SoftCrossEntropyLoss", "DiceLoss"))
print(f"share in the gradients of cross entropy + Dice: {soft / (soft + dice):.2%}, torch's {hard / (hard + dice):.2%}")
held &= soft / (soft + dice) < 0.02 and hard / (hard + dice) > 0.5
print("as described" if held else "NOT as described")
sys.exit(not held)
PY
