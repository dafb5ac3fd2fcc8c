"""Telemetry against recorded texts. The boards' texts follow public formats; no board was at hand (see docs/devices.md)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from time import process_time
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machines import RECORDED, FakeNvml, answering, build, put

from kit.devices import telemetry
from kit.devices.telemetry import (
    Counters,
    EnergyWindow,
    Meter,
    Reading,
    discover,
    disturbance,
    meters,
    read_environment,
)
from kit.records import Environment

PI = {
    "vcgencmd get_throttled": "throttled=0x50005\n",
    "vcgencmd measure_temp": "temp=48.3'C\n",
    "vcgencmd measure_clock arm": "frequency(48)=1500398464\n",
}
# rbonghi/jetson_stats#624 (Orin Nano, JetPack 6), shortened by engines that are not read
ORIN_NANO = (
    "05-15-2025 18:30:28 RAM 6982/7620MB (lfb 5x1MB) SWAP 2640/16384MB (cached 202MB) "
    "CPU [97%@1984,95%@1984,95%@1984,91%@1984,88%@1984,93%@247] EMC_FREQ 18%@3199 GR3D_FREQ 84%@[713] NVENC 1%@115 "
    "APE 174 cv0@63.031C cpu@65.562C soc2@64.156C soc0@63.031C gpu@63.5C tj@65.562C soc1@64.718C cv2@60.875C "
    "VDD_IN 17946mW/15710mW VDD_CPU_GPU_CV 8896mW/7585mW VDD_SOC 3923mW/3515mW"
)
# GDWR/jetson_exporter#14 (AGX Orin, JetPack 5): no rail for the total, a power-gated GPU sensor
AGX_ORIN = (
    "04-11-2025 10:36:27 RAM 4321/62801MB (lfb 1759x4MB) SWAP 19/31400MB (cached 0MB) CPU [0%@729,0%@729,off,off] "
    "EMC_FREQ 0%@2133 GR3D_FREQ 0%@[0,0] VIC_FREQ 729 APE 174 CV0@-256C CPU@44.562C Tboard@32C SOC2@40.093C "
    "Tdiode@33C SOC0@41.093C CV1@-256C GPU@-256C tj@44.343C SOC1@41.25C CV2@-256C VDD_GPU_SOC 2340mW/2340mW "
    "VDD_CPU_CV 390mW/390mW VIN_SYS_5V0 4025mW/4025mW NC 0mW/0mW VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
)
# FindHao/tx-utils#3 (TX2, JetPack 4): no unit behind the numbers
TX2 = (
    "RAM 2020/7852MB (lfb 1164x4MB) CPU [9%@345,21%@345,25%@345,3%@345,1%@345,1%@345] EMC_FREQ 0% GR3D_FREQ 0% "
    "PLL@42.5C MCPU@42.5C PMIC@100C Tboard@40C GPU@41C BCPU@42.5C thermal@41.9C Tdiode@41.25C VDD_SYS_GPU 153/158 "
    "VDD_SYS_SOC 536/547 VDD_4V0_WIFI 633/527 VDD_IN 3140/3208 VDD_SYS_CPU 536/590 VDD_SYS_DDR 557/601"
)

PMIC = (RECORDED / "pmic-read-adc-raspberry-pi-5.txt").read_text()


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("throttled=0x0\n", ()),
        ("throttled=0x50005\n", ("under_voltage", "throttled", "under_voltage_since_boot", "throttled_since_boot")),
        ("throttled=0x80008", ("soft_temperature_limit", "soft_temperature_limit_since_boot")),
        ("throttled=0xE000E", tuple(n for b, n in telemetry.THROTTLE_BITS.items() if b not in (0, 16))),
        ("VCHI initialization failed\n", None),
        ("", None),
    ],
)
def test_throttle_flags_of_the_firmware(text: str, flags: tuple[str, ...] | None) -> None:
    assert telemetry.parse_throttled(text) == flags


def test_firmware_temperature_and_clock() -> None:
    assert telemetry.parse_measure_temp("temp=48.3'C\n") == 48.3
    assert telemetry.parse_measure_clock("frequency(48)=1500398464\n") == 1500398464
    assert telemetry.parse_measure_clock("frequency(0)=0\n") is None
    assert telemetry.parse_measure_temp('error=2 error_msg="Command not registered"') is None


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("NV Power Mode: MAXN_SUPER\n2\n", "MAXN_SUPER"),
        ("NV Fan Mode:quiet\nNV Power Mode: MODE_30W\n2\n", "30W"),
        ("NVPM VERB: Config file: /etc/nvpmodel.conf\nNV Power Mode: 15W\n0\n", "15W"),
        ("NVPM ERROR: failed to read PARAM GPU_POWER_CONTROL_ENABLE\n", None),
    ],
)
def test_power_mode_of_a_jetson(text: str, mode: str | None) -> None:
    assert telemetry.parse_nvpmodel(text) == mode


def test_tegrastats_of_three_generations() -> None:
    assert telemetry.parse_tegrastats(ORIN_NANO) == Reading(1984e6, 65.562, power_w=17.946)
    agx = telemetry.parse_tegrastats(AGX_ORIN)
    assert (agx.clock_hz, agx.temperature_c) == (729e6, 44.562)
    assert agx.power_w == pytest.approx(2.34 + 0.39 + 4.025)
    assert telemetry.parse_tegrastats(TX2).power_w == pytest.approx(3.14)
    assert telemetry.parse_tegrastats(ORIN_NANO, "gpu").temperature_c == 63.5
    assert telemetry.parse_tegrastats(AGX_ORIN, "gpu").temperature_c is None
    assert telemetry.parse_tegrastats("tegrastats: command failed") == Reading()


#: What tools and the kernel write, with numbers that no sensor means, in any order; and any text.
NUMBER = st.sampled_from(["0", "7", "48.3", "-256", "1984", "99999", "1500398464", "9" * 400, "٣", "x"])
PIECES = st.sampled_from(
    ["throttled=0x", "temp=", "'C", "frequency(48)=", "NV Power Mode: ", "MODE_", "CPU [", "%@", "]", "@", "cpu@", "gpu@", "C", "\n", " ",
     "VDD_IN ", "VDD_SOC ", "mW/", "mW", "VDD_CORE_A current(7)=", "VDD_CORE_V volt(15)=", "A", "V", "cpu ", "1 (a) R ", "some avg10=",
     " total=", "AnonHugePages: ", " kB", "voluntary_ctxt_switches: ", "nonvoluntary_ctxt_switches: "]
)  # fmt: skip
TEXTS = st.text() | st.lists(PIECES | NUMBER, max_size=20).map("".join)
#: Lines of the right form around numbers that may be wrong.
LINES = (
    "throttled=0x{0}",
    "temp={0}'C",
    "frequency(48)={0}",
    "VDD_CORE_A current(7)={0}A\nVDD_CORE_V volt(15)={1}V",
    "CPU [97%@{0},off] cpu@{1}C gpu@{2}C VDD_IN {3}mW/1mW",
    "CPU [1%@{0}] VDD_SOC {1}mW/2mW VDD_CPU {2}/3",
    "NV Power Mode: MODE_{0}\n{1}",
)


@given(TEXTS, st.lists(NUMBER, min_size=4, max_size=4))
def test_tools_report_a_plausible_value_or_none(text: str, numbers: list[str]) -> None:
    for line in (text, *(line.format(*numbers) for line in LINES)):
        check_plausible(line)


def check_plausible(text: str) -> None:
    """Whatever a tool says, no record holds a clock, a temperature or a power that cannot be."""
    flags = telemetry.parse_throttled(text)
    assert flags is None or set(flags) <= set(telemetry.THROTTLE_BITS.values())
    degrees = telemetry.parse_measure_temp(text)
    assert degrees is None or -60 < degrees < 200
    hz = telemetry.parse_measure_clock(text)
    assert hz is None or 0 < hz < 1e11
    assert all(rail and 0 <= watts < 1e5 for rail, watts in telemetry.parse_pmic(text).items())
    mode = telemetry.parse_nvpmodel(text)
    assert mode is None or (mode in text and not set(mode) & set(" \n"))
    for target in ("cpu", "gpu"):
        reading = telemetry.parse_tegrastats(text, target)  # type: ignore[arg-type]
        assert reading.clock_hz is None or (target == "cpu" and 0 < reading.clock_hz < 1e11)
        assert reading.temperature_c is None or -60 < reading.temperature_c < 200
        assert reading.power_w is None or 0 <= reading.power_w < 1e5
        assert reading.throttle_flags is None and reading.power_mode is None


@given(TEXTS, st.lists(st.integers(0, 10**12), min_size=13, max_size=13))
def test_the_kernels_counters_are_read_as_they_are_written(text: str, n: list[int]) -> None:
    for parsed in (telemetry.parse_cpu_ticks(text), telemetry.parse_own_stat(text), telemetry.parse_switches(text)):
        assert parsed is None or all(count is None or count >= 0 for count in parsed)
    for one in (telemetry.parse_pressure(text), telemetry.parse_kilobytes(text, "AnonHugePages")):
        assert one is None or one >= 0
    words = " ".join(map(str, n))
    assert telemetry.parse_cpu_ticks(f"cpu  {words}\ncpu0 1 1 1 1") == (sum(n[:8]), n[3] + n[4], n[7])
    assert telemetry.parse_own_stat(f"1 (a) b) R {words}") == (n[8], n[10] + n[11])
    assert telemetry.parse_pressure(f"some avg10=0.09 avg60=0.34 total={n[0]}\nfull total={n[1]}") == n[0]
    assert telemetry.parse_kilobytes(f"Rss: {n[0]} kB\nAnonHugePages:  {n[1]} kB\n", "AnonHugePages") == n[1] * 1024
    status = f"Name:\tx\nvoluntary_ctxt_switches:\t{n[0]}\nnonvoluntary_ctxt_switches:\t{n[1]}\n"
    assert telemetry.parse_switches(status) == (n[0], n[1])


def test_total_power_counts_no_rail_twice() -> None:
    assert telemetry.total_power_w({"VDD_IN": 5.0, "VDD_SOC": 1.5}) == 5.0
    assert telemetry.total_power_w({"VDD_GPU_SOC": 2.0, "VIN_SYS_5V0": 4.0, "VDDQ_VDD2_1V8AO": 0.3}) == 6.0
    assert telemetry.total_power_w({}) is None


# ----------------------------------------------------------------------------------------------------- whole machines


def test_virtual_machine_knows_nothing_but_its_load(tmp_path: Path) -> None:
    readers = discover(build("x86-vm", tmp_path))
    assert readers == []
    state = read_environment(readers)
    assert (state.clock_hz, state.temperature_c, state.throttle_flags, state.power_w, state.power_mode) == (None,) * 5
    assert state.load_1min is not None


def test_raspberry_pi_4_trusts_the_firmware_before_the_kernel(tmp_path: Path) -> None:
    state = read_environment(discover(build("raspberry-pi-4b", tmp_path), run=answering(PI)))
    assert state.clock_hz == 1500398464  # measured; cpufreq says 1.8 GHz was requested
    assert state.temperature_c == 48.3
    assert state.throttle_flags is not None and "under_voltage" in state.throttle_flags
    assert state.power_mode == "ondemand"
    assert state.power_w is None


def test_raspberry_pi_without_permission_falls_back_to_the_kernel(tmp_path: Path) -> None:
    root = build("raspberry-pi-4b", tmp_path)
    state = read_environment(discover(root, run=answering({})))
    assert (state.clock_hz, state.throttle_flags) == (1.8e9, ())
    assert state.temperature_c == pytest.approx(48.199)
    assert "group 'video'" in telemetry.describe_sources(root, run=answering({}))["vcgencmd"]


def test_raspberry_pi_5_with_an_under_voltage_alarm(tmp_path: Path) -> None:
    state = read_environment(discover(build("raspberry-pi-5", tmp_path)))
    assert state.clock_hz == 2.4e9
    assert state.throttle_flags == ("under_voltage",)


def test_jetson_orin_nano_reads_its_input_rail(tmp_path: Path) -> None:
    run = answering({"nvpmodel -q": "NV Power Mode: 25W\n1\n"})
    root = build("jetson-orin-nano", tmp_path)
    state = read_environment(discover(root, run=run))
    assert state.clock_hz == 1.344e9  # the faster of the two clusters
    assert state.temperature_c == pytest.approx(49.312)
    assert state.power_w == pytest.approx(4.968 * 0.952)
    assert state.power_mode == "25W"
    gpu = read_environment(discover(root, target="gpu", run=run))
    assert (gpu.clock_hz, gpu.temperature_c, gpu.power_w) == (306e6, 48.0, state.power_w)


def test_jetson_agx_orin_sums_its_rails_and_skips_gated_sensors(tmp_path: Path) -> None:
    root = build("jetson-agx-orin", tmp_path)
    state = read_environment(discover(root, run=answering({"nvpmodel -q": "NV Power Mode: MODE_30W\n2\n"})))
    assert state.power_w == pytest.approx(19.712 * 0.12 + 19.712 * 0.02 + 4.976 * 0.808)
    assert state.power_mode == "30W"
    assert read_environment(discover(root, target="gpu", run=answering({}))).temperature_c is None


def test_old_jetson_driver_with_milliwatt_files(tmp_path: Path) -> None:
    folder = "sys/bus/i2c/drivers/ina3221x/1-0040/iio:device0"
    put(tmp_path, f"{folder}/rail_name_0", "VDD_IN")
    put(tmp_path, f"{folder}/in_power0_input", "3140\n")
    put(tmp_path, f"{folder}/rail_name_1", "VDD_SYS_GPU")
    put(tmp_path, f"{folder}/in_power1_input", "153\n")
    assert read_environment(discover(tmp_path)).power_w == pytest.approx(3.14)


def test_a_jetson_without_ina3221_asks_tegrastats(tmp_path: Path) -> None:
    tool = put(tmp_path, "usr/bin/tegrastats", "a tool")
    run = answering({f"timeout 0.5 {tool} --interval 100": ORIN_NANO + "\n" + AGX_ORIN + "\n"})
    assert read_environment(discover(tmp_path, run=run)).power_w == pytest.approx(17.946)


@pytest.mark.parametrize("driver", ["coretemp", "k10temp"])
def test_x86_host_temperature(tmp_path: Path, driver: str) -> None:
    put(tmp_path, "sys/class/hwmon/hwmon1/name", "nvme")
    put(tmp_path, "sys/class/hwmon/hwmon10/name", f"{driver}\n")
    put(tmp_path, "sys/class/hwmon/hwmon10/temp1_input", "61250\n")
    put(tmp_path, "sys/class/thermal/thermal_zone0/type", "acpitz\n")  # no CPU: left out
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "27800\n")
    assert read_environment(discover(tmp_path)).temperature_c == 61.25


def test_package_sensor_goes_before_others(tmp_path: Path) -> None:
    for index, (kind, value) in enumerate([("acpitz", 20000), ("soc_dts0", 50000), ("x86_pkg_temp", 70000)]):
        put(tmp_path, f"sys/class/thermal/thermal_zone{index}/type", kind)
        put(tmp_path, f"sys/class/thermal/thermal_zone{index}/temp", str(value))
    assert read_environment(discover(tmp_path)).temperature_c == 70.0


def test_energy_counter_gives_mean_power_and_survives_its_wrap(tmp_path: Path) -> None:
    package = tmp_path / "sys/class/powercap/intel-rapl:0"
    put(package, "max_energy_range_uj", "100000000")
    put(tmp_path, "sys/class/powercap/intel-rapl:0:0/energy_uj", "5")  # a part of the package
    counter = put(package, "energy_uj", "90000000")
    (reader,) = discover(tmp_path)
    assert isinstance(reader, telemetry.Rapl) and reader.packages == (package,)
    times = iter([10.0, 12.0, 13.0])
    reader.clock_s = lambda: next(times)
    assert reader.read() == Reading()
    counter.write_text("96000000")
    assert reader.read().power_w == pytest.approx(3.0)
    counter.write_text("1000000")
    assert reader.read().power_w == pytest.approx(5.0)
    counter.unlink()
    assert reader.read() == Reading()


def test_gpu_values_only_when_the_gpu_is_the_target() -> None:
    nvml = FakeNvml("NVIDIA H200", reasons=0x1 | 0x4 | 0x40)
    assert discover(Path("/nonexistent"), nvml=nvml) == []
    state = read_environment(discover(Path("/nonexistent"), target="gpu", nvml=nvml))
    assert (state.clock_hz, state.temperature_c, state.power_w, state.power_mode) == (345e6, 31.0, 76.543, "P0")
    assert state.throttle_flags == ("gpu_power_cap", "gpu_hardware_thermal_slowdown")


def test_gpu_with_an_old_driver_still_reports_its_reasons() -> None:
    nvml = FakeNvml("Tesla T4", reasons=0x8, without=["nvmlDeviceGetCurrentClocksEventReasons"])
    (reader,) = discover(Path("/nonexistent"), target="gpu", nvml=nvml)
    assert reader.read().throttle_flags == ("gpu_hardware_slowdown",)
    silent = FakeNvml("Tesla T4", without=["nvmlDeviceGetPowerUsage", "nvmlDeviceGetTemperature"])
    (reader,) = discover(Path("/nonexistent"), target="gpu", nvml=silent)
    assert reader.read().power_w is None and reader.read().clock_hz == 345e6


# ------------------------------------------------------------------------------------------------------ broken sources


def test_broken_sources_say_unknown(tmp_path: Path) -> None:
    root = build("jetson-orin-nano", tmp_path)
    readers = discover(root, run=answering({"nvpmodel -q": "\x00garbage"}))
    (root / "sys/class/hwmon/hwmon1/curr2_input").write_text("not a number")
    (root / "sys/class/thermal/thermal_zone0/temp").unlink()
    for policy in (0, 4):
        (root / f"sys/devices/system/cpu/cpufreq/policy{policy}/scaling_cur_freq").write_bytes(b"\xff\xfe")
    state = read_environment(readers)
    assert (state.clock_hz, state.temperature_c, state.power_w) == (None, None, None)
    assert state.power_mode == "schedutil"


def test_a_reader_that_raises_ends_nothing() -> None:
    class Broken:
        def read(self) -> Reading:
            raise RuntimeError("bus error")

    class Works:
        def read(self) -> Reading:
            return Reading(temperature_c=40.0, throttle_flags=())

    state = read_environment([Broken(), Works()])
    assert (state.temperature_c, state.throttle_flags) == (40.0, ())


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, None, ()),
        ((), (), ()),
        (("throttled_since_boot",), ("throttled_since_boot",), ()),  # once, long ago
        ((), ("throttled_since_boot",), ("throttled_since_boot",)),  # in between, over again
        (("under_voltage", "under_voltage_since_boot"), ("under_voltage_since_boot",), ("under_voltage",)),
        (None, ("throttled_since_boot",), ()),
        (None, ("throttled",), ("throttled",)),
    ],
)
def test_throttling_now_and_long_ago(
    before: tuple[str, ...] | None, after: tuple[str, ...] | None, expected: tuple[str, ...]
) -> None:
    states = [Environment(at_utc="2026-01-01T00:00:00Z", throttle_flags=flags) for flags in (before, after)]
    assert telemetry.throttled_between(*states) == expected


def test_commands_that_fail_hang_or_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    assert telemetry.run_command(["no-such-tool-anywhere"]) is None
    assert telemetry.run_command([sys.executable, "-c", "print('told'); raise SystemExit(3)"]) == "told\n"

    def hang(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("tool", 2)

    monkeypatch.setattr(subprocess, "run", hang)
    assert telemetry.run_command(["tool"]) is None


def test_every_source_is_described(tmp_path: Path) -> None:
    sources = telemetry.describe_sources(build("raspberry-pi-4b", tmp_path), run=answering(PI))
    assert set(sources) == set(telemetry.SOURCES)
    available = {name for name, word in sources.items() if word == "available"}
    assert available == {"vcgencmd", "cpufreq", "thermal", "hwmon", "rpi_volt"}
    assert all(sources.values())


def test_this_machine_can_be_read_twice() -> None:
    first, second = read_environment(), read_environment()
    assert first.at_utc < second.at_utc


def test_telemetry_of_the_cpu_never_loads_nvml() -> None:
    code = "import sys; from kit.devices import telemetry; telemetry.read_environment(); print('pynvml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


# -------------------------------------------------------------------------------------------------------------- energy


class Time:
    """A clock in nanoseconds that stands still until it is moved; each reading of a meter may move it."""

    def __init__(self) -> None:
        self.ns = 1_000_000_000

    def __call__(self) -> int:
        return self.ns

    def sleep(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)


def playing(values: Sequence[float | None], time: Time, cost_ns: int = 0) -> Callable[[], tuple[float, ...] | None]:
    """A meter's ``read`` that tells ``values`` one by one, each reading taking ``cost_ns``."""
    left = iter(values)

    def read() -> tuple[float, ...] | None:
        time.ns += cost_ns
        value = next(left)
        return None if value is None else (value,)

    return read


