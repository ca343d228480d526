"""Every kind of label says the same of the same ground: its pixels are those an independent program fills."""

import json
import sys

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_annotations import NAMES, UTM, write_tif

import landcover_segmentation as lc

sys.path.insert(0, str(ROOT / "tools"))
import label_formats
import labels

rasterio = pytest.importorskip("rasterio")
geopandas = pytest.importorskip("geopandas")
shapely = pytest.importorskip("shapely")


@pytest.fixture
def picture(tmp_path):
    (tmp_path / "tiles").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "tiles/a.png")
    return tmp_path


def read(path, images, **options):
    return labels.read_points(path, lc.list_images(images), NAMES, **options)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 25), st.floats(-5, 15)), min_size=3, max_size=9))
def test_polygons_are_filled_as_gdal_fills_them(corners):
    from rasterio.features import rasterize

    ring = np.array(corners) + 1e-3 * np.pi  # off the pixels' centres, where both may choose
    ours = np.zeros((10, 20), np.uint8)
    ours[tuple(labels.fill([ring], 10, 20).T)] = 1
    polygon = shapely.Polygon(ring)
    theirs = rasterize([polygon], (10, 20)) if polygon.area else ours
    assert (ours != theirs).sum() <= 1  # GDAL rounds crossings in its own way


def test_lines_are_one_pixel_wide():
    assert labels.trace(np.array([[0.5, 0.5], [4.5, 2.5]]), 10, 20).shape == (5, 2)
    assert sorted(labels.trace(np.array([[3.2, -9], [3.2, 99]]), 4, 20).tolist()) == [
        [y, 3] for y in range(4)
    ]


@pytest.mark.parametrize("text", ["1", 1, 1.0, "1.0", "001", "1,0", "1.000000e+00"])
def test_one_number_is_one_class(text):
    known = labels.known_classes(["1", "2", "3", "4"])
    assert known[labels.plain(text)] == 0 and "0" not in known, "1 is the class called 1, not the id 1"


def cvat(shape):
    head = '<annotations><image id="0" name="a.png" width="20" height="10">'
    return "annotations.xml", f"{head}{shape}</image></annotations>"


def studio(value):
    size = {"original_width": 20, "original_height": 10}
    result = [{"id": "r", "value": value, **size}]
    task = {"id": 1, "data": {"image": "/data/upload/1/0123abcd-a.png"}, "annotations": [{"result": result}]}
    return "tasks.json", json.dumps([task])


def coco(outline):
    image = {"id": 7, "file_name": "a.png", "width": 20, "height": 10}
    annotation = {"id": 1, "image_id": 7, "category_id": 2, "segmentation": outline}
    content = {"images": [image], "annotations": [annotation], "categories": [{"id": 2, "name": "middle"}]}
    return "coco.json", json.dumps(content)


def via(outline):
    regions = [{"shape_attributes": outline, "region_attributes": {"cover": "middle"}}]
    return "via.json", json.dumps({"a.png1": {"filename": "a.png", "size": 1, "regions": regions}})


def labelme(points, kind):
    shapes = [{"label": "middle", "points": points, "shape_type": kind}]
    content = {"imagePath": "a.png", "imageHeight": 10, "imageWidth": 20, "shapes": shapes}
    return "a.json", json.dumps(content)


SQUARE = {(y, x) for y in (4, 5) for x in (2, 3)}
CORNERS = [[2, 4], [4, 4], [4, 6], [2, 6]]
CASES = {
    "cvat polygon": (cvat('<polygon label="middle" points="2,4;4,4;4,6;2,6"/>'), SQUARE),
    "cvat mask": (cvat('<mask label="middle" rle="0, 4" left="2" top="4" width="2" height="2"/>'), SQUARE),
    "cvat box": (cvat('<box label="middle" xtl="2" ytl="4" xbr="4" ybr="6"/>'), SQUARE),
    "cvat border": (cvat('<points label="middle" points="20.00,10.00"/>'), {(9, 19)}),
    "studio": (
        studio({"polygonlabels": ["middle"], "points": [[10, 40], [20, 40], [20, 60], [10, 60]]}),
        SQUARE,
    ),
    "studio point": (studio({"keypointlabels": ["middle"], "x": 100, "y": 100, "width": 1}), {(9, 19)}),
    "coco polygon": (coco([np.ravel(CORNERS).tolist()]), SQUARE),
    "coco runs": (coco({"size": [10, 20], "counts": [24, 2, 8, 2, 164]}), SQUARE),
    "via": (via({"name": "polygon", "all_points_x": [2, 4, 4, 2], "all_points_y": [4, 4, 6, 6]}), SQUARE),
    "labelme": (labelme(CORNERS, "polygon"), SQUARE),
    "labelme rectangle": (labelme([[4, 6], [2, 4]], "rectangle"), SQUARE),
}


@pytest.mark.parametrize("case", CASES)
def test_annotations_in_pixels(case, picture):
    (name, content), wanted = CASES[case]
    (picture / name).write_text(content)
    points, _ = read(picture / name, picture / "tiles")
    assert points == {"a": dict.fromkeys(sorted(wanted), 1)}


