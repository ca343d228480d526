"""The commands that error lines name are run, and the program does what it was asked to do."""

import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import landcover_segmentation as lc

sys.path.insert(0, str(ROOT / "tools"))
import cut_tiles
import geo
import labels

rasterio = pytest.importorskip("rasterio")
geopandas = pytest.importorskip("geopandas")

import shapely
from click.testing import CliRunner
from rasterio.control import GroundControlPoint
from rasterio.rio.main import main_group
from rasterio.transform import Affine, from_origin

PLACE = from_origin(500_000, 5_600_000, 1, 1)
LOCAL = "+proj=tmerc +lat_0=50 +lon_0=15.2 +x_0=500000 +y_0=5600000 +ellps=GRS80 +units=m"
NAMES = ["nothing", "left", "right"]


def write(path, bands, transform=PLACE, crs="EPSG:32633", **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = bands if bands.ndim == 3 else bands[None]
    form = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype}
    with rasterio.open(path, "w", "GTiff", crs=crs, transform=transform, **form, **more) as dataset:
        dataset.write(bands)
    return path


def image(path, **more):
    return write(path, np.random.default_rng(0).integers(1, 255, (3, 64, 64), np.uint8), **more)


def run_cure(message, monkeypatch, folder):
    """Runs the command of rasterio that a message names, in a folder of results. Returns its words."""
    words = shlex.split(re.search(r"rio (warp|edit-info|stack) .*", str(message))[0])
    folder.mkdir()
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(main_group, words[1:])
    assert result.exit_code == 0, result.output
    return words


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.float32])
@pytest.mark.parametrize(
    ("image_place", "crs"),
    [(PLACE, "EPSG:32633"), (PLACE, LOCAL), (PLACE * Affine.rotation(15), "EPSG:32633")],
)
def test_labels_on_another_grid_are_warped_and_teach_nothing_where_there_are_none(
    tmp_path, monkeypatch, kind, image_place, crs
):
    """Else what lies outside of the labels becomes class 0, whose name nobody gave."""
    scene = image(tmp_path / "my images/a.tif", transform=image_place, crs=crs)
    halves = np.repeat([[1, 2]], 32, axis=1).repeat(64, axis=0).astype(kind)
    place = PLACE * Affine.translation(20.3, 0.3) * Affine.scale(1.1)
    given = write(tmp_path / "given/a.tif", halves, transform=place, crs=crs)
    arguments = given, {"a": scene}, NAMES
    with pytest.raises(lc.InputError, match="another grid of pixels") as by_labels:
        labels.read_points(*arguments)
    with pytest.raises(lc.InputError) as by_cut:
        geo.check_same_ground(given, scene)
    assert str(by_labels.value) == str(by_cut.value)
    run_cure(by_cut.value, monkeypatch, tmp_path / "warped")
    placed = tmp_path / "warped/a_placed.tif"
    geo.check_same_ground(placed, scene)
    found, _ = labels.read_points(placed.rename(tmp_path / "warped/a.tif"), {"a": scene}, NAMES)
    rows, columns = np.array(list(found["a"])).T + 0.5
    x, y = geo.on_ground(~place, *geo.on_ground(image_place, columns, rows))
    assert set(found["a"].values()) == {1, 2}
    assert ((x > -0.01) & (x < 64.01) & (y > -0.01) & (y < 64.01)).all()
    sure = abs(x - 32) > 0.2  # GDAL warps to an eighth of a pixel
    assert (np.array(list(found["a"].values())) == 1 + (x > 32))[sure].all()


@pytest.mark.parametrize(
    ("shift", "crs", "same"),
    [(0.4, "EPSG:32633", True), (0.5, "EPSG:32633", False), (0.4, "EPSG:25833", True)],
)
def test_every_door_calls_the_same_ground_the_same(tmp_path, shift, crs, same):
    """Under half a pixel off, labels of row and column are the nearest, as a warp would take them."""
    scene = image(tmp_path / "a.tif")
    halves = np.repeat([[1, 2]], 32, axis=1).repeat(64, axis=0).astype(np.uint8)
    place = PLACE * Affine.translation(shift, 0.3)
    given = write(tmp_path / "given/a.tif", halves, transform=place, crs=crs)
    if same:
        geo.check_same_ground(given, scene)
        assert labels.read_points(given, {"a": scene}, NAMES)[0]["a"][0, 31] == 1
        return
    for check in (geo.check_same_ground, lambda *paths: labels.read_points(paths[0], {"a": scene}, NAMES)):
        with pytest.raises(lc.InputError, match="another grid of pixels"):
            check(given, scene)