def test_rails_of_a_raspberry_pi_5() -> None:
    rails = telemetry.parse_pmic(PMIC)
    assert len(rails) == 12 and "EXT5V" not in rails and "BATT" not in rails
    assert rails["VDD_CORE"] == pytest.approx(1.4288 * 0.9065925)
    assert sum(rails.values()) == pytest.approx(2.94, abs=0.01)
    assert telemetry.parse_pmic('error=1 error_msg="Command not registered"') == {}
    assert telemetry.parse_pmic(PMIC.replace("1V8_SYS_V volt(10)=1.80073100V", "1V8_SYS_V volt(10)=nanV")) == {}


def test_raspberry_pi_5_reports_its_power(tmp_path: Path) -> None:
    put(tmp_path, "usr/bin/vcgencmd", "a tool")
    run = answering({**PI, "vcgencmd pmic_read_adc": PMIC})
    assert read_environment(discover(tmp_path, run=run)).power_w == pytest.approx(2.94, abs=0.01)
    (meter,) = meters(tmp_path, run=run)
    assert meter.kind == "power" and "PMIC" in meter.source
    assert meters(tmp_path, run=answering(PI)) == []


def test_machines_without_a_meter(tmp_path: Path) -> None:
    assert meters(build("x86-vm", tmp_path)) == []
    assert meters(tmp_path, target="gpu") == []


