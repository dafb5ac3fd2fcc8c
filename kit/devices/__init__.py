"""The device at hand: who it is, what people wrote about it, its clock, its memory, its sensors, and the state that it can be put into.

``identity`` recognises the machine, ``configs`` reads device_configs/*.toml, ``clock`` measures the true core clock, ``working_sets`` the
bandwidth and latency of caches and memory, ``operating_point`` changes clocks and power modes and restores them, ``telemetry`` reads
temperatures, throttling, power and what disturbed a measurement.
"""

from kit.devices.identity import recognise

__all__ = ["recognise"]
