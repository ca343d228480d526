"""Real annotations: points for masks, held-out points for scores, images of other depths, and no data."""

import csv
import json
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, flags, write_tiles
from PIL import Image
from scipy import stats
from test_bad_input import complaint

import landcover_segmentation as lc

sys.path.insert(0, str(ROOT / "tools"))
import active_learning
import map_scenes

rasterio = pytest.importorskip("rasterio")
NAMES, UTM = ["low", "middle", "high"], "EPSG:32640"


@pytest.fixture
def images(tmp_path):
    """Two images, a.png of 100x90 and b.png of 30x20 (width x height), by name without suffix."""
    for name, size in (("a", (100, 90)), ("b", (30, 20))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    return {"a": tmp_path / "a.png", "b": tmp_path / "b.png"}


def write_csv(path, masks, count=20, seed=0, names=NAMES):
    """Points drawn from the masks of a folder, in one CSV; the class of every second one by name."""
    rows = [("image", "x", "y", "class")]
    for mask_path in sorted(masks.glob("*.png")):
        mask = lc.read_mask(mask_path)
        points = lc.sample_random_points(mask, count, np.random.default_rng(seed))
        for number, (y, x) in enumerate(np.argwhere(points != 255).tolist()):
            rows.append((mask_path.name, x, y, names[mask[y, x]] if number % 2 else mask[y, x]))
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def write_tif(path, array, crs=UTM, left=326000.0, top=2780000.0, size=0.5, **form):
    """A GeoTIFF of an array (H, W, bands)."""
    bands = array.transpose(2, 0, 1)
    place = {"crs": crs, "transform": rasterio.Affine(size, 0, left, 0, -size, top)} if crs else {}
    given = {"count": len(bands), "height": array.shape[0], "width": array.shape[1], "dtype": array.dtype}
    with rasterio.open(path, "w", "GTiff", **given | place | form) as file:
        file.write(bands)


# =====================================================================================================
# CSV
# =====================================================================================================


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("image,x,y,class\na.png,3.7,4,1\na,99,89.99,high\nb,0,0,LOW\n", "utf-8"),
        ("Image, X, Y, Class\r\na.png, 3.7, 4, 1.0\r\na, 99, 89.99, high\r\nb, 0, 0, low\r\n", "utf-8-sig"),
        ("image;x;y;class\na.png;3,7;4;1\na;99;89,99;high\nb;0;0;low\n;;;\n", "utf-8-sig"),
        ("class\ty\tx\tnote\timage\n1\t4\t3.7\t-\ta\nhigh\t89.99\t99\t\ta\nlow\t0\t0\t\tb\n\n", "utf-8"),
    ],
    ids=["plain", "byte order mark, blanks, capitals", "European spreadsheet", "tabs, other columns"],
)
def test_harmless_variants_of_a_csv_say_the_same(text, encoding, images, tmp_path):
    (tmp_path / "points.csv").write_bytes(text.encode(encoding))
    points, passed_over = lc.read_points(tmp_path / "points.csv", images, NAMES)
    assert points == {"a": {(4, 3): 1, (89, 99): 2}, "b": {(0, 0): 0}} and not passed_over


def test_an_accent_in_a_name_is_one_letter_however_it_is_stored(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "Gewa\u0308sser.png")
    (tmp_path / "points.csv").write_text(
        "image,x,y,class\nGew\u00e4sser.png,1,2,gr\u00fcn\n", encoding="utf-8"
    )
    images = lc.list_images(tmp_path)
    points, _ = lc.read_points(tmp_path / "points.csv", images, ["rot", "gru\u0308n"])
    assert list(points.values()) == [{(2, 1): 1}]


