"""Rules 4 and 5: one confusion matrix over dense masks; a batch without labels costs nothing."""

import math

import numpy as np
import pytest
import sklearn.metrics
import torch
import torch.nn.functional as F
import torchmetrics
from conftest import write_tiles
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import landcover_segmentation as lc


def random_batch(seed: int, classes: int, labelled: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, 7, 5, generator=generator, requires_grad=True)
    targets = torch.randint(classes, (2, 7, 5), generator=generator)
    targets[torch.rand(2, 7, 5, generator=generator) > labelled] = 255
    return logits, targets


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(2, 9), st.sampled_from([0.02, 0.3, 1.0]))
def test_loss_and_gradient_agree_with_torch(seed, classes, labelled):
    logits, targets = random_batch(seed, classes, labelled)
    if (targets == 255).all():
        targets[0, 0, 0] = 1
    loss = lc.PartialCrossEntropyLoss()(logits, targets)
    (gradient,) = torch.autograd.grad(loss, logits)
    expected = F.cross_entropy(logits, targets, ignore_index=255)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("balance", [0, 0.5, 1])
def test_balanced_classes_are_torchs_weighted_mean(balance):
    logits, targets = random_batch(3, 4, 0.5)
    targets[targets == 2] = 0  # frequent and absent classes
    counts = np.bincount(targets[targets != 255].numpy(), minlength=4)
    weights = lc.balance_classes(counts, balance)
    assert weights[2] == 0 and (weights * torch.tensor(counts / counts.sum())).sum() == pytest.approx(1)
    totals = (weights * torch.tensor(counts))[[0, 1, 3]]
    assert balance != 1 or totals.tolist() == pytest.approx([totals[0].item()] * 3)
    assert balance != 0 or weights[[0, 1, 3]].tolist() == pytest.approx([1] * 3)
    loss = lc.PartialCrossEntropyLoss(class_weights=weights)(logits, targets)
    torch.testing.assert_close(loss, F.cross_entropy(logits, targets, weights, ignore_index=255))


def test_other_ignore_index():
    logits, targets = random_batch(0, 3, 1.0)
    loss = lc.PartialCrossEntropyLoss(ignore_index=0)(logits, targets)
    torch.testing.assert_close(loss, F.cross_entropy(logits, targets, ignore_index=0))


def test_batch_without_labels_costs_nothing():
    logits, _ = random_batch(0, 4, 1.0)
    loss = lc.PartialCrossEntropyLoss()(logits, torch.full((2, 7, 5), 255))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_batch_without_labels_leaves_the_training_sane():
    model = nn.Conv2d(3, 4, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = model.weight.detach().clone()
    loader = [(torch.rand(2, 3, 8, 8), torch.full((2, 8, 8), 255))]
    assert lc.train_epoch(model, loader, lc.PartialCrossEntropyLoss(), optimizer, torch.device("cpu")) is None
    assert torch.equal(model.weight, before)


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(2, 9), st.sampled_from([0.1, 0.5, 1.0]))
def test_iou_agrees_with_torchmetrics_and_sklearn(seed, classes, labelled):
    logits, targets = random_batch(seed, classes, labelled)
    targets[0, 0, 0] = 0
    predictions = logits.argmax(1)
    confusion = lc.confusion_matrix(predictions, targets, classes)
    known = targets != 255
    expected = sklearn.metrics.confusion_matrix(targets[known], predictions[known], labels=range(classes))
    assert np.array_equal(confusion.numpy(), expected)

    iou = lc.compute_iou(confusion)
    reference = torchmetrics.JaccardIndex("multiclass", num_classes=classes, ignore_index=255, average=None)
    reference = reference(predictions, targets).double()
    present = ~iou.isnan()
    torch.testing.assert_close(iou[present], reference[present], atol=1e-6, rtol=1e-6)
    scores = lc.Scores(confusion).as_dict()
    assert scores["pixel_accuracy"] == pytest.approx((predictions == targets)[known].double().mean().item())
    assert scores["miou"] == pytest.approx(iou[present].mean().item())