def test_rapl_counts_over_its_wrap_and_leaves_the_platform_out(tmp_path: Path) -> None:
    for index, name in enumerate(("package-0", "package-1", "psys")):
        put(tmp_path, f"sys/class/powercap/intel-rapl:{index}/name", f"{name}\n")
        put(tmp_path, f"sys/class/powercap/intel-rapl:{index}/max_energy_range_uj", "100000000")
        put(tmp_path, f"sys/class/powercap/intel-rapl:{index}/energy_uj", "90000000")
    (meter,) = meters(tmp_path)
    assert meter.source == "RAPL (package-0, package-1)"
    time = Time()
    window = EnergyWindow(meter, time, idle_power_w=2.0)
    window.start()
    for joules in (("5000000", "91000000"), ("6000000", "97000000")):  # the first package wraps
        time.sleep(0.5)
        for index, text in enumerate(joules):
            put(tmp_path, f"sys/class/powercap/intel-rapl:{index}/energy_uj", text)
        window.tick()
    energy = window.stop(10)
    assert energy is not None
    assert energy.joules == pytest.approx(15 + 1 + 1 + 6)
    assert (energy.window_s, energy.calls, energy.samples) == (pytest.approx(1.0), 10, None)
    assert energy.joules_per_call == pytest.approx(2.3)
    assert energy.net_joules_per_call == pytest.approx(2.1)


