"""Structures that have a name for either side: is the right one to the right of the left one?"""

import SimpleITK as sitk


def lateral_pairs(names: dict[int, str]) -> list[tuple[int, int]]:
    """(right id, left id) of the structures that have a name for either side."""
    ids = {name: label for label, name in names.items()}
    found = []
    for name, label in ids.items():
        if name.endswith("_R"):
            other = name.removesuffix("_R") + "_L"
        elif name.startswith("Right "):
            other = "Left " + name.removeprefix("Right ")
        else:
            continue
        if other in ids:
            found.append((label, ids[other]))
    return found


def check_sides(image: sitk.Image, names: dict[int, str], *, least: int) -> None:
    """Fail unless the right structure of every pair that is there lies to the right of the left one, LPS x smaller."""
    shapes = sitk.LabelShapeStatisticsImageFilter()
    shapes.Execute(sitk.Cast(image, sitk.sitkInt32))
    there = set(shapes.GetLabels())
    pairs = [(right, left) for right, left in lateral_pairs(names) if {right, left} <= there]
    assert len(pairs) >= least
    for right, left in pairs:
        gap = shapes.GetCentroid(left)[0] - shapes.GetCentroid(right)[0]
        assert gap > 2, f"{names[right]} is not to the right of {names[left]}: {gap:.1f} mm"