def test_counting_pixels_leaves_determinism_as_it_was():
    before = torch.get_deterministic_debug_mode()
    try:
        for mode in (0, 1, 2):
            torch.set_deterministic_debug_mode(mode)
            lc.confusion_matrix(
                torch.zeros(1, 2, 2, dtype=torch.int64), torch.zeros(1, 2, 2, dtype=torch.int64), 2
            )
            assert torch.get_deterministic_debug_mode() == mode
    finally:
        torch.set_deterministic_debug_mode(before)


def test_batches_of_large_tiles_are_smaller():
    sizes = [(64, 64)] * 5 + [(256, 256)] * 3 + [(128, 64)] * 2
    batches = lc.batches_of_one_size(sizes, 4, 4 * 64 * 64)
    assert batches == [[0, 1, 2, 3], [4], [5], [6], [7], [8, 9]]
    assert lc.batches_of_one_size(sizes, 4) == [[0, 1, 2, 3], [4], [5, 6, 7], [8, 9]]


def test_absent_classes():
    targets = torch.tensor([[0, 0, 1, 255]])
    predictions = torch.tensor([[0, 0, 2, 3]])
    iou = lc.compute_iou(lc.confusion_matrix(predictions, targets, 4)).tolist()
    assert iou[:3] == [1, 0, 0], "in only one of masks and predictions: IoU 0"
    assert math.isnan(iou[3]), "in neither (a prediction on an unlabelled pixel does not count): no IoU"
    assert lc.Scores(lc.confusion_matrix(predictions, targets, 4)).value == pytest.approx(1 / 3)


class AlwaysBlue(nn.Module):
    """Predicts class 1 where the blue channel is above its mean in the normalised image, else class 0."""

    def forward(self, images):
        return torch.stack([-images[:, 2], images[:, 2]], dim=1)


def test_validate_pools_pixels_of_tiles_of_any_size(tmp_path):
    """The score is that of all pixels pooled, whatever the batches, and differs from a mean over batches."""
    write_tiles(tmp_path, 2, size=(40, 56), num_classes=2)
    write_tiles(tmp_path / "b", 1, size=(17, 23), num_classes=2, seed=5)
    for kind in ("images", "masks"):
        (tmp_path / "b" / kind / "tile_0.png").rename(tmp_path / kind / "other.png")
    dataset = lc.LandCoverDataset(tmp_path / "images", tmp_path / "masks")
    sizes = lc.check_dataset(dataset, 2).sizes
    assert sorted(sizes) == [(17, 23), (40, 56), (40, 56)]
    items = [dataset[i] for i in range(3)]
    predictions = [AlwaysBlue()(image[None]).argmax(1)[0] for image, _ in items]
    targets = [target for _, target in items]
    pooled = sklearn.metrics.confusion_matrix(
        np.concatenate([t.flatten() for t in targets]),
        np.concatenate([p.flatten() for p in predictions]),
        labels=[0, 1],
    )
    for batch_size in (1, 2, 8):
        loader = lc.make_loader(dataset, lc.batches_of_one_size(sizes, batch_size), 0, torch.device("cpu"))
        scores = lc.validate(AlwaysBlue(), loader, 2, torch.device("cpu"))
        assert np.array_equal(scores.confusion.numpy(), pooled)
        assert math.isfinite(scores.loss)


def test_accumulated_gradients_equal_the_big_batch():
    images, targets = torch.rand(6, 3, 8, 8), torch.randint(0, 4, (6, 8, 8))
    weights = []
    for size, steps in [(6, 1), (2, 3), (2, 5)]:
        torch.manual_seed(0)
        model = nn.Conv2d(3, 4, 3)
        loader = list(zip(images.split(size), targets[:, 1:-1, 1:-1].split(size), strict=True))
        optimizer = torch.optim.SGD(model.parameters(), 1.0)
        lc.train_epoch(
            model,
            loader,
            lc.PartialCrossEntropyLoss(),
            optimizer,
            torch.device("cpu"),
            accumulation_steps=steps,
        )
        weights.append(model.weight.detach())
    torch.testing.assert_close(weights[0], weights[1])
    torch.testing.assert_close(weights[0], weights[2])
