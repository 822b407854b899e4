"""CSD (Jeong et al., NeurIPS 2019): the same answers for an image and for its mirror image, without a teacher.

  a   the student's answers on an unlabelled image
  b   its answers on the mirror image, put back into the frame of the image (mirror)
  K   regions whose best class is above background in a
  L_cls  = mean over K of [ KL(sg b || a) + KL(sg a || b) ] / 2      summed over the classes; sg: without gradient
  L_box  = mean over K of the mean square of the 4 differences of the offsets
  total  = L_sup + weight(t) (L_cls + L_box)

Facts of the publication's code: consistency under a horizontal flip, dropped regions whose best class is not above
background, both losses, no average of the student as a teacher, and a weight that rises and falls: up until 32k, down
after 100k of 120k steps, on SSD. Our choice: what a sigmoid for each class asks for where SSD has a softmax - a KL
divergence is the sum of those of the classes, and a class is above background if its probability is above one half
(``threshold``), as that of its absence is below it then; that the one without a gradient is the target, the first of
the two; the offsets - FCOS's four distances in strides, RetinaNet's deltas; the unlabelled images alone, without
photometrics (the weak view); the steps of the ramps, which are those of every method here and the last ``ramp_down`` of
them; and the labelled loss, which is the twin's. The average of the student is judged and shipped as in every method;
it teaches nothing.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from sedet.config import CSDConfig
from sedet.data.batch import Batch, pixels
from sedet.detectors.build import Detector
from sedet.detectors.dense import level_slices
from sedet.detectors.normalizer import process_mean
from sedet.detectors.regions import HALF_LEVELS, Regions
from sedet.methods.method import Method, Progress
from sedet.methods.sed import binary_kl
from sedet.methods.supervised import joint_views, labeled_losses

PARTS = ("class", "box")


class CSD(Method):
    """One step of CSD. See the module's text."""

    def __init__(self, config: CSDConfig, half_size: bool = True, erase_limit: float = 0.7) -> None:
        self.config, self.half_size, self.erase_limit = config, half_size, erase_limit
        self.uses_half = half_size

    def losses(
        self,
        student: Detector,
        teacher: Detector,
        labeled: Batch,
        unlabeled: Batch | None,
        progress: Progress,
    ) -> dict[str, Tensor]:
        """Weighted losses of one step: ``sup_*`` and ``csd_*``; the latter are 0 in the burn-in."""
        count, weight = len(labeled), progress.unlabeled_weight
        if weight == 0.0:
            unlabeled = None
        images, content = joint_views(labeled, None, half=False)
        if unlabeled is not None:
            assert unlabeled.weak is not None
            plain = pixels(unlabeled.weak)
            flipped, flipped_content = mirror_images(plain, unlabeled.content, student.backbone.mean)
            images = torch.cat([images, plain, flipped])
            content = torch.cat([content, unlabeled.content, flipped_content])
        full = student(images, content)
        half = student(*joint_views(labeled, None, half=True), HALF_LEVELS) if self.half_size else None
        assert labeled.targets is not None
        losses = labeled_losses(student, full.images(slice(0, count)), half, labeled.targets)
        zero = full.logits.new_zeros(())
        losses |= {f"csd_{part}": zero for part in PARTS}
        if unlabeled is None:
            return losses
        middle = count + len(unlabeled)
        parts = csd_losses(
            full.images(slice(count, middle)),
            mirror(full.images(slice(middle, None)), images.shape[-1]),
            self.config.threshold,
        )
        weight *= self.config.weight * ramp_down(progress, self.config.ramp_down)
        return losses | {f"csd_{part}": weight * parts[part] for part in PARTS}


def ramp_down(progress: Progress, share: float) -> float:
    """1, falling linearly towards 0 over the last ``share`` of the steps; always 1 if their number is unknown."""
    last = share * progress.steps
    return min(1.0, (progress.steps - progress.step) / last) if last > 0 else 1.0


def mirror_images(images: Tensor, content: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """The canvas flipped left to right, so that its cells are those of the original from right to left.

    The content then lies at the right, where no content size can tell of it: the padding takes the mean colour, as
    the network would have it, and all of the canvas counts as content. Which regions count follows from the original.

    Args:
        images: float [batch, 3, height, width], RGB in 0..1, padded at the right and the bottom.
        content: int64 [batch, 2], width and height of the unpadded part, pixels.
        mean: float [1, 3, 1, 1], the colour that the network takes away.

    Returns:
        The flipped images, and their content, int64 [batch, 2].
    """
    height, width = images.shape[-2:]
    x = torch.arange(width, device=images.device)[None, None, None, :] < content[:, 0, None, None, None]
    y = torch.arange(height, device=images.device)[None, None, :, None] < content[:, 1, None, None, None]
    return torch.where(x & y, images, mean).flip(-1), torch.tensor([width, height]).to(content).expand_as(content)


def mirror(regions: Regions, width: int) -> Regions:
    """A dense detector's answers on a flipped canvas, put back into the frame of the original.

    Each cell answers for the one at its mirrored place; the anchors of a cell keep their kind, which is symmetric. A
    level whose last cell reaches beyond the canvas (P7 where the side is not a multiple of 128 pixels) has no cells at
    the mirrored places: it is not valid.

    Args:
        regions: answers on the flipped canvas, by FCOS or by RetinaNet with its own anchors.
        width: of the canvas, pixels.
    """
    order, whole = [], []
    for level in level_slices(regions):
        stride = float(regions.strides[level.start])
        columns, index = math.ceil(width / stride), torch.arange(level.start, level.stop)
        order.append(index.view(-1, columns, regions.per_cell).flip(1).flatten())
        whole.append(torch.full_like(index, columns * stride == width, dtype=torch.bool))
    device = regions.logits.device
    places, exact = torch.cat(order).to(device), torch.cat(whole).to(device)
    left, top, right, bottom = regions.boxes[:, places].unbind(dim=-1)
    deltas = regions.deltas
    return replace(
        regions,
        logits=regions.logits[:, places],
        boxes=torch.stack([width - right, top, width - left, bottom], dim=-1),
        quality=None if regions.quality is None else regions.quality[:, places],
        valid=regions.valid[:, places] & exact,
        deltas=None if deltas is None else deltas[:, places] * deltas.new_tensor([-1.0, 1.0, 1.0, 1.0]),
    )


def offsets(regions: Regions) -> Tensor:
    """float [batch, regions, 4]: the deltas, or where there are none the distances of the sides in strides."""
    if regions.deltas is not None:
        return regions.deltas
    low, high = regions.points - regions.boxes[..., :2], regions.boxes[..., 2:] - regions.points
    return torch.cat([low, high], dim=-1) / regions.strides[:, None]


def csd_losses(original: Regions, mirrored: Regions, threshold: float = 0.5) -> dict[str, Tensor]:
    """The consistency losses, unweighted scalars: ``class`` and ``box``.

    Args:
        original: the student's answers on the unflipped images; they say which regions count.
        mirrored: those on the flipped ones, in the same frame (:func:`mirror`).
        threshold: probability that a region's best class is above.
    """
    kept = original.valid & mirrored.valid & (original.scores().detach().amax(dim=-1) > threshold)
    number = process_mean(kept.sum().float(), least=1.0)
    a, b = original.logits[kept], mirrored.logits[kept]
    divergence = (binary_kl(b, a) + binary_kl(a, b)).sum() / 2
    square = (offsets(original)[kept] - offsets(mirrored)[kept]) ** 2
    return {"class": divergence / number, "box": square.mean(dim=-1).sum() / number}
