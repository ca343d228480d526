"""Rule 7: every mistake of the user's is one line before training, exit code 2, and nothing is written."""

import importlib.util
import re
import struct
import sys
import zlib

import cv2
import numpy as np
import pytest
import tifffile
import torch
from conftest import SCRIPT, flags, write_tiles
from PIL import Image

import landcover_segmentation as lc


def complaint(arguments: list[str], data, capsys) -> str:
    """Runs the program in this process; returns its line of complaint and checks that there is no more."""
    assert lc.main(arguments) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.strip()]
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    assert not (data.parent / "out").exists(), "nothing is written"
    return lines[0]


def image_file(data):
    return data / "train/images/tile_1.png"


def mask_file(data):
    return data / "train/masks/tile_1.png"


def save_mask(data, array, split="train"):
    cv2.imwrite(str(data / split / "masks/tile_1.png"), array)


def missing_folder(data):
    (data / "train/images").rename(data / "train/elsewhere")


def empty_folder(data):
    for path in (data / "val/images").iterdir():
        path.unlink()


def truncated_png(data):
    image_file(data).write_bytes(image_file(data).read_bytes()[:-800])


def truncated_jpeg(data):
    Image.open(image_file(data)).save(data / "train/images/tile_1.jpg")
    image_file(data).unlink()
    path = data / "train/images/tile_1.jpg"
    path.write_bytes(path.read_bytes()[:-600])


def float_image(data):
    image_file(data).unlink()
    Image.fromarray(np.random.rand(64, 64).astype(np.float32)).save(data / "train/images/tile_1.tif")


def deep_image(data, name="tile_1.png", channels=3):
    image_file(data).unlink()
    deep = (np.random.rand(64, 64, channels) * 4000).astype(np.uint16)
    assert cv2.imwrite(str(data / "train/images" / name), deep.squeeze())


def planar_image(data):
    image_file(data).unlink()
    deep = (np.random.rand(3, 64, 64) * 4000).astype(np.uint16)
    tifffile.imwrite(data / "train/images/tile_1.tif", deep, planarconfig="separate", photometric="rgb")


def same_name_twice(data):
    Image.open(image_file(data)).save(data / "train/images/tile_1.jpg")


def single_class(data):
    for path in (data / "train/masks").iterdir():
        Image.fromarray(np.full_like(Image.open(path), 2)).save(path)


ids = np.array([[0, 1], [2, 7]], np.uint8).repeat(32, 0).repeat(32, 1)

