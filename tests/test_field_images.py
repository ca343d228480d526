"""Images and masks as the field delivers them are read for what they are, or refused in one line."""

import math
import re
import shlex
import sys
from types import SimpleNamespace

import numpy as np
import pandas
import pyogrio
import pytest
import rasterio
import torch
from conftest import ROOT, flags
from PIL import Image
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.rio import main as rio
from rasterio.transform import from_origin
from rasterio.warp import transform

import landcover_segmentation as lc

sys.path.insert(0, str(ROOT / "tools"))
import geo
import labels

CPU = torch.device("cpu")
STRIPES = np.repeat((np.arange(64) >= 32)[None], 64, 0).astype(np.uint8)  # class 0 left, class 1 right


def write_raster(path, bands, x=500_000, nodata=None, alpha=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = bands if bands.ndim == 3 else bands[None]
    form = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype}
    place = {"crs": "EPSG:32633", "transform": from_origin(x, 5_600_000, 1, 1), "nodata": nodata}
    with rasterio.open(path, "w", "GTiff", **form, **place) as file:
        if alpha:
            file.colorinterp = [ColorInterp.alpha if i == alpha else ColorInterp.gray for i in file.indexes]
        file.write(bands)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(40, 200, shape).astype(np.uint8)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_picture_is_turned_as_viewers_show_it(orientation, tmp_path):
    upright = np.repeat(np.repeat(noise(4, 6, 3), 16, 0), 16, 1)
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(upright).transpose(turn[orientation]).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert lc.image_facts(tmp_path / "turned.jpg")[:2] == (64, 96)
    difference = lc.read_image(tmp_path / "turned.jpg").astype(int) - upright
    assert np.abs(difference).mean() < 10


@pytest.mark.parametrize("of_land", [180, "many values"])
def test_infrared_that_passes_for_alpha_is_data(of_land, tmp_path):
    infrared = np.where(STRIPES == 0, 0, 180 if of_land == 180 else noise(64, 64)).astype(np.uint8)
    write_raster(tmp_path / "four.tif", np.concatenate([noise(3, 64, 64), infrared[None]]), alpha=4)
    assert (lc.read_tile(tmp_path / "four.tif")[..., -1] == 255).all(), "water is not empty"
    assert (lc.read_image(tmp_path / "four.tif", bands=[1, 2, 3, 4])[..., 3] == infrared).all()


@pytest.mark.parametrize("place", [1, 4, 5])
def test_a_real_alpha_counts_wherever_it_stands(place, tmp_path):
    bands = noise(5, 64, 64)
    bands[place - 1] = 255 * STRIPES
    write_raster(tmp_path / "tile.tif", bands, alpha=place)
    others = [band for band in (1, 2, 3, 4, 5) if band != place]
    assert ((lc.read_tile(tmp_path / "tile.tif", bands=others)[..., -1] > 0) == STRIPES).all()


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [
        ("uint8", None),
        ("int8", -1),
        ("int16", -9999),
        ("int64", None),
        ("float32", float("nan")),
        ("float32", -1),
    ],
)
def test_masks_in_geotiffs_of_any_type_are_read(dtype, nodata, tmp_path):
    values = STRIPES.astype(dtype)
    if nodata is not None:
        values[:4] = nodata
    write_raster(tmp_path / "mask.tif", values, nodata=nodata)
    expected = STRIPES.copy()
    expected[: 4 if nodata is not None else 0] = 255
    assert (lc.read_mask(tmp_path / "mask.tif") == expected).all()


def test_a_mask_on_other_ground_is_refused(tmp_path):
    write_raster(tmp_path / "images/a.tif", noise(3, 64, 64))
    write_raster(tmp_path / "masks/a.tif", STRIPES, x=500_040)
    with pytest.raises(lc.InputError, match=r"masks/a\.tif: lies on other ground than .*images/a\.tif"):
        lc.LandCoverDataset(tmp_path / "images", tmp_path / "masks")[0]
    write_raster(tmp_path / "masks/a.tif", STRIPES)
    with rasterio.open(tmp_path / "masks/a.tif", "r+") as mask:  # pixels a hundredth larger
        mask.transform *= mask.transform.scale(1.009)
    with pytest.raises(lc.InputError, match="lies on other ground"):
        lc.LandCoverDataset(tmp_path / "images", tmp_path / "masks")[0]
    write_raster(tmp_path / "masks/a.tif", STRIPES)
    assert (lc.LandCoverDataset(tmp_path / "images", tmp_path / "masks")[0][1].numpy() == STRIPES).all()


def test_crops_hold_labels_where_labels_are_few(tmp_path):
    save(tmp_path / "images/big.png", noise(512, 512, 3))
    (tmp_path / "points.csv").write_text("image,x,y,class\nbig,3,500,0\nbig,400,20,1\nbig,511,511,1\n")
    transform = lc.get_transforms("train", "weak", 64)
    tiles = lc.LandCoverDataset(tmp_path / "images", tmp_path / "points.csv", None, transform, num_classes=2)
    seen = set()
    for tiles.epoch in range(60):
        image, points = tiles[0]
        assert image.shape == (3, 64, 64) and (points != 255).sum() >= 1
        seen |= set(points[points != 255].tolist())
    assert seen == {0, 1}


