"""Labels of the field: vector points fall on the pixels that hold them, and become a CSV for training."""

import csv
import re
import sys

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_annotations import NAMES, UTM, write_csv, write_tif

import landcover_segmentation as lc

sys.path.insert(0, str(ROOT / "tools"))
import labels as label_tool

rasterio = pytest.importorskip("rasterio")
geopandas = pytest.importorskip("geopandas")
shapely = pytest.importorskip("shapely")

from rasterio.features import rasterize
from rasterio.transform import Affine, from_origin


def write_vector(path, places, labels, crs=UTM, kind=shapely.Point, name="class", **more):
    """A file of geometries, kind(place) for each place."""
    geometry = [kind(place) for place in places]
    geopandas.GeoDataFrame({name: labels}, geometry=geometry, crs=crs).to_file(path, engine="pyogrio", **more)


@pytest.fixture
def tiles(tmp_path):
    """Two GeoTIFFs beside each other, 40x30 pixels of half a metre."""
    folder = tmp_path / "tiles"
    folder.mkdir()
    for name, left in (("west", 326000.0), ("east", 326020.0)):
        write_tif(folder / f"{name}.tif", np.zeros((30, 40, 3), np.uint8), left=left)
    return folder


PLACES = [(326000.1, 2779999.9), (326019.99, 2779985.01), (326020.0, 2779990.2), (326050.0, 2779990.0)]
EXPECTED = {"west": {(0, 0): 0, (29, 39): 2}, "east": {(19, 0): 1}}


@pytest.mark.parametrize(
    "kind", [shapely.Point, lambda place: shapely.MultiPoint([place])], ids=["point", "multipoint"]
)
@pytest.mark.parametrize(
    ("crs", "suffix"),
    [(UTM, "gpkg"), ("EPSG:4326", "gpkg"), ("EPSG:3857", "gpkg"), (UTM, "geojson"), ("EPSG:4326", "geojson")],
)
def test_vector_points_fall_on_the_pixel_that_holds_them(crs, suffix, kind, tiles, tmp_path):
    """In any reference system; a border belongs to one tile; the fourth point is on none."""
    from rasterio.warp import transform

    places = np.array(PLACES)
    places[2, 0] += 0.01 if crs != UTM else 0  # a border survives no rounding
    places = np.array(transform(UTM, crs, *places.T)).T
    write_vector(tmp_path / f"points.{suffix}", places, ["low", "2", "Middle", "low"], crs, kind)
    points, passed_over = label_tool.read_points(tmp_path / f"points.{suffix}", lc.list_images(tiles), NAMES)
    assert points == EXPECTED and passed_over == {"points outside of all images": 1}


def test_a_point_on_the_other_side_of_the_earth_is_one_outside_of_the_tiles(tiles, tmp_path):
    """The tiles' reference system has no coordinates for it."""
    from rasterio.warp import transform

    places = [*np.array(transform(UTM, "EPSG:4326", *np.array(PLACES[:2]).T)).T, (-123.0, 0.0)]
    write_vector(tmp_path / "points.gpkg", places, ["low", "2", "low"], "EPSG:4326")
    points, passed_over = label_tool.read_points(tmp_path / "points.gpkg", lc.list_images(tiles), NAMES)
    assert points == {"west": EXPECTED["west"]} and passed_over == {"points outside of all images": 1}


def test_a_folder_may_hold_geodatabases_and_its_folders_are_counted(tiles, tmp_path):
    folder = tmp_path / "field"
    (folder / "older").mkdir(parents=True)
    write_vector(folder / "west.gpkg", PLACES[:2], ["low", "2"])
    geometry = [shapely.Point(PLACES[2])]
    geodatabase = geopandas.GeoDataFrame({"class": ["Middle"]}, geometry=geometry, crs=UTM)
    geodatabase.to_file(folder / "east.gdb", driver="OpenFileGDB", engine="pyogrio")
    points, passed_over = label_tool.read_points(folder, lc.list_images(tiles), NAMES)
    assert points == EXPECTED and passed_over == {"folders in the folder, whose files are not looked for": 1}
    (folder / "west.gpkg").unlink()
    points, _ = label_tool.read_points(folder, lc.list_images(tiles), NAMES)
    assert points == {"east": EXPECTED["east"]}


