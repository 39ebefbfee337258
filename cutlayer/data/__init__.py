"""Data: sources, partitions among clients, batches, augmentation.  ``load`` reads, ``partition`` shares out."""

from cutlayer.data.augment import Augment
from cutlayer.data.batches import batch_sizes, batches
from cutlayer.data.partition import SCHEMES, Share, client_splits, counts, partition
from cutlayer.data.samples import Dataset, ImageSamples, Samples, Subset, TensorSamples, check
from cutlayer.data.sources import SOURCES, load

__all__ = [
    "SCHEMES",
    "SOURCES",
    "Augment",
    "Dataset",
    "ImageSamples",
    "Samples",
    "Share",
    "Subset",
    "TensorSamples",
    "batch_sizes",
    "batches",
    "check",
    "client_splits",
    "counts",
    "load",
    "partition",
]
