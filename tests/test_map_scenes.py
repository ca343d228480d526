"""Maps of scenes of any size: no seams, bounded memory, georeference, areas, and nothing half-written."""

import contextlib
import copy
import csv
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from conftest import PYTHON, ROOT
from PIL import Image
from torch import nn
from torch.nn import functional as F

import landcover_segmentation as lc

sys.path.insert(0, str(ROOT / "tools"))
import geo
import map_scenes

NAMES, COLORS = ["water", "forest & scrub", "road"], ["#3b78d8", "#1e6b34", "#4d4d4d"]
PALETTE = lc.class_palette(COLORS, 3)


class Blur(nn.Module):
    """Three classes by the brightest channel of a blur that reaches `radius` pixels far.

    Beyond the image are zeros, as a convolution has them; stride 32 shifts with the grid, as the networks'
    strides do.
    """

    num_classes, class_names, class_colors, backbone_name = 3, NAMES, COLORS, "toy"

    def __init__(self, radius: int = 8, stride: int = 1):
        super().__init__()
        self.anchor = nn.Parameter(torch.ones(()))
        self.radius, self.stride, self.batches = radius, stride, []

    def forward(self, images):
        self.batches.append(tuple(images.shape))
        logits, side = images * self.anchor, 2 * self.radius + 1
        logits = F.avg_pool2d(logits, (side, 1), 1, (self.radius, 0))
        logits = F.avg_pool2d(logits, (1, side), 1, (0, self.radius))
        if self.stride > 1:
            logits = F.avg_pool2d(logits, self.stride, ceil_mode=True).repeat_interleave(self.stride, 2)
            logits = logits.repeat_interleave(self.stride, 3)[..., : images.shape[2], : images.shape[3]]
        return 20 * logits