def test_what_describes_the_files_of_a_folder_is_passed_over(tiles, tmp_path):
    """ArcGIS writes NAME.shp.xml, a person a readme.txt. A text that is all there is is read."""
    folder, images = tmp_path / "field", lc.list_images(tiles)
    folder.mkdir()
    (folder / "readme.txt").write_text("Points of the campaign of 2023, see the report\n")
    with pytest.raises(lc.InputError, match=r"readme\.txt: has no field 'class'"):
        label_tool.read_points(folder, images, NAMES)
    write_vector(folder / "west.shp", PLACES[:2], ["low", "2"])
    (folder / "west.shp.xml").write_text('<metadata xml:lang="en"><Esri/></metadata>')
    points, gone = label_tool.read_points(folder, images, NAMES)
    assert points == {"west": EXPECTED["west"]} and gone == {"files of other kinds": 1}
    (folder / "west.txt").write_text("east.tif 0 19 Middle\n")
    assert label_tool.read_points(folder, images, NAMES) == (points, {"files of other kinds": 2})
    (folder / "west.txt").unlink()
    (folder / "east.txt").write_text("image;x;y;class\neast.tif;0;19;Middle\n")
    assert label_tool.read_points(folder, images, NAMES) == (EXPECTED, gone)
    (folder / "east.txt").write_text("image;x;y;class\neast.tif;0;19\n")
    with pytest.raises(lc.InputError, match=r"east\.txt, line 2: has not 4 fields"):
        label_tool.read_points(folder, images, NAMES)


def test_a_table_may_translate_to_ids_but_not_where_names_are_numbers(tmp_path):
    table = tmp_path / "classes.csv"
    table.write_text("from,to\nlake,0\nwood,middle\n")
    assert label_tool.known_classes(["low", "middle"], table) == {"low": 0, "middle": 1, "lake": 0, "wood": 1}
    with pytest.raises(lc.InputError, match="'0' is none of 10, 20"):
        label_tool.known_classes(["10", "20"], table)


def test_ids_of_vector_points_may_have_gaps(tiles, tmp_path):
    """QGIS writes NULL where the class is not filled in yet, and whole numbers beside it become 2.0."""
    write_vector(tmp_path / "points.gpkg", PLACES[:3], np.array([0, 2, np.nan]), name="Class")
    points, passed_over = label_tool.read_points(tmp_path / "points.gpkg", lc.list_images(tiles), NAMES)
    assert points == {"west": EXPECTED["west"]} and passed_over == {"points without a class": 1}


def test_a_multipoint_gives_its_class_to_all_its_points(tiles, tmp_path):
    write_vector(tmp_path / "points.gpkg", [PLACES[:3]], ["low"], kind=shapely.MultiPoint)
    points, _ = label_tool.read_points(tmp_path / "points.gpkg", lc.list_images(tiles), NAMES)
    assert points == {name: dict.fromkeys(at, 0) for name, at in EXPECTED.items()}


def no_crs(tiles, path):
    write_vector(path, PLACES, ["low"] * 4, crs=None)


def bare_tile(tiles, path):
    write_vector(path, PLACES, ["low"] * 4)
    write_tif(tiles / "bare.tif", np.zeros((30, 40, 3), np.uint8), crs=None)


def png_tile(tiles, path):
    write_vector(path, PLACES, ["low"] * 4)
    Image.new("RGB", (40, 30)).save(tiles / "plain.png")


def two_layers(tiles, path):
    for layer in ("spring", "summer"):
        write_vector(path, PLACES, ["low"] * 4, layer=layer)


