"""tools/assess.py: published values, coverage by simulation, samples that are what they say, refusals."""

import csv
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, write_tiles

import landcover_segmentation as lc

rasterio = pytest.importorskip("rasterio")
sys.path.insert(0, str(ROOT / "tools"))

import assess
import estimators
import geo
import regions
from rasterio.transform import from_origin

NAMES = ["land", "water", "forest"]

# =====================================================================================================
# Estimators
# =====================================================================================================


def by_class(matrix) -> np.ndarray:
    """Counts whose strata are the classes of the map, its rows."""
    counts = np.zeros((len(matrix), *np.shape(matrix)))
    np.einsum("iij->ij", counts)[:] = matrix
    return counts


def shares_of(pixels) -> np.ndarray:
    return np.array(pixels) / np.sum(pixels)


OLOFSSON_2014 = by_class([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
OLOFSSON_2014_PIXELS = np.array([200_000, 150_000, 3_200_000, 6_450_000])


def test_olofsson_2014_table_8():
    weights, of = shares_of(OLOFSSON_2014_PIXELS), estimators.measures(4)
    total = 0.09 * OLOFSSON_2014_PIXELS.sum()

    def values(measure: str) -> np.ndarray:
        return np.array([estimators.ratio(OLOFSSON_2014, weights, *of[measure, at]) for at in range(4)]).T

    areas, errors = total * values("area share")
    np.testing.assert_allclose(areas, [21157.762, 11686.154, 285769.930, 581386.154], atol=5e-4)
    np.testing.assert_allclose(errors, [3141.650, 1916.238, 7913.182, 8306.968], atol=5e-4)
    assert areas.sum() == pytest.approx(900_000)
    overall = estimators.ratio(OLOFSSON_2014, weights, *of["overall accuracy", None])
    np.testing.assert_allclose(overall, [0.946512, 0.009430], atol=5e-7)
    users, producers = values("user's accuracy"), values("producer's accuracy")
    np.testing.assert_allclose(users[1], [0.037776, 0.051407, 0.020278, 0.010476], atol=5e-7)
    np.testing.assert_allclose(producers[0], [0.748661, 0.847156, 0.934509, 0.961609], atol=5e-7)
    np.testing.assert_allclose(producers[1], [0.108832, 0.129800, 0.017512, 0.009368], atol=5e-7)


def test_olofsson_2013_example_1():
    """The area printed there, 45,651, comes from rounded shares."""
    counts, pixels = by_class([[97, 0, 3], [3, 279, 18], [2, 1, 97]]), np.array([22_353, 1_122_543, 610_228])
    weights, of = shares_of(pixels), estimators.measures(3)
    area = pixels.sum() * np.array(estimators.ratio(counts, weights, *of["area share", 0]))
    np.testing.assert_allclose(area, [45112.400, 10751.405], atol=5e-4)
    overall = estimators.ratio(counts, weights, *of["overall accuracy", None])
    np.testing.assert_allclose(overall, [0.944417, 0.011164], atol=5e-7)
    producers = [estimators.ratio(counts, weights, *of["producer's accuracy", at])[0] for at in range(3)]
    np.testing.assert_allclose(producers, [0.480631, 0.994189, 0.896926], atol=5e-7)


STEHMAN = {  # stratum: (map, reference) and how often
    "A": "AA5 AB1 AC1 BA1 BB1 BC1",
    "B": "AA1 BA2 BB7",
    "C": "BA1 BB1 BC2 CB1 CC3 CD2",
    "D": "DB1 DC2 DD7",
}
STEHMAN_PIXELS = np.array([40_000, 30_000, 20_000, 10_000])


def stehman_points() -> list[tuple[str, str, str]]:
    """Stratum, map class and reference class of the forty points."""
    return [
        (stratum, *cell[:2])
        for stratum, cells in STEHMAN.items()
        for cell in cells.split()
        for _ in range(int(cell[2:]))
    ]


def test_stehman_2014_strata_that_are_not_the_classes():
    """The paper's standard errors are with the finite population correction; 0.114 there is a misprint."""
    counts, of = np.zeros((4, 4, 4)), estimators.measures(4)
    for point in stehman_points():
        counts[tuple("ABCD".index(letter) for letter in point)] += 1
    expected = {
        ("area share", 0): (0.35, 0.082248, 0.082260),
        ("area share", 2): (0.20, 0.064280, 0.064291),
        ("overall accuracy", None): (0.63, 0.084642, 0.084656),
        ("user's accuracy", 1): (0.574468, 0.124782, 0.124802),
        ("producer's accuracy", 1): (0.794118, 0.116548, 0.116567),
    }
    for name, (value, corrected, plain) in expected.items():
        given = counts, shares_of(STEHMAN_PIXELS), *of[name]
        np.testing.assert_allclose(estimators.ratio(*given, STEHMAN_PIXELS), [value, corrected], atol=6e-7)
        np.testing.assert_allclose(estimators.ratio(*given), [value, plain], atol=6e-7)
        low, high = estimators.interval(*given)
        assert low < value < high


def test_f1_and_iou_are_those_of_the_matrix_of_shares():
    weights = shares_of(OLOFSSON_2014_PIXELS)
    matrix = np.einsum("h,hij->ij", weights / OLOFSSON_2014.sum((1, 2)), OLOFSSON_2014)
    iou = lc.compute_iou(torch.tensor(matrix)).numpy()
    of = estimators.measures(4)
    found = [estimators.ratio(OLOFSSON_2014, weights, *of["IoU", at])[0] for at in range(4)]
    np.testing.assert_allclose(found, iou)
    f1 = [estimators.ratio(OLOFSSON_2014, weights, *of["F1", at])[0] for at in range(4)]
    np.testing.assert_allclose(f1, 2 * iou / (1 + iou))


def test_errors_of_ratios_agree_with_resampling():
    """The bootstrap within strata knows no formula."""
    rng, weights, of = np.random.default_rng(0), shares_of(OLOFSSON_2014_PIXELS), estimators.measures(4)
    again = np.zeros((4_000, 4, 4, 4))
    for at in range(4):
        row = OLOFSSON_2014[at, at]
        again[:, at, at] = rng.multinomial(int(row.sum()), row / row.sum(), 4_000)
    for name in (("F1", 2), ("IoU", 3), ("producer's accuracy", 2), ("user's accuracy", 1)):
        spread = estimators.ratio(again, weights, *of[name])[0].std()
        assert estimators.ratio(OLOFSSON_2014, weights, *of[name])[1] == pytest.approx(spread, rel=0.05)


@pytest.mark.parametrize("matrix", [[[50]], [[50, 0], [0, 50]]])
def test_no_error_seen_is_no_certainty(matrix):
    counts, weights = by_class(matrix), shares_of(np.ones(len(matrix)))
    for y, x in estimators.measures(len(matrix)).values():
        if len(matrix) > 1 or (y != x).any():
            low, high = estimators.interval(counts, weights, y, x)
            assert high - low > 0.01, "no interval of width 0"


def test_what_was_never_seen_has_no_value():
    counts, of = by_class([[20, 5, 0], [5, 20, 0], [3, 7, 0]]), estimators.measures(3)
    weights = shares_of([5, 4, 1])
    estimate, error = estimators.ratio(counts, weights, *of["producer's accuracy", 2])
    assert np.isnan(
        [estimate, error, *estimators.interval(counts, weights, *of["producer's accuracy", 2])]
    ).all()
    low, high = estimators.interval(counts, weights, *of["area share", 2])
    assert low == 0 and 0.02 < high < 0.2, "but it may be there"


def test_the_quantile_is_that_of_the_normal():
    from scipy.special import ndtri

    assert ndtri(0.975) == pytest.approx(estimators.Z95, abs=5e-7)
    assert abs(estimators.Z95 - 1.96) > 3e-5


# ---- The same anew, point by point, from the papers


def olofsson_2014(matrix, pixels) -> dict:
    """Equations 2 to 11 there, term by term; matrix: points by map class (row) and reference class."""
    size, total = len(matrix), sum(pixels)
    share = [number / total for number in pixels]
    points = [sum(row) for row in matrix]
    cell = [[share[i] * matrix[i][j] / points[i] for j in range(size)] for i in range(size)]
    users = [matrix[i][i] / points[i] for i in range(size)]
    of_users = [users[i] * (1 - users[i]) / (points[i] - 1) for i in range(size)]
    overall = sum(cell[i][i] for i in range(size))
    found = {("overall accuracy", None): (overall, sum(share[i] ** 2 * of_users[i] for i in range(size)))}
    for j in range(size):
        area, parts = sum(cell[i][j] for i in range(size)), range(size)
        terms = [share[i] * cell[i][j] - cell[i][j] ** 2 for i in parts]
        found["area share", j] = area, sum(terms[i] / (points[i] - 1) for i in parts)
        found["user's accuracy", j] = users[j], of_users[j]
        reference = [pixels[i] / points[i] * matrix[i][j] for i in parts]
        producers = reference[j] / sum(reference)
        first = pixels[j] ** 2 * (1 - producers) ** 2 * of_users[j]
        rest = 0
        for i in parts:
            if i != j:
                wrong = matrix[i][j] / points[i]
                rest += pixels[i] ** 2 * wrong * (1 - wrong) / (points[i] - 1)
        spread = (first + producers**2 * rest) / sum(reference) ** 2
        found["producer's accuracy", j] = producers, spread
    return found


@pytest.mark.parametrize("seed", range(5))
def test_strata_that_are_classes_agree_with_the_paper_term_by_term(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 7))
    matrix, pixels = (
        rng.integers(0, 40, (size, size)) + 3 * np.eye(size, dtype=int),
        rng.integers(10, 10**6, size),
    )
    for name, (value, variance) in olofsson_2014(matrix.tolist(), pixels.tolist()).items():
        given = by_class(matrix), shares_of(pixels), *estimators.measures(size)[name]
        np.testing.assert_allclose(estimators.ratio(*given), [value, variance**0.5], rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("seed", range(5))
def test_other_strata_agree_with_stehman_2014_point_by_point(seed):
    """Equations 2, 25 and 28 there over lists of points, without a matrix."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(100, 10_000, 3)
    strata, mapped, found = np.repeat(range(3), [7, 11, 30]), *rng.integers(0, 4, (2, 48))
    counts = estimators.tally(strata, mapped, found, 4)
    for (measure, at), (y, x) in estimators.measures(4).items():
        of_y, of_x = (
            [float(values[row, column]) for row, column in zip(mapped, found, strict=True)]
            for values in (y, x)
        )
        total_y, total_x, parts = 0.0, 0.0, []
        for stratum, number in enumerate(pixels.tolist()):
            own = [(of_y[i], of_x[i]) for i in range(48) if strata[i] == stratum]
            total_y += number * sum(one for one, _ in own) / len(own)
            total_x += number * sum(one for _, one in own) / len(own)
            sy, syx, _, sx = np.cov(np.array(own).T).ravel()
            parts.append((number, len(own), sy, sx, syx))
        ratio = total_y / total_x
        variance = sum(
            n**2 * (1 - k / n) * (sy + ratio**2 * sx - 2 * ratio * syx) / k for n, k, sy, sx, syx in parts
        )
        got = estimators.ratio(counts, shares_of(pixels), y, x, pixels)
        assert got == pytest.approx((ratio, variance**0.5 / total_x)), (measure, at)


def test_the_interval_of_an_area_agrees_with_scipy():
    """Jeffreys' limits by scipy, put together by hand."""
    stats = pytest.importorskip("scipy.stats")
    counts, weights = OLOFSSON_2014, shares_of(OLOFSSON_2014_PIXELS)
    for at in range(4):
        hits, points = np.einsum("iij->ij", counts)[:, at], counts.sum((1, 2))
        share = hits / points
        low, high = stats.beta.interval(0.95, hits + 0.5, points - hits + 0.5)
        low, high = np.where(hits == 0, 0, low), np.where(hits == points, 1, high)
        down, up = (np.sqrt((weights**2 * (share - limit) ** 2).sum()) for limit in (low, high))
        value = (weights * share).sum()
        got = estimators.interval(counts, weights, *estimators.measures(4)["area share", at])
        np.testing.assert_allclose(got, [value - down, value + up])


# ---- Coverage: of 2,000 samples of a known map and truth, 93 to 97 of 100 intervals hold the truth

MAPPED = np.array([0.50, 0.30, 0.15, 0.04, 0.01])
TRUTH_GIVEN_MAP = np.array(
    [
        [0.80, 0.10, 0.050, 0.030, 0.020],
        [0.10, 0.75, 0.100, 0.030, 0.020],
        [0.10, 0.05, 0.800, 0.030, 0.020],
        [0.10, 0.10, 0.100, 0.680, 0.020],
        [0.20, 0.10, 0.100, 0.100, 0.500],
    ]
)
FEW_ERRORS = np.array(  # of the class of 1%: one in 500 missed in the commonest class
    [
        [0.90, 0.06, 0.030, 0.008, 0.002],
        [0.08, 0.85, 0.050, 0.015, 0.005],
        [0.03, 0.05, 0.900, 0.018, 0.002],
        [0.05, 0.10, 0.050, 0.790, 0.010],
        [0.10, 0.10, 0.050, 0.050, 0.700],
    ]
)
SAMPLES = 2_000


def share_held(counts, weights, truth) -> tuple[np.ndarray, np.ndarray]:
    """How many of 100 intervals of areas hold the truth: ours, and estimate ± Z95 standard errors."""
    ours, normal = [], []
    for at, true_share in enumerate(truth):
        given = counts, weights, *estimators.measures(len(truth))["area share", at]
        (low, high), (estimate, error) = estimators.interval(*given), estimators.ratio(*given)
        ours.append(100 * ((low <= true_share) & (true_share <= high)).mean())
        normal.append(100 * (abs(estimate - true_share) <= estimators.Z95 * error).mean())
    return np.array(ours), np.array(normal)


def as_strata(cells: np.ndarray) -> np.ndarray:
    """Counts (R, C, C) of samples, by strata that are the map's classes; those with too few points left out.

    The program then does without strata, which `test_classes_with_few_points…` sees to.
    """
    cells = cells[(cells.sum(2) >= 2).all(1)].astype(float)
    counts = np.zeros((len(cells), *cells.shape[1:], cells.shape[1]))
    np.einsum("rhhc->rhc", counts)[:] = cells
    return counts


@pytest.mark.parametrize("rare", [TRUTH_GIVEN_MAP, FEW_ERRORS], ids=["many errors", "few errors"])
@pytest.mark.parametrize("design", ["floor", "equal", "proportional", "neyman", "simple"])
def test_areas_are_covered(design, rare):
    rng = np.random.default_rng(0)
    if design == "simple":
        joint = (MAPPED[:, None] * rare).ravel()
        cells = rng.multinomial(500, joint, SAMPLES).reshape(SAMPLES, 5, 5)
    else:
        sizes = estimators.allocate(500, MAPPED, design, np.sqrt(rare.diagonal() * (1 - rare.diagonal())))
        cells = np.stack([rng.multinomial(sizes[at], rare[at], SAMPLES) for at in range(5)], 1)
    ours, normal = share_held(as_strata(cells), MAPPED, MAPPED @ rare)
    assert ((ours >= 93) & (ours <= 97)).all(), ours
    if rare is FEW_ERRORS and design in ("floor", "equal"):
        assert normal[-1] < 80, "normal intervals fail for the class of 1%, so others are used"


def test_ratios_are_covered_too():
    rng = np.random.default_rng(0)
    cells = np.stack([rng.multinomial(100, TRUTH_GIVEN_MAP[at], 500) for at in range(5)], 1)
    joint = MAPPED[:, None] * TRUTH_GIVEN_MAP
    for (measure, at), (y, x) in estimators.measures(5).items():
        if measure in ("producer's accuracy", "F1", "IoU") and at == 4:
            low, high = estimators.interval(as_strata(cells), MAPPED, y, x)
            true = (joint * y).sum() / (joint * x).sum()
            assert 0.92 <= ((low <= true) & (true <= high)).mean() <= 0.98, (measure, at)


@pytest.mark.parametrize("rare", [TRUTH_GIVEN_MAP, FEW_ERRORS], ids=["many errors", "few errors"])
def test_areas_are_covered_by_clusters(rare):
    """Tiles of ten points, which are alike (correlation 0.1); of a class in too few there is no interval."""
    rng, truth, given = np.random.default_rng(0), MAPPED @ rare, {}
    for tiles in (50, 400):
        means = rng.standard_gamma(np.broadcast_to(9 * truth, (SAMPLES, tiles, 5)))
        cells = rng.multinomial(10, means / means.sum(-1, keepdims=True))[:, :, None]
        for at, true in enumerate(truth):
            one_class = np.eye(5)[[at]], np.ones((1, 5))
            _, _, low, high = estimators.cluster_ratio(cells, *one_class)
            shown = ~np.isnan(low)
            given[tiles, at] = shown.mean()
            if given[tiles, at] > 0.5:
                assert 93 <= 100 * ((low <= true) & (true <= high))[shown].mean() <= 97, (tiles, at)
    assert given[400, 4] > 0.5, "the class of 1% has one, given enough tiles"
    if rare is FEW_ERRORS:
        assert given[50, 4] < 0.01, "from five or so tiles it would be wrong too often"


def landscape(size: int, blob: float) -> tuple[np.ndarray, np.ndarray]:
    """A map and its truth (size, size) in patches, with the shares of MAPPED and TRUTH_GIVEN_MAP."""
    import cv2

    rng = np.random.default_rng(0)

    def ranks(values: np.ndarray) -> np.ndarray:
        return values.ravel().argsort().argsort() / values.size

    def field(width: float) -> np.ndarray:
        return cv2.GaussianBlur(rng.standard_normal((size, size)), (0, 0), width)

    mapped = np.searchsorted(MAPPED.cumsum()[:-1], ranks(field(blob))).reshape(size, size)
    truth, other = np.zeros_like(mapped), field(blob / 2)
    for at, row in enumerate(TRUTH_GIVEN_MAP):
        truth[mapped == at] = np.searchsorted(row.cumsum()[:-1], ranks(other[mapped == at]))
    return mapped, truth


@pytest.mark.parametrize(("blob", "most"), [(3, 97), (8, 99.5)])
def test_areas_are_covered_by_grids(blob, most):
    """Taken for simple random points; where patches are wider than the grid, that is on the safe side."""
    (mapped, truth), rng = landscape(600, blob), np.random.default_rng(1)
    cells = np.zeros((SAMPLES, 25), int)
    for row in cells:
        at = tuple(
            np.array(assess.draw_grid([geo.Scene(600, 600, None)], np.ones(600), 600 / 500**0.5, rng)).T
        )
        row[:] = np.bincount(mapped[at] * 5 + truth[at], minlength=25)
    shares, true = (np.bincount(ids.ravel()) / ids.size for ids in (mapped, truth))
    ours, _ = share_held(as_strata(cells.reshape(-1, 5, 5)), shares, true)
    assert ((ours >= 93) & (ours <= most)).all(), ours


def test_clusters_by_hand():
    """Three tiles: 3 of 4, 1 of 4 and 2 of 2 points are of the class; and ten times as many."""
    counts = np.zeros((3, 2, 2))
    counts[:, 0] = [[3, 1], [1, 3], [2, 0]]
    share = estimators.measures(2)["area share", 0]
    estimate, error, *limits = estimators.cluster_ratio(counts, *share)
    assert estimate == pytest.approx(0.6)
    residuals = np.array([3 - 2.4, 1 - 2.4, 2 - 1.2])
    assert error == pytest.approx(np.sqrt(3 / 2 * (residuals**2).sum()) / 10)
    assert np.isnan(limits).all(), "three tiles tell too little for an interval"
    estimate, _, low, high = estimators.cluster_ratio(np.tile(counts, (10, 1, 1)), *share)
    tallies = torch.tensor([[3, 4], [1, 4], [2, 2]]).repeat(10, 1)
    assert (estimate, low, high) == pytest.approx(lc.point_accuracy(tallies)), "as in training"


def test_sample_size_of_olofsson_2014():
    """In the example there, a standard error of 0.01 takes 641 points."""
    weights, guesses = np.array([0.02, 0.015, 0.32, 0.645]), np.array([0.7, 0.6, 0.9, 0.95])
    assert estimators.sample_size(weights, guesses, 0.01 * estimators.Z95, 10_000_000) == 641


def test_allocation():
    weights, deviations = np.array([0.02, 0.015, 0.32, 0.645]), np.array([0.46, 0.49, 0.3, 0.22])
    assert estimators.allocate(640, weights, "equal", deviations).tolist() == [160] * 4
    assert estimators.allocate(641, weights, "proportional", deviations).tolist() == [13, 10, 205, 413]
    neyman = weights * deviations / (weights * deviations).sum()
    np.testing.assert_allclose(estimators.allocate(641, weights, "neyman", deviations), 641 * neyman, atol=1)
    floor = estimators.allocate(641, weights, "floor", deviations)
    assert floor[:2].tolist() == [50, 50] and floor.sum() == 641
    assert floor[3] / floor[2] == pytest.approx(0.645 / 0.32, rel=0.01)
    assert estimators.allocate(40, weights, "floor", deviations).tolist() == [10] * 4, (
        "an equal share at most"
    )


# =====================================================================================================
# sample
# =====================================================================================================


def write_map(path, ids, *, crs="EPSG:32640", transform=None, names=NAMES, checkpoint=None):
    """A map as map_scenes.py writes it."""
    place = {"crs": crs, "transform": transform or from_origin(300_000, 2_800_000, 10, 10)} if crs else {}
    form = {"count": 1, "dtype": "uint8", "nodata": 255, "height": ids.shape[0], "width": ids.shape[1]}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", driver="GTiff", **form, **place) as file:
        file.write(ids.astype(np.uint8), 1)
        file.update_tags(1, **{f"CLASS_{at}": name for at, name in enumerate(names)})
        if checkpoint:
            file.update_tags(CHECKPOINT=checkpoint)
    return path


def patches(height: int = 200, width: int = 300) -> np.ndarray:
    """Land, a sixth of water, a strip of forest, and a border without data."""
    ids = np.zeros((height, width), np.uint8)
    ids[: height // 3, : width // 2], ids[-4:], ids[:, :10] = 1, 2, 255
    return ids


def run(command: str, **flags) -> int:
    given = []
    for name, value in flags.items():
        values = value if isinstance(value, list) else [value]
        given += [f"--{name.replace('_', '-')}", *map(str, values)]
    return assess.main([command, *given])


def read_rows(path) -> list[dict]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("design", assess.DESIGNS)
def test_sample_is_what_it_says(tmp_path, design):
    ids, output = patches(), tmp_path / "reference.csv"
    path = write_map(tmp_path / "scene_classes.tif", ids)
    assert run("sample", map=path, output=output, size=150, design=design) == 0
    rows = read_rows(output)
    assert list(rows[0])[:4] == ["image", "x", "y", "class"], "what annotate.py asks for"
    at = [(int(row["y"]), int(row["x"])) for row in rows]
    assert len(set(at)) == len(at) and abs(len(at) - 150) <= (12 if design == "systematic" else 0)
    assert at != sorted(at), "the order tells nothing"
    found = np.array([ids[pixel] for pixel in at])
    assert (found != 255).all() and {row["class"] for row in rows} == {""}
    data = (ids != 255).sum()
    for row, class_id in zip(rows, found, strict=True):
        size = (ids == class_id).sum() if design == "stratified" else data
        number = sum(other["stratum"] == row["stratum"] for other in rows)
        rel = 0.1 if design == "systematic" else 1e-4
        assert float(row["inclusion_probability"]) == pytest.approx(number / size, rel=rel)
        assert row["stratum"] == (NAMES[class_id] if design == "stratified" else "all")
        assert float(row["stratum_share"]) == pytest.approx(size / data)
    geopandas = pytest.importorskip("geopandas")
    points = geopandas.read_file(output.with_suffix(".gpkg"))
    with rasterio.open(path) as file:
        assert [
            v[0] for v in file.sample(zip(points.geometry.x, points.geometry.y, strict=True))
        ] == found.tolist()
    first = output.read_bytes()
    assert run("sample", map=path, output=output, size=150, design=design) == 0
    assert output.read_bytes() == first
    assert run("sample", map=path, output=output, size=150, design=design, seed=1) == 0
    assert output.read_bytes() != first


def test_every_pixel_has_the_same_chance():
    counts, rng, hits = np.array([3, 0, 5, 2]), np.random.default_rng(0), np.zeros((4, 5))
    for _ in range(2_000):
        drawn = assess.draw(counts, np.ones(4), 4, rng)
        assert len(set(drawn)) == 4
        for pixel in drawn:
            hits[pixel] += 1
    possible = np.arange(5) < counts[:, None]
    assert not hits[~possible].any()
    np.testing.assert_allclose(hits[possible] / 2_000, 0.4, atol=0.045)
    assert len(assess.draw(counts, np.ones(4), 99, rng)) == 10, "all there are"


def test_points_lie_evenly_on_the_ground(tmp_path):
    """Pixels of a map in degrees are half as large at 60 degrees as at the equator."""
    path = write_map(
        tmp_path / "a_classes.tif", np.zeros((600, 50)), crs="EPSG:4326",
        transform=from_origin(0, 60, 0.1, 0.1), names=["land"],
    )  # fmt: skip
    for design in assess.DESIGNS:
        args = parsed("sample", map=path, size=2_000, design=design)
        rows = assess.draw_sample(args, regions.read_region(args.map))
        latitude = 60 - 0.1 * (np.array([row["y"] for row in rows]) + 0.5)
        north_of_30 = (latitude > 30).mean()
        expected = 1 - np.sin(np.radians(30)) / np.sin(np.radians(60))
        assert north_of_30 == pytest.approx(expected, abs=0.03), design
        chance = [float(row["inclusion_probability"]) for row in rows]
        assert sum(1 / np.array(chance)) == pytest.approx(600 * 50, rel=0.05), "they sum to the map's pixels"


def test_grids_are_square_on_finer_maps_too():
    """Two maps of one piece of ground, the pixels of the second ten times finer."""
    scenes, areas = (
        [geo.Scene(100, 100, None), geo.Scene(1000, 1000, None)],
        np.repeat([1, 0.01], [100, 1000]),
    )
    nodes = np.array(assess.draw_grid(scenes, areas, 10, np.random.default_rng(0)))
    coarse, fine = nodes[nodes[:, 0] < 100], nodes[nodes[:, 0] >= 100]
    for own, step in ((coarse, 10), (fine, 100)):
        assert len(own) == 100
        assert all((np.diff(np.unique(places)) == step).all() for places in own.T)


def parsed(command: str, **flags) -> SimpleNamespace:
    given = [part for name, value in flags.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return assess.parse([command, *given])


def test_a_folder_of_maps_is_one_region(tmp_path):
    ids = patches()
    for name, part in (("west", ids[:, :150]), ("east", ids[:, 150:])):
        write_map(tmp_path / "maps" / f"{name}_classes.tif", part, crs=None)
    output = tmp_path / "reference.csv"
    assert run("sample", map=tmp_path / "maps", output=output, size=100) == 0
    rows = read_rows(output)
    assert {row["image"] for row in rows} == {"west", "east"}
    assert not output.with_suffix(".gpkg").exists(), "without a place on the ground"
    whole = tmp_path / "whole.csv"
    path = write_map(tmp_path / "whole_classes.tif", ids, crs=None)
    assert run("sample", map=path, output=whole, size=100) == 0
    shares = [{(row["stratum"], row["stratum_share"]) for row in read_rows(file)} for file in (output, whole)]
    assert shares[0] == shares[1]


def test_a_map_of_no_place_on_the_globe_is_named(tmp_path, capsys):
    """The grid of a site: by itself it is assessed, beside others it is not known what counts twice."""
    write_map(tmp_path / "maps/a_classes.tif", patches(), crs='LOCAL_CS["site",UNIT["metre",1]]')
    how = {"map": tmp_path / "maps", "size": 60, "output": tmp_path / "alone.csv"}
    assert run("sample", **how) == 0
    write_map(tmp_path / "maps/b_classes.tif", patches())
    capsys.readouterr()
    assert run("sample", **how | {"output": tmp_path / "both.csv"}) == 2
    said = capsys.readouterr().err
    assert (
        "a_classes.tif: " in said and "assess it by itself, or name the right system: rio edit-info" in said
    )


def test_png_maps_and_size_from_the_half_width(tmp_path, capsys):
    from PIL import Image

    ids = patches()
    picture = Image.fromarray(ids)
    picture.putpalette(bytes(768))
    picture.save(tmp_path / "a_classes.png")
    names = "".join(f"<Category>{name}</Category>" for name in NAMES)
    (tmp_path / "a_classes.png.aux.xml").write_text(
        f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{names}</CategoryNames>'
        "</PAMRasterBand></PAMDataset>"
    )
    output = tmp_path / "reference.csv"
    flags = {"map": tmp_path / "a_classes.png", "output": output, "users_accuracy": "0.9,0.9,0.9"}
    assert run("sample", half_width=0.05, **flags) == 0
    assert len(read_rows(output)) == pytest.approx((1.96 / 0.05) ** 2 * 0.09, abs=2)
    assert {row["stratum"] for row in read_rows(output)} == set(NAMES)
    assert run("sample", half_width=0.05, of="forest", **flags) == 0
    fewer = len(read_rows(output))
    assert 60 < fewer < 120, "the share of a class takes fewer"


def test_labels_are_not_overwritten(tmp_path, capsys):
    path, output = write_map(tmp_path / "a_classes.tif", patches()), tmp_path / "reference.csv"
    output.write_text("image,x,y,class\na,50,50,land\n")
    assert run("sample", map=path, output=output) == 2
    assert "holds labels" in capsys.readouterr().err
    assert "land" in output.read_text()
    output.unlink()
    assert run("sample", map=path, output=output) == run("sample", map=path, output=output) == 0
    geopandas = pytest.importorskip("geopandas")
    beside = output.with_suffix(".gpkg")
    points = geopandas.read_file(beside)
    points.loc[3, "class"] = "land"
    points.to_file(beside, driver="GPKG", layer="reference")
    assert run("sample", map=path, output=output) == 2
    assert "reference.gpkg: holds labels" in capsys.readouterr().err


# =====================================================================================================
# report
# =====================================================================================================


@pytest.fixture
def labelled(tmp_path):
    """A map, a stratified sample of it, and what stands there: forest half as wide as the map says."""
    ids = patches()
    truth = np.where((ids == 2) & (np.arange(200)[:, None] > 197), 0, ids)
    path, reference = write_map(tmp_path / "scene_classes.tif", ids), tmp_path / "reference.csv"
    assert run("sample", map=path, output=reference, size=180) == 0
    rows = read_rows(reference)
    for row in rows:
        row["class"] = NAMES[truth[int(row["y"]), int(row["x"])]]
    write_rows(reference, rows)
    return {"map": path, "reference": reference, "output": tmp_path / "out"}, truth


def report_of(files: dict, **more) -> dict:
    assert run("report", **files, **more) == 0
    return json.loads((files["output"] / "report.json").read_text(encoding="utf-8"))


def areas_in(result: dict) -> dict[str, dict]:
    return {row["class"]: row for row in result["estimates"] if row["measure"] == "area"}


def test_report_says_what_is_there(labelled, capsys):
    files, truth = labelled
    result = report_of(files)
    for at, name in enumerate(NAMES):
        row = areas_in(result)[name]
        hectares = (truth == at).sum() * 0.01
        assert row["low"] <= hectares <= row["high"], "10 m pixels are 0.01 ha"
        assert row["mapped"] == pytest.approx((patches() == at).sum() * 0.01)
    assert areas_in(result)["forest"]["estimate"] < 0.8 * areas_in(result)["forest"]["mapped"]
    assert np.sum(result["counts"]) == 180 and np.sum(result["shares"]) == pytest.approx(1)
    page = (files["output"] / "report.md").read_text(encoding="utf-8")
    assert "forest" in page and "1.959964" in page and "finite population" in page
    table = read_rows(files["output"] / "estimates.csv")
    assert len(table) == len(result["estimates"]) == 1 + 6 * 3
    assert (files["output"] / "areas.png").stat().st_size > 5_000
    said = capsys.readouterr()
    assert "overall accuracy" in said.out and not said.err


def test_a_geopackage_says_the_same(labelled):
    geopandas = pytest.importorskip("geopandas")
    files, _ = labelled
    points = geopandas.read_file(files["reference"].with_suffix(".gpkg"))
    points["class"] = [row["class"] for row in read_rows(files["reference"])]
    vector = files["reference"].with_name("other.gpkg")
    points.to_crs("EPSG:4326").to_file(vector, driver="GPKG")
    assert report_of(files)["estimates"] == report_of({**files, "reference": vector})["estimates"]


def test_strata_of_another_map(tmp_path):
    """The example of Stehman 2014, from files: the strata are not the classes of this map."""
    points, ids = stehman_points(), np.zeros((1, 60), int)
    ids[0, :40] = ["ABCD".index(mapped) for _, mapped, _ in points]
    path = write_map(tmp_path / "new_classes.tif", ids, names="ABCD")
    rows = [
        {"image": "new", "x": at, "y": 0, "class": found, "stratum": stratum, "design": "stratified"}
        | {"stratum_share": dict(zip("ABCD", (0.4, 0.3, 0.2, 0.1), strict=True))[stratum]}
        for at, (stratum, _, found) in enumerate(points)
    ]
    reference = write_rows(tmp_path / "old.csv", rows)
    result = report_of({"map": path, "reference": reference, "output": tmp_path / "out"})
    found = {(row["measure"], row["class"]): row for row in result["estimates"]}
    assert found["area share", "A"]["estimate"] == pytest.approx(0.35)
    assert found["area share", "A"]["standard_error"] == pytest.approx(0.082260, abs=6e-7)
    assert found["producer's accuracy", "B"]["standard_error"] == pytest.approx(0.116567, abs=6e-7)
    assert found["user's accuracy", "B"]["estimate"] == pytest.approx(0.574468, abs=6e-7)


@pytest.mark.parametrize("kind", ["same", "newer", "larger", "finer", "rows removed"])
def test_a_map_other_than_was_sampled_is_told(kind, labelled):
    files, _ = labelled
    ids = patches()
    if kind == "newer":
        ids[:, :50] = 0
    elif kind == "larger":
        ids = np.vstack([ids, np.zeros_like(ids)])
    elif kind == "finer":
        ids = np.kron(np.where(ids == 255, 0, ids), np.ones((2, 2), ids.dtype))
    elif kind == "rows removed":
        write_rows(files["reference"], read_rows(files["reference"])[:120])
    write_map(files["map"], ids)
    notes = " ".join(report_of(files)["notes"])
    assert ("was drawn from another map" in notes) == (kind in ("newer", "larger", "finer"))
    assert ("the points stand for" in notes) == (kind in ("larger", "finer", "rows removed"))


def test_classes_with_few_points_are_no_strata_where_points_were_drawn_without(labelled):
    files, _ = labelled
    rows = [{key: row[key] for key in ("image", "x", "y", "class")} for row in read_rows(files["reference"])]
    ids, seen = patches(), 0
    kept = []
    for row in rows:
        forest = ids[int(row["y"]), int(row["x"])] == 2
        seen += forest
        kept += [row] if not forest or seen == 1 else []
    write_rows(files["reference"], kept)
    result = report_of(files, design="simple")
    assert any("fewer than two points on forest" in note for note in result["notes"])
    assert sum(row["estimate"] for row in areas_in(result).values()) == pytest.approx(result["total"])


def test_clusters(labelled):
    files, _ = labelled
    rows = read_rows(files["reference"])
    for at, row in enumerate(rows):
        row |= {"tile": f"t{at % 9}", "stratum": "", "inclusion_probability": ""}
    write_rows(files["reference"], rows)
    result = report_of(files, cluster="tile")
    assert result["design"] == "cluster"
    right = np.trace(result["counts"]) / 180
    assert result["estimates"][0]["estimate"] == pytest.approx(right), "each point stands for as much"


def set_field(name: str, value: str, at=slice(0, 1)):
    def change(rows):
        for row in rows[at]:
            row[name] = value
        return rows

    return change


@pytest.mark.parametrize(
    ("change", "flags", "words"),
    [
        (set_field("image", "elsewhere"), {}, "labels of images that are not there, like elsewhere (1)"),
        (set_field("x", "300"), {}, "line 2: point 300,"),
        (set_field("x", "0"), {}, "line 2: lies where the map has no data"),
        (set_field("class", "lava"), {}, "line 2: class 'lava' is neither"),
        (lambda rows: [*rows, rows[0]], {}, "is a pixel that stands twice; keep one"),
        (set_field("uncertainty", "0.7", slice(None)), {}, "least sure, not at random"),
        (set_field("design", "", slice(None)), {}, "does not tell how its points were drawn"),
        (set_field("class", "", slice(None)), {}, "too few points with a class"),
        (lambda rows: [row for row in rows if row["stratum"] != "water"], {}, "of the region, not all of it"),
        (lambda rows: rows, {"design": "simple"}, "drawn stratified, not simple; leave --design out"),
        (set_field("stratum_share", "half"), {}, "line 2: stratum_share is 'half'"),
        (set_field("stratum_share", "0.5"), {}, "give each stratum one share"),
        (
            lambda rows: [{**row, "stratum": "s", "stratum_share": ""} for row in rows],
            {},
            "add a column stratum_share",
        ),
        (lambda rows: rows, {"layer": "two"}, "has no use for it; leave it out"),
        (lambda rows: rows, {"cluster": "tile"}, "column tile must name two clusters or more"),
        (lambda rows: rows, {"cluster": "stratum"}, "clusters within strata have no estimator"),
    ],
)
def test_what_cannot_be_right_is_one_line(labelled, capsys, change, flags, words):
    files, _ = labelled
    write_rows(
        files["reference"], change([{**row, "uncertainty": ""} for row in read_rows(files["reference"])])
    )
    assert run("report", **files, **flags) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not files["output"].exists()


def test_notes(labelled):
    files, _ = labelled
    rows = read_rows(files["reference"])
    write_rows(files["reference"], set_field("class", "", slice(0, 12))(rows))
    assert any("12 of 180 points have no class" in note for note in report_of(files)["notes"])


# ---- References of any kind, read as labels.py does


def places_of(files: dict):
    """The labelled points as a GeoDataFrame of the sample's GeoPackage."""
    geopandas = pytest.importorskip("geopandas")
    points = geopandas.read_file(files["reference"].with_suffix(".gpkg"))
    points["class"] = [row["class"] for row in read_rows(files["reference"])]
    return points


def save_as_shapefile(points, folder):
    points.to_file(folder / "points.shp")  # which cuts the names of fields
    return {"reference": folder / "points.shp"}


def save_as_layer(points, folder):
    points = points.rename(columns={"class": "cover"})
    points.iloc[:3].to_file(folder / "two.gpkg", layer="other")
    points.to_crs("EPSG:3857").to_file(folder / "two.gpkg", layer="visited")
    return {"reference": folder / "two.gpkg", "layer": "visited", "field": "cover"}


def save_as_lon_lat(points, folder):
    there = points.to_crs("EPSG:4326").geometry
    table = points.drop(columns=["geometry", "x", "y", "image"]).assign(lon=there.x, lat=there.y)
    table.to_csv(folder / "degrees.csv", index=False)
    return {"reference": folder / "degrees.csv"}


def save_as_x_y(points, folder):
    table = points.drop(columns="geometry").assign(x=points.geometry.x, y=points.geometry.y)
    table.to_csv(folder / "metres.csv", index=False)
    return {"reference": folder / "metres.csv", "crs": "EPSG:32640"}


def save_with_ids(points, folder):
    ids = points["class"].map({name: f"{at}.0" for at, name in enumerate(NAMES)})
    points.assign(**{"class": ids}).to_file(folder / "ids.geojson")
    return {"reference": folder / "ids.geojson"}


def save_with_codes(points, folder):
    words = points["class"].replace({"land": "bare soil", "forest": "Wald"})
    points.assign(**{"class": words}).to_file(folder / "words.fgb")
    (folder / "legend.csv").write_text("from,to\nbare soil,land\nWald,forest\nwater,water\n")
    return {"reference": folder / "words.fgb", "classes": folder / "legend.csv"}


def save_as_kml(points, folder):
    points.to_crs("EPSG:4326").to_file(folder / "points.kml", driver="LIBKML")
    return {"reference": folder / "points.kml"}


def save_as_two_layers(points, folder):
    points.iloc[:40].to_file(folder / "halves.gpkg", layer="west")
    points.iloc[40:].to_file(folder / "halves.gpkg", layer="east")
    return {"reference": folder / "halves.gpkg", "layer": "all"}


SAVERS = [
    save_as_shapefile, save_as_layer, save_as_lon_lat, save_as_x_y, save_with_ids, save_with_codes,
    save_as_kml, save_as_two_layers,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("save", SAVERS)
def test_a_reference_of_any_kind_says_the_same(labelled, tmp_path, save):
    files, _ = labelled
    expected = report_of(files)["estimates"]
    assert report_of({**files, **save(places_of(files), tmp_path)})["estimates"] == expected
    points = places_of(files).assign(uncertainty="0.7")
    (again := tmp_path / "again").mkdir()
    assert run("report", **{**files, **save(points, again)}) == 2, "its other fields are read, too"


def test_what_is_no_point_on_the_maps_is_refused(labelled, tmp_path, capsys):
    files, _ = labelled
    points, vector = places_of(files), tmp_path / "points.gpkg"
    files["reference"] = vector
    for change, words in (
        (lambda one: one.translate(1e5, 0), "feature 1 (180 points): lies on no map"),
        (lambda one: one.buffer(20), "feature 1: is no single point"),
    ):
        points.set_geometry(change(points.geometry)).to_file(vector, driver="GPKG")
        assert run("report", **files) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("error:") == 1
        vector.unlink()
    points.set_crs(None, allow_override=True).to_file(tmp_path / "unplaced.shp")
    assert run("report", **{**files, "reference": tmp_path / "unplaced.shp"}) == 2
    assert "names no reference system" in capsys.readouterr().err
    points.to_file(vector, driver="GPKG")
    assert run("report", **files, crs="EPSG:4326") == 2, "these are no degrees"
    assert "lies on no map" in capsys.readouterr().err


def test_points_on_the_border_belong_to_one_pixel(tmp_path):
    """The top left corner of the map is on it, its lower right one is not."""
    geopandas = pytest.importorskip("geopandas")
    ids = np.array([[0, 1], [0, 1]])
    path = write_map(tmp_path / "a_classes.tif", ids, names=NAMES[:2])
    x, y = [300_000, 300_010, 300_000, 300_019.99], [2_800_000, 2_800_000, 2_799_990, 2_799_990]
    points = geopandas.points_from_xy(x, y, crs="EPSG:32640")
    table = geopandas.GeoDataFrame({"class": ["land", "water", "land", "water"]}, geometry=points)
    table.to_file(tmp_path / "points.gpkg")
    files = {"map": path, "reference": tmp_path / "points.gpkg", "output": tmp_path / "out"}
    assert report_of(files, design="simple")["counts"] == [[2, 0], [0, 2]]
    table.geometry = geopandas.points_from_xy([*x[:3], 300_020], y, crs="EPSG:32640")
    table.to_file(tmp_path / "points.gpkg")
    assert run("report", **files, design="simple") == 2


def test_a_sample_of_a_part_of_the_maps_is_told(tmp_path):
    ids = patches()
    for name, part in (("west", ids[:, :150]), ("east", ids[:, 150:])):
        write_map(tmp_path / "maps" / f"{name}_classes.tif", part, crs=None)
    files = {"map": tmp_path / "maps/west_classes.tif", "reference": tmp_path / "reference.csv"}
    assert run("sample", map=files["map"], output=files["reference"], size=90) == 0
    label_all(files, ids)
    files["output"] = tmp_path / "out"
    assert not any("other ground" in note for note in report_of(files)["notes"])
    notes = report_of(files | {"map": tmp_path / "maps"})["notes"]
    assert any("stand for 28,000 pixels, the maps have 58,000" in note for note in notes)


def test_one_class_at_all_points_is_drawn(labelled):
    """Shares that are written with ten digits do not quite sum to 1."""
    files, _ = labelled
    rows = read_rows(files["reference"])
    for row in rows:
        row["class"] = "land"
    write_rows(files["reference"], rows)
    for third in (0.3333333333, 0.3333333334):
        write_rows(files["reference"], [{**row, "stratum_share": third} for row in rows])
        land = areas_in(report_of(files))["land"]
        assert land["low"] < land["estimate"] == pytest.approx(land["high"])


def test_points_of_classes_left_out_are_told(labelled, tmp_path):
    files, _ = labelled
    legend = tmp_path / "legend.csv"
    legend.write_text("from,to\nland,land\nwater,water\nforest,\n")
    notes = report_of(files, classes=legend)["notes"]
    assert any("points are of classes that --classes leaves out" in note for note in notes)


def test_rows_that_were_taken_out_or_added_are_told(labelled):
    """Taken out where the map is wrong, they would make it right everywhere."""
    files, _ = labelled
    rows = read_rows(files["reference"])
    assert not any("the file" in note for note in report_of(files)["notes"])
    forest = [row for row in rows if row["stratum"] == "forest"]
    write_rows(files["reference"], [row for row in rows if row not in forest[:7]])
    notes = report_of(files)["notes"]
    assert any("7 of the points that were drawn are not in the file: forest (7)" in note for note in notes)
    beside = [{**row, "x": int(row["x"]) ^ 1} for row in forest[:3]]
    write_rows(files["reference"], [*rows, *beside])
    notes = report_of(files)["notes"]
    assert any("3 points more are in the file than were drawn at once: forest (3)" in note for note in notes)


def test_two_draws_are_one_sample_and_a_fifth_of_a_simple_one_is_missed(labelled):
    files, truth = labelled
    second = files["reference"].with_name("second.csv")
    assert run("sample", map=files["map"], output=second, size=120, seed=1) == 0
    rows = [{**row, "class": NAMES[truth[int(row["y"]), int(row["x"])]]} for row in read_rows(second)]
    first = read_rows(files["reference"])
    places = {(row["x"], row["y"]) for row in first}
    rows = [row for row in rows if (row["x"], row["y"]) not in places]
    write_rows(files["reference"], [*first, *rows])
    lost = [note for note in report_of(files)["notes"] if "not in the file" in note]
    assert bool(lost) == (len(rows) < 120), "but for a pixel that both draws met"
    assert run("sample", map=files["map"], output=second, size=100, design="simple") == 0
    rows = [{**row, "class": NAMES[truth[int(row["y"]), int(row["x"])]]} for row in read_rows(second)]
    write_rows(second, rows[15:])
    notes = report_of(files | {"reference": second})["notes"]
    assert any("15 of the points that were drawn are not in the file: all (15)" in note for note in notes)
    write_rows(second, [{**row, "inclusion_probability": "0.00"} for row in rows])
    assert run("report", **(files | {"reference": second})) == 2


def test_a_class_that_the_map_lacks_is_an_error_of_the_map(labelled, capsys):
    files, _ = labelled
    rows = read_rows(files["reference"])
    before = report_of(files)
    for row in rows[:9]:
        row["class"] = "bare"
    write_rows(files["reference"], rows)
    assert run("report", **files) == 2
    assert "name classes that the map lacks with --more-classes" in capsys.readouterr().err
    result = report_of(files, more_classes="bare")
    bare, accuracy = areas_in(result)["bare"], [each["estimates"][0]["estimate"] for each in (before, result)]
    assert bare["mapped"] == 0 < bare["low"] < bare["estimate"] and accuracy[1] < accuracy[0]
    assert np.array(result["counts"])[:, -1].sum() == 9 and not any(result["counts"][-1])
    for wrong in ("bare,land", "bare,", "none", "7"):
        assert run("report", **files, more_classes=wrong) == 2


def test_a_map_that_lost_its_names_says_so(labelled, tmp_path, capsys):
    """As one that QGIS saved anew: the words of the sample are none of its classes, but they are there."""
    files, _ = labelled
    write_map(files["map"], patches(), names=[])
    assert run("report", **files) == 2
    said = capsys.readouterr().err
    assert said.index("the map has no class names: tell the id of each word") < said.index("--more-classes")
    (legend := tmp_path / "legend.csv").write_text("from,to\nland,0\nwater,1\nforest,2\n")
    result = report_of(files, classes=legend)
    assert result["estimates"][0]["estimate"] > 0.9, "the cure mends it"
    assert not any("no class names" in note for note in result["notes"])
    assert "no class names" in report_of(files, more_classes=",".join(NAMES))["notes"][0]


def test_error_matrix_is_a_table(labelled):
    files, _ = labelled
    result = report_of(files)
    with (files["output"] / "error_matrix.csv").open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    assert head[2:] == NAMES and [row[1] for row in rows] == NAMES * 2
    assert [list(map(int, row[2:])) for row in rows[:3]] == result["counts"]
    assert [list(map(float, row[2:])) for row in rows[3:]] == result["shares"]


# ---- Maps beside and over each other


def test_maps_that_share_ground_are_refused(tmp_path, capsys):
    from rasterio.warp import calculate_default_transform, reproject

    ids, folder = patches(), tmp_path / "maps"
    write_map(folder / "west_classes.tif", ids)
    beside = from_origin(303_000, 2_800_000, 10, 10)
    east = write_map(folder / "east_classes.tif", ids, transform=beside)
    flags = {"map": folder, "output": tmp_path / "reference.csv", "size": 50}
    assert run("sample", **flags) == 0, "neighbours share nothing"
    write_map(east, ids, transform=from_origin(302_900, 2_800_000, 10, 10))
    capsys.readouterr()
    assert run("sample", **flags) == 0, "ten columns without data lie over it"
    write_map(east, ids, transform=from_origin(302_880, 2_800_000, 10, 10))
    assert run("sample", **flags) == 2
    assert "west_classes.tif: has data on the ground of" in capsys.readouterr().err
    place, width, height = calculate_default_transform(
        "EPSG:32640", "EPSG:4326", 300, 200, 300_000, 2_798_000, 303_000, 2_800_000
    )
    warped = np.full((height, width), 255, np.uint8)
    source = {"src_transform": from_origin(300_000, 2_800_000, 10, 10), "src_crs": "EPSG:32640"}
    reproject(ids, warped, **source, dst_transform=place, dst_crs="EPSG:4326", dst_nodata=255)
    write_map(east, warped, crs="EPSG:4326", transform=place)
    assert run("sample", **flags) == 2, "in another reference system too"


AT_180 = {  # maps of 30 x 20 pixels round 180 E, 17 S: reference system, left, top and size of a pixel
    "UTM 60": ("EPSG:32760", 819_300, 8_118_100, 10),
    "UTM 1": ("EPSG:32701", 180_400, 8_118_100, 10),
    "degrees": ("EPSG:4326", 179.9985, -16.999, 1e-4),
    "degrees west": ("EPSG:4326", -180.0015, -16.999, 1e-4),
}


def write_pair(folder, *places) -> list:
    """Two maps with data everywhere."""
    return [
        write_map(folder / f"{name}_classes.tif", np.zeros((20, 30)), crs=crs,
                  transform=from_origin(left, top, size, size))
        for name, (crs, left, top, size) in zip("ab", places, strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("UTM 60", "UTM 60"),
        ("UTM 60", "degrees west"),
        ("degrees", "UTM 1"),
        ("degrees", "degrees west"),
        ("degrees west", "degrees"),
    ],
)
def test_maps_across_180_degrees_share_ground_too(tmp_path, one, other):
    with pytest.raises(lc.InputError, match="has data on the ground of"):
        regions.read_region(write_pair(tmp_path, AT_180[one], AT_180[other]))
    crs, left, top, size = AT_180[other]
    regions.read_region(write_pair(tmp_path, AT_180[one], (crs, left + 33 * size, top, size)))


def test_longitudes_count_to_180_or_to_360(tmp_path):
    globe, beside = ("EPSG:4326", 0, 60, 12), ("EPSG:4326", -30, 30, 1)
    with pytest.raises(lc.InputError, match="has data on the ground of"):
        regions.read_region(write_pair(tmp_path, globe, beside))


def test_a_point_under_two_maps_belongs_to_the_one_with_data(tmp_path):
    geopandas = pytest.importorskip("geopandas")
    half = np.zeros((20, 20), int)
    half[:, 10:] = 255
    for name, ids in (("a", np.where(half, 255, 0)), ("b", np.where(half, 1, 255))):
        write_map(tmp_path / "maps" / f"{name}_classes.tif", ids, names=NAMES[:2])
    x = 300_000 + 10 * np.array([0.5, 3.5, 14.5, 17.5])
    points = geopandas.points_from_xy(x, np.full(4, 2_799_995), crs="EPSG:32640")
    table = geopandas.GeoDataFrame({"class": ["land", "land", "water", "land"]}, geometry=points)
    table.to_file(tmp_path / "points.gpkg")
    files = {"map": tmp_path / "maps", "reference": tmp_path / "points.gpkg", "output": tmp_path / "out"}
    assert report_of(files, design="simple")["counts"] == [[2, 0], [1, 1]]


def test_maps_of_two_systems_and_resolutions_are_one_region(tmp_path):
    """A square of degrees at 60 north beside one of metres: hectares count, not pixels."""
    pyproj = pytest.importorskip("pyproj")
    write_map(tmp_path / "maps" / "a_classes.tif", np.zeros((100, 100)), names=NAMES[:2])
    place = from_origin(10, 60, 0.001, 0.001)
    write_map(
        tmp_path / "maps" / "b_classes.tif", np.ones((200, 50)), crs="EPSG:4326", transform=place,
        names=NAMES[:2],
    )  # fmt: skip
    region = regions.read_region([tmp_path / "maps"])
    geod = pyproj.Geod(ellps="WGS84")
    for top in (0, 199):
        ring = [10, 10.001, 10.001, 10], 60 - 0.001 * (np.array([0, 0, 1, 1]) + top)
        area = abs(geod.polygon_area_perimeter(*ring)[0]) / 10_000
        assert region.areas[100 + top] == pytest.approx(area, rel=1e-3)
    args = parsed("sample", map=tmp_path / "maps", size=2_000, design="simple")
    in_degrees = np.mean([row["image"] == "b" for row in assess.draw_sample(args, region)])
    hectares = region.areas @ region.counts
    assert hectares[0] == pytest.approx(100) and region.unit == "hectares"
    assert in_degrees == pytest.approx(hectares[1] / hectares.sum(), abs=0.03)


# ---- Odd maps and samples


def label_all(files: dict, truth: np.ndarray) -> None:
    rows = read_rows(files["reference"])
    for row in rows:
        row["class"] = NAMES[truth[int(row["y"]), int(row["x"])]]
    write_rows(files["reference"], rows)


def test_a_class_of_one_pixel_can_be_reported(tmp_path):
    """No second point can be drawn there, and none is needed."""
    ids = np.zeros((50, 50), int)
    ids[:, 30:], ids[7, 7] = 1, 2
    files = {"map": write_map(tmp_path / "a_classes.tif", ids), "reference": tmp_path / "reference.csv"}
    assert run("sample", map=files["map"], output=files["reference"], size=60) == 0
    label_all(files, ids)
    found = areas_in(report_of(files | {"output": tmp_path / "out"}))
    assert found["forest"]["estimate"] == pytest.approx(0.01)
    rows = [row for row in read_rows(files["reference"]) if row["stratum"] != "forest"]
    write_rows(files["reference"], rows)
    assert run("report", **files, output=tmp_path / "none") == 2, "without it the region is not whole"


def test_more_points_than_pixels_take_all(tmp_path):
    ids = np.zeros((5, 5), int)
    ids[0] = 1
    files = {"map": write_map(tmp_path / "a_classes.tif", ids, names=NAMES[:2])}
    files |= {"reference": tmp_path / "reference.csv"}
    for design in assess.DESIGNS:
        assert run("sample", map=files["map"], output=files["reference"], size=900, design=design) == 0
        rows = read_rows(files["reference"])
        assert len(rows) == 25 and {row["inclusion_probability"] for row in rows} == {"1"}, design


def test_one_class_everywhere(tmp_path):
    files = {"map": write_map(tmp_path / "a_classes.tif", np.zeros((40, 40)))}
    files |= {"reference": tmp_path / "reference.csv"}
    assert run("sample", map=files["map"], output=files["reference"], size=50) == 0
    label_all(files, np.zeros((40, 40), int))
    result = report_of(files | {"output": tmp_path / "out"})
    low, high = (areas_in(result)["land"][key] for key in ("low", "high"))
    assert low < 0.98 * high, "fifty points without an error are no certainty"
    assert {"water is nowhere on the map", "forest is nowhere on the map"} <= set(result["notes"])
    assert any("water was found at no point" in note for note in result["notes"])


@pytest.mark.parametrize(
    ("ids", "names", "words"),
    [
        (np.full((9, 9), 255), NAMES, "holds no pixel with data"),
        (np.full((9, 9), 7), NAMES, "holds class id 7 of 3 classes"),
        (np.zeros((9, 9)), [], None),
    ],
)
def test_maps_without_data_or_names(tmp_path, capsys, ids, names, words):
    path = write_map(tmp_path / "a_classes.tif", ids, names=names)
    assert run("sample", map=path, output=tmp_path / "points.csv", size=9) == (2 if words else 0)
    said = capsys.readouterr()
    assert words in said.err if words else "class 0 (9)" in said.out


def map_of_declared_nodata(folder, ids, nodata):
    path = write_map(folder / "a_classes.tif", np.where(ids == 255, nodata, ids), names=[])
    with rasterio.open(path, "r+") as file:
        file.nodata = nodata
    return path


def map_with_a_mask(folder, ids, _):
    path = write_map(folder / "a_classes.tif", np.where(ids == 255, 1, ids), names=[])
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
        file.nodata = None
        file.write_mask(ids != 255)
    return path


@pytest.mark.parametrize(
    ("save", "nodata"), [(map_of_declared_nodata, 0), (map_of_declared_nodata, 9), (map_with_a_mask, None)]
)
def test_what_a_map_says_to_be_no_data_is_no_class(tmp_path, capsys, save, nodata):
    ids = np.where(patches(60, 90) == 255, 255, patches(60, 90) + 1)
    path = save(tmp_path / "maps", ids, nodata)
    region = regions.read_region([path])
    assert region.counts.sum(0).tolist() == np.bincount(ids[ids != 255]).tolist()
    for design in assess.DESIGNS:
        rows = assess.draw_sample(parsed("sample", map=path, size=60, design=design), region)
        assert rows and all(ids[row["y"], row["x"]] != 255 for row in rows)
    reference = tmp_path / "points.csv"
    reference.write_text("image,x,y,class\na,50,50,1\na,50,40,1\na,3,50,1\n")
    files = {"map": path, "reference": reference, "output": tmp_path / "out"}
    assert run("report", **files, design="simple") == 2
    assert "line 4: lies where the map has no data" in capsys.readouterr().err
    beside = from_origin(300_000 - 80 * 10, 2_800_000, 10, 10)  # only over the border without data
    write_map(tmp_path / "maps/b_classes.tif", ids, transform=beside, names=[])
    assert run("sample", map=tmp_path / "maps", output=tmp_path / "sample.csv", size=60) == 0


@pytest.mark.parametrize("names", [None, []])
def test_a_class_declared_to_be_no_data_is_told(names, tmp_path, capsys):
    """Also of a map that has lost its names."""
    path = write_map(tmp_path / "a_classes.tif", patches(), **({} if names is None else {"names": names}))
    with rasterio.open(path, "r+") as file:
        file.nodata = 0
    assert run("sample", map=path, output=tmp_path / "points.csv", size=60) == 0
    said = capsys.readouterr()
    assert "0 is a class, but declared to be no data" in said.err and "land" not in said.out


def test_the_confidence_of_a_map_is_no_map(tmp_path, capsys):
    path = write_map(tmp_path / "a_confidence.tif", patches(), names=[])
    with rasterio.open(path, "r+") as file:
        file.set_band_description(1, "confidence in percent")
    assert run("sample", map=path, output=tmp_path / "points.csv") == 2
    assert "holds confidence in percent, not class ids; name a NAME_classes.tif" in capsys.readouterr().err


def test_maps_of_other_classes_are_no_region(tmp_path, capsys):
    write_map(tmp_path / "a_classes.tif", patches(), crs=None)
    write_map(tmp_path / "b_classes.tif", patches(), crs=None, names=["land", "lake", "forest"])
    assert run("sample", map=tmp_path, output=tmp_path / "points.csv") == 2
    assert "has other classes than" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"half_width": 0}, "--half-width 0.0: must lie between 0 and 1"),
        ({"half_width": 0.9}, "--half-width 0.9: makes a sample of 1; 6 are the least"),
        ({"size": 3}, "--size 3: makes a sample of 3; 6 are the least"),
        ({"half_width": 0.1, "users_accuracy": "0.9,0.9"}, "give 3 numbers between 0 and 1"),
        ({"users_accuracy": "0.9,0.9,0.9"}, "--users-accuracy: serves --half-width and"),
        ({"design": "simple", "allocation": "equal"}, "--allocation equal: there are no strata"),
        ({"seed": -1}, "--seed -1: must be 0 or more"),
        ({"size": 90, "half_width": 0.1}, "not allowed with argument --size"),
        ({"half_width": 0.1, "of": "lava"}, "class 'lava' is neither"),
    ],
)
def test_samples_that_cannot_be_drawn(tmp_path, capsys, flags, words):
    path = write_map(tmp_path / "a_classes.tif", patches())
    assert run("sample", map=path, output=tmp_path / "points.csv", **flags) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "points.csv").exists()


