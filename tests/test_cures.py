"""The commands that error lines name are run, and the program does what it was asked to do."""

import re
import shlex
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
    place = PLACE * Affine.translation(20.3, 0.3)
    given = write(tmp_path / "given/a.tif", halves, transform=place, crs=crs)
    arguments = given, {"a": scene}, NAMES
    with pytest.raises(lc.InputError, match="another grid of pixels") as by_labels:
        labels.read_points(*arguments)
    with pytest.raises(lc.InputError, match="does not lie on the ground") as by_cut:
        geo.check_same_ground(given, scene)
    command = "bring it to .*"
    assert re.search(command, str(by_labels.value))[0] == re.search(command, str(by_cut.value))[0]
    run_cure(by_cut.value, monkeypatch, tmp_path / "warped")
    placed = tmp_path / "warped/a_placed.tif"
    geo.check_same_ground(placed, scene)
    found, _ = labels.read_points(placed.rename(tmp_path / "warped/a.tif"), {"a": scene}, NAMES)
    rows, columns = np.array(list(found["a"])).T + 0.5
    x, y = geo.on_ground(~place, *geo.on_ground(image_place, columns, rows))
    assert set(found["a"].values()) == {1, 2}
    assert ((x > -0.01) & (x < 64.01) & (y > -0.01) & (y < 64.01)).all()
    assert all(class_id == 1 + (at > 32) for class_id, at in zip(found["a"].values(), x, strict=True))


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


def test_a_map_without_a_place_declares_what_is_no_data(tmp_path):
    """Else SAGA takes class 0 for it."""
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.png.aux.xml").write_text(geo.legend_xml(["water"], np.zeros((1, 3), np.uint8), {}))
    with lc.open_raster(tmp_path / "a.png") as dataset:
        assert dataset.nodata == 255