BROKEN_DATA = {
    "missing folder": (missing_folder, ["train/images", "no such file or directory", "*_DIR"]),
    "empty folder": (empty_folder, ["val/images", "holds no image"]),
    "image without mask": (
        lambda d: mask_file(d).unlink(),
        ["images/tile_1.png", "has no mask", "train/masks"],
    ),
    "mask without image": (lambda d: image_file(d).unlink(), ["masks/tile_1.png", "has no image"]),
    "same name twice": (same_name_twice, ["tile_1.png", "same name"]),
    "names that differ in case alone": (
        lambda d: Image.open(image_file(d)).save(d / "train/images/TILE_1.png"),
        ["tile_1.png: TILE_1.png has the same name", "rename one"],
    ),
    "one class where images have data": (
        single_class,
        ["train/masks", "labels one class where images have data"],
    ),
    "sizes differ": (
        lambda d: save_mask(d, np.zeros((64, 60), np.uint8)),
        ["masks/tile_1.png", "60x64", "64x64"],
    ),
    "RGB mask": (
        lambda d: save_mask(d, np.zeros((64, 64, 3), np.uint8)),
        ["masks/tile_1.png", "tools/convert_masks.py"],
    ),
    "ids out of range": (lambda d: save_mask(d, ids), ["masks/tile_1.png", "0, 1, 2, 7", "NUM_CLASSES is 3"]),
    "ids out of range in val": (lambda d: save_mask(d, ids, "val"), ["val/masks/tile_1.png", "0, 1, 2, 7"]),
    "16-bit ids": (lambda d: save_mask(d, ids.astype(np.uint16) * 300), ["masks/tile_1.png", "2100"]),
    "JPEG for a mask": (
        lambda d: Image.fromarray(ids).save(mask_file(d), format="JPEG"),
        ["masks/tile_1.png", "JPEG", "PNG"],
    ),
    "no labelled pixel": (
        lambda d: save_mask(d, np.full((64, 64), 255, np.uint8)),
        ["masks/tile_1.png", "no labelled pixel"],
    ),
    "empty file": (lambda d: image_file(d).write_bytes(b""), ["images/tile_1.png", "cannot be read"]),
    "text for a mask": (lambda d: mask_file(d).write_text("mask"), ["masks/tile_1.png", "cannot be read"]),
    "truncated PNG": (truncated_png, ["images/tile_1.png", "cannot be read"]),
    "truncated JPEG": (truncated_jpeg, ["images/tile_1.jpg", "cannot be read"]),
    "float image": (float_image, ["images/tile_1.tif", "8 bits", "make them alike"]),
    "16-bit RGB PNG": (deep_image, ["images/tile_1.png", "8 bits", "make them alike"]),
    "16-bit RGB TIFF": (
        lambda d: deep_image(d, "tile_1.tif"),
        ["images/tile_1.tif", "8 bits", "make them alike"],
    ),
    "16-bit RGB TIFF in planes": (planar_image, ["images/tile_1.tif", "8 bits", "make them alike"]),
    "mask twice": (
        lambda d: mask_file(d).with_suffix(".PNG").write_bytes(b""),
        ["masks/tile_1", "same name"],
    ),
    "16-bit grey PNG": (
        lambda d: deep_image(d, channels=1),
        ["images/tile_1.png", "8 bits", "make them alike"],
    ),
}


@pytest.mark.parametrize("case", BROKEN_DATA)
def test_broken_data(case, data, capsys):
    damage, wanted = BROKEN_DATA[case]
    damage(data)
    message = complaint(flags(data), data, capsys)
    assert all(part in message for part in wanted), message


BROKEN_SETTINGS = {
    "no points": ({"num_points": 0}, "NUM_POINTS"),
    "negative points": ({"num_points": -5}, "NUM_POINTS"),
    "points in words": ({"num_points": "many"}, r"'many' must be int \| None"),
    "half a point": ({"num_points": 2.5}, "num-points"),
    "batch of one": ({"batch_size": 1}, "ACCUMULATION_STEPS"),
    "batch of none": ({"batch_size": 0}, "BATCH_SIZE"),
    "crop beyond the tiles": ({"crop_size": 96}, "CROP_SIZE = 96: no tile in .* take 64 or less"),
    "tiny crop": ({"crop_size": 8}, "CROP_SIZE"),
    "no epochs": ({"epochs": 0}, "EPOCHS"),
    "a teacher that never learns": ({"teacher_decay": 1.0}, "TEACHER_DECAY"),
    "a threshold that is no probability": ({"pseudo_label_threshold": 90.0}, "PSEUDO_LABEL_THRESHOLD"),
    "a negative weight": ({"pseudo_label_weight": -0.1}, "PSEUDO_LABEL_WEIGHT"),
    "a scale below 1": ({"multi_scale": 0.5}, "MULTI_SCALE"),
    "too many names": ({"class_names": "a,b,c,d"}, "CLASS_NAMES .*NUM_CLASSES is 3"),
    "one name twice": ({"class_names": "a,b,b"}, "CLASS_NAMES"),
    "one name in two cases": ({"class_names": "a,b,B"}, "CLASS_NAMES"),
    "no such colour": ({"class_colors": "red,green,blurple"}, "CLASS_COLORS"),
    "no such backbone": ({"backbone": "resnet51"}, "BACKBONE is one of .* mobilenet_v3_large.* mit_b5"),
    "no such architecture": ({"architecture": "unte"}, "ARCHITECTURE is one of auto, .* unet"),
    "no such weights": ({"weights": "coco"}, "WEIGHTS"),
    "no such strength": ({"augmentation": "extreme"}, "AUGMENTATION"),
    "no such sampling": ({"point_sampling": "best"}, "POINT_SAMPLING"),
    "no such device": ({"device": "abacus"}, "DEVICE = 'abacus': cannot be used"),
    "device without data": ({"device": "meta"}, "DEVICE = 'meta': cannot be used"),
    "endless seed": ({"seed": 2**70}, "SEED"),
    "wild learning rate": ({"learning_rate": 5}, "LEARNING_RATE"),
    "learning rate in words": ({"learning_rate": "fast"}, "LEARNING_RATE = 'fast': must be"),
    "backbone of another architecture": ({"architecture": "segformer"}, "BACKBONE of segformer .* mit_b0"),
    "weights out of reach": (
        {"weights": "imagenet", "backbone": "mobilenet_v3_large"},
        "WEIGHTS = 'imagenet'",
    ),
    "no such flag": ({"num_pionts": 5}, "num-pionts"),
}