def test_what_few_clusters_tell_has_no_interval(labelled):
    files, _ = labelled
    rows = read_rows(files["reference"])
    for at, row in enumerate(rows):
        row |= {"tile": f"t{at % 30}", "stratum": ""}
    rows = [row for row in rows if row["class"] != "forest" or row["tile"] == "t3"]
    write_rows(files["reference"], rows)
    result = report_of(files, cluster="tile")
    areas = areas_in(result)
    assert (areas["forest"]["low"], areas["forest"]["high"]) == (None, None)
    assert areas["forest"]["standard_error"] > 0 and areas["land"]["low"] < areas["land"]["high"]
    assert "no interval of the area of forest: fewer than 20 clusters" in " ".join(result["notes"])
    page = (files["output"] / "report.md").read_text(encoding="utf-8")
    assert next(line for line in page.splitlines() if line.startswith("| forest")).endswith("| no interval |")


# ---- Points that a model learnt from


def checkpoint_of(tmp_path, pixels):
    """What a checkpoint says of where it learnt; without a network, which reports have no use for."""
    path, known = tmp_path / "best_model.pth", {"config": {"train_image_dir": str(tmp_path / "tiles")}}
    known |= {} if pixels == "unknown" else {"labelled_pixels": pixels}
    torch.save(dict.fromkeys(lc.CHECKPOINT_KEYS) | known, path)
    return path


