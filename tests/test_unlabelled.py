"""What the unlabelled pixels teach, and what is done with predictions afterwards."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from conftest import write_tiles
from torch import nn

import landcover_segmentation as lc


def test_pseudo_labels_are_the_confident_argmax():
    logits = torch.tensor([[4.0, 0.0], [0.1, 0.0]]).T.reshape(1, 2, 1, 2)
    labels, confident = lc.generate_pseudo_labels(logits, 0.9)
    assert labels.tolist() == [[[0, 255]]] and confident.tolist() == [[[True, False]]]
    assert lc.generate_pseudo_labels(logits, 0.0)[1].all()


def test_pasted_boxes_keep_pixels_and_what_is_known_of_them_together():
    torch.manual_seed(0)
    tile = torch.arange(6).view(6, 1, 1)
    place = torch.arange(30 * 40).view(30, 40)
    known = (tile * 10_000 + place).float()
    images, targets = lc.paste_boxes(1.0, known[:, None].repeat(1, 3, 1, 1), known.clone())
    assert torch.equal(images, targets[:, None].repeat(1, 3, 1, 1))
    assert torch.equal(targets % 10_000, place.expand(6, -1, -1).float()), "every pixel stays in its place"
    foreign = targets.long() // 10_000 != tile
    assert torch.equal(targets.long()[foreign] // 10_000, ((tile - 1) % 6).expand_as(foreign)[foreign])
    for box in foreign:
        rows, columns = box.any(1).nonzero()[:, 0], box.any(0).nonzero()[:, 0]
        assert box.sum() == len(rows) * len(columns) == pytest.approx(600, rel=0.05), (
            "one box, of half the area"
        )
    assert torch.equal(lc.paste_boxes(0.0, known)[0], known)
    some = lc.paste_boxes(0.5, torch.arange(200.0).view(200, 1, 1).repeat(1, 8, 8))[0]
    assert 70 < sum(len(one.unique()) > 1 for one in some) < 130


def both_losses(objective, model, images, targets):
    """On the points and on the unlabelled pixels, as `train_epoch` adds them up."""
    images, targets, soft_labels = objective.prepare(images, targets)
    logits = model(images)
    on_points = lc.PartialCrossEntropyLoss()(logits, targets)
    return on_points, objective.loss(logits, images, targets, soft_labels)


@pytest.mark.parametrize("threshold", [0.0, 0.9])
def test_a_pseudo_label_never_overrules_a_point(threshold):
    """A teacher is sure of class 0 everywhere, all pixels are points of class 1: nothing else is learnt."""
    model = nn.Conv2d(3, 2, 1)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([9.0, 0.0]))
    objective = lc.UnlabelledPixels(model, 10, pseudo_label_weight=5, pseudo_label_threshold=threshold)
    objective.step = 10  # the ramp is over
    images, targets = torch.randn(1, 3, 4, 4), torch.ones(1, 4, 4, dtype=torch.int64)
    on_points, beside = both_losses(objective, model, images, targets)
    assert beside == 0 and on_points.item() > 8
    targets[0, 0, 0] = 255
    assert (objective.soft_labels(images, targets).sum(1)[targets != 255] == 0).all()
    student = nn.Conv2d(3, 2, 1)
    on_points, beside = both_losses(objective, student, images, torch.full_like(targets, 255))
    assert on_points.item() == 0 < beside.item()  # without a point, the teacher is all there is


def test_below_the_threshold_nothing_is_taught():
    teacher = nn.Conv2d(3, 2, 1)
    with torch.no_grad():
        teacher.weight.zero_()
        teacher.bias.copy_(torch.tensor([1.0, 0.0]))  # sure by 0.73
    images, targets = torch.randn(2, 3, 4, 4), torch.full((2, 4, 4), 255)
    for threshold, taught in ((0.7, [1.0, 0.0]), (0.8, [0.0, 0.0])):
        objective = lc.UnlabelledPixels(teacher, 10, pseudo_label_threshold=threshold, point_evidence=False)
        assert (objective.soft_labels(images, targets) == torch.tensor(taught).view(1, 2, 1, 1)).all()


def brute_force_evidence(image, targets, opinion, sigmas):
    """By the definition, pixel by pixel and point by point."""
    colors = image * torch.tensor(lc.IMAGENET_STD).view(3, 1, 1)
    _, height, width = image.shape
    evidence = torch.zeros(len(opinion), height, width)

    def smooth(y, x):
        window = [
            (min(max(y + v, 0), height - 1), min(max(x + u, 0), width - 1))
            for v in (-1, 0, 1)
            for u in (-1, 0, 1)
        ]
        return torch.stack([colors[:, v, u] for v, u in window]).mean(0)

    for y, x, c in itertools.product(range(height), range(width), range(len(opinion))):
        kernels = []
        for v, u in (targets == c).nonzero().tolist():
            color = (smooth(y, x) - smooth(v, u)).square().sum() / sigmas[0] ** 2
            place = ((y - v) ** 2 + (x - u) ** 2) / max(height, width) ** 2 / sigmas[1] ** 2
            belief = (opinion[:, y, x] - opinion[:, v, u]).square().sum() / sigmas[2] ** 2
            kernels.append(torch.exp(-(color + place + belief) / 2))
        if kernels:
            evidence[c, y, x] = torch.stack(kernels).mean()
    return evidence


def test_evidence_agrees_with_a_loop_over_pixels_and_points():
    torch.manual_seed(0)
    images, opinions = torch.rand(2, 3, 6, 9), torch.randn(2, 3, 6, 9).softmax(1)
    targets = torch.full((2, 6, 9), 255)
    targets[0, 1, 2], targets[0, 5, 8], targets[0, 3, 3], targets[0, 0, 0] = 0, 0, 2, 0
    ours = lc.point_evidence(images, targets, opinions, 0.1, 0.4, 0.5)
    theirs = brute_force_evidence(images[0], targets[0], opinions[0], (0.1, 0.4, 0.5))
    assert torch.allclose(ours[0], theirs, atol=1e-5)
    assert (ours[1] == 0).all()  # no point, no evidence


def test_evidence_corrects_a_teacher_where_it_is_mistaken_alike():
    """A teacher that takes the bright half for class 0; one point says that bright is class 1."""
    images = torch.full((1, 3, 8, 8), 0.01)
    images[..., 4:] = 3.0
    teacher = nn.Conv2d(3, 2, 1)
    with torch.no_grad():
        teacher.weight.zero_()
        teacher.bias.copy_(torch.tensor([0.5, 0.0]))
    targets = torch.full((1, 8, 8), 255)
    targets[0, 0, 0], targets[0, 4, 6] = 0, 1
    labels = lc.UnlabelledPixels(teacher, 10).soft_labels(images, targets)
    alone = lc.UnlabelledPixels(teacher, 10, point_evidence=False).soft_labels(images, targets)
    assert (alone[0, 1] < 0.5).all()
    unlabelled = targets[0] == 255
    assert (labels[0, 1, :, 5:][unlabelled[:, 5:]] > 0.9).all() and (labels[0, 1, :, :3] < 0.2).all()
    assert torch.equal(labels[0].sum(0) > 0.5, unlabelled)


def test_many_points_are_thinned_but_no_class_is_lost():
    torch.manual_seed(0)
    labels = torch.zeros(5000, dtype=torch.int64)
    labels[[7, 4000, 4999]] = 1
    points = torch.arange(5000) * 3
    few = lc.thin_points(points, labels, 100)
    assert len(few) == 103 and {21, 12000, 14997} <= set(few.tolist()) and len(set((few % 64).tolist())) > 40
    assert torch.equal(few, lc.thin_points(points, labels, 100))
    images, opinions = torch.rand(1, 3, 40, 40), torch.rand(1, 2, 40, 40).softmax(1)
    targets = torch.zeros(1, 40, 40, dtype=torch.int64)
    targets[0, 3, 3] = 1
    few, all_of_them = (lc.point_evidence(images, targets, opinions, most_points=n) for n in (200, 1600))
    assert 0 < (few - all_of_them)[:, 0].abs().mean() < 0.05
    assert torch.allclose(few[:, 1], all_of_them[:, 1])


def test_dense_tiles_cost_no_teacher(monkeypatch):
    objective = lc.UnlabelledPixels(nn.Conv2d(3, 2, 1), 10)
    monkeypatch.setattr(objective, "soft_labels", lambda *_: pytest.fail("nothing is unlabelled"))
    images, targets = torch.randn(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64)
    assert both_losses(objective, nn.Conv2d(3, 2, 1), images, targets)[1] == 0


def test_soft_labels_count_more_and_more():
    torch.manual_seed(0)
    objective = lc.UnlabelledPixels(nn.Conv2d(3, 2, 1), 100, pseudo_label_weight=0.7)
    logits, soft_labels = torch.randn(2, 1, 2, 4, 4)
    entropy = -(soft_labels * logits.log_softmax(1)).sum(1).mean().item()
    for objective.step, ramp in ((0, math.exp(-5)), (15, math.exp(-1.25)), (30, 1.0), (90, 1.0)):
        loss = objective.loss(logits, torch.ones(1, 3, 4, 4), torch.full((1, 4, 4), 255), soft_labels)
        assert loss.item() == pytest.approx(0.7 * ramp * entropy)


def test_nothing_is_taught_beyond_the_edge_of_a_tile(tmp_path):
    write_tiles(tmp_path, 1, 40)
    transform = lc.get_transforms("train", "strong", 64)
    dataset = lc.LandCoverDataset(tmp_path / "images", tmp_path / "masks", 30, transform)
    for dataset.epoch in range(5):
        image, points = dataset[0]
        taught = lc.UnlabelledPixels.unlabelled(image[None], points[None])
        assert int(taught.sum()) == 40 * 40 - 30 and int((image != 0).any(0).sum()) == 40 * 40


@pytest.mark.parametrize("views", [0, 9])
def test_there_are_eight_views(views):
    with pytest.raises(lc.InputError, match="between 1 and 8"):
        lc.predict_probabilities(nn.Conv2d(3, 2, 1), torch.rand(1, 3, 4, 4), views)


def test_teacher_is_a_mean_of_the_student():
    student = nn.BatchNorm2d(2)
    teacher = copy.deepcopy(student)
    with torch.no_grad():
        student.weight.fill_(3.0)
        student.running_mean.fill_(2.0)
    student.num_batches_tracked += 7
    lc.update_teacher(teacher, student, 0.75)
    assert teacher.weight.tolist() == [1.5, 1.5] and teacher.running_mean.tolist() == [0.5, 0.5]
    assert teacher.num_batches_tracked == 7


def test_informative_points_are_uncertain_and_spread_out():
    probabilities = torch.zeros(1, 2, 60, 60)
    probabilities[:, 0] = 1.0
    probabilities[:, :, 28:32] = 0.5  # one uncertain band
    labelled = torch.zeros(1, 60, 60, dtype=torch.bool)
    labelled[0, 30, 30] = True
    (points,) = lc.select_informative_points(probabilities, 0.5, num_points=20, labelled=labelled)
    assert 2 < len(points) <= 20 and ((points[:, 0] >= 28) & (points[:, 0] < 32)).all()
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)[~np.eye(len(points), dtype=bool)]
    assert distance.min() > 5 and np.linalg.norm(points - [30, 30], axis=1).min() > 5
    assert len(lc.select_informative_points(probabilities, 1.1)[0]) == 0


def test_symmetries_are_undone_before_the_mean():
    """A network of one pixel at a time is the same from all sides; one that drifts to a side is not."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 8, 12)
    pointwise = nn.Conv2d(3, 4, 1).eval()
    assert torch.allclose(
        lc.predict_probabilities(pointwise, images, views=8), pointwise(images).softmax(1), atol=1e-6
    )
    drifting = nn.Conv2d(3, 4, 3, padding=1).eval()
    turned = lc.predict_probabilities(drifting, images.rot90(1, (-2, -1)), views=8)
    assert torch.allclose(
        turned.rot90(-1, (-2, -1)), lc.predict_probabilities(drifting, images, views=8), atol=1e-6
    )