def test_a_counter_that_does_not_step_or_breaks_reports_nothing() -> None:
    time = Time()
    for values in ([5.0, 5.0], [5.0, None], [None, 6.0], [5.0, None, 7.0]):
        window = EnergyWindow(Meter("a counter", "counter", playing(values, time), (0.0,)), time)
        window.start()
        for _ in values[2:]:
            time.sleep(1)
            window.tick()
        time.sleep(1)
        assert window.stop(1) is None
    assert EnergyWindow(Meter("never started", "power", playing([1.0], time)), time).stop(1) is None


def test_power_is_integrated_over_the_exact_window() -> None:
    time = Time()
    window = EnergyWindow(Meter("a rail", "power", playing([2.0, 4.0, 4.0], time)), time)
    window.start()
    time.sleep(1)
    window.tick()  # a ramp from 2 to 4 W
    time.sleep(0.01)
    window.tick()  # too early: no reading
    time.sleep(0.99)
    energy = window.stop(7)
    assert energy is not None and energy.samples == 3
    assert energy.joules == pytest.approx(3.0 + 4.0) and energy.joules_per_call == pytest.approx(1.0)
    assert energy.net_joules_per_call is None


def test_a_slow_meter_takes_at_most_a_hundredth_of_the_time() -> None:
    time, cost_ns = Time(), 10_000_000
    window = EnergyWindow(Meter("a tool", "power", playing([1.0] * 200, time, cost_ns)), time)
    window.start()
    for _ in range(10_000):
        time.sleep(1e-3)
        window.tick()
    energy = window.stop(1)
    assert energy is not None and energy.samples is not None
    assert energy.samples * cost_ns * 1e-9 <= 0.012 * energy.window_s + 0.02
    assert energy.joules == pytest.approx(energy.window_s)