def test_points_that_were_learnt_from_are_refused(labelled, tmp_path, capsys):
    files, _ = labelled
    at = [(int(row["y"]), int(row["x"])) for row in read_rows(files["reference"])]
    pixels = {"scene.png": torch.tensor(at[:7], dtype=torch.int32)}
    assert run("report", **files, checkpoint=checkpoint_of(tmp_path, pixels)) == 2
    assert "learnt from 7 of the 180 reference points" in capsys.readouterr().err
    assert run("report", **files, checkpoint=checkpoint_of(tmp_path, {"scene.png": None})) == 2
    pixels = {"scene.png": torch.tensor([(199, 0)], dtype=torch.int32)}
    notes = report_of(files, checkpoint=checkpoint_of(tmp_path, pixels))["notes"]
    assert any("180 of 180 points lie in tiles" in note for note in notes)
    notes = report_of(files, checkpoint=checkpoint_of(tmp_path, {}))["notes"]
    assert notes == []
    notes = report_of(files, checkpoint=checkpoint_of(tmp_path, {"other.png": None}))["notes"]
    assert any("1 of 1 tiles" in note and "other.png, cannot be laid over the maps" in note for note in notes)
    notes = report_of(files, checkpoint=checkpoint_of(tmp_path, "unknown"))["notes"]
    assert any("does not say where it learnt" in note for note in notes)


