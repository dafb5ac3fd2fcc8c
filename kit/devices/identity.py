"""Who this machine is: CPU, caches, memory, clocks, GPUs, runtimes, telemetry.

:func:`recognise` reads files below a root (so a recorded tree serves as a machine), asks NVML where it answers, and
never imports a runtime to learn its version. What its configuration states (operating points, the nominal clock)
comes from :mod:`kit.devices.configs`.

The identity (``device_id``) rests on hardware alone, never on host names, serial or MAC numbers, so it survives a
reboot and is the same for two equal machines: ``raspberry-pi-5-8gb``, ``jetson-agx-orin-64gb``, ``amd-epyc-f25m17-2c-kvm``,
``intel-xeon-platinum-8480c-16c-kvm-h200``.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from kit import store
from kit.devices import telemetry
from kit.devices.configs import DeviceConfig, Hardware, best_config, load_configs
from kit.devices.telemetry import Nvml, RunCommand, ask, read_number, read_text
from kit.records import CacheSpec, ClockSpec, DeviceSpec, GpuSpec

HERE = Path("/")

# kit's name of an instruction set -> flags of /proc/cpuinfo, any of which shows it.
FEATURES: dict[str, tuple[str, ...]] = {
    "avx2": ("avx2",),
    "fma": ("fma",),
    "avx512": ("avx512f",),
    "avx512_vnni": ("avx512_vnni",),
    "avx512_bf16": ("avx512_bf16",),
    "avx512_fp16": ("avx512_fp16",),
    "avx_vnni": ("avx_vnni",),
    "amx_int8": ("amx_int8",),
    "amx_bf16": ("amx_bf16",),
    "neon": ("asimd", "neon"),
    "dotprod": ("asimddp",),
    "fp16": ("asimdhp",),
    "i8mm": ("i8mm",),
    "bf16": ("bf16",),
    "sve": ("sve",),
    "sve2": ("sve2",),
    "sme": ("sme",),
}

# (CPU implementer, CPU part) of /proc/cpuinfo, after util-linux sys-utils/lscpu-arm.c and Arm's MIDR_EL1 tables.
ARM_CORES: dict[tuple[int, int], str] = {
    (0x41, 0xD03): "Cortex-A53",
    (0x41, 0xD04): "Cortex-A35",
    (0x41, 0xD05): "Cortex-A55",
    (0x41, 0xD07): "Cortex-A57",
    (0x41, 0xD08): "Cortex-A72",
    (0x41, 0xD09): "Cortex-A73",
    (0x41, 0xD0A): "Cortex-A75",
    (0x41, 0xD0B): "Cortex-A76",
    (0x41, 0xD0C): "Neoverse-N1",
    (0x41, 0xD0D): "Cortex-A77",
    (0x41, 0xD0E): "Cortex-A76AE",
    (0x41, 0xD40): "Neoverse-V1",
    (0x41, 0xD41): "Cortex-A78",
    (0x41, 0xD42): "Cortex-A78AE",
    (0x41, 0xD44): "Cortex-X1",
    (0x41, 0xD46): "Cortex-A510",
    (0x41, 0xD47): "Cortex-A710",
    (0x41, 0xD48): "Cortex-X2",
    (0x41, 0xD49): "Neoverse-N2",
    (0x41, 0xD4B): "Cortex-A78C",
    (0x41, 0xD4D): "Cortex-A715",
    (0x41, 0xD4E): "Cortex-X3",
    (0x41, 0xD4F): "Neoverse-V2",
    (0x41, 0xD80): "Cortex-A520",
    (0x41, 0xD81): "Cortex-A720",
    (0x4E, 0x003): "Denver-2",
    (0x4E, 0x004): "Carmel",
    (0xC0, 0xAC3): "Ampere-1",
}

# Words in the DMI strings that name a hypervisor, after systemd src/basic/virt.c.
HYPERVISORS = {
    "KVM": "kvm",
    "QEMU": "qemu",
    "Amazon EC2": "amazon",
    "Google Compute Engine": "google",
    "VMware": "vmware",
    "VirtualBox": "virtualbox",
    "innotek": "virtualbox",
    "Xen": "xen",
    "Parallels": "parallels",
    "BHYVE": "bhyve",
    "Virtual Machine": "hyper-v",
    "OpenStack": "kvm",
}

# Integrated GPUs of Jetson modules by the SoC in the device tree: name and compute capability (NVIDIA's CUDA GPU list).
JETSON_GPUS = {
    "nvidia,tegra234": ("Orin integrated GPU (Ampere)", "8.7"),
    "nvidia,tegra194": ("Xavier integrated GPU (Volta)", "7.2"),
    "nvidia,tegra186": ("TX2 integrated GPU (Pascal)", "6.2"),
    "nvidia,tegra210": ("Tegra X1 integrated GPU (Maxwell)", "5.3"),
}

# Runtime -> the distributions that bring it; versions are read from their metadata.
RUNTIMES: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime", "onnxruntime-openvino"),
    "onnxruntime-gpu": ("onnxruntime-gpu",),
    "openvino": ("openvino",),
    "torch": ("torch",),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "numpy": ("numpy",),
}


def recognise(
    root: Path = HERE,
    *,
    configs: Mapping[str, DeviceConfig] | None = None,
    nvml: Nvml | None = None,
    run: RunCommand = telemetry.run_command,
) -> DeviceSpec:
    """The machine whose files lie below ``root``. ``configs`` default to :func:`load_configs`.

    Runtimes are those of the running interpreter, whatever ``root`` is. Cores and memory are what the machine and its
    container limit grant, not what this process was pinned to: pinning must not make another device of it.
    Raises UsageError when a device configuration is broken, nothing else.
    """
    cpus = parse_cpuinfo(read_text(root / "proc/cpuinfo") or "")
    hardware = Hardware(
        machine=_machine(root, cpus),
        board=_device_tree(root, "model"),
        compatible=tuple((_device_tree(root, "compatible") or "").split("\0")),
        cpu_model=cpu_model(cpus) or _fallback_cpu(root),
        logical_cores=_logical_cores(root, cpus),
        gpus=_gpus(root, nvml),
    )
    configs = load_configs() if configs is None else configs
    config = best_config(configs.values(), hardware)
    memory_bytes, virtual = _memory_bytes(root), _virtual(root, cpus)
    return DeviceSpec(
        device_id=_device_id(hardware, configs, memory_bytes, virtual),
        config=config.name if config else None,
        machine=hardware.machine,
        system=_system(root),
        kernel=read_text(root / "proc/sys/kernel/osrelease") or (platform.release() if root == HERE else "unknown"),
        cpu_model=hardware.cpu_model,
        cpu_features=cpu_features(cpus),
        physical_cores=_physical_cores(root, cpus, hardware.logical_cores),
        logical_cores=hardware.logical_cores,
        caches=_caches(root),
        clock=_clock(root, cpus, config),
        memory_bytes=memory_bytes,
        virtual=virtual,
        gpus=hardware.gpus,
        runtimes=runtime_versions(),
        telemetry=telemetry.describe_sources(root, run=run, nvml=nvml),
        operating_points=config.operating_points if config else (),
    )


Cpus = list[dict[str, str]]  # one mapping per logical CPU of /proc/cpuinfo, keys in lower case


def parse_cpuinfo(text: str) -> Cpus:
    """The blocks of /proc/cpuinfo that describe a processor (an Arm board ends with one about the board)."""
    blocks = [
        {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in block.splitlines())}
        for block in re.split(r"\n\s*\n", text)
    ]
    return [block for block in blocks if "processor" in block]


def cpu_model(cpus: Cpus) -> str | None:
    """The CPU's name: Arm cores by implementer and part (different ones joined by +), others by their model name.

    A hypervisor may hide the model number ("AMD EPYC" for four generations); family and model then stand in for it.
    """
    arm = [_arm_core(cpu) for cpu in cpus if "cpu part" in cpu]
    names = arm or [_x86_name(cpu) for cpu in cpus if cpu.get("model name")]
    return " + ".join(dict.fromkeys(names)) or None


def _x86_name(cpu: Mapping[str, str]) -> str:
    name = cpu["model name"]
    hidden = not re.search(r"\d", name) and "cpu family" in cpu and "model" in cpu
    return f"{name} (family {cpu['cpu family']}, model {cpu['model']})" if hidden else name


def _arm_core(cpu: Mapping[str, str]) -> str:
    maker, part = cpu.get("cpu implementer", ""), cpu["cpu part"]
    try:
        return ARM_CORES[int(maker, 16), int(part, 16)]
    except (KeyError, ValueError):
        return f"Arm {maker}/{part}"


def cpu_features(cpus: Cpus) -> tuple[str, ...]:
    """Instruction sets that every core has, by the names of :data:`FEATURES`."""
    words = [set((cpu.get("flags") or cpu.get("features") or "").split()) for cpu in cpus]
    common = set.intersection(*words) if words else set()
    return tuple(name for name, signs in FEATURES.items() if common.intersection(signs))


def runtime_versions() -> dict[str, str | None]:
    """Version of each runtime in this interpreter's environment, from metadata; None when it is not installed."""
    versions = {name: _first_version(distributions) for name, distributions in RUNTIMES.items()}
    return {**versions, "python": platform.python_version()}


