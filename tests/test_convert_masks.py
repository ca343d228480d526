"""Masks in colours or with odd ids become class ids: nothing is guessed, what is lost is said."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import PYTHON, ROOT
from PIL import Image

import landcover_segmentation as lc

sys.path.insert(0, str(ROOT / "tools"))
import convert_masks as cm


@pytest.fixture
def run(tmp_path, capsys):
    """Converts pictures given by file name; returns the masks written by name, and what was printed."""

    def convert(pictures, *flags, code=0):
        (tmp_path / "in").mkdir(exist_ok=True)
        for name, picture in pictures.items():
            picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
            picture.save(tmp_path / "in" / name)
        given = ["--input", tmp_path / "in", "--output", tmp_path / "out", *flags]
        assert cm.main(list(map(str, given))) == code
        printed = capsys.readouterr()
        if code:
            assert printed.err.splitlines()[-1].startswith("error: ") and printed.err.count("error: ") == 1
            return printed.err
        return {path.name: lc.read_mask(path) for path in sorted((tmp_path / "out").iterdir())}, printed.out

    return convert


def draw(palette: cm.Palette, seed=0):
    """Random class ids with unlabelled pixels, and the picture of them in the palette's colours."""
    nothing = [code for code, class_id in palette.by_color.items() if class_id == 255]
    ids = (
        np.random.default_rng(seed)
        .integers(0, len(palette.colors) + bool(nothing), (20, 30))
        .astype(np.uint8)
    )
    colors = [int(color[1:], 16) for color in palette.colors] + nothing[:1]
    codes = np.array(colors)[ids]
    ids[ids == len(palette.colors)] = 255
    return ids, np.stack([codes >> 16, codes >> 8 & 255, codes & 255], 2).astype(np.uint8)


def test_rgb_mask_to_class_ids():
    palette = [(0, 0, 255), (34, 97, 38)]
    mask = np.array([[palette[1], palette[0], (1, 2, 3)]], np.uint8)
    assert cm.rgb_mask_to_class_ids(mask, palette).tolist() == [[1, 0, 255]]
    with pytest.raises(lc.InputError):
        cm.rgb_mask_to_class_ids(mask[..., 0], palette)


@pytest.mark.parametrize("name", cm.PALETTES)
def test_colours_of_every_palette_come_back_from_their_ids(name, run):
    palette = cm.read_palette(name)
    ids, picture = draw(palette)
    masks, printed = run({"a.png": picture}, "--palette", name)
    assert (masks["a.png"] == ids).all() and "not in the palette" not in printed
    labelled = ids != 255
    assert (
        lc.colorize(ids, lc.class_palette(palette.colors, len(palette.names)))[labelled] == picture[labelled]
    ).all()
    rgb = [tuple(int(color[i : i + 2], 16) for i in (1, 3, 5)) for color in palette.colors]
    assert (cm.rgb_mask_to_class_ids(picture, rgb) == ids).all()


@pytest.mark.parametrize(
    "name, first, classes", [("loveda", 1, 7), ("openearthmap", 1, 8), ("landcover.ai", 0, 5)]
)
def test_published_ids_become_class_ids(name, first, classes, run):
    ids = np.arange(first + classes, dtype=np.uint8)[None].repeat(3, 0)
    expected = np.where(ids < first, 255, ids - first)
    masks, printed = run({"one.png": ids, "three.png": np.stack([ids] * 3, 2)}, "--palette", name)
    assert (masks["one.png"] == expected).all(), "one channel"
    assert (masks["three.png"] == expected).all(), "three equal channels, as some programs save it"
    assert f"NUM_CLASSES: int = {classes}\n" in printed and "not in the palette" not in printed


def test_printed_constants_are_those_of_the_module_and_shares_add_up(run):
    picture = np.zeros((1, 4, 3), np.uint8)
    picture[0, :3] = (0, 255, 255)
    _, printed = run({"a.png": picture}, "--palette", "deepglobe")
    constants = {}
    exec(printed[printed.index("NUM_CLASSES") :], constants)
    assert constants["NUM_CLASSES"] == len(constants["CLASS_NAMES"]) == len(constants["CLASS_COLORS"]) == 6
    assert constants["CLASS_NAMES"][0] == "urban land" and constants["CLASS_COLORS"][0] == "#00ffff"
    shares = {
        line.rsplit(maxsplit=1)[0].strip(): line.split()[-1] for line in printed.splitlines() if "%" in line
    }
    assert (
        shares["urban land"] == "75.00%" and shares["unlabelled"] == "25.00%" and shares["water"] == "0.00%"
    )


