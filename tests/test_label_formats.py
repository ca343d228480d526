"""Every kind of label says the same of the same ground: its pixels are those an independent program fills."""

import json
import re
import sys
import time
import types
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_annotations import NAMES, UTM, write_tif

import landcover_segmentation as lc

sys.path.insert(0, str(ROOT / "tools"))
import convert_masks
import cut_tiles
import geo
import label_formats
import labels

rasterio = pytest.importorskip("rasterio")
geopandas = pytest.importorskip("geopandas")
shapely = pytest.importorskip("shapely")


KNOWN = labels.known_classes(NAMES)


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

    ring = np.array(corners)
    ours = np.zeros((10, 20), np.uint8)
    ours[tuple(labels.fill([ring], 10, 20).T)] = 1
    polygon = shapely.Polygon(ring)
    theirs = rasterize([polygon], (10, 20)) if polygon.area else ours
    centres = shapely.points(np.argwhere(ours != theirs)[:, ::-1] + 0.5)
    assert (shapely.distance(polygon.exterior, centres) < 1e-6).all(), "on an outline both may choose"


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


def coco(outline, **more):
    image = {"id": 7, "file_name": "a.png", "width": 20, "height": 10}
    annotation = {"id": 1, "image_id": 7, "category_id": 2, "segmentation": outline, **more}
    content = {"images": [image], "annotations": [annotation], "categories": [{"id": 2, "name": "middle"}]}
    return "coco.json", json.dumps(content)


def via(outline):
    regions = [{"shape_attributes": outline, "region_attributes": {"cover": "middle"}}]
    return "via.json", json.dumps({"a.png1": {"filename": "a.png", "size": 1, "regions": regions}})


def via_of(version, attribute="0"):
    """A rectangle as VGG Image Annotator 2.0.11 exports it, in a project, by COCO, or as 1 and 3 have it."""
    outline, options = {"name": "rect", "x": 2, "y": 4, "width": 2, "height": 2}, {"0": "middle", "1": "low"}
    attributes = {"region": {"cover": {"type": "dropdown", "options": options}}, "file": {}}
    if version == "project":
        regions = [{"shape_attributes": outline, "region_attributes": {"cover": attribute}}]
        images = {"a.png1": {"filename": "a.png", "size": 1, "regions": regions, "file_attributes": {}}}
        content = {"_via_settings": {}, "_via_img_metadata": images, "_via_attributes": attributes}
        return "via.json", json.dumps(content)
    if version == "3":
        given = {"1": {"aname": "cover", "anchor_id": "FILE1_Z0_XY1", "type": 4, "options": options}}
        parts = {"project": {}, "attribute": given, "view": {"1": {"fid_list": ["1"]}}}
        parts["file"] = {"1": {"fid": "1", "fname": "a.png", "type": 2, "loc": 1, "src": ""}}
        region = {"vid": "1", "flg": 0, "z": [], "xy": [2, 2, 4, 2, 2], "av": {"1": attribute}}
        return "via.json", json.dumps(parts | {"metadata": {"1_x": region}})
    hash_, quoted = "#" if version == "1" else "", json.dumps(outline).replace('"', '""')
    head = f"{hash_}filename,file_size,file_attributes,region_count,region_id,region_shape_attributes"
    return "via.csv", f'{head},region_attributes\na.png,1,"{{}}",1,0,"{quoted}","{{""cover"":""middle""}}"'


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
    "via 1": (via_of("1"), SQUARE),
    "via 2 csv": (via_of("2"), SQUARE),
    "via 2 project": (via_of("project"), SQUARE),
    "via 3": (via_of("3"), SQUARE),
    "via point by coco": (coco([[]], keypoints=[7, 3, 2]), {(3, 7)}),
    "labelme": (labelme(CORNERS, "polygon"), SQUARE),
    "labelme rectangle": (labelme([[4, 6], [2, 4]], "rectangle"), SQUARE),
}


def test_numbers_of_options_are_told(picture):
    """VGG Image Annotator exports the id of an option, which may be a number; only projects say of what."""
    name, content = via_of("project")
    images = json.dumps(json.loads(content)["_via_img_metadata"])
    (picture / name).write_text(images)
    with pytest.warns(UserWarning, match=r"via\.json: cover holds numbers, .*give the project"):
        assert set(read(picture / name, picture / "tiles")[0]["a"].values()) == {0}


@pytest.mark.parametrize("case", CASES)
def test_annotations_in_pixels(case, picture):
    (name, content), wanted = CASES[case]
    (picture / name).write_text(content)
    points, _ = read(picture / name, picture / "tiles")
    assert points == {"a": dict.fromkeys(sorted(wanted), 1)}


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
def test_odd_files_are_one_line(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("odd") / "x.json"
    path.write_text(json.dumps(content))
    try:
        list(label_formats.read_shapes(path, None, labels.Counter()) or [])
    except lc.InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)


ODD = [
    None,
    True,
    -1,
    0,
    0.5,
    10**30,
    float("nan"),
    "",
    "x",
    "nan",
    "1e999",
    "é\n",
    [],
    {},
    [[]],
    [None],
    [1, "x"],
]


def damaged(name, content, data):
    """A file of annotations in which one value is another, or lacks."""
    odd, where = data.draw(st.sampled_from(ODD)), st.integers(0, 999)
    if name.endswith(".csv"):
        cells = content.replace("\n", ",").split(",")
        return content.replace(cells[data.draw(where) % len(cells)], str(odd), 1)
    if name.endswith(".xml"):
        root = ElementTree.fromstring(content)
        attributes = [(element.attrib, key) for element in root.iter() for key in element.attrib]
        owner, key = attributes[data.draw(where) % len(attributes)]
        owner[key] = str(odd)
        return ElementTree.tostring(root, encoding="unicode")

    def places(value):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            if isinstance(value[key], (dict, list)):
                yield from places(value[key])

    found = json.loads(content)
    owner, key = list(places(found))[data.draw(where) % len(list(places(found)))]
    if data.draw(st.booleans()):
        owner[key] = odd
    else:
        del owner[key]
    return json.dumps(found)


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_annotation_is_read_or_one_line(case, picture, data):
    (name, content), _ = CASES[case]
    (picture / name).write_text(damaged(name, content, data), encoding="utf-8")
    try:
        points, _ = read(picture / name, picture / "tiles")
    except lc.InputError as error:
        assert str(picture / name) in str(error)  # `lc.command_line` makes one line of what it says
    else:
        assert all(0 <= y < 10 and 0 <= x < 20 for own in points.values() for y, x in own)


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


