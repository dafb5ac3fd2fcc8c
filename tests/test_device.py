"""Recognising machines from recorded texts, and the people's notes about them (device_configs).

x86-vm was recorded on the machine at hand; the boards follow public formats and the H200 host is a fake NVML: see
docs/devices.md for what nobody has run yet.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machines import FakeNvml, answering, build, put

from kit import folders
from kit.devices import identity, recognise
from kit.devices.configs import load_configs, save_config
from kit.errors import BadRecord, StorageError, UnknownName, UsageError
from kit.records import CacheSpec, DeviceSpec

SHIPPED = {"generic-x86_64", "raspberry-pi-4b", "raspberry-pi-5", "jetson-orin-nano", "jetson-agx-orin", "nvidia-h200"}
MINIMAL = 'name = "mine"\ntitle = "My board"\n[match]\nmachine = "riscv64"\n'


def recognised(name: str, folder: Path, **options: object) -> DeviceSpec:
    return recognise(build(name, folder), run=answering({}), **options)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------- recognise


def test_virtual_machine_with_vnni(tmp_path: Path) -> None:
    spec = recognised("x86-vm", tmp_path)
    assert (spec.device_id, spec.config, spec.machine) == ("amd-epyc-f25m17-2c-kvm", "generic-x86_64", "x86_64")
    assert spec.cpu_features == ("avx2", "fma", "avx512", "avx512_vnni", "avx512_bf16")
    assert (spec.physical_cores, spec.logical_cores, spec.virtual) == (2, 2, "kvm")
    assert spec.caches[-1] == CacheSpec(level=3, type="unified", size_bytes=32 << 20, shared_by=2)
    assert [c.level for c in spec.caches] == [1, 1, 2, 3]
    assert spec.memory_bytes == 24684084 * 1024
    assert (spec.clock.nominal_hz, spec.clock.current_hz, spec.clock.source) == (2596.128e6, None, "cpuinfo, nominal")
    assert spec.gpus == ()
    assert "available" not in spec.telemetry.values()
    assert spec.system == "Debian GNU/Linux 12 (bookworm)"


def test_raspberry_pi_4b(tmp_path: Path) -> None:
    spec = recognised("raspberry-pi-4b", tmp_path)
    assert (spec.device_id, spec.config, spec.machine) == ("raspberry-pi-4b-8gb", "raspberry-pi-4b", "aarch64")
    assert (spec.cpu_model, spec.cpu_features, spec.logical_cores) == ("Cortex-A72", ("neon",), 4)
    assert (spec.clock.current_hz, spec.clock.max_hz, spec.clock.source) == (1.8e9, 1.8e9, "cpufreq")
    assert (spec.caches, spec.virtual) == ((), None)
    assert [p.name for p in spec.operating_points] == ["performance", "powersave"]


def test_raspberry_pi_5_on_a_kernel_without_arch_file(tmp_path: Path) -> None:
    spec = recognised("raspberry-pi-5", tmp_path)
    assert (spec.device_id, spec.config, spec.machine) == ("raspberry-pi-5-8gb", "raspberry-pi-5", "aarch64")
    assert (spec.cpu_model, spec.cpu_features) == ("Cortex-A76", ("neon", "dotprod", "fp16"))
    assert CacheSpec(level=3, type="unified", size_bytes=2 << 20, shared_by=4) in spec.caches


def test_jetson_orin_nano(tmp_path: Path) -> None:
    spec = recognised("jetson-orin-nano", tmp_path)
    assert (spec.device_id, spec.config) == ("jetson-orin-nano-8gb", "jetson-orin-nano")
    assert (spec.cpu_model, spec.physical_cores, spec.logical_cores) == ("Cortex-A78AE", 6, 6)
    assert sorted({c.shared_by for c in spec.caches if c.level == 3}) == [2, 4]
    (gpu,) = spec.gpus
    assert (gpu.compute_capability, gpu.max_clock_hz, gpu.memory_bytes) == ("8.7", 1.02e9, None)
    assert {p.name: p.how for p in spec.operating_points}["25W"] == "sudo nvpmodel -m 1"


def test_jetson_agx_orin_keeps_its_name_in_every_power_mode(tmp_path: Path) -> None:
    spec = recognised("jetson-agx-orin", tmp_path)
    assert (spec.device_id, spec.config) == ("jetson-agx-orin-64gb", "jetson-agx-orin")
    assert (spec.logical_cores, spec.clock.max_hz) == (8, 2.2016e9)
    (tmp_path / "sys/devices/system/cpu/online").write_text("0-11\n")
    assert recognise(tmp_path, run=answering({})).device_id == spec.device_id


def test_board_is_recognised_by_its_module_when_the_carrier_has_another_name(tmp_path: Path) -> None:
    root = build("jetson-orin-nano", tmp_path)
    put(root, "proc/device-tree/model", "Acme Carrier")
    assert recognise(root, run=answering({})).device_id == "jetson-orin-nano-8gb"


def test_h200_host(tmp_path: Path) -> None:
    spec = recognised("x86-vm", tmp_path, nvml=FakeNvml("NVIDIA H200"))
    assert (spec.device_id, spec.config) == ("amd-epyc-f25m17-2c-kvm-h200", "nvidia-h200")
    (gpu,) = spec.gpus
    assert gpu.model_dump() == {
        "name": "NVIDIA H200",
        "memory_bytes": 143771 << 20,
        "driver": "570.133.20",
        "compute_capability": "9.0",
        "max_clock_hz": 1980e6,
    }
    assert spec.telemetry["nvml"] == "available"
    eight = recognise(tmp_path, run=answering({}), nvml=FakeNvml(*["NVIDIA H200"] * 8))
    assert (eight.device_id, len(eight.gpus)) == ("amd-epyc-f25m17-2c-kvm-8xh200", 8)


def test_gpu_by_the_driver_files_where_nvml_is_missing(tmp_path: Path) -> None:
    root = build("x86-vm", tmp_path)
    put(root, "proc/driver/nvidia/gpus/0000:17:00.0/information", "Model: \t\t NVIDIA H200\nIRQ:   \t\t 18\n")
    version = (
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.133.20  Release Build\nGCC version:  gcc 12\n"
    )
    put(root, "proc/driver/nvidia/version", version)
    spec = recognise(root, run=answering({}))
    assert [(g.name, g.driver) for g in spec.gpus] == [("NVIDIA H200", "570.133.20")]


def test_unknown_arm_board_gets_a_readable_id_and_no_config(tmp_path: Path) -> None:
    root = build("raspberry-pi-5", tmp_path)
    put(root, "sys/firmware/devicetree/base/model", "Xunlong Orange Pi 5 Plus")
    put(root, "sys/firmware/devicetree/base/compatible", "xunlong,orangepi-5-plus\nrockchip,rk3588")
    spec = recognise(root, run=answering({}))
    assert (spec.device_id, spec.config) == ("xunlong-orange-pi-5-plus-8gb", None)


def test_cores_of_different_kinds_and_unknown_ones_are_all_named(tmp_path: Path) -> None:
    part = "processor\t: {}\nFeatures\t: fp asimd{}\nCPU implementer\t: 0x41\nCPU part\t: {}\n"
    text = "\n".join([part.format(0, "", "0xd05"), part.format(1, " asimddp", "0xd41"), part.format(2, "", "0xfff")])
    spec = recognise(put(tmp_path, "proc/cpuinfo", text).parent.parent, run=answering({}))
    assert spec.cpu_model == "Cortex-A55 + Cortex-A78 + Arm 0x41/0xfff"
    assert spec.cpu_features == ("neon",)  # dot products on one kind of core only would crash on the other


@pytest.mark.parametrize(
    ("model", "cores", "expected"),
    [
        ("Intel(R) Xeon(R) Platinum 8480C CPU @ 2.00GHz", 2, "intel-xeon-platinum-8480c-2c"),
        ("AMD Ryzen 7 5800X 8-Core Processor", 2, "amd-ryzen-7-5800x-2c"),
        ("AMD Ryzen 7 7840U w/ Radeon 780M Graphics", 2, "amd-ryzen-7-7840u-2c"),
        ("12th Gen Intel(R) Core(TM) i7-1260P", 2, "12th-gen-intel-core-i7-1260p-2c"),
    ],
)
def test_names_of_bare_x86_machines(tmp_path: Path, model: str, cores: int, expected: str) -> None:
    root = build("x86-vm", tmp_path)
    (root / "sys/devices/system/clocksource/clocksource0/available_clocksource").write_text("tsc hpet\n")
    text = (root / "proc/cpuinfo").read_text().replace("AMD EPYC", model).replace(" hypervisor", "")
    (root / "proc/cpuinfo").write_text(text)
    spec = recognise(root, run=answering({}))
    assert (spec.device_id, spec.virtual) == (expected, None)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "unknown hypervisor"),
        ({"sys/class/dmi/id/sys_vendor": "VMware, Inc."}, "vmware"),
        ({"sys/class/dmi/id/sys_vendor": "Amazon EC2", "sys/class/dmi/id/product_name": "c7i.xlarge"}, "amazon"),
        ({"sys/class/dmi/id/product_name": "Virtual Machine"}, "hyper-v"),
        ({"sys/hypervisor/type": "xen"}, "xen"),
    ],
)
def test_hypervisors(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    root = build("x86-vm", tmp_path)
    (root / "sys/devices/system/clocksource/clocksource0/available_clocksource").write_text("tsc\n")
    for path, text in files.items():
        put(root, path, text)
    assert recognise(root, run=answering({})).virtual == expected


def test_a_bare_metal_machine_of_a_cloud_is_no_virtual_one(tmp_path: Path) -> None:
    put(tmp_path, "sys/class/dmi/id/sys_vendor", "Amazon EC2")
    put(tmp_path, "sys/class/dmi/id/product_name", "m5.metal")
    assert recognise(tmp_path, run=answering({})).virtual is None


@pytest.mark.parametrize(
    "limits",
    [
        {"sys/fs/cgroup/cpu.max": "150000 100000\n"},
        {"sys/fs/cgroup/cpuset.cpus.effective": "4,6\n"},
        {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
    ],
)
def test_a_container_is_as_large_as_its_limits(tmp_path: Path, limits: dict[str, str]) -> None:
    put(tmp_path, "sys/devices/system/cpu/online", "0-63\n")
    put(tmp_path, "proc/meminfo", "MemTotal: 263856304 kB\n")
    put(tmp_path, "sys/fs/cgroup/memory.max", "4294967296\n")
    for path, text in limits.items():
        put(tmp_path, path, text)
    spec = recognise(tmp_path, run=answering({}))
    assert (spec.logical_cores, spec.memory_bytes) == (2, 4 << 30)


def test_no_limits_in_a_container_are_no_limits(tmp_path: Path) -> None:
    put(tmp_path, "sys/devices/system/cpu/online", "0-63\n")
    put(tmp_path, "proc/meminfo", "MemTotal: 263856304 kB\n")
    put(tmp_path, "sys/fs/cgroup/memory.max", "max\n")
    put(tmp_path, "sys/fs/cgroup/cpu.max", "max 100000\n")
    spec = recognise(tmp_path, run=answering({}))
    assert (spec.logical_cores, spec.memory_bytes) == (64, 263856304 * 1024)


def test_clock_of_a_board_without_cpufreq_is_the_vendors_and_says_so(tmp_path: Path) -> None:
    root = build("raspberry-pi-5", tmp_path)
    for file in root.glob("sys/devices/system/cpu/cpu0/cpufreq/*"):
        file.unlink()
    clock = recognise(root, run=answering({})).clock
    assert (clock.nominal_hz, clock.current_hz) == (2.4e9, None)
    assert clock.source == "device_configs/raspberry-pi-5.toml, nominal"


def test_an_empty_machine_is_unknown_not_an_error(tmp_path: Path) -> None:
    spec = recognise(tmp_path, run=answering({}))
    assert (spec.cpu_model, spec.machine, spec.logical_cores, spec.memory_bytes) == ("unknown", "unknown", 1, 0)
    assert (spec.config, spec.physical_cores, spec.clock.source) == (None, None, "unknown")
    assert spec.device_id == "unknown-1c"


@given(
    st.text(),
    st.lists(st.sets(st.sampled_from(["avx2", "fma", "asimd", "neon", "avx512f", "x"])), min_size=1, max_size=3),
)
def test_cpuinfo_is_read_block_by_block(text: str, flags: list[set[str]]) -> None:
    """A feature is one that every core has, and a name is a name whatever stands in the part."""
    blocks = [f"processor : {i}\nmodel name : Some CPU 9\nflags : {' '.join(words)}" for i, words in enumerate(flags)]
    cpus = identity.parse_cpuinfo("\n\n".join([*blocks, "Hardware : a board"]) + "\n")
    assert [cpu["processor"] for cpu in cpus] == [str(i) for i in range(len(flags))]
    assert identity.cpu_model(cpus) == "Some CPU 9"
    common = set.intersection(*flags)
    assert set(identity.cpu_features(cpus)) == {
        name for name, signs in identity.FEATURES.items() if common & set(signs)
    }
    cpus = identity.parse_cpuinfo("processor: 0\nCPU part: " + text + "\n\n" + text)
    assert cpus[0]["processor"] == "0" and all("processor" in cpu for cpu in cpus)
    assert all(value == value.strip() for cpu in cpus for value in cpu.values())
    name = identity.cpu_model(cpus)
    assert name is None or name.startswith("Arm ") or " + " in name or name in text
    assert set(identity.cpu_features(cpus)) <= set(identity.FEATURES)


def test_this_machine_is_the_same_twice_and_holds_no_host_name() -> None:
    spec = recognise()
    assert spec.device_id == recognise().device_id
    assert spec.logical_cores >= 1 and spec.memory_bytes > 0
    assert spec.runtimes["numpy"] is not None and spec.runtimes["python"]
    assert DeviceSpec.model_validate(json.loads(spec.model_dump_json())) == spec
    name = socket.gethostname()
    assert len(name) < 4 or name not in spec.model_dump_json()


def test_versions_are_read_without_importing_the_runtimes() -> None:
    code = (
        "import sys; from kit import devices; devices.recognise();"
        "print([m for m in ('torch', 'onnxruntime', 'openvino', 'tensorrt', 'onnx') if m in sys.modules])"
    )
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert completed.stdout == "[]\n", completed.stderr


def test_missing_runtimes_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(identity.RUNTIMES, "nobody-has-this", ("no-such-distribution", "nor-this-one"))
    assert identity.runtime_versions()["nobody-has-this"] is None


# ------------------------------------------------------------------------------------------------------ device_configs


def test_shipped_configurations_are_read_and_name_their_sources() -> None:
    folder = Path(identity.__file__).parent.parent.parent / "device_configs"
    configs = load_configs(folder)
    assert set(configs) == SHIPPED
    for name in SHIPPED - {"generic-x86_64"}:
        assert "Source" in (folder / f"{name}.toml").read_text()
    assert configs["raspberry-pi-5"].memory.bandwidth_bytes_per_s == 17e9
    assert configs["nvidia-h200"].gpu is not None and configs["nvidia-h200"].gpu.memory_bytes == 141_000_000_000


def test_the_users_own_add_and_replace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "device_configs/mine.toml", MINIMAL)
    put(tmp_path, "device_configs/generic-x86_64.toml", MINIMAL.replace("mine", "generic-x86_64"))
    monkeypatch.setenv("KIT_PROFILES", str(tmp_path))
    configs = load_configs()
    assert set(configs) >= SHIPPED | {"mine"}
    assert configs["generic-x86_64"].title == "My board"
    assert set(load_configs(tmp_path / "device_configs")) == {"mine", "generic-x86_64"}


def test_an_installed_wheel_brings_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "site/kit/_device_configs/mine.toml", MINIMAL)
    monkeypatch.setattr(folders, "__file__", str(tmp_path / "site/kit/folders.py"))
    monkeypatch.chdir(tmp_path)
    assert set(load_configs()) == {"mine"}


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        (MINIMAL + "[cpu]\nclok_hz = 1e9\n", UnknownName, ("'clok_hz'", "did you mean 'clock_hz'?", "[cpu]")),
        (MINIMAL + "[[peaks]]\nprecision = 'int8'\nops_per_sec = 1.0\n", UnknownName, ("'ops_per_s'?",)),
        (MINIMAL + "[gpu]\nname = 'g'\ncuda_core = 3\n", UnknownName, ("'cuda_cores'?",)),
        ("nam = 'mine'\n" + MINIMAL, UnknownName, ("'nam'", "'name'?", "[top]")),
        (MINIMAL + "[cpu]\ncores = 'four'\n", BadRecord, ("cpu.cores",)),
        (MINIMAL.replace('"mine"', '"yours"'), BadRecord, ("named 'yours'", "must agree")),
        ("name = ", UsageError, ("is not TOML",)),
    ],
)
def test_broken_configurations_say_what_to_correct(
    tmp_path: Path, text: str, kind: type[UsageError], words: tuple[str, ...]
) -> None:
    put(tmp_path, "mine.toml", text)
    with pytest.raises(kind) as caught:
        load_configs(tmp_path)
    message = str(caught.value)
    assert "mine.toml" in message and "\n" not in message
    assert all(word in message for word in words), message


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no folder"):
        load_configs(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("machine", "nvml"),
    [("x86-vm", None), ("x86-vm", FakeNvml("NVIDIA H200")), ("raspberry-pi-5", None), ("jetson-orin-nano", None)],
)
def test_a_saved_machine_is_recognised_by_its_file(tmp_path: Path, machine: str, nvml: FakeNvml | None) -> None:
    root = build(machine, tmp_path / "root")
    before = recognise(root, run=answering({}), nvml=nvml)
    path = save_config("lab-machine", before, tmp_path / "configs")
    configs = {**load_configs(), **load_configs(path.parent)}
    after = recognise(root, run=answering({}), nvml=nvml, configs=configs)
    assert (after.config, after.device_id) == ("lab-machine", before.device_id)
    assert after.operating_points == before.operating_points
    saved = configs["lab-machine"]
    assert (saved.cpu.model, saved.memory.sizes_bytes) == (before.cpu_model, (before.memory_bytes,))


def test_a_saved_machine_is_no_other(tmp_path: Path) -> None:
    small = recognised("x86-vm", tmp_path / "small")
    configs = {**load_configs(), **load_configs(save_config("small", small, tmp_path / "configs").parent)}
    root = build("x86-vm", tmp_path / "large")
    (root / "sys/devices/system/cpu/online").write_text("0-7\n")
    (root / "sys/fs/cgroup/cpuset/cpuset.cpus").write_text("0-7\n")
    assert recognise(root, run=answering({}), configs=configs).config == "generic-x86_64"


def test_saving_replaces_nothing_unasked(tmp_path: Path) -> None:
    spec = recognised("x86-vm", tmp_path / "root")
    path = save_config("lab", spec, tmp_path)
    path.write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        save_config("lab", spec, tmp_path)
    assert path.read_text() == "mine"
    save_config("lab", spec, tmp_path, force=True)
    assert load_configs(tmp_path)["lab"].cpu.cores == 2
    assert [p.name for p in tmp_path.glob("*.toml")] == ["lab.toml"]


@pytest.mark.parametrize(
    "name", ["", "../escape", "a/b", "Upper", ".hidden", "x" * 64, "with space", "lab.toml", "a\n"]
)
def test_names_that_are_no_file_names(tmp_path: Path, name: str) -> None:
    spec = recognised("x86-vm", tmp_path / "root")
    with pytest.raises(UsageError, match="cannot name a device"):
        save_config(name, spec, tmp_path / "configs")
    assert not (tmp_path / "configs").exists()


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    spec = recognised("x86-vm", tmp_path / "root")
    put(tmp_path, "taken", "a file")
    with pytest.raises((UsageError, StorageError), match="file"):
        save_config("lab", spec, tmp_path / "taken")


def test_names_with_quotes_survive_the_file(tmp_path: Path) -> None:
    spec = recognised("x86-vm", tmp_path / "root").model_copy(update={"cpu_model": 'Odd "CPU" \\ é\x7f'})
    save_config("odd", spec, tmp_path)
    assert load_configs(tmp_path)["odd"].match.cpu_model == spec.cpu_model
