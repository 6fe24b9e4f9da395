"""How good a registration is. Tensors or arrays and millimetres in, numbers out; no file is read here."""

from neuroreg.registry import Entry

METRICS: dict[str, Entry] = {
    "dice": Entry("neuroreg.metrics.segmentation:dice", "overlap of each region, 0..1"),
    "regions": Entry(
        "neuroreg.metrics.segmentation:region_scores",
        "Dice, Jaccard, HD, HD95, ASSD (mm), surface Dice, volumes (mm3), centroid shift (mm) of each region",
    ),
    "groups": Entry("neuroreg.metrics.groups:group_scores", "the same of groups of regions"),
    "tre": Entry("neuroreg.metrics.landmarks:landmark_errors", "distances of landmarks, mm"),
    "folded": Entry("neuroreg.metrics.deformation:percent_folded", "percent of voxels with det J <= 0"),
    "ndv": Entry("neuroreg.metrics.deformation:ndv", "non-diffeomorphic volume, percent"),
    "sdlogj": Entry("neuroreg.metrics.deformation:sd_log_jacobian", "standard deviation of log det J"),
    "inverse": Entry(
        "neuroreg.metrics.deformation:inverse_consistency_mm",
        "mean distance of inverse(forward(p)) from p, mm",
    ),
    "icc": Entry(
        "neuroreg.metrics.statistics:intraclass_correlation",
        "agreement of repeated measurements, ICC(2,1), at most 1",
    ),
    "ncc": Entry("neuroreg.metrics.image:correlation", "Pearson correlation of intensities, -1..1"),
    "nmi": Entry(
        "neuroreg.metrics.image:normalised_mutual_information", "normalised mutual information, 1..2"
    ),
    "rmse": Entry("neuroreg.metrics.image:root_mean_square", "root mean square difference of intensities"),
}