def test_values_far_from_all_others_are_asked_about_and_do_not_stretch_the_scale(tmp_path):
    values = np.random.default_rng(0).integers(300, 1200, (3, 64, 64)).astype(np.int16)
    write_raster(tmp_path / "plain.tif", values)
    values[:, :8] = -9999
    write_raster(tmp_path / "collar.tif", values)
    with pytest.warns(UserWarning, match=r"-9999 fills 1\d% .* rio edit-info --nodata=-9999 .*collar\.tif"):
        found = lc.band_ranges([tmp_path / "collar.tif"])
    np.testing.assert_allclose(found, lc.band_ranges([tmp_path / "plain.tif"]), rtol=0.1)


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [("1.0", ["1", "2"], 0), ("2", ["1", "2"], 1), ("1.00", ["a", "b"], 1), ("112", ["111", "112"], 1)],
)
def test_whole_floats_are_whole_numbers_and_numbers_that_are_names_are_no_ids(text, names, expected):
    assert lc.find_class(text, names, "here") == expected
    with pytest.raises(lc.InputError, match="here: class '0'"):
        lc.find_class("0", ["1", "2"], "here")


@pytest.mark.parametrize(
    "content",
    [
        "image,x,y,class\n7,1,2,0\n",
        "sep=;\nimage;x;y;class\n007;1,0;2,5;0\n",
        "Image,X,Y,Class\n007.PNG,1,2,0.0\n",
        "image,x,y,class\nC:\\tiles\\007.png,1,2,0\n",
        ",image,x,y,class\n0,tiles/007.png,1,2,0\n1,007,5,5,nan\n",
        '"image" , "x" , "y" , "class"\n"007" , "1" , 2 , "0" ',
        '"image"\t"who"\t"x"\t"y"\t"class"\n"007"\t\t1\t2\t"0"\n"007"\t"me"\t5\t"5"\t\n',
    ],
)
@pytest.mark.parametrize("read", [lc.read_points, labels.read_points])
def test_what_tables_make_of_points_is_understood(content, read, tmp_path):
    save(tmp_path / "images/007.png", noise(8, 8, 3))
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / "points.csv").write_bytes(content.encode(encoding))
        points, _ = read(tmp_path / "points.csv", lc.list_images(tmp_path / "images"), ["0", "1"])
        assert points == {"007": {(2, 1): 0}}


@pytest.mark.parametrize("bands", [(1,), (2, 1), (1, 2, 3, 4), (4, 3, 2, 1, 5)])
def test_a_network_takes_as_many_bands_as_there_are(bands, tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        values = noise(5, 64, 64, seed=seed)
        values[3] = np.where(STRIPES, 190, 40)  # infrared alone tells the classes apart
        write_raster(tmp_path / f"images/{name}.tif", values)
        save(tmp_path / f"masks/{name}.png", STRIPES)
    images = lc.list_images(tmp_path / "images").values()
    reading = {"bands": list(bands), "ranges": None}
    how = lc.band_statistics(images, reading)
    transform = lc.get_transforms("train", "medium", 64, **how)
    folders = tmp_path / "images", tmp_path / "masks"
    tiles = lc.LandCoverDataset(*folders, 100, transform, num_classes=2, **reading, **how)
    model = lc.DeepLabV3Segmentation(2, "mobilenet_v3_large", None, bands=bands)
    model.reading, model.normalisation = tiles.reading, tiles.normalisation
    plain = lc.LandCoverDataset(*folders, num_classes=2, **reading, **how)[0][0]
    if len(bands) != 3:
        fresh = slice(3 if len(bands) > 3 else 0, None)
        assert plain[fresh].mean().abs() < 0.3 and 0.5 < plain[fresh].std() < 1.5
    loader = lc.DataLoader(tiles, batch_size=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    unlabelled = lc.UnlabelledPixels(model, 2)
    loss = lc.train_epoch(model, loader, lc.PartialCrossEntropyLoss(), optimizer, CPU, unlabelled=unlabelled)
    assert np.isfinite(loss)
    lc.save_checkpoint(tmp_path / "model.pth", model)
    loaded = lc.load_model(tmp_path / "model.pth", "cpu")
    image = next(iter(images))
    seen = lc.load_and_preprocess_image(image, **loaded.normalisation, **loaded.reading)
    assert seen.shape == (1, len(bands), 64, 64) and loaded(seen).shape == (1, 2, 64, 64)
    assert (lc.predict_class_ids(loaded, lc.read_image(image, **loaded.reading)) < 2).all()


def test_further_bands_keep_activations_as_large():
    torch.manual_seed(0)
    for count in (1, 2, 5):
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3))
        network[0].weight.data = torch.ones_like(network[0].weight)
        lc.take_bands(network, count)
        same = torch.ones(1, 1, 9, 9).expand(-1, count, -1, -1)  # alike in all bands, as grey is
        assert network(same).mean().item() == pytest.approx(27 + network[0].bias.mean().item())