def table_xml(*rows):
    """A GDAL attribute table of name and value."""
    form = "<Name>{0}</Name><Type>{1}</Type><Usage>{1}</Usage>"
    columns = [form.format("Klasse", 2), form.format("Value", 0).replace("<Usage>0", "<Usage>5")]
    parts = [f'<FieldDefn index="{index}">{column}</FieldDefn>' for index, column in enumerate(columns)]
    cells = ("".join(f"<F>{cell}</F>" for cell in row) for row in rows)
    parts += [f'<Row index="{index}">{row}</Row>' for index, row in enumerate(cells)]
    return f"<GDALRasterAttributeTable>{''.join(parts)}</GDALRasterAttributeTable>"


CATEGORIES = "".join(f"<Category>{name}</Category>" for name in ("high", "other", "low"))
ITEMS = "".join(f'<MDI key="CLASS_{at}">{name}</MDI>' for at, name in enumerate(("high", "other", "low")))
LEGENDS = {
    "tags of our maps": f"<Metadata>{ITEMS}</Metadata>",
    "categories": f"<CategoryNames>{CATEGORIES}</CategoryNames>",
    "attribute table": table_xml(("high", 0), ("other", 1), ("Low", 2)),
    "attribute table without usages": re.sub(
        r"Usage>\d",
        "Usage>0",
        table_xml(("high", 0), ("other", 1), ("Low", 2)).replace("Klasse", "Class_Name"),
    ),
}
BESIDE = ".vat.dbf", "vat.dbf with codes", ".qml"


def write_legend(path, kind):
    """The legend of a raster: high, other, low are its 0, 1, 2."""
    rows = [("high", 0), ("other", 1), ("Low", 2)]
    if kind in LEGENDS:
        band = f'<PAMRasterBand band="1">{LEGENDS[kind]}</PAMRasterBand>'
        path.with_name(f"{path.name}.aux.xml").write_text(f"<PAMDataset>{band}</PAMDataset>")
    elif kind == ".qml":
        entries = "".join(f'<paletteEntry value="{at}" label="{name}"/>' for name, at in rows)
        path.with_suffix(kind).write_text(f"<qgis>{entries}<paletteEntry value='3' label='3'/></qgis>")
    else:
        import pandas
        import pyogrio

        table = pandas.DataFrame({"VALUE": [0.0, 1, 2], "COUNT": [5, 5, 5]})
        codes = {"CODE_18": ["x0", "x1", "x2"]} if "codes" in kind else {}
        for name, column in (codes | {"LABEL3": [name for name, _ in rows]}).items():
            table[name] = column
        pyogrio.write_dataframe(table, path.parent / "legend.dbf", driver="ESRI Shapefile")
        (path.parent / "legend.dbf").rename(path.with_name(f"{path.name}.vat.dbf"))


@pytest.mark.parametrize("legend", [*LEGENDS, *BESIDE])
def test_names_that_a_raster_gives_its_values_count(legend, tiles):
    """Its 0 is our 2; what it calls by no name of ours is an id, as is told; --classes has the last word."""
    write_tif(tiles / "l.tif", np.uint8([[0, 1, 2]]).repeat(10, 0)[..., None], left=326000.0)
    write_legend(tiles / "l.tif", legend)
    how = labels.reading()
    points, _ = labels.read_labels(tiles / "l.tif", lc.list_images(tiles / "tiles"), KNOWN, how)
    assert points["a"][:3].tolist() == [[0, 0, 2], [0, 1, 1], [0, 2, 0]]
    assert re.fullmatch(r".*l\.tif names .*, which count by these names: 0 high, 2 (l|L)ow", how.notes[0])
    assert re.fullmatch(r".*l\.tif calls values .* count as ids: 1 other; if they .*", how.notes[1])
    (tiles / "t.csv").write_text("from,to\n0,low\n1,middle\n2,high\n")
    known, how = labels.known_classes(NAMES, tiles / "t.csv"), labels.reading(classes=tiles / "t.csv")
    points, _ = labels.read_labels(tiles / "l.tif", lc.list_images(tiles / "tiles"), known, how)
    assert points["a"][:3].tolist() == [[0, 0, 0], [0, 1, 1], [0, 2, 2]] and not how.notes


def test_two_legends_of_one_raster_must_agree(tiles):
    write_tif(tiles / "l.tif", np.uint8([[0, 1, 2]]).repeat(10, 0)[..., None], left=326000.0)
    write_legend(tiles / "l.tif", "categories")
    write_legend(tiles / "l.tif", ".qml")
    assert geo.value_names(tiles / "l.tif") == {0: "high", 1: "other", 2: "low"}
    (tiles / "l.qml").write_text('<qgis><paletteEntry value="2" label="middle"/></qgis>')
    with pytest.raises(lc.InputError, match=r"calls 2 'low', another 'middle'; remove the wrong one"):
        read(tiles / "l.tif", tiles / "tiles")


