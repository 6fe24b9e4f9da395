"""The manifest's records: added, replaced, and never with figures of another file."""

import json
from pathlib import Path

from neuroreg.training.publish import put_record


def test_figures_stay_with_the_file_they_were_measured_on(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text('{"schema": 1, "defaults": {}, "models": []}')
    record: dict[str, object] = {"name": "b", "method": "toy", "sha256": "1"}
    put_record(path, {**record, "numbers": {"dice": 0.5}})
    put_record(path, {"name": "a", "sha256": "2"})
    put_record(path, record)
    contents = json.loads(path.read_text())
    assert [(each["name"], each["numbers"]) for each in contents["models"]] == [
        ("a", {}),
        ("b", {"dice": 0.5}),
    ]
    assert contents["defaults"] == {"toy": "b"}
    put_record(path, {**record, "sha256": "3"})
    assert json.loads(path.read_text())["models"][1]["numbers"] == {}