def test_val_tiles_on_ground_of_train_tiles_are_told_with_their_number(data, capsys):
    """Two sides cut from one mosaic with overlap: names and pixels differ, the ground does not."""
    for side, shift in (("train", 0), ("val", 32)):
        for image in (data / side / "images").glob("*.png"):
            x = 500_000 + 64 * int(image.stem[-1]) + shift
            write_raster(image.with_suffix(".tif"), lc.read_image(image).transpose(2, 0, 1), x=x)
            image.unlink()
    assert lc.main(flags(data, epochs=1)) == 0
    assert "note: 2 val tile(s) lie on ground of train tiles" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("size", "crs", "told"),
    [(1.4, "EPSG:32633", False), (2, "EPSG:32634", True), (1e-5, "EPSG:4326", False)],
)
def test_tiles_of_differing_pixel_size_are_told(size, crs, told, data, capsys):
    """Degrees are not compared with metres."""
    for index, image in enumerate(sorted((data / "train/images").glob("*.png"))):
        write_raster(image.with_suffix(".tif"), lc.read_image(image).transpose(2, 0, 1), x=1000 * index)
        image.unlink()
        if index == 0:
            with rasterio.open(image.with_suffix(".tif"), "r+") as dataset:
                dataset.crs, dataset.transform = crs, from_origin(10, 50, size, size)
    assert lc.main(flags(data, epochs=1)) == 0
    assert ("note: pixels are 1 to 2 units wide: resample" in capsys.readouterr().out) == told


def test_the_header_of_a_saga_grid_names_its_data(tmp_path):
    from rasterio.shutil import copy

    write_raster(tmp_path / "tiles/a.tif", STRIPES)
    copy(tmp_path / "tiles/a.tif", tmp_path / "a.sdat", driver="SAGA")
    cure = r"a\.sgrd: cannot be read .*; name its \.sdat$"
    with pytest.raises(lc.InputError, match=cure):
        lc.open_raster(tmp_path / "a.sgrd")
    with pytest.raises(lc.InputError, match=cure):
        labels.read_points(tmp_path / "a.sgrd", lc.list_images(tmp_path / "tiles"), ["left", "right"])
    found, _ = labels.read_points(tmp_path / "a.sdat", lc.list_images(tmp_path / "tiles"), ["left", "right"])
    assert len(found["a"]) == STRIPES.size


def points_of(path, names, seed=0):
    rows = [f"{name},{x},{y},{c}" for name in names for x, y, c in ((3, 5, 0), (40, 5, 1), (seed, 9, 2))]
    path.write_text("image,x,y,class\n" + "\n".join(rows))


@pytest.mark.parametrize(("labelled", "told"), [(8, ["12%"]), (40, [])])
def test_val_masks_of_polygons_are_told_to_flatter(labelled, told, tmp_path):
    """What nobody labelled, edges above all, is not scored."""
    for side in ("train", "val"):
        mask = np.full((64, 64), 255, np.uint8)
        mask[:labelled] = STRIPES[:labelled]
        save(tmp_path / side / "images/a.png", noise(64, 64, 3))
        save(tmp_path / side / "masks/a.png", mask)
    sets = {
        f"{side}_set": lc.LandCoverDataset(tmp_path / side / "images", tmp_path / side / "masks")
        for side in ("train", "val")
    }
    found = [lc.check_dataset(tiles, 2) for tiles in sets.values()]
    model, config = SimpleNamespace(reading={"ranges": None}), SimpleNamespace(num_points=None)
    notes = "".join(lc.data_notes(SimpleNamespace(model=model, config=config, **sets), *found))
    assert re.findall(r"val masks label (\d+%) of their pixels", notes) == told


@pytest.mark.parametrize("places", ["none", "same", "half a pixel off", "37 pixels off", "elsewhere"])
def test_points_that_train_and_val_share_are_told_with_their_number(places, data):
    """Whatever their tiles are called: of one image, or of one ground."""
    for side in ("train", "val"):
        for image in (data / side / "images").glob("*.png"):
            image.unlink()
        for index in range(2 if side == "val" else 4):
            name, bands = f"{side}{index}", noise(3, 64, 64, seed=index)
            if places == "none":
                save(data / side / f"images/{name}.png", bands.transpose(1, 2, 0))
            else:
                moved = {"same": 0, "half a pixel off": 0.5, "37 pixels off": 37, "elsewhere": 9000}[places]
                x = 500_000 + 1000 * index + moved * (side == "val")
                write_raster(data / side / f"images/{name}.tif", bands, x=x)
    points_of(data / "train.csv", [f"train{index}" for index in range(4)])
    points_of(data / "val.csv", ["val0", "val1"], seed=1)
    sets, names = {}, ["low", "middle", "high"]
    for side in ("train", "val"):
        sets[f"{side}_set"] = lc.LandCoverDataset(
            data / side / "images", data / f"{side}.csv", class_names=names
        )
    found = [lc.check_dataset(tiles, 3) for tiles in sets.values()]
    model, config = SimpleNamespace(reading={"ranges": None}), SimpleNamespace(num_points=None)
    notes = "".join(lc.data_notes(SimpleNamespace(model=model, config=config, **sets), *found))
    told = re.findall(r"(\d+) val point\(s\) lie on pixels learnt from", notes)
    assert told == {"37 pixels off": ["2"], "elsewhere": []}.get(places, ["4"]), "3 lies on 40, 37 pixels off"