BAD_VECTORS = {
    "wrong CRS": (
        lambda tiles, path: write_vector(path, PLACES, ["low"] * 4, "EPSG:4326"),
        "points.gpkg: holds no label .* on an image if they are in EPSG:32640; give --crs EPSG:32640",
    ),
    "no CRS": (no_crs, "points.gpkg: names no reference system"),
    "tile without georeference": (
        bare_tile,
        "bare.tif: has no georeference, which labels in .*points.gpkg need",
    ),
    "PNG tile": (png_tile, "plain.png: has no georeference"),
    "two layers": (two_layers, r"points.gpkg: holds 2 layers \(spring, summer\)"),
    "other field": (
        lambda tiles, path: write_vector(path, PLACES, ["low"] * 4, name="cover"),
        "points.gpkg: has no field 'class'; name one with --field: cover",
    ),
    "unknown class": (
        lambda tiles, path: write_vector(path, PLACES, ["low", "low", "lake", "low"]),
        "points.gpkg, feature 3: class 'lake' is neither 0 to 2 nor one of low, middle, high; .* --classes",
    ),
    "elsewhere": (
        lambda tiles, path: write_vector(path, [(0, 0)], ["low"]),
        "points.gpkg: holds no label with a class on an image; points outside of all images .1.",
    ),
    "two classes": (
        lambda tiles, path: write_vector(path, [PLACES[0], (326000.4, 2779999.6)], ["low", "high"]),
        "points.gpkg, feature 2: pixel 0,0 of west.tif has another class in .*feature 1",
    ),
    "no features": (lambda tiles, path: write_vector(path, [], []), "points.gpkg: holds no label"),
    "text": (lambda tiles, path: path.write_text("text"), "points.gpkg: cannot be read"),
    "missing": (lambda tiles, path: None, "points.gpkg: cannot be read"),
}


