"""Export for CVAT: its format "CVAT for images 1.1".

https://docs.cvat.ai/docs/manual/advanced/xml_format/ says what the elements mean. Boxes carry their score as an
attribute; ``labels.json``, the labels for a task's "Raw" tab, declares it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from sedet.labeling.shards import Record
from sedet.outputs import Stream, write_text


class CVAT:
    """``annotations.xml`` (upload it to a task of the same images) and ``labels.json``."""

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self._classes, self._count = facts["classes"], 0
        self._stream = Stream(folder / "annotations.xml")
        score = {"name": "score", "input_type": "text", "mutable": False, "values": [""], "default_value": ""}
        labels = [{"name": name, "attributes": [score]} for name in self._classes]
        write_text(folder / "labels.json", json.dumps(labels, indent=1, ensure_ascii=False) + "\n")
        described = "".join(
            f"      <label><name>{_text(name)}</name><attributes><attribute><name>score</name><mutable>False</mutable>"
            "<input_type>text</input_type><default_value></default_value><values></values></attribute></attributes>"
            "</label>\n"
            for name in self._classes
        )
        self._stream.write(
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta><task>\n'
            f"    <labels>\n{described}    </labels>\n  </task></meta>\n"
        )

    def add(self, record: Record) -> None:
        name = quoteattr(_clean(record.name))
        self._stream.write(
            f'  <image id="{self._count}" name={name} width="{record.width}" height="{record.height}">\n'
        )
        for box in record.boxes:
            x1, y1, x2, y2 = box.corners
            self._stream.write(
                f'    <box label={quoteattr(_clean(self._classes[box.label]))} source="auto" occluded="0" '
                f'xtl="{x1:.3f}" ytl="{y1:.3f}" xbr="{x2:.3f}" ybr="{y2:.3f}" z_order="0">'
                f'<attribute name="score">{box.score:.5f}</attribute></box>\n'
            )
        self._stream.write("  </image>\n")
        self._count += 1

    def finish(self) -> list[str]:
        self._stream.write("</annotations>\n")
        self._stream.finish()
        return []


def _clean(text: str) -> str:
    """Without the control characters that XML cannot hold."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _text(text: str) -> str:
    return escape(_clean(text))