@given(st.lists(st.tuples(st.floats(0.05, 2), st.floats(0, 50)), min_size=1, max_size=20))
def test_energy_lies_between_the_extreme_powers(steps: list[tuple[float, float]]) -> None:
    time = Time()
    window = EnergyWindow(Meter("a rail", "power", playing([1.0, *(w for _, w in steps), 1.0], time)), time)
    window.start()
    for seconds, _ in steps:
        time.sleep(seconds + 1e-6)
        window.tick()
    time.sleep(0.1)
    energy = window.stop(1)
    assert energy is not None
    powers = [1.0, *(w for _, w in steps)]
    mean = energy.joules / energy.window_s
    assert min(powers) - 1e-6 <= mean <= max(powers) + 1e-6


@given(st.floats(0, 99), st.lists(st.floats(0, 60), max_size=30))
def test_a_wrapping_counter_loses_nothing(start: float, steps: list[float]) -> None:
    values = [start]
    for step in steps:
        values.append((values[-1] + step) % 100)
    counted = sum(telemetry.grown(a, b, 100.0) for a, b in pairwise(values))
    assert counted == pytest.approx(sum(steps), abs=1e-6)


def test_idle_power_sleeps_and_integrates() -> None:
    time = Time()
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        time.sleep(seconds)

    meter = Meter("a rail", "power", playing([3.0] * 100, time))
    assert telemetry.idle_power(meter, 1.0, time, sleep) == pytest.approx(3.0)
    assert sum(slept) == pytest.approx(1.0)
    assert telemetry.idle_power(Meter("gone", "power", playing([None] * 100, time)), 1.0, time, sleep) is None


