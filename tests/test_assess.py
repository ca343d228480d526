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
    """Fifty tiles of ten points, which are alike (correlation 0.1)."""
    rng, joint = np.random.default_rng(0), (MAPPED[:, None] * rare).ravel()
    tiles = rng.standard_gamma(np.broadcast_to(9 * joint, (SAMPLES, 50, 25)))
    cells = rng.multinomial(10, tiles / tiles.sum(-1, keepdims=True)).reshape(SAMPLES, 50, 5, 5)
    for at, true in enumerate(MAPPED @ rare):
        _, _, low, high = estimators.cluster_ratio(cells, *estimators.measures(5)["area share", at])
        assert 93 <= 100 * ((low <= true) & (true <= high)).mean() <= 97, at


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
    """Three tiles: 3 of 4, 1 of 4 and 2 of 2 points are of the class."""
    counts = np.zeros((3, 2, 2))
    counts[:, 0] = [[3, 1], [1, 3], [2, 0]]
    estimate, error, low, high = estimators.cluster_ratio(counts, *estimators.measures(2)["area share", 0])
    assert estimate == pytest.approx(0.6)
    residuals = np.array([3 - 2.4, 1 - 2.4, 2 - 1.2])
    assert error == pytest.approx(np.sqrt(3 / 2 * (residuals**2).sum()) / 10)
    tallies = torch.tensor([[3, 4], [1, 4], [2, 2]])
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
        (set_field("image", "elsewhere"), {}, "1 labels of images that are not there, like elsewhere"),
        (set_field("x", "300"), {}, "line 2: point 300,"),
        (set_field("x", "0"), {}, "line 2: lies where the map has no data"),
        (set_field("class", "lava"), {}, "line 2: class 'lava' is neither"),
        (lambda rows: [*rows, rows[0]], {}, "is a pixel that stands twice; keep one"),
        (set_field("uncertainty", "0.7", slice(None)), {}, "least sure, not at random"),
        (set_field("design", "", slice(None)), {}, "does not tell how its points were drawn"),
        (set_field("class", "", slice(None)), {}, "too few points with a class"),
        (lambda rows: [row for row in rows if row["stratum"] != "water"], {}, "of the region, not all of it"),
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