PACKED = {
    "jp2": ("JP2OpenJPEG", {}, True),
    "jp2 without loss": ("JP2OpenJPEG", {"reversible": "yes", "quality": 100}, False),
    "jpeg": ("GTiff", {"compress": "jpeg"}, True),
    "lerc": ("GTiff", {"compress": "lerc", "max_z_error": 1}, True),
    "lerc that rounds nothing": ("GTiff", {"compress": "lerc_deflate", "max_z_error": 0.4}, False),
}


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("mosaic", [False, True], ids=["", "mosaic"])
def test_labels_packed_with_loss_are_refused(kind, mosaic, tiles):
    """It makes other classes of some, ids like any. A mosaic does not say how its parts are packed."""
    from rasterio.shutil import copy

    driver, how, with_loss = PACKED[kind]
    path = tiles / f"l.{'jp2' if 'jp2' in kind else 'tif'}"
    write_tif(tiles / "given.tif", np.uint8([np.arange(20) // 7]).repeat(10, 0)[..., None], left=326000.0)
    copy(tiles / "given.tif", path, driver=driver, **how)
    if mosaic:
        copy(path, tiles / "l.vrt", driver="VRT")
        path = tiles / "l.vrt"
    if with_loss:
        with pytest.raises(
            lc.InputError, match=r"l\.\w+: is packed with loss \(\w+\), .* PNG, or as GeoTIFF"
        ):
            read(path, tiles / "tiles")
        with pytest.raises(lc.InputError, match="is packed with loss"), cut_tiles.open_mask(path):
            pass
    else:
        assert sum(map(len, read(path, tiles / "tiles")[0].values())) == 200


def test_colours_packed_as_webp_may_be_without_loss(tiles):
    """Its name alone does not tell."""
    ids = np.uint8([np.arange(64) // 22]).repeat(64, 0)
    form = {"width": 64, "height": 64, "count": 3, "dtype": "uint8", "compress": "webp"}
    for name, how in (("without", {"webp_lossless": True}), ("with", {"webp_level": 50})):
        with rasterio.open(tiles / f"{name}.tif", "w", "GTiff", **form, **how) as dataset:
            dataset.write(np.stack([ids] * 3))
    assert geo.lossy_packing(tiles / "without.tif") is None
    assert geo.lossy_packing(tiles / "with.tif") == "WEBP"


@pytest.mark.parametrize(
    "reader", [read, lambda path, tiles: lc.read_points(path, lc.list_images(tiles), NAMES)]
)
def test_a_quote_that_is_not_closed_swallows_no_row(reader, tiles):
    (tiles / "p.csv").write_text('x,y,class,image\n1,1,low,"\n2,2,low,a.tif\n3,3,low,a.tif\n')
    with pytest.raises(lc.InputError, match=r"p\.csv.*cannot be read .*unexpected end of data"):
        reader(tiles / "p.csv", tiles / "tiles")


def test_curves_name_what_makes_lines_of_them(tiles):
    (tiles / "p.csv").write_text('wkt,class\n"CIRCULARSTRING (0 0, 1 1, 2 0)",low\n')
    with pytest.raises(lc.InputError, match=r"line 2: .* has curves; .*CONVERT_TO_LINEAR"):
        read(tiles / "p.csv", tiles / "tiles", crs=UTM)


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
    "both.csv": (f"lat,lon,x,y,class\n{LAT},{LON},326001.25,2779998.25,middle\n", {}),
    "both_utm.csv": (f"lat,lon,x,y,class\n{LAT},{LON},326001.25,2779998.25,middle\n", {"crs": UTM}),
    "both_lon.csv": (f"E,N,lat,lon,class\n1,2,{LAT},{LON},middle\n", {"crs": "EPSG:4326"}),
    "photo.csv": (
        f"image,lat,lon,x,y,class\nDJI.JPG,{LAT},{LON},326001.25,2779998.25,middle\n",
        {"crs": UTM},
    ),
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
    with pytest.raises(lc.InputError, match=r"points outside of all images .1.; .*with x and y exchanged"):
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


def main(*given):
    return labels.main([*map(str, given), "--class-names", ",".join(NAMES)])


def test_folders_of_one_name_are_one_class(tiles):
    """GDAL calls the second "middle (#2)"; --layer names both."""
    import zipfile

    place = f"<Placemark><Point><coordinates>{LON},{LAT}</coordinates></Point></Placemark>"
    folders = "".join(f"<Folder><name>{name}</name>{place}</Folder>" for name in ("middle", "middle"))
    text = f'<kml xmlns="http://www.opengis.net/kml/2.2"><Document>{folders}</Document></kml>'
    with zipfile.ZipFile(tiles / "p.kmz", "w") as packed:
        packed.writestr("doc.kml", text)
    for layer in (None, "middle"):
        points, gone = read(tiles / "p.kmz", tiles / "tiles", layer=layer)
        assert points == {"a": {(3, 2): 1}} and gone == {"points on a pixel that has one already": 1}


def write_kml(path, *folders):
    """A KML, or KMZ, of folders in folders: (name, longitude, …, folder, …)."""
    import zipfile

    def element(part):
        if isinstance(part, float):
            return f"<Placemark><Point><coordinates>{part},{LAT}</coordinates></Point></Placemark>"
        name, *parts = part
        return f"<Folder><name>{name}</name>{''.join(map(element, parts))}</Folder>"

    inside = "".join(map(element, folders))
    text = f'<kml xmlns="http://www.opengis.net/kml/2.2"><Document><name>low</name>{inside}</Document></kml>'
    if path.suffix == ".kml":
        path.write_text(text)
    else:
        with zipfile.ZipFile(path, "w") as packed:
            packed.writestr("doc.kml", text)


EAST = degrees(326002.25, 2779998.25)[0]  # the middle of pixel 4,3
LOW_MIDDLE = {(3, 4): 0, (3, 2): 1}


@pytest.mark.parametrize("name", ["p.kml", "p.kmz"])
@pytest.mark.parametrize("inner", ["2024", "1", "low parts"])
def test_of_folders_in_folders_the_inner_class_counts(inner, name, tiles):
    """class/2024, of which GDAL tells the inner one alone, and class/1, which is no id."""
    folders = ("low", ("2023",), (inner, EAST)), ("middle", ("2023",), (inner, LON))
    for whole in (folders, (("Training", *folders),)):
        write_kml(tiles / name, *whole)
        with pytest.warns(
            UserWarning, match=f"no class have that around them: {inner} in low, {inner} in mid"
        ):
            assert read(tiles / name, tiles / "tiles")[0] == {"a": LOW_MIDDLE}


def test_a_year_of_folders_in_folders_may_be_chosen_or_left_out(tiles):
    write_kml(tiles / "p.kml", ("low", ("2023", LON), ("2024", EAST)), ("middle", ("2024", LON)))
    with pytest.warns(UserWarning, match="2024 in low, 2024 in middle"):
        assert read(tiles / "p.kml", tiles / "tiles", layer="2024")[0] == {"a": LOW_MIDDLE}
    (tiles / "table.csv").write_text("from,to\n2023,\nlow,low\nmiddle,middle\n")
    given = "--labels", tiles / "p.kml", "--images", tiles / "tiles", "--classes", tiles / "table.csv"
    assert main(*given, "--output", tiles / "p.csv") == 0
    assert (tiles / "p.csv").read_text().splitlines()[1:] == ["a.tif,2,3,middle", "a.tif,4,3,low"]
    write_kml(tiles / "p.kml", ("2023", ("low", EAST)), ("2024", ("middle", LON)))
    assert read(tiles / "p.kml", tiles / "tiles")[0] == {"a": LOW_MIDDLE}


def test_folders_in_folders_of_which_none_is_a_class_are_told(tiles):
    write_kml(tiles / "p.kml", ("Wald", ("2024", LON)))
    with pytest.raises(lc.InputError, match=r"class '2024' .*; of folders in folders the inner class counts"):
        read(tiles / "p.kml", tiles / "tiles")


def test_what_classes_cannot_be_folders_may_be_names(tiles):
    place = f"<name>middle</name><Point><coordinates>{LON},{LAT}</coordinates></Point>"
    head = '<kml xmlns="http://www.opengis.net/kml/2.2"><Document><name>survey</name>'
    (tiles / "p.kml").write_text(f"{head}<Placemark>{place}</Placemark></Document></kml>")
    with pytest.raises(lc.InputError, match=r"class 'survey' .*name a field with --field: Name"):
        read(tiles / "p.kml", tiles / "tiles")
    assert read(tiles / "p.kml", tiles / "tiles", field="Name")[0] == {"a": {(3, 2): 1}}


@pytest.mark.parametrize(
    ("crs", "left", "right"),
    [("EPSG:4326", -179.9, 180.1), ("EPSG:4326", 190.3, -169.7), ("EPSG:3857", -20037300.0, 20037716.7)],
)
@pytest.mark.parametrize("kind", ["point", "polygon"])
def test_longitudes_once_round_the_globe_are_one(kind, crs, left, right, tmp_path):
    """An image of Fiji reaches beyond 180 degrees, where a survey goes on with -179.9."""
    size = 0.001 if crs == "EPSG:4326" else 10
    (tmp_path / "tiles").mkdir()
    image = np.zeros((10, 20, 3), np.uint8)
    write_tif(tmp_path / "tiles/a.tif", image, crs=crs, left=right - 5.5 * size, top=1.5 * size, size=size)
    shape = shapely.Point(left, 0)
    shape = shape if kind == "point" else shapely.box(*shape.buffer(1.2 * size).bounds)
    geopandas.GeoDataFrame({"class": ["middle"]}, geometry=[shape], crs=crs).to_file(tmp_path / "p.gpkg")
    points, gone = read(tmp_path / "p.gpkg", tmp_path / "tiles")
    assert len(points["a"]) == (1 if kind == "point" else 9) and (1, 5) in points["a"] and not gone


def test_polygons_deep_in_collections_are_filled(tiles):
    """They were traced by their outline, as lines are."""
    boxes = [shapely.box(326001 + at, 2779996, 326003 + at, 2779998) for at in (0, 4)]
    deep = shapely.GeometryCollection([shapely.GeometryCollection([shapely.MultiPolygon(boxes)])])
    geopandas.GeoDataFrame({"class": ["low"]}, geometry=[deep], crs=UTM).to_file(tiles / "p.geojson")
    assert len(read(tiles / "p.geojson", tiles / "tiles")[0]["a"]) == 32


@pytest.mark.parametrize(("crs", "size"), [("EPSG:4326", 1e-4), ("EPSG:3857", 11.13), ("EPSG:32760", 11)])
@pytest.mark.parametrize("right", [-179.9995, 179.9])
def test_a_polygon_across_180_degrees_goes_the_short_way(right, crs, size, tmp_path):
    """Fiji's fields go on with -179.9; what has a corner between is as wide as it says."""
    from rasterio.warp import transform

    (tmp_path / "tiles").mkdir()
    (x,), (y,) = transform("EPSG:4326", crs, [179.9968], [-17])
    image = np.zeros((64, 64, 3), np.uint8)
    write_tif(tmp_path / "tiles/a.tif", image, crs=crs, left=x, top=y, size=size)
    field = [(179.9995, -17.001), (right, -17.001), (right, -17.002), (179.9995, -17.002)]
    table = geopandas.GeoDataFrame({"class": ["low"]}, geometry=[shapely.Polygon(field)], crs="EPSG:4326")
    table.to_file(tmp_path / "p.gpkg")
    if right > 0:
        points, _ = read(tmp_path / "p.gpkg", tmp_path / "tiles")
        assert 250 < len(points["a"]) < 350
        return
    with pytest.warns(UserWarning, match="1 feature across 180 degrees: read as the short way"):
        points, _ = read(tmp_path / "p.gpkg", tmp_path / "tiles")
    assert 90 < len(points["a"]) < 120


def test_long_edges_are_bent_in_another_system(tmp_path):
    """Half of the image lies south of 60 degrees, and ten rows more south of the line through the corners."""
    from rasterio.warp import transform

    (tmp_path / "tiles").mkdir()
    (x,), (y,) = transform("EPSG:4326", UTM, [57.0], [60])
    write_tif(tmp_path / "tiles/a.tif", np.zeros((64, 64, 3), np.uint8), left=x - 320, top=y + 320, size=10)
    degree = geopandas.GeoDataFrame({"class": ["low"]}, geometry=[shapely.box(56.5, 59, 57.5, 60)], crs=4326)
    degree.to_file(tmp_path / "p.gpkg")
    points, _ = read(tmp_path / "p.gpkg", tmp_path / "tiles")
    assert {row for row, _ in points["a"]} == set(range(32, 64)) and len(points["a"]) == 32 * 64


@pytest.mark.parametrize("suffix", ["fgb", "shp", "parquet"])
def test_wide_whole_numbers_are_ids(suffix, tiles):
    """A shapefile's field of 19 digits and more comes as floats."""
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    table = geopandas.GeoDataFrame(
        {"class": np.array([1, 10**18])},
        geometry=shapely.points([[326001.25, 2779998.25], [0, 0]]),
        crs=UTM,
    )
    path = tiles / f"p.{suffix}"
    table.to_parquet(path) if suffix == "parquet" else table.to_file(path)
    assert read(path, tiles / "tiles") == ({"a": {(3, 2): 1}}, {"points outside of all images": 1})


@pytest.mark.parametrize(("values", "kind"), [([1, None], "Int64"), (["middle", None], "string")])
def test_an_empty_cell_of_a_nullable_column_is_no_class(values, kind, tiles):
    """As pandas' convert_dtypes has it in a GeoParquet."""
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    places = shapely.points([[326001.25, 2779998.25], [326002.25, 2779997.25]])
    table = geopandas.GeoDataFrame({"class": pandas.array(values, dtype=kind)}, geometry=places, crs=UTM)
    table.to_parquet(tiles / "p.parquet")
    assert read(tiles / "p.parquet", tiles / "tiles") == ({"a": {(3, 2): 1}}, {"points without a class": 1})


PIXELS = "image,x,y,class\na.tif,2,3,middle\n"


@pytest.mark.parametrize(
    ("name", "text", "option", "wanted"),
    [
        ("p.csv", PIXELS, {"layer": "x"}, "--layer x: nothing in .*p.csv has a use for it"),
        ("p.csv", PIXELS, {"points_per_polygon": 3}, "--points-per-polygon 3: nothing in"),
        ("p.csv", PIXELS, {"crs": UTM}, "points outside of all images .1.; .*without it they are pixels"),
        (
            "p.xml",
            cvat('<points label="middle" points="1,1"/>')[1].replace("a.png", "a.tif"),
            {"crs": UTM},
            "--crs",
        ),
        (
            "p.xml",
            cvat('<points label="middle" points="1,1"/>')[1].replace("a.png", "a.tif"),
            {"field": "x"},
            "is --field x",
        ),
    ],
)
def test_options_without_a_use_are_told(name, text, option, wanted, tiles):
    (tiles / name).write_text(text)
    with pytest.raises(lc.InputError, match=wanted):
        read(tiles / name, tiles / "tiles", **option)


def test_labels_of_missing_images_are_counted_or_an_error_if_none_is_left(tiles):
    (tiles / "p.csv").write_text(f"{PIXELS}b.tif,1,1,low\n")
    points, gone = read(tiles / "p.csv", tiles / "tiles")
    assert points == {"a": {(3, 2): 1}} and gone == {"labels of images that are not there, like b.tif": 1}
    (tiles / "p.csv").write_text("image,x,y,class\nb.tif,1,1,low\n")
    with pytest.raises(lc.InputError, match=r"not there, like b\.tif"):
        read(tiles / "p.csv", tiles / "tiles")


def test_labels_on_no_data_alone_are_an_error(tiles):
    with rasterio.open(tiles / "tiles/a.tif", "r+") as dataset:
        dataset.nodata = 0
    (tiles / "p.csv").write_text(PIXELS)
    assert main("--labels", tiles / "p.csv", "--images", tiles / "tiles", "--output", tiles / "o.csv") == 2
    assert not (tiles / "o.csv").exists()


def cure_of(path, images, *more):
    """Runs the command that an error names."""
    import re
    import shlex

    from click.testing import CliRunner
    from rasterio.rio.main import main_group

    with pytest.raises(lc.InputError) as caught:
        read(path, images, *more)
    command = re.search(r"rio (warp .*)", str(caught.value))[1]
    result = CliRunner().invoke(main_group, shlex.split(command))
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("kind", ["upside down", "other zone"])
def test_rasters_on_another_grid_name_the_warp_that_brings_them(kind, tiles, monkeypatch):
    """What the labels do not reach is unlabelled after it, not class 0."""
    monkeypatch.chdir(tiles)
    transform = rasterio.transform.from_origin(326001.0, 2779999.0, 0.5, 0.5)
    mask, crs = np.ones((6, 8), np.uint8), UTM
    if kind == "upside down":
        transform *= rasterio.Affine(1, 0, 0, 0, -1, 6)
    else:
        from rasterio.warp import calculate_default_transform

        crs, bounds = "EPSG:32641", rasterio.transform.array_bounds(6, 8, transform)
        transform = calculate_default_transform(UTM, crs, 8, 6, *bounds)[0]
    form = {"height": 6, "width": 8, "count": 1, "dtype": "uint8", "crs": crs, "transform": transform}
    with rasterio.open("labels.tif", "w", **form) as dataset:
        dataset.write(mask, 1)
    cure_of("labels.tif", "tiles")
    points, _ = read(tiles / "a_placed.tif", tiles / "tiles")
    assert set(points["a"].values()) == {1} and 40 <= len(points["a"]) <= 56


def test_images_with_ground_control_points_name_the_warp(tiles, monkeypatch):
    from rasterio.control import GroundControlPoint as Point

    monkeypatch.chdir(tiles)
    with rasterio.open(
        "tiles/a.tif", "w", driver="GTiff", width=20, height=10, count=3, dtype="uint8"
    ) as image:
        corners = [(y, x) for y in (0, 10) for x in (0, 20)]
        image.gcps = (
            [Point(y, x, 326000 + x / 2, 2780000 - y / 2) for y, x in corners],
            rasterio.CRS.from_string(UTM),
        )
        image.write(np.ones((3, 10, 20), np.uint8))
    (tiles / "p.csv").write_text(f"lon,lat,class\n{LON},{LAT},middle\n")
    cure_of("p.csv", "tiles")
    (tiles / "a_placed.tif").replace(tiles / "tiles/a.tif")
    assert read(tiles / "p.csv", tiles / "tiles")[0] == {"a": {(3, 2): 1}}


def test_a_drawn_polygon_may_spare_an_image(tiles):
    """Of one over two images, all points may fall on one of them."""
    write_tif(tiles / "tiles/b.tif", np.zeros((10, 20, 3), np.uint8), left=326010.0)
    square = shapely.box(326001, 2779996, 326010.5, 2779999)
    geopandas.GeoDataFrame({"class": [1]}, geometry=[square], crs=UTM).to_file(tiles / "plot.gpkg")
    points, _ = read(tiles / "plot.gpkg", tiles / "tiles", points_per_polygon=1)
    assert sum(map(len, points.values())) == 1


def test_world_files_place_pictures(tiles):
    Image.new("RGB", (20, 10)).save(tiles / "p.png")
    (tiles / "tiles/a.tif").unlink()
    (tiles / "p.png").replace(tiles / "tiles/a.png")
    (tiles / "tiles/a.pgw").write_text("0.5\n0\n0\n-0.5\n326000.25\n2779999.75\n")
    (tiles / "p.csv").write_text("x,y,class\n326001.25,2779998.25,middle\n")
    assert read(tiles / "p.csv", tiles / "tiles", crs=UTM)[0] == {"a": {(3, 2): 1}}


def test_a_prj_beside_a_picture_names_its_system(tiles):
    """ESRI's programs, Metashape and Pix4D write one; the labels' own system was taken for it."""
    (tiles / "tiles/a.tif").unlink()
    Image.new("RGB", (20, 10)).save(tiles / "tiles/a.jpg")
    (tiles / "tiles/a.jgw").write_text("0.5\n0\n0\n-0.5\n326000.25\n2779999.75\n")
    point = geopandas.GeoDataFrame(
        {"class": ["low"]}, geometry=[shapely.Point(326001.25, 2779998.25)], crs=UTM
    )
    point.to_file(tiles / "p.gpkg")
    (tiles / "tiles/a.prj").write_text(point.crs.to_wkt("WKT1_ESRI"))
    assert read(tiles / "p.gpkg", tiles / "tiles")[0] == {"a": {(3, 2): 0}}
    (tiles / "tiles/a.prj").write_text(geopandas.GeoSeries(crs="EPSG:32641").crs.to_wkt("WKT1_ESRI"))
    with pytest.raises(lc.InputError, match=r"outside of all images.*give --crs"):
        read(tiles / "p.gpkg", tiles / "tiles")


def test_uploads_of_label_studio_are_found_in_its_coco_too(picture):
    name, content = coco([np.ravel(CORNERS).tolist()])
    (picture / name).write_text(content.replace("a.png", "/data/upload/1/0123abcd-a.png"))
    assert set(read(picture / name, picture / "tiles")[0]["a"]) == SQUARE


def test_runs_of_another_size_than_their_image_are_refused(picture):
    name, content = coco({"size": [5, 10], "counts": [0, 50]})
    (picture / name).write_text(content)
    with pytest.raises(
        lc.InputError, match=r"annotation 1: .* runs are of 10 x 5 pixels, the image has 20 x 10"
    ):
        read(picture / name, picture / "tiles")


def test_xml_of_another_program_names_what_is_read(picture):
    (picture / "a.xml").write_text("<annotation><filename>a.png</filename></annotation>")
    with pytest.raises(lc.InputError, match=r"Pascal VOC .* export CVAT"):
        read(picture / "a.xml", picture / "tiles")


def test_tracks_are_read_where_a_gpx_has_no_waypoints(tiles):
    points = f'<trkpt lat="{LAT}" lon="{LON}"/><trkpt lat="{LAT}" lon="{LON}"/>'
    track = f"<trk><name>middle</name><trkseg>{points}</trkseg></trk>"
    (tiles / "way.gpx").write_text(f'<gpx version="1.1" creator="x">{track}</gpx>')
    points, _ = read(tiles / "way.gpx", tiles / "tiles", field="name")
    assert [set(own.values()) for own in points.values()] == [{1}]


def test_later_shapes_of_cvat_hide_earlier_ones(picture):
    ellipse = '<ellipse label="high" z_order="1" cx="5" cy="5" rx="3" ry="2" rotation="90"/>'
    polygon = '<polygon label="low" z_order="0" points="0,0;10,0;10,10;0,10"/>'
    (picture / "c.xml").write_text(cvat(ellipse + polygon)[1])
    points = read(picture / "c.xml", picture / "tiles")[0]["a"]
    high = {at for at, class_id in points.items() if class_id == 2}
    y, x = np.mgrid[:10, :20] + 0.5
    wanted = np.argwhere(((x - 5) / 2) ** 2 + ((y - 5) / 3) ** 2 <= 1).tolist()
    assert len(points) == 100 and sorted(high) == sorted(map(tuple, wanted))


def test_large_fields_may_overlap(tiles):
    """Time grows with the pixels, not with their square."""
    write_tif(tiles / "tiles/a.tif", np.zeros((400, 600, 3), np.uint8), left=326000.0)
    fields = [shapely.box(326000 + left, 2779800, 326200 + left, 2780000) for left in (0, 50)]
    geopandas.GeoDataFrame({"class": [0, 1]}, geometry=fields, crs=UTM).to_file(tiles / "plots.gpkg")
    started = time.process_time()
    points, gone = read(tiles / "plots.gpkg", tiles / "tiles")
    assert time.process_time() - started < 20
    assert gone == {"pixels that two classes claim": 120_000} and len(points["a"]) == 80_000


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("tile.jpg", "tile"),
        ("tile.1", "tile.1"),
        ("tile.2", None),
        ("0123abcd-tile.png", "tile"),
        ("20210101-tile.png", None),
    ],
)
def test_what_follows_a_dot_or_leads_as_a_date_is_part_of_a_name(name, stem, tmp_path):
    images = {stem: tmp_path / f"{stem}.png" for stem in ("tile", "tile.1")}
    assert labels.image_finder(images)(name) == stem


@pytest.mark.parametrize("second", ["same", "others", "other order", "two alike"])
def test_palettes_that_number_colours_otherwise_are_refused(second, tmp_path):
    """Of the same colours; those of one class alone, or that stand for two ids, tell nothing."""
    blue, green, red = (0, 0, 255), (0, 160, 0), (200, 0, 0)
    tables = {"same": (blue, green), "others": (red, green), "other order": (green, blue)}
    (tmp_path / "masks").mkdir()
    for at, colors in enumerate(((blue, green), tables.get(second, (green, green)))):
        mask = Image.fromarray(np.uint8([[0, 1], [1, 0]]), "P")
        mask.putpalette(sum(colors, ()))
        mask.save(tmp_path / f"masks/{at}.png")
    masks = sorted((tmp_path / "masks").iterdir())
    if second == "other order":
        with pytest.raises(
            lc.InputError, match=r"1\.png: its palette gives 0 the colour that has 1 in .*0\.png"
        ):
            geo.check_palettes(masks)
    else:
        geo.check_palettes(masks)


@pytest.mark.parametrize(
    ("x", "others", "expected"),
    [
        ("1.234", ["5"], None),
        ("1.234", ["12.5"], 1),
        ("1.234", ["0.5"], 1),
        ("1.234", ["12,5"], 1234),
        ("1.234,5", ["5"], 1234),
        ("1.234", ["345.678"], 1),
        ("1.234", ["12.5", "12,5"], None),
    ],
)
@pytest.mark.parametrize("mark", [";", "\t"])
def test_what_may_be_thousands_with_points_is_told_by_the_others(x, others, expected, mark, tmp_path):
    """A spreadsheet of German or Spanish writes 1.234 for 1234, a program with semicolons for 1 and a bit."""
    (tmp_path / "tiles").mkdir()
    Image.new("L", (1300, 400)).save(tmp_path / "tiles/a.png")
    rows = [mark.join(("a", x, other, "low")) for other in others]
    (tmp_path / "p.csv").write_text("\n".join([mark.join(("image", "x", "y", "class")), *rows]))
    if expected is None:
        message = r"line 2: x is '1\.234': .* write 1234 or 1\.2340, or save the table with commas"
        with pytest.raises(lc.InputError, match=message):
            read(tmp_path / "p.csv", tmp_path / "tiles")
        return
    rows = [int(float(other.replace(",", "."))) for other in others]
    assert read(tmp_path / "p.csv", tmp_path / "tiles")[0] == {"a": {(row, expected): 0 for row in rows}}


@pytest.mark.parametrize(("text", "number"), [("1,2E+01", "1.2E+01"), ("1,27586E-05", "1.27586E-05")])
def test_exponents_of_a_german_spreadsheet_are_read(text, number, tmp_path):
    """It writes 1,27586E-05 for 0,0000127586; 1,234 may still be a thousand and more."""
    (tmp_path / "p.csv").write_text(f"image;x;y;class;chance\na;{text};1,234;low;{text}\n")
    ((_, row),) = label_formats.read_table(tmp_path / "p.csv")[1]
    assert row == {"image": "a", "x": number, "y": "1,234", "class": "low", "chance": number}


def test_metres_with_points_for_thousands_are_read(tiles):
    text = "x;y;class\n326.001,25;2.779.998,25;middle\n326.002;2.779.998;low\n"
    (tiles / "p.csv").write_text(text)
    points, _ = read(tiles / "p.csv", tiles / "tiles", crs=UTM)
    assert points == {"a": {(3, 2): 1, (4, 4): 0}}


def write_layers(path, *fields, values=(["middle"], ["low"])):
    """A GeoPackage of two layers, whose class stands in these fields."""
    places = shapely.Point(326001.25, 2779998.25), shapely.Point(326002.25, 2779997.25)
    for layer, field, own, place in zip("ab", fields, values, places, strict=True):
        table = geopandas.GeoDataFrame({field: own}, geometry=[place], crs=UTM)
        table.to_file(path, layer=layer)


@pytest.mark.parametrize("second", ["class", "Class", "cover"])
def test_layers_that_call_the_field_otherwise_lose_no_label(second, tiles):
    write_layers(tiles / "p.gpkg", "class", second)
    if second == "cover":
        with pytest.raises(
            lc.InputError, match=r"its layer b has no field 'class' \(it has cover\); name both"
        ):
            read(tiles / "p.gpkg", tiles / "tiles", layer="all")
    else:
        points, gone = read(tiles / "p.gpkg", tiles / "tiles", layer="all")
        assert points == {"a": {(3, 2): 1, (5, 4): 0}} and not gone


def test_ids_that_count_from_1_or_stand_beside_names_are_told(tiles):
    """1 of low, middle, high may be meant as low."""

    def notes(*values):
        write_layers(tiles / "p.gpkg", "class", "class", values=values)
        how = labels.reading(layer="all")
        labels.read_labels(tiles / "p.gpkg", lc.list_images(tiles / "tiles"), KNOWN, how)
        (tiles / "p.gpkg").unlink()
        return "; ".join(how.notes)

    assert "begin with 1, but ids count from 0, which is low" in notes([1], [2])
    assert "like 2, others a name, like low: ids count from 0, which is low" in notes([2.0], ["Low"])
    assert not notes([0], [2]) and not notes(["low"], ["high"])


def test_a_name_that_is_a_number_is_taken_for_no_id(tiles):
    """2 is the third of the classes 1.1, 1.10, 2, whose ids do not count."""
    how, known = labels.reading(layer="all"), labels.known_classes(["1.1", "1.10", "2"])
    write_layers(tiles / "p.gpkg", "class", "class", values=(["1.1"], ["2"]))
    found, _ = labels.read_labels(tiles / "p.gpkg", lc.list_images(tiles / "tiles"), known, how)
    assert sorted(found["a"][:, 2].tolist()) == [0, 2] and not how.notes
    (tiles / "p.csv").write_text("image,x,y,class\na,1,1,0\n")
    with pytest.raises(lc.InputError, match=r"class '0' is not one of 1\.1, 1\.10, 2; "):
        labels.read_labels(tiles / "p.csv", lc.list_images(tiles / "tiles"), known, labels.reading())


@pytest.mark.parametrize(("nodata", "more"), [(None, 0), (255, 0), (None, 255), (0, 0), (None, 1)])
def test_a_background_of_0_that_nobody_declared_is_asked_about(nodata, more, tiles):
    """gdal_rasterize leaves 0 around what it draws; masks with 255, or with few of it, have a class 0."""
    ids = np.zeros((10, 20), np.uint8)
    ids[1:4, 1:4], ids[6:8, 3:9], ids[:, 10:] = 1, 2, more
    form = {"width": 20, "height": 10, "count": 1, "dtype": "uint8", "crs": UTM, "nodata": nodata}
    place = rasterio.transform.from_origin(326000.0, 2780000.0, 0.5, 0.5)
    with rasterio.open(tiles / "old.tif", "w", "GTiff", transform=place, **form) as dataset:
        dataset.write(ids, 1)
    how = labels.reading()
    labels.read_labels(tiles / "old.tif", lc.list_images(tiles / "tiles"), KNOWN, how)
    told = r"old\.tif: 9\d% of the pixels are 0, which is low; .* declare it: rio edit-info --nodata=0 \S+old"
    assert bool(re.search(told, "; ".join(how.notes))) == (nodata != 0 and not more)


def test_a_background_of_several_rasters_is_declared_in_each(tiles):
    form = {"width": 20, "height": 10, "count": 1, "dtype": "uint8", "crs": UTM}
    place = rasterio.transform.from_origin(326000.0, 2780000.0, 0.5, 0.5)
    (tiles / "old").mkdir()
    for row in range(2):
        ids = np.zeros((10, 20), np.uint8)
        ids[row] = row + 1
        with rasterio.open(tiles / f"old/{row}.tif", "w", "GTiff", transform=place, **form) as dataset:
            dataset.write(ids, 1)
    how = labels.reading()
    labels.read_labels(tiles / "old", lc.list_images(tiles / "tiles"), KNOWN, how)
    told = r"old: 90% of the pixels are 0, .* in each file, like: rio edit-info --nodata=0 \S+/1\.tif"
    assert re.search(told, "; ".join(how.notes))


def test_names_of_a_coded_domain_count(tiles):
    """ArcGIS and QGIS write the code of a value, and its name beside it."""
    import sqlite3

    write_layers(tiles / "p.gpkg", "class", "class", values=([0], [2]))
    with sqlite3.connect(tiles / "p.gpkg") as base:
        base.executescript("""
            CREATE TABLE gpkg_data_columns (table_name, column_name, description, constraint_name);
            CREATE TABLE gpkg_data_column_constraints (constraint_name, constraint_type, value, description);
            INSERT INTO gpkg_data_columns VALUES ('a', 'class', NULL, 'cover');
            INSERT INTO gpkg_data_column_constraints VALUES
                ('cover', 'enum', '0', 'High'), ('cover', 'enum', '1', 'middle');
        """)
    how = labels.reading(layer="a")
    points, _ = labels.read_labels(tiles / "p.gpkg", lc.list_images(tiles / "tiles"), KNOWN, how)
    assert points["a"].tolist() == [[3, 2, 2]] and "count by these names: 0 High" in how.notes[0]
    how = labels.reading(layer="b")
    points, _ = labels.read_labels(tiles / "p.gpkg", lc.list_images(tiles / "tiles"), KNOWN, how)
    assert points["a"].tolist() == [[5, 4, 2]] and not how.notes


@pytest.mark.parametrize(
    ("name", "driver"), [("l.dat", "ENVI"), ("l.rst", "RST"), ("l.sdat", "SAGA"), ("l.gpkg", "GPKG")]
)
def test_label_rasters_of_any_format_are_read(name, driver, tiles):
    from rasterio.shutil import copy

    write_tif(tiles / "given.tif", np.uint8([np.arange(20) // 7]).repeat(10, 0)[..., None], left=326000.0)
    copy(tiles / "given.tif", tiles / name, driver=driver)
    assert read(tiles / name, tiles / "tiles")[0] == read(tiles / "given.tif", tiles / "tiles")[0]


def test_files_whose_fields_differ_are_read_at_once(tiles):
    (tiles / "f").mkdir()
    for name, field, place in (("a", "class", 326001.25), ("b", "Cover", 326003.25)):
        geometry = [shapely.Point(place, 2779998.25)]
        table = geopandas.GeoDataFrame({field: ["middle"]}, geometry=geometry, crs=UTM)
        table.to_file(tiles / f"f/{name}.gpkg")
    with pytest.raises(lc.InputError, match=r"a\.gpkg: .* if files differ, several: Cover,class"):
        read(tiles / "f", tiles / "tiles", field="Cover")
    points, _ = read(tiles / "f", tiles / "tiles", field="Cover,class")
    assert points == {"a": {(3, 2): 1, (3, 6): 1}}


def test_a_table_without_a_head_names_one(tiles):
    (tiles / "p.txt").write_text("0 0.1 0.1 0.2 0.1 0.2 0.2\n1 0.5 0.5 0.6 0.5 0.6 0.6\n")
    with pytest.raises(lc.InputError, match=r"line 1: is no head .* of YOLO export COCO"):
        read(tiles / "p.txt", tiles / "tiles")


@pytest.mark.parametrize(("crs", "exact"), [("EPSG:4267", False), ("EPSG:4326", True)])
def test_labels_of_a_datum_whose_grid_is_missing_are_told(crs, exact, tmp_path):
    """Without it NAD27 lies tens of metres beside NAD83."""
    import pyproj

    (tmp_path / "tiles").mkdir()
    where = {"crs": "EPSG:26915", "left": 499_000.0, "top": 4_983_000.0, "size": 100.0}
    write_tif(tmp_path / "tiles/a.tif", np.zeros((40, 40, 3), np.uint8), **where)
    point = geopandas.GeoSeries([shapely.Point(500_000, 4_982_000)], crs="EPSG:26915").to_crs(crs)
    geopandas.GeoDataFrame({"class": ["low"]}, geometry=point).to_file(tmp_path / "p.gpkg")
    how = labels.reading()
    labels.read_labels(tmp_path / "p.gpkg", lc.list_images(tmp_path / "tiles"), KNOWN, how)
    told = [note for note in how.notes if "a grid is missing" in note]
    group = pyproj.transformer.TransformerGroup(crs, "EPSG:26915", always_xy=True)
    assert bool(told) == (not group.best_available and not exact)


def test_a_class_that_is_declared_to_be_no_data_is_told(tiles, capsys):
    """QGIS declares 0 by itself."""
    ids = np.uint8([np.arange(20) // 7]).repeat(10, 0)
    (tiles / "masks").mkdir()
    place = rasterio.transform.from_origin(326000.0, 2780000.0, 0.5, 0.5)
    form = {"width": 20, "height": 10, "count": 1, "dtype": "uint8", "crs": UTM, "nodata": 0}
    with rasterio.open(tiles / "masks/a.tif", "w", "GTiff", transform=place, **form) as dataset:
        dataset.write(ids, 1)
    told = "0 is a class, but declared to be no data: unlabelled; else rio edit-info --unset-nodata"
    how = labels.reading()
    labels.read_labels(tiles / "masks/a.tif", lc.list_images(tiles / "tiles"), KNOWN, how)
    assert told in how.notes[0]
    with pytest.warns(UserWarning, match=told):
        convert_masks.read_codes(tiles / "masks/a.tif", convert_masks.Palette(by_id={0: 0, 1: 1, 2: 2}))
    config = types.SimpleNamespace(labels={"a.tif": tiles / "masks/a.tif"}, class_names=NAMES)
    config.scenes = {"a.tif": tiles / "tiles/a.tif"}
    with pytest.warns(UserWarning, match=told), cut_tiles.open_labels("a.tif", config):
        pass


def test_a_program_without_a_flag_names_the_one_that_has_it(tiles):
    table = geopandas.GeoDataFrame(
        {"cover": ["low"]}, geometry=[shapely.Point(326001.25, 2779998.25)], crs=UTM
    )
    table.to_file(tiles / "p.gpkg")
    with pytest.raises(lc.InputError, match=r"--field: cover \(flags of python tools/labels\.py --labels "):
        read(tiles / "p.gpkg", tiles / "tiles")
    assert read(tiles / "p.gpkg", tiles / "tiles", field="cover")[0] == {"a": {(3, 2): 0}}


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8"])
def test_umlauts_of_a_shapefile_without_its_cpg_are_read(encoding, tiles):
    names = ["Gewässer", "Straße"]
    places = [shapely.Point(326001.25, 2779998.25), shapely.Point(326002.25, 2779997.25)]
    geopandas.GeoDataFrame({"class": names}, geometry=places, crs=UTM).to_file(
        tiles / "p.shp", encoding=encoding
    )
    (tiles / "p.cpg").unlink()
    points, _ = labels.read_points(tiles / "p.shp", lc.list_images(tiles / "tiles"), names)
    assert points == {"a": {(3, 2): 0, (5, 4): 1}}


@pytest.mark.parametrize("level", [0, 1])
def test_what_is_left_out_hides_what_lies_below_it(level, picture):
    """A cloud on a field is no field."""
    field = '<polygon label="low" z_order="0" points="0,0;10,0;10,10;0,10"/>'
    cloud = f'<polygon label="cloud" z_order="{level}" points="2,2;5,2;5,5;2,5"/>'
    (picture / "c.xml").write_text(cvat(field + cloud)[1])
    (picture / "t.csv").write_text("from,to\ncloud,\n")
    known, how = labels.known_classes(NAMES, picture / "t.csv"), labels.reading(classes=picture / "t.csv")
    found, gone = labels.read_labels(picture / "c.xml", lc.list_images(picture / "tiles"), known, how)
    assert len(found["a"]) == 91 and set(found["a"][:, 2].tolist()) == {0}
    assert not ({(row, column) for row, column, _ in found["a"].tolist()} & {(3, 3), (2, 2), (4, 4)})
    assert gone["polygons of classes that --classes leaves out"] == 1