def test_unknown_colours_become_255_and_are_named_with_their_number(run):
    picture = np.full((4, 4, 3), (0, 0, 255), np.uint8)
    picture[0, :3], picture[1, 0] = (1, 2, 3), (9, 9, 9)
    masks, printed = run({"a.png": picture, "b.png": picture}, "--palette", "dubai", "--tolerance", "3")
    assert (masks["a.png"] == 255).all() and "#010203 (6)" in printed and "#090909 (2)" in printed
    masks, printed = run({"a.png": picture, "b.png": picture}, "--palette", "deepglobe")
    assert "not in the palette, and 255 now: 8 pixels, " in printed and (masks["b.png"] == 4).sum() == 12


def test_tolerance_takes_the_nearest_colour_and_no_further_one(run):
    picture = np.array([[(0, 250, 250), (0, 255, 240), (120, 255, 255), (0, 10, 0), (0, 240, 240)]], np.uint8)
    masks, printed = run({"a.png": picture}, "--palette", "deepglobe", "--tolerance", "15")
    assert masks["a.png"].tolist() == [[0, 0, 255, 255, 255]], "(0, 10, 0) is near black, which is unlabelled"
    assert (
        "3 pixels took the nearest colour" in printed
        and "#78ffff (1)" in printed
        and "#00f0f0 (1: urban land with --tolerance 22)" in printed
    )
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3)).astype(np.uint8)
    noise[noise[..., 1:].max(2) < 128] = 0  # red is the one corner of the cube that is no class
    masks, printed = run({"a.png": noise}, "--palette", "deepglobe", "--tolerance", "221")
    exact, _ = run({"a.png": np.where(noise < 128, 0, 255).astype(np.uint8)}, "--palette", "deepglobe")
    assert (masks["a.png"] == exact["a.png"]).all(), "which is to binarise at 128, as its publisher says"


def test_jpeg_masks_are_mended(run, tmp_path):
    ids = np.repeat(np.repeat(np.array([[0, 1], [4, 3]], np.uint8), 32, 0), 32, 1)
    picture = np.array([[0, 255, 255], [255, 255, 0], [255, 0, 255], [0, 255, 0], [0, 0, 255]], np.uint8)[ids]
    masks, printed = run({"a.jpg": picture}, "--palette", "deepglobe", "--tolerance", "221")
    assert (masks["a.png"] == ids).mean() > 0.95 and "not in the palette" not in printed


def test_own_colours_ids_and_files_describe_a_palette(run, tmp_path):
    ids = np.array([[0, 1, 2, 5, 255, 7]], np.uint8)
    merged = ("--ids", "1,2,5", "--names", "town,town,water", "--unlabelled", "0,255")
    masks, printed = run({"a.png": ids}, *merged)
    assert masks["a.png"].tolist() == [[255, 0, 0, 1, 255, 255]] and "255 now: 1 pixel, 7 (1)" in printed
    assert (
        'CLASS_NAMES: list[str] | None = ["town", "water"]' in printed
        and "CLASS_COLORS: list[str] | None = None" in printed
    )
    (tmp_path / "palette.csv").write_text(
        "name,color,id\ntown,#FF0000,1\ntown,,2\nwater,#0000ff,5\n,,0\n", "utf-8-sig"
    )
    masks, _ = run({"a.png": ids}, "--palette", tmp_path / "palette.csv")
    assert masks["a.png"].tolist() == [[255, 0, 0, 1, 255, 255]]
    red = np.array([[(255, 0, 0), (0, 0, 255), (0, 0, 0)]], np.uint8)
    masks, _ = run({"a.png": red}, "--colors", "#0000ff,#FF0000", "--unlabelled", "#000000")
    assert masks["a.png"].tolist() == [[1, 0, 255]]


def palette_csv(tmp_path, *rows):
    (tmp_path / "own.csv").write_text("\n".join(["name,color,id", *rows]))
    return "--palette", tmp_path / "own.csv"


def test_a_palette_keeps_its_ids_where_they_are_class_ids(run, tmp_path):
    ids = np.array([[0, 1, 2, 7]], np.uint8)
    rows = "forest,#00ff00,2", "water,#0000ff,0", ",,7", "town,#ff0000,1"
    masks, printed = run({"a.png": ids}, *palette_csv(tmp_path, *rows))
    assert masks["a.png"].tolist() == [[0, 1, 2, 255]] and "changed" not in printed
    assert '["water", "town", "forest"]' in printed and '["#0000ff", "#ff0000", "#00ff00"]' in printed
    masks, printed = run({"a.png": ids + 1}, *palette_csv(tmp_path, "forest,,3", "water,,1", "town,,2"))
    assert masks["a.png"].tolist() == [[1, 2, 0, 255]]
    assert "ids that changed: 3 is 0, 1 is 1" not in printed and "ids that changed: 3 is 0" in printed