@pytest.mark.parametrize("name", ["x.json", "x.xml"])
@settings(max_examples=30, deadline=None)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(st.sampled_from(["shapes", "annotations", "images", "regions", "a"]), x)
        ),
    )
)
def test_odd_files_are_one_line(name, tmp_path_factory, content):
    path = tmp_path_factory.mktemp("odd") / name
    path.write_text(json.dumps(content))
    try:
        list(label_formats.read_shapes(path, None, labels.Counter()) or [])
    except lc.InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("uint8", 255), ("int8", None), ("int16", -9999), ("int64", None), ("float32", np.nan)],
)
def test_label_rasters_of_any_type(dtype, nodata, tmp_path):
    (tmp_path / "tiles").mkdir()
    write_tif(tmp_path / "tiles/a.tif", np.zeros((10, 20, 3), np.uint8), left=326000.0)
    mask = np.ones((10, 20), dtype)
    if nodata is not None:
        mask[:4] = nodata
    place = rasterio.transform.from_origin(326000.0, 2780000.0, 0.5, 0.5)
    for name, shift in (("a", 0), ("far", 40)):
        form = {"height": 10, "width": 20, "count": 1, "dtype": dtype, "nodata": nodata, "crs": UTM}
        form["transform"] = place * rasterio.Affine.translation(shift, 0)
        with rasterio.open(tmp_path / f"{name}.tif", "w", **form) as dataset:
            dataset.write(mask, 1)
    points, _ = read(tmp_path / "a.tif", tmp_path / "tiles")
    assert points["a"] == {(y, x): 1 for y in range(0 if nodata is None else 4, 10) for x in range(20)}
    (tmp_path / "other").mkdir()
    (tmp_path / "far.tif").replace(tmp_path / "other/a.tif")
    with pytest.raises(lc.InputError, match=r"other ground than .*a\.tif"):
        read(tmp_path / "other/a.tif", tmp_path / "tiles")


def degrees(x, y):
    from rasterio.warp import transform

    return tuple(part[0] for part in transform(UTM, "EPSG:4326", [x], [y]))


@pytest.fixture
def tiles(tmp_path):
    (tmp_path / "tiles").mkdir()
    write_tif(tmp_path / "tiles/a.tif", np.zeros((10, 20, 3), np.uint8), left=326000.0)
    return tmp_path


LON, LAT = degrees(326001.25, 2779998.25)  # the middle of pixel 2,3
KML = '<kml xmlns="http://www.opengis.net/kml/2.2"><Document><Folder><name>middle</name>'
KML += "<Placemark><name>p</name>"
GROUND = {
    "lon.csv": (f"Lon,LAT,Class\n{LON},{LAT},middle\n", {}),
    "comma.csv": (f"sep=;\nlon;lat;class\n{LON};{LAT};1,0\n".replace(".", ","), {}),
    "utm.csv": ("x,y,class\n326001.25,2779998.25,1.0\n", {"crs": UTM}),
    "wkt.csv": (f'wkt,class\n"SRID=4326;POINT({LON} {LAT})",middle\n', {}),
    "ceo.csv": (f"plotid,sampleid,lon,lat,email,COVER\n1,1,{LON},{LAT},a@b.c,middle\n", {"field": "Cover"}),
    "lucas.csv": (
        f"POINT_ID,TH_LAT,TH_LONG,GPS_LAT,GPS_LONG,LC1\n1,{LAT},{LON},88.888888,88.888888,middle\n",
        {},
    ),
    "kobo.csv": (f"_id,class,_gps_latitude,_gps_longitude\n1,middle,{LAT},{LON}\n", {}),
    "folders.kml": (
        f"{KML}<Point><coordinates>{LON},{LAT}</coordinates></Point></Placemark></Folder></Document></kml>",
        {},
    ),
    "way.gpx": (
        f'<gpx version="1.1" creator="x"><wpt lat="{LAT}" lon="{LON}"><name>middle</name></wpt></gpx>',
        {"field": "name"},
    ),
}


@pytest.mark.parametrize("name", GROUND)
def test_labels_on_the_ground(name, tiles):
    text, options = GROUND[name]
    (tiles / name).write_text(text)
    points, _ = read(tiles / name, tiles / "tiles", **options)
    assert points == {"a": {(3, 2): 1}}


def test_exchanged_axes_are_told(tiles):
    (tiles / "p.csv").write_text(f"lon,lat,class\n{LAT},{LON},middle\n")
    with pytest.raises(lc.InputError, match=r"1 points outside .*with x and y exchanged"):
        read(tiles / "p.csv", tiles / "tiles")


def test_polygons_become_masks_or_a_fixed_number_of_points(tiles, capsys):
    square = shapely.box(326001, 2779996, 326003, 2779999)
    geopandas.GeoDataFrame({"class": ["x"]}, geometry=[square], crs=UTM).to_file(tiles / "plots.shp")
    (tiles / "table.csv").write_text("from,to\nx,middle\n")
    common = ["--labels", tiles / "plots.shp", "--images", tiles / "tiles", "--class-names", ",".join(NAMES)]
    common += ["--classes", tiles / "table.csv"]
    assert labels.main([*map(str, common), "--output", str(tiles / "masks")]) == 0
    mask = lc.read_mask(tiles / "masks/a.png")
    assert (mask == 1).sum() == 24 and (mask[2:8, 2:6] == 1).all() and (mask == 255).sum() == 176
    drawn = [*map(str, common), "--points-per-polygon", "5", "--output", str(tiles / "p.csv")]
    assert labels.main(drawn) == 0 and len((tiles / "p.csv").read_text().splitlines()) == 6