def test_jetson_rails_as_a_meter(tmp_path: Path) -> None:
    (meter,) = meters(build("jetson-orin-nano", tmp_path / "nano"))
    assert (meter.source, meter.kind) == ("INA3221 (VDD_IN)", "power")
    assert meter.read() == (pytest.approx(4.968 * 0.952),)
    (meter,) = meters(build("jetson-agx-orin", tmp_path / "agx"), target="gpu")
    assert "VDD_GPU_SOC" in meter.source and "VDDQ" not in meter.source


class EnergyNvml(FakeNvml):
    """An NVML that counts 250 mJ at each question and knows the memory of processes."""

    millijoules = 1_000_000

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        self.millijoules += 250
        return self.millijoules

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=7, usedGpuMemory=1 << 30), SimpleNamespace(pid=8, usedGpuMemory=None)]


def test_gpu_counts_its_energy_where_the_driver_does(tmp_path: Path) -> None:
    (meter,) = meters(tmp_path, target="gpu", nvml=EnergyNvml("NVIDIA H200"))
    assert (meter.source, meter.kind) == ("NVML (total energy)", "counter")
    time = Time()
    window = EnergyWindow(meter, time)
    window.start()
    time.sleep(1)
    energy = window.stop(5)
    assert energy is not None and energy.joules == pytest.approx(0.25)
    (old,) = meters(tmp_path, target="gpu", nvml=FakeNvml("Tesla P100"))
    assert (old.kind, old.read()) == ("power", (76.543,))
    silent = FakeNvml("Tesla K80", without=["nvmlDeviceGetPowerUsage"])
    assert meters(tmp_path, target="gpu", nvml=silent) == []


