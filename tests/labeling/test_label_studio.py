"""The way there and back through a real Label Studio; slow, and only where SEDET_LABEL_STUDIO names its executable."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sedet.data.formats import read_table
from sedet.labeling.changes import BoxChanges
from sedet.labeling.label import label
from sedet.labeling.merge import merge
from sedet.predictor import Predictor

PROGRAM = os.environ.get("SEDET_LABEL_STUDIO")
TOKEN = "0123456789abcdef0123456789abcdef01234567"
USER, PASSWORD = "person@example.com", "a-long-password"

pytestmark = pytest.mark.skipif(not PROGRAM, reason="SEDET_LABEL_STUDIO does not name the label-studio executable")


class Server:
    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, data: Any = None) -> Any:
        body = None if data is None else json.dumps(data).encode()
        headers = {"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, body, headers)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "LABEL_STUDIO_BASE_DATA_DIR": str(tmp_path / "studio"), "DJANGO_DB": "sqlite"}
    environment |= {"LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true", "SENTRY_DSN": "", "COLLECT_ANALYTICS": "false"}
    environment |= {"LATEST_VERSION_CHECK": "false", "PYTHONPATH": ""}
    words = [str(PROGRAM), "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port)]
    words += ["--username", USER, "--password", PASSWORD, "--user-token", TOKEN]
    with (tmp_path / "studio.log").open("wb") as log:
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, cwd=tmp_path)
    try:
        ready = Server(f"http://127.0.0.1:{port}")
        for _ in range(900):  # its data base takes minutes to set up
            try:
                with urllib.request.urlopen(ready.url + "/health", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None, (tmp_path / "studio.log").read_text()[-2000:]
                time.sleep(1)
        yield ready
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_there_and_back(red: Predictor, detector: Path, photos: Path, tmp_path: Path, server: Server) -> None:
    labels = tmp_path / "labels"
    label(detector, [str(photos)], labels, format="label-studio", rank=False, score=0.1, device="cpu")
    config = (labels / "label-studio" / "label-config.xml").read_text()
    tasks = json.loads((labels / "label-studio" / "tasks-00001.json").read_text())
    project = server.ask("/api/projects", {"title": "round trip", "label_config": config})["id"]
    server.ask(f"/api/projects/{project}/import", tasks)
    listed = server.ask(f"/api/tasks?project={project}&fields=all")
    listed = listed["tasks"] if isinstance(listed, dict) else listed
    assert len(listed) == 4
    for task in listed:
        (prediction,) = server.ask(f"/api/predictions?task={task['id']}")
        result = prediction["result"]
        if task["data"]["sedet_image"] == "a.png":  # 80 x 60: the red box moves right by 8 pixels, the cat goes
            result = [r for r in result if r["value"]["rectanglelabels"] == ["red box"]]
            result[0]["value"]["x"] += 10
        server.ask(f"/api/tasks/{task['id']}/annotations/", {"result": result})
    export = tmp_path / "export.json"
    export.write_text(json.dumps(server.ask(f"/api/projects/{project}/export?exportType=JSON")))
    done = merge(None, export, tmp_path / "out", proposals=labels)
    table = read_table(tmp_path / "out")
    boxes = {e.name: np.round(o.boxes, 2).tolist() for e, o in zip(table.images, table.objects, strict=True)}
    assert boxes["a.png"] == [[28, 10, 58, 30]]
    assert boxes["turned.png"] == [[30, 20, 50, 50], [0, 0, 5, 5]]
    assert done.proposals == BoxChanges(kept=5, moved=1, removed=1) and not done.problems
