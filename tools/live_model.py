"""A light classifier over a network's frozen features, fitted anew to all clicks in well under a second.

The network sees each tile once; after that a click costs a small linear system. `annotate.py` shows its map.
"""

from __future__ import annotations

import threading
import time
import typing
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import landcover_segmentation as lc

STRIDE = 4  # pixels of the image per step of the features: finer costs time and shows little more
MOST_STEPS = 2**16  # of an image: a larger one takes longer strides, or each click would cost half a minute
BYTES_KEPT = 2**28  # of features that stay in memory: 2.1 kB per 4 x 4 pixels, 31 tiles of 256 x 256
RIDGE = 1.0  # against weights that a handful of clicks do not bear out
KERNEL = 0.3  # how fast likeness falls with distance: by 1 / e at the root of spread / KERNEL
ANCHORS = 512  # clicks to which pixels are compared: more cost time and show little more


def stride_of(height: int, width: int) -> int:
    """Pixels of an image per step of its features; the network's, which halves five times, at most."""
    stride = STRIDE
    while height * width > MOST_STEPS * stride**2 and stride < 32:
        stride *= 2
    return stride


@torch.inference_mode()
def frozen_features(network: nn.Module, image: np.ndarray) -> Tensor:
    """A backbone's layers and the colours of an image (H, W, bands) uint8: (D, h, w) float32.

    h and w are the sides, filled up to multiples of 32, over `stride_of` the image.
    """
    normalisation = getattr(network, "normalisation", {})
    images = lc.to_device(lc.preprocess_image(image, **normalisation), next(network.parameters()).device)
    height, width = images.shape[-2:]
    padded = F.pad(images, (0, -width % 32, 0, -height % 32), mode="replicate")
    found = network.backbone(padded)  # of EfficientNet-Lite five maps
    layers = found.values() if isinstance(found, dict) else [each for each in found if each.shape[1] > 3]
    size = [side // stride_of(height, width) for side in padded.shape[-2:]]
    how = {"size": size, "mode": "bilinear", "align_corners": False}
    colours = F.interpolate(padded, size=size, mode="area")
    parts = [colours, *(F.interpolate(layer.float(), **how) for layer in layers)]
    # Each layer weighs as much as another, however many channels it has.
    parts = [part / max(1, part.shape[1]) ** 0.5 for part in parts]
    return torch.cat([part.float().cpu()[0] for part in parts])


class Classifier(typing.NamedTuple):
    """A kernel ridge regression from features to classes, see `fit`."""

    anchors: Tensor  # (M, D): the clicks to which a pixel is compared
    spread: Tensor  # mean squared distance of the clicks from their mean
    weights: Tensor  # (M, C)
    biases: Tensor  # (C,)

    def scores(self, vectors: Tensor) -> Tensor:
        """(N, D) to (N, C), some at a time, for one similarity per anchor takes memory.

        The scores of a pixel add up to 1, and that of a class without a click is 0: it never is the highest.
        """
        parts = [
            similarities(part, self.anchors, self.spread) @ self.weights + self.biases
            for part in vectors.split(2**15)
        ]
        return torch.cat(parts)


def similarities(vectors: Tensor, anchors: Tensor, spread: Tensor) -> Tensor:
    """Gaussian kernel in 0..1 of vectors (N, D) with anchors (M, D), (N, M)."""
    return (-KERNEL * torch.cdist(vectors, anchors).square() / spread).exp()


def fit(vectors: Tensor, class_ids: Tensor, num_classes: int) -> Classifier:
    """Fits a kernel ridge regression of vectors (N, D) to class ids (N,) int64.

    Each class weighs the same, however often it was clicked. Saunders et al. 1998, Ridge regression learning
    algorithm in dual variables, ICML; beyond ANCHORS clicks by Nystrom's method, Williams & Seeger 2001,
    Using the Nystrom method to speed up kernel machines, NIPS 13.
    """
    targets = F.one_hot(class_ids, num_classes).double()
    counts = targets.sum(0)
    balance = len(targets) / (counts > 0).sum() / counts[class_ids][:, None]
    biases = (counts > 0) / (counts > 0).sum()
    kept = torch.linspace(0, len(vectors) - 1, min(len(vectors), ANCHORS)).round().long()
    spread = (vectors - vectors.mean(0)).square().sum(1).mean().clamp(min=1e-12)
    anchors = vectors[class_ids.argsort(stable=True)[kept]]
    near = similarities(vectors, anchors, spread).double()
    among = similarities(anchors, anchors, spread).double()
    normal = near.T @ (balance * near) + RIDGE * among + 1e-9 * torch.eye(len(kept))
    weights = torch.linalg.solve(normal, near.T @ (balance * (targets - biases)))
    return Classifier(anchors, spread, weights.float(), biases)


def scores_of(features: Tensor, classifier: Classifier, shape: tuple[int, int]) -> Tensor:
    """The scores (C, H, W) of the pixels of a tile by its features (D, h, w); shape: (H, W)."""
    depth, height, width = features.shape
    scores = classifier.scores(features.reshape(depth, -1).T).T.reshape(1, -1, height, width)
    scores = F.interpolate(scores, scale_factor=stride_of(*shape), mode="bilinear", align_corners=False)
    return scores[0, :, : shape[0], : shape[1]]


class LiveModel:
    """Remembers what the network saw at each click, so that every tile passes through it once.

    read(name) -> (H, W, bands + 1) uint8. build() -> the network, when it is first needed.
    """

    def __init__(self, build: Callable[[], nn.Module], read: Callable[[str], np.ndarray], num_classes: int):
        self.build, self.read, self.num_classes = build, read, num_classes
        self.network: nn.Module | None = None
        self.features: OrderedDict[str, tuple[Tensor, int]] = OrderedDict()
        self.vectors: dict[tuple[str, int, int], Tensor] = {}
        self.fitted: tuple[dict, Classifier] | None = None  # to all of these labels, of the last time
        self.lock = threading.Lock()

    def see(self, name: str) -> tuple[Tensor, int]:
        """The features of a tile, (D, h, w), and their stride."""
        if name not in self.features:
            self.network = self.network or self.build().eval()
            image = self.read(name)[..., :-1]
            self.features[name] = frozen_features(self.network, image), stride_of(*image.shape[:2])
        self.features.move_to_end(name)
        while len(self.features) > 1 and sum(each.nbytes for each, _ in self.features.values()) > BYTES_KEPT:
            self.features.popitem(last=False)
        return self.features[name]

    def learn(self, labels: dict[tuple[str, int, int], int], seconds: float) -> tuple[Classifier, int]:
        """Fits to the labels {(name, x, y): class id}: a classifier, and the number of labels learnt from.

        Tiles that were not seen yet are, at least one, for so many seconds; the rest waits for the next time.
        """
        if self.fitted and self.fitted[0] == labels:
            return self.fitted[1], len(labels)
        end = time.monotonic() + seconds
        self.vectors = {pixel: vector for pixel, vector in self.vectors.items() if pixel in labels}
        # Tile by tile, those at hand first.
        for name, x, y in sorted(
            labels.keys() - self.vectors.keys(), key=lambda at: (at[0] not in self.features, at)
        ):
            if name in self.features or not self.vectors or time.monotonic() < end:
                features, stride = self.see(name)
                self.vectors[name, x, y] = features[:, y // stride, x // stride].clone()
        known = [(self.vectors[pixel], label) for pixel, label in labels.items() if pixel in self.vectors]
        vectors, class_ids = zip(*known, strict=True)
        classifier = fit(torch.stack(vectors), torch.tensor(class_ids), self.num_classes)
        self.fitted = (dict(labels), classifier) if len(known) == len(labels) else None
        return classifier, len(known)

    def draw(self, name: str, labels: dict, seconds: float = 0.5) -> tuple[np.ndarray, int]:
        """The map (H, W) uint8 of a tile by all labels, and from how many of them it was learnt."""
        with self.lock:
            features, _ = self.see(name)
            classifier, learnt = self.learn(labels, seconds)
            scores = scores_of(features, classifier, self.read(name).shape[:2])
            return scores.argmax(0).to(torch.uint8).numpy(), learnt