def _first_version(distributions: Iterable[str]) -> str | None:
    for distribution in distributions:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _machine(root: Path, cpus: Cpus) -> str:
    """The kernel's architecture: reported by kernels since 6.1, else read from /proc/cpuinfo."""
    if architecture := read_text(root / "proc/sys/kernel/arch"):
        return architecture
    if root == HERE:
        return platform.machine()
    first = cpus[0] if cpus else {}
    if "flags" in first:
        return "x86_64" if "lm" in first["flags"].split() else "i686"
    return {"8": "aarch64", "7": "armv7l"}.get(first.get("cpu architecture", ""), "unknown")


def _fallback_cpu(root: Path) -> str:
    return (platform.processor() if root == HERE else "") or "unknown"


def _system(root: Path) -> str:
    match = re.search(r'^PRETTY_NAME="?([^"\n]+)', read_text(root / "etc/os-release") or "", re.MULTILINE)
    return match[1] if match else platform.system() if root == HERE else "unknown"


def _device_tree(root: Path, name: str) -> str | None:
    return read_text(root / "proc/device-tree" / name) or read_text(root / "sys/firmware/devicetree/base" / name)


def _list_length(cpu_list: str | None) -> int:
    """How many CPUs a kernel list such as ``0-3,8`` names; 0 for none or nonsense."""
    total = 0
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", cpu_list or ""):
        total += int(last or first) - int(first) + 1
    return total


