"""The row of a manifest that asks for exactly the same case again, whatever the command line then says."""

import json
import os
from pathlib import Path

from neuroreg.cohort.case import Case
from neuroreg.cohort.row import BETWEEN, ENGINE, FILES, SETTINGS
from neuroreg.cohort.shared import is_weights_file
from neuroreg.pipeline.config import AFFINES, OUTPUTS, RegisterConfig


def repeating_row(case: Case) -> dict[str, str]:
    """The case's own cells, and all of its settings that are not the program's defaults, in columns of a manifest.

    Files that lie outside the row's root widen it to the folder that holds them all.
    """
    cells = {**case.row, **_settings(case.config)}
    files = _files(case.config, cells)
    root = Path(cells.get("root") or "/")
    outside = [path for path in files.values() if not path.is_relative_to(root)]
    if outside:
        for column in (*FILES, "also"):
            if cells.get(column):
                cells[column] = BETWEEN.join(str(root / part) for part in cells[column].split(BETWEEN))
        cells["root"] = os.path.commonpath((root, *outside))
    return {**cells, **{column: str(path) for column, path in files.items()}}


def _settings(config: RegisterConfig) -> dict[str, str]:
    """Those that are no files; options in the column ``set``."""
    cells = {}
    for name in (*ENGINE, *SETTINGS):
        if name == "set":
            cells["set"] = BETWEEN.join(f"{key}={json.dumps(value)}" for key, value in config.options.items())
            continue
        value, default = getattr(config, name), RegisterConfig.model_fields[name].default
        if name == "outputs":
            cells[name] = "" if value == OUTPUTS else BETWEEN.join(value)
        elif value != default:
            cells[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return {name: text for name, text in cells.items() if text}


def _files(config: RegisterConfig, cells: dict[str, str]) -> dict[str, Path]:
    """Files that come from the command line or a configuration, absolute: the row itself does not name them."""
    found = {
        name: getattr(config, name).absolute()
        for name in FILES
        if name not in ("fixed", "moving") and name not in cells and getattr(config, name) is not None
    }
    if config.affine not in AFFINES:
        found["affine"] = Path(config.affine).absolute()
    if config.weights is not None and is_weights_file(config.weights):
        found["weights"] = Path(config.weights).absolute()
    return found
