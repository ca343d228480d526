"""Areas and accuracy from a sample of a map's pixels: the formulas, to be read beside the papers.

Imported by assess.py. counts (..., H, C, C) are points by stratum, map class (row) and reference class
(column); weights (H,) each stratum's share of the region, summing to 1. Leading axes are samples, of which a
simulation has many. All that is estimated is a ratio of means, as in Stehman 2014.

Standard errors are those of Olofsson et al. 2014 and Stehman 2014, without finite population correction
unless asked for: a sample is a tiny share of a map. Intervals are not estimate ± Z95 standard errors: where
no error happened to be seen in a stratum, that is too narrow, and for a rare class far so.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import betaincinv, stdtrit

Pair = tuple[np.ndarray, np.ndarray]

Z95 = 1.959964  # the normal quantile; the papers round it to 1.96
FLOOR = 50  # points of a rare class, of the 50 to 100 that Olofsson et al. 2014 advise
CLUSTERS = 20  # intervals that fewer tell of hold the truth too seldom (benchmarks/coverage.py)

# ==== Estimates ======================================================================================


def measures(num_classes: int) -> dict[tuple[str, int | None], Pair]:
    """What is estimated, as a ratio of sums over pixels: (measure, class) -> y, x, both (C, C).

    y and x are 0, 1 or 2 by map class (row) and reference class (column), as in Stehman 2014
    (https://doi.org/10.1080/01431161.2014.930207); F1 and IoU are such ratios too.
    """
    ones = np.ones((num_classes, num_classes))
    ratios: dict = {("overall accuracy", None): (np.eye(num_classes), ones)}
    for at in range(num_classes):
        mapped, found, both = np.zeros_like(ones), np.zeros_like(ones), np.zeros_like(ones)
        mapped[at], found[:, at], both[at, at] = 1, 1, 1
        ratios["area share", at] = found, ones
        ratios["user's accuracy", at] = both, mapped
        ratios["producer's accuracy", at] = both, found
        ratios["F1", at] = 2 * both, mapped + found
        ratios["IoU", at] = both, mapped + found - both
    return ratios


def tally(groups: np.ndarray, mapped: np.ndarray, found: np.ndarray, num_classes: int, each=1) -> np.ndarray:
    """Points by stratum or cluster, map class and reference class, (H, C, C); each: the weight of a point."""
    counts = np.zeros((groups.max() + 1, num_classes, num_classes))
    np.add.at(counts, (groups, mapped, found), each)
    return counts


def stratum_means(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The mean of a value per stratum, (..., H), from values by map and reference class (..., C, C)."""
    return (counts * values).sum((-2, -1)) / counts.sum((-2, -1))


def ratio(counts: np.ndarray, weights: np.ndarray, y: np.ndarray, x: np.ndarray, pixels=None) -> Pair:
    """Estimates sum(y) / sum(x) over a region and its standard error, both (...), NaN where x is 0.

    The combined ratio estimator of stratified random sampling (Stehman 2014). If the strata are the map
    classes, it is that of Olofsson et al. 2014 (https://doi.org/10.1016/j.rse.2014.02.015), with n - 1 and
    row totals, and of Card 1982 for post-stratified simple random samples.
    pixels (H,): of each stratum, for the finite population correction; without it there is none. A stratum of
    one point adds no variance, which is right only if it holds one pixel.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        of_x = (weights * stratum_means(counts, x)).sum(-1)
        estimate = (weights * stratum_means(counts, y)).sum(-1) / of_x
        residual = y - estimate[..., None, None, None] * x
        points = counts.sum((-2, -1))
        spread = stratum_means(counts, residual**2) - stratum_means(counts, residual) ** 2
        variance = spread.clip(0) / (points - 1).clip(1) * (1 if pixels is None else 1 - points / pixels)
        return estimate, np.sqrt((weights**2 * variance).sum(-1)) / of_x


def interval(counts: np.ndarray, weights: np.ndarray, y: np.ndarray, x: np.ndarray) -> Pair:
    """The 95% interval of sum(y) / sum(x), both limits (...), NaN where x was never seen.

    Jeffreys' interval in each stratum (Brown, Cai & DasGupta 2001, https://doi.org/10.1214/ss/1009213286),
    put together by squaring and adding (Zou & Donner 2008, https://doi.org/10.1002/sim.3095); a ratio r is
    inside if the interval of the mean of y - r x holds 0, as Fieller does it. A stratum in which no error
    was seen still adds what may have been missed. It was chosen by simulations, benchmarks/coverage.py:
    mostly it holds the truth in 93 to 97 of 100 samples, where estimate ± Z95 standard errors may in 34.
    """
    limits, seen = [], (counts * x).sum((-3, -2, -1)) > 0
    for side in (-1, 1):
        low, high = np.zeros(seen.shape), np.ones(seen.shape)
        if (x == 1).all():  # the mean of y - r is that of y, less r
            low = high = residual_limit(counts, weights, y, side)
        else:
            for _ in range(30):  # halvings: the limit falls as r rises
                middle = (low + high) / 2
                limit = residual_limit(counts, weights, y - middle[..., None, None, None] * x, side)
                low, high = np.where(limit > 0, middle, low), np.where(limit > 0, high, middle)
        limits.append(np.where(seen, ((low + high) / 2).clip(0, 1), np.nan))
    return limits[0], limits[1]


def residual_limit(counts: np.ndarray, weights: np.ndarray, residual: np.ndarray, side: int) -> np.ndarray:
    """The lower (side -1) or upper (1) limit, (...), of a region's mean of residual, (..., C, C) values.

    Within a stratum it takes two values where that is a map class; with more, treating it as a proportion
    between the extremes is on the safe side. Map classes that a stratum was never seen to hold do not count.
    """
    possible = counts.any(-1, keepdims=True)
    least = np.where(possible, residual, np.inf).min((-2, -1))
    span = np.where(possible, residual, -np.inf).max((-2, -1)) - least
    points, means = counts.sum((-2, -1)), stratum_means(counts, residual)
    share = ((means - least) / np.where(span > 0, span, 1)).clip(0, 1)
    jeffreys = betaincinv(share * points + 0.5, (1 - share) * points + 0.5, 0.5 + side * 0.475)
    at_end = np.isclose(share, (1 + side) / 2, atol=1e-12)
    reach = np.where(at_end, 0, jeffreys - share)
    return (weights * means).sum(-1) + side * np.sqrt(((weights * span * reach) ** 2).sum(-1))


def cluster_ratio(counts: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, ...]:
    """Estimates sum(y) / sum(x) from clusters: estimate, standard error and 95% limits, all (...).

    counts (..., K, C, C): points by cluster. Ratio of cluster totals (Cochran 1977, Sampling Techniques).
    The interval is Wilson's with Student's quantile of K - 1, and as many points as would tell as much if
    they were independent (Franco et al. 2019, https://pmc.ncbi.nlm.nih.gov/articles/PMC6690503): at most
    all, and one per cluster where the clusters show no spread. Limits are NaN where fewer than CLUSTERS hold
    some of y, or fewer some of what else is in x.
    """
    of_y, of_x = ((counts * values).sum((-2, -1)) for values in (y, x))
    with np.errstate(invalid="ignore", divide="ignore"):
        estimate, clusters = of_y.sum(-1) / of_x.sum(-1), counts.shape[-3]
        squares = ((of_y - estimate[..., None] * of_x) ** 2).sum(-1)
        error = np.sqrt(clusters / (clusters - 1) * squares) / of_x.sum(-1)
        told, points = estimate * (1 - estimate) / error**2, (counts * (x > 0)).sum((-3, -2, -1))
    effective = np.where(error > 1e-12, np.minimum(points, told), (of_x > 0).sum(-1).clip(1))
    r = stdtrit(clusters - 1, 0.975) ** 2 / effective
    half = np.sqrt(r * estimate * (1 - estimate) + r**2 / 4)
    enough = np.minimum((of_y > 0).sum(-1), (of_y < of_x).sum(-1)) >= CLUSTERS
    low, high = ((estimate + r / 2 + side * half) / (1 + r) for side in (-1, 1))
    return estimate, error, *(np.where(enough, limit.clip(0, 1), np.nan) for limit in (low, high))


# ==== Sampling design ================================================================================


def sample_size(weights: np.ndarray, shares: np.ndarray, half_width: float, pixels: int) -> int:
    """The points for a 95% interval of ± half_width around a share (Olofsson et al. 2014, eq. 13).

    It is of Neyman's allocation (Cochran 1977, eq. 5.25): any other gives a wider interval.
    weights (H,): of the strata; shares (H,): the guessed share of what is estimated in each.
    """
    deviations = np.sqrt(shares * (1 - shares))
    error, total = half_width / Z95, (weights * deviations).sum()
    return math.ceil(round(total**2 / (error**2 + (weights * deviations**2).sum() / pixels), 6))


def allocate(
    size: int, weights: np.ndarray, how: str, deviations: np.ndarray, pixels: np.ndarray | float = np.inf
) -> np.ndarray:
    """Points of each stratum, (H,), at least 2: equal, proportional, neyman or floor.

    weights, deviations, pixels (H,): each stratum's share of the region, guessed standard deviation and size.
    floor: FLOOR points, or an equal share if that is less, where proportional gives less; the rest shares
    what is left. What a stratum of fewer pixels cannot take is passed on to the others.
    """
    neyman = weights * deviations if (weights * deviations).any() else weights
    wanted = {"equal": np.ones_like(weights), "neyman": neyman}.get(how, weights)
    least = min(FLOOR, size // len(weights)) if how == "floor" else 2
    rare = np.zeros(len(weights), bool)
    while True:  # what goes to the rare makes others rare
        left = max(0, size - least * rare.sum())
        points = np.where(rare, least, left * wanted / max(1e-12, wanted[~rare].sum()))
        if not (more := ~rare & (points < least)).any():
            break
        rare |= more
    whole = np.floor(points).astype(int)
    whole[np.argsort(whole - points, kind="stable")[: max(0, size - whole.sum())]] += 1
    whole = whole.clip(2)
    if (full := whole > pixels).any():
        whole[full] = pixels[full]
        rest, others = max(0, size - whole[full].sum()), ~full
        if others.any():
            whole[others] = allocate(rest, weights[others], how, deviations[others], pixels[others])
    return whole