class Colour(Blur):
    """Class by the brightest channel of the pixel itself."""

    def forward(self, images):
        self.batches.append(tuple(images.shape))
        return 20 * images * self.anchor


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 255, (height // 9 + 1, width // 9 + 1, 3), np.uint8)
    return coarse.repeat(9, 0).repeat(9, 1)[:height, :width]


def brightest(image: np.ndarray) -> np.ndarray:
    normalised = (image / 255 - lc.IMAGENET_MEAN) / lc.IMAGENET_STD
    return normalised.argmax(2)


def array_scene(image: np.ndarray) -> geo.Scene:
    return geo.Scene(
        *image.shape[:2],
        lambda top, bottom: np.pad(image[top:bottom], [(0, 0), (0, 0), (0, 1)], constant_values=255),
    )


def predict(model: nn.Module, image: np.ndarray, **options) -> np.ndarray:
    """The class ids (H, W) of an image (H, W, 3), by windows."""
    strips = map_scenes.predict_strips(model, array_scene(image), **options)
    return np.concatenate([class_ids for _, _, class_ids, _ in strips])


def test_windows_cover_every_pixel_with_weights_that_sum_to_one():
    for size in [*range(1, 700, 7), 2000, 20_000]:
        for tile, overlap in ((64, None), (64, 0), (64, 32), (96, 20), (512, None), (512, 256)):
            starts, weights = map_scenes.lay_windows(size, tile, overlap)
            overlap = tile // 4 if overlap is None else overlap
            length = weights.shape[1]
            assert starts[0] == 0
            assert length <= tile
            assert starts[-1] + length == size + -size % 32, (
                "to the end, rounded up to the network's grid, and no further"
            )
            assert (starts % 32 == 0).all()
            assert (np.diff(starts) <= length - overlap).all(), "neighbours share at least the overlap"
            assert len(starts) <= 1 + np.ceil(size / (tile - overlap) * 2), "and few windows do"
            total = np.zeros(starts[-1] + length)
            for start, part in zip(starts, weights.numpy(), strict=True):
                total[start : start + length] += part
            assert np.abs(total - 1).max() < 1e-6
            assert (weights >= 0).all()
            for inner_edge in (weights[1:, : overlap // 4], weights[:-1, length - overlap // 4 :]):
                assert (inner_edge == 0).all(), "the outer quarter of the overlap weighs nothing"


def test_weights_rise_smoothly():
    _, weights = map_scenes.lay_windows(2000, 512)
    assert weights.diff().abs().max() < 1.6 / 64, "no step: a raised cosine over 64 pixels"


@pytest.mark.parametrize(("tile", "overlap"), [(64, 32), (96, None), (128, 40)])
@pytest.mark.parametrize("stride", [1, 32])
@pytest.mark.parametrize("size", [(300, 411), (256, 97), (1, 500), (333, 1), (20, 33), (64, 64)])
def test_no_seams(size, stride, tile, overlap):
    """A network that sees no further than a quarter of the overlap gives what it gives for the whole."""
    image = picture(*size)
    model = Blur(radius=6, stride=stride) if stride == 1 else Blur(radius=0, stride=stride)
    padded = np.pad(image, ((0, -size[0] % 32), (0, -size[1] % 32), (0, 0)), mode="edge")
    whole = lc.predict_probabilities(model, lc.preprocess_image(padded))[0, :, : size[0], : size[1]]
    how = {"tile": tile, "overlap": overlap, "confidence": True}
    strips = list(map_scenes.predict_strips(model, array_scene(image), **how))
    assert [top for top, *_ in strips] == np.cumsum([0, *(len(ids) for *_, ids, _ in strips[:-1])]).tolist()
    class_ids = np.concatenate([ids for *_, ids, _ in strips])
    confidence = np.concatenate([percent for *_, percent in strips])
    assert class_ids.shape == confidence.shape == size
    assert (class_ids == whole.argmax(0).numpy()).mean() == 1
    assert np.abs(confidence - 100 * whole.amax(0).numpy()).max() < 0.51
    assert (np.concatenate([pixels[..., :3] for _, pixels, *_ in strips]) == image).all()


def test_no_visible_seams_where_the_network_sees_further_than_the_overlap():
    image = picture(500, 500)
    model = Blur(radius=40)
    whole = lc.predict_probabilities(
        model, lc.preprocess_image(np.pad(image, ((0, 12), (0, 12), (0, 0)), "edge"))
    )
    tiled = predict(model, image, tile=256)
    assert (tiled == whole.argmax(1)[0, :500, :500].numpy())[40:-40, 40:-40].mean() > 0.97


def test_a_real_network_on_a_tile_is_predicted_as_it_was_scored():
    """Up to the window's size there is one window, and nothing but what the network does itself."""
    torch.manual_seed(0)
    model = lc.DeepLabV3Segmentation(4, "mobilenet_v3_large", None).eval()
    for size in ((70, 90), (128, 64), (1, 5)):
        image = picture(*size)
        whole = lc.predict_probabilities(model, lc.preprocess_image(image)).argmax(1)[0].numpy()
        assert (predict(model, image) == whole).mean() > 0.999
        assert (lc.predict_class_ids(model, image) == whole).mean() > 0.999


def test_flips_scales_and_batches_are_passed_on():
    image, model = picture(200, 200), Blur(radius=2)
    plain = predict(model, image, tile=96)
    model.batches.clear()
    turned = predict(model, image, tile=96, views=8, batch_size=3)
    assert (plain == turned).mean() > 0.999, "a blur has no direction"
    assert model.batches[8:16] == [(3, 3, 96, 96)] * 8, "after the trial that counts the classes"
    model.batches.clear()
    predict(model, image, tile=96, scales=(0.5, 1))
    assert any(shape[2:] == (48, 48) for shape in model.batches)


def test_memory_is_bounded_by_the_open_rows(monkeypatch):
    """A scene twenty times as high is read once, from top to bottom, and holds no more rows at a time."""
    held, asked = [], []
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, **options: held.append(size) or zeros(*size, **options))

    def read(top, bottom):
        asked.append((top, bottom))
        return np.full((bottom - top, 70, 4), 255, np.uint8)

    rows = [
        len(ids) for *_, ids, _ in map_scenes.predict_strips(Colour(), geo.Scene(20_000, 70, read), tile=64)
    ]
    assert sum(rows) == 20_000
    assert max(rows) <= 64
    assert held == [(3, 64, 96)]
    assert asked[0] == (0, 64)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(asked)), (
        "each row once, in order"
    )
    assert asked[-1][1] == 20_000


def test_errors_of_threads_are_raised_where_their_work_is_awaited():
    def rows():
        yield from "ab"
        raise lc.InputError("c")

    taken = []
    with pytest.raises(lc.InputError, match="c"):
        taken.extend(map_scenes.in_background(rows()))
    assert taken == ["a", "b"]
    written = []
    with pytest.raises(ZeroDivisionError), map_scenes.behind(lambda x: written.append(1 / x)) as write:
        for number in (2, 0, 4, 5):
            write(number)
    assert written == [0.5], "nothing after the error"


def test_rows_are_read_ahead_and_results_written_behind():
    """Both sides wait for each other to be at work at once, and would wait for ever if one came after."""
    at_work = threading.Barrier(2, timeout=60)

    def read():
        yield 1
        at_work.wait()
        yield 2

    for number in map_scenes.in_background(read()):
        if number == 1:
            at_work.wait()
    with map_scenes.behind(at_work.wait) as write:
        write()
        at_work.wait()


@pytest.mark.parametrize("when", [1, 3])
def test_an_error_as_results_are_written_leaves_nothing(when, tmp_path, monkeypatch):
    Image.fromarray(picture(300, 300)).save(tmp_path / "scene.png")
    calls, shade = [], map_scenes.shade

    def fail(*arguments):
        calls.append(1)
        if len(calls) == when:
            raise OSError(28, "No space left on device")
        return shade(*arguments)

    monkeypatch.setattr(map_scenes, "shade", fail)
    with pytest.raises(OSError, match="No space"):
        map_scenes.predict_scene(Colour(), tmp_path / "scene.png", tmp_path, tile=64)
    assert [path.name for path in tmp_path.iterdir()] == ["scene.png"]


@pytest.mark.parametrize("culprit", ["network", "writer"])
def test_no_row_is_read_any_more_after_an_error(culprit):
    """The file is closed then; GDAL does not survive that in the midst of reading."""

    class Fails(Colour):
        def forward(self, images):
            if culprit == "network":
                raise RuntimeError("culprit")
            return super().forward(images)

    def write(top, rows):
        raise RuntimeError("culprit")

    reading = []

    def read(top, bottom):
        reading.append(top)
        time.sleep(0.3)
        reading.pop()
        return np.full((bottom - top, 70, 4), 255, np.uint8)

    scene = geo.Scene(2_000, 70, read)
    strips = map_scenes.predict_strips(Fails(), scene, tile=64)
    with pytest.raises(RuntimeError, match="culprit"):
        map_scenes.write_strips(strips, scene, [write], np.zeros((3, 3), np.uint8))
    assert not reading


# ---- Files


def save_tif(path: Path, image: np.ndarray, **options) -> Path:
    rasterio = pytest.importorskip("rasterio")
    bands = image.transpose(2, 0, 1) if image.ndim == 3 else image[None]
    form = {"crs": "EPSG:32640", "transform": rasterio.Affine(10, 0, 300_000, 0, -10, 2_800_000)} | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(
            path, "w", "GTiff", image.shape[1], image.shape[0], len(bands), dtype=image.dtype, **form
        ) as file:
            file.write(bands)
    return path


def areas(path: Path) -> list[dict]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_png_gives_png(tmp_path):
    image = picture(150, 230)
    Image.fromarray(image).save(tmp_path / "scene.png")
    written = map_scenes.predict_scene(
        Colour(), tmp_path / "scene.png", tmp_path / ".", tile=64, confidence=True
    )
    endings = {
        "classes.png",
        "classes.png.aux.xml",
        "confidence.png",
        "overlay.png",
        "legend.png",
        "area.csv",
    }
    assert {path.name for path in written} == {f"scene_{ending}" for ending in endings}
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in written} | {"scene.png"}
    class_ids = lc.read_mask(tmp_path / "scene_classes.png")
    assert (class_ids == brightest(image)).all()
    assert (np.asarray(Image.open(tmp_path / "scene_classes.png").convert("RGB")) == PALETTE[class_ids]).all()
    overlay = np.asarray(Image.open(tmp_path / "scene_overlay.png"))
    assert np.abs(overlay - (image / 2 + PALETTE[class_ids] / 2)).max() <= 1
    confidence = np.asarray(Image.open(tmp_path / "scene_confidence.png"))
    assert confidence.shape == class_ids.shape
    assert 33 <= confidence.min() <= confidence.max() <= 100
    rows = areas(tmp_path / "scene_area.csv")
    assert [row["class"] for row in rows] == NAMES
    assert [int(row["pixels"]) for row in rows] == np.bincount(class_ids.ravel(), minlength=3).tolist()
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1, abs=1e-5)
    assert "hectares" not in rows[0]


