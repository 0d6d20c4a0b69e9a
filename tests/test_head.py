"""Forward pass, decoding, loss and gradients are the original's; anchors are fitted only where they must be."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from yolop.network import head, official, transfer, yolov5
from yolop.specs import MODELS

SHARED = Path(__file__).resolve().parents[2] / "shared"
REFERENCE, WEIGHTS = SHARED / "reference" / "yolov5n_v6_forward.npz", SHARED / "weights" / "yolov5n-v6.0.pt"
needs_reference = pytest.mark.skipif(
    not (REFERENCE.exists() and WEIGHTS.exists()),
    reason="the original's weights and outputs are not beside the project",
)


@pytest.fixture(scope="module")
def original():
    """yolov5n with the official weights, the reference, and its images as the network takes them."""
    reference = np.load(REFERENCE)
    model = yolov5.build(MODELS["n"], 80)
    carried = transfer.transfer_matching(model, official.read_checkpoint(WEIGHTS).tensors)
    assert len(carried) == len(model.state_dict()) - 1  # all but the anchors, which are the default ones
    return model.eval(), reference, torch.from_numpy(reference["images"]).float() / 255


@needs_reference
def test_layers_and_decoding_equal_the_original(original):
    model, reference, images = original
    outputs, hooks = {}, []
    for i in (9, 17, 20, 23):
        hooks.append(model.model[i].register_forward_hook(lambda m, _, out: outputs.__setitem__(m.i, out)))
    with torch.no_grad():
        decoded = model(images).numpy()
    for hook in hooks:
        hook.remove()
    for i, output in outputs.items():
        np.testing.assert_allclose(output.numpy(), reference[f"layer_{i}"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(decoded, reference["decoded"], rtol=1e-5, atol=1e-5)


@needs_reference
def test_loss_and_gradients_equal_the_original(original):
    model, reference, images = original
    model.model[-1].train()  # raw maps, while batch norm stays in evaluation mode as in the reference
    raw = model(images)
    np.testing.assert_allclose(raw[1].detach().numpy(), reference["raw_p4"], rtol=1e-5, atol=1e-5)
    targets = torch.from_numpy(reference["targets"])
    batch = {"batch_idx": targets[:, 0], "cls": targets[:, 1:2], "bboxes": targets[:, 2:]}
    loss, parts = head.Loss(model.model[-1])(raw, batch)
    np.testing.assert_allclose([float(p) for p in parts.values()], reference["loss_box_obj_cls"], rtol=1e-5)
    np.testing.assert_allclose(loss.item(), reference["loss_total"][0], rtol=1e-5)
    loss.backward()
    gradients = dict(model.named_parameters())
    for name, norm in zip(reference["grad_names"], reference["grad_norms"], strict=True):
        np.testing.assert_allclose(gradients[name].grad.norm().item(), norm, rtol=1e-5, err_msg=name)
    model.zero_grad()
    model.eval()


def a_batch(boxes):
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 6)
    return {"batch_idx": boxes[:, 0], "cls": boxes[:, 1:2], "bboxes": boxes[:, 2:]}


def test_no_boxes_give_an_objectness_loss_alone():
    detect = head.Detect(3, channels=(8, 8, 8))
    raw = detect([torch.randn(2, 8, n, n) for n in (16, 8, 4)])
    loss, parts = head.Loss(detect)(raw, a_batch([]))
    assert parts["box"] == 0 and parts["cls"] == 0 and parts["obj"] > 0 and loss.isfinite()


def test_a_box_at_every_corner_stays_inside_the_maps():
    detect = head.Detect(3, channels=(8, 8, 8))
    raw = detect([torch.randn(1, 8, n, n) for n in (16, 8, 4)])
    corners = [[0, 1, x, y, 0.3, 0.3] for x in (0, 0.001, 0.5, 0.999, 1) for y in (0, 0.5, 1)]
    loss, parts = head.Loss(detect)(raw, a_batch(corners))
    assert loss.isfinite() and parts["box"] > 0


def test_a_perfect_prediction_has_no_loss_and_a_shifted_one_has():
    detect = head.Detect(2, channels=(8, 8, 8))
    loss, batch = head.Loss(detect), a_batch([[0, 1, (5 + 0.5) * 8 / 128, (7 + 0.3) * 8 / 128, 16 / 128, 30 / 128]])
    maps = [torch.full((1, 3, n, n, 7), -20.0) for n in (16, 8, 4)]  # no object anywhere
    for layer, x in enumerate(maps):
        boxes = torch.tensor([[0, 1, *batch["bboxes"][0].tolist()]])
        (image, anchor, gy, gx), _, target = loss.assign(boxes, layer, x.shape)
        if layer == 0:  # the second default anchor is as large as the box, whose centre is in cell (5, 7)
            (exact,) = torch.nonzero((anchor == 1) & (gx == 5) & (gy == 7))[0]
            assert target[exact].tolist() == pytest.approx([0.5, 0.3, 2, 3.75], abs=1e-4)
        sides = target[:, 2:] * head.STRIDES[layer] / detect.anchors[layer][anchor]
        x[image, anchor, gy, gx] = torch.tensor([0, 0, 0, 0, 20.0, -20, 20])  # an object of class 1
        x[image, anchor, gy, gx, :4] = torch.cat(((target[:, :2] + 0.5) / 2, sides.sqrt() / 2), 1).logit()
    total, parts = loss(maps, batch)
    assert total < 1e-4 and all(part < 1e-4 for part in parts.values())
    for part, index, shift in (("box", 0, 2), ("box", 3, 2), ("obj", 4, 30), ("cls", 6, 30)):
        wrong = [x - shift * (torch.arange(7) == index) for x in maps]
        assert loss(wrong, batch)[1][part] > 1e-3, (part, index)


@given(st.lists(st.tuples(st.floats(3, 300), st.floats(3, 300)), min_size=1, max_size=40))
@settings(max_examples=30, deadline=None)
def test_fitted_anchors_never_reach_fewer_boxes(sizes):
    boxes = np.array(sizes)
    anchors = np.array(head.fit_anchors(boxes))
    assert anchors.shape == (3, 3, 2) and (anchors > 0).all()
    assert head.recall(boxes, anchors) >= head.recall(boxes, head.ANCHORS)


def test_default_anchors_stay_where_they_fit_and_go_where_they_do_not():
    rng = np.random.default_rng(0)
    assert head.fit_anchors(rng.uniform(20, 200, (200, 2))) == head.ANCHORS
    tall = np.stack([rng.uniform(2, 2.4, 200), rng.uniform(60, 120, 200)], 1)  # no default anchor is that narrow
    fitted = head.fit_anchors(tall)
    assert fitted != head.ANCHORS
    assert head.recall(tall, head.ANCHORS) == 0 and head.recall(tall, np.array(fitted)) == 1


@given(st.lists(st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99)), min_size=1, max_size=8))
def test_a_mirrored_image_has_mirrored_assignments(centres):
    """Left and right, up and down are treated alike: cells, anchors and offsets of mirrored boxes are mirrored."""
    detect = head.Detect(1, channels=(8, 8, 8))
    nx = 16
    centres = [(x, y) for x, y in centres if min(abs(v * nx % 1 - edge) for v in (x, y) for edge in (0, 0.5, 1)) > 1e-3]
    boxes = torch.tensor([[0, 0, x, y, 0.15, 0.2] for x, y in centres]).reshape(-1, 6)
    mirrored = boxes.clone()
    mirrored[:, 2:4] = 1 - boxes[:, 2:4]
    seen = []
    for rows, flip in ((boxes, False), (mirrored, True)):
        (_, anchor, gy, gx), _, target = head.Loss(detect).assign(rows, 0, torch.Size((1, 3, nx, nx, 6)))
        gx, gy, target = (nx - 1 - gx, nx - 1 - gy, 1 - target[:, :2]) if flip else (gx, gy, target[:, :2])
        seen.append(
            sorted(zip(anchor.tolist(), gy.tolist(), gx.tolist(), (target * 1000).round().int().tolist(), strict=True))
        )
    assert [row[:3] for row in seen[0]] == [row[:3] for row in seen[1]]


def test_decoding_without_pytorch_is_the_same():
    torch.manual_seed(0)
    detect = head.Detect(4, channels=(8, 8, 8)).eval()
    maps = [30 * torch.randn(1, 27, n, n + 1) for n in (8, 4, 2)]
    decoded = head.decode_arrays(detect, [x[0].numpy() for x in maps])
    torch.testing.assert_close(torch.from_numpy(decoded), detect.decode(detect.raw(maps)), rtol=1e-5, atol=1e-4)
