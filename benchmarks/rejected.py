"""Ideas that were measured and lost. The program does without them; study.py still runs them.

Gains in mIoU on the Dubai tiles: split `choose`, every 2nd tile, 128 px, 12 epochs, 20 points, three seeds,
mean ± standard deviation of the pairs, from benchmarks/results/study.csv.

  pairwise      -0.010 ± 0.018 over `teacher`   a gated CRF loss pulls neighbours of like colour to one class
                                                (Obukhov et al. 2019, https://arxiv.org/abs/1906.04651)
  regions       -0.028 ± 0.016 over `teacher`   a point labels its whole superpixel
                                                (compare Rivier et al. 2023, https://arxiv.org/abs/2309.05490)
  labels-views  -0.003 ± 0.012 over `labels`    the teacher looks at one view of a tile, not at two
  labels+views  -0.001 ± 0.008 over `labels`    at four, which makes training 1.4 times as long

    python benchmarks/study.py --data DATA --split choose --points 20 \\
        --variants teacher pairwise regions labels labels-views labels+views
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import numpy as np
import torch
import torch.nn.functional as F
from map_scenes import pairwise_messages
from torch import Tensor, nn

import landcover_segmentation as lc


def smp_unet(backbone: str, num_classes: int, imagenet: bool) -> tuple[nn.Module, nn.Module]:
    """The U-Net of segmentation_models_pytorch on an EfficientNet-Lite, as an entry of `lc.ARCHITECTURES`."""
    encoder, classifier = lc.smp_network("Unet", f"timm-tf_{backbone}", num_classes, imagenet=False)
    if imagenet:
        lc.load_lite_imagenet(encoder, backbone)
    return encoder, classifier


lc.ARCHITECTURES["smp_unet"] = {name: partial(smp_unet, name) for name in lc.LITE_BACKBONES}


class PairwiseLoss(nn.Module):
    """Asks neighbours of like colour to be of one class: the gated CRF loss.

    loss(logits (B, C, H, W), images (B, 3, H, W) normalised) -> scalar: for each pixel the weights of its
    neighbours (see `pairwise_messages`) times the probability that the two differ in class, averaged over
    the pixels. Computed at 1 / reduction of the image's size. Pixels of exactly the mean colour, 0, are
    beyond the tile and have no part in it. It knows no labels, so labelled pixels take part.
    """

    def __init__(self, reduction: int = 2, radius: int = 5, sigma_xy: float = 6.0, sigma_rgb: float = 0.1):
        super().__init__()
        self.reduction, self.kernel = reduction, (radius, sigma_xy, sigma_rgb)

    def forward(self, logits: Tensor, images: Tensor) -> Tensor:
        probabilities = F.avg_pool2d(logits.float().softmax(1), self.reduction)
        seen = (images != 0).any(1, keepdim=True).float()
        inside = F.avg_pool2d(seen, self.reduction) == 1
        told = torch.cat([probabilities.detach(), torch.ones_like(probabilities[:, :1])], 1) * inside
        heard, _ = pairwise_messages(told, F.avg_pool2d(images.float(), self.reduction), *self.kernel)
        # The kernel is symmetric, the gradient of sum(p K p) is 2 K p: no graph through neighbours is needed.
        agreement = (probabilities * heard[:, :-1]).sum(1, keepdim=True)
        return ((heard[:, -1:] - 2 * agreement + agreement.detach()) * inside).mean()


def find_superpixels(image: np.ndarray, pixels_each: int = 100) -> np.ndarray:
    """Finds regions of like colour, (H, W) ids, of about pixels_each pixels, in (H, W, 3) uint8 RGB.

    SLIC (Achanta et al. 2012, https://doi.org/10.1109/TPAMI.2012.120), by scikit-image. Raises InputError
    without scikit-image.
    """
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise lc.InputError("superpixels need scikit-image: pip install scikit-image") from error
    count = max(1, image.shape[0] * image.shape[1] // pixels_each)
    return slic(image, count, compactness=10, start_label=0)


def spread_points(images: Tensor, targets: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Gives every pixel of a superpixel the labels of the points in it, as shares.

    images: (B, 3, H, W), normalised; targets: (B, H, W) class ids, 255 = unlabelled.
    Returns soft labels (B, C, H, W) that sum to 1, and where there are any, (B, H, W) bool.
    """
    mean, std = torch.tensor([lc.IMAGENET_MEAN, lc.IMAGENET_STD]).view(2, 3, 1, 1)
    rgb = ((images.cpu().float() * std + mean).clamp(0, 1) * 255).byte()
    pictures = rgb.permute(0, 2, 3, 1).cpu().numpy()
    ids = torch.stack([torch.from_numpy(find_superpixels(picture)) for picture in pictures]).to(images.device)
    ids += (int(ids.max()) + 1) * torch.arange(len(ids), device=ids.device).view(
        -1, 1, 1
    )  # none spans two tiles
    votes = torch.zeros(int(ids.max()) + 1, num_classes, device=targets.device)
    labelled = targets != lc.IGNORE_INDEX
    one = torch.ones((), device=targets.device)
    votes.index_put_((ids[labelled], targets[labelled]), one, accumulate=True)
    total = votes.sum(1, keepdim=True)
    return (votes / total.clamp(min=1))[ids].movedim(-1, 1), total[ids].squeeze(-1) > 0


class Rejected(lc.UnlabelledPixels):
    """What the unlabelled pixels teach, and what was tried beside it; for one process, not for torchrun.

    views: of each tile that the teacher looks at, 1 to 8. pairwise_weight: of `PairwiseLoss`, which grows
    as the teacher's labels do. region_weight: of the cross-entropy on the soft labels of `spread_points`,
    over unlabelled pixels. settings: those of `UnlabelledPixels`.
    """

    def __init__(
        self,
        model: nn.Module,
        total_steps: int,
        *,
        views: int = lc.UnlabelledPixels.views,
        pairwise_weight: float = 0.0,
        region_weight: float = 0.0,
        **settings,
    ):
        super().__init__(model, total_steps, **settings)
        self.views, self.pairwise = views, PairwiseLoss()
        self.pairwise_weight, self.region_weight = pairwise_weight, region_weight

    def loss(self, logits: Tensor, images: Tensor, targets: Tensor, soft_labels: Tensor | None) -> Tensor:
        loss = super().loss(logits, images, targets, soft_labels)
        if self.pairwise_weight:
            loss = loss + self.pairwise_weight * self.ramp() * self.pairwise(logits, images)
        if self.region_weight:
            soft_labels, covered = spread_points(images, targets, logits.shape[1])
            covered &= self.unlabelled(images, targets)
            on_regions = F.cross_entropy(logits.float(), soft_labels * covered[:, None])
            on_regions = on_regions / covered.float().mean().clamp(min=1e-9)
            loss = loss + self.region_weight * on_regions
        return loss
