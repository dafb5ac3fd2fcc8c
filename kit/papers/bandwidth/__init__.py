"""Paper A: one cell, N downloads per frame, bandwidth shared among them (see ``world``, ``split``, ``printed``).

``train`` makes the networks, ``experiment`` trains and judges those of each seed, ``figures`` are the paper's; these three need torch.
"""

from kit.papers.bandwidth.printed import FIG4, TABLE_II, Gain, best_sizes, knowledge_gain, total_delay_s
from kit.papers.bandwidth.split import best_band, equal_band, root_band, shared_band
from kit.papers.bandwidth.world import BandwidthWorld, Tasks, features, macs_of, sample, total_s, weighted_delay_s

__all__ = [
    "FIG4",
    "TABLE_II",
    "BandwidthWorld",
    "Gain",
    "Tasks",
    "best_band",
    "best_sizes",
    "equal_band",
    "features",
    "knowledge_gain",
    "macs_of",
    "root_band",
    "sample",
    "shared_band",
    "total_delay_s",
    "total_s",
    "weighted_delay_s",
]