def test_gpu_memory_of_a_process(tmp_path: Path) -> None:
    nvml = EnergyNvml("NVIDIA H200", "NVIDIA H200")
    assert telemetry.gpu_memory_bytes(tmp_path, pid=7, nvml=nvml) == 2 << 30
    assert telemetry.gpu_memory_bytes(tmp_path, pid=8, nvml=nvml) is None  # the driver does not tell
    assert telemetry.gpu_memory_bytes(tmp_path, pid=9, nvml=nvml) is None
    assert telemetry.gpu_memory_bytes(tmp_path, nvml=FakeNvml("Tesla T4")) is None
    assert telemetry.gpu_memory_bytes(tmp_path) is None


# ---------------------------------------------------------------------------------------------------------- disturbance


def test_counters_of_the_virtual_machine(tmp_path: Path) -> None:
    root = build("x86-vm-counters", tmp_path)
    before = Counters.read(root, clock_s=lambda: 10.0)
    assert (before.total_ticks, before.idle_ticks, before.steal_ticks) == (340029, 236425, 106)
    assert (before.own_ticks, before.major_faults, before.waited_us) == (2, 2, 12988377)
    assert (before.voluntary, before.involuntary) == (150, 12)  # both threads: status tells of one
    assert before.huge_page_bytes is None
    put(
        root, "proc/stat", "cpu  91304 0 12124 235497 1008 0 170 126 0 0\n"
    )  # 200 ticks: 80 idle, 20 stolen, 100 at work
    put(root, "proc/self/stat", (root / "proc/self/stat").read_text().replace("2 0 1 1 2 1", "5 0 61 11 2 1"))
    put(root, "proc/pressure/cpu", "some avg10=0.05 avg60=0.17 avg300=0.21 total=13238377\n")
    put(root, "proc/self/task/10282/status", "voluntary_ctxt_switches:\t121\nnonvoluntary_ctxt_switches:\t10\n")
    window = disturbance(before, Counters.read(root, huge_pages=True, clock_s=lambda: 11.0))
    assert window.window_s == 1.0
    assert window.steal_share == pytest.approx(0.1)
    assert window.busy_elsewhere_share == pytest.approx((100 - 70) / 200)
    assert window.cpu_pressure_share == pytest.approx(0.25)
    assert (window.voluntary_switches, window.involuntary_switches, window.major_faults) == (1, 3, 3)
    assert window.huge_page_bytes == 4 << 20


