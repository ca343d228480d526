"""Where the host would wait for a GPU, found without one.

PyTorch's meta device stands in for the GPU: its tensors have a shape and no values. So it tells a tensor that
is on the wrong side, and every place where the host asks for a value. Kernels, memory and speed it does not.
"""

import contextlib
import sys
from functools import partial

import pytest
import torch
from conftest import ROOT
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import landcover_segmentation as lc

sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "benchmarks")]
import map_scenes
import rejected

GPU = torch.device("meta")


class WaitError(AssertionError):
    """The host waited for the GPU."""


class OrderError(AssertionError):
    """The result depends on the order in which the GPU's threads come, so that a seed does not decide it."""


class DoubleError(AssertionError):
    """A number of 64 bits on the GPU, which Apple's do not know."""


class WatchedGpu(TorchDispatchMode):
    """Raises WaitError at an operation for which the host waits: it needs values, or a copy holds it up."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        target = kwargs.get("device") or (tensors[0].device if tensors else None)
        if (
            tensors
            and tensors[0].device.type != target.type
            and not (target == GPU and kwargs.get("non_blocking"))
        ):
            raise WaitError(f"{func}: from {tensors[0].device} to {target}")
        if func is torch.ops.aten._local_scalar_dense.default and tensors[0].device == GPU:
            raise WaitError(f"{func}: a single value")
        if (
            func is torch.ops.aten.nll_loss2d_forward.default and args[3]
        ):  # of sum and mean; PyTorch warns of it on CUDA
            raise OrderError(f"{func}: reduces its losses itself")
        try:
            result = func(*args, **kwargs)
        except NotImplementedError as error:  # it has no values to say
            raise WaitError(f"{func}: {error}") from error
        if isinstance(result, torch.Tensor) and (result.device, result.dtype) == (GPU, torch.float64):
            raise DoubleError(f"{func}")
        return result


@pytest.fixture(autouse=True)
def autocast_knows_the_gpu(monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


class Batches(list):
    """A loader that counts what was taken of it."""

    taken = 0

    def __iter__(self):
        for batch in super().__iter__():
            self.taken += 1
            yield batch


def new_batches(points: int = 20) -> Batches:
    def batch():
        targets = torch.full((2, 64 * 64), lc.IGNORE_INDEX)
        targets[:, :points] = torch.randint(0, 5, (2, points))
        return torch.rand(2, 3, 64, 64), targets.view(2, 64, 64)

    return Batches(batch() for _ in range(2))


def new_model(backbone: str = "mobilenet_v3_large") -> torch.nn.Module:
    """A real network, or what little of one shows what else is done on the GPU."""
    if backbone == "small":
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1)).to(GPU)
    architecture = "unet" if backbone in lc.LITE_BACKBONES else "deeplabv3"
    return lc.DeepLabV3Segmentation(5, backbone, None, architecture).to(GPU)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.unique(),
        lambda x: x.long().bincount(minlength=3),
        lambda x: x.cpu(),
        lambda x: x.to("cpu", non_blocking=True),
        lambda x: torch.zeros(3).to(x.device),
    ],
)
def test_each_way_of_waiting_is_seen(wait):
    with WatchedGpu(), pytest.raises(WaitError):
        wait(torch.zeros(3, device=GPU))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_loss_that_no_seed_decides_is_seen(reduction):
    images, targets = torch.zeros(2, 3, 8, 8, device=GPU), torch.zeros(2, 8, 8, dtype=torch.int64, device=GPU)
    with WatchedGpu(), pytest.raises(OrderError):
        torch.nn.functional.cross_entropy(images, targets, reduction=reduction)


def test_what_is_saved_has_left_the_gpu(tmp_path):
    """The file opens on machines without one. The stand-in has no values to give, and says so if asked."""
    model = new_model()
    with pytest.raises(NotImplementedError, match="meta tensor"):
        lc.save_checkpoint(tmp_path / "model.pth", model)
    values = {"a": torch.ones(2), "b": [1, {"c": (torch.zeros(1), "text")}]}
    assert lc.on_host(values) == values and not (tmp_path / "model.pth").exists()
    for where in ({"a": torch.ones(2, device=GPU)}, {"b": [(torch.ones(2, device=GPU),)]}):
        with pytest.raises(NotImplementedError):
            lc.on_host(where)


def test_host_works_as_ever():
    with WatchedGpu():
        on_gpu = torch.arange(3).to(GPU, non_blocking=True)
        assert torch.arange(3).nonzero().tolist() == [[1], [2]]
        assert (on_gpu + torch.zeros(3, device=GPU)).device == GPU
        with pytest.raises(RuntimeError, match="device"):
            on_gpu + torch.arange(3)


def objective(**settings):
    return partial(lc.UnlabelledPixels, total_steps=10, **settings)


@pytest.mark.parametrize(
    ("backbone", "teach", "weights"),
    [
        ("small", None, None),
        ("small", objective(pseudo_label_threshold=0.9, point_evidence=False), None),
        ("small", partial(rejected.Rejected, total_steps=10, pairwise_weight=0.1), None),
        ("small", objective(), torch.ones(5)),
        ("mobilenet_v3_large", objective(), None),
        ("efficientnet_lite0", objective(), None),
        ("resnet50", objective(), None),
    ],
)
def test_training_waits_for_the_gpu_at_the_end_of_the_epoch_alone(backbone, teach, weights):
    """teach: makes what the unlabelled pixels teach. Reading the mean loss is what waits at the end."""
    model, batches = new_model(backbone), new_batches()
    criterion = lc.PartialCrossEntropyLoss(class_weights=weights).to(GPU)
    unlabelled = teach and teach(model)
    optimizer = torch.optim.AdamW(model.parameters(), fused=False, foreach=True)
    with WatchedGpu(), pytest.raises(WaitError, match="to cpu"):
        lc.train_epoch(model, batches, criterion, optimizer, GPU, unlabelled=unlabelled, multi_scale=1.4)
    assert batches.taken == len(batches)
    assert not teach or unlabelled.step == len(batches)


@pytest.mark.parametrize("judge", [lc.Scores, lc.PointScores])
def test_validation_waits_for_the_gpu_at_its_end_alone(judge):
    model, batches = new_model(), new_batches()
    with WatchedGpu(), pytest.raises(WaitError, match="to cpu"):
        lc.validate(model, batches, 5, GPU, judge=judge)
    assert batches.taken == len(batches)


def test_prediction_stays_on_the_gpu():
    model = map_scenes.fold_batch_norm(new_model().eval())
    images, targets = (tensor.to(GPU) for tensor in new_batches()[0])
    with WatchedGpu(), torch.inference_mode():
        probabilities = lc.predict_probabilities(partial(lc.at_scale, model, 0.75), images, views=8)
        refined = map_scenes.refine_with_crf(probabilities, images)
        assert refined.shape == probabilities.shape == (2, 5, 64, 64)
        assert lc.ensemble_predict([model, model], images).shape == (2, 64, 64)
        assert lc.confusion_matrix(refined.argmax(1), targets, 5).device == GPU
