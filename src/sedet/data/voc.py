"""Pascal VOC: one XML file an image, and lists of names (ImageSets)."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath
from typing import NoReturn
from xml.etree import ElementTree
from xml.parsers import expat

from sedet.data.images import is_image_name
from sedet.data.layout import Faults, ImageDraft, absolute, assemble, inside, is_file, shown
from sedet.data.table import AnnotationTable
from sedet.errors import DataError

MAX_XML_BYTES = 20_000_000


def read_voc(annotations: Path, images: Path, root: Path, names: list[str] | None, source: str) -> AnnotationTable:
    """Read XML files.

    Boxes are taken as written, xmin..xmax and ymin..ymax, as corners in pixels: most tools write 0-based
    corners, and for the 1-based inclusive pixels of the original VOC sets this is off by at most one pixel.
    Classes are the names met, in alphabetical order. ``difficult`` objects are marked so.

    Args:
        annotations: folder of the XML files.
        images: folder of the images; each is found by its XML's <filename>, else by the XML's own name.
        root: the data folder, that image names in the table are relative to where images lie inside it.
        names: XML files to read, without ending; None reads all.
        source: what the table says it was read from.

    Raises:
        DataError: XML files are missing, broken or lack a part (each file and object), or images are missing.
    """
    annotations, images, root = absolute(annotations), absolute(images), absolute(root)
    if names is None:
        files = sorted(f for f in annotations.iterdir() if f.suffix.lower() == ".xml" and f.is_file())
    else:
        files = [annotations / f"{inside(annotations, name, source)}.xml" for name in names]
    lost = [f for f in files if not is_file(f)]
    if lost:
        raise DataError(
            f"{len(lost)} of {len(files)} listed annotation files do not exist: {lost[0]} ...",
            source,
            "Add them or take them off the list",
        )
    if not files:
        raise DataError("it lists no annotation files", source, "Give a folder with Annotations/*.xml")
    if not images.is_dir():
        raise DataError(f"its image folder {images} does not exist", source, "Name it with --images")
    by_stem: dict[str, Path] = {}
    for file in sorted(images.iterdir()):
        if is_image_name(file):
            by_stem.setdefault(file.stem, file)
    base = root if images.is_relative_to(root) else images
    drafts, labels, faults = [], [], Faults()
    for index, file in enumerate(files):
        with faults:
            draft, found = _read(file, images, by_stem, index, faults)
            draft.name = draft.path.relative_to(base).as_posix()
            drafts.append(draft)
            labels.append(found)
    classes = sorted({label for found in labels for label in found})
    index_of = {name: i for i, name in enumerate(classes)}
    for draft, found in zip(drafts, labels, strict=True):
        draft.labels = [index_of[name] for name in found]
    with faults:
        table = assemble(drafts, classes, range(1, len(classes) + 1), source, base)
    faults.check()
    return table


def read_names(file: Path) -> list[str]:
    """The image names of an ImageSets list, without the second column (-1, 0, 1) of one-class lists."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise DataError("this list cannot be read as text", file, "Give one image name a line") from None
    names = []
    for line in lines:
        words = line.split()
        if len(words) == 2 and words[1] in ("-1", "0", "1"):
            words = words[:1]
        if words:
            names.append(" ".join(words))
    if not names:
        raise DataError("this list is empty", file, "Give one image name a line")
    return list(dict.fromkeys(names))


def parse_xml(file: Path) -> ElementTree.Element:
    """Parse an XML file that may be hostile: document type declarations, and so entities, are refused."""
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def refuse(*_: object) -> NoReturn:
        raise DataError("it has a document type declaration, which is refused", file, "Remove <!DOCTYPE ...>")

    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = lambda tag, attributes: builder.start(tag, attributes)
    parser.EndElementHandler = lambda tag: builder.end(tag)
    parser.CharacterDataHandler = builder.data
    try:
        if file.stat().st_size > MAX_XML_BYTES:
            raise DataError("this XML file is too large for one image's annotations", file, "Check the file")
        parser.Parse(file.read_bytes(), True)
        return builder.close()
    except expat.ExpatError as error:
        raise DataError(
            f"broken XML at line {error.lineno}, column {error.offset + 1}: {expat.ErrorString(error.code)}",
            file,
            "Mend the file or export it again",
        ) from None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", file, "Check the path and permissions") from None
    except (ValueError, LookupError):
        raise DataError("this XML cannot be read (unknown encoding)", file, "Save it as UTF-8") from None


def _read(
    file: Path, images: Path, by_stem: dict[str, Path], index: int, faults: Faults
) -> tuple[ImageDraft, list[str]]:
    tree = parse_xml(file)
    if tree.tag != "annotation":
        raise DataError(f"its root is <{shown(tree.tag)[1:-1]}>, not <annotation>", file, "Give Pascal VOC annotations")
    path = by_stem.get(file.stem, images / f"{file.stem}.jpg")
    stated = (tree.findtext("filename") or "").strip()
    if stated:
        try:
            name = inside(images, stated, file)
            if is_file(images / name) and is_image_name(Path(name)):
                path = images / name
        except DataError:  # some tools write where the image lay on the machine they ran on
            if file.stem not in by_stem or not PureWindowsPath(stated).anchor:
                raise
    draft = ImageDraft(path, path.name, index)
    draft.width, draft.height = (_size(tree.findtext(f"size/{key}")) for key in ("width", "height"))
    names = []
    for number, item in enumerate(tree.findall("object"), start=1):
        where = f"{file}, object {number}"
        with faults:
            name = (item.findtext("name") or "").strip()
            if not name:
                raise DataError("<name> is missing", where, "Name its class")
            corners = _corners(item.find("bndbox"), where)
            difficult = (item.findtext("difficult") or "").strip().lower() in ("1", "true")
            draft.add(corners, 0, difficult=difficult)
            names.append(name)
    return draft, names


def _corners(box: ElementTree.Element | None, where: str) -> tuple[float, float, float, float]:
    if box is None:
        raise DataError("<bndbox> is missing", where, "Only boxes are read: add xmin, ymin, xmax, ymax")
    corners = []
    for key in ("xmin", "ymin", "xmax", "ymax"):
        text = box.findtext(key)
        try:
            corners.append(float(text or ""))
        except ValueError:
            missing = "missing" if text is None else shown(text)
            raise DataError(f"<{key}> is {missing}", where, "Write a number of pixels") from None
    return corners[0], corners[1], corners[2], corners[3]


def _size(text: str | None) -> int:
    """A stated side, or 0: some tools leave it out or write 0."""
    try:
        value = float(text or 0)
    except ValueError:
        return 0
    return int(value) if 0 < value < 1e6 else 0