@pytest.mark.parametrize("case", BAD_VECTORS)
def test_bad_vector_points_are_named(case, tiles, tmp_path, recwarn):
    damage, wanted = BAD_VECTORS[case]
    damage(tiles, tmp_path / "points.gpkg")
    with pytest.raises(lc.InputError, match=wanted) as caught:
        label_tool.read_points(tmp_path / "points.gpkg", lc.list_images(tiles), NAMES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("package", ["geopandas", "rasterio"])
def test_a_missing_package_is_one_line(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(lc.InputError, match="pip install geopandas rasterio"):
        (tmp_path / "points.gpkg").touch()
        label_tool.read_points(tmp_path / "points.gpkg", {}, NAMES)


# =====================================================================================================
# labels.py
# =====================================================================================================


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def run(source, images, output, *more):
    given = ["--labels", source, "--images", images, "--output", output, *more]
    return label_tool.main([str(part) for part in given])


def complaint_of(capsys, *given):
    """What the program says of a mistake, which it does in one line."""
    assert run(*given) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1 and said.err.startswith("error: ")
    return said.err


def georeference(data):
    """The tiles of both splits as GeoTIFFs in a row, and all their points in one GeoPackage."""
    places, labels = [], []
    for number, path in enumerate(sorted(data.glob("*/images/*.png"))):
        mask, left = lc.read_mask(path.parents[1] / "masks" / path.name), 326000.0 + 100 * number
        write_tif(path.with_suffix(".tif"), lc.read_image(path), left=left)
        path.unlink()
        rng = np.random.default_rng(number)
        for y, x in np.argwhere(lc.sample_random_points(mask, 20, rng) != 255).tolist():
            places.append((left + 0.5 * (x + 0.5), 2780000.0 - 0.5 * (y + 0.5)))
            labels.append(NAMES[mask[y, x]])
    write_vector(data / "points.gpkg", places, labels)


def test_vector_points_become_a_csv_that_a_person_can_open(tiles, tmp_path, capsys):
    labels = ["low", "2", "Middle", "low"]
    write_vector(tmp_path / "points.gpkg", PLACES, labels)
    Image.new("RGB", (9, 9)).save(tmp_path / "other.png")
    output = tmp_path / "made/points.csv"
    assert run(tmp_path / "points.gpkg", tiles, output, "--class-names", "low,middle,high") == 0
    head, *rows = rows_of(output)
    assert head == ["image", "x", "y", "class"]
    wanted = [
        ["west.tif", "0", "0", "low"],
        ["west.tif", "39", "29", "high"],
        ["east.tif", "0", "19", "middle"],
    ]
    assert sorted(rows) == sorted(wanted)
    points, passed_over = lc.read_points(output, lc.list_images(tiles), NAMES)
    assert points == EXPECTED and not passed_over
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][-5:] == ["3", "points", "in", "2", "images"]
    assert lines[1:4] == [["low", "1"], ["middle", "1"], ["high", "1"]]
    assert " ".join(lines[4]) == "of each image: east 1, west 2"
    assert " ".join(lines[5]) == "passed over: points outside of all images (1)"
    assert " ".join(lines[6]).startswith("note: some labels give an id, like 2, others a name, like low")
    assert len(lines) == 7


def test_one_geopackage_gives_train_and_val_what_their_masks_say(data, capsys):
    georeference(data)
    for side, number, others in (("train", 100, 40), ("val", 40, 100)):
        output = data / f"{side}.csv"
        assert (
            run(data / "points.gpkg", data / side / "images", output, "--class-names", ",".join(NAMES)) == 0
        )
        said = capsys.readouterr().out
        assert f"{number} points in" in said
        assert f"passed over: points outside of all images ({others})" in said
        dataset = lc.LandCoverDataset(data / side / "images", output, class_names=NAMES)
        assert len(dataset) == number // 20
        for index, (image, _) in enumerate(dataset.tiles):
            _, points, _ = dataset.read(index)
            mask = lc.read_mask(data / side / "masks" / f"{image.stem}.png")
            labelled = points != 255
            assert labelled.sum() == 20 and (points == mask)[labelled].all()


def test_a_csv_is_put_in_order(data, capsys):
    """Ids become names, an open question and an image without a point are counted, and no label moves."""
    write_csv(data / "mixed.csv", data / "train/masks")
    lines = (data / "mixed.csv").read_text().splitlines()
    kept = [line for line in lines if not line.startswith("tile_4")]
    (data / "mixed.csv").write_text("\n".join([*kept, "tile_0,1,1,"]) + "\n")
    images = data / "train/images"
    assert run(data / "mixed.csv", images, data / "points.csv", "--class-names", ",".join(NAMES)) == 0
    said = capsys.readouterr().out
    assert "passed over: points without a class (1)" in said
    assert "passed over: images without a label (1)" in said
    assert {row[3] for row in rows_of(data / "points.csv")[1:]} <= set(NAMES)
    both = [
        lc.read_points(data / name, lc.list_images(images), NAMES)[0] for name in ("mixed.csv", "points.csv")
    ]
    assert both[0] == both[1] and sum(map(len, both[0].values())) == 80


def test_labels_that_are_there_are_not_overwritten(data, capsys):
    write_csv(data / "mine.csv", data / "train/masks")
    before, images = (data / "mine.csv").read_bytes(), data / "train/images"
    for source in ("mine.csv", "other.csv"):
        (data / "other.csv").write_text("image,x,y,class\ntile_0,1,1,low\n")
        given = data / source, images, data / "mine.csv", "--class-names", ",".join(NAMES)
        assert "mine.csv: holds labels, which would be lost" in complaint_of(capsys, *given)
        assert (data / "mine.csv").read_bytes() == before
    (data / "open.csv").write_text("image,x,y,class\ntile_0,1,1,\n")
    given = data / "other.csv", images, data / "open.csv", "--class-names", ",".join(NAMES)
    assert run(*given) == 0, "open questions alone are no loss"


def test_photos_with_places_on_the_ground_name_the_flag_that_reads_them(tiles, tmp_path):
    (tmp_path / "p.csv").write_text("image,x,y,class\nIMG_1.jpg,326000.1,2779999.9,low\n")
    with pytest.raises(lc.InputError, match=r"IMG_1\.jpg; x and y lie on the ground\? then give --crs"):
        label_tool.read_points(tmp_path / "p.csv", lc.list_images(tiles), NAMES)
    points, _ = label_tool.read_points(tmp_path / "p.csv", lc.list_images(tiles), NAMES, crs=UTM)
    assert points == {"west": {(0, 0): 0}}


def test_mistakes_are_one_line(data, tmp_path, capsys):
    images = data / "train/images"
    (data / "points.csv").write_text("image,x,y,class\ntile_0,1,1,lake\n")
    for wanted, *arguments in (
        ("line 2: class 'lake'", data / "points.csv", images, data / "out.csv"),
        ("points.txt: cannot be read", data / "points.txt", images, data / "out.csv"),
        ("out.txt: must be a file NAME.csv", data / "points.csv", images, data / "out.txt"),
        ("holds no image", data / "points.csv", data / "train/masks/..", data / "out.csv"),
        ("give 1 to 254 names", data / "points.csv", images, data / "out.csv", "--class-names", "a,a"),
        ("cannot be read", data / "none.csv", images, data / "out.csv"),
    ):
        assert wanted in complaint_of(capsys, *arguments)
        assert not (data / "out.csv").exists()


def test_images_of_one_name_in_two_folders_are_told(data, capsys):
    rows = ["site1/tile_0.png,1,1,low", "site1/tile_0.png,2,2,low", "site2/tile_0.png,3,3,middle"]
    (data / "two.csv").write_text("\n".join(["image,x,y,class", *rows]) + "\n")
    given = data / "two.csv", data / "train/images", data / "out.csv", "--class-names", ",".join(NAMES)
    assert run(*given) == 0
    told = capsys.readouterr().err
    assert told.count("warning") == 1 and "labels of tile_0.png in site1 and in site2" in told


# =====================================================================================================
# Made-up files: the right labels, as an independent reading has them, or one line
# =====================================================================================================

MADE_UP = {"derandomize": True, "deadline": None, "suppress_health_check": list(HealthCheck)}
WORDS = {"low": 0, " Middle": 1, "HIGH ": 2, "2": 2, "1.0": 1, "": None, "NULL": None}
NEAR = st.tuples(st.floats(325998, 326022), st.floats(2779983, 2780002))
FORM = {"height": 30, "width": 40, "count": 1, "crs": UTM}
GRID = from_origin(326000, 2780000, 0.5, 0.5)
SHAPES = (
    NEAR.map(shapely.Point)
    | st.lists(NEAR, min_size=1, max_size=4).map(shapely.MultiPoint)
    | st.lists(NEAR, min_size=3, max_size=7).map(shapely.Polygon).filter(lambda polygon: polygon.area > 0.01)
    | st.tuples(NEAR, st.floats(0.3, 6)).map(lambda one: shapely.Point(one[0]).buffer(one[1]))
    | st.tuples(NEAR, NEAR).map(lambda two: shapely.union_all([shapely.Point(at).buffer(2) for at in two]))
    | st.tuples(NEAR, st.floats(1, 6)).map(
        lambda one: shapely.Point(one[0]).buffer(one[1]).boundary.buffer(0.4)
    )
)
NOTHING = st.sampled_from([None, shapely.Point(), shapely.Polygon(), shapely.GeometryCollection()])


def read_or_line(path, images, **options):
    """The labels of the west tile and what is passed over; None if there are none, for a reason it tells."""
    try:
        points, gone = label_tool.read_points(path, images, NAMES, **options)
    except lc.InputError as error:
        assert str(path) in str(error)
        return None, {}
    return points.get("west", {}), gone


@settings(max_examples=15, **MADE_UP)
@given(
    shape=SHAPES,
    word=st.sampled_from(sorted(WORDS)),
    empty=st.lists(NOTHING, max_size=2),
    suffix=st.sampled_from(["gpkg", "geojson"]),
    crs=st.sampled_from([UTM, "EPSG:32639"]),
)
def test_made_up_features(shape, word, empty, suffix, crs, tiles, tmp_path):
    """Beside features without a geometry; GDAL fills polygons, up to centres that lie on an outline."""
    path = tmp_path / f"made.{suffix}"
    path.unlink(missing_ok=True)
    table = geopandas.GeoDataFrame({"class": [word] * (1 + len(empty))}, geometry=[shape, *empty], crs=UTM)
    table.to_crs(crs).to_file(path)
    points, gone = read_or_line(path, {"west": tiles / "west.tif"})
    if shape.area:
        wanted = rasterize([shape], (30, 40), transform=GRID) > 0
    else:
        wanted = np.zeros((30, 40), bool)
        for column, row in (~GRID * (part.x, part.y) for part in shapely.get_parts(shape)):
            if 0 <= row < 30 and 0 <= column < 40:
                wanted[int(row), int(column)] = True
    if points is None:
        assert WORDS[word] is None or not wanted.any()
        return
    assert gone["features without a geometry"] == len(empty) and set(points.values()) == {WORDS[word]}
    found = np.zeros_like(wanted)
    found[tuple(np.array(list(points)).T)] = True
    y, x = np.nonzero(found != wanted)
    centres = shapely.points(*(GRID * (x + 0.5, y + 0.5)))
    assert (shapely.distance(shape.boundary if shape.area else shape, centres) < 0.51).all()
    assert len(y) <= (0.05 if crs == UTM else 0.3) * wanted.sum() + 2


@settings(max_examples=40, **MADE_UP)
@given(
    rows=st.dictionaries(
        st.tuples(st.integers(0, 39), st.integers(0, 29)), st.sampled_from(sorted(WORDS)), min_size=2
    ),
    order=st.permutations(["image", "x", "y", "class", "note"]),
    mark=st.sampled_from([",", ";", "\t"]),
    comma=st.booleans(),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    damage=st.sampled_from([None, "", "x", "nan", "-1", "1e999", "é", "0,0", '"', "\0", "99"]),
    where=st.integers(0, 99),
)
def test_made_up_tables(rows, order, mark, comma, encoding, damage, where, tiles, tmp_path):
    """In every spelling the same points; of a damaged row nothing, one line, or what it says."""
    fields = {"image": "west.tif", "note": "a b"}
    lines = [
        [{"x": f"{x}.25", "y": f"{y}.75", "class": word, **fields}[name] for name in order]
        for (x, y), word in rows.items()
    ]
    if damage is not None:
        lines[where % len(lines)][order.index(("image", "x", "y", "class")[where % 4])] = damage
    text = "\n".join(mark.join(cells) for cells in [order, *lines])
    if comma and mark == ";":
        text = re.sub(r"(\d)\.(\d\d)\b", r"\1,\2", text)
    (tmp_path / "made.csv").write_bytes(text.encode(encoding))
    points, gone = read_or_line(tmp_path / "made.csv", {"west": tiles / "west.tif"})
    wanted = {(y, x): WORDS[word] for (x, y), word in rows.items() if WORDS[word] is not None}
    if points is None:
        assert damage is not None or not wanted
        return
    missing, strange = wanted.items() - points.items(), points.items() - wanted.items()
    assert max(len(missing), len(strange)) <= (damage is not None)
    assert damage is not None or gone.get("points without a class", 0) == len(rows) - len(wanted)


@settings(max_examples=40, **MADE_UP)
@given(
    ids=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    kind=st.sampled_from(["uint8", "int8", "uint16", "int32", "int64", "float32", "float64"]),
    nodata=st.sampled_from([None, 3, 100, "nan", "undeclared 3"]),
    masked=st.booleans(),
    shift=st.tuples(st.integers(-9, 9), st.integers(-9, 9)),
    fraction=st.sampled_from([0, 0, 0.05, 0.5]),
    cut=st.sampled_from([None, None, None, 0.3, 0.9]),
)
def test_made_up_rasters(ids, kind, nodata, masked, shift, fraction, cut, tiles, tmp_path):
    """Of any type, on the image's grid or near it, with what is empty in a value, a mask or both."""
    values = np.repeat(np.repeat(np.array(ids, kind).reshape(2, 2), 15, 0), 20, 1)
    empty = np.zeros((30, 40), bool)
    if masked:
        empty[:7] = True
    declared = np.nan if nodata == "nan" and kind.startswith("f") else nodata if nodata in (3, 100) else None
    hidden = empty | (values == 3 if declared == 3 and not masked else False)
    form = FORM | {"dtype": kind, "nodata": declared}
    form["transform"] = GRID * Affine.translation(shift[0] + fraction, shift[1])
    path = tmp_path / "made.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", "GTiff", **form) as dataset:
        dataset.write(values, 1)
        if masked:
            dataset.write_mask(np.uint8(~empty) * 255)
    if cut:
        path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
    points, _ = read_or_line(path, {"west": tiles / "west.tif"})
    y, x = np.nonzero(~hidden)
    inside = (x + shift[0] >= 0) & (x + shift[0] < 40) & (y + shift[1] >= 0) & (y + shift[1] < 30)
    wanted = {
        (row + shift[1], column + shift[0]): int(values[row, column])
        for row, column in zip(y[inside].tolist(), x[inside].tolist(), strict=True)
    }
    if points is None:
        assert cut or fraction == 0.5 or 3 in wanted.values() or not wanted
    else:
        assert points == wanted


def test_null_cells_of_a_grass_grid_are_no_class(tmp_path):
    pytest.importorskip("rasterio")
    (tmp_path / "tiles").mkdir()
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / "tiles/a.png")
    head = "north: 2\nsouth: 0\neast: 3\nwest: 0\nrows: 2\ncols: 3\n"
    (tmp_path / "a.asc").write_text(head + "1 * 2\n0 2 2\n")
    with pytest.raises(lc.InputError, match=r"null cells \(\*\) would be read as 0"):
        label_tool.read_points(tmp_path / "a.asc", lc.list_images(tmp_path / "tiles"), ["a", "b", "c"])
