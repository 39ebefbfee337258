"""How tensors are made smaller on their way: one file per codec, one table of their names.

A codec is a `cutlayer.transforms.Transform`; to add one, write it in a file of its own and name it in the table, or
name it ``package.module:Class`` in an experiment.
"""

from cutlayer.codecs.differences import DifferenceStream
from cutlayer.codecs.feedback import ErrorFeedback
from cutlayer.codecs.table import CODECS, Spec, build, parse

__all__ = ["CODECS", "DifferenceStream", "ErrorFeedback", "Spec", "build", "parse"]
