"""Cut a PyTorch model into encoder, backbone and head.

``split`` cuts; what comes back is proven on an example to compute exactly what the uncut model computes.
"""

from cutlayer.cutting.costs import CutCost, PartCost, cut_points, inspect_cut, inspect_model
from cutlayer.cutting.model import Crossing, SplitModel
from cutlayer.cutting.part import Part, as_tuple
from cutlayer.cutting.split import split

__all__ = [
    "Crossing",
    "CutCost",
    "Part",
    "PartCost",
    "SplitModel",
    "as_tuple",
    "cut_points",
    "inspect_cut",
    "inspect_model",
    "split",
]
