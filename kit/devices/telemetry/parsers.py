"""Texts of vendors' tools as values: pure functions that take any text and answer None, or nothing, for what they do not know."""

from __future__ import annotations

import math
import re

from kit.devices.telemetry.reading import NESTED_RAILS, THROTTLE_BITS, TOTAL_RAILS, Reading, Target


def parse_throttled(text: str) -> tuple[str, ...] | None:
    """The set flags of ``throttled=0x50005`` (vcgencmd get_throttled), low bit first; None for other text."""
    match = re.fullmatch(r"throttled=(0x[0-9a-fA-F]+)", text.strip())
    if match is None:
        return None
    bits = int(match[1], 16)
    return tuple(name for bit, name in THROTTLE_BITS.items() if bits >> bit & 1)


def parse_measure_temp(text: str) -> float | None:
    """Degrees Celsius of ``temp=48.3'C`` (vcgencmd measure_temp)."""
    match = re.fullmatch(r"temp=(-?\d+(?:\.\d+)?)'C", text.strip())
    return plausible_c(float(match[1])) if match else None


def parse_measure_clock(text: str) -> float | None:
    """Hertz of ``frequency(48)=1500398464`` (vcgencmd measure_clock arm); 0 means that the firmware does not know."""
    match = re.fullmatch(r"frequency\(\d+\)=(\d+)", text.strip())
    return plausible_hz(float(match[1])) if match else None


def parse_pmic(text: str) -> dict[str, float]:
    """Watts by rail of ``vcgencmd pmic_read_adc``: lines ``VDD_CORE_A current(7)=1.42880000A``, ``VDD_CORE_V volt(15)=0.9V``.

    The 5 V input and the battery have a voltmeter alone: what hangs on them (USB, fan, HATs, conversion losses) is not in it.
    Empty when a current lacks its voltage, or is none: the sum of the others would pass for a smaller power.
    """
    readings = re.findall(r"^\s*(\w+)_([AV]) (?:current|volt)\(\d+\)=(\d+(?:\.\d+)?)[AV]\s*$", text, re.MULTILINE)
    amps = {rail: float(value) for rail, unit, value in readings if unit == "A"}
    volts = {rail: float(value) for rail, unit, value in readings if unit == "V"}
    watts = {rail: plausible_w(amps[rail] * volts.get(rail, math.nan)) for rail in amps}
    return {rail: w for rail, w in watts.items() if w is not None} if None not in watts.values() else {}


def parse_nvpmodel(text: str) -> str | None:
    """The mode's name of ``nvpmodel -q``: a line ``NV Power Mode: 15W``, then the id."""
    match = re.search(r"^NV Power Mode: *(\S+) *$", text, re.MULTILINE)
    return match[1].removeprefix("MODE_") if match else None


def parse_tegrastats(text: str, target: Target = "cpu") -> Reading:
    """CPU (or GPU) temperature, highest CPU clock and board power of one line of ``tegrastats``."""
    clocks = re.search(r"CPU \[([^\]]*)\]", text)
    mhz = [float(value) for value in re.findall(r"@(\d+)", clocks[1])] if clocks and target == "cpu" else []
    degrees = {name.lower(): float(value) for name, value in re.findall(r"(\w+)@(-?\d+(?:\.\d+)?)C", text)}
    rails = {
        name: float(value) * 1e-3 for name, value in re.findall(r"\b((?:VDD|VIN|POM)\w*) (\d+)(?:mW)?/\d+(?:mW)?", text)
    }
    return Reading(
        clock_hz=plausible_hz(max(mhz) * 1e6 if mhz else None),
        temperature_c=plausible_c(degrees.get(target)),
        power_w=plausible_w(total_power_w(rails)),
    )


def plausible_c(degrees: float | None) -> float | None:
    """``degrees`` unless it is a sensor's code for "off" (a power-gated Jetson zone says -256)."""
    return degrees if degrees is not None and -60 < degrees < 200 else None


def plausible_hz(hz: float | None) -> float | None:
    """``hz`` unless it is 0, a firmware's code for "unknown", or a number that is no clock."""
    return hz if hz is not None and 0 < hz < 1e11 else None


def plausible_w(watts: float | None) -> float | None:
    """``watts`` unless it is a number that no machine of one board or one server takes."""
    return watts if watts is not None and 0 <= watts < 1e5 else None


def total_power_w(rails: dict[str, float]) -> float | None:
    """Watts of the board from the watts of its rails; None without a rail.

    A rail that measures the input is the total; otherwise the rails that do not hang on one another are summed.
    """
    for name in TOTAL_RAILS:
        if name in rails:
            return rails[name]
    return sum(watts for name, watts in rails.items() if name not in NESTED_RAILS) if rails else None