BAD_ROWS = {
    "outside": (
        "a.png,3,4,0\na.png,100,4,0",
        "line 3: point 100,4 lies outside a.png, which is 100 wide and 90 high",
    ),
    "above": ("a.png,3,-0.1,0", "line 2: point 3,-0.1 lies outside"),
    "unknown class": (
        "a.png,3,4,lake",
        "line 2: class 'lake' is neither 0 to 2 nor one of low, middle, high",
    ),
    "id too high": ("a.png,3,4,3", "line 2: class '3'"),
    "half an id": ("a.png,3,4,1.5", "line 2: class '1.5'"),
    "no such image": ("b,1,1,0\nc.png,3,4,0", "line 3: there is no image 'c.png'"),
    "two classes": (
        "a,3,4,0\na,5,5,1\na.png,3.9,4,1",
        "line 4: pixel 3,4 of a.png has another class in line 2",
    ),
    "no row": ("", "holds no point with a class on an image; it is empty"),
    "no class yet": ("a,3,4,", "holds no point with a class on an image; points without a class .1."),
    "other separator within": ("a.png;3;4;0", "line 2: has not 4 fields"),
    "decimal comma": ("a.png,3,5,4,5,0", "line 2: has not 4 fields; .* write 3.5"),
    "quoted decimal comma": ('a.png,"3,5",4,0', "line 2: x is '3,5'; write 3.5"),
    "not a number": ("a.png,nan,4,0", "line 2: x is 'nan'"),
    "endless": ("a.png,inf,4,0", "line 2: x is 'inf'"),
    "missing": ("a.png,,4,0", "line 2: x is ''"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_is_named(case, images, tmp_path):
    rows, wanted = BAD_ROWS[case]
    (tmp_path / "points.csv").write_text(f"image,x,y,class\n{rows}\n")
    with pytest.raises(lc.InputError, match=wanted) as caught:
        lc.read_points(tmp_path / "points.csv", images, NAMES)
    assert "points.csv" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "line 1: is empty"),
        (b"image,x,y\na,1,2\n", "line 1: lacks class"),
        (b"a.png,1,2,0\n", "line 1: lacks image"),
        (b"image,x,y,class,X\na,1,2,low,3\n", "line 1: lacks x, or has it twice"),
        (b"image,x,y,class\na,1e300,2,low\n", "line 2: point 1e300,2 lies outside a.png"),
        (b"image|x|y|class\n", "line 1: lacks image"),
        ("image,x,y,class\n".encode("utf-16-le"), "line 1: lacks"),
        ("image,x,y,class\na,1,2,gr\u00fcn\n".encode("cp1252"), "cannot be read .* must be CSV in UTF-8"),
        (None, "cannot be read .*No such file"),
    ],
)
def test_a_csv_that_is_none_is_named(content, wanted, images, tmp_path):
    if content is not None:
        (tmp_path / "points.csv").write_bytes(content)
    with pytest.raises(lc.InputError, match=f"points.csv.*{wanted}"):
        lc.read_points(tmp_path / "points.csv", images, NAMES)


# =====================================================================================================
# Points -> training and scores
# =====================================================================================================


def test_points_are_the_masks_that_they_were_drawn_from(data):
    """A points file and a folder of sparse masks give the same items, budget and fixed draw."""
    write_csv(data / "points.csv", data / "train/masks")
    (data / "sparse").mkdir()
    for path in (data / "train/masks").iterdir():
        points = lc.sample_random_points(lc.read_mask(path), 20, np.random.default_rng(0))
        Image.fromarray(points).save(data / "sparse" / path.name)
    for num_points in (None, 7):
        sets = [
            lc.LandCoverDataset(data / "train/images", labels, num_points, class_names=NAMES)
            for labels in (data / "points.csv", data / "sparse")
        ]
        for (image, points), (image_too, points_too) in zip(*sets, strict=True):
            assert torch.equal(image, image_too) and torch.equal(points, points_too)
            assert int((points != 255).sum()) == (num_points or 20)


def test_trained_from_a_csv_through_the_script(data, capsys):
    """An image without a point is left out; budget and classes by name or id; scored densely as ever."""
    write_csv(data / "points.csv", data / "train/masks")
    write_tiles(data / "more", 1, seed=9)
    (data / "more/images/tile_0.png").rename(data / "train/images/unlabelled.png")
    assert lc.main(flags(data, train_mask_dir=data / "points.csv", num_points=15, epochs=1)) == 0
    said = capsys.readouterr().out
    assert "tiles: 5 train, 2 val" in said
    assert "left out of training: images without a point (1)" in said
    assert "75 of the 100 points are learnt from: NUM_POINTS = 15" in said
    assert "best mIoU" in said
    metrics = json.loads((data.parent / "out/metrics.json").read_text())
    assert metrics["config"]["train_mask_dir"].endswith("points.csv") and "miou" in metrics