def test_an_image_with_a_world_file_is_told_its_reference_system(tmp_path, monkeypatch):
    field, scene = tmp_path / "field.geojson", tmp_path / "a.jpg"
    point = geopandas.GeoSeries([shapely.Point(500_010.5, 5_599_990.5)], crs=32633).to_crs(4326)
    geopandas.GeoDataFrame({"class": ["left"]}, geometry=point).to_file(field)
    Image.new("RGB", (64, 64), "grey").save(scene)
    scene.with_suffix(".jgw").write_text("1\n0\n0\n-1\n500000.5\n5599999.5\n")
    with pytest.raises(lc.InputError, match="names no reference system") as error:
        labels.read_points(field, {"a": scene}, NAMES)
    run_cure(str(error.value).replace("EPSG:…", "EPSG:32633"), monkeypatch, tmp_path / "out")
    assert labels.read_points(field, {"a": scene}, NAMES)[0] == {"a": {(9, 10): 1}}


@pytest.mark.parametrize(("kind", "value"), [(np.int16, -9999), (np.uint32, 2**32 - 1), (np.int32, -(2**31))])
def test_a_nodata_value_is_declared_with_all_its_digits(tmp_path, monkeypatch, kind, value):
    bands = np.random.default_rng(0).integers(300, 900, (3, 64, 64)).astype(kind)
    bands[:, :16] = value
    scene = write(tmp_path / "a.tif", bands)
    (told,) = geo.odd_values(scene, (1, 2, 3), None)
    run_cure(told, monkeypatch, tmp_path / "out")
    assert not list(geo.odd_values(scene, (1, 2, 3), None))
    with geo.open_unscaled(scene) as opened:
        assert (opened.read(0, 64)[..., -1] == 0).mean() == 0.25


def gdal(message, monkeypatch, folder):
    """Runs the command of GDAL that a message names, in a folder of results."""
    words = shlex.split(re.search(r"(gdalwarp|gdal_translate) .*", str(message))[0])
    if not shutil.which(words[0]):
        pytest.skip(f"{words[0]} is not installed (apt install gdal-bin)")
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    subprocess.run(words, check=True, capture_output=True)
    return folder / words[-1]


def uint16(values):
    return np.uint16(values.round())