@pytest.mark.parametrize(
    ("packing", "lossy"),
    [
        ({"compress": "deflate"}, False),
        ({"compress": "jpeg"}, True),
        ({"compress": "webp", "webp_lossless": True}, False),
        ({"compress": "webp", "webp_level": 50}, True),
        ({"compress": "lerc"}, False),
        ({"compress": "lerc", "max_z_error": 0.5}, False),
        ({"compress": "lerc", "max_z_error": 1}, True),
    ],
)
def test_a_mask_packed_with_loss_is_refused(packing, lossy, tmp_path):
    count = 3 if packing["compress"] == "webp" else 1
    form = {"count": count, "height": 64, "width": 64, "dtype": "uint8", **packing}
    with rasterio.open(tmp_path / "mask.tif", "w", "GTiff", **form) as file:
        file.write(np.repeat(STRIPES[None], count, 0))
    if lossy or count > 1:  # WebP has colours, which are no ids
        with pytest.raises(lc.InputError, match="packed with loss" if lossy else "colour picture"):
            lc.read_mask(tmp_path / "mask.tif")
    else:
        assert (lc.read_mask(tmp_path / "mask.tif") == STRIPES).all()


@pytest.mark.parametrize(
    ("shift", "system", "same"),
    [(0.4, 32633, True), (0.5, 32633, False), (0, 25833, True), (0, 32632, False)],
)
def test_a_mask_is_of_the_ground_of_its_image_less_than_half_a_pixel_off(shift, system, same, tmp_path):
    """Whatever its reference system is called; further off, the nearest label is another."""
    write_raster(tmp_path / "image.tif", noise(3, 64, 64))
    write_raster(tmp_path / "mask.tif", STRIPES, x=500_000 + shift)
    with rasterio.open(tmp_path / "mask.tif", "r+") as file:
        file.crs = CRS.from_epsg(system)
    try:
        lc.check_same_ground(tmp_path / "image.tif", tmp_path / "mask.tif")
        assert same
    except lc.InputError as error:
        assert not same and "lies on other ground" in str(error)


def test_ground_that_only_touches_is_not_shared(tmp_path):
    for name, x in (("one", 0), ("beside", 64), ("over", 63)):
        write_raster(tmp_path / f"{name}.tif", noise(3, 64, 64), x=x)
    one, beside, over = (lc.place_of(tmp_path / f"{name}.tif") for name in ("one", "beside", "over"))
    assert lc.overlap(one, over)
    assert not lc.overlap(one, beside)


def test_ground_of_turned_images_is_shared():
    """At 45 degrees nothing of it lies surely within its bounds."""
    half = 0.5**0.5
    sides, places = ((0, 100, 0, 100), (0, 0, 100, 100)), []
    for corner in (0, 60, 110):  # of pixels along the first row
        lattice = Affine(half, half, 500_000 + half * corner, half, -half, 5_600_000 + half * corner)
        places.append((CRS.from_epsg(32633), lattice, lc.on_ground(lattice, *sides)))
    one, over, beside = places
    assert lc.overlap(one, one) and lc.overlap(one, over) and not lc.overlap(one, beside)


@pytest.mark.parametrize("system", [32632, 4326, None])
@pytest.mark.parametrize(("moved", "shared"), [(0, True), (60, True), (110, False)])
def test_shared_ground_is_found_in_other_reference_systems(system, moved, shared):
    """One of a system that is not known has the other's: a world file knows none."""
    here = CRS.from_epsg(32633)
    (x,), (y,) = (500_000 + moved,), (5_600_000,)
    there, pixel = None, 1
    if system:
        there, pixel = CRS.from_epsg(system), 1 if system > 10_000 else 1e-5
        (x,), (y,) = transform(here, there, [x], [y])
    sides = (0, 100, 0, 100), (0, 0, 100, 100)
    lattices = from_origin(500_000, 5_600_000, 1, 1), from_origin(x, y, pixel, pixel)
    own, other = (
        (crs, lattice, lc.on_ground(lattice, *sides))
        for crs, lattice in zip((here, there), lattices, strict=True)
    )
    assert lc.overlap(own, other) == lc.overlap(other, own) == shared


