"""Scenes become tiles: every label on its pixel, in one tile, and no block on both sides."""

import csv
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import PYTHON, ROOT
from PIL import Image

import landcover_segmentation as lc

sys.path.insert(0, str(ROOT / "tools"))
import cut_tiles as ct

NAMES = ["water", "forest", "road"]


def numbered(height, width, first=0):
    """A picture whose pixels are numbered by their colour, so that it can be told where each came from."""
    number = np.arange(1 + first, 1 + first + height * width).reshape(height, width)
    return np.stack([number >> 16, number >> 8 & 255, number & 255], 2).astype(np.uint8)


def write_scene(folder, name, height, width, first=0, mask=None):
    (folder / "scenes").mkdir(exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    if mask is None:
        mask = np.random.default_rng(first).choice(np.array([0, 1, 2, 255], np.uint8), (height, width))
    Image.fromarray(numbered(height, width, first)).save(folder / "scenes" / f"{name}.png")
    Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    return mask


def run(folder, *flags, code=0, labels=("--masks", "masks"), **settings):
    given = {
        "images": "scenes",
        "output": "out",
        "class-names": ",".join(NAMES),
        "tile": 32,
        "block": 2,
        **settings,
    }
    parts = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    paths = {"scenes", "out", "masks"}
    whole = [
        str(folder / part) if part in paths or part.endswith(".csv") else part
        for part in (*parts, *labels, *flags)
    ]
    assert ct.main(whole) == code


def read_tiles(folder):
    """Image and mask of each tile by (side, scene, row, column)."""
    found = {}
    for side in ct.SIDES:
        for image, mask in lc.list_tiles(folder / f"out/{side}/images", folder / f"out/{side}/masks"):
            name, row, column = re.fullmatch(r"(.+)_r(\d+)_c(\d+)", image.stem).groups()
            found[side, name, int(row), int(column)] = lc.read_image(image), lc.read_mask(mask)
    return found


def labels_of(tiles):
    """{number of the pixel: label} of all labelled pixels; a pixel must not come twice."""
    found = {}
    for image, mask in tiles.values():
        numbers = (image.astype(int) * [65536, 256, 1]).sum(2)
        for number, label in zip(numbers[mask != 255].tolist(), mask[mask != 255].tolist(), strict=True):
            assert found.setdefault(number, label) == label and number > 0
        pixels = numbers[numbers > 0].tolist()
        assert len(set(pixels)) == len(pixels)
    return found


def blocks_of(tiles, block=2):
    sides = {}
    for side, name, row, column in tiles:
        sides.setdefault((name, row // block, column // block), set()).add(side)
    return sides


def test_every_label_keeps_its_pixel_and_no_block_is_on_both_sides(tmp_path, capsys):
    """Two scenes, neither a multiple of the tile, so that edges are padded."""
    masks = [write_scene(tmp_path, "a", 200, 170), write_scene(tmp_path, "b", 96, 300, first=200 * 170)]
    run(tmp_path)
    tiles = read_tiles(tmp_path)
    assert all(image.shape == (32, 32, 3) and mask.shape == (32, 32) for image, mask in tiles.values())
    expected = dict(enumerate(np.concatenate([mask.ravel() for mask in masks]).tolist(), 1))
    assert labels_of(tiles) == {number: label for number, label in expected.items() if label != 255}
    assert len(tiles) == 7 * 6 + 3 * 10 and {len(sides) for sides in blocks_of(tiles).values()} == {1}
    pixels = np.concatenate([(i.astype(int) * [65536, 256, 1]).sum(2).ravel() for i, _ in tiles.values()])
    assert sorted(pixels[pixels > 0].tolist()) == list(expected), "no pixel is in two tiles, none is lost"
    share = sum(side == "val" for side, *_ in tiles) / len(tiles)
    assert abs(share - 0.2) < 0.06 and f"{share:.1%} of the tiles to val" in capsys.readouterr().out


def test_edges_can_be_dropped_and_what_that_costs_is_said(tmp_path, capsys):
    mask = write_scene(tmp_path, "a", 140, 130)
    run(tmp_path, "--edges", "drop")
    tiles = read_tiles(tmp_path)
    assert {(row, column) for _, _, row, column in tiles} == {
        (row, column) for row in range(4) for column in range(4)
    }
    lost = (mask != 255).sum() - len(labels_of(tiles))
    assert f"left out: labels in edge tiles ({lost:,})" in capsys.readouterr().out


def test_the_seed_decides_the_blocks(tmp_path):
    write_scene(tmp_path, "a", 256, 256)
    found = []
    for number, seed in enumerate((0, 0, 1)):
        run(tmp_path, block=1, seed=seed)
        found.append({key[1:] for key in read_tiles(tmp_path) if key[0] == "val"})
        (tmp_path / "out").rename(tmp_path / f"out_{number}")
    assert found[0] == found[1] != found[2]


def test_tiles_without_a_label_are_left_out(tmp_path, capsys):
    mask = np.full((128, 128), 255, np.uint8)
    mask[:32, :96], mask[96, 96] = 0, 1
    write_scene(tmp_path, "a", 128, 128, mask=mask)
    run(tmp_path, block=1, labels=("--masks", "masks"))
    assert len(read_tiles(tmp_path)) == 4
    printed = capsys.readouterr()
    assert "left out: tiles without a label (12)" in printed.out
    assert re.search("warning: (train|val) has no label of forest", printed.err)
    assert "warning: train and val has no label of road" in printed.err


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_class_comes_to_both_sides_where_it_can(seed, tmp_path, capsys):
    """In 3 of 36 blocks, so that most random draws have none of it in val; and in a fourth another class."""
    mask = np.zeros((192, 192), np.uint8)
    mask[5, 5], mask[100, 100], mask[190, 10] = 1, 1, 1
    mask[20, 100], mask[150, 40] = 2, 2
    write_scene(tmp_path, "a", 192, 192, mask=mask)
    run(tmp_path, block=1, seed=seed)
    assert "warning" not in capsys.readouterr().err
    for side in ct.SIDES:
        masks = [mask for key, (_, mask) in read_tiles(tmp_path).items() if key[0] == side]
        assert set(np.unique(masks)) == {0, 1, 2}


def write_points(folder, rows, head="image,x,y,class", encoding="utf-8"):
    (folder / "points.csv").write_text("\n".join([head, *rows, ""]), encoding)


def test_points_land_on_their_pixel_in_their_tile(tmp_path, capsys):
    write_scene(tmp_path, "a", 150, 100)
    write_scene(tmp_path, "b", 70, 80, first=150 * 100)
    rng = np.random.default_rng(0)
    at = {("a", 0, 0): 0, ("a", 99, 149): 2, ("a", 31, 32): 1, ("a", 32, 31): 2, ("b", 79, 69): 0}
    for name, width, height in [("a", 100, 150), ("b", 80, 70)]:
        for _ in range(30):
            at[name, int(rng.integers(width)), int(rng.integers(height))] = int(rng.integers(3))
    rows = [
        f"{name}{'.png' if x % 2 else ''},{x + 0.25 * (y % 3)},{y},"
        f"{label if x % 3 else NAMES[label].title()},0.5"
        for (name, x, y), label in at.items()
    ]
    write_points(tmp_path, [*rows, rows[0], "b,1,1,,0.5"], "image,x,y,class,uncertainty", "utf-8-sig")
    run(tmp_path, block=1, labels=("--points", "points.csv"))
    tiles = read_tiles(tmp_path)
    expected = {
        1 + (15000 * (name == "b")) + y * {"a": 100, "b": 80}[name] + x: label
        for (name, x, y), label in at.items()
    }
    assert labels_of(tiles) == expected
    for (_, name, row, column), (_, mask) in tiles.items():
        for y, x in np.argwhere(mask != 255).tolist():
            assert at[name, column * 32 + x, row * 32 + y] == mask[y, x]
    printed = capsys.readouterr().out
    assert "left out: points without a class (1)" in printed and "its score will be their accuracy" in printed


@pytest.mark.parametrize("step, sparse", [(2, False), (6, True)])
@pytest.mark.parametrize("kind", ["--masks", "--points"])
def test_what_the_score_will_be_is_told_by_the_share_of_labels(kind, step, sparse, tmp_path, capsys):
    """Polygons become points that cover much of val, and masks may hold few: training goes by the share."""
    mask = np.full((64, 64), 255, np.uint8)
    mask[::step, ::step] = 1
    write_scene(tmp_path, "a", 64, 64, mask=mask)
    write_points(tmp_path, [f"a,{x},{y},1" for y, x in np.argwhere(mask == 1)], "image,x,y,class")
    run(tmp_path, block=1, labels=(kind, "masks" if kind == "--masks" else "points.csv"))
    assert ("its score will be their accuracy" in capsys.readouterr().out) == sparse
    val = lc.LandCoverDataset(tmp_path / "out/val/images", tmp_path / "out/val/masks", num_classes=3)
    assert lc.check_dataset(val, 3).sparse == sparse


@pytest.mark.parametrize(
    "rows, head, named",
    [
        (
            ["a.png,3,4,0", "a.png,100,4,0"],
            None,
            "line 3: point 100,4 lies outside a.png, which is 100 wide and 90 high",
        ),
        (["a.png,3,-1,0"], None, "line 2: point 3,-1 lies outside"),
        (["a.png,3,4,lake"], None, "line 2: class 'lake' is neither 0 to 2 nor one of water, forest, road"),
        (["a.png,3,4,3"], None, "line 2: class '3'"),
        (["c.png,3,4,0"], None, "images that are not there, like c.png"),
        (
            ["a.png,3,4,0", "a,5,5,1", "a,3,4,1"],
            None,
            "line 4: pixel 3,4 of a.png has another class in line 2",
        ),
        ([], None, "holds no label with a class"),
        (["a.png,3,4,"], None, "holds no label with a class"),
        (["a.png|3|4|0"], "image|x|y|class", "has no field 'class'"),
        (["a.png;3,5;4,5;0"], None, "line 2: has not 4 fields"),
        (["a.png,3,5,4,5,0"], None, "line 2: has not 4 fields"),
        (['a.png,"3,5","4,5",0'], None, "line 2: x is '3,5'; write 3.5"),
        (["a.png,nan,4,0"], None, "line 2: x is 'nan'"),
        (["a.png,inf,4,0"], None, "line 2: x is 'inf'"),
        (["a.png,,4,0"], None, "line 2: x is ''"),
        (["a.png,3,4"], "image,x,y", "has no field 'class'"),
    ],
)
def test_a_bad_row_is_one_line_that_names_it_and_nothing_is_written(rows, head, named, tmp_path, capsys):
    write_scene(tmp_path, "a", 90, 100)
    write_points(tmp_path, rows, head or "image,x,y,class")
    run(tmp_path, labels=("--points", "points.csv"), code=2)
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and named in error and "points.csv" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content, named",
    [(b"", "is empty"), (b"\xffimage", "cannot be read"), (None, "cannot be read")],
)
def test_a_csv_that_is_none_is_named(content, named, tmp_path, capsys):
    write_scene(tmp_path, "a", 90, 100)
    if content is not None:
        (tmp_path / "points.csv").write_bytes(content)
    run(tmp_path, labels=("--points", "points.csv"), code=2)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and named in error and "points.csv" in error


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda folder: (folder / "masks/b.png").unlink(), "b.png: has no mask"),
        (
            lambda folder: Image.new("L", (50, 50)).save(folder / "masks/b.png"),
            "masks/b.png: differs in size",
        ),
        (
            lambda folder: Image.new("L", (90, 90), 7).save(folder / "masks/b.png"),
            "masks/b.png: holds class id 7",
        ),
        (lambda folder: (folder / "scenes/b.png").write_bytes(b"no"), "scenes/b.png"),
        (lambda folder: (folder / "out/val").mkdir(parents=True), "out/val: is there already"),
        ({"block": 50, "images": "scenes/a.png"}, "--block 50"),
        ({"tile": 7}, "--tile 7"),
        ({"val-share": 1}, "--val-share"),
        ({"edges": "mirror"}, "--edges"),
        ({"class-names": "water"}, "holds class id 2; with 1 classes they end at 0; name all with"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(change, named, tmp_path, capsys):
    write_scene(tmp_path, "a", 90, 90)
    write_scene(tmp_path, "b", 90, 90, first=8100)
    if callable(change):
        change(tmp_path)
        change = {}
    if "images" in change:
        change["images"] = tmp_path / change["images"]
    run(tmp_path, code=2, **change)
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and named in error
    assert not list(tmp_path.glob("out/*/*"))


def test_a_failure_halfway_leaves_nothing(tmp_path, monkeypatch):
    write_scene(tmp_path, "a", 128, 128)
    written, write_tile = [], ct.write_tile

    def stop(*arguments):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(write_tile(*arguments))

    monkeypatch.setattr(ct, "write_tile", stop)
    run(tmp_path, code=130)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "names",
    [("caf\u00e9", "cafe\u0301", "scenes", "masks"), ("a", "a_labels", "scenes/a.png", "masks/a_labels.png")],
    ids=["accent", "one of each"],
)
def test_a_mask_belongs_to_its_scene(names, tmp_path):
    scene, mask, images, masks = names
    write_scene(tmp_path, "x", 96, 96)
    (tmp_path / "scenes/x.png").rename(tmp_path / f"scenes/{scene}.png")
    (tmp_path / "masks/x.png").rename(tmp_path / f"masks/{mask}.png")
    run(tmp_path, images=tmp_path / images, labels=("--masks", str(tmp_path / masks)), block=1)
    assert len(read_tiles(tmp_path)) == 9


def test_infrared_that_passes_for_alpha_is_cut_as_data(tmp_path):
    """A GeoTIFF whose fourth band is called alpha, and is 0 over water."""
    rasterio = pytest.importorskip("rasterio")
    ids = np.random.default_rng(0).integers(0, 3, (96, 96)).astype(np.uint8)
    mask = write_scene(tmp_path, "a", 96, 96, mask=ids)
    (tmp_path / "scenes/a.png").unlink()
    values = np.random.default_rng(1).integers(20, 200, (4, 96, 96)).astype(np.uint8)
    values[3][mask == 0] = 0
    form = {"count": 4, "height": 96, "width": 96, "dtype": "uint8", "crs": "EPSG:32640"}
    form["transform"] = rasterio.Affine(0.5, 0, 326000, 0, -0.5, 2780000)
    with rasterio.open(tmp_path / "scenes/a.tif", "w", "GTiff", **form) as scene:
        scene.write(values)
        assert scene.colorinterp[3].name == "alpha"
    run(tmp_path, block=1)
    tiles = sorted((tmp_path / "out").rglob("images/*.tif"))
    assert tiles
    for tile in tiles:
        with rasterio.open(tile) as image:
            assert image.count == 4 and image.read_masks(1).all()


@pytest.mark.parametrize("names", [("B4", "B3", "B2", "B8"), ("red", None), ("pan",)])
def test_tiles_keep_the_names_of_their_bands(names, tmp_path):
    """By them a map tells that a scene has its bands in another order than the tiles of training."""
    rasterio = pytest.importorskip("rasterio")
    write_scene(tmp_path, "a", 64, 64)
    (tmp_path / "scenes/a.png").unlink()
    form = {"count": len(names), "height": 64, "width": 64, "dtype": "uint16", "crs": "EPSG:32640"}
    form["transform"] = rasterio.Affine(0.5, 0, 326000, 0, -0.5, 2780000)
    with rasterio.open(tmp_path / "scenes/a.tif", "w", "GTiff", **form) as scene:
        scene.write(np.random.default_rng(0).integers(20, 200, (len(names), 64, 64)).astype(np.uint16))
        scene.descriptions = names
    run(tmp_path, block=1)
    for tile in (tmp_path / "out").glob("*/images/*"):
        with rasterio.open(tile) as image:
            assert image.descriptions == (names if len(names) > 1 else names * 3)


def test_georeference_nodata_and_palette_of_geotiffs_are_kept(tmp_path):
    """The mask is a map as `predict` writes it: with a palette and a nodata value."""
    rasterio = pytest.importorskip("rasterio")
    (tmp_path / "scenes").mkdir()
    (tmp_path / "masks").mkdir()
    image, ids = numbered(96, 130), np.random.default_rng(0).integers(0, 3, (96, 130)).astype(np.uint8)
    ids[50:60] = 255
    image[:40, :40] = 0
    place = {
        "crs": "EPSG:32640",
        "transform": rasterio.Affine(0.5, 0, 326000, 0, -0.5, 2780000),
        "dtype": "uint8",
    }
    form = {"height": 96, "width": 130, **place}
    with rasterio.open(tmp_path / "scenes/a.tif", "w", "GTiff", count=3, nodata=0, **form) as dataset:
        dataset.write(image.transpose(2, 0, 1))
    with rasterio.open(tmp_path / "masks/a.tif", "w", "GTiff", count=1, nodata=255, **form) as dataset:
        dataset.write(ids, 1)
        dataset.write_colormap(1, {0: (9, 9, 9, 255), 1: (1, 2, 3, 255)})
    run(tmp_path, block=1)
    expected = ids.copy()
    expected[:40, :40] = 255
    seen = 0
    for path in sorted(tmp_path.glob("out/*/images/*.tif")):
        row, column = map(int, re.search(r"_r(\d+)_c(\d+)", path.stem).groups())
        with rasterio.open(path) as tile:
            assert tile.crs == "EPSG:32640" and (tile.transform.c, tile.transform.f) == (
                326000 + 16 * column,
                2780000 - 16 * row,
            )
        mask = lc.read_mask(path.parents[1] / f"masks/{path.stem}.png")
        own = expected[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32]
        assert (mask[:, : own.shape[1]] == own).all() and (mask[:, own.shape[1] :] == 255).all()
        seen += (mask != 255).sum()
    assert seen == (expected != 255).sum()


@pytest.mark.parametrize(
    ("dtype", "count", "alpha", "nodata"),
    [("uint16", 5, False, 7), ("float32", 2, False, None), ("uint8", 4, True, None)],
)
def test_values_bands_and_what_has_no_data_are_kept(dtype, count, alpha, nodata, tmp_path):
    """Nothing is scaled, and what the scene hides, and what lies beyond it, is hidden in the tiles."""
    rasterio = pytest.importorskip("rasterio")
    values = np.random.default_rng(0).integers(10, 255, (count, 80, 120)).astype(dtype)
    values *= 3 if dtype == "uint16" else 1
    hidden = np.zeros((80, 120), bool)
    hidden[:40, :40] = alpha or nodata is not None
    values[:, hidden] = 0 if alpha else nodata or 0
    write_scene(
        tmp_path, "a", 80, 120, mask=np.random.default_rng(1).integers(0, 3, (80, 120)).astype(np.uint8)
    )
    (tmp_path / "scenes/a.png").unlink()
    form = {"count": count, "height": 80, "width": 120, "dtype": dtype, "nodata": nodata, "crs": "EPSG:32640"}
    form["transform"] = rasterio.Affine(0.5, 0, 326000, 0, -0.5, 2780000)
    with rasterio.open(tmp_path / "scenes/a.tif", "w", "GTiff", photometric="minisblack", **form) as scene:
        if alpha:
            scene.colorinterp = [*scene.colorinterp[:3], rasterio.enums.ColorInterp.alpha]
            values[3] = np.where(hidden, 0, 255)
        scene.write(values)
    run(tmp_path, block=1)
    seen = np.zeros((80, 120), bool)
    for path in sorted((tmp_path / "out").glob("*/images/*")):
        row, column = (32 * int(part[1:]) for part in path.stem.split("_")[1:])
        with rasterio.open(path) as tile:
            found, mask = tile.read(), tile.dataset_mask() > 0
        own = np.s_[row : row + 32, column : column + 32]
        bands = values[(slice(count - alpha), *own)]
        height, width = bands.shape[1:]
        assert found.dtype == dtype and (found[:, :height, :width] == bands).all()
        assert (
            (mask[:height, :width] == ~hidden[own]).all()
            and not mask[height:].any()
            and not mask[:, width:].any()
        )
        labels = lc.read_mask(path.parents[1] / "masks" / f"{path.stem}.png")
        assert ((labels != 255) == mask).all()
        seen[own] = True
    assert seen[~hidden].all()


@pytest.mark.parametrize(
    ("count", "told"),
    [(2, "--bands=1,2"), (4, "of 4 bands training reads 1,2,3; to learn from all add --bands=1,2,3,4\n")],
)
def test_the_bands_to_train_on_are_named(count, told, tmp_path, capsys):
    """Of two the first alone would be read, as grey; of four infrared would be left out."""
    rasterio = pytest.importorskip("rasterio")
    write_scene(tmp_path, "a", 64, 64)
    (tmp_path / "scenes/a.png").unlink()
    bands = np.random.default_rng(0).normal(-20, 3, (count, 64, 64)).astype(np.float32)
    form = {"count": count, "height": 64, "width": 64, "dtype": "float32", "crs": "EPSG:32640"}
    form["transform"] = rasterio.Affine(10, 0, 326000, 0, -10, 2780000)
    with rasterio.open(tmp_path / "scenes/a.tif", "w", "GTiff", **form) as scene:
        scene.write(bands)
    run(tmp_path, block=1)
    said = capsys.readouterr().out
    assert told in said and ("--bands" in said.splitlines()[-1]) == (count == 2)


def test_started_as_a_user_would_the_tiles_are_what_training_reads(tmp_path):
    write_scene(tmp_path, "a", 256, 256)
    command = [
        *PYTHON,
        ROOT / "tools/cut_tiles.py",
        "--images",
        "scenes/a.png",
        "--masks",
        "masks",
        "--output",
        "data",
    ]
    given = ["--tile", "64", "--block", "1", "--class-names", ",".join(NAMES), "--val-share", "0.25"]
    done = subprocess.run([*command, *given], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "25.0% of the tiles to val" in done.stdout, done.stderr
    for side, count in (("train", 12), ("val", 4)):
        folder = tmp_path / "data" / side
        dataset = lc.LandCoverDataset(folder / "images", folder / "masks", None, lc.get_transforms("val"))
        assert len(dataset) == count and lc.check_dataset(dataset, 3, "tiles").labels_per_class.min() > 0


def test_what_active_learning_suggests_can_be_cut(tmp_path):
    """Its CSV has the columns image,x,y,class,uncertainty; here a person has filled in the class."""
    write_scene(tmp_path, "a", 128, 128)
    with (tmp_path / "points.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [("a.png", x, x, "forest", "0.9") for x in range(0, 128, 16)]
        csv.writer(file).writerows([("image", "x", "y", "class", "uncertainty"), *rows])
    run(tmp_path, block=1, labels=("--points", "points.csv"))
    assert sum((mask == 1).sum() for _, mask in read_tiles(tmp_path).values()) == 8


@pytest.mark.parametrize("place", ["other ground", "other zone", "upside down", "same"])
def test_masks_must_lie_where_their_scene_does(place, tmp_path, capsys):
    rasterio = pytest.importorskip("rasterio")
    transform = rasterio.Affine(1, 0, 5e5, 0, -1, 56e5)
    elsewhere = {"other ground": rasterio.Affine(1, 0, 5e5 + 40, 0, -1, 56e5)}
    elsewhere["upside down"] = rasterio.Affine(1, 0, 5e5, 0, 1, 56e5 - 96)
    ids = np.random.default_rng(0).integers(0, 3, (1, 96, 96)).astype(np.uint8)
    bands = numbered(96, 96).transpose(2, 0, 1)
    zone = "EPSG:32634" if place == "other zone" else "EPSG:32633"
    files = ("scenes", bands, transform, "EPSG:32633"), ("masks", ids, elsewhere.get(place, transform), zone)
    for folder, values, where, crs in files:
        (tmp_path / folder).mkdir()
        form = {"count": len(values), "height": 96, "width": 96, "dtype": "uint8", "crs": crs}
        with rasterio.open(tmp_path / folder / "a.tif", "w", "GTiff", transform=where, **form) as dataset:
            dataset.write(values)
    run(tmp_path, block=1, code=0 if place == "same" else 2)
    said = capsys.readouterr().err
    if place != "same":
        words = "is upside down against" if place == "upside down" else "lies on other ground than"
        assert f"masks/a.tif: {words}" in said
        far = place == "other zone"  # of which nothing would be left when warped
        assert ("rio edit-info --like" if far else "rio warp") in said
        assert len(said.splitlines()) == 1 and not (tmp_path / "out/train").exists()


@pytest.mark.parametrize(
    ("shift", "turn"), [(0, (1, 0)), (7, (1, 0)), (1000, (1, 0)), (1000, (0.8, 0.6)), ("site", (1, 0))]
)
def test_two_scenes_of_one_place_are_not_on_both_sides(shift, turn, tmp_path, capsys):
    """Of two dates the blocks are one; where grids differ, train tiles on ground of val are left out.

    Of a turned scene the tiles' bounds overlap, but not the tiles. The grid of a site has no relation to
    any other.
    """
    rasterio = pytest.importorskip("rasterio")
    site = shift == "site"
    for name, left in (("a", 5e5), ("b", 5e5 if site else 5e5 + shift)):
        write_scene(tmp_path, name, 96, 96)
        picture = tmp_path / f"scenes/{name}.png"
        bands = np.asarray(Image.open(picture)).transpose(2, 0, 1)
        picture.unlink()
        form = {"count": 3, "height": 96, "width": 96, "dtype": "uint8"}
        form["crs"] = 'LOCAL_CS["site",UNIT["metre",1]]' if site and name == "b" else "EPSG:32633"
        place = rasterio.Affine(turn[0], turn[1], left, turn[1], -turn[0], 56e5)
        with rasterio.open(tmp_path / f"scenes/{name}.tif", "w", "GTiff", transform=place, **form) as dataset:
            dataset.write(bands)
    run(tmp_path, block=1)
    places = {}
    for side in ("train", "val"):
        for path in (tmp_path / "out" / side / "images").iterdir():
            places.setdefault(side, []).append(lc.place_of(path))
    assert not any(lc.overlap(own, other) for own in places["train"] for other in places["val"])
    left_out = re.search(
        r"train tiles on ground of val tiles of another scene \((\d+)\)", capsys.readouterr().out
    )
    assert bool(left_out) == (shift == 7)
    assert len(places["train"]) + len(places["val"]) == 18 - int(left_out[1] if left_out else 0)
