"""Scores the light classifier of tools/live_model.py, which redraws the map at each click.

    python benchmarks/clicks.py --data DATA --work WORK [--split choose] [--every 3]

Two questions. On the very points of which the random forest of study.py learns, what does it reach? And
where pays the next click: rounds of five per tile as each strategy of tools/active_learning.py places them,
with the light classifier as the model that a person sees. That takes minutes, where `active_learning.py
simulate` asks the same of the whole network for hours; and no val label is seen, for classes are weighed by
their IoU at the labelled pixels. DATA and the splits are those of study.py; a row each goes to --csv.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import study

sys.path.insert(0, str(study.ROOT / "tools"))

import active_learning as al
import numpy as np
import torch
from live_model import STRIDE, Classifier, fit, frozen_features, scores_of
from torch import Tensor
from tqdm import tqdm

import landcover_segmentation as lc

BUDGETS = 5, 20, 100  # points per tile, of those of the forest
PER_ROUND, ROUNDS = 5, 4
SHARPNESS = 10.0  # of the regression's scores, taken as logits
NUM_CLASSES = len(study.CLASSES)


def fit_tiles(features: list[Tensor], masks: list[np.ndarray]) -> Classifier:
    """Fits to sparse masks (H, W) of tiles with such features (D, h, w)."""
    vectors, class_ids = [], []
    for found, mask in zip(features, masks, strict=True):
        y, x = np.nonzero(mask != lc.IGNORE_INDEX)
        vectors.append(found[:, y // STRIDE, x // STRIDE].T)
        class_ids.append(torch.from_numpy(mask[y, x]).long())
    return fit(torch.cat(vectors), torch.cat(class_ids), NUM_CLASSES)


def probabilities(features: Tensor, classifier: Classifier, shape: tuple[int, int]) -> Tensor:
    """What stands in for a network's probabilities, (1, C, H, W)."""
    return (SHARPNESS * scores_of(features, classifier, shape))[None].softmax(1)


def click(strategy: str, seed: int, tiles: list, features: list[Tensor]) -> Iterator[tuple[int, Classifier]]:
    """Labels and fits round after round; yields points per tile and the classifier.

    tiles: of each its name and dense mask (H, W); features: of each (D, h, w).
    """
    points = [np.full_like(mask, lc.IGNORE_INDEX) for _, mask in tiles]
    classifier, scores = None, None
    for number in range(1, ROUNDS + 1):
        for index, (name, mask) in enumerate(tiles):
            seen = probabilities(features[index], classifier, mask.shape) if classifier else None
            rng = lc.named_rng(seed, number, name)
            points[index] = al.label_more(strategy, seen, points[index], mask, PER_ROUND, rng, scores)
        classifier = fit_tiles(features, points)
        scores = iou_at_points(classifier, features, points)
        yield number * PER_ROUND, classifier


def iou_at_points(classifier: Classifier, features: list[Tensor], points: list[np.ndarray]) -> list[float]:
    """IoU per class at the labelled pixels: what is known of a class without more labels."""
    confusion = sum(score(classifier, *tile) for tile in zip(features, points, strict=True))
    return lc.compute_iou(confusion).nan_to_num().tolist()


def score(classifier: Classifier, features: Tensor, mask: np.ndarray) -> Tensor:
    """The confusion matrix (C, C) of a tile's map with its mask (H, W)."""
    seen = scores_of(features, classifier, mask.shape).argmax(0)
    return lc.confusion_matrix(seen, torch.from_numpy(mask), NUM_CLASSES)


def learn(config: argparse.Namespace, args: argparse.Namespace, see: Callable[[np.ndarray], Tensor]) -> dict:
    """Classifiers by (strategy, points per tile, seed); strategy is `same points` for those of the forest.

    see: image (H, W, bands) uint8 -> features (D, h, w).
    """
    train_set = choose_tiles(config, args)[0]
    data = [train_set.read(index) for index in range(len(train_set))]
    tiles = [(image.stem, mask) for (image, _), (*_, mask) in zip(train_set.tiles, data, strict=True)]
    features = [see(image) for image, *_ in tqdm(data, "train tiles", disable=None)]
    found = {}
    for seed in args.seeds:
        for budget in BUDGETS:
            config.seed, config.num_points = seed, budget
            train_set = choose_tiles(config, args)[0]
            masks = [train_set.read(index)[1] for index in range(len(train_set))]
            found["same points", budget, seed] = fit_tiles(features, masks)
        for strategy in tqdm(args.strategies, f"seed {seed}", disable=None):
            for budget, classifier in click(strategy, seed, tiles, features):
                found[strategy, budget, seed] = classifier
    return found


def choose_tiles(config: argparse.Namespace, args: argparse.Namespace) -> tuple:
    """The data sets of a split, thinned as study.py does."""
    sets = [lc.make_dataset(config, part) for part in ("train", "val")]
    chosen = study.choose_tiles(args.split, args.every, *(each.tiles for each in sets))
    for each, tiles in zip(sets, chosen, strict=True):
        each.tiles = tiles
    return sets


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flag = parser.add_argument
    flag("--data", type=Path, required=True)
    flag("--work", type=Path, required=True, help="resized tiles")
    flag("--csv", type=Path, default=study.ROOT / "benchmarks/results/clicks.csv")
    flag("--split", choices=("choose", "val"), default="val")
    flag("--every", type=int, default=3, help="learn from one tile in so many (default: %(default)s)")
    flag("--seeds", nargs="+", type=int, default=[0, 1, 2])
    flag("--strategies", nargs="*", choices=al.STRATEGIES, default=list(al.STRATEGIES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    size = 128
    tiles = args.work / "tiles" / str(size)
    study.prepare(args.data, tiles, size)
    own = argparse.Namespace(size=size, epochs=1, device="cpu", precision="auto", class_names=study.CLASSES)
    config = study.settings(own, tiles, {"variant": "plain", "points": BUDGETS[0], "seed": 0})
    network = lc.DeepLabV3Segmentation(NUM_CLASSES, "efficientnet_lite0", "imagenet").eval()
    found = learn(config, args, lambda image: frozen_features(network, image))
    val_set = choose_tiles(config, args)[1]
    confusions = dict.fromkeys(found, 0)
    for index in tqdm(range(len(val_set)), "val tiles", disable=None):
        image, _, mask = val_set.read(index)
        features = frozen_features(network, image)
        for cell, classifier in found.items():
            confusions[cell] = confusions[cell] + score(classifier, features, mask)
    how = {"split": args.split, "every": args.every, "size": size, "weights": network.starting_weights}
    source = study.provenance(
        study.command("clicks.py", data="DATA", work="WORK", split=args.split, every=args.every)
    )
    for (strategy, points, seed), confusion in confusions.items():
        cell = {"strategy": strategy, "points": points, "seed": seed} | how
        if study.in_csv(args.csv, cell):
            print(f"{strategy}, {points} points, seed {seed}: {study.already_in(args.csv)}")
            continue
        scores = lc.Scores(confusion).as_dict()
        study.append(args.csv, cell | {"miou": round(scores["miou"], 4)} | study.iou_columns(scores) | source)


if __name__ == "__main__":
    main()
