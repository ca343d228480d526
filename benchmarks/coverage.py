"""How often the intervals of tools/assess.py hold the true area of a class.

    python benchmarks/coverage.py

Of maps and truths that are known, 2,000 samples each by every design of the program, at four sizes:
- random points on 40 maps drawn at random, 2 to 8 classes, the rarest 1% of the map; on every other one it is
  about 1% of the truth, too, and hardly ever missed;
- tiles of ten points, alike by a correlation of 0.02 to 0.3, on 20 of these maps;
- grids at a step of 19 to 49 pixels, on three of them laid out in patches, 0 to 60 pixels wide.

Beside ours stand the papers' intervals, estimate ± Z95 standard errors, and what was tried and rejected: of
grids ours, narrowed by local differences; of clusters those, too, that the program withholds. An interval
given in less than half of the samples is not scored. Writes results/assess/coverage.csv; 7 minutes of a core.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / name) for name in ("", "tools")]

import assess
import cv2
import estimators
import geo
import numpy as np
from scipy.special import betaincinv
from tqdm import tqdm

import landcover_segmentation as lc

SAMPLES = 2_000
SIZES = (150, 300, 500, 1_000)
SIDE = 600  # of a map in patches, in pixels
PATCHES = (0, 3, 8, 20, 60)  # standard deviation of the blur that makes them, in pixels
TILES = (50, 100, 200, 400)  # of ten points
RESULT = Path(__file__).resolve().parent / "results/assess/coverage.csv"

# ==== Maps and truths ================================================================================


def random_map(rng: lc.Rng, rare: bool) -> tuple[np.ndarray, np.ndarray]:
    """Each map class's share of the region, (C,), and of the true classes in it, (C, C).

    rare: the last class is about as rare as the map says, nine tenths of the errors that miss it undone.
    """
    num_classes = int(rng.choice([2, 3, 5, 8]))
    weights = np.maximum(np.sort(rng.dirichlet(np.full(num_classes, 0.7)))[::-1], 0.01)
    weights[-1] = 0.01
    weights[0] += 1 - weights.sum()
    right, truth = rng.uniform(0.6, 0.98, num_classes), np.zeros((num_classes, num_classes))
    for at in range(num_classes):
        truth[at] = np.insert(rng.dirichlet(np.full(num_classes - 1, 0.5)) * (1 - right[at]), at, right[at])
    if rare:
        undone = 0.9 * truth[:-1, -1]
        truth[:-1, -1] -= undone
        truth[np.arange(num_classes - 1), np.arange(num_classes - 1)] += undone
    return weights, truth


def landscape(weights: np.ndarray, truth: np.ndarray, width: float, rng: lc.Rng) -> np.ndarray:
    """A map and its truth, (2, SIDE, SIDE) class ids in patches of a width in pixels, with such shares."""

    def ranks(values: np.ndarray) -> np.ndarray:
        return values.ravel().argsort().argsort() / values.size

    def field(sigma: float) -> np.ndarray:
        noise = rng.standard_normal((SIDE, SIDE))
        return cv2.GaussianBlur(noise, (0, 0), sigma) if sigma else noise

    mapped = np.searchsorted(weights.cumsum()[:-1], ranks(field(width))).reshape(SIDE, SIDE)
    found, other = np.zeros_like(mapped), field(width / 2)
    for at, row in enumerate(truth):
        found[mapped == at] = np.searchsorted(row.cumsum()[:-1], ranks(other[mapped == at]))
    return np.stack([mapped, found])


# ==== Samples and intervals ==========================================================================


def estimate_areas(cells: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of samples (R, C, C): estimate, standard error and limits of each class's share, (4, C, R).

    As the program does it: strata are the classes of the map, or none where one has fewer than two points.
    """
    cells = cells.astype(float)
    counts, enough = np.zeros((*cells.shape, cells.shape[-1])), (cells.sum(2) >= 2).all(1)
    np.einsum("rhhc->rhc", counts)[:] = cells
    found = np.empty((4, cells.shape[-1], len(cells)))
    of = estimators.measures(cells.shape[-1])
    for which, strata, shares in ((enough, counts, weights), (~enough, cells[:, None], np.ones(1))):
        if which.any():
            for at in range(cells.shape[-1]):
                given = strata[which], shares, *of["area share", at]
                found[:, at, which] = *estimators.ratio(*given), *estimators.interval(*given)
    return found


