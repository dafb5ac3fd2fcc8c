"""Split inference: which cut of a network is fastest for a link, by measured times of both halves (kit.variants.splits makes the cuts)."""

from kit.split.choice import SUFFIX, Link, SplitRow, best, part_paths, read_network, rows

__all__ = ["SUFFIX", "Link", "SplitRow", "best", "part_paths", "read_network", "rows"]
