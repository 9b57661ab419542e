"""The genome: space, allocation, mask, sampling, topology, files. Knows nothing of training."""

from evoprune.masks.allocation import ALLOCATIONS, Allocation, allocate
from evoprune.masks.mask import Indices, Mask, common_space
from evoprune.masks.sampling import random_mask, random_masks, random_subset
from evoprune.masks.space import MaskSpace

__all__ = [
    "ALLOCATIONS",
    "Allocation",
    "Indices",
    "Mask",
    "MaskSpace",
    "allocate",
    "common_space",
    "random_mask",
    "random_masks",
    "random_subset",
]