def test_tiles_with_a_place_are_compared_on_the_ground(labelled, tmp_path, capsys):
    """A tile of another name and grid covers the left third of the map."""
    files, _ = labelled
    with rasterio.open(
        tmp_path / "tile.tif", "w", driver="GTiff", width=200, height=400, count=3, dtype="uint8",
        crs="EPSG:32640", transform=from_origin(300_000, 2_800_000, 5, 5),
    ) as file:  # fmt: skip
        file.write(np.full((3, 400, 200), 9, np.uint8))
    (tmp_path / "tiles").mkdir()
    (tmp_path / "tile.tif").rename(tmp_path / "tiles" / "tile.tif")
    at = np.array([(int(row["y"]), int(row["x"])) for row in read_rows(files["reference"])])
    inside = at[at[:, 1] < 100]
    pixels = {"tile.tif": torch.tensor([(0, 0)], dtype=torch.int32)}
    notes = report_of(files, checkpoint=checkpoint_of(tmp_path, pixels))["notes"]
    assert any(f"{len(inside)} of 180 points lie in tiles" in note for note in notes)
    pixels = {"tile.tif": torch.tensor(2 * inside[:3] + 1, dtype=torch.int32)}
    assert run("report", **files, checkpoint=checkpoint_of(tmp_path, pixels)) == 2
    assert "learnt from 3 of the 180" in capsys.readouterr().err


