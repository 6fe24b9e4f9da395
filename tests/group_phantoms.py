"""Cohorts without images: folders of run.json and report.html as runs leave them, some of them hostile or broken."""

import base64
import io
import json
import random
from pathlib import Path

from PIL import Image

HOSTILE_IDS = (
    "<img src=x onerror=alert(1)>",
    "=cmd|' !A0",
    "sub[",  # with a folder "foo]" in it
    "\"quoted\" & 'single'",
    "sub-ä漢🧠",
    "javascript:alert(1)",
    "%2e%2e #frag?query",
    "bad\x1b[31m\u202egnp",
)
"""Names that folders can have."""

HOSTILE_TEXT = '</script><script>alert(1)</script><!-- " onload=x \x1b[31m\u202e {{ 7*7 }}'

FIGURES: dict[str, float | None] = {
    "folded_percent": 0.0,
    "ndv_percent": 0.001,
    "sd_log_jacobian": 0.45,
    "ncc_before": 0.2,
    "ncc_affine": 0.65,
    "ncc_after": 0.93,
    "lncc_before": 0.1,
    "lncc_affine": 0.48,
    "lncc_after": 0.9,
    "lncc_worst": 0.7,
    "displacement_mean_mm": 30.0,
    "displacement_max_mm": 50.0,
    "residual_mean_mm": 3.2,
    "residual_max_mm": 13.0,
    "inverse_consistency_mean_mm": 0.05,
    "inverse_consistency_p95_mm": 0.15,
    "inverse_consistency_max_mm": 0.6,
    "mask_overlap": 0.95,
    "affine_scale_min": 0.95,
    "affine_scale_max": 1.06,
    "affine_shear": 0.03,
    "affine_rotation_deg": 6.0,
    "dice_estimated": 0.8,
}
THRESHOLDS = {"lncc_after": {"look": 0.75, "fail": 0.6}, "folded_percent": {"look": 0.5, "fail": 2.0}}


def picture(kind: str = "jpeg", side: int = 112, seed: int = 0) -> str:
    """A data URI of about 3 kB."""
    noise = Image.frombytes("L", (side, side), random.Random(seed).randbytes(side * side))
    smooth = noise.resize((side // 3, side // 3)).resize((side, side), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    smooth.save(stream, kind, **({"quality": 85} if kind == "jpeg" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def run(
    folder: Path,
    *,
    verdict: str = "pass",
    reasons: tuple[str, ...] = (),
    schema: int = 2,
    method: str = "neuroreg",
    weights: str | None = "neuroreg-ixi2mm",
    seconds: float | None = 12.5,
    thumbnail: str | None = None,
    report: bool = True,
    thresholds: object = None,
    **figures: object,
) -> Path:
    """One finished run in ``folder``: the record, and a report unless told otherwise. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    measured = {**FIGURES, **figures}
    record: dict[str, object] = {
        "schema_version": schema,
        "program": "neuroreg 0.2.0",
        "command": "affine" if method == "affine" else "register",
        "config": {"fixed": "f.nii.gz", "moving": "m.nii.gz", "method": method},
        "weights": None if weights is None else {"name": weights, "sha256": "0123456789abcdef" * 4},
        "affine_weights": None,
        "seconds": {"read": 1.0, "total": seconds},
        "warnings": list(reasons),
    }
    if schema == 1:
        record |= {"figures": measured, "quality": {"passed": verdict == "pass", "reasons": list(reasons)}}
    else:
        record["qc"] = {"verdict": verdict, "reasons": list(reasons), **measured}
        if thresholds is not None:
            record["qc"] |= {"thresholds": thresholds}  # type: ignore[operator]
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    if report:
        meta = "" if thumbnail is None else f'<meta name="neuroreg:thumbnail" content="{thumbnail}">'
        (folder / "report.html").write_text(
            f"<!DOCTYPE html><head>{meta}</head><p>A report.", encoding="utf-8"
        )
    return folder


def many(top: Path, count: int, seed: int = 0) -> Path:
    """A cohort of ``count`` cases: normal figures, one in twenty to look at, one in fifty failed, 1 in 100 hostile."""
    draw = random.Random(seed)
    pictures = [picture(seed=k) for k in range(20)]
    for k in range(count):
        bad = draw.random()
        verdict = "fail" if bad < 0.02 else "look" if bad < 0.07 else "pass"
        drop = {"fail": 0.4, "look": 0.2, "pass": 0.0}[verdict]
        figures: dict[str, object] = {
            name: value * draw.gauss(1, 0.02) if value else abs(draw.gauss(0, 0.01))
            for name, value in FIGURES.items()
            if value is not None
        }
        figures["lncc_after"] = draw.gauss(0.9 - drop, 0.02)
        figures["dice_mean"] = draw.gauss(0.75 - drop / 2, 0.02) if k % 3 else None
        reasons: tuple[str, ...] = ()
        if verdict != "pass":
            figures["folded_percent"] = draw.uniform(0.5, 5)
            reasons = (f"the map folds in {figures['folded_percent']:.2f} % of the brain",)
        if verdict == "fail":
            reasons = (*reasons, "the images are less alike after the registration than before")
        name = f"sub-{k:04d}" if k % 100 else f"sub-{k:04d} {HOSTILE_IDS[k // 100 % len(HOSTILE_IDS)]}"
        run(
            top / f"site-{k % 4}" / name.replace("/", "_"),
            verdict=verdict,
            reasons=reasons,
            seconds=draw.uniform(8, 16),
            method="neuroreg" if k % 50 else "affine",
            thumbnail=pictures[k % len(pictures)],
            thresholds=THRESHOLDS,
            **figures,
        )
    return top
