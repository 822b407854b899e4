"""SED's formulas once more, written apart from the code under test: plain Python floats, one loop a sum.

Nothing of sedet is imported here. Arrays are nested lists; ``None`` is a missing quality.
"""

from __future__ import annotations

import math

Box = list[float]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def kl(p: float, q: float) -> float:
    """KL(Bernoulli(p) || Bernoulli(q)) from probabilities, straight from the definition."""
    total = 0.0
    for a, b in ((p, q), (1 - p, 1 - q)):
        if a > 0:
            total += a * math.log(a / b)
    return total


def giou_loss(a: Box, b: Box) -> float:
    overlap_w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    overlap_h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    overlap = overlap_w * overlap_h
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return 1 - (overlap / union - (hull - union) / hull)


def iou(a: Box, b: Box) -> float:
    overlap = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def smooth_l1(a: Box, b: Box, unit: float) -> float:
    total = 0.0
    for u, v in zip(a, b, strict=True):
        d = abs(u - v) / unit
        total += 0.5 * d * d if d < 1 else d - 0.5
    return total


def weights(
    teacher: list[list[list[float]]], student: list[list[list[float]]], kind: str, gamma: float
) -> list[list[list[float]]]:
    """w_rc for logits [batch][regions][classes]."""
    result = []
    for image_t, image_s in zip(teacher, student, strict=True):
        rows = []
        for row_t, row_s in zip(image_t, image_s, strict=True):
            p, q = [sigmoid(v) for v in row_t], [sigmoid(v) for v in row_s]
            if kind == "discrepancy":
                rows.append([abs(a - b) ** gamma for a, b in zip(p, q, strict=True)])
            elif kind == "foreground":
                rows.append([max(p)] * len(p))
            else:
                rows.append([1.0] * len(p))
        result.append(rows)
    return result


def distillation(
    teacher_logits: list[list[list[float]]],
    teacher_boxes: list[list[Box]],
    teacher_quality: list[list[float]] | None,
    mask: list[list[bool]],
    student_logits: list[list[list[float]]],
    student_boxes: list[list[Box]],
    student_quality: list[list[float]] | None,
    strides: list[float],
    *,
    box_scale: float,
    reweight: str,
    gamma: float,
    normalizer: str,
    box_loss: str,
    box_gamma: float = 0.0,
    frozen_weights: list[list[list[float]]] | None = None,
) -> dict[str, float]:
    """Losses of one view. Teacher logits are already divided by the temperature.

    ``frozen_weights`` stands for the detached w_rc in finite differences.
    """
    w = frozen_weights
    if w is None:
        w = weights(teacher_logits, student_logits, reweight, gamma)
    visible = count = weight_sum = 0.0
    class_sum = quality_sum = box_sum = 0.0
    for i in range(len(mask)):
        for r in range(len(mask[i])):
            if not mask[i][r]:
                continue
            p = [sigmoid(v) for v in teacher_logits[i][r]]
            v = max(p) ** 2
            visible += v
            count += 1
            for c in range(len(p)):
                weight_sum += w[i][r][c]
                class_sum += w[i][r][c] * kl(p[c], sigmoid(student_logits[i][r][c]))
            if teacher_quality is not None and student_quality is not None:
                quality_sum += v * kl(sigmoid(teacher_quality[i][r]), sigmoid(student_quality[i][r]))
            wanted = teacher_boxes[i][r]
            given = [x * box_scale for x in student_boxes[i][r]]
            if any(b[k + 2] - b[k] < 1e-3 for b in (wanted, given) for k in (0, 1)):
                continue
            u = (1 - iou(given, wanted)) ** box_gamma
            if box_loss == "giou":
                box_sum += v * u * giou_loss(given, wanted)
            else:
                box_sum += v * u * smooth_l1(given, wanted, strides[r] * box_scale)
    divisor = {"foreground": visible, "weights": weight_sum, "count": count}[normalizer]
    return {
        "class": class_sum / max(1.0, divisor),
        "quality": quality_sum / max(1.0, visible),
        "box": box_sum / max(1.0, visible),
    }


def erased_share(box: Box, erased: list[Box], cells: int = 200) -> float:
    """Share of a box under rectangles, by counting a grid of cells in it."""
    hits = 0
    for i in range(cells):
        for j in range(cells):
            x = box[0] + (i + 0.5) / cells * (box[2] - box[0])
            y = box[1] + (j + 0.5) / cells * (box[3] - box[1])
            hits += any(e[0] <= x < e[2] and e[1] <= y < e[3] for e in erased)
    return hits / cells**2


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    raised = [math.exp(x - top) for x in row]
    return [x / sum(raised) for x in raised]


def softmax_distillation(
    teacher_logits: list[list[list[float]]],
    teacher_boxes: list[list[Box]],
    mask: list[list[bool]],
    student_logits: list[list[list[float]]],
    student_boxes: list[list[Box]],
    *,
    box_scale: float,
    reweight: str,
    gamma: float,
    normalizer: str,
) -> dict[str, float]:
    """Losses of the RoIs of one view: distributions with the background last, one weight a RoI, GIoU."""
    visible = count = weight_sum = class_sum = box_sum = 0.0
    for i in range(len(mask)):
        for r in range(len(mask[i])):
            if not mask[i][r]:
                continue
            p, q = softmax(teacher_logits[i][r]), softmax(student_logits[i][r])
            differences = [abs(a - b) for a, b in zip(p, q, strict=True)]
            w = {"discrepancy": (sum(differences) / 2) ** gamma, "foreground": 1 - p[-1], "none": 1.0}[reweight]
            v = sum(p[:-1]) ** 2
            visible, count, weight_sum = visible + v, count + 1, weight_sum + w
            class_sum += w * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            wanted, given = teacher_boxes[i][r], [x * box_scale for x in student_boxes[i][r]]
            if all(b[k + 2] - b[k] >= 1e-3 for b in (wanted, given) for k in (0, 1)):
                box_sum += v * giou_loss(given, wanted)
    divisor = {"foreground": visible, "weights": weight_sum, "count": count}[normalizer]
    return {"class": class_sum / max(1.0, divisor), "box": box_sum / max(1.0, visible)}
