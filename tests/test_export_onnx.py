"""The exported file: it does what the model does, at every size, fed as Deepness in QGIS feeds it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import PYTHON, ROOT

import landcover_segmentation as lc

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
sys.path.insert(0, str(ROOT / "tools"))
import export_onnx

NAMES, COLORS = ["Wasser", "forêt", "a, b"], ["#0000ff", "#1e6b34", "red"]


def make_model(
    backbone="efficientnet_lite0", architecture="unet", bands=lc.RGB_BANDS
) -> lc.DeepLabV3Segmentation:
    """An untrained model whose logits are scaled and shifted so that it does not say one class everywhere."""
    torch.manual_seed(0)
    model = lc.DeepLabV3Segmentation(len(NAMES), backbone, None, architecture, bands).eval()
    model.normalisation = {"mean": [0.4] * len(bands), "std": [0.2] * len(bands)}
    model.class_names, model.class_colors = NAMES, COLORS
    last = [module for module in model.classifier.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    with torch.no_grad():
        image = np.dstack([picture(96, 96, seed)[..., 0] for seed in range(len(bands))])
        logits = model(lc.preprocess_image(image, **model.normalisation))
        mean, spread = (getattr(logits, name)((0, 2, 3)) for name in ("mean", "std"))
        last.bias.copy_((last.bias - mean) / spread)
        last.weight /= spread.view(-1, 1, 1, 1)
    return model


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Broad blotches of colour, (H, W, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, height // 16 + 2, width // 16 + 2))
    fine = torch.nn.functional.interpolate(
        torch.from_numpy(coarse)[None].float(), (height, width), mode="bilinear"
    )
    return fine[0].permute(1, 2, 0).byte().numpy()


def session_of(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def deepness(session, tiles: np.ndarray) -> np.ndarray:
    """What Deepness makes of tiles (B, N, N, 4) uint8, in its own order: (B, N, N) class ids.

    Source: https://github.com/PUTvision/qgis-plugin-deepness, src/deepness/processing (models/model_base.py,
    models/preprocessing_utils.py, map_processor/map_processor_segmentation.py).
    """
    (given,), (wanted,) = session.get_inputs(), session.get_outputs()
    known = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    assert known["model_type"] == "Segmentor"
    assert all(type(side) is int for side in given.shape[-2:]), (
        "it sets its tile size from the declared shape"
    )
    assert wanted.shape[-2:] == given.shape[-2:] == [known["tile_size"]] * 2
    assert wanted.shape[-3] == len(known["class_names"])
    mean, std = (np.float32(known[f"standardization_{name}"]) for name in ("mean", "std"))
    images = (np.float32(tiles[..., : given.shape[-3]] * 1.0 / 255.0) - mean) / std
    (result,) = session.run(None, {given.name: images.transpose(0, 3, 1, 2)})
    np.testing.assert_allclose(result.sum(1), 1, atol=1e-5)
    result[result < known["seg_thresh"]] = 0
    return result.argmax(1)


def assert_same_classes(model, image: np.ndarray, given: np.ndarray) -> None:
    """Class ids equal those of `predict_class_ids`, but where the best two are all but equally likely."""
    best = (
        lc.predict_probabilities(model, lc.preprocess_image(image, **model.normalisation))[0]
        .topk(2, 0)
        .values
    )
    clear = (best[0] - best[1] > 1e-4).numpy()
    expected = lc.predict_class_ids(model, image)
    assert clear.mean() > 0.99 and len(np.unique(expected)) > 1, "the test would not notice a difference"
    assert (given == expected)[clear].all()


def test_deepness_draws_the_map_that_the_module_draws(tmp_path):
    pytest.importorskip("timm")
    model = make_model()
    lc.save_checkpoint(tmp_path / "best model.pth", model, NAMES, COLORS)
    command = [
        *PYTHON,
        ROOT / "tools/export_onnx.py",
        "--checkpoint",
        "best model.pth",
        "--output",
        "für QGIS.onnx",
    ]
    run = subprocess.run(
        [*command, "--tile", "90", "--resolution", "12.5"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best model.pth", "für QGIS.onnx"], (
        "one file, whole"
    )
    session = session_of(tmp_path / "für QGIS.onnx")
    known = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    assert known["class_names"] == dict(zip("012", NAMES, strict=True))
    assert known["class_colors"] == dict(zip("012", ["#0000ff", "#1e6b34", "#ff0000"], strict=True))
    assert known["resolution"] == 12.5 and known["seg_small_segment"] == 0
    images = [picture(90, 90, seed) for seed in (7, 8)]
    tiles = np.stack(
        [np.dstack([image, np.full((90, 90), 255, np.uint8)]) for image in images]
    )  # QGIS gives alpha too
    for image, given in zip(images, deepness(session, tiles), strict=True):
        assert_same_classes(model, image, given)


@pytest.mark.parametrize(
    ("architecture", "backbone"),
    [("deeplabv3", "efficientnet_lite0"), ("unet", "efficientnet_lite0"), ("segformer", "mit_b0")],
)
def test_a_file_for_any_size_takes_any_size_and_batch(tmp_path, architecture, backbone):
    if architecture == "segformer":
        pytest.importorskip("segmentation_models_pytorch")
    model = make_model(backbone, architecture)
    assert export_onnx.export(model, tmp_path / "any.onnx") <= export_onnx.TOLERANCE
    session = session_of(tmp_path / "any.onnx")
    rng = np.random.default_rng(0)
    for height, width in [(1, 1), (32, 96), *rng.integers(2, 150, (3, 2)).tolist()]:
        images = [picture(height, width, seed) for seed in range(int(rng.integers(1, 4)))]
        feed = np.stack(images).transpose(0, 3, 1, 2) / np.float32(255)
        (given,) = session.run(None, {"images": feed})
        for image, probabilities in zip(images, given, strict=True):
            expected = lc.predict_probabilities(model, lc.preprocess_image(image, **model.normalisation))[
                0
            ].numpy()
            np.testing.assert_allclose(np.log(probabilities), np.log(expected), atol=export_onnx.TOLERANCE)


@pytest.mark.parametrize("bands", [[2, 1], [3, 2, 1, 4]])
def test_a_file_takes_the_bands_of_its_model(tmp_path, bands):
    model = make_model(bands=bands)
    export_onnx.export(model, tmp_path / "bands.onnx", tile=64)
    session = session_of(tmp_path / "bands.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["bands"]) == bands
    image = np.dstack([picture(64, 64, seed)[..., 0] for seed in bands])
    (given,) = session.run(None, {"images": image.transpose(2, 0, 1)[None] / np.float32(255)})
    expected = lc.predict_probabilities(model, lc.preprocess_image(image, **model.normalisation)).numpy()
    np.testing.assert_allclose(np.log(given), np.log(expected), atol=export_onnx.TOLERANCE)
    assert np.ptp(expected[:, 0]) > 0.1, "the test would not notice a constant"


def test_what_does_not_do_as_the_model_does_is_not_written(tmp_path, monkeypatch):
    model, path = make_model(), tmp_path / "m.onnx"
    path.write_bytes(b"earlier")
    run = torch.onnx.export

    def break_it(network, *arguments, **options):
        with torch.no_grad():
            network.mean += 0.1
            run(network, *arguments, **options)
            network.mean -= 0.1

    monkeypatch.setattr(torch.onnx, "export", break_it)
    with pytest.raises(lc.InputError, match=r"m\.onnx: not written"):
        export_onnx.export(model, path, tile=64)
    assert path.read_bytes() == b"earlier" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_package_is_one_line(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(lc.InputError, match=rf"{package}: pip install onnx onnxruntime"):
        export_onnx.export(make_model(), tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "none.pth"], "none.pth: no such file"),
        (["--tile", "8"], "--tile 8: must be at least 32"),
        (["--resolution", "0"], "--resolution 0: must be above 0"),
        (["--resolution", "nan"], "--resolution nan: must be above 0"),
        (["--output", "."], "--output .: is a folder"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert export_onnx.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