def test_trained_and_scored_by_points_nothing_says_miou(data, pictures, monkeypatch):
    """Points for both splits, and no trace of an IoU in what is printed, written or drawn."""
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    drawn, printed = [], []
    for kind, name in (
        (Figure, "suptitle"),
        (Axes, "plot"),
        (Axes, "set"),
        (Axes, "fill_between"),
        (Axes, "set_title"),
    ):
        method = getattr(kind, name)
        monkeypatch.setattr(
            kind, name, lambda *a, _method=method, **k: drawn.append(f"{a[1:]}{k}") or _method(*a, **k)
        )
    monkeypatch.setattr("builtins.print", lambda *parts, **_: printed.append(" ".join(map(str, parts))))
    monkeypatch.setattr(lc.tqdm, "write", lambda text: printed.append(text))
    out, sides = data.parent / "out", ("train", "val")
    for side in sides:
        write_csv(data / f"{side}.csv", data / side / "masks")
    points = {f"{side}_mask_dir": data / f"{side}.csv" for side in sides}
    given = flags(data, **points, epochs=1)
    assert lc.main(given) == 0
    said = "\n".join(printed)
    metrics = json.loads((out / "metrics.json").read_text())
    with (out / "training_history.csv").open() as file:
        rows = list(csv.DictReader(file))
    best, last = torch.load(out / "best_model.pth"), torch.load(out / "last_checkpoint.pth")
    for text in (
        said.replace("for mIoU takes dense masks", ""),
        str(drawn),
        str(metrics),
        str(rows),
        str(best.keys()),
    ):
        assert "iou" not in text.lower(), text
    assert "iou" not in str(last["history"]).lower()

    low, high = metrics["confidence_interval_95"].values()
    assert metrics["points"] == 40 == sum(map(sum, metrics["confusion_matrix"])) and metrics["tiles"] == 2
    assert metrics["point_accuracy"] == pytest.approx(np.trace(metrics["confusion_matrix"]) / 40)
    assert 0 <= low < metrics["point_accuracy"] < high <= 1
    recalls = [value for value in metrics["recall_per_class"].values() if value is not None]
    assert metrics["mean_recall"] == pytest.approx(np.mean(recalls))
    assert metrics["mean_recall"] == max(float(row["val_mean_recall"]) for row in rows) == best["mean_recall"]
    assert set(metrics["recall_per_class"]) == set(NAMES) and "mean recall" in metrics["selection"]
    assert f", point accuracy {metrics['point_accuracy']:.4f} (95% interval {low:.3f} to {high:.3f}" in said
    assert "val: 40 points; the epoch of best mean recall is kept" in said
    assert lc.main([*given, "--resume"]) == 0, "a finished run of points is resumed as any other"


@pytest.mark.parametrize(("labelled", "sparse"), [(204, True), (205, False)])
def test_masks_that_leave_nearly_all_unlabelled_are_points(labelled, sparse, data):
    """5% of a tile of 64x64 are 204.8 pixels; the two tiles together decide."""
    for number, path in enumerate(sorted((data / "val/masks").iterdir())):
        mask = lc.sample_random_points(lc.read_mask(path), labelled + (10 if number else -10))
        Image.fromarray(mask).save(path)
    dataset = lc.LandCoverDataset(data / "val/images", data / "val/masks")
    assert lc.check_dataset(dataset, 3).sparse == sparse


def test_a_bad_points_file_ends_the_run_before_anything_is_written(data, capsys):
    write_csv(data / "points.csv", data / "train/masks")
    with (data / "points.csv").open("a") as file:
        file.write("tile_0.png,64,3,0\n")
    message = complaint(flags(data, train_mask_dir=data / "points.csv"), data, capsys)
    assert "points.csv, line 102: point 64,3 lies outside tile_0.png" in message
    message = complaint(flags(data, val_mask_dir=data / "points.csv"), data, capsys)
    assert "there is no image 'tile_2.png'" in message
    for suffix in ("geojson", "gpkg", "txt"):
        (data / f"points.{suffix}").write_text("points")
        message = complaint(flags(data, train_mask_dir=data / f"points.{suffix}"), data, capsys)
        assert f"points.{suffix}" in message and "tools/labels.py" in message


