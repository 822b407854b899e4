"""Every setting of a training, in one tree: type, default, unit, meaning.

Command-line flags, YAML keys and a run's config.yaml carry these names (nested ones: ``--sed.gamma``).
``None`` means "follows from the data, the device and the other settings"; the plan printed before training
shows what was taken. Nothing heavy is imported here: ``sedet --help`` reads this file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class ModelConfig:
    """The detector's size. The defaults fit the device: small on a CPU, the field's usual on a GPU."""

    neck_channels: int | None = None
    """Channels of the feature pyramid and the head (Faster R-CNN's second stage: 4 times as many). Default: 96 on a
    CPU, 256 on a GPU."""
    head_convs: int | None = None
    """3x3 convolutions in each branch of the head. Default: 2 on a CPU, 4 on a GPU; Faster R-CNN 1, before both."""
    level_range: float | None = None
    """Farthest side, in strides, that a pyramid level answers for (FCOS); Faster R-CNN's anchors have half of it as
    their side. Default: 8, FCOS's own, from 400 px; 4 below."""
    center_radius: float = 1.5
    """Radius of the positive centre region of an object, in strides (FCOS)."""
    freeze_stages: int = 1
    """Backbone stages, from the stem on, that are not trained when pretrained weights are loaded."""
    proposals: int | None = None
    """Boxes an image that the second stage looks at (Faster R-CNN). Default: 256 on a CPU, 1000 on a GPU."""
    roi_samples: int | None = None
    """Boxes an image that the second stage learns from (Faster R-CNN). Default: 128 on a CPU, 512 on a GPU."""


@dataclass(frozen=True)
class ViewConfig:
    """Augmentation. Weak views have only the geometry; strong views add photometrics and erasing."""

    scale_min: float = 0.6
    """Smallest zoom of the scale jitter (1: the image's long side is image_size)."""
    scale_max: float = 1.4
    """Largest zoom; what leaves the canvas is cropped."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    vertical_flip: float = 0.0
    """Probability of a vertical flip (aerial and microscope images)."""
    jitter: float = 0.8
    """Probability of colour jitter in the strong view (brightness, contrast, saturation 0.4, hue 0.1)."""
    grey: float = 0.2
    """Probability of a grey image in the strong view."""
    blur: float = 0.5
    """Probability of Gaussian blur (sigma 0.1-2 px at 640 px) in the strong view."""
    erase: bool = True
    """Random erasing in the strong view (up to three rectangles)."""
    erase_limit: float = 0.7
    """A box erased over more than this share of its area neither teaches nor counts as background."""


@dataclass(frozen=True)
class SEDConfig:
    """The method. Each part can be switched off and each choice replaced, for ablations."""

    distill: bool = True
    """Self-distillation: the student's full view learns the teacher's answers at every region."""
    scale: bool = True
    """Scale-equivalent distillation: the student's half-size view learns them too."""
    three_sizes: bool = True
    """The teacher looks at the weak view at half and double size too, and its answers are joined."""
    largest_zoom: float = 2.0
    """Largest zoom of the teacher's double view (1: the image's long side is image_size). Images that the scale jitter
    has enlarged are not doubled beyond it. Labels teach large views only as far as views.scale_max goes: with its
    default of 1.4 the double view of an image as it is shows more than they do."""
    class_share: float = 0.5
    """How much of the joined class scores is the other size's (0..1; 0.5: the mean of both)."""
    class_share_end: float | None = None
    """What class_share has become by the last step, in a straight line from the burn-in's end. Default: it stays."""
    box_share: float = 1.0
    """How much of the other size's box enters where both agree (0..1; 1: their mean by confidence, 0: none)."""
    student_view: Literal["strong", "weak"] | None = None
    """The unlabelled view the student learns from; weak: the teacher's own. Default: weak with overlay 1."""
    overlay: float = 0.0
    """Share of the steps whose unlabelled images are laid over each other in pairs (0..1; dense detectors).
    Pairs are of one process and one micro-batch: several processes make other pairs than one, and one image none."""
    reweight: Literal["discrepancy", "foreground", "none"] = "discrepancy"
    """What weighs a class term: |p_T - p_S|^gamma, the teacher's foreground score, or nothing."""
    gamma: float = 1.0
    """Exponent of the discrepancy weight."""
    normalizer: Literal["foreground", "weights", "count"] = "foreground"
    """What the class loss is divided by: the teacher's foreground, sum of weights, number of regions."""
    box_loss: Literal["giou", "smooth_l1"] = "giou"
    """Loss between the teacher's and the student's boxes (smooth L1 in units of stride)."""
    temperature: float = 1.0
    """Sharpens the teacher's scores between the classes of a region (1 leaves them); the best class keeps its own."""
    sharpness: float = 1.0
    """Multiplies the logits of the teacher's class scores: above 1 these leave 0.5, towards labels. Where the teacher
    gives most objects less than 0.5 when the burn-in ends (labels_recall_0.5) that loses them."""
    weight: float = 2.0
    """lambda_u: weight of the unlabelled loss after the ramp."""
    scale_weight: float = 1.0
    """lambda_s: weight of the half-size view's loss beside the full view's."""
    class_weight: float = 1.0
    """Weight of the class term."""
    box_weight: float = 0.0
    """Weight of the box term. 1 gains where labels are learnt out and the teacher's boxes are better than the
    student's, and harms elsewhere."""
    box_target: Literal["region", "voted"] = "region"
    """The box a region is taught: the teacher's at that region, or a vote of all that answer for the same object."""
    box_gamma: float = 0.0
    """Exponent of the box term's own discrepancy weight, 1 - IoU of both boxes (0: none)."""
    quality_weight: float | None = None
    """Weight of the quality (centerness) term, for detectors that have one; it belongs to the boxes. Default: the box
    term's."""
    targets: Literal["soft", "hard"] = "soft"
    """soft: self-distillation. hard: the teacher's boxes above a threshold as labels (the ablation)."""
    threshold: float = 0.7
    """Score threshold of hard targets. Soft targets have none."""


@dataclass(frozen=True)
class DenseTeacherConfig:
    """Dense Teacher's settings, for ``method: dense-teacher``."""

    share: float = 0.01
    """Part of all locations of a batch that the teacher labels: those it is surest of."""
    class_weight: float = 4.0
    """Weight of the class loss (the publication's for 5 and 10 % of COCO's labels; 3 for 1 %)."""
    box_weight: float = 1.0
    """Weight of the box loss."""
    quality_weight: float = 1.0
    """Weight of the quality (centerness) loss."""


@dataclass(frozen=True)
class STACConfig:
    """STAC's settings, for ``method: stac``."""

    threshold: float = 0.9
    """Least score of a pseudo label; an image whose best is below keeps its best."""
    weight: float = 2.0
    """Weight of the unlabelled loss after the ramp."""


@dataclass(frozen=True)
class UnbiasedTeacherConfig:
    """Unbiased Teacher's settings, for ``method: unbiased-teacher``."""

    threshold: float = 0.7
    """Least score of a pseudo label."""
    weight: float = 4.0
    """Weight of the unlabelled loss after the ramp (the publication's; 2 for VOC and for all of COCO's labels)."""
    focal_gamma: float = 1.5
    """Exponent of the focal class loss of Faster R-CNN's second stage, on labelled images too."""


@dataclass(frozen=True)
class SoftTeacherConfig:
    """Soft Teacher's settings, for ``method: soft-teacher``."""

    candidate_threshold: float = 0.5
    """Least score of a pseudo label at all."""
    threshold: float = 0.9
    """Least score of one that teaches classes and objectness."""
    uncertainty: float = 0.02
    """A pseudo label teaches its box if its jittered boxes spread less than this, as a share of its sides."""
    jitters: int = 10
    """Jittered copies of each pseudo label."""
    jitter: float = 0.06
    """Deviation of the jitter, as a share of the box's sides."""
    weight: float = 4.0
    """Weight of the unlabelled loss after the ramp (the publication's; 2 for all of COCO's labels)."""


@dataclass(frozen=True)
class PseCoConfig:
    """PseCo's settings, for ``method: pseco``."""

    threshold: float = 0.6
    """Least score of a pseudo label (the publication's for a softmax; 0.5 belongs to its focal second stage)."""
    candidate_iou: float = 0.4
    """Least IoU of the box that a region predicts with the pseudo label it may answer for."""
    candidates: int = 12
    """Largest IoUs whose sum is how many regions answer for a pseudo label."""
    weight: float = 2.0
    """Weight of the unlabelled loss after the ramp (the publication's; 1 for all of COCO's labels)."""


@dataclass(frozen=True)
class CSDConfig:
    """CSD's settings, for ``method: csd``."""

    weight: float = 1.0
    """Weight of the consistency loss after the ramp."""
    ramp_down: float = 0.17
    """Share of the steps, the last, over which the weight falls to zero again."""
    threshold: float = 0.5
    """Regions count whose best class has a probability above it. 0.5: likelier than background."""


@dataclass(frozen=True)
class ConsistentTeacherConfig:
    """Consistent-Teacher's settings, for ``method: consistent-teacher``."""

    buffer: int = 100
    """Scores remembered of each class, to which the mixture of two Gaussians is fitted."""
    candidates: int = 13
    """Most regions that answer for an object."""
    weight: float = 2.0
    """Weight of the unlabelled loss after the ramp."""


@dataclass(frozen=True)
class MixPLConfig:
    """MixPL's settings, for ``method: mixpl``."""

    threshold: float | None = None
    """Least score of a pseudo label. Default: the publication's, 0.7 with Faster R-CNN, 0.3 with the others."""
    weight: float = 2.0
    """Weight of the unlabelled loss after the ramp."""
    mosaic_weight: float = 0.5
    """Weight of the loss on mosaics beside that on mixed images."""
    cache: int = 8
    """Images remembered to mix with."""


@dataclass(frozen=True)
class TrainConfig:
    """Train a detector from few labels and a folder of unlabelled images."""

    labeled: str = ""
    """Labelled data: COCO JSON, a Pascal VOC folder or a YOLO data.yaml (file or folder, detected)."""
    unlabeled: tuple[str, ...] = ()
    """Unlabelled images: folders (recursive), list files (.txt) or globs. No annotations are ever read."""
    val: str | None = None
    """Labelled data to judge by. Default: a part of the labels, when there are enough."""
    out: str = "runs/sedet"
    """Run folder to write. Must be new or empty."""
    images: str | None = None
    """Folder of the labelled images, where the annotations' own paths do not lead to them."""
    val_images: str | None = None
    """The same for the validation images."""
    classes: tuple[str, ...] = ()
    """Classes to learn, in this order. Default: all of the labelled data."""
    exclude_labeled: bool = False
    """Leave labelled images out of the unlabelled pool (by default they stay, without their labels)."""
    method: Literal[
        "sed",
        "supervised",
        "stac",
        "unbiased-teacher",
        "soft-teacher",
        "dense-teacher",
        "pseco",
        "csd",
        "consistent-teacher",
        "mixpl",
    ] = "sed"
    """sed; supervised: the same loop on the labels alone; or a published relative ("sedet methods" tells of each)."""
    detector: Literal["fcos", "retinanet", "faster_rcnn"] = "fcos"
    """Detector architecture: fcos (a region a location), retinanet (nine anchors a location), or faster_rcnn (two
    stages)."""
    backbone: str | None = None
    """Any timm backbone with strides 4-32; convnext_tiny.dinov3_lvd1689m is a strong one (DINOv3's licence). Default:
    tf_efficientnet_lite0 on a CPU, resnet50 on a GPU."""
    weights: str = "auto"
    """Backbone weights: auto (pretrained), none (from scratch), or a state-dict file."""
    init: str | None = None
    """Warm start from a detector file of yours, or torchvision's COCO weights; the burn-in shortens."""
    image_size: int | None = None
    """Long side of the training images, pixels. Default: from the data and the device."""
    batch: int | None = None
    """Labelled images a step, over all processes. Default: 16 on a GPU, 8 on a CPU, in parts if memory is short."""
    ratio: float = 1.0
    """Unlabelled images a step for each labelled one."""
    steps: int | None = None
    """Updates in all, burn-in included. Default: from the data."""
    rate: float | None = None
    """Peak learning rate (AdamW). Default: follows the batch size."""
    backbone_rate: float = 0.3
    """Learning rate of a pretrained backbone, as a share of the rate."""
    weight_decay: float = 0.05
    """AdamW weight decay (not on norms and biases)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the burn-in: falls along a cosine, or stays. Before its end it stays."""
    hold: float = 0.0
    """Share of the steps after the burn-in that keep its rate, before the cosine begins."""
    warmup: float = 0.03
    """Share of the steps in which the rate rises from zero."""
    clip: float = 10.0
    """Largest gradient norm; 0 does not clip."""
    accumulate: int = 1
    """Parts a batch is taken in, to save memory; the losses of each are averaged by themselves."""
    burn_in: float | None = None
    """Share of the steps on labels alone, before unlabelled images join. Default: 0.5 (0.05 with --init)."""
    ramp: float = 0.1
    """Share of the steps over which the unlabelled weight rises after the burn-in."""
    ema_decay: float | None = None
    """Largest decay of the teacher's average. Default: it spans 0.3 of the steps after the burn-in."""
    ema_end: float = 0.0
    """Towards the end the average spans at most this share of the steps left, and at least 10 steps; 0: it stays."""
    half_size: bool = True
    """Train labelled images at half size too (as well as at full size)."""
    seed: int = 0
    """Base of every random draw."""
    device: str = "auto"
    """auto, cpu, cuda, or mps (untested)."""
    precision: Literal["auto", "32", "bf16", "16"] = "auto"
    """Numeric precision. Default: bf16 on GPUs that have it, 32 elsewhere."""
    threads: int | None = None
    """CPU threads of the computation. Default: PyTorch's."""
    workers: int | None = None
    """Processes that load images. Default: from the machine."""
    cache: float | None = None
    """Memory for decoded training images, GiB; 0 decodes anew each time. Default: a quarter of what is free, at most
    16."""
    eval_every: int | None = None
    """Steps between evaluations on val. Default: twelve evaluations."""
    save_every: int | None = None
    """Steps between checkpoints to resume from. Default: at each evaluation."""
    guard: bool = True
    """Ship the best teacher on val, nothing below the labels alone or the detector of init. Off: the last teacher."""
    patience: int = 0
    """Stop after this many evaluations without a better teacher; 0 never does."""
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Metrics to TensorBoard, Weights & Biases (offline) or MLflow too, besides metrics.csv; one or several."""
    start: str | None = None
    """Start from the end of this run's burn-in (for comparisons that share one)."""
    report: bool = True
    """Write report.html at the end: what the training came to, in one file for a browser."""
    stop: int | None = None
    """Stop at this step, leaving a checkpoint to resume from (to train a long run in parts)."""
    model: ModelConfig = field(default_factory=ModelConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    sed: SEDConfig = field(default_factory=SEDConfig)
    stac: STACConfig = field(default_factory=STACConfig)
    unbiased_teacher: UnbiasedTeacherConfig = field(default_factory=UnbiasedTeacherConfig)
    soft_teacher: SoftTeacherConfig = field(default_factory=SoftTeacherConfig)
    dense_teacher: DenseTeacherConfig = field(default_factory=DenseTeacherConfig)
    pseco: PseCoConfig = field(default_factory=PseCoConfig)
    csd: CSDConfig = field(default_factory=CSDConfig)
    consistent_teacher: ConsistentTeacherConfig = field(default_factory=ConsistentTeacherConfig)
    mixpl: MixPLConfig = field(default_factory=MixPLConfig)