@pytest.mark.parametrize("turn", [0, 10, 45, 90])
def test_turned_tiles_share_the_ground_that_straight_ones_do(turn):
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    lattices = (Affine(cos, sin, cos * moved, sin, -cos, sin * moved) for moved in (0, 98, 100))
    own, *others = ((None, one, lc.on_ground(one, (0, 100, 0, 100), (0, 0, 100, 100))) for one in lattices)
    assert [lc.overlap(own, other) for other in others] == [True, False]


@pytest.mark.parametrize(
    ("system", "x"), [('LOCAL_CS["site",UNIT["metre",1]]', 0), ("EPSG:4326", 0), ("EPSG:32633", 1e13)]
)
def test_ground_that_cannot_be_compared_is_not_the_same(system, x, tmp_path):
    """A grid of a site, metres that are called degrees, and a place far beyond the zone."""
    write_raster(tmp_path / "image.tif", noise(3, 64, 64), x=x)
    with rasterio.open(tmp_path / "image.tif", "r+") as file:
        file.crs = CRS.from_string(system)
    write_raster(tmp_path / "mask.tif", STRIPES)
    with rasterio.open(tmp_path / "mask.tif", "r+") as file:
        file.crs = CRS.from_epsg(32632)
    image, mask = tmp_path / "image.tif", tmp_path / "mask.tif"
    assert not lc.overlap(lc.place_of(image), lc.place_of(mask))
    assert not lc.overlap(lc.place_of(mask), lc.place_of(image))
    with pytest.raises(lc.InputError, match="lies on other ground"):
        lc.check_same_ground(image, mask)
    with pytest.raises(lc.InputError, match=r"cannot be compared.*name the right one: rio edit-info --crs"):
        geo.check_same_ground(mask, image)


@pytest.mark.parametrize("bands", [1, 3, 4])
@pytest.mark.parametrize(("declared", "told"), [("-9999", True), ("65536", True), ("00000", False)])
def test_a_declared_nodata_that_its_type_cannot_hold_is_told(declared, told, bands, tmp_path, monkeypatch):
    """rasterio says that such a file declares none: gdal_translate -ot UInt16 -a_nodata -9999 writes some.

    Of many bands and of scenes that Pillow takes for an attack, too.
    """
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    write_raster(tmp_path / "tile.tif", noise(bands, 64, 64).astype("uint16"), nodata=12345)
    content = (tmp_path / "tile.tif").read_bytes()
    (tmp_path / "tile.tif").write_bytes(content.replace(b"12345\0", f"{declared:5}\0".encode()))
    seen = lc.RGB_BANDS if bands > 1 else (1,)
    (note,) = lc.misread_declarations(tmp_path / "tile.tif", seen) or [None]
    assert bool(note) == told
    assert not told or note.startswith(f"nodata {declared} is no value of its type")


@pytest.mark.parametrize(
    "names",
    [
        ["water", "forest", "cropland", "grassland", "built-up", "road", "bare soil"],
        ["Wasser", "Wald", "Acker", "Wiese", "Siedlung", "Straße", "offener Boden"],
        ["eau", "forêt", "cultures", "prairie", "bâti", "route", "sol nu"],
        ["água", "floresta", "cultivo", "pasto", "edifícios", "estrada", "solo exposto"],
        ["水体", "森林", "耕地", "草地", "建筑", "道路", "裸地"],
    ],
)
def test_colours_are_what_a_reader_expects_of_a_name(names):
    assert lc.choose_colors(names) == list(lc.EXPECTED_COLORS)


@pytest.mark.parametrize("name", ["land", "Land (unpaved area)", "土地", "terre", "Tierra", "terra", "земля"])
def test_land_is_the_colour_of_soil(name):
    assert lc.choose_colors(["water", name]) == ["#3b78d8", "#b58b5a"]
    assert lc.choose_colors(["wetland", "island"]) == lc.SAFE_COLORS[:2], "a word within another"


def test_colours_of_alike_and_unknown_names_are_told_apart():
    colors = lc.choose_colors(["deep water", "shallow water", "bureau", "season", "streetcar", "street"])
    assert len(set(colors)) == 6
    assert colors[0] == "#3b78d8", "the first of a kind has the colour itself"
    assert not {*colors[2:4]} & {*lc.EXPECTED_COLORS}, "a word within another means nothing"
    assert len(set(lc.choose_colors([f"crop {index}" for index in range(12)]))) == 12


@pytest.mark.parametrize("bands", ["2,1", "4,3,2,1"])
def test_a_run_takes_any_number_of_bands(bands, data, pictures, capsys):
    for image in data.glob("*/images/*.png"):
        rgb = lc.read_image(image).transpose(2, 0, 1)
        write_raster(image.with_suffix(".tif"), np.concatenate([rgb, noise(1, 64, 64)]))
        image.unlink()
    assert lc.main(flags(data, bands=bands, epochs=1)) == 0, capsys.readouterr().err
    model = lc.load_model(data.parent / "out/best_model.pth", "cpu")
    assert len(model.normalisation["mean"]) == len(model.reading["bands"]) == (len(bands) + 1) // 2


