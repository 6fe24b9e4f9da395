"""What the page calls each figure, and what it means in one sentence."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Meaning:
    """Of one figure."""

    label: str
    means: str
    unit: str = ""


FIGURES: dict[str, Meaning] = {
    "sides_fixed": Meaning(
        "Left and right, fixed image",
        "how far the brain's asymmetry is that of people in general: about 1 as it is, about -1 when mirrored",
    ),
    "sides_moving": Meaning("Left and right, moving image", "the same question, of the moving image"),
    "lncc_before": Meaning("Local correlation, as scanned", "the moving image where its header puts it"),
    "lncc_affine": Meaning("Local correlation, after the affine", "before the deformation"),
    "lncc_after": Meaning(
        "Local correlation, at the end", "mean squared correlation in cubes of 18 mm; 1 is best"
    ),
    "lncc_worst": Meaning("Local correlation, worst region", "the lowest mean over a region of 26 mm"),
    "ncc_before": Meaning("Correlation, as scanned", "the moving image where its header puts it"),
    "ncc_affine": Meaning("Correlation, after the affine", "before the deformation"),
    "ncc_after": Meaning("Correlation, at the end", "of all intensities in the brain or head"),
    "mask_overlap": Meaning("Overlap of the brains", "Dice of the fixed and the moved brain mask (or head)"),
    "contrast": Meaning(
        "Same contrast",
        "rank correlation of each fixed intensity and the mean moved one there; 1 for one contrast",
    ),
    "dice_mean": Meaning("Dice of the given labels", "mean overlap of the regions; 1 is best"),
    "dice_estimated": Meaning(
        "Dice estimated without labels", "overlap of the method's own segmentations of the two images"
    ),
    "folded_percent": Meaning("Folds", "share of the brain where the map is not one-to-one", "%"),
    "ndv_percent": Meaning("Volume lost in folds", "non-diffeomorphic volume", "%"),
    "sd_log_jacobian": Meaning("Spread of volume change", "SD of the log Jacobian; 0 for an affine map"),
    "inverse_consistency_mean_mm": Meaning("Inverse consistency, mean", "over all points of the brain", "mm"),
    "inverse_consistency_p95_mm": Meaning(
        "Inverse consistency, 95th percentile",
        "how far from its start a point ends that goes there and back",
        "mm",
    ),
    "inverse_consistency_max_mm": Meaning(
        "Inverse consistency, largest", "over all points of the brain", "mm"
    ),
    "displacement_mean_mm": Meaning("Whole displacement, mean", "affine included", "mm"),
    "displacement_max_mm": Meaning("Whole displacement, largest", "affine included", "mm"),
    "residual_mean_mm": Meaning("Deformation, mean", "what the affine left to do", "mm"),
    "residual_max_mm": Meaning("Deformation, largest", "what the affine left to do", "mm"),
    "residual_global_mm": Meaning(
        "Affine part of the deformation",
        "what an affine could still have done; much says that it failed",
        "mm",
    ),
    "affine_scale_min": Meaning("Affine, smallest scale", "1 keeps the size"),
    "affine_scale_max": Meaning("Affine, largest scale", "1 keeps the size"),
    "affine_shear_deg": Meaning("Affine, shear", "how far right angles are from staying right", "degrees"),
    "affine_rotation_deg": Meaning("Affine, rotation", "between the two heads as scanned", "degrees"),
    "affine_determinant": Meaning("Affine, determinant", "change of volume; below 0 it would mirror"),
}
