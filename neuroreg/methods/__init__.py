"""Registration methods: the table of names. Pure data; a method's module is imported when it is chosen."""

from neuroreg.registry import Entry

METHODS: dict[str, Entry] = {
    "neuroreg": Entry(
        "neuroreg.methods.neuroreg:NeuroregMethod", "one small step network shared by all scales"
    ),
    "gaussnewton": Entry(
        "neuroreg.methods.gaussnewton:GaussNewton", "training-free local Gauss-Newton on two-window LNCC"
    ),
    "dualprnet": Entry("neuroreg.methods.dualprnet:DualPRNet", "dual-stream pyramid network (Dual-PRNet++)"),
    "voxelmorph": Entry("neuroreg.methods.voxelmorph:VoxelMorph", "one U-Net from a pair to its field"),
    "ldgnet": Entry("neuroreg.methods.ldgnet:LDGNet", "guided skips, enhanced bottleneck (LDGNet)"),
    "dualflow": Entry(
        "neuroreg.methods.dualflow:DualFlow", "region flow, then global flow, made consistent (Dual-FlowNet)"
    ),
    "jointaffine": Entry(
        "neuroreg.methods.jointaffine:JointAffine", "joint affine and deformable network (Zhu 2020)"
    ),
    "simcnn": Entry(
        "neuroreg.methods.simcnn:SimCNN", "similarity-steered regression of displacements, patch by patch"
    ),
    "affine": Entry("neuroreg.methods.affine:AffineMethod", "affine alone: many starts, then Gauss-Newton"),
    "demons": Entry(
        "neuroreg.methods.demons:Demons", "SimpleITK diffeomorphic demons, a classical reference"
    ),
    "syn": Entry("neuroreg.methods.syn:SyN", "ANTs SyN by antspyx", extra="ants"),
    "greedy": Entry("neuroreg.methods.greedy:Greedy", "Greedy by picsl_greedy", extra="greedy"),
}