def test_south_up_rasters_and_pictures_with_world_files_have_a_place(tmp_path):
    write_raster(tmp_path / "north.tif", noise(3, 64, 64))
    form = {"count": 3, "height": 64, "width": 64, "dtype": "uint8", "crs": "EPSG:32633"}
    upside_down = Affine(1, 0, 500_008, 0, 1, 5_600_000 - 64)
    with rasterio.open(tmp_path / "south.tif", "w", "GTiff", transform=upside_down, **form) as file:
        file.write(noise(3, 64, 64))
    for name, x in (("picture", 500_000.5), ("beside", 500_064.5)):
        save(tmp_path / f"{name}.png", noise(64, 64, 3))
        (tmp_path / f"{name}.pgw").write_text(f"1\n0\n0\n-1\n{x}\n5599999.5\n")
    save(tmp_path / "nowhere.png", noise(64, 64, 3))
    north, south = (lc.place_of(tmp_path / f"{name}.tif") for name in ("north", "south"))
    picture, beside = (lc.place_of(tmp_path / f"{name}.png") for name in ("picture", "beside"))
    assert lc.overlap(north, south)
    assert lc.overlap(picture, picture)
    assert not lc.overlap(picture, beside)
    assert lc.place_of(tmp_path / "nowhere.png") is None
    with pytest.raises(lc.InputError, match="other ground"):
        lc.check_same_ground(tmp_path / "beside.png", tmp_path / "north.tif")


@pytest.mark.parametrize("nodata", [None, 0])
def test_the_cure_for_other_ground_teaches_no_class(nodata, tmp_path):
    """What the image has and the labels do not cover comes out unlabelled, not as class 0."""
    write_raster(tmp_path / "image.tif", noise(3, 64, 64), x=500_000)
    write_raster(tmp_path / "mask.tif", STRIPES + 1, x=500_004, nodata=nodata)
    with pytest.raises(lc.InputError, match="other ground") as refused:
        lc.check_same_ground(tmp_path / "image.tif", tmp_path / "mask.tif")
    command = str(refused.value).split("on the image: ")[1].replace("OUT.tif", str(tmp_path / "out.tif"))
    assert rio.main_group.main(shlex.split(command)[1:], standalone_mode=False) is None
    lc.check_same_ground(tmp_path / "image.tif", tmp_path / "out.tif")
    warped = lc.read_mask(tmp_path / "out.tif")
    assert set(np.unique(warped)) == {1, 2, 255}
    assert (warped[:, :4] == 255).all()


def test_a_mosaic_names_the_image_that_is_gone(tmp_path):
    from rasterio.shutil import copy

    write_raster(tmp_path / "part.tif", noise(3, 64, 64))
    copy(tmp_path / "part.tif", tmp_path / "mosaic.vrt", driver="VRT")
    (tmp_path / "part.tif").rename(tmp_path / "moved.tif")
    with pytest.raises(lc.InputError, match=r"mosaic\.vrt: .*part\.tif: No such file.*put that file back"):
        lc.read_image(tmp_path / "mosaic.vrt")
    (tmp_path / "moved.tif").rename(tmp_path / "part.tif")
    assert lc.read_image(tmp_path / "mosaic.vrt").shape == (64, 64, 3)


def test_points_of_two_folders_on_one_image_are_told(tmp_path):
    save(tmp_path / "images/0.png", noise(64, 64, 3))
    (tmp_path / "points.csv").write_text("image,x,y,class\nsite1/0.png,1,1,0\nsite2/0.png,2,2,1\n")
    with pytest.warns(UserWarning, match="site1 and site2"):
        lc.read_points(tmp_path / "points.csv", lc.list_images(tmp_path / "images"), ["a", "b"])


def test_a_class_may_be_called_none(tmp_path):
    save(tmp_path / "images/0.png", noise(64, 64, 3))
    (tmp_path / "points.csv").write_text("image,x,y,class\n0,1,1,None\n0,2,2,water\n")
    points, passed_over = lc.read_points(
        tmp_path / "points.csv", lc.list_images(tmp_path / "images"), ["none", "water"]
    )
    assert points["0"] == {(1, 1): 0, (2, 2): 1}
    assert not passed_over.total()


@pytest.mark.parametrize(("count", "read"), [(2, []), (4, [4])])
def test_an_alpha_counts_as_read_only_where_its_band_is(count, read, tmp_path):
    """Grey fills red, green and blue: its second band, an alpha, is read by none of them."""
    bands = np.concatenate([noise(count - 1, 64, 64), 255 * STRIPES[None]])
    write_raster(tmp_path / "tile.tif", bands, alpha=count)
    asked = lc.RGB_BANDS if count == 2 else (1, 2, 3, 4)
    assert lc.misread_declarations(tmp_path / "tile.tif", asked) == [
        f"band {band} is an alpha, read as data" for band in read
    ]