def test_a_large_overlay_is_thinned(tmp_path):
    image = np.zeros((70, 9000, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "scene.png")
    map_scenes.predict_scene(Colour(), tmp_path / "scene.png", tmp_path, tile=64)
    assert Image.open(tmp_path / "scene_overlay.png").size == (3000, 24)


@pytest.mark.parametrize("system", ["EPSG:32640", None])
def test_a_thinned_overlay_lies_where_the_scene_does(system, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    source = save_tif(tmp_path / "scene.tif", np.zeros((70, 9000, 3), np.uint8), crs=system)
    map_scenes.predict_scene(Colour(), source, tmp_path, tile=64)
    with rasterio.open(source) as scene, rasterio.open(tmp_path / "scene_overlay.png") as overlay:
        assert overlay.crs == scene.crs and overlay.shape == (24, 3000)
        assert overlay.xy(0, 0, offset="ul") == scene.xy(0, 0, offset="ul")
        assert overlay.xy(20, 2000, offset="ul") == pytest.approx(scene.xy(60, 6000, offset="ul"))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_nodata(mode, tmp_path):
    image = Image.fromarray(picture(100, 80)).convert(mode)
    if mode == "P":
        image.info["transparency"] = image.getpixel((0, 0))
        hidden = np.asarray(image) == image.getpixel((0, 0))
    else:
        hidden = np.zeros((100, 80), bool)
        hidden[:70, 30:] = True
        image.putalpha(Image.fromarray(np.where(hidden, 0, 255).astype(np.uint8)))
    image.save(tmp_path / "scene.png")
    map_scenes.predict_scene(Colour(), tmp_path / "scene.png", tmp_path, tile=64, confidence=True)
    for name in ("classes", "confidence"):
        assert ((np.asarray(Image.open(tmp_path / f"scene_{name}.png")) == 255) == hidden).all()
    assert (np.asarray(Image.open(tmp_path / "scene_overlay.png"))[hidden] == 255).all()
    assert sum(int(row["pixels"]) for row in areas(tmp_path / "scene_area.csv")) == (~hidden).sum()


def test_what_lies_under_transparency_does_not_leak():
    """The network sees the mean colour, as beyond the tile in training; windows without data not at all."""
    rows = np.zeros((64, 640, 4), np.uint8)
    rows[..., 0] = 255
    rows[:, :10, 3] = 255
    model = Blur(radius=3)
    [(_, pixels, class_ids, _)] = map_scenes.predict_strips(
        model, geo.Scene(64, 640, lambda top, bottom: rows), tile=64
    )
    assert (class_ids[:, 10:] == 255).all()
    assert pixels[0, 20, :3].tolist() == [124, 116, 104]
    assert sum(shape[0] for shape in model.batches[1:]) == 1
    model.batches.clear()
    strips = map_scenes.predict_strips(
        model, geo.Scene(200, 90, lambda a, b: np.zeros((b - a, 90, 4), np.uint8)), tile=64
    )
    assert all((ids == 255).all() for *_, ids, _ in strips)
    assert len(model.batches) == 1, "but for the one that counts the classes"


def test_geotiff_keeps_its_georeference(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    image = picture(700, 1100)
    source = save_tif(tmp_path / "scene.tif", image)
    out = tmp_path / "out"
    out.mkdir()
    written = map_scenes.predict_scene(Colour(), source, out, tile=128, confidence=True)
    endings = {"classes.tif", "classes.tif.aux.xml", "classes.qml", "confidence.tif", "area.csv"}
    endings |= {"overlay.png", "overlay.png.aux.xml", "legend.png"}
    assert (
        {path.name for path in written}
        == {path.name for path in out.iterdir()}
        == {f"scene_{end}" for end in endings}
    )
    with rasterio.open(source) as scene, rasterio.open(out / "scene_classes.tif") as made:
        assert (made.crs, made.transform, made.shape) == (scene.crs, scene.transform, scene.shape)
        assert (made.count, made.dtypes, made.nodata) == (1, ("uint8",), 255)
        assert (made.read(1) == brightest(image)).all()
        assert [made.colormap(1)[index][:3] for index in range(3)] == [
            tuple(color) for color in PALETTE.tolist()
        ]
        assert made.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert made.profile["tiled"]
        assert made.profile["compress"] == "deflate"
        assert made.overviews(1) == [2, 4]
        half, classes = made.read(1, out_shape=(made.height // 2, made.width // 2)), np.unique(made.read(1))
        assert np.isin(half, classes).all(), "no class is between two others"
        assert [made.tags(1)[f"CLASS_{index}"] for index in range(3)] == NAMES
    pytest.importorskip("rasterio.shutil").copy(
        out / "scene_classes.tif", tmp_path / "names.vrt", driver="VRT"
    )
    assert "<Category>forest &amp; scrub</Category>" in (tmp_path / "names.vrt").read_text(), (
        "GDAL knows the names"
    )
    with rasterio.open(out / "scene_confidence.tif") as made:
        assert (made.crs, made.nodata) == (scene.crs, 255)
        assert made.read(1).max() <= 100
    hectares = [float(row["hectares"]) for row in areas(out / "scene_area.csv")]
    assert hectares == pytest.approx(np.bincount(brightest(image).ravel()) * 0.01), (
        "10 m x 10 m is a hundredth"
    )

    rio = Path(sys.executable).with_name("rio")
    said = json.loads(
        subprocess.run([rio, "info", out / "scene_classes.tif"], capture_output=True, text=True).stdout
    )
    assert (said["crs"], said["nodata"], said["transform"][:6]) == (
        "EPSG:32640",
        255,
        [10, 0, 300_000, 0, -10, 2_800_000],
    )
    assert said["colorinterp"] == ["palette"]
    if shutil.which("gdalinfo"):
        said = subprocess.run(["gdalinfo", out / "scene_classes.tif"], capture_output=True, text=True).stdout
        for line in (
            "UTM zone 40N", "Origin = (300000.0", "Pixel Size = (10.0", "NoData Value=255",
            "Color Table (RGB with 256", "1: forest & scrub", "0: 59,120,216", "LAYOUT=COG",
            "Description = land cover",
        ):  # fmt: skip
            assert line in said


LEGEND = """
import json, sys
from qgis.core import QgsApplication, QgsRasterLayer
application = QgsApplication([], False)
application.initQgis()
layer = QgsRasterLayer(sys.argv[1])
print(json.dumps([[entry.value, entry.color.name(), entry.label] for entry in layer.renderer().classes()]))
"""


def test_qgis_shows_the_classes_and_no_others(tmp_path):
    """What the .qml says, and if QGIS is installed, what it makes of it."""
    pytest.importorskip("rasterio")
    map_scenes.predict_scene(Colour(), save_tif(tmp_path / "scene.tif", picture(100, 100)), tmp_path, tile=64)
    wanted = [[index, f"#{bytes(color).hex()}", NAMES[index]] for index, color in enumerate(PALETTE)]
    entries = ElementTree.parse(tmp_path / "scene_classes.qml").iter("paletteEntry")
    assert [[int(entry.get("value")), entry.get("color"), entry.get("label")] for entry in entries] == wanted
    system = "/usr/bin/python3"  # whose packages hold QGIS's
    if (
        Path(system).exists()
        and not subprocess.run([system, "-c", "import qgis"], capture_output=True).returncode
    ):
        command = [system, "-c", LEGEND, tmp_path / "scene_classes.tif"]
        environment = os.environ | {"QT_QPA_PLATFORM": "offscreen"}
        said = subprocess.run(command, capture_output=True, text=True, env=environment).stdout
        assert json.loads(said.splitlines()[-1]) == wanted


@pytest.mark.parametrize("kind", ["nodata", "alpha", "mask", "five bands", "grey", "palette"])
def test_tiffs_of_many_kinds(kind, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    image = np.maximum(picture(90, 130), 1)
    hidden = np.zeros((90, 130), bool)
    path = tmp_path / "scene.tif"
    if kind != "grey":
        hidden[20:60, 40:] = True
    if kind == "nodata":
        save_tif(path, np.where(hidden[..., None], 0, image), nodata=0)
    elif kind == "alpha":
        save_tif(
            path,
            np.dstack([image, np.where(hidden, 0, 255).astype(np.uint8)]),
            photometric="RGB",
            alpha="YES",
        )
    elif kind == "mask":
        save_tif(path, image)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as file:
            file.write_mask(~hidden)
    elif kind == "five bands":
        save_tif(path, np.dstack([image, image[..., :2] * 0]))
        hidden[:] = False
    elif kind == "grey":
        image = image[..., :1].repeat(3, 2)
        save_tif(path, image[..., 0])
    else:
        table = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
        index = np.where(hidden, 7, np.maximum(picture(90, 130)[..., 0], 8))
        image = table[index]
        save_tif(path, index, nodata=7, photometric="palette")
        with rasterio.open(path, "r+") as file:
            file.write_colormap(1, dict(enumerate(table.tolist())))
    with geo.open_scene(path) as scene:
        rows = scene.read(10, 80)
    assert (rows[..., :3] == image[10:80])[~hidden[10:80]].all()
    map_scenes.predict_scene(Colour(), path, tmp_path, tile=64)
    with rasterio.open(tmp_path / "scene_classes.tif") as made:
        assert ((made.read(1) == 255) == hidden).all()
        assert (made.read(1)[~hidden] == brightest(image)[~hidden]).all()


@pytest.mark.parametrize("nodata", [None, 255])
def test_infrared_as_the_fourth_of_four_bands_is_data(nodata, tmp_path):
    """GDAL takes it for alpha; where it is 0, as over water, it would hide the tile."""
    image = np.maximum(picture(40, 50), 1)
    infrared = picture(40, 50, seed=1)[..., 0] % 255
    infrared[:20] = 0
    if nodata:
        image[30:], infrared[30:] = 255, 255
    path = save_tif(tmp_path / "scene.tif", np.dstack([image, infrared]), nodata=nodata)
    with geo.open_scene(path, bands=[4, 1, 2]) as scene:
        rows = scene.read(0, 40)
    assert (rows[..., :3] == np.dstack([infrared, image[..., :2]])).all()
    assert (rows[:30, :, 3] == 255).all()
    assert (rows[30:, :, 3] == (0 if nodata else 255)).all()


def test_an_alpha_in_the_place_of_infrared_is_told(tmp_path):
    """A network that learnt from infrared in band 4 meets a scene of red, green, blue and alpha."""
    rasterio = pytest.importorskip("rasterio")
    pixels = np.random.default_rng(0).integers(20, 200, (4, 32, 40)).astype(np.uint8)
    form = {"dtype": "uint8", "photometric": "RGB", "alpha": "yes"}
    for name, last in (("infrared.tif", pixels[3]), ("alpha.tif", np.where(pixels[3] > 40, 255, 0))):
        with rasterio.open(tmp_path / name, "w", "GTiff", 40, 32, 4, **form) as file:
            file.write(np.stack([*pixels[:3], last.astype(np.uint8)]))
    assert not list(geo.odd_values(tmp_path / "infrared.tif", (1, 2, 3, 4), None))
    assert not list(geo.odd_values(tmp_path / "alpha.tif", (1, 2, 3), None))
    (told,) = geo.odd_values(tmp_path / "alpha.tif", (1, 2, 3, 4), None)
    assert "alpha.tif: band 4 is an alpha" in told and "give the scene with" in told


def test_bands_that_need_rasterio_say_so(tmp_path, monkeypatch):
    path = save_tif(tmp_path / "scene.tif", picture(40, 50)[..., [0, 1, 2, 0]])
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(lc.InputError, match=r"scene\.tif: .*pip install rasterio"):
        lc.read_image(path, bands=[4, 1, 2])


@pytest.mark.parametrize(
    ("crs", "size", "hectares"),
    [
        ("EPSG:2263", 10, (10 * 1200 / 3937) ** 2 / 1e4),  # US survey feet
        (
            "EPSG:3857",
            10,
            (10 * np.cos(np.radians(60))) ** 2 / 1e4,
        ),  # at 60 degrees north a metre there is half a one
        (
            "EPSG:4326",
            1e-4,
            111.412e3 * 55.800e3 * 1e-8 / 1e4,
        ),  # a degree of latitude and one of longitude at 60 degrees
        ("EPSG:4087", 10, 100 * 111.412e3 * 55.800e3 / 111_319.49**2 / 1e4),  # whose degrees are as long
        (None, 10, None),
    ],
)
def test_areas_are_those_on_the_ground(crs, size, hectares):
    rasterio = pytest.importorskip("rasterio")
    top = {"EPSG:3857": 8_399_737.9, "EPSG:4326": 60.0, "EPSG:4087": 60 * 111_319.49}.get(crs, 0)
    transform = rasterio.Affine(size, 0, 0, 0, -size, top)
    scene = geo.Scene(4, 6, None, rasterio.crs.CRS.from_string(crs) if crs else None, transform)
    found = geo.pixel_hectares(scene)
    if hectares is None:
        assert found is None
    else:
        assert found.shape == (4,)
        assert found == pytest.approx(hectares, rel=0.004)


def test_without_rasterio_the_georeference_is_missed_out_loud(tmp_path, monkeypatch):
    save_tif(tmp_path / "tiff.tif", picture(90, 130))
    for name in ("scene.png", "plain.png"):
        Image.fromarray(picture(90, 130)).save(tmp_path / name)
    (tmp_path / "scene.pgw").write_text("0.5\n0\n0\n-0.5\n326000\n2780000\n")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(lc.InputError, match=r"tiff\.tif: .*pip install rasterio"):
        map_scenes.predict_scene(Colour(), tmp_path / "tiff.tif", tmp_path, tile=64)
    with pytest.warns(UserWarning, match="world file loses .*pip install rasterio"):
        written = map_scenes.predict_scene(Colour(), tmp_path / "scene.png", tmp_path, tile=64)
    assert tmp_path / "scene_classes.png" in written
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tmp_path / "plain_classes.png" in map_scenes.predict_scene(
            Colour(), tmp_path / "plain.png", tmp_path
        )


def test_nothing_is_half_written(tmp_path):
    """An error on the way, here in the middle of a truncated file, leaves earlier results as they were."""
    source = save_tif(tmp_path / "scene.tif", picture(900, 300), tiled=True, blockxsize=64, blockysize=64)
    out = tmp_path / "out"
    out.mkdir()
    map_scenes.predict_scene(Colour(), source, out, tile=64, confidence=True)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    with pytest.raises(lc.InputError, match=r"scene.tif: cannot be read"):
        map_scenes.predict_scene(Colour(), source, out, tile=64, confidence=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("share", [0.98, 0.9, 0.5])
def test_a_full_disk_gives_no_half_a_map(share, tmp_path):
    """GDAL may return as if all were well where it could not write the last of a file.

    A limit on the size of files stands for the disk.
    """
    resource = pytest.importorskip(
        "resource", reason="only systems with resource limits can run out of room on trial"
    )
    class_ids = np.random.default_rng(0).integers(0, 3, (1500, 1500), np.uint8)
    with geo.open_scene(save_tif(tmp_path / "scene.tif", picture(1500, 1500))) as scene:

        def write_map():
            with (
                lc.atomic_write(tmp_path / "map.tif") as partial_path,
                geo.raster_writer(partial_path, scene, "land cover") as write,
            ):
                write(0, class_ids)

        write_map()
        before, limits = (tmp_path / "map.tif").read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * len(before)), limits[1]))
        try:
            with pytest.raises(lc.InputError, match="is the disk full"):
                write_map()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "map.tif").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"map.tif", "scene.tif"}


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_ctrl_c_leaves_nothing(suffix, tmp_path):
    class Interrupted(Colour):
        def forward(self, images):
            if len(self.batches) == 4:
                raise KeyboardInterrupt
            return super().forward(images)

    image = picture(300, 300)
    source = save_tif(tmp_path / "scene.tif", image) if suffix == "tif" else tmp_path / "scene.png"
    if suffix == "png":
        Image.fromarray(image).save(source)
    with pytest.raises(KeyboardInterrupt):
        map_scenes.predict_scene(Interrupted(), source, tmp_path, tile=64, confidence=True)
    assert list(tmp_path.iterdir()) == [source]


# ---- Command


@pytest.fixture(scope="module")
def a_checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "best_model.pth"
    torch.manual_seed(0)
    lc.save_checkpoint(path, lc.DeepLabV3Segmentation(3, "mobilenet_v3_large", None), NAMES, COLORS)
    return path


@pytest.fixture
def checkpoint(a_checkpoint, tmp_path) -> Path:
    return shutil.copy(a_checkpoint, tmp_path / a_checkpoint.name)


def test_the_command_maps_a_folder(tmp_path, checkpoint):
    (tmp_path / "scenes").mkdir()
    for index in range(2):
        Image.fromarray(picture(70, 100, index)).save(tmp_path / f"scenes/scene_{index}.jpg")
    given = [
        "--input",
        "scenes",
        "--output",
        "maps",
        "--tile",
        "64",
        "--device",
        "cpu",
        "--tta",
        "--confidence",
    ]
    command = [*PYTHON, ROOT / "tools/map_scenes.py", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("wrote ")
    assert "scene_0_classes.png" in lines[0]
    assert len(list((tmp_path / "maps").iterdir())) == 13
    each = [areas(tmp_path / f"maps/scene_{index}_area.csv") for index in range(2)]
    total = areas(tmp_path / "maps/area.csv")
    for row, *parts in zip(total, *each, strict=True):
        assert int(row["pixels"]) == sum(int(part["pixels"]) for part in parts)
        assert "tools/assess.py" in row["method"]
    model = lc.load_model(checkpoint, "cpu")
    expected = predict(model, lc.read_image(tmp_path / "scenes/scene_1.jpg"), tile=64, views=8)
    assert (lc.read_mask(tmp_path / "maps/scene_1_classes.png") == expected).mean() > 0.95, (
        "up to the precision"
    )


def test_among_processes_ctrl_c_ends_each(monkeypatch, capsys):
    """Training lets it wait until all have heard of it, and asks them; here nobody asks."""
    before = signal.getsignal(signal.SIGINT)

    @contextlib.contextmanager
    def group():
        signal.signal(signal.SIGINT, lambda *_: None)
        yield

    monkeypatch.setattr(lc, "process_group", group)
    monkeypatch.setattr(lc, "world_size", lambda: 2)
    monkeypatch.setattr(map_scenes, "parse", lambda argv: signal.raise_signal(signal.SIGINT))
    try:
        assert map_scenes.main([]) == 130
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_command_takes_several_models_as_one(tmp_path, checkpoint):
    torch.manual_seed(1)
    other = lc.DeepLabV3Segmentation(3, "mobilenet_v3_large", None)
    lc.save_checkpoint(tmp_path / "other.pth", other, NAMES, COLORS)
    Image.fromarray(picture(64, 96)).save(tmp_path / "scene.png")
    files = [checkpoint, tmp_path / "other.pth"]
    arguments = ["--checkpoint", *files, "--input", tmp_path / "scene.png", "--output", tmp_path / "out"]
    more = ["--tile", "96", "--scales", "0.75", "1", "--device", "cpu"]
    assert map_scenes.main([*map(str, arguments), *more]) == 0
    models = [lc.load_model(path, "cpu") for path in files]
    image = lc.load_and_preprocess_image(tmp_path / "scene.png")
    several = map_scenes.Ensemble(models)
    expected = map_scenes.predict_window(several, image, scales=(0.75, 1)).argmax(1)[0].numpy()
    assert (lc.read_mask(tmp_path / "out/scene_classes.png") == expected).mean() > 0.95, "up to the precision"
    assert (lc.predict_class_ids(models[0], lc.read_image(tmp_path / "scene.png")) != expected).mean() > 0.05

    mean = sum(lc.predict_probabilities(model, image) for model in models) / 2
    assert torch.allclose(lc.predict_probabilities(map_scenes.Ensemble(models), image), mean, atol=1e-5)


def test_the_command_warns_once_where_rasterio_is_missing(tmp_path, checkpoint, monkeypatch, capsys):
    Image.fromarray(picture(64, 64)).save(tmp_path / "scene.png")
    (tmp_path / "scene.pgw").write_text("0.5\n0\n0\n-0.5\n326000\n2780000\n")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    arguments = ["--checkpoint", checkpoint, "--input", tmp_path / "scene.png", "--output", tmp_path / "out"]
    assert map_scenes.main([*map(str, arguments)]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["warning"], lines


def test_the_same_warning_is_said_once(capsys):
    @lc.command_line
    def program(argv):
        for text in argv:
            with warnings.catch_warnings():  # which lets Python forget what it has said
                warnings.simplefilter("ignore", DeprecationWarning)
            warnings.warn(text, stacklevel=1)

    assert program(["one", "one", "two", "one"]) == 0
    assert capsys.readouterr().err.splitlines() == ["warning: one", "warning: two"]


def test_the_command_has_its_own_help(capsys):
    with pytest.raises(SystemExit) as end:
        map_scenes.main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for name in ("checkpoint", "input", "output", "tile", "overlap", "device", "tta", "crf", "confidence"):
        assert f"--{name}" in text
    assert "--num-points" not in text
    assert "tools/map_scenes.py" in lc.__doc__, "which is what the main job's help begins with"


def test_the_word_predict_names_this_program(capsys):
    assert lc.main(["predict", "--input", "scene.tif"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1
    assert said.err.startswith("error: ") and "tools/map_scenes.py" in said.err


BAD = {
    "no such file": (["--input", "nowhere.png"], r"nowhere.png: no such file"),
    "no such tif": (["--input", "nowhere.tif"], r"nowhere.tif: no such file"),
    "text": (["--input", "text.png"], r"text.png: cannot be read"),
    "text as tif": (["--input", "text.tif"], r"text.tif: cannot be read"),
    "16 bits": (["--input", "deep.tif"], r"deep.tif: .*more than 8 bits"),
    "16 bits, png": (["--input", "deep.png"], r"deep.png: .*more than 8 bits"),
    "empty folder": (["--input", "empty"], r"empty: holds no image"),
    "a bad file among good ones": (["--input", "."], r"deep.*more than 8 bits"),
    "no checkpoint": (["--checkpoint", "nowhere.pth"], r"nowhere.pth: no such file"),
    "not a checkpoint": (["--checkpoint", "good.png"], r"good.png: is not a checkpoint"),
    "models of other classes": (
        ["--checkpoint", "best_model.pth", "foreign.pth"],
        r"foreign.pth: has other classes or bands",
    ),
    "odd scales": (["--scales", "1", "0"], r"--scales 1.0 0.0: must lie between"),
    "odd tile": (["--tile", "100"], r"tile = 100: must be a multiple of 32"),
    "no tile": (["--tile", "0"], r"tile = 0"),
    "wide overlap": (["--overlap", "300"], r"overlap = 300: must lie between 0 and 256"),
    "tile in words": (["--tile", "big"], r"--tile.*'big'.*--help"),
    "no such flag": (["--tyle", "64"], r"--tyle"),
    "no such device": (["--device", "abacus"], r"abacus"),
    "output is a file": (["--output", "good.png"], r"good.png"),
    "output is the input": (["--input", "empty2", "--output", "empty2"], r"empty2: is the input"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, tmp_path, checkpoint, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture(64, 64)).save("good.png")
    for name in ("text.png", "text.tif"):
        Path(name).write_text("text")
    for name in ("empty", "empty2"):
        Path(name).mkdir()
    shutil.copy("good.png", "empty2/good.png")
    if case == "a bad file among good ones":
        for name in ("text.png", "text.tif"):
            Path(name).unlink()
    for name in ("deep.png", "deep.tif")[: 1 if case.startswith("a bad") else 2]:
        Image.fromarray(np.zeros((64, 64), np.uint16)).save(name)
    arguments, wanted = BAD[case]
    if case == "models of other classes":
        lc.save_checkpoint("foreign.pth", lc.load_model(checkpoint, "cpu"), ["other", "class", "names"])
    assert map_scenes.main(["--input", "good.png", "--output", "out", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    lines = [line for line in said.err.splitlines() if line]
    assert len(lines) == 1, said.err
    assert lines[0].startswith("error: ")
    assert re.search(wanted, lines[0]), lines[0]
    assert not Path("out").exists()


@pytest.mark.parametrize("left", [326000.0, 9e9])
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857"])
def test_a_scene_that_lies_nowhere_on_earth_has_no_hectares(crs, left):
    rasterio = pytest.importorskip("rasterio")
    transform = rasterio.Affine(0.5, 0, left, 0, -0.5, left)
    scene = geo.Scene(20, 30, None, rasterio.CRS.from_user_input(crs), transform)
    on_earth = (crs, left) == ("EPSG:3857", 326000.0)
    assert (geo.pixel_hectares(scene) is not None) == on_earth


# ---- What improves a prediction, or makes it cheaper


def brute_force_messages(values, images, radius, sigma_xy, sigma_rgb):
    colors = images * torch.tensor(lc.IMAGENET_STD, dtype=images.dtype).view(3, 1, 1)
    messages, strength = torch.zeros_like(values), torch.zeros_like(values[:, :1])
    batch, _, height, width = values.shape
    window = range(-radius, radius + 1)
    for b, y, x, dy, dx in itertools.product(range(batch), range(height), range(width), window, window):
        v, u = y + dy, x + dx
        if (dy, dx) != (0, 0) and 0 <= v < height and 0 <= u < width:
            near = -(dy**2 + dx**2) / (2 * sigma_xy**2)
            unlike = (colors[b, :, y, x] - colors[b, :, v, u]).square().sum().item() / (2 * sigma_rgb**2)
            kernel = 0.9 * math.exp(near - unlike) + 0.1 * math.exp(near)
            messages[b, :, y, x] += kernel * values[b, :, v, u]
            strength[b, 0, y, x] += kernel
    return messages, strength


@pytest.mark.parametrize("size", [(7, 6), (2, 9), (1, 1)])
def test_messages_agree_with_a_loop_over_all_pairs(size):
    torch.manual_seed(0)
    values, images = torch.rand(2, 2, 3, *size, dtype=torch.float64)
    expected = brute_force_messages(values, images, 3, 2.0, 0.1)
    found = map_scenes.pairwise_messages(values, images, 3, 2.0, 0.1)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_crf_removes_a_speck_but_keeps_an_edge():
    images = torch.zeros(1, 3, 20, 20)
    images[..., 10:] = 3.0
    probabilities = torch.full((1, 2, 20, 20), 0.3)
    probabilities[:, 0, :, :10] = probabilities[:, 1, :, 10:] = 0.7
    probabilities[0, :, 5, 5] = torch.tensor([0.4, 0.6])
    refined = map_scenes.refine_with_crf(probabilities, images).argmax(1)[0]
    assert (refined[:, :10] == 0).all() and (refined[:, 10:] == 1).all()


def test_crf_leaves_no_seams():
    """Five iterations of five pixels reach less far than a quarter of the overlap."""
    image = picture(200, 300)
    noise = np.random.default_rng(0).normal(0, 40, image.shape)
    image = np.clip(image + noise, 0, 255).astype(np.uint8)
    padded = np.pad(image, ((0, 24), (0, 20), (0, 0)), "edge")
    whole = map_scenes.predict_window(Colour(), lc.preprocess_image(padded), crf=True)
    refined = predict(Colour(), image, tile=256, overlap=128, crf=True)
    assert (refined == whole.argmax(1)[0, :200, :300].numpy()).mean() > 0.999
    assert (refined != predict(Colour(), image, tile=256)).mean() > 0.01


def test_scales_are_a_mean_of_probabilities():
    torch.manual_seed(0)
    images, model = torch.randn(2, 3, 8, 12), nn.Conv2d(3, 4, 3, padding=1).eval()
    scaled = map_scenes.predict_window(model, images, scales=(0.5, 1, 2)).exp()
    assert scaled.shape == (2, 4, 8, 12)
    assert torch.allclose(scaled.sum(1), torch.ones(2, 8, 12), atol=1e-5)
    each = [map_scenes.predict_window(model, images, scales=[scale]).softmax(1) for scale in (0.5, 1, 2)]
    assert torch.allclose(scaled, torch.stack(each).mean(0), atol=1e-6)


@pytest.mark.parametrize(
    "name",
    ["deeplabv3 resnet50", "deeplabv3 mobilenet_v3_large", "deeplabv3 efficientnet_lite0",
     "deeplabv3 resnet34", "unet efficientnet_lite0", "unet resnet34", "segformer mit_b0"],
)  # fmt: skip
def test_folded_batch_norm_predicts_the_same(name):
    torch.manual_seed(0)
    architecture, backbone = name.split()
    model = lc.DeepLabV3Segmentation(3, backbone, None, architecture).eval()
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.normal_(0, 0.1), norm.running_var.uniform_(0.5, 2)
        norm.weight.data.uniform_(0.5, 2)
    before = copy.deepcopy(model.state_dict())
    images = torch.rand(1, 3, 64, 64)
    folded = map_scenes.fold_batch_norm(model)
    left = sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert left == 0 or backbone == "mit_b0"  # which has none behind a convolution
    with torch.inference_mode():
        expected = model(images)
        assert torch.allclose(folded(images), expected, atol=1e-4 * expected.abs().max().item())
        with torch.autocast("cpu", torch.bfloat16):
            expected, found = model(images), map_scenes.fold_batch_norm(model, torch.bfloat16)(images)
        assert (found - expected).abs().max() < 0.1 * expected.std() + 0.05 * expected.abs().max()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# ---- Places, values and legends as other programs have them


@pytest.mark.parametrize("kind", ["jp2", "vrt", "img", "jpg", "png"])
def test_a_scene_keeps_its_place_whatever_its_format(kind, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    from rasterio.shutil import copy

    source = save_tif(tmp_path / "source.tif", picture(64, 96))
    driver = {"jp2": "JP2OpenJPEG", "vrt": "VRT", "img": "HFA", "jpg": "JPEG", "png": "PNG"}[kind]
    copy(source, tmp_path / f"scene.{kind}", driver=driver)
    map_scenes.predict_scene(Colour(), tmp_path / f"scene.{kind}", tmp_path, tile=64)
    with rasterio.open(source) as scene, rasterio.open(tmp_path / "scene_classes.tif") as made:
        assert (made.crs, made.transform) == (scene.crs, scene.transform)


def test_a_picture_is_placed_by_a_world_file_and_no_overlay_by_a_stale_one(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    Image.fromarray(picture(64, 96)).save(tmp_path / "scene.jpg")
    (tmp_path / "scene.jgw").write_text("1\n0\n0\n-1\n500000.5\n5599999.5\n")
    (tmp_path / "scene_overlay.wld").write_text("9\n0\n0\n-9\n0\n0\n")
    map_scenes.predict_scene(Colour(), tmp_path / "scene.jpg", tmp_path, tile=64)
    for name in ("scene_classes.tif", "scene_overlay.png"):
        with rasterio.open(tmp_path / name) as made:
            assert made.transform == rasterio.Affine(1, 0, 500_000, 0, -1, 5_600_000), name


def test_ground_control_points_are_named_with_the_cure(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    from rasterio.control import GroundControlPoint

    corners = ((0, 0), (0, 96), (64, 0), (64, 96))
    gcps = [GroundControlPoint(row, column, 500_000 + column, 5_600_000 - row) for row, column in corners]
    source = save_tif(tmp_path / "scene.tif", picture(64, 96), crs=None, transform=None)
    with rasterio.open(source, "r+") as scene:
        scene.gcps = (gcps, rasterio.crs.CRS.from_epsg(32633))
    with pytest.warns(UserWarning, match=r"ground control points.*rio warp \S+ scene_placed.tif"):
        map_scenes.predict_scene(Colour(), source, tmp_path, tile=64)


def test_the_map_holds_an_attribute_table_and_what_made_it(tmp_path, checkpoint):
    rasterio = pytest.importorskip("rasterio")
    save_tif(tmp_path / "placed.tif", picture(64, 64))
    Image.fromarray(picture(64, 64)).save(tmp_path / "plain.png")
    model = map_scenes.load_ensemble([checkpoint], "cpu")
    for name in ("placed.tif", "plain.png"):
        map_scenes.predict_scene(model, tmp_path / name, tmp_path, tile=64)
        made = tmp_path / name.replace(".", "_classes.")
        digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:16]
        with rasterio.open(made) as dataset:
            assert dataset.tags()["CHECKPOINT"] == f"best_model.pth sha256:{digest}"
        table = ElementTree.parse(f"{made}.aux.xml").find(".//GDALRasterAttributeTable")
        assert [name.text for name in table.iter("Name")] == ["Value", "Class", "Red", "Green", "Blue"]
        rows = [[cell.text for cell in row] for row in table.iter("Row")]
        assert rows == [[str(i), NAMES[i], *map(str, PALETTE[i].tolist())] for i in range(3)]


@pytest.mark.parametrize("turn", ["south-up", "rotated"])
def test_a_turned_map_says_so(turn, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    place = rasterio.Affine(1, 0, 5e5, 0, 1, 56e5) if turn == "south-up" else rasterio.Affine.rotation(30)
    source = save_tif(tmp_path / "scene.tif", picture(64, 64), transform=place)
    with pytest.warns(UserWarning, match=r"rotated or south-up.*gdalwarp -r near"):
        map_scenes.predict_scene(Colour(), source, tmp_path, tile=64)
    with rasterio.open(tmp_path / "scene_classes.tif") as made:
        assert "gdalwarp" in made.tags()["NOTE"]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda v: v + 1000, "Sentinel-2 adds 1000 .*-scale 1000 11000 0 10000"),
        (lambda v: (v / 10_000).astype(np.float32), "reflectance 0..1.*-scale 0 1 0 10000"),
        (lambda v: v * 0 + 7000 + v, "sensor, units and season"),
        (lambda v: v, None),
    ],
)
def test_values_never_learnt_from_are_told_with_the_cause(change, cause, tmp_path):
    values = np.random.default_rng(0).integers(240, 1260, (64, 64, 3)).astype(np.uint16)
    source = save_tif(tmp_path / "scene.tif", change(values))
    said = list(geo.odd_values(source, (1, 2, 3), [[250, 1250]] * 3))
    assert len(said) == (cause is not None)
    assert cause is None or re.search(cause, said[0])


@pytest.mark.parametrize("system", ["EPSG:4326", "EPSG:3857"])
def test_areas_across_180_degrees_are_those_on_the_ground(system):
    rasterio = pytest.importorskip("rasterio")
    size, edge = (1e-4, 180.0) if system == "EPSG:4326" else (10, 20_037_508.342789244)
    transform = rasterio.Affine(size, 0, edge - 3.5 * size, 0, -size, 0)
    scene = geo.Scene(4, 7, None, rasterio.crs.CRS.from_string(system), transform)
    there = geo.Scene(4, 7, None, scene.crs, rasterio.Affine(size, 0, 0, 0, -size, 0))
    assert geo.pixel_hectares(scene) == pytest.approx(geo.pixel_hectares(there), rel=1e-6)


def name_bands(path: Path, *names: str) -> Path:
    with pytest.importorskip("rasterio").open(path, "r+") as dataset:
        dataset.descriptions = names
    return path


def test_bands_of_other_names_and_pixels_of_other_size_are_told(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    tile = name_bands(save_tif(tmp_path / "tile.tif", picture(64, 64)), "red", "green", "blue")
    tile = geo.names_and_metres(tile, (1, 2, 3))
    same = name_bands(save_tif(tmp_path / "same.tif", picture(48, 80)), "Red", "Green", "Blue")
    unnamed = save_tif(tmp_path / "unnamed.tif", picture(48, 80), crs=None)
    assert not [*geo.unlike_tile(same, tile, (1, 2, 3)), *geo.unlike_tile(unnamed, tile, (1, 2, 3))]
    turned = name_bands(save_tif(tmp_path / "turned.tif", picture(48, 80)), "blue", "green", "red")
    other = name_bands(save_tif(tmp_path / "other.tif", picture(48, 80)), "B4", "B3", "B2")
    assert not list(geo.unlike_tile(other, tile, (1, 2, 3))), "they may well be the same"
    (told,) = geo.unlike_tile(turned, tile, (1, 2, 3))
    assert "named blue, green, red, those of the training tiles red, green, blue" in told
    coarse = save_tif(
        tmp_path / "coarse.tif", picture(48, 80), transform=rasterio.Affine(30, 0, 0, 0, -30, 0)
    )
    (told,) = geo.unlike_tile(coarse, tile, (1, 2, 3))
    assert "are 30 m wide, those of the training tiles 10 m" in told
    cure = told.split("resample it: ")[1].split()
    assert cure[:6] == ["gdal_translate", "-r", "cubic", "-outsize", "240", "144"]
    if not shutil.which(cure[0]):
        return
    with rasterio.open(coarse, "r+") as dataset:
        dataset.write_mask(np.arange(80)[None].repeat(48, 0) < 20)
    subprocess.run(cure, check=True, cwd=tmp_path, capture_output=True)
    with rasterio.open(tmp_path / "coarse_resampled.tif") as made:
        assert (made.width, made.height) == (240, 144)
        assert (made.dataset_mask() > 0).mean() == 0.25, "what is hidden stays hidden"
    assert not list(geo.unlike_tile(tmp_path / "coarse_resampled.tif", tile, (1, 2, 3)))


def test_an_alpha_is_not_scaled_with_the_values(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    values = np.random.default_rng(0).integers(1240, 2260, (64, 64, 4)).astype(np.uint16)
    values[..., 3] = np.where(np.arange(64) < 16, 0, 65535)
    source = save_tif(tmp_path / "scene.tif", values, photometric="RGB", alpha="YES")
    [said] = geo.odd_values(source, (1, 2, 3), [[250, 1250]] * 3)
    cure = said[said.index("gdal_translate") :].split()
    assert " ".join(cure).endswith(f"-b 1 -b 2 -b 3 -mask 4 {source} scene_rescaled.tif")
    if not shutil.which(cure[0]):
        return
    subprocess.run(cure, check=True, cwd=tmp_path, capture_output=True)
    with rasterio.open(tmp_path / "scene_rescaled.tif") as made:
        assert (made.dataset_mask() > 0).mean() == 0.75
    assert not list(geo.odd_values(tmp_path / "scene_rescaled.tif", (1, 2, 3), [[250, 1250]] * 3))


def test_maps_beside_their_scenes_are_not_mapped(tmp_path, capsys):
    for name in ("a.png", "a_classes.png", "a_overlay.png", "a_legend.png", "b_classes.png"):
        Image.fromarray(picture(8, 8)).save(tmp_path / name)
    assert [path.name for path in map_scenes.list_scenes(tmp_path)] == ["a.png", "b_classes.png"]
    assert "3 images called a_classes or the like" in capsys.readouterr().out


def test_a_scene_without_a_transform_has_no_place(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    source = save_tif(tmp_path / "scene.tif", picture(8, 8), transform=rasterio.Affine.identity())
    with (
        pytest.warns(UserWarning, match="not where in it it lies"),
        geo.open_scene(source, (1, 2, 3), None) as scene,
    ):
        assert scene.crs is None and geo.pixel_hectares(scene) is None


def test_null_cells_of_a_grass_grid_are_refused(tmp_path):
    pytest.importorskip("rasterio")
    head = "north: 2\nsouth: 0\neast: 3\nwest: 0\nrows: 2\ncols: 3\n"
    (tmp_path / "labels.asc").write_text(head + "1 * 2\n0 2 2\n")
    with (
        pytest.raises(lc.InputError, match="export it anew"),
        geo.open_unscaled(tmp_path / "labels.asc", (1,)),
    ):
        pass
    (tmp_path / "labels.asc").write_text(head + "1 255 2\n0 2 2\n")
    with geo.open_unscaled(tmp_path / "labels.asc", (1,)) as grid:
        assert (grid.height, grid.width) == (2, 3)


def test_what_is_converted_and_what_lies_twice_is_told_before_the_first_map(tmp_path):
    ortho = save_tif(tmp_path / "ortho.tif", picture(64, 64))
    cloud_mask = save_tif(tmp_path / "ortho_udm2.tif", np.ones((64, 64, 8), np.uint8))
    notes = map_scenes.open_on_trial([ortho, cloud_mask], {"bands": [1, 2, 3], "ranges": None}, None)
    assert notes[0] == f"{cloud_mask}: of 8 band(s), uint8, of which the model sees 1, 2, 3"
    assert (
        notes[1] == f"{ortho} and {cloud_mask} share ground: in area.csv it counts twice where both have data"
    )
    assert not map_scenes.open_on_trial([ortho], {"bands": [1, 2, 3], "ranges": None}, None)
    other = save_tif(tmp_path / "other.tif", np.ones((64, 64, 3), np.uint8))
    four = save_tif(tmp_path / "four.tif", np.ones((64, 64, 4), np.uint8))
    map_scenes.open_on_trial(
        [four], {"bands": [1, 2, 3, 4], "ranges": None}, other
    )  # no tile to compare with


def test_the_tile_that_a_model_learnt_from_is_found_where_it_lay(tmp_path, checkpoint):
    assert map_scenes.tile_learnt_from(checkpoint) is None
    content = lc.load_checkpoint(checkpoint) | {"labelled_pixels": {"gone.png": None, "a.png": None}}
    torch.save(content | {"config": {"train_image_dir": str(tmp_path)}}, checkpoint)
    assert map_scenes.tile_learnt_from(checkpoint) is None
    Image.fromarray(picture(64, 64)).save(tmp_path / "a.png")
    assert map_scenes.tile_learnt_from(checkpoint) == tmp_path / "a.png"
    (checkpoint.parent / "tiles").mkdir()
    Image.fromarray(picture(64, 64)).save(checkpoint.parent / "tiles/a.png")
    torch.save(content | {"config": {"train_image_dir": "tiles"}}, checkpoint)
    assert map_scenes.tile_learnt_from(checkpoint).samefile(checkpoint.parent / "tiles/a.png")


def test_nodata_that_nobody_declared_is_asked_about(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    values = np.random.default_rng(0).integers(240, 1260, (64, 64, 3)).astype(np.int16)
    values[:, :8] = -9999
    source = save_tif(tmp_path / "scene.tif", values)
    [said] = geo.odd_values(source, (1, 2, 3), [[250, 1250]] * 3)
    cure = said.split("declare it: ")[1].split()
    assert cure[:2] == ["rio", "edit-info"] and "-9999" in said and "12%" in said
    subprocess.run([Path(sys.executable).with_name("rio"), *cure[1:]], check=True)
    assert not list(geo.odd_values(source, (1, 2, 3), [[250, 1250]] * 3))
    with rasterio.open(source) as scene:
        assert scene.nodata == -9999


@pytest.mark.parametrize(("darkest", "asked"), [(20, True), (0, False)])
def test_a_black_gap_in_eight_bits_is_asked_about_and_a_shadow_is_not(darkest, asked, tmp_path):
    grey = np.random.default_rng(0).integers(darkest, 120, (64, 64, 1))
    values = np.uint8(grey + np.random.default_rng(1).integers(0, 3, (64, 64, 3)))
    values[:, :8] = 0
    if not asked:  # what is dark lies next to what is darker
        values[:, 8:24] //= 16
    source = save_tif(tmp_path / "scene.tif", values)
    said = list(geo.odd_values(source, (1, 2, 3), None))
    assert len(said) == asked and all("12% of its pixels hold 0" in line for line in said)
