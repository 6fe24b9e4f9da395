"""neuroreg affine: align by an affine map alone."""

from neuroreg.cli import options
from neuroreg.cli.register import run


def command(
    fixed: options.FixedArgument = None,
    moving: options.MovingArgument = None,
    fixed_option: options.FixedOption = None,
    moving_option: options.MovingOption = None,
    output: options.Output = None,
    method: options.AffineMethod = None,
    weights: options.Weights = None,
    dof: options.Dof = None,
    set_: options.Set = None,
    fixed_labels: options.FixedLabels = None,
    moving_labels: options.MovingLabels = None,
    label_names: options.LabelNames = None,
    fixed_mask: options.FixedMask = None,
    moving_mask: options.MovingMask = None,
    find_brain: options.FindBrain = None,
    also: options.Also = None,
    frame: options.Frame = None,
    xform: options.Xform = None,
    max_voxels: options.MaxVoxels = None,
    config: options.Config = None,
    outputs: options.AffineOutputs = None,
    overwrite: options.Overwrite = None,
    strict_qc: options.StrictQc = None,
    strict_report: options.StrictReport = None,
    provenance: options.Provenance = None,
    device: options.Device = None,
    threads: options.Threads = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = 0,
    debug: options.Debug = False,
) -> None:
    """Align MOVING to FIXED by an affine map: the moved image, affine.mat and run.json in one folder."""
    given = locals()
    degrees, found_by = given.pop("dof"), given.pop("method")
    words = [*(given.pop("set_") or ()), *([] if degrees is None else [f"dof={degrees}"])]
    run(
        "affine",
        {**given, "set_": words, "affine": found_by},
        defaults={"outputs": "image,affine"},
        method="affine",
    )