@pytest.mark.parametrize("case", BROKEN_SETTINGS)
def test_broken_settings(case, data, capsys):
    settings, wanted = BROKEN_SETTINGS[case]
    message = complaint(flags(data, **settings), data, capsys)
    assert re.search(wanted, message), message


def test_tiles_below_the_least_crop_get_a_cure_that_helps(data, capsys):
    for split in ("train", "val"):
        write_tiles(data / split, 2, 20)
        for path in (*data.glob(f"{split}/*/tile_[2-9].png"),):
            path.unlink()
    assert "tiles of 32 pixels a side are the least" in complaint(flags(data, crop_size=32), data, capsys)


@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "shp"])
def test_vectors_name_the_tool_that_makes_points_of_them(suffix, data, capsys):
    path = data / f"field.{suffix}"
    path.write_text("{}")
    for split in ("train", "val"):
        message = complaint(flags(data, **{f"{split}_mask_dir": path}), data, capsys)
        assert message.startswith(f"error: {path}: ") and "python tools/labels.py --labels" in message


def test_single_tile(data, capsys):
    for index in range(1, 5):
        for kind in ("images", "masks"):
            (data / f"train/{kind}/tile_{index}.png").unlink()
    assert "single tile" in complaint(flags(data), data, capsys)


def test_output_is_a_file(data, capsys):
    (data / "file").write_text("")
    assert "OUTPUT_DIR" in complaint(flags(data, output_dir=data / "file"), data, capsys)


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "CMYK"])
def test_safe_conversions_are_made_and_said(mode, data, capsys):
    image = Image.open(image_file(data)).convert("RGB")
    expected = np.asarray(image.convert("L").convert("RGB") if mode in ("L", "LA") else image)
    image_file(data).unlink()
    image.convert(mode).save(data / "train/images/tile_1.tif")
    read = lc.read_image(data / "train/images/tile_1.tif")
    assert read.shape == (64, 64, 3)
    assert np.abs(read.astype(int) - expected).max() < 60
    report = lc.check_dataset(lc.LandCoverDataset(data / "train/images", data / "train/masks", 10), 3)
    assert list(report.notes.values()) == [1] and "are read, as 8 bits" in next(iter(report.notes))


def test_palette_and_binary_masks_are_read_as_ids(tmp_path):
    write_tiles(tmp_path, 1)
    ids = lc.read_mask(tmp_path / "masks/tile_0.png")
    palette = Image.fromarray(ids, "P")
    palette.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    palette.save(tmp_path / "palette.png")
    assert (lc.read_mask(tmp_path / "palette.png") == ids).all()
    Image.fromarray(ids > 0).save(tmp_path / "binary.png")
    assert (lc.read_mask(tmp_path / "binary.png") == (ids > 0)).all()