def test_a_system_that_reports_nothing(tmp_path: Path) -> None:
    blind = Counters.read(tmp_path)
    window = disturbance(blind, blind).model_dump()
    assert window.pop("window_s") == 0.0
    assert set(window.values()) == {None}


def test_a_kernel_without_steal_and_a_name_with_brackets() -> None:
    assert telemetry.parse_cpu_ticks("cpu  4 0 1 5") == (10, 5, None)
    assert telemetry.parse_cpu_ticks("cpu  4 0 1 5 2 0 0 3 9 9\ncpu0 1 1 1 1") == (15, 7, 3)
    assert telemetry.parse_own_stat("1 (a) b (c)) R 0 0 0 0 -1 0 1 2 33 4 50 6 7 8 20") == (33, 56)


def test_this_process_is_not_elsewhere() -> None:
    before = Counters.read()
    until = process_time() + 0.1
    while process_time() < until:
        sum(range(1000))
    after = Counters.read(huge_pages=True)
    window = disturbance(before, after)
    assert after.own_ticks is not None and before.own_ticks is not None and after.own_ticks > before.own_ticks
    assert window.window_s > 0 and window.huge_page_bytes is not None
    assert window.busy_elsewhere_share is not None and 0 <= window.busy_elsewhere_share <= 1
    assert window.involuntary_switches is not None and window.major_faults is not None