def test_a_palette_of_the_modules_classes_has_their_order(run, tmp_path, monkeypatch):
    monkeypatch.setattr(lc, "CLASS_NAMES", ["Water", "forest", "town"])
    colors = np.array([[(0, 255, 0), (0, 0, 255), (255, 0, 0)]], np.uint8)
    rows = "forest,#00ff00,", "water,#0000ff,", "town,#ff0000,"
    masks, _ = run({"a.png": colors}, *palette_csv(tmp_path, *rows))
    assert masks["a.png"].tolist() == [[1, 0, 2]]
    masks, _ = run({"a.png": colors[:, ::2]}, *palette_csv(tmp_path, *rows[::2]))
    assert masks["a.png"].tolist() == [[0, 1]], "of a class too few they are as they appear"


def test_without_a_palette_the_one_that_fits_is_named(run):
    _, picture = draw(cm.read_palette("isprs"))
    printed = run({"a.png": picture}, code=2)
    assert "the masks hold #000000, #0000ff, " in printed and "those of --palette isprs" in printed
    assert "hold 0, 3" in run({"a.png": np.array([[3, 0]], np.uint8)}, code=2)
    dubai = np.full((2, 2, 3), (60, 16, 152), np.uint8)
    assert "all of them are in --palette dubai" in run({"a.png": dubai}, "--palette", "isprs")[1]


@pytest.mark.parametrize("flags", [(), ("--ids", "3,5", "--names", "water,forest")])
def test_the_legend_of_a_mask_counts(flags, run, tmp_path, monkeypatch):
    """Alone it is the palette, and beside one it must not contradict."""
    pytest.importorskip("rasterio")
    names = "Unclassified", "", "", "forest", "", "water"
    xml = "".join(f"<Category>{name}</Category>" for name in names)
    band = f'<PAMRasterBand band="1"><CategoryNames>{xml}</CategoryNames></PAMRasterBand>'
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png.aux.xml").write_text(f"<PAMDataset>{band}</PAMDataset>")
    ids = {"a.png": np.array([[3, 5, 0, 9]], np.uint8)}
    if flags:
        assert "a.png: calls 3 'forest', which is 'water' here" in run(ids, *flags, code=2)
        return
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "rasterio.shutil", None)
        assert "a.png: what says its .aux.xml? pip install rasterio" in run(ids, code=2)
    masks, printed = run(ids)
    assert masks["a.png"].tolist() == [[0, 1, 255, 255]] and '["forest", "water"]' in printed
    assert "ids that changed: 3 is 0, 5 is 1" in printed and "255 now: 1 pixel, 9 (1)" in printed


def test_ids_may_exceed_255(run):
    masks, _ = run({"deep.png": np.array([[111, 523, 0]], np.uint16)}, "--ids", "111,523")
    assert masks["deep.png"].tolist() == [[0, 1, 255]]


def test_palette_pictures_and_transparency(run):
    indexed = Image.fromarray(np.array([[1, 2, 0]], np.uint8))
    indexed.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    masks, _ = run({"indexed.png": indexed}, "--ids", "0,1,2")
    assert masks["indexed.png"].tolist() == [[1, 2, 0]], "ids are the indices"
    masks, _ = run({"indexed.png": indexed}, "--colors", "#ff0000,#0000ff,#000000")
    assert masks["indexed.png"].tolist() == [[0, 1, 2]], "colours are colours"
    clear = np.array([[(255, 0, 0, 255), (255, 0, 0, 0)]], np.uint8)
    masks, printed = run({"indexed.png": clear}, "--colors", "#ff0000")
    assert masks["indexed.png"].tolist() == [[0, 255]] and "not in the palette" not in printed