@pytest.mark.parametrize("value", [1.5, float("inf"), -1.0])
def test_numbers_that_are_no_ids_are_refused(value, tmp_path):
    Image.fromarray(np.full((4, 4), value, np.float32)).save(tmp_path / "mask.tif")
    with pytest.raises(lc.InputError, match=r"mask\.tif: holds ids"):
        lc.read_mask(tmp_path / "mask.tif")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_that_is_not_there():
    assert lc.pick_device("auto").type == "cpu"
    with pytest.raises(lc.InputError, match="DEVICE = 'cuda': cannot be used"):
        lc.pick_device("cuda")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_masks_of_few_bits_are_read_as_ids(bits, tmp_path):
    """Written by hand, as GDAL with NBITS writes them: no library here does."""
    ids = np.random.default_rng(0).integers(0, min(2**bits, 6), (16, 24)).astype(np.uint8)
    packed = np.zeros((16, 24 * bits // 8), np.uint8)
    for column in range(24):
        at, shift = divmod(column * bits, 8)
        packed[:, at] |= ids[:, column] << (8 - bits - shift)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 24, 16, bits, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    path = tmp_path / "mask.png"
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for name, body in chunks:
            file.write(
                struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
            )
    assert (lc.read_mask(path) == ids).all()


def test_large_tiles_are_no_attack(data, monkeypatch):
    """Pillow refuses pictures above twice this many pixels, by default some 179 million."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    report = lc.check_dataset(lc.LandCoverDataset(data / "train/images", data / "train/masks"), 3)
    assert len(report.sizes) == 5
    assert Image.MAX_IMAGE_PIXELS == 1000, "other users of Pillow keep their limit"


def test_points_must_be_positive_in_a_notebook_too(data):
    with pytest.raises(lc.InputError, match="NUM_POINTS"):
        lc.LandCoverDataset(data / "train/images", data / "train/masks", -5)
    with pytest.raises(lc.InputError, match="NUM_CLASSES is 2"):
        lc.check_dataset(lc.LandCoverDataset(data / "train/images", data / "train/masks"), 2)


def test_output_that_cannot_be_written(data, capsys):
    (data / "file").write_text("")
    assert "OUTPUT_DIR" in complaint(flags(data, output_dir=data / "file" / "below"), data, capsys)


EDITS = {
    "value": (r"NUM_POINTS: int \| None = 100", "NUM_POINTS: int | None = 50", "(default: 50)", 0),
    "no comment": (r"WEIGHT_DECAY: float = 1e-4  # .*", "WEIGHT_DECAY: float = 0.01", "(default: 0.01)", 0),
    "list over lines": (
        r'CLASS_NAMES: (.*) = \["water",',
        r'CLASS_NAMES: \1 = [\n    "sea",',
        "sea,forest",
        0,
    ),
    "numbers for names": (
        r"CLASS_NAMES: (.*) = \[.*\]",
        r"CLASS_NAMES: \1 = [1, 2, 3, 4, 5, 6]",
        "CLASS_NAMES .* must be",
        2,
    ),
    "no type": (r"NUM_POINTS: int \| None = 100", "NUM_POINTS = None", "NUM_POINTS: keep the type", 2),
    "wrong type": (r"EPOCHS: int = \d+", "EPOCHS: int = 2.5", "EPOCHS = 2.5: must be int", 2),
}


@pytest.mark.parametrize("case", EDITS)
def test_constants_edited_by_hand(case, tmp_path, monkeypatch, capsys):
    """The main way to use the program: the file is edited, then run."""
    pattern, replacement, wanted, code = EDITS[case]
    edited, edits = re.subn(f"^{pattern}", replacement, SCRIPT.read_text(), count=1, flags=re.MULTILINE)
    assert edits == 1
    (tmp_path / SCRIPT.name).write_text(edited)
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("edited", tmp_path / SCRIPT.name)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "edited", module)
    spec.loader.exec_module(module)
    try:
        reached = module.main(["--help"] if code == 0 else [])
    except SystemExit as end:
        reached = end.code
    assert reached == code
    assert re.search(wanted, " ".join("".join(capsys.readouterr()).split()))