@pytest.mark.parametrize(
    ("bands", "told"), [((1, 2, 3), "bands blue, green, red are read as red, green, blue"), ((3, 2, 1), None)]
)
def test_bands_that_say_that_they_are_of_another_colour_are_told(bands, told, tmp_path):
    write_raster(tmp_path / "tile.tif", noise(4, 64, 64))
    with rasterio.open(tmp_path / "tile.tif", "r+") as file:
        file.colorinterp = [ColorInterp[name] for name in ("blue", "green", "red", "undefined")]
    assert lc.misread_declarations(tmp_path / "tile.tif", bands) == ([told] if told else [])


@pytest.mark.parametrize("seen", [0, 90, 255])
def test_a_tile_that_is_transparent_everywhere_holds_nothing(seen, tmp_path):
    """If it is black or white, too: four bands without infrared anywhere may be of water."""
    bands = np.zeros((4, 64, 64), np.uint8)
    bands[:3] = seen
    write_raster(tmp_path / "tile.tif", bands, alpha=4)
    assert (lc.read_tile(tmp_path / "tile.tif")[..., 3] > 0).all() == (seen == 90)


def test_a_turned_picture_with_a_place_is_told(tmp_path):
    exif = Image.Exif()
    for name, exif[274] in (("turned", 6), ("as_stored", 1)):
        Image.fromarray(noise(64, 64, 3)).save(tmp_path / f"{name}.jpg", exif=exif)
        (tmp_path / f"{name}.jgw").write_text("1\n0\n0\n-1\n500000.5\n5599999.5\n")
    with pytest.warns(UserWarning, match=r"turned\.jpg: EXIF turns it, not its place"):
        lc.place_of(tmp_path / "turned.jpg")
    assert lc.place_of(tmp_path / "as_stored.jpg")


NAMES = {
    ".tif.aux.xml": "<PAMRasterBand><CategoryNames><Category>water</Category></CategoryNames>",
    ".qml": '<colorPalette><paletteEntry value="0" label="water"/></colorPalette>',
    ".tif.vat.dbf": ["VALUE", "NAME"],
}
ORDINARY = {
    ".tif.aux.xml": '<PAMRasterBand><Metadata><MDI key="STATISTICS_MEAN">1</MDI></Metadata></PAMRasterBand>',
    ".qml": '<rasterrenderer type="singlebandgray"/>',
    ".tif.vat.dbf": ["VALUE", "COUNT"],
}


def write_legend(path, content):
    """A text, or the columns of a table, of which NAME is one of text."""
    if isinstance(content, str):
        path.write_text(content)
        return
    table = pandas.DataFrame({one: ["water"] if one == "NAME" else [1] for one in content})
    pyogrio.write_dataframe(table, path.with_name("legend.dbf"), driver="ESRI Shapefile")
    path.with_name("legend.dbf").rename(path)


@pytest.mark.parametrize("kind", ORDINARY)
def test_what_programs_lay_beside_a_mask_by_themselves_is_not_told(kind, tmp_path):
    """QGIS statistics and a style without names, ArcGIS a table of counts."""
    write_raster(tmp_path / "x.tif", STRIPES)
    write_legend(tmp_path / f"x{kind}", ORDINARY[kind])
    assert not list(lc.ignored_meanings(tmp_path / "x.tif", 2))


@pytest.mark.parametrize("kind", ["palette", "tags", *NAMES])
def test_masks_with_colours_or_names_of_their_own_are_told(kind, tmp_path):
    mask = tmp_path / "x.tif"
    write_raster(mask, STRIPES)
    assert not list(lc.ignored_meanings(mask, 2))
    if kind == "palette":
        mask, picture = tmp_path / "x.png", Image.fromarray(STRIPES, "P")
        picture.putpalette([0, 0, 255, 0, 160, 0, 90, 90, 90])
        picture.save(mask)
    elif kind == "tags":
        with rasterio.open(mask, "r+") as file:
            file.update_tags(1, CLASS_1="water")
    else:
        write_legend(tmp_path / f"x{kind}", NAMES[kind])
    (note,) = lc.ignored_meanings(mask, 2)
    assert note.startswith("have masks with names or colours of their own, which are not read")


@pytest.mark.parametrize(("nodata", "told"), [(0, True), (2, False), (255, False)])
def test_a_class_that_is_declared_to_be_no_data_is_told(nodata, told, tmp_path):
    """QGIS does so of 0 by itself."""
    write_raster(tmp_path / "mask.tif", STRIPES, nodata=nodata)
    notes = list(lc.ignored_meanings(tmp_path / "mask.tif", 2))
    assert [note.startswith("have masks that declare class 0 to be no data") for note in notes] == [
        True
    ] * told