def test_started_as_a_user_would_the_masks_pair_with_their_images(tmp_path):
    ids, picture = draw(cm.read_palette("deepglobe"))
    (tmp_path / "images").mkdir()
    for number in (7, 8):
        Image.fromarray(picture).save(tmp_path / f"images/{number}_mask.png")
        Image.fromarray(picture).save(tmp_path / f"images/{number}_sat.jpg")
    command = [*PYTHON, ROOT / "tools/convert_masks.py", "--input", "images", "--output", "new/masks"]
    given = ["--palette", "deepglobe", "--rename", "_mask=_sat"]
    done = subprocess.run([*command, *given], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for path in (tmp_path / "images").glob("*_mask.png"):
        path.unlink()
    tiles = lc.list_tiles(tmp_path / "images", tmp_path / "new/masks")
    assert [mask.name for _, mask in tiles] == ["7_sat.png", "8_sat.png"]
    assert all((lc.read_mask(mask) == ids).all() for _, mask in tiles)
    assert "wrote 2 masks" in done.stdout


COLOR, GREY = np.zeros((2, 2, 3), np.uint8) + np.uint8([1, 2, 3]), np.zeros((2, 2), np.uint8)


@pytest.mark.parametrize(
    "picture, flags, named",
    [
        (COLOR, ["--palette", "nowhere"], "nowhere"),
        (COLOR, [], "--palette"),
        (COLOR, ["--palette", "isprs", "--ids", "1"], "--palette"),
        (COLOR, ["--colors", "red"], "'red'"),
        (COLOR, ["--colors", "#ff0000,#00ff00", "--names", "a"], "differ in length: 1, 2"),
        (COLOR, ["--colors", "#ff0000,#ff0000"], "entry 2: color #ff0000 already"),
        (COLOR, ["--ids", "1,x"], "entry 2: id 'x'"),
        (COLOR, ["--ids", "1,2"], "a.png: is a colour picture"),
        (GREY.astype(np.uint16), ["--palette", "isprs"], "a.png: has more than 8 bits"),
        (COLOR, ["--palette", "isprs", "--rename", "_mask"], "OLD=NEW"),
        (COLOR, ["--palette", "isprs", "--rename", "_mask=../x"], "parts of a file's name"),
        (COLOR, ["--palette", "isprs", "--tolerance", "nan"], "--tolerance nan: must be 0 or more"),
        (COLOR, ["--palette", "isprs", "--rename", "_mask="], "NAME_mask"),
        (COLOR, ["--palette", "{folder}/bad.csv"], "bad.csv, entry 2: has neither"),
        (COLOR, ["--palette", "isprs", "--output", "{folder}/in"], "is the input"),
        (COLOR, ["--palette", "isprs", "--input", "{folder}/none"], "none"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(picture, flags, named, run, tmp_path):
    (tmp_path / "bad.csv").write_text("name,color,id\na,#ff0000,\nb,,\n")
    assert named in run({"a.png": picture}, *(flag.format(folder=tmp_path) for flag in flags), code=2)
    assert not list(tmp_path.glob("out/*"))
    assert len(list((tmp_path / "in").iterdir())) == 1


def test_a_palette_that_a_spreadsheet_saved_is_read(run, tmp_path):
    (tmp_path / "p.csv").write_text("\ufeffName;Color;Id\nsoil;#010203;4\n;#000000;0\n", encoding="utf-8")
    run({"a.png": np.array([[4, 0, 4]], np.uint8)}, "--palette", str(tmp_path / "p.csv"))
    assert lc.read_mask(tmp_path / "out/a.png").tolist() == [[0, 255, 0]]


def test_a_broken_mask_is_named_and_nothing_is_written(run, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/b.png").write_bytes(b"no picture")
    assert "b.png" in run({"a.png": GREY}, "--ids", "0", code=2)
    assert not list((tmp_path / "out").iterdir())


def test_a_mask_with_a_place_keeps_it(tmp_path):
    """Else masks on other ground than their images pass as soon as they are converted."""
    rasterio = pytest.importorskip("rasterio")
    codes = np.array([[5, 5, 7], [7, 0, 5]], np.uint8)
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(2, 0, 500_000, 0, -2, 5_600_000)}
    (tmp_path / "in").mkdir()
    with rasterio.open(
        tmp_path / "in/a.tif", "w", "GTiff", 3, 2, 1, dtype="uint8", nodata=0, **place
    ) as dataset:
        dataset.write(codes, 1)
    assert cm.main(["--input", f"{tmp_path}/in", "--output", f"{tmp_path}/out", "--ids", "5,7"]) == 0
    with rasterio.open(tmp_path / "out/a.tif") as dataset:
        assert {"crs": dataset.crs, "transform": dataset.transform} == place
    assert lc.read_mask(tmp_path / "out/a.tif").tolist() == [[0, 0, 1], [1, 255, 0]]
