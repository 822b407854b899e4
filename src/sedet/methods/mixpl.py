"""MixPL (2023): pseudo-labelled images mixed in pairs, and set four at a time as mosaics.

  view     = an unlabelled image's strong view with small patches erased, and the teacher's boxes above the threshold
  L_mix    = the detector's own loss on (view + remembered view) / 2, with the boxes of both
  L_mosaic = the detector's own loss on four views, made smaller and set round a centre, with the boxes of all
  total    = L_sup + weight(t) (L_mix + mosaic_weight L_mosaic)

Facts of the publication's code: the threshold of 0.7 with Faster R-CNN and 0.3 with FCOS, mixing half and half with a
cache of the last 8 images, mosaics of 4 with sides of 400 to 800 px as an extra loss of weight 0.5, 1 to 20 erased
patches with a side of up to 0.1, the limit of 0.7 for erased boxes, and the weight 2.

Our choice:
- RetinaNet has FCOS's threshold. The ramp and the teacher's average are those of every method here, and the labelled
  loss may include the half-size view as the twin's does.
- Patches come before all mixing, on top of what the strong view has erased; each of their sides is drawn by itself, up
  to 0.1 of the content's, and each has one random colour. A box erased beyond the limit is ignored, as labelled ones
  are, not dropped.
- Mixed images lie over each other at the canvas's upper left corner, as they are: where only one has content it is
  half as bright, and the mixture's content is as wide as the wider and as high as the higher of both.
- What is remembered are the views of the steps before, unmixed. Until there are any, an image is mixed with another
  one of its batch, or left as it is where it is the only one.
- Each process remembers, mixes and sets as mosaics the images that it saw itself, of a batch in parts those of one part
  at a time: with few images each, more of a mosaic's are remembered ones.
- A mosaic for every four images of the batch, each of which is in one; a last one that is not full is filled up with
  remembered images. 400 to 800 px are 0.3 to 0.6 of the 1333 px that the publication's images are long: the long side
  of each becomes such a share of the canvas. The centre lies between 0.4 and 0.6 of it, all corners meet there, and
  what leaves the canvas is cropped, with boxes treated as those of cropped views are (below MIN_VISIBLE: ignored).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sedet.config import MixPLConfig
from sedet.data.batch import Batch, Targets
from sedet.detectors.build import Detector
from sedet.detectors.faster_rcnn import FasterRCNN
from sedet.detectors.regions import HALF_LEVELS
from sedet.methods.method import Method, Progress
from sedet.methods.mixing import TILES, Picture, as_float, draw_mosaic, draw_patches, mixup, union_share
from sedet.methods.pseudo_labels import teacher_detections
from sedet.methods.supervised import joint_views, labeled_losses


class MixPL(Method):
    """One step of MixPL. See the module's text."""

    def __init__(self, config: MixPLConfig, half_size: bool = True, erase_limit: float = 0.7) -> None:
        self.config, self.half_size, self.erase_limit = config, half_size, erase_limit
        self.uses_half = half_size
        self.remembered: list[Picture] = []

    def losses(
        self,
        student: Detector,
        teacher: Detector,
        labeled: Batch,
        unlabeled: Batch | None,
        progress: Progress,
    ) -> dict[str, Tensor]:
        """Weighted losses of one step: ``sup_*``, ``mixup_*`` and ``mosaic_*``; the latter two are 0 in the burn-in."""
        config, count = self.config, len(labeled)
        weight = config.weight * progress.unlabeled_weight
        mixed: list[Picture] = []
        mosaics: list[Picture] = []
        images, content = joint_views(labeled, None, half=False)
        if unlabeled is not None and weight > 0:
            views = self.views(teacher, unlabeled)
            mixed = [mixup(a, b) if a is not b else a for a, b in zip(views, self.partners(views), strict=True)]
            mosaics = [draw_mosaic(tiles) for tiles in self.fours(views)]
            self.remembered = (self.remembered + views)[-config.cache :]
            images = torch.cat([images, *(as_float(p.image)[None] for p in mixed + mosaics)])
            content = torch.cat([content, content.new_tensor([p.size for p in mixed + mosaics])])
        full = student(images, content)
        half = student(*joint_views(labeled, None, half=True), HALF_LEVELS) if self.half_size else None
        assert labeled.targets is not None
        losses = labeled_losses(student, full.images(slice(0, count)), half, labeled.targets)
        parts, zero = [key.removeprefix("sup_") for key in losses], full.logits.new_zeros(())
        for name, share, pictures in (("mixup", 1.0, mixed), ("mosaic", config.mosaic_weight, mosaics)):
            found = dict.fromkeys(parts, zero)
            if pictures:
                answers = full.images(slice(count, count + len(pictures)))
                found = student.loss(answers, [p.targets for p in pictures])
            count += len(pictures)
            losses |= {f"{name}_{part}": weight * share * found[part] for part in parts}
        return losses

    @torch.no_grad()
    def views(self, teacher: Detector, unlabeled: Batch) -> list[Picture]:
        """The batch's strong views, patches erased, with the teacher's boxes; those erased too far are ignored."""
        threshold = self.config.threshold
        if threshold is None:
            threshold = 0.7 if isinstance(teacher, FasterRCNN) else 0.3
        views = []
        sizes = unlabeled.content.tolist()
        for i, found in enumerate(teacher_detections(teacher, unlabeled, threshold)):
            width, height = sizes[i]
            patches = draw_patches(width, height)
            gone = union_share(found.boxes, torch.cat([unlabeled.erased[i], patches.to(unlabeled.erased)]))
            hidden = gone > self.erase_limit
            targets = Targets(found.boxes[~hidden], found.labels[~hidden], found.boxes[hidden])
            image = unlabeled.strong[i].clone()
            colours = torch.randint(256, (len(patches), 3, 1, 1)).to(image)
            for (x1, y1, x2, y2), colour in zip(patches.tolist(), colours, strict=True):
                image[:, y1:y2, x1:x2] = colour
            views.append(Picture(image, (width, height), targets))
        return views

    def partners(self, views: Sequence[Picture]) -> list[Picture]:
        """What each view is mixed with: a remembered one, or else another one of the batch (itself if it is alone)."""
        count = len(views)
        if self.remembered:
            return [self.remembered[i] for i in torch.randint(len(self.remembered), (count,)).tolist()]
        steps = torch.randint(1, max(2, count), (count,)).tolist()
        return [views[(i + step) % count] for i, step in enumerate(steps)]

    def fours(self, views: Sequence[Picture]) -> list[list[Picture]]:
        """The images of each mosaic: all of the batch in a random order; the last is filled up with remembered ones."""
        order = shuffled(views)
        others = itertools.cycle(shuffled(self.remembered) + order)
        order = order + list(itertools.islice(others, -len(order) % TILES))
        return [order[i : i + TILES] for i in range(0, len(order), TILES)]

    def state(self) -> dict[str, Tensor]:
        """The remembered views: images and sizes, and the boxes of all with how many are whose; on the CPU."""
        if not self.remembered:
            return {}
        # After a resume those of the checkpoint lie on the CPU, newer ones where training runs.
        targets = [p.targets.to(torch.device("cpu")) for p in self.remembered]
        return {
            "images": torch.stack([p.image.cpu() for p in self.remembered]),
            "sizes": torch.tensor([p.size for p in self.remembered]),
            "boxes": torch.cat([t.boxes for t in targets]),
            "labels": torch.cat([t.labels for t in targets]),
            "ignore": torch.cat([t.ignore for t in targets]),
            "counts": torch.tensor([[len(t.boxes), len(t.ignore)] for t in targets]),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.remembered = []
        if not state:
            return
        boxes, ignore = state["counts"].T.tolist()
        if len(state["boxes"]) != len(state["labels"]) or len(state["images"]) != len(boxes):
            raise ValueError("these are not the images that a training remembered")
        objects = zip(torch.split(state["boxes"], boxes), torch.split(state["labels"], boxes), strict=True)
        hidden = torch.split(state["ignore"], ignore)
        targets = [Targets(*own, gone) for own, gone in zip(objects, hidden, strict=True)]
        for image, (width, height), own in zip(state["images"], state["sizes"].tolist(), targets, strict=True):
            self.remembered.append(Picture(image, (width, height), own))


def shuffled(pictures: Sequence[Picture]) -> list[Picture]:
    return [pictures[i] for i in torch.randperm(len(pictures)).tolist()]
