"""A light classifier over a network's frozen features, fitted anew to all clicks in well under a second.

The network sees each tile once; after that a click costs a small linear system. `annotate.py` shows its map.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import landcover_segmentation as lc

STRIDE = 4  # pixels of the image per step of the features: finer costs time and shows little more
TILES_KEPT = 4  # whose features stay in memory, 1.5 kB per 4 x 4 pixels
RIDGE = 1.0  # against weights that a handful of clicks do not bear out, per feature


@torch.inference_mode()
def frozen_features(network: nn.Module, image: np.ndarray) -> Tensor:
    """A backbone's layers and the colours of an image (H, W, bands) uint8: (D, H / 4, W / 4) float32."""
    how = getattr(network, "normalisation", {})
    images = lc.to_device(lc.preprocess_image(image, **how), next(network.parameters()).device)
    height, width = images.shape[-2:]
    padded = F.pad(images, (0, -width % 32, 0, -height % 32), mode="replicate")
    found = network.backbone(padded)
    layers = (
        list(found.values()) if isinstance(found, dict) else [each for each in found if each.shape[1] > 3]
    )
    size = [side // STRIDE for side in padded.shape[-2:]]
    how = {"size": size, "mode": "bilinear", "align_corners": False}
    colours = F.interpolate(padded, size=size, mode="area")
    parts = [colours, *(F.interpolate(layer.float(), **how) for layer in layers)]
    # Each layer weighs as much as another, however many channels it has.
    parts = [part / max(1, part.shape[1]) ** 0.5 for part in parts]
    return torch.cat([part.float().cpu()[0] for part in parts])


def fit_ridge(vectors: Tensor, class_ids: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Weights (D, C) and biases (C,) of a ridge regression of vectors (N, D) to one-hot classes (N,).

    Each class weighs the same, however often it was clicked. Hoerl & Kennard 1970,
    https://doi.org/10.1080/00401706.1970.10488634; solved for N unknowns where there are fewer clicks than
    features.
    """
    targets = F.one_hot(class_ids, num_classes).double()
    counts = targets.sum(0).clamp(min=1)
    balance = (1 / counts)[class_ids] * len(class_ids) / (targets.sum(0) > 0).sum()
    vectors = vectors.double()
    mean = (balance[:, None] * vectors).mean(0)
    centre = (balance[:, None] * targets).mean(0)
    root = balance.sqrt()[:, None]
    x, y = (vectors - mean) * root, (targets - centre) * root
    strength = RIDGE * x.square().sum() / max(1, x.shape[1])
    if len(x) < x.shape[1]:
        weights = x.T @ torch.linalg.solve(x @ x.T + (strength + 1e-9) * torch.eye(len(x)), y)
    else:
        weights = torch.linalg.solve(x.T @ x + (strength + 1e-9) * torch.eye(x.shape[1]), x.T @ y)
    return weights.float(), (centre - mean @ weights).float()


def classify(features: Tensor, weights: Tensor, biases: Tensor, shape: tuple[int, int]) -> np.ndarray:
    """The class ids (H, W) uint8 of a tile by its features (D, h, w)."""
    scores = torch.einsum("dc,dhw->chw", weights, features) + biases[:, None, None]
    scores = F.interpolate(scores[None], scale_factor=STRIDE, mode="bilinear", align_corners=False)
    return scores[0, :, : shape[0], : shape[1]].argmax(0).to(torch.uint8).numpy()


class LiveModel:
    """Remembers what the network saw at each click, so that every tile passes through it once.

    read(name) -> (H, W, bands + 1) uint8. build() -> the network, when it is first needed.
    """

    def __init__(self, build: Callable[[], nn.Module], read: Callable[[str], np.ndarray], num_classes: int):
        self.build, self.read, self.num_classes = build, read, num_classes
        self.network: nn.Module | None = None
        self.features: OrderedDict[str, Tensor] = OrderedDict()
        self.vectors: dict[tuple[str, int, int], Tensor] = {}
        self.lock = threading.Lock()

    def see(self, name: str) -> Tensor:
        """The features of a tile, (D, h, w)."""
        if name not in self.features:
            self.network = self.network or self.build().eval()
            self.features[name] = frozen_features(self.network, self.read(name)[..., :-1])
        self.features.move_to_end(name)
        while len(self.features) > TILES_KEPT:
            self.features.popitem(last=False)
        return self.features[name]

    def learn(self, labels: dict[tuple[str, int, int], int], seconds: float) -> tuple:
        """Fits to the labels {(name, x, y): class id}: weights, biases, and the number of labels learnt from.

        Tiles that were not seen yet are, at least one, for so many seconds; the rest waits for the next time.
        """
        end = time.monotonic() + seconds
        self.vectors = {pixel: vector for pixel, vector in self.vectors.items() if pixel in labels}
        # Tile by tile, those at hand first.
        for name, x, y in sorted(
            labels.keys() - self.vectors.keys(), key=lambda at: (at[0] not in self.features, at)
        ):
            if name in self.features or not self.vectors or time.monotonic() < end:
                self.vectors[name, x, y] = self.see(name)[:, y // STRIDE, x // STRIDE].clone()
        known = [(self.vectors[pixel], label) for pixel, label in labels.items() if pixel in self.vectors]
        vectors, class_ids = zip(*known, strict=True)
        weights, biases = fit_ridge(torch.stack(vectors), torch.tensor(class_ids), self.num_classes)
        never = [index for index in range(self.num_classes) if index not in class_ids]
        biases[never] = -1e9  # a class without a click is not shown; infinity would be NaN when interpolated
        return weights, biases, len(known)

    def draw(self, name: str, labels: dict, seconds: float = 0.5) -> tuple[np.ndarray, int]:
        """The map (H, W) uint8 of a tile by all labels, and from how many of them it was learnt."""
        with self.lock:
            features = self.see(name)
            weights, biases, learnt = self.learn(labels, seconds)
            return classify(features, weights, biases, self.read(name).shape[:2]), learnt
