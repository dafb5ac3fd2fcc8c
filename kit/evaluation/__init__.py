"""The accuracy of a person's own networks: on images in class folders, on data of their own, or as they state it. Runs on a board."""

from __future__ import annotations

from kit.evaluation.preprocess import Wishes
from kit.evaluation.scoring import Request, Trial, evaluate
from kit.evaluation.stated import read_accuracies, stated

__all__ = ["Request", "Trial", "Wishes", "evaluate", "read_accuracies", "stated"]