REFLECTANCE = np.random.default_rng(0).integers(300, 1200, (3, 64, 64)).astype(float)
RESCALED = {
    "since 2022": (REFLECTANCE + 1000, REFLECTANCE, uint16, 0),
    "before 2022": (REFLECTANCE, REFLECTANCE + 1000, uint16, 0),
    "0..1": (REFLECTANCE / 10_000, REFLECTANCE, np.float32, 0),
    "0..1, -9999": (REFLECTANCE / 10_000, REFLECTANCE, np.float32, -9999),
    "0..10000": (REFLECTANCE, REFLECTANCE / 10_000, uint16, 0),
    "8 bits": (REFLECTANCE // 5, REFLECTANCE // 5 * 257, uint16, 0),
    "16 bits": (REFLECTANCE // 5 * 257, REFLECTANCE // 5, uint16, 0),
}


@pytest.mark.parametrize("case", RESCALED)
def test_rescaled_scenes_have_the_values_of_training_and_keep_what_is_empty(case, tmp_path, monkeypatch):
    given, trained, kind, nodata = RESCALED[case]
    values = kind(given)
    values[:, :16] = nodata
    scene = write(tmp_path / "a.tif", values, nodata=nodata)
    ranges = [np.percentile(band, (2, 98)).tolist() for band in trained]
    (told,) = geo.odd_values(scene, (1, 2, 3), ranges)
    rescaled = gdal(told, monkeypatch, tmp_path / "out")
    assert not list(geo.odd_values(rescaled, (1, 2, 3), ranges))
    with geo.open_unscaled(rescaled) as opened:
        pixels = opened.read(0, 64)
    assert (pixels[..., -1] == 0).sum() == 16 * 64 == (pixels[:16, :, -1] == 0).sum()
    off = pixels[16:, :, :3] - trained[:, 16:].transpose(1, 2, 0)
    assert np.abs(off).max() <= (0.51 if trained.max() > 1 else 1e-4)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("placed_by", ["points", "points of a local system", "sensor model"])
def test_images_placed_by_points_or_a_model_get_a_place_and_no_black_corner(
    placed_by, kind, tmp_path, monkeypatch
):
    """Turned by 30 degrees: what the image does not cover holds no data, and is not black land."""
    bands = np.random.default_rng(0).integers(1, 100, (3, 64, 64)).astype(kind)
    scene = write(tmp_path / "a.tif", bands, transform=None, crs=None)
    turned = Affine.translation(15, 50) * Affine.rotation(30) * Affine.scale(1e-5, -1e-5)
    if placed_by == "points of a local system":
        turned = PLACE * Affine.rotation(30)
    with rasterio.open(scene, "r+") as dataset:
        if placed_by == "sensor model":
            dataset.rpcs = straight_down()
        else:
            corners = [(y, x) for y in (0, 64) for x in (0, 64)]
            points = [GroundControlPoint(y, x, *geo.on_ground(turned, x, y)) for y, x in corners]
            dataset.gcps = points, rasterio.CRS.from_user_input(4326 if placed_by == "points" else LOCAL)
    with pytest.warns(UserWarning, match="to keep its place: ") as told, geo.open_unscaled(scene) as opened:
        assert opened.transform is None
    message = str(told[0].message)
    if "rio warp" in message:
        run_cure(message, monkeypatch, tmp_path / "out")
    else:
        gdal(message, monkeypatch, tmp_path / "out")
    with geo.open_unscaled(tmp_path / "out/a_placed.tif") as opened:
        assert opened.transform is not None
        pixels = opened.read(0, opened.height)
    assert (pixels[..., :3].max(-1) > 0)[pixels[..., -1] > 0].all()
    assert placed_by == "sensor model" or 0.2 < (pixels[..., -1] == 0).mean() < 0.6


def straight_down():
    """The sensor model of a camera that looks straight down at 15 degrees east, 50 north."""
    linear = [0.0] * 20
    row, column, one = [list(linear) for _ in range(3)]
    row[2], column[1], one[0] = -1.0, 1.0, 1.0  # the terms are 1, longitude, latitude, …
    scales = {"lat_off": 50, "lat_scale": 3.2e-4, "long_off": 15, "long_scale": 3.2e-4}
    scales |= {"height_off": 0, "height_scale": 100, "err_bias": None, "err_rand": None}
    scales |= {"line_off": 32, "line_scale": 32, "samp_off": 32, "samp_scale": 32}
    return rasterio.rpc.RPC(
        line_num_coeff=row, line_den_coeff=one, samp_num_coeff=column, samp_den_coeff=one, **scales
    )


def test_packages_that_messages_name_are_those_of_the_tests():
    """So each name is one that pip knows, and what it brings has been tried."""
    sources = [ROOT / "landcover_segmentation.py", *(ROOT / "tools").glob("*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    named = set(" ".join(re.findall(r"pip install ([a-z0-9-]+(?: [a-z0-9-]+)*)[\"`);:,]", text)).split())
    lines = [
        (ROOT / name).read_text(encoding="utf-8") for name in ("requirements.txt", "tests/requirements.txt")
    ]
    tried = set(re.findall(r"^([a-zA-Z0-9-]+)", "\n".join(lines), re.MULTILINE))
    assert {"rasterio", "geopandas", "onnx", "pyarrow", "segmentation-models-pytorch"} <= named <= tried


def test_masks_warped_by_the_cure_are_cut(tmp_path, monkeypatch, capsys):
    scene = image(tmp_path / "images/a.tif")
    labels_at = PLACE * Affine.translation(20, 0)
    write(
        tmp_path / "masks/a.tif",
        np.repeat([[1, 2]], 32, axis=1).repeat(64, axis=0).astype(np.uint8),
        labels_at,
    )
    arguments = ["--images", str(scene), "--output", str(tmp_path / "tiles"), "--tile", "32", "--block", "1"]
    arguments += ["--class-names", ",".join(NAMES)]
    assert cut_tiles.main([*arguments, "--masks", str(tmp_path / "masks/a.tif")]) == 2
    run_cure(capsys.readouterr().err, monkeypatch, tmp_path / "warped")
    assert cut_tiles.main([*arguments, "--masks", str(tmp_path / "warped/a_placed.tif")]) == 0
    tiles = [lc.read_mask(path) for path in tmp_path.glob("tiles/*/masks/*.png")]
    assert sum((tile == 1).sum() for tile in tiles) == 64 * 32 and not any(
        (tile == 0).any() for tile in tiles
    )


def test_masks_that_name_their_ids_otherwise_are_translated_by_the_cure(tmp_path, monkeypatch, capsys):
    scene = image(tmp_path / "images/a.tif")
    mask = write(
        tmp_path / "masks/a.tif", np.repeat([[0, 1]], 32, axis=1).repeat(64, axis=0).astype(np.uint8)
    )
    names = "<CategoryNames><Category>right</Category><Category>left</Category></CategoryNames>"
    band = f'<PAMDataset><PAMRasterBand band="1">{names}</PAMRasterBand></PAMDataset>'
    mask.with_suffix(".tif.aux.xml").write_text(band)
    arguments = ["--images", str(scene), "--output", str(tmp_path / "tiles"), "--tile", "32", "--block", "1"]
    arguments += ["--class-names", "nothing,left,right"]
    assert cut_tiles.main([*arguments, "--masks", str(mask)]) == 2
    words = shlex.split(re.search(r"python tools/labels.py .*", capsys.readouterr().err)[0])
    monkeypatch.chdir(tmp_path)
    assert labels.main(words[2:]) == 0
    made = lc.read_mask(tmp_path / "masks_translated/a.png")
    assert (made[:, :32] == 2).all() and (made[:, 32:] == 1).all()


def test_a_map_without_a_place_declares_what_is_no_data(tmp_path):
    """Else SAGA takes class 0 for it."""
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.png.aux.xml").write_text(geo.legend_xml(["water"], np.zeros((1, 3), np.uint8), {}))
    with lc.open_raster(tmp_path / "a.png") as dataset:
        assert dataset.nodata == 255