def test_ensemble_is_the_mean_probability():
    torch.manual_seed(0)
    models, images = [nn.Conv2d(3, 4, 1).eval() for _ in range(3)], torch.randn(2, 3, 8, 8)
    expected = torch.stack([model(images).softmax(1) for model in models]).mean(0).argmax(1)
    assert torch.equal(lc.ensemble_predict(iter(models), images), expected)


@pytest.mark.parametrize(
    "architecture, backbone",
    [
        ("unet", "resnet34"),
        ("segformer", "mit_b0"),
        ("deeplabv3", "resnet34"),
    ],
)
def test_other_architectures(architecture, backbone, tmp_path):
    pytest.importorskip("segmentation_models_pytorch")
    model = (
        lc.DeepLabV3Segmentation(4, backbone, None, architecture).to(memory_format=torch.channels_last).eval()
    )
    lc.save_checkpoint(tmp_path / "model.pth", model)
    images = torch.rand(1, 3, 50, 71)
    with torch.inference_mode():
        logits = model(images)
        assert logits.shape == (1, 4, 50, 71)
        assert torch.allclose(lc.load_model(tmp_path / "model.pth", "cpu")(images), logits, atol=1e-4)


@pytest.mark.parametrize("bad", [("mystery", "resnet50"), ("segformer", "resnet50")])
def test_unknown_architectures_are_refused(bad):
    with pytest.raises(lc.InputError, match="is one of"):
        lc.DeepLabV3Segmentation(3, bad[1], None, bad[0])