def test_a_netcdf_without_a_place_is_refused_for_its_rows_may_be_turned(tmp_path):
    """GDAL takes the first row of such a file to be the lowest: findings/netcdf_upside_down.sh."""
    if "netCDF" not in rasterio.drivers.raster_driver_extensions().values():
        pytest.skip("this GDAL has no netCDF")
    save(tmp_path / "plain.png", STRIPES)
    rasterio.shutil.copy(tmp_path / "plain.png", tmp_path / "plain.nc", driver="netCDF")
    rasterio.shutil.copy(tmp_path / "plain.nc", tmp_path / "plain.vrt", driver="VRT")
    save(tmp_path / "tiles/plain.png", noise(64, 64, 3))
    with pytest.raises(lc.InputError, match=r"plain.nc does not tell where it lies.*write_crs"):
        labels.read_points(tmp_path / "plain.vrt", lc.list_images(tmp_path / "tiles"), ["a", "b"])
    with pytest.raises(lc.InputError, match="bottom up"), geo.open_scene(tmp_path / "plain.vrt"):
        pass


def test_tiles_that_name_their_bands_otherwise_are_told_apart(tmp_path):
    for name, bands in (("one", ("red", "green", "blue")), ("other", ("blue", "green", "red"))):
        write_raster(tmp_path / f"images/{name}.tif", noise(3, 64, 64))
        with rasterio.open(tmp_path / f"images/{name}.tif", "r+") as file:
            file.descriptions = bands
        write_raster(tmp_path / f"masks/{name}.tif", STRIPES)
    tiles = lc.LandCoverDataset(tmp_path / "images", tmp_path / "masks")
    notes = list(lc.check_dataset(tiles, 2).notes)
    for bands in ("red, green, blue", "blue, green, red"):
        assert f"of 3 band(s), uint8 ({bands}): bands 1,2,3 are read, as 8 bits" in notes


def test_tiles_whose_values_mean_something_else_are_told_apart(tmp_path):
    """Half of them of Sentinel-2's newer processing, whose reflectance begins at 1000."""
    for name, offset in (("old", 0), ("new", -0.1)):
        write_raster(tmp_path / f"images/{name}.tif", 100 * noise(2, 64, 64).astype(np.uint16))
        with rasterio.open(tmp_path / f"images/{name}.tif", "r+") as file:
            file.scales, file.offsets = (1e-4,) * 2, (offset,) * 2
        write_raster(tmp_path / f"masks/{name}.tif", STRIPES)
    tiles = lc.LandCoverDataset(tmp_path / "images", tmp_path / "masks", ranges=[[0, 25500]] * 3)
    notes = list(lc.check_dataset(tiles, 2).notes)
    for offset in ("+0", "-0.1"):
        assert f"of 2 band(s), uint16 (times 0.0001 {offset}): bands 1 are read, as 8 bits" in notes


def test_an_empty_image_cell_is_no_image_of_zeros(tmp_path):
    save(tmp_path / "images/000.png", noise(8, 8, 3))
    (tmp_path / "points.csv").write_text("image,x,y,class\n0,1,2,0\n,1,3,0\n")
    how = tmp_path / "points.csv", lc.list_images(tmp_path / "images"), ["0", "1"]
    with pytest.raises(lc.InputError, match="line 3: there is no image ''"):
        lc.read_points(*how)
    points, passed_over = labels.read_points(*how)
    assert points == {"000": {(2, 1): 0}} and passed_over.total() == 1


def test_letters_that_only_a_font_of_boxes_knows_are_told(monkeypatch):
    """matplotlib 3.11 brings one, which claims every letter."""
    from matplotlib import font_manager

    known = [font for font in font_manager.fontManager.ttflist if font.name.startswith(("DejaVu", "Last"))]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", known)
    with pytest.warns(UserWarning, match="no installed font draws 体水"), lc.fonts_for(["水体"]):
        pass


@pytest.mark.parametrize("read", [lc.read_points, labels.read_points])
def test_what_may_be_thousands_is_no_pixel(read, tmp_path):
    """1,234 of a table with semicolons or tabs is 1.234 or 1234; what can be but one of both is read."""
    save(tmp_path / "images/a.png", noise(64, 1300, 3))
    for text, place in (("1,234", None), ("1234,567", 1234), ("12,5", 12), ("0,345", 0), ("1234", 1234)):
        (tmp_path / "points.csv").write_text(f"image;x;y;class\na;{text};5;0\n")
        how = tmp_path / "points.csv", lc.list_images(tmp_path / "images"), ["low", "high"]
        if place is None:
            with pytest.raises(lc.InputError, match=r"x is '1,234'; write 3\.5 or 1234"):
                read(*how)
        else:
            assert read(*how)[0] == {"a": {(5, place): 0}}
    for text in ("1.234", " 1.234 "):
        (tmp_path / "points.csv").write_text(f"sep=;\nimage;x;y;class\na;{text};5;0\n")
        with pytest.raises(lc.InputError, match=r"line 3.*1\.234.* thousand.*write 1234 or 1\.2340"):
            read(*how)