def write_scene(path, pixels: np.ndarray) -> None:
    path.parent.mkdir()
    place = {"crs": "EPSG:32640", "transform": from_origin(300_000, 2_800_000, 10, 10)}
    form = {"width": pixels.shape[1], "height": pixels.shape[0], "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **form, **place) as file:
        file.write(pixels.transpose(2, 0, 1))


def without_places(folder) -> None:
    """Makes of tiles, map and checkpoint in a folder what they are if the scene is a PNG."""
    from PIL import Image

    for path in sorted((folder / "dataset/train/images").iterdir()):
        Image.fromarray(lc.read_image(path)).save(path.with_suffix(".png"))
        path.unlink()
    with rasterio.open(folder / "maps/scene_classes.tif") as file:
        ids, maker = file.read(1), file.tags()["CHECKPOINT"]
    write_map(folder / "maps/scene_classes.tif", ids, crs=None, checkpoint=maker)
    known = torch.load(folder / "best_model.pth")
    known["labelled_pixels"] = {name[:-3] + "png": at for name, at in known["labelled_pixels"].items()}
    torch.save(known, folder / "best_model.pth")


@pytest.mark.filterwarnings("ignore")
def test_from_labelled_points_to_areas(tmp_path, monkeypatch, capsys):
    """Tiles are cut from a scene; a model learns there, maps it, and is assessed where it did not learn."""
    import cut_tiles
    import map_scenes

    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    truth = np.arange(192)[:, None] // 64 + np.zeros((1, 192), int)
    write_scene(
        tmp_path / "scenes" / "scene.tif",
        np.uint8(80 * truth[..., None] + rng.integers(0, 40, (192, 192, 3))),
    )
    places = rng.choice(192 * 192, 400, replace=False).tolist()
    learnt = {divmod(place, 192) for place in places}
    points = [{"image": "scene", "x": x, "y": y, "class": NAMES[truth[y, x]]} for y, x in learnt]
    write_rows(tmp_path / "points.csv", points)
    names = f"--class-names {','.join(NAMES)}"
    cut = f"--images scenes --points points.csv --output dataset --tile 64 --block 1 --val-share 0.3 {names}"
    assert not cut_tiles.main(cut.split())
    flags = (
        f"--num-classes 3 {names} --class-colors none --backbone mobilenet_v3_large --weights none --epochs 1"
    )
    assert not lc.main([*flags.split(), "--batch-size", "2", "--crop-size", "64", "--device", "cpu"])
    assert not map_scenes.main(["--input", "scenes", "--output", "maps", "--device", "cpu"])
    files = {"map": "maps", "reference": tmp_path / "reference.csv", "output": tmp_path / "out"}
    assert run("sample", map="maps", output=files["reference"], size=90, design="simple") == 0
    rows = [row for row in read_rows(files["reference"]) if (int(row["y"]), int(row["x"])) not in learnt]
    write_rows(files["reference"], rows)
    label_all(files, truth)
    notes = report_of(files)["notes"]
    assert any(note.startswith("best_model.pth sha256:") and "was not looked at" in note for note in notes)
    tiles = {path.stem[-9:] for path in (tmp_path / "dataset/train/images").iterdir()}
    near = sum(f"r{int(row['y']) // 64:03}_c{int(row['x']) // 64:03}" in tiles for row in rows)
    taught = [(y, x) for y, x in learnt if f"r{y // 64:03}_c{x // 64:03}" in tiles]
    spoilt = read_rows(files["reference"])
    for row, (y, x) in zip(spoilt[4:6], taught, strict=False):
        row |= {"y": y, "x": x}
    other = write_rows(tmp_path / "spoilt.csv", spoilt)
    for change in (lambda folder: None, without_places):
        change(tmp_path)
        notes = report_of(files, checkpoint="best_model.pth")["notes"]
        assert 0 < near < len(rows) and f"{near} of {len(rows)} points lie in tiles" in " ".join(notes)
        assert not any("cannot be laid" in note for note in notes)
        capsys.readouterr()
        assert run("report", **{**files, "reference": other}, checkpoint="best_model.pth") == 2
        said = f"learnt from 2 of the {len(rows)} reference points, as {other}, line 6"
        assert said in capsys.readouterr().err
    (tmp_path / "dataset").rename(tmp_path / "elsewhere")
    notes = report_of(files, checkpoint="best_model.pth")["notes"]
    assert any(f"{len(tiles)} of {len(tiles)} tiles" in note and "cannot be laid" in note for note in notes)


def test_a_map_of_another_checkpoint_is_told(labelled, tmp_path):
    files, _ = labelled
    write_map(files["map"], patches(), checkpoint="old.pth sha256:0123456789abcdef")
    result = report_of(files, checkpoint=checkpoint_of(tmp_path, {}))
    assert result["made_by"] == ["old.pth sha256:0123456789abcdef"]
    assert any(
        note.startswith("old.pth sha256:0123456789abcdef made the map, and it was not")
        for note in result["notes"]
    )


# =====================================================================================================
# score
# =====================================================================================================


def test_score_is_that_of_the_masks(tmp_path, capsys):
    write_tiles(tmp_path, 3)
    path, model = tmp_path / "best_model.pth", lc.DeepLabV3Segmentation(3, "mobilenet_v3_large", None)
    lc.save_checkpoint(path, model, NAMES, labelled_pixels={"tile_1.png": None})
    flags = {"checkpoint": path, "images": tmp_path / "images", "device": "cpu"}
    assert run("score", **flags, labels=tmp_path / "masks") == 0
    said = capsys.readouterr().out
    model, confusion = lc.load_model(path, "cpu"), torch.zeros(3, 3, dtype=torch.int64)
    for image, mask in lc.list_tiles(tmp_path / "images", tmp_path / "masks"):
        found = torch.from_numpy(lc.predict_class_ids(model, lc.read_image(image)))
        confusion += lc.confusion_matrix(found, torch.from_numpy(lc.read_mask(mask)), 3)
    iou = lc.compute_iou(confusion)
    assert "1 of 3 tiles have names of tiles that it learnt from" in said
    assert f"mIoU {iou.nanmean():.4f}" in said
    for name, value in zip(NAMES, iou.tolist(), strict=True):
        assert f"{name}  IoU {value:.4f}" in said.replace("    ", "  ").replace("   ", "  ")
    points = [{"image": "tile_0.png", "x": x, "y": 5, "class": "water"} for x in range(20)]
    assert run("score", **flags, labels=write_rows(tmp_path / "points.csv", points)) == 0
    assert "point accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("bands", [[1], [1, 2, 3, 4]])
def test_a_model_of_other_bands_is_scored(tmp_path, capsys, bands):
    write_tiles(tmp_path, 2)
    for image in list((tmp_path / "images").iterdir()):
        pixels = lc.read_image(image)[..., [0, 1, 2, 0]].transpose(2, 0, 1)
        image.unlink()
        form = {"count": 4, "dtype": "uint8", "crs": "EPSG:32640", "transform": from_origin(0, 0, 1, 1)}
        with rasterio.open(image.with_suffix(".tif"), "w", "GTiff", 64, 64, **form) as file:
            file.write(pixels)
    path, model = tmp_path / "m.pth", lc.DeepLabV3Segmentation(3, "mobilenet_v3_large", None, bands=bands)
    model.normalisation = {"mean": [0.5] * len(bands), "std": [0.2] * len(bands)}
    lc.save_checkpoint(path, model, NAMES)
    flags = {"checkpoint": path, "images": tmp_path / "images", "labels": tmp_path / "masks"}
    assert run("score", **flags, device="cpu") == 0, capsys.readouterr().err


def test_a_stratum_drawn_whole_and_hardly_labelled_is_not_known_by_one_point(tmp_path, capsys):
    ids = np.zeros((100, 100), np.uint8)
    ids[0, :40] = 1
    path, output = write_map(tmp_path / "some_classes.tif", ids), tmp_path / "reference.csv"
    assert run("sample", map=path, output=output, size=150) == 0
    rows = read_rows(output)
    rare = [row for row in rows if row["stratum"] == NAMES[1]]
    assert len(rare) == 40, "all of its pixels are drawn"
    for row in rows:
        row["class"] = "" if row in rare[1:] else row["stratum"]
    write_rows(output, rows)
    capsys.readouterr()
    assert run("report", map=path, reference=output, output=tmp_path / "report") == 2
    assert f"too few points with a class in {NAMES[1]}" in capsys.readouterr().err
