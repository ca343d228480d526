"""How often the intervals of tools/estimators.py hold the true area of a class.

    python benchmarks/coverage.py

40 maps with errors, drawn at random, of 2 to 8 classes, the rarest 1% of the map; of each 2,000 samples by
every design and four sizes. Classes are missed anywhere, so that many an error is seen at no point. Beside
our intervals stand the papers', estimate ± Z95 standard errors. Writes results/assess/coverage.csv.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / name) for name in ("", "tools")]

import numpy as np
from estimators import Z95, allocate, interval, measures, ratio
from tqdm import tqdm

import landcover_segmentation as lc

SAMPLES = 2_000
DESIGNS = ("floor", "equal", "proportional", "neyman", "simple")
RESULT = Path(__file__).resolve().parent / "results/assess/coverage.csv"


def random_map(rng: lc.Rng) -> tuple[np.ndarray, np.ndarray]:
    """Each map class's share of the region, (C,), and of the true classes in it, (C, C)."""
    num_classes = int(rng.choice([2, 3, 5, 8]))
    weights = np.maximum(np.sort(rng.dirichlet(np.full(num_classes, 0.7)))[::-1], 0.01)
    weights[-1] = 0.01
    weights[0] += 1 - weights.sum()
    right, truth = rng.uniform(0.6, 0.98, num_classes), np.zeros((num_classes, num_classes))
    for at in range(num_classes):
        truth[at] = np.insert(rng.dirichlet(np.full(num_classes - 1, 0.5)) * (1 - right[at]), at, right[at])
    return weights, truth


def draw(design: str, size: int, weights: np.ndarray, truth: np.ndarray, rng: lc.Rng) -> np.ndarray:
    """Samples (R, C, C, C), but those with fewer than two points in a stratum, which are not estimated so."""
    if design == "simple":
        cells = rng.multinomial(size, (weights[:, None] * truth).ravel(), SAMPLES).reshape(-1, *truth.shape)
    else:
        right = truth.diagonal()
        sizes = allocate(size, weights, design, np.sqrt(right * (1 - right)))
        cells = np.stack([rng.multinomial(sizes[at], row, SAMPLES) for at, row in enumerate(truth)], 1)
    cells = cells[(cells.sum(2) >= 2).all(1)].astype(float)
    counts = np.zeros((len(cells), *cells.shape[1:], cells.shape[1]))
    np.einsum("rhhc->rhc", counts)[:] = cells
    return counts


def main() -> None:
    rng, rows = np.random.default_rng(5), []
    for number in tqdm(range(40)):
        weights, truth = random_map(rng)
        for size in (150, 300, 500, 1000):
            for design in DESIGNS:
                counts = draw(design, size, weights, truth, rng)
                if len(counts) < SAMPLES / 4:
                    continue
                for at, true in enumerate(weights @ truth):
                    given = counts, weights, *measures(len(truth))["area share", at]
                    (low, high), (estimate, error) = interval(*given), ratio(*given)
                    held = (
                        np.mean((low <= true) & (true <= high)),
                        np.mean(abs(estimate - true) <= Z95 * error),
                    )
                    row = {"map": number, "points": size, "design": design, "classes": len(truth)}
                    row |= {"true_share": f"{true:.4f}", "held_percent": f"{100 * held[0]:.1f}"}
                    rows.append(row | {"symmetric_held_percent": f"{100 * held[1]:.1f}"})
    lc.write_history(RESULT, rows)


if __name__ == "__main__":
    main()
