"""Unlabelled images laid over each other in pairs, and what a teacher's soft answers ask of the student there.

Our design. A strong view changes colours and hides places; a student that has settled answers it as the teacher answers
the weak view, and where both agree nothing is left to learn. Laid over another image each object is harder to see, and
dense soft targets need no boxes for it: at each location the surer of both answers counts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sedet.data.batch import Batch

if TYPE_CHECKING:
    from sedet.methods.sed import TeacherTarget

NOTHING = -20.0
"""Logit of a class where an image has no content."""

NEUTRAL = (124, 116, 104)
"""The mean colour of ImageNet's images, R, G, B: next to nothing to a backbone, as padding is."""


def overlay_batch(batch: Batch) -> Batch:
    """The views that the student sees, at both sizes: each the mean of its image and the next (the last: the first).

    Where only one of both has content it is seen as it is. Each joint content is as wide as the wider and as high as
    the higher of both; what neither fills of it is of a neutral colour. Teachers' views and erased places stay.
    """
    own = batch.content
    content = torch.maximum(own, own.roll(-1, dims=0))
    return replace(batch, strong=_pairs(batch.strong, own), half=_pairs(batch.half, own // 2), content=content)


def overlay_target(target: TeacherTarget, valid: Tensor) -> TeacherTarget:
    """The targets of the same pairs: each class by the surer image, box and quality by that with more of an object.

    Args:
        target: of each image alone.
        valid: bool [batch, regions], false in each image's own padding: there it has nothing to say.

    Returns:
        Its mask leaves out what is hidden in either image, and the padding of both.
    """
    logits = torch.where(valid[..., None], target.logits, NOTHING)
    foreground = torch.where(valid, target.foreground, 0.0)
    other = foreground.roll(-1, dims=0) > foreground
    seen = target.mask | ~valid
    quality = target.quality
    return replace(
        target,
        logits=torch.maximum(logits, logits.roll(-1, dims=0)),
        boxes=torch.where(other[..., None], target.boxes.roll(-1, dims=0), target.boxes),
        quality=None if quality is None else torch.where(other, quality.roll(-1, dims=0), quality),
        mask=seen & seen.roll(-1, dims=0) & (valid | valid.roll(-1, dims=0)),
        foreground=torch.maximum(foreground, foreground.roll(-1, dims=0)),
    )


def _pairs(images: Tensor, content: Tensor) -> Tensor:
    """Of uint8 images [batch, 3, height, width] and the next ones, uint8; content int64 [batch, 2], width, height."""
    height, width = images.shape[-2:]
    x = torch.arange(width, device=images.device)[None, None, None, :] < content[:, 0, None, None, None]
    y = torch.arange(height, device=images.device)[None, None, :, None] < content[:, 1, None, None, None]
    mine = x & y
    theirs, other = mine.roll(-1, dims=0), images.roll(-1, dims=0)
    mean = ((images.to(torch.int16) + other) // 2).to(torch.uint8)
    alone = torch.where(mine, images, torch.where(theirs, other, images.new_tensor(NEUTRAL)[None, :, None, None]))
    return torch.where(mine & theirs, mean, alone)
