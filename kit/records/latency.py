"""What a fit says: the efficiency factor, errors of model families, learning curves."""

from __future__ import annotations

from typing import Literal

from kit import units
from kit.records.network import Precision
from kit.records.record import Record


class FitQuality(Record):
    """How a latency model meets the measured medians: R2, mean and worst relative error, shares within +-5 and +-10 %."""

    r2: float | None
    mape: float
    worst: float
    within_5: float
    within_10: float


class FormScore(Record):
    """One form of latency model in cross-validation: every error is on networks that it was not fitted to.

    The interval of a prediction reaches ``reach`` standard deviations to each side, in logarithms; ``sd`` is the median relative one.
    """

    form: str  # "factor", "kinds", "roofline", "learned", or a baseline: "papers", "forest", "lookup"
    candidate: bool  # baselines are compared and never chosen
    count: int  # held-out records
    quality: FitQuality
    median_error: float
    sd: float
    reach: float
    calibration: str  # "conformal", or "student" where the records are too few for it
    p_value: float | None  # that chance explains its distance from the best form


class CurvePoint(Record):
    """How well networks are predicted from so many measurements: errors on the rest, over ``repeats`` random choices."""

    measurements: int
    repeats: int
    mape: float
    within_5: float
    within_10: float
    coverage: float  # share of the rest inside the interval
    forms: tuple[str, ...]  # the form chosen in each repeat


class LatencyModel(Record):
    """latency_s = overhead_s + lambda * MACs / clock_hz for one device, backend, precision and thread count.

    ``lambda_cycles_per_mac`` is the papers' efficiency factor (A, eq. 5; B, eq. 7; alpha or lambda there). Where the clock
    was not observed it is stated at the nominal clock (``clock_source`` says so) and is None without one; ``s_per_mac`` never
    needs a clock. Intervals are 95 % bootstrap intervals over sub-networks and processes.
    """

    kind: Literal["latency_model"] = "latency_model"
    schema_version: Literal[1] = 1
    device_id: str
    backend: str
    precision: Precision
    threads: int
    s_per_mac: float
    s_per_mac_interval: tuple[float, float]
    overhead_s: float
    overhead_interval_s: tuple[float, float]
    clock_hz: float | None
    clock_source: str  # "observed", "measured" (between the blocks, by a chain), "nominal" or "unknown"
    lambda_cycles_per_mac: float | None
    interval: tuple[float, float] | None
    quality: FitQuality
    paper: FitQuality | None  # lambda = 1, no overhead, at the same clock
    macs_range: tuple[int, int]  # validity region
    record_ids: tuple[str, ...]
    left_out: tuple[str, ...] = ()  # records that did not count, and why

    def summary(self) -> dict[str, str]:
        """The line as name and text, for people."""
        if self.lambda_cycles_per_mac is None or self.interval is None:
            low, high = (1e12 * end for end in self.s_per_mac_interval)
            factor = f"{units.number(1e12 * self.s_per_mac)} ps per MAC (95 %: {units.interval(low, high)})"
        else:
            factor = (
                f"{units.number(self.lambda_cycles_per_mac)} cycles per MAC (95 %: {units.interval(*self.interval)})"
            )
        return {
            "model": f"{self.backend}, {self.precision}, {self.threads} thread(s)",
            "efficiency factor": factor,
            "error": f"{units.percent(self.quality.mape)} on average, {units.percent(self.quality.worst)} at worst",
            "error of lambda = 1": units.percent(self.paper.mape) if self.paper else "",
            "overhead": units.seconds(self.overhead_s),
            "clock": f"{units.hertz(self.clock_hz)} ({self.clock_source})",
            "valid for": " to ".join(units.macs(end) for end in self.macs_range),
            "records": str(len(self.record_ids)),
            "device": self.device_id,
        }