def of_each_once(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    """Quantiles of beta distributions, (R, H), each computed once: many samples have the same counts."""
    different, back = np.unique(a + 1j * b, return_inverse=True)
    return betaincinv(different.real, different.imag, share)[back].reshape(a.shape)


def random_points(number: int, weights: np.ndarray, truth: np.ndarray, rng: lc.Rng) -> Iterator[dict]:
    right = truth.diagonal()
    for size in SIZES:
        for design in ("floor", "equal", "proportional", "neyman", "simple"):
            if design == "simple":
                cells = rng.multinomial(size, (weights[:, None] * truth).ravel(), SAMPLES)
                cells = cells.reshape(-1, *truth.shape)
            else:
                sizes = estimators.allocate(size, weights, design, np.sqrt(right * (1 - right)))
                cells = np.stack(
                    [rng.multinomial(sizes[at], row, SAMPLES) for at, row in enumerate(truth)], 1
                )
            about = {"map": number, "ground": "any", "points": size, "design": design}
            yield from rows_of(about, weights @ truth, estimate_areas(cells, weights))


def grids(number: int, weights: np.ndarray, truth: np.ndarray, rng: lc.Rng) -> Iterator[dict]:
    num_classes = len(weights)
    for width in PATCHES:
        land = landscape(weights, truth, width, rng)
        shares, true = (np.bincount(ids.ravel(), minlength=num_classes) / ids.size for ids in land)
        for size in SIZES:
            cells = np.zeros((SAMPLES, num_classes, num_classes))
            alike = np.ones((num_classes, SAMPLES))
            for sample in range(SAMPLES):
                nodes = assess.draw_grid([geo.Scene(SIDE, SIDE, None)], np.ones(SIDE), SIDE / size**0.5, rng)
                rows, columns = np.array(nodes).T
                ids, classes = land[:, rows, columns].reshape(2, len(np.unique(rows)), -1)
                cells[sample] = np.bincount(
                    (ids * num_classes + classes).ravel(), minlength=num_classes**2
                ).reshape(num_classes, num_classes)
                alike[:, sample] = local_differences(ids, classes, cells[sample])
            ours = estimate_areas(cells, shares)
            reach = np.sqrt(alike) * (ours[2:] - ours[0])
            about = {"map": number, "ground": f"patches of {width}", "points": size, "design": "systematic"}
            yield from rows_of(about, true, ours, ours[0] + reach)


def local_differences(ids: np.ndarray, classes: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Geary's ratio of a grid's residuals, (C,): half the mean squared difference of neighbours, over their
    variance (Ripley 1981; D'Orazio 2003, https://doi.org/10.1198/1085711032697). 1 where neighbours are not
    more alike than others, or where a class was never seen."""
    means = cells / cells.sum(1, keepdims=True).clip(1)
    ratios = np.ones(len(cells))
    for at in range(len(cells)):
        residuals = (classes == at) - means[ids, at]
        if (spread := (residuals**2).mean()) > 1e-12:
            steps = [(np.diff(residuals, axis=axis) ** 2).ravel() for axis in (0, 1)]
            ratios[at] = np.concatenate(steps).mean() / 2 / spread
    return ratios


def clusters(number: int, weights: np.ndarray, truth: np.ndarray, rng: lc.Rng) -> Iterator[dict]:
    true = weights @ truth
    alike, kinds = float(rng.choice([0.02, 0.1, 0.3])), np.eye(len(true))[:, None]
    for tiles in TILES:
        means = rng.standard_gamma(np.broadcast_to((1 / alike - 1) * true, (SAMPLES, tiles, len(true))))
        means = means.clip(1e-300)
        cells = rng.multinomial(10, means / means.sum(-1, keepdims=True))[:, :, None]
        results = []
        for least in (estimators.CLUSTERS, 0):
            estimators.CLUSTERS, usual = least, estimators.CLUSTERS
            of = [estimators.cluster_ratio(cells, kind, np.ones_like(kind)) for kind in kinds]
            estimators.CLUSTERS = usual
            results.append(np.stack(of, 1))
        about = {"map": number, "ground": f"alike by {alike}", "points": 10 * tiles, "design": "clusters"}
        yield from rows_of(about, true, results[0], results[1][2:])


def rows_of(about: dict, true: np.ndarray, ours: np.ndarray, rejected=None) -> Iterator[dict]:
    """Rows of the CSV for each class; ours: (4, C, R), rejected: (2, C, R) other limits."""

    def percent(held: np.ndarray) -> str:
        return f"{100 * held.mean():.1f}"

    for at, share in enumerate(true):
        estimate, error, low, high = ours[:, at]
        given = ~np.isnan(low)
        held = (low <= share) & (share <= high)
        row = about | {"classes": len(true), "true_share": f"{share:.4f}", "given_percent": percent(given)}
        row["held_percent"] = percent(held[given]) if given.mean() >= 0.5 else ""
        row["symmetric_held_percent"] = percent(abs(estimate - share) <= estimators.Z95 * error)
        other = rejected is not None and (rejected[0, at] <= share) & (share <= rejected[1, at])
        yield row | {"rejected_held_percent": "" if rejected is None else percent(other)}


def main() -> None:
    rows, estimators.betaincinv = [], of_each_once
    for draw, maps in ((random_points, range(40)), (clusters, range(20)), (grids, (3, 5, 11))):
        for number in tqdm(maps, draw.__name__):
            weights, truth = random_map(np.random.default_rng(number), rare=number % 2 == 1)
            rows += draw(number, weights, truth, np.random.default_rng([number, 1]))
    lc.write_history(RESULT, rows)


if __name__ == "__main__":
    main()
