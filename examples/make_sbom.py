"""What this environment consists of, as CycloneDX 1.6: every installed package, and every file of the weights.

python examples/make_sbom.py FILE.json

Packages have their version, licence and package URL; weight files their sha256 and licence. The packages are those
that neuroreg and its installed extras need, nothing else of the environment. Needs no other package.
"""

import importlib.metadata
import json
import re
import sys
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from neuroreg import __version__, checkpoints
from neuroreg.errors import UnavailableError
from neuroreg.io.files import atomic_write, sha256

_NAME = "neuroreg"


def canonical(name: str) -> str:
    """As package URLs spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(name: str, found: dict[str, importlib.metadata.Distribution]) -> None:
    """Add a distribution and all that it needs here, extras included, to ``found``."""
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return  # of an extra, or for another system
    key = canonical(distribution.metadata["Name"])
    if key not in found:
        found[key] = distribution
        for requirement in distribution.requires or ():
            is_extra = "extra ==" in requirement
            if not is_extra or key == _NAME:
                needed(re.split(r"[\s<>=!~\[;(]", requirement, maxsplit=1)[0], found)


def licences(distribution: importlib.metadata.Distribution) -> list[dict[str, Any]]:
    """The SPDX expression where the package states one, else the name it gives, else what its classifiers say."""
    said = distribution.metadata
    if expression := said.get("License-Expression"):
        return [{"expression": expression}]
    name = (said.get("License") or "").strip().splitlines()
    classified = [
        c.rpartition(" :: ")[2] for c in said.get_all("Classifier") or () if c.startswith("License ::")
    ]
    names = classified or [line[:80] for line in name[:1]]
    return [{"license": {"name": each}} for each in names]


def package(key: str, distribution: importlib.metadata.Distribution) -> dict[str, Any]:
    """One installed package."""
    return {
        "type": "library",
        "bom-ref": f"pkg:pypi/{key}@{distribution.version}",
        "name": distribution.metadata["Name"],
        "version": distribution.version,
        "purl": f"pkg:pypi/{key}@{distribution.version.replace('+', '%2B')}",
        "licenses": licences(distribution),
    }


def weights() -> Iterator[dict[str, Any]]:
    """Every file of every record of the weights, its sha256 compared with what was published."""
    for record in checkpoints.manifest():
        checkpoints.verify(record)
        digests = {record.file: record.sha256, **record.also}
        for file in (*digests, *filter(None, (record.recipe, record.card))):
            content = digests.get(file) or sha256(record.folder / file)
            yield {
                "type": "machine-learning-model" if file == record.file else "data",
                "bom-ref": f"weights/{file}",
                "name": file,
                "version": __version__,
                "description": f"{record.kind} {record.name}; made from: {record.training_data}",
                "hashes": [{"alg": "SHA-256", "content": content}],
                "licenses": [{"license": {"name": record.licence}}],
            }


def bill() -> dict[str, Any]:
    """The whole document."""
    found: dict[str, importlib.metadata.Distribution] = {}
    needed(_NAME, found)
    if found.pop(_NAME, None) is None:
        raise UnavailableError("neuroreg is not installed here", remedy="pip install -c constraints.txt .")
    parts = [*(package(key, found[key]) for key in sorted(found)), *weights()]
    root = f"pkg:pypi/{_NAME}@{__version__}"
    itself = {"type": "application", "bom-ref": root, "name": _NAME, "version": __version__, "purl": root}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "component": {**itself, "licenses": [{"license": {"id": "Apache-2.0"}}]},
        },
        "components": parts,
        "dependencies": [{"ref": root, "dependsOn": [part["bom-ref"] for part in parts]}],
    }


def main(words: Sequence[str]) -> None:
    if len(words) != 1:
        sys.exit(__doc__)
    made = bill()

    def write(path: Path) -> None:
        path.write_text(json.dumps(made, indent=2, allow_nan=False) + "\n", encoding="utf-8")

    atomic_write(Path(words[0]), write, overwrite=True)
    print(f"{len(made['components'])} components in {words[0]}")


if __name__ == "__main__":
    main(sys.argv[1:])