def test_what_is_suggested_and_filled_in_is_what_training_reads(data):
    """suggest -> a person -> TRAIN_MASK_DIR, and back to suggest, which keeps away from what is labelled."""
    names, seen = [path.name for path in sorted((data / "train/images").iterdir())], []
    model = lc.DeepLabV3Segmentation(3, "mobilenet_v3_large", None)
    lc.save_checkpoint(data / "model.pth", model, NAMES)
    suggest = [
        "suggest",
        "--checkpoint",
        data / "model.pth",
        "--images",
        data / "train/images",
        "--num-points",
        6,
    ]
    for known in ([], ["--labelled", data / "points.csv"]):
        assert (
            active_learning.main([str(part) for part in (*suggest, "--output", data / "asked.csv", *known)])
            == 0
        )
        with (data / "asked.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        seen.append({(row["image"], int(row["x"]), int(row["y"])) for row in rows})
        masks = {name: lc.read_mask(data / "train/masks" / name) for name in names}
        with (data / "points.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            for row in rows:
                writer.writerow(row | {"class": NAMES[masks[row["image"]][int(row["y"]), int(row["x"])]]})
        dataset = lc.LandCoverDataset(data / "train/images", data / "points.csv", class_names=NAMES)
        for index, name in enumerate(names):
            _, points, _ = dataset.read(index)
            assert {(name, x, y) for y, x in np.argwhere(points != 255).tolist()} == {
                at for at in seen[-1] if at[0] == name
            }
            assert (points == masks[name])[points != 255].all()
    assert len(seen[0]) == 30 and not seen[0] & seen[1]


def test_a_simulation_takes_dense_masks_to_score_by(data, capsys):
    write_csv(data / "points.csv", data / "val/masks")
    assert active_learning.main(["simulate", *flags(data, val_mask_dir=data / "points.csv")]) == 2
    assert "points.csv': holds points; mIoU" in capsys.readouterr().err


# =====================================================================================================
# The interval of a point accuracy
# =====================================================================================================


def test_points_as_good_as_independent_have_wilsons_interval():
    """Many tiles of one point each: the textbook formula, as scipy has it."""
    right = np.random.default_rng(0).random(4000) < 0.8
    share, low, high = lc.point_accuracy(torch.tensor(np.stack([right, np.ones_like(right)], 1)))
    known = stats.binomtest(int(right.sum()), 4000).proportion_ci(method="wilson")
    assert share == right.mean()
    assert (low, high) == (pytest.approx(known.low, abs=2e-4), pytest.approx(known.high, abs=2e-4))


def test_the_interval_covers_the_truth_though_points_of_a_tile_are_alike():
    """Beta-binomial tiles with an intraclass correlation of 0.3: the naive interval covers half."""
    rng, truth, covered, naive = np.random.default_rng(0), 0.8, 0, 0
    for _ in range(600):
        points = rng.poisson(20, 12) + 1
        a, b = truth * 0.7 / 0.3, (1 - truth) * 0.7 / 0.3
        right = rng.binomial(points, rng.beta(a, b, 12))
        _, low, high = lc.point_accuracy(torch.tensor(np.stack([right, points], 1)))
        covered += low <= truth <= high
        known = stats.binomtest(int(right.sum()), int(points.sum())).proportion_ci(method="wilson")
        naive += known.low <= truth <= known.high
    assert 0.91 < covered / 600 < 0.99 and naive / 600 < 0.7


@pytest.mark.parametrize("tallies", [[[20, 20]] * 4, [[0, 20]] * 4, [[13, 20]], [[10, 20], [10, 20]]])
def test_the_interval_never_claims_certainty(tallies):
    share, low, high = lc.point_accuracy(torch.tensor(tallies))
    assert 0 <= low <= share <= high <= 1 and high - low > 0.1


# =====================================================================================================
# Depth, bands, alpha and nodata
# =====================================================================================================


def deepen(data, factor=40.0, bands=5):
    """The tiles as 16-bit GeoTIFFs of five bands, of which 4, 3, 2 show what the PNGs showed."""
    for path in sorted(data.glob("*/images/*.png")):
        image = lc.read_image(path)
        deep = np.full((*image.shape[:2], bands), 7, np.uint16)
        deep[..., 3:0:-1] = 500 + factor * image
        write_tif(path.with_suffix(".tif"), deep)
        path.unlink()


def test_ranges_are_those_of_the_tiles_alone(data):
    """An image without a point, brighter and with other depths, has no part in how the others are scaled."""
    deepen(data)
    write_csv(data / "points.csv", data / "train/masks")
    rows = (data / "points.csv").read_text().replace(".png,", ",")
    (data / "points.csv").write_text(rows)
    config = flags(data, train_mask_dir=data / "points.csv", epochs=1)
    assert lc.main(config) == 0
    alone = lc.load_model(data.parent / "out/best_model.pth", "cpu").reading["ranges"]
    bright = np.full((64, 64, 5), 60_000, np.uint16)
    write_tif(data / "train/images/unused.tif", bright)
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(data / "train/images/unused_8_bits.png")
    assert lc.main(config) == 0
    assert lc.load_model(data.parent / "out/best_model.pth", "cpu").reading["ranges"] == alone


def test_sixteen_bits_and_five_bands_are_scaled_alike_in_training_and_prediction(data, pictures, capsys):
    shown = [lc.read_image(path) for path in sorted((data / "train/images").iterdir())]
    deepen(data)
    assert lc.main(flags(data, bands="4,3,2", epochs=1)) == 0
    said = capsys.readouterr().out
    assert (
        "note: 7 image(s) of 5 band(s), uint16: bands 4,3,2 are read, as 8 bits" in said
        and "bands [4, 3, 2] are scaled" in said
    )
    model = lc.load_model(data.parent / "out/best_model.pth", "cpu")
    assert model.reading["bands"] == [4, 3, 2]
    low, high = np.percentile(np.concatenate([image.reshape(-1, 3) for image in shown]), (2, 98), axis=0)
    np.testing.assert_allclose(model.reading["ranges"], 500 + 40 * np.stack([low, high], 1), rtol=0.05)

    path = data / "train/images/tile_0.tif"
    expected = ((shown[0] - low) / (high - low)).clip(0, 1) * 255
    seen = lc.read_image(path, **model.reading)
    assert np.abs(seen - expected).max() < 8
    left, right = lc.read_image(path, **model.reading), seen[:, :40]
    with rasterio.open(path) as file:
        write_tif(data / "part.tif", file.read().transpose(1, 2, 0)[:, :40])
    assert (lc.read_image(data / "part.tif", **model.reading) == left[:, :40]).all() and (
        right == left[:, :40]
    ).all()

    checkpoint, maps = data.parent / "out/best_model.pth", data / "maps"
    arguments = ["--checkpoint", str(checkpoint), "--output", str(maps)]
    assert map_scenes.main([*arguments, "--input", str(path)]) == 0
    assert "5 band(s), uint16" in capsys.readouterr().out
    with rasterio.open(data / "maps/tile_0_classes.tif") as made:
        ours = lc.predict_class_ids(model, seen)
        assert (made.read(1) == ours).mean() > 0.95, "up to the precision"
    Image.new("RGB", (64, 64)).save(data / "shallow.png")
    assert map_scenes.main([*arguments, "--input", str(data / "shallow.png")]) == 2
    assert "shallow.png: has 3 band(s), but BANDS = 4,3,2" in capsys.readouterr().err


def test_a_model_of_one_depth_refuses_the_other(data, capsys):
    deep = np.random.default_rng(0).integers(0, 4000, (64, 64, 3)).astype(np.uint16)
    write_tif(data / "deep.tif", deep)
    ranges = lc.band_ranges([data / "deep.tif"])
    assert np.allclose(ranges, np.percentile(deep.reshape(-1, 3), (2, 98), axis=0).T, rtol=0.05, atol=30)
    with pytest.raises(lc.InputError, match=r"deep\.tif: has more than 8 bits"):
        lc.read_image(data / "deep.tif")
    with pytest.raises(lc.InputError, match=r"tile_0\.png: has 8 bits per channel"):
        lc.read_image(data / "train/images/tile_0.png", ranges=ranges)
    assert lc.band_ranges([data / "train/images/tile_0.png"]) is None


def test_bands_that_are_not_there_are_named(data, capsys):
    message = complaint(flags(data, bands="3,2,4"), data, capsys)
    assert "tile_0.png: has 3 band(s), but BANDS = 3,2,4" in message
    for bands, wanted in (("1,1,2", "name them"), ("0,1,2", "name them"), ("red,green,blue", "list")):
        assert wanted in complaint(flags(data, bands=bands), data, capsys)


def test_eight_bit_bands_are_chosen_and_nothing_is_scaled(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 4)).astype(np.uint8)
    write_tif(tmp_path / "four.tif", image)
    assert (lc.read_image(tmp_path / "four.tif") == image[..., :3]).all()
    assert (lc.read_image(tmp_path / "four.tif", bands=(4, 3, 2)) == image[..., 3:0:-1]).all()
    Image.fromarray(image[..., :3]).save(tmp_path / "three.png")
    assert (lc.read_image(tmp_path / "three.png", bands=(3, 2, 1)) == image[..., 2::-1]).all()


def hide(kind, path, image, hidden):
    """Writes an image whose hidden pixels have no data, in one of the ways there are."""
    alpha = np.where(hidden, 0, 255).astype(np.uint8)
    if kind == "alpha of a PNG":
        Image.fromarray(np.dstack([image, alpha])).save(path.with_suffix(".png"))
    elif kind == "alpha of a TIFF":
        write_tif(path.with_suffix(".tif"), np.dstack([image, alpha]), photometric="RGB", alpha="YES")
    elif kind == "nodata":
        write_tif(path.with_suffix(".tif"), np.where(hidden[..., None], 0, np.maximum(image, 1)), nodata=0)
    elif kind == "nodata of 16 bits":
        deep = np.where(hidden[..., None], 65535, image * np.uint16(100)).astype(np.uint16)
        write_tif(path.with_suffix(".tif"), deep, nodata=65535)
    else:
        values = np.where(hidden[..., None], np.nan, image / 255).astype(np.float32)
        write_tif(path.with_suffix(".tif"), values)


@pytest.mark.parametrize("kind", ["alpha of a PNG", "alpha of a TIFF", "nodata", "nodata of 16 bits", "NaN"])
def test_pixels_without_data_are_never_learnt_from_or_scored(kind, tmp_path):
    write_tiles(tmp_path, 3)
    hidden = np.zeros((64, 64), bool)
    hidden[:40, 10:] = True
    for path in sorted((tmp_path / "images").iterdir()):
        image = lc.read_image(path)
        path.unlink()
        hide(kind, path, image, hidden)
    ranges = lc.band_ranges(lc.list_images(tmp_path / "images").values())
    assert (ranges is None) == (kind in ("alpha of a PNG", "alpha of a TIFF", "nodata"))
    assert ranges is None or np.max(ranges) < 30000, "what has no data does not stretch the scale"
    transform = lc.get_transforms("train", "strong", 64)
    train = lc.LandCoverDataset(tmp_path / "images", tmp_path / "masks", 200, transform, ranges=ranges)
    val = lc.LandCoverDataset(tmp_path / "images", tmp_path / "masks", ranges=ranges)
    report = lc.check_dataset(train, 3)
    assert report.notes["have pixels without data; labels there are not used"] == 3
    for index in range(3):
        image, points, mask = train.read(index)
        assert (
            ((mask == 255) == hidden).all() and (points[hidden] == 255).all() and (points != 255).sum() == 200
        )
        assert (image[hidden] == lc.as_color(lc.IMAGENET_MEAN)).all()
        image, points = train[index]
        assert int((points != 255).sum()) == 200, "the budget is spent where there is something to see"
        assert (
            int(lc.UnlabelledPixels.unlabelled(image[None], points[None]).sum()) == int((~hidden).sum()) - 200
        )
    loader = lc.make_loader(val, [[0, 1, 2]], 0, torch.device("cpu"))
    scores = lc.validate(torch.nn.Conv2d(3, 3, 1), loader, 3, torch.device("cpu"))
    assert int(scores.confusion.sum()) == 3 * (~hidden).sum()


@pytest.mark.parametrize(
    ("dtype", "nodata", "one_hides"),
    [("float32", -9999, True), ("uint16", 65535, True), ("uint16", 0, False), ("uint8", 255, False)],
)
def test_nodata_in_one_of_the_bands(dtype, nodata, one_hides, tmp_path):
    """Of the bands that are read: 0, and 255 in 8 bits, are values too, any other nodata value is none.

    A further band decides nothing.
    """
    values = np.random.default_rng(0).integers(10, 200, (30, 40, 4)).astype(dtype)
    values[:5, :, 1] = values[10:15, :, :3] = values[20:25, :, 3] = nodata
    write_tif(tmp_path / "tile.tif", values, nodata=nodata, photometric="minisblack")
    hidden = np.zeros((30, 40), bool)
    hidden[:5], hidden[10:15] = one_hides, True
    assert ((lc.read_bands(tmp_path / "tile.tif")[..., 3] == 0) == hidden).all()
    if one_hides:
        assert np.min(lc.band_ranges([tmp_path / "tile.tif"])) >= 10
        assert np.max(lc.band_ranges([tmp_path / "tile.tif"])) < 200


def hide_rows(data, rows):
    """The first rows of one train tile without data."""
    path = data / "train/images/tile_1.png"
    image = lc.read_image(path)
    alpha = np.full(image.shape[:2], 255, np.uint8)
    alpha[:rows] = 0
    Image.fromarray(np.dstack([image, alpha])).save(path)


def test_an_image_with_points_only_where_it_has_no_data_is_told(data, pictures, capsys):
    """It stays, for its other pixels, and teaches no label."""
    hide_rows(data, 32)
    write_csv(data / "points.csv", data / "train/masks")
    lines = (data / "points.csv").read_text().splitlines()
    lines = [line for line in lines if not line.startswith("tile_1.png") or int(line.split(",")[2]) < 32]
    (data / "points.csv").write_text(
        "\n".join(line for line in lines if line[:6] in ("image,", "tile_1")) + "\n"
    )
    message = complaint(flags(data, train_mask_dir=data / "points.csv"), data, capsys)
    assert "points.csv: no point lies where its image has data" in message
    (data / "points.csv").write_text("\n".join(lines) + "\n")
    assert lc.main(flags(data, train_mask_dir=data / "points.csv", epochs=1)) == 0
    said = capsys.readouterr().out
    assert "tiles: 5 train, 2 val" in said
    assert "note: 1 image(s) have points only where they have no data" in said


def test_only_points_beyond_the_budget_are_laid_to_it(data, capsys):
    hide_rows(data, 32)
    write_csv(data / "points.csv", data / "train/masks")
    for budget, laid in ((20, False), (15, True)):
        assert lc.main(flags(data, train_mask_dir=data / "points.csv", num_points=budget, epochs=1)) == 0
        assert ("points are learnt from: NUM_POINTS" in capsys.readouterr().out) == laid


def test_tiles_that_are_learnt_from_and_scored_are_spoken_of(data, capsys):
    assert (
        lc.main(flags(data, val_image_dir=data / "train/images", val_mask_dir=data / "train/masks", epochs=1))
        == 0
    )
    assert "note: 5 image(s) are both learnt from and scored on" in capsys.readouterr().out
    assert lc.main(flags(data, epochs=1)) == 0
    assert "both learnt from" not in capsys.readouterr().out


def test_a_tile_all_of_whose_labels_are_hidden_is_named(data, capsys):
    hide_rows(data, 64)
    message = complaint(flags(data), data, capsys)
    assert "masks/tile_1.png: has no labelled pixel where" in message


@pytest.mark.parametrize("case", ["deep", "nodata", "bands"])
def test_without_rasterio_what_needs_it_is_one_line(case, tmp_path, monkeypatch):
    image = np.ones((20, 30, 3), np.uint8)
    if case == "deep":
        write_tif(tmp_path / "tile.tif", image.astype(np.uint16))
    elif case == "nodata":
        write_tif(tmp_path / "tile.tif", image, nodata=0)
    else:
        write_tif(tmp_path / "tile.tif", image.repeat(2, 2))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(lc.InputError, match=r"tile\.tif.*pip install rasterio"):
        lc.read_image(tmp_path / "tile.tif")
