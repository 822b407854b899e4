"""Export for CVAT: its format "CVAT for images 1.1".

https://docs.cvat.ai/docs/manual/advanced/xml_format/ says what the elements mean. Boxes carry their score as an
attribute; ``labels.json``, the labels for a task's "Raw" tab, declares it. Names that XML cannot hold are written as
:mod:`sedet.labeling.xml_names` says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from sedet.labeling.shards import Record
from sedet.labeling.xml_names import to_xml
from sedet.outputs import Stream, write_text


class CVAT:
    """``annotations.xml`` (upload it to a task of the same images) and ``labels.json``."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self._classes, self._count = [to_xml(name) for name in facts["classes"]], 0
        self._encoded, self._first = 0, ""
        self._stream = Stream(folder / "annotations.xml")
        score = {"name": "score", "input_type": "text", "mutable": False, "values": [""], "default_value": ""}
        labels = [{"name": name, "attributes": [score]} for name in self._classes]
        write_text(folder / "labels.json", json.dumps(labels, indent=1, ensure_ascii=False) + "\n")
        described = "".join(
            f"      <label><name>{escape(name)}</name><attributes><attribute><name>score</name><mutable>False</mutable>"
            "<input_type>text</input_type><default_value></default_value><values></values></attribute></attributes>"
            "</label>\n"
            for name in self._classes
        )
        self._stream.write(
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta><task>\n'
            f"    <labels>\n{described}    </labels>\n  </task></meta>\n"
        )

    def add(self, record: Record) -> None:
        name = to_xml(record.name)
        if name != record.name:
            self._encoded, self._first = self._encoded + 1, self._first or name
        self._stream.write(
            f'  <image id="{self._count}" name={quoteattr(name)} width="{record.width}" height="{record.height}">\n'
        )
        for box in record.boxes:
            x1, y1, x2, y2 = box.corners
            self._stream.write(
                f'    <box label={quoteattr(self._classes[box.label])} source="auto" occluded="0" '
                f'xtl="{x1:.3f}" ytl="{y1:.3f}" xbr="{x2:.3f}" ybr="{y2:.3f}" z_order="0">'
                f'<attribute name="score">{box.score:.5f}</attribute></box>\n'
            )
        self._stream.write("  </image>\n")
        self._count += 1

    def finish(self) -> list[str]:
        self._stream.write("</annotations>\n")
        self._stream.finish()
        if not self._encoded:
            return []
        return [
            f"cvat: XML cannot hold the names of {self._encoded} images, which are percent-encoded "
            f"({self._first!r} ...): sedet merge knows them so, CVAT needs files renamed like that"
        ]