def _logical_cores(root: Path, cpus: Cpus) -> int:
    """CPUs that are online and granted to this container (cgroup cpuset and quota); at least 1."""
    online = _list_length(read_text(root / "sys/devices/system/cpu/online")) or len(cpus)
    online = online or ((psutil.cpu_count() or 1) if root == HERE else 1)
    group = root / "sys/fs/cgroup"
    granted = _list_length(read_text(group / "cpuset.cpus.effective") or read_text(group / "cpuset/cpuset.cpus"))
    quota, period = _quota(group)
    by_quota = -(-quota // period) if quota and period else online
    return max(1, min(online, granted or online, int(by_quota)))


def _quota(group: Path) -> tuple[float | None, float | None]:
    """CPU time granted per period, in microseconds; None without a limit (cgroup 2: cpu.max, cgroup 1: cfs files)."""
    words = (read_text(group / "cpu.max") or "").split()
    if len(words) == 2 and words[0].isdigit():
        return float(words[0]), float(words[1])
    quota = read_number(group / "cpu/cpu.cfs_quota_us")
    return (quota, read_number(group / "cpu/cpu.cfs_period_us")) if quota and quota > 0 else (None, None)


def _physical_cores(root: Path, cpus: Cpus, logical: int) -> int | None:
    """Distinct cores by topology; None when the machine does not report it."""
    folders = root.glob("sys/devices/system/cpu/cpu[0-9]*/topology")
    places = {
        (read_text(f / "physical_package_id"), read_text(f / "cluster_id"), read_text(f / "core_id")) for f in folders
    }
    if not places:
        places = {(c.get("physical id"), None, c["core id"]) for c in cpus if "core id" in c}
    return min(len(places), logical) if places else None


def _caches(root: Path) -> tuple[CacheSpec, ...]:
    """The kinds of caches, level by level; equal ones of different cores count once."""
    kinds = set()
    for folder in root.glob("sys/devices/system/cpu/cpu[0-9]*/cache/index*"):
        size = re.fullmatch(r"(\d+)([KMG])", read_text(folder / "size") or "")
        level, kind = read_number(folder / "level"), read_text(folder / "type")
        if size and level and kind:
            size_bytes = int(size[1]) << {"K": 10, "M": 20, "G": 30}[size[2]]
            shared = max(1, _list_length(read_text(folder / "shared_cpu_list")))
            kinds.add((int(level), kind.lower(), size_bytes, shared))
    return tuple(CacheSpec(level=a, type=b, size_bytes=c, shared_by=d) for a, b, c, d in sorted(kinds))


def _clock(root: Path, cpus: Cpus, config: DeviceConfig | None) -> ClockSpec:
    """The core clock. Only cpufreq is observed; cpuinfo's figure, a name's "@ 2.6GHz" and a vendor's are nominal."""
    named = re.search(r"@ *(\d+(?:\.\d+)?) *GHz", cpus[0].get("model name", "") if cpus else "")
    nominal_hz = telemetry.highest_hz(telemetry.clock_files(root, "base_frequency"))
    nominal_hz = nominal_hz or (float(named[1]) * 1e9 if named else None)
    current = telemetry.highest_hz(telemetry.clock_files(root, "scaling_cur_freq"))
    if current:
        highest = telemetry.highest_hz(telemetry.clock_files(root, "cpuinfo_max_freq"))
        return ClockSpec(nominal_hz=nominal_hz, current_hz=current, max_hz=highest, source="cpufreq")
    if mhz := _cpuinfo_mhz(cpus):
        return ClockSpec(nominal_hz=mhz * 1e6, source="cpuinfo, nominal")
    if nominal_hz:
        return ClockSpec(nominal_hz=nominal_hz, source="CPU model name (nominal)")
    if config and config.cpu.clock_hz:
        return ClockSpec(nominal_hz=config.cpu.clock_hz, source=f"device_configs/{config.name}.toml, nominal")
    return ClockSpec()


def _cpuinfo_mhz(cpus: Cpus) -> float | None:
    values = [float(c["cpu mhz"]) for c in cpus if re.fullmatch(r"\d+(\.\d+)?", c.get("cpu mhz", ""))]
    return max(values, default=None)


def _memory_bytes(root: Path) -> int:
    """Memory of the machine, or of its container where that is less; 0 when it does not report it."""
    match = re.search(r"^MemTotal:\s+(\d+) kB", read_text(root / "proc/meminfo") or "", re.MULTILINE)
    total = int(match[1]) * 1024 if match else int(psutil.virtual_memory().total) if root == HERE else 0
    group = root / "sys/fs/cgroup"
    limit = read_number(group / "memory.max") or read_number(group / "memory/memory.limit_in_bytes")
    return min(total, int(limit)) if limit else total


def _virtual(root: Path, cpus: Cpus) -> str | None:
    """The hypervisor below this machine, "unknown hypervisor" when one shows without its name, None on metal."""
    if kind := read_text(root / "sys/hypervisor/type"):
        return kind
    clocks = read_text(root / "sys/devices/system/clocksource/clocksource0/available_clocksource") or ""
    if "kvm" in (_device_tree(root, "hypervisor/compatible") or "") or "kvm-clock" in clocks.split():
        return "kvm"
    dmi = [read_text(root / "sys/class/dmi/id" / name) or "" for name in ("sys_vendor", "product_name", "bios_vendor")]
    named = next((name for sign, name in HYPERVISORS.items() if sign in " ".join(dmi)), None)
    if named and not dmi[1].endswith("metal"):  # clouds sell bare-metal machines under the same vendor: m5.metal
        return named
    shown = "hypervisor" in (cpus[0].get("flags", "").split() if cpus else [])
    return "unknown hypervisor" if shown or "dummy-virt" in (_device_tree(root, "compatible") or "") else None


def _gpus(root: Path, nvml: Nvml | None) -> tuple[GpuSpec, ...]:
    """NVIDIA GPUs by the first source that lists one: NVML, the driver's /proc files, a Jetson's device tree."""
    module, _ = telemetry.nvml_of(root, nvml)
    return (_nvml_gpus(module) if module else ()) or _proc_gpus(root) or _jetson_gpu(root)


def _nvml_gpus(nvml: Nvml) -> tuple[GpuSpec, ...]:
    driver = _text(ask(nvml, "nvmlSystemGetDriverVersion"))
    handles = [ask(nvml, "nvmlDeviceGetHandleByIndex", i) for i in range(ask(nvml, "nvmlDeviceGetCount") or 0)]
    return tuple(_nvml_gpu(nvml, handle, driver) for handle in handles if handle is not None)


def _nvml_gpu(nvml: Nvml, handle: Any, driver: str | None) -> GpuSpec:
    memory = ask(nvml, "nvmlDeviceGetMemoryInfo", handle)  # an integrated GPU has none of its own
    capability = ask(nvml, "nvmlDeviceGetCudaComputeCapability", handle)
    mhz = ask(nvml, "nvmlDeviceGetMaxClockInfo", handle, 1)  # NVML_CLOCK_SM
    return GpuSpec(
        name=_text(ask(nvml, "nvmlDeviceGetName", handle)) or "NVIDIA GPU",
        memory_bytes=None if memory is None else int(memory.total),
        driver=driver,
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else None,
        max_clock_hz=None if mhz is None else mhz * 1e6,
    )


def _text(value: Any) -> str | None:
    """NVML's older Python modules answer in bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _proc_gpus(root: Path) -> tuple[GpuSpec, ...]:
    driver = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)\s", read_text(root / "proc/driver/nvidia/version") or "")
    texts = [read_text(file) or "" for file in sorted(root.glob("proc/driver/nvidia/gpus/*/information"))]
    names = [match[1].strip() for text in texts if (match := re.search(r"^Model:(.+)$", text, re.MULTILINE))]
    return tuple(GpuSpec(name=name, driver=driver[1] if driver else None) for name in names)


def _jetson_gpu(root: Path) -> tuple[GpuSpec, ...]:
    socs = (_device_tree(root, "compatible") or "").split("\0")
    gpu = next((JETSON_GPUS[soc] for soc in socs if soc in JETSON_GPUS), None)
    if gpu is None:
        return ()
    folder = telemetry.gpu_devfreq(root)
    max_hz = read_number(folder / "max_freq") if folder else None
    return (GpuSpec(name=gpu[0], compute_capability=gpu[1], max_clock_hz=max_hz),)


# ------------------------------------------------------------------------------------------------------------- identity


def _device_id(hardware: Hardware, configs: Mapping[str, DeviceConfig], memory_bytes: int, virtual: str | None) -> str:
    """A board by its name and memory size, another machine by CPU, cores, hypervisor and GPUs.

    Only configurations of boards are matched, so that saving notes about a machine does not rename it.
    """
    if hardware.board and "dummy-virt" not in " ".join(hardware.compatible):
        boards = (config for config in configs.values() if config.match.model or config.match.compatible)
        config = best_config(boards, hardware)
        name = config.name if config else re.sub(r" (Model|Rev) .*", "", hardware.board)
        sizes = config.memory.sizes_bytes if config else ()
        return store.slug(f"{name}-{_sold_gb(memory_bytes, sizes)}gb")
    parts = [_cpu_slug(hardware.cpu_model), f"{hardware.logical_cores}c"]
    if virtual:
        parts.append("vm" if virtual == "unknown hypervisor" else virtual)
    if hardware.gpus:
        parts.append(_gpu_slug(hardware.gpus))
    return store.slug("-".join(parts))


def _sold_gb(memory_bytes: int, sizes_bytes: Iterable[int]) -> int:
    """The size on the box, in GiB: the kernel keeps a part for itself and the firmware, so the next size up."""
    sizes = sorted(sizes_bytes) or [n << 30 for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)]
    return next((size for size in sizes if size >= memory_bytes), memory_bytes) >> 30


def _cpu_slug(model: str) -> str:
    """``Intel(R) Xeon(R) Platinum 8480C CPU @ 2.00GHz`` -> ``intel-xeon-platinum-8480c``."""
    short = re.sub(r"\(family (\d+), model (\d+)\)", r"f\1m\2", model)
    plain = re.sub(
        r"\((R|TM)\)|@.*|\bw(ith|/) Radeon.*|\b\d+-Core\b|\bCPU\b|\bProcessor\b", " ", short, flags=re.IGNORECASE
    )
    return store.slug(plain)


def _gpu_slug(gpus: Sequence[GpuSpec]) -> str:
    name = store.slug(re.sub(r"\b(NVIDIA|Tesla|GeForce)\b", " ", gpus[0].name))
    return name if len(gpus) == 1 else f"{len(gpus)}x{name}"
