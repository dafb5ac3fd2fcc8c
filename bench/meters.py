"""Do kit's numbers hold beside the public latency meters? One interleaved run of all of them on the same files.

    python bench/meters.py [--rounds 7] [--budget-s 6] [--int8 FILE.onnx] [--disturb] [--json | --markdown]

Each round starts every meter once, in seeded random order, each as a process of its own with the same wall time from its start to
its end, pinned to the same CPU, on torchvision's resnet18 (224 px) as `kit export` writes it and on an int8 file: onnxruntime on
the CPU, one thread, the same session options, inputs and warm-up. openvino's benchmark_app and `kit profile --backend openvino` are
a pair of their own (fp32), and one `kit profile` of both files, with twice the time, gives the ratio int8 / fp32. Then the spread
of each meter over the rounds, its ratio to the plain loop of the same round, and the bars.

``--disturb`` adds to each round the same again while a process on the same CPU is busy in random bursts, 20 % of the time.

Every visit is written to a journal before the next begins: the same command goes on after a kill, more ``--rounds`` or
``--disturb`` add to what is there, and a finished run is only shown again (``--fresh`` forgets it). Visits that failed are tried
again. The tools live in environments of their own under ``--envs``; torch and openvino are taken from the running interpreter
where it has them. What a meter leaves of its time is what its options cannot say: benchmark_app takes whole seconds (and prints
hundredths of a millisecond), pyperf and timeit whole repetitions. Run it alone on the machine: the CPU time of others is watched
and reported.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from math import ceil, log2
from pathlib import Path
from statistics import median
from typing import Any

import psutil

HERE = Path(__file__).resolve().parent
RUNNERS = HERE / "meters"
sys.path[:0] = [str(RUNNERS), str(HERE.parent)]

from verdicts import Net, Part, Sheet, Visit, markdown, rows, sheets, verdicts  # noqa: E402

from kit import __version__, store  # noqa: E402
from kit.cli import show  # noqa: E402
from kit.devices import recognise  # noqa: E402
from kit.errors import KitError, MeasurementError, UnknownName, UsageError  # noqa: E402
from kit.records import Record, load  # noqa: E402
from kit.versions import extra, install  # noqa: E402

CACHE = Path("~/.cache/insitu-kit/bench").expanduser()
BENCHMARK_APP = "from openvino.tools.benchmark.main import main; main()"
OPENVINO_START_S = 0.75  # benchmark_app takes whole seconds: what starting and loading take off the budget
PYPERF_PARENT_S = 0.5  # pyperf's own start and its collecting of metadata
PYPERF_VALUE_S = 0.1  # pyperf's own rule for how long a value lasts at least
PYPERF_VALUES = 3  # and for how many of them a process gives
PILOT_S = 2.5
TIMEOUT_BUDGETS = 10  # a meter that is not done after so many budgets is ended


@dataclass(frozen=True)
class Tool:
    """What a meter needs installed; ``module`` names it where the running interpreter's own will do."""

    packages: tuple[str, ...]
    module: str | None = None


TOOLS = {
    "torch": Tool(("torch",), "torch"),
    "pytest-benchmark": Tool(("pytest", "pytest-benchmark")),
    "pyperf": Tool(("pyperf",)),
    "loadgen": Tool(("mlcommons-loadgen",)),
    "benchmark_app": Tool(("openvino",), "openvino"),
}
METERS: dict[Net, tuple[str, ...]] = {
    "fp32": (
        "plain",
        "torch",
        "pytest-benchmark",
        "pyperf",
        "timeit",
        "loadgen",
        "kit",
        "benchmark_app",
        "kit-openvino",
    ),
    "int8": ("plain", "torch", "pytest-benchmark", "pyperf", "timeit", "loadgen", "kit"),
    "pair": ("kit-pair",),
}
NAMES = tuple(dict.fromkeys(name for names in METERS.values() for name in names))


class Header(Record):
    """First line of a journal: what its visits have in common. Unlike things do not mix."""

    device_id: str
    kit_version: str
    kit_source: str  # sha256 over kit's own files
    budget_s: float
    cpu: int
    seed: int
    fp32_sha256: str
    int8_sha256: str
    onnxruntime: str
    numpy: str
    python: str


@dataclass(frozen=True)
class Pilot:
    """What a plain loop said beforehand of one file, for tools that must be told how much fits."""

    call_s: float
    start_s: float  # a process before its first timed call


@dataclass(frozen=True)
class Bench:
    """What every visit needs to know. ``pythons`` holds the interpreter of each meter that can be run."""

    budget_s: float
    cpu: int
    seed: int
    files: dict[Net, tuple[Path, ...]]
    pythons: dict[str, str]
    pilots: dict[Net, Pilot]
    versions: dict[str, str]  # of each meter's tool
    profiles: Path  # of kit: one folder for all rounds, as a user has, because it keeps the device's reference times


@dataclass(frozen=True)
class Job:
    part: Part
    net: Net
    round: int
    meter: str


# ------------------------------------------------------------------------------------------- how each meter is called


def kit_command(files: Sequence[Path], budget_s: float, profiles: Path, *more: str) -> list[str]:
    """The one place that knows how `kit profile` is called; ``budget_s`` bounds its whole wall time."""
    command = [sys.executable, "-m", "kit", "profile", *map(str, files), "--json", "--budget", f"{budget_s:g}s"]
    return [*command, "--profiles", str(profiles), *more]


def command(bench: Bench, job: Job, scratch: Path) -> list[str]:
    """What is started for ``job``."""
    files, budget_s = bench.files[job.net], job_budget_s(bench, job)
    if job.meter.startswith("kit"):
        more = ("--backend", "openvino") if job.meter == "kit-openvino" else ()
        return kit_command(files, budget_s, bench.profiles, *more)
    python = bench.pythons[job.meter]
    if job.meter == "benchmark_app":
        return [python, "-c", BENCHMARK_APP, *benchmark_app_options(files[0], budget_s, scratch)]
    runner = str(RUNNERS / f"with_{job.meter.split('-')[0]}.py")
    if job.meter == "pyperf":
        return [python, runner, *pyperf_options(budget_s, bench.pilots[job.net])]
    if job.meter == "pytest-benchmark":
        plain = ["-q", "--noconftest", "-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={RUNNERS}"]
        return [python, "-m", "pytest", *plain, f"--benchmark-json={scratch / 'benchmark.json'}", runner]
    return [python, runner]


def job_budget_s(bench: Bench, job: Job) -> float:
    """Wall seconds of one visit: the budget for each file."""
    return bench.budget_s * len(bench.files[job.net])


def benchmark_app_options(model: Path, budget_s: float, scratch: Path) -> list[str]:
    """Synchronous, one stream, one thread (which the tool allows only with -hint none), fp32, for whole seconds."""
    seconds = max(1, int(budget_s - OPENVINO_START_S))
    how = (
        "-d CPU -api sync -hint none -nstreams 1 -nthreads 1 -infer_precision f32 -report_type no_counters -json_stats"
    )
    return ["-m", str(model), *how.split(), "-t", str(seconds), "-report_folder", str(scratch)]


def pyperf_options(budget_s: float, pilot: Pilot) -> list[str]:
    """As many processes of pyperf's usual three values as fit, then as many values in each as fill the time."""
    loops = 2 ** max(0, ceil(log2(PYPERF_VALUE_S / pilot.call_s)))
    value_s = loops * pilot.call_s
    left_s = budget_s - PYPERF_PARENT_S
    processes = max(1, int(left_s / (pilot.start_s + (1 + PYPERF_VALUES) * value_s)))
    values = max(1, int((left_s / processes - pilot.start_s) / value_s) - 1)
    numbers = {"processes": processes, "values": values, "warmups": 1, "loops": loops}
    inherited = "METER_MODEL,METER_UNTIL_S,METER_CALL_S,OMP_NUM_THREADS"
    return ["--quiet", "--inherit-environ", inherited, *(f"--{name}={n}" for name, n in numbers.items())]


# ------------------------------------------------------------------------------------------ how each meter is read


@dataclass(frozen=True)
class Said:
    """What a meter answered: seconds per call by statistic, kit's labels, the number of calls where the tool tells."""

    readings: dict[str, float]
    labels: tuple[str, ...] = ()
    calls: int | None = None


def said(meter: str, output: str, scratch: Path) -> Said:
    """Read a meter's answer from its standard output or the report it left in ``scratch``.

    Raises MeasurementError when it holds no usable value.
    """
    try:
        return _said(meter, output, scratch)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise MeasurementError(f"{meter} gave no readable answer ({type(error).__name__}: {error}).") from None


def _said(meter: str, output: str, scratch: Path) -> Said:
    if meter.startswith("kit"):
        return said_by_kit(json.loads(output)["variants"])
    if meter == "pytest-benchmark":
        (found,) = json.loads((scratch / "benchmark.json").read_text())["benchmarks"]
        return Said({"median": found["stats"]["median"]}, calls=found["stats"]["rounds"] * found["stats"]["iterations"])
    if meter == "benchmark_app":
        results = json.loads((scratch / "benchmark_report.json").read_text())["execution_results"]
        return Said({"median": float(results["latency (ms)"]) * 1e-3}, calls=int(results["total number of iterations"]))
    answer = json.loads(output.splitlines()[-1])
    return Said(dict(answer["readings"]), calls=answer["calls"])


def said_by_kit(variants: list[dict[str, Any]]) -> Said:
    """Seconds of the one file, or the ratio second / first of two. Raises MeasurementError when kit measured nothing."""
    names = {"raw": "median_s", "corrected": "corrected_s"}
    failed = [v for v in variants if v["median_s"] is None]
    if failed:
        raise MeasurementError(str(failed[0]["reason"]))
    readings = {}
    for key, name in names.items():
        values = [float(v[name]) for v in variants if v.get(name) is not None]
        if len(values) == len(variants):
            readings[key] = values[0] if len(values) == 1 else values[1] / values[0]
    return Said(readings, tuple(str(v["label"]) for v in variants), sum(v.get("calls") or 0 for v in variants))


# --------------------------------------------------------------------------------------------------------- one visit


def visit(bench: Bench, job: Job) -> Visit:
    """Run one meter once. A meter that fails is a visit with a reason."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meter-")))
        before = _cpu_s()
        start = time.monotonic()
        if job.part == "disturbed":
            stack.enter_context(disturbed(bench.cpu, f"{bench.seed}/{job.round}"))
        result, reason, wall_s = _answer(bench, job, scratch)
    elapsed_s = time.monotonic() - start
    others_s, steal_s = (b - a for a, b in zip(before, _cpu_s(), strict=True))
    return Visit(
        **vars(job),
        **vars(result),
        version=bench.versions.get(job.meter),
        reason=reason,
        wall_s=wall_s,
        others_share=max(0.0, others_s / elapsed_s),
        steal_share=steal_s / elapsed_s,
        created_utc=store.utc_now(),
    )


def _answer(bench: Bench, job: Job, scratch: Path) -> tuple[Said, str | None, float]:
    """(what the meter said, or why nothing; wall seconds of its process)."""
    start = time.monotonic()
    try:
        budget_s = job_budget_s(bench, job)
        output = started(command(bench, job, scratch), environment(bench, job, scratch, start), bench.cpu, budget_s)
        wall_s = time.monotonic() - start
        return said(job.meter, output, scratch), None, wall_s
    except MeasurementError as error:
        return Said({}), str(error), time.monotonic() - start


def environment(bench: Bench, job: Job, scratch: Path, start_s: float) -> dict[str, str]:
    """One thread everywhere, and what the runners are told (bench/meters/opened.py)."""
    pilot = bench.pilots.get(job.net)
    return {
        **os.environ,
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
        "METER_MODEL": str(bench.files[job.net][0]),
        "METER_UNTIL_S": repr(start_s + job_budget_s(bench, job)),
        "METER_CALL_S": repr(pilot.call_s if pilot else 0.0),
        "METER_SCRATCH": str(scratch),
    }


def started(command: list[str], environment: dict[str, str], cpu: int, budget_s: float) -> str:
    """Standard output of a process that ran on ``cpu`` alone. Raises MeasurementError when it fails or does not end."""
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=HERE.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=partial(os.sched_setaffinity, 0, {cpu}),
    )
    try:
        output, complaints = process.communicate(timeout=budget_s * TIMEOUT_BUDGETS + 30)
    except subprocess.TimeoutExpired:
        raise MeasurementError(f"It did not end within {TIMEOUT_BUDGETS} budgets.") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode != 0:
        last = (complaints.strip() or output.strip() or "no message").splitlines()[-1]
        raise MeasurementError(f"It ended with code {process.returncode}: {last[:300]}")
    return output


@contextmanager
def disturbed(cpu: int, seed: str) -> Iterator[None]:
    """While this lasts, another process on ``cpu`` is busy in random bursts (bench/meters/burn.py)."""
    process = subprocess.Popen([sys.executable, str(RUNNERS / "burn.py"), str(cpu), seed])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _cpu_s() -> tuple[float, float]:
    """(CPU seconds of everybody but this process and its ended children, seconds that the hypervisor took), since boot."""
    times = psutil.cpu_times()
    busy = times.user + times.nice + times.system + times.irq + times.softirq
    ours = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return busy - sum(u.ru_utime + u.ru_stime for u in ours), times.steal


# ----------------------------------------------------------------------------------------------------------- the run


def measure(
    bench: Bench, journal: Path, header: Header, rounds: int, parts: Sequence[Part], meters: Sequence[str]
) -> list[Visit]:
    """Every visit that the journal lacks, round by round in random order; then all visits of the journal."""
    visits = read_journal(journal, header)
    done = {Job(v.part, v.net, v.round, v.meter) for v in visits if v.reason is None}
    jobs = [j for r in range(rounds) for p in parts for j in order(bench, p, r, meters) if j not in done]
    for number, job in enumerate(jobs, 1):
        taken = visit(bench, job)
        store.append_line(journal, taken)
        visits.append(taken)
        show.say(f"{number}/{len(jobs)} {line(taken)}")
    return visits


def order(bench: Bench, part: Part, round_: int, meters: Sequence[str]) -> list[Job]:
    """The jobs of one round in seeded random order, whatever was done before."""
    able = {*bench.pythons, "kit", "kit-openvino", "kit-pair"} & set(meters)
    jobs = [Job(part, net, round_, meter) for net, names in METERS.items() for meter in names]
    random.Random(f"{bench.seed}/{part}/{round_}").shuffle(jobs)
    return [job for job in jobs if job.meter in able]


def line(taken: Visit) -> str:
    """A visit in one line for people."""
    what = f"{taken.part} round {taken.round + 1}, {taken.net}, {taken.meter}"
    scale, unit = (1.0, "") if taken.net == "pair" else (1e3, " ms")
    values = ", ".join(f"{key} {value * scale:.4g}{unit}" for key, value in taken.readings.items())
    return f"{what}: {values or taken.reason} ({taken.wall_s:.1f} s)"


def read_journal(journal: Path, header: Header) -> list[Visit]:
    """The visits so far; a new journal gets its header. Raises UsageError for a journal of another run."""
    lines = store.read_lines(journal, torn_ok=True) if journal.is_file() and journal.stat().st_size else []
    if not lines:
        store.append_line(journal, header)
        return []
    if load(Header, lines[0][1], lines[0][0]) != header:
        raise UsageError(f"{journal} is of another machine, kit, budget or file: name another --journal, or --fresh.")
    return [load(Visit, data, place) for place, data in lines[1:]]


def pilot(bench: Bench, net: Net) -> Pilot:
    """A short plain loop, before the run."""
    taken = visit(replace(bench, budget_s=PILOT_S), Job("idle", net, 0, "plain"))
    if taken.reason or not taken.calls:
        raise MeasurementError(f"The plain loop failed on {bench.files[net][0]}: {taken.reason}")
    call_s = taken.readings["median"]
    return Pilot(call_s, max(0.1, taken.wall_s - taken.calls * call_s))


# ------------------------------------------------------------------------------------------------- files and tools


def networks(folder: Path, int8: Path | None) -> tuple[Path, Path]:
    """(fp32, int8) with their sidecars in ``folder``, made where they are missing; a file given is copied there."""
    store.make_folder(folder)
    fp32 = folder / "resnet18-224.onnx"
    if not fp32.is_file():
        _python("-m", "kit", "export", "resnet18", "--out", str(folder))
    if int8 is None:
        target = folder / "resnet18-224-int8.onnx"
        if not target.is_file():
            _python(str(RUNNERS / "make_int8.py"), str(fp32), str(target))
    else:
        target = folder / f"given-{store.sha256_file(int8)[:12]}.onnx"
        shutil.copyfile(int8, target)
    _python("-m", "kit", "describe", str(target))
    return fp32, target


def _python(*words: str) -> None:
    done = subprocess.run([sys.executable, *words], cwd=HERE.parent, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise MeasurementError(f"python {' '.join(words)} failed: {last}")


def tools(envs: Path, wanted: Sequence[str], say: Callable[[str], None]) -> tuple[dict[str, str], dict[str, str]]:
    """(interpreter by meter, reason by meter that cannot be had). Environments are made once and used again."""
    pythons, missing = {"plain": sys.executable, "timeit": sys.executable}, {}
    for name, tool in TOOLS.items():
        if name not in wanted:
            continue
        if tool.module and importlib.util.find_spec(tool.module):
            pythons[name] = sys.executable
            continue
        try:
            pythons[name] = _environment(envs / name, tool.packages, say)
        except MeasurementError as error:
            missing[name] = str(error)
    return pythons, missing


def _environment(folder: Path, packages: Sequence[str], say: Callable[[str], None]) -> str:
    """Interpreter of a virtual environment with ``packages`` and the running onnxruntime and numpy.

    Its last file says what is in it, so one that was not finished, or holds something else, is made again.
    """
    needs = [*packages, *(f"{name}=={version(name)}" for name in ("onnxruntime", "numpy"))]
    python, finished = folder / "bin" / "python", folder / "finished.json"
    if finished.is_file() and store.read_json(finished) == needs:
        return str(python)
    say(f"installing {', '.join(needs)} into {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    _python("-m", "venv", str(folder))
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *needs]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise MeasurementError(f"pip install {' '.join(needs)} failed: {last}")
    store.write_atomic(finished, store.canonical_json(list(needs)))
    return str(python)


def versions(pythons: dict[str, str]) -> dict[str, str]:
    """By meter: the name and version of its tool's own package, as installed where it runs."""
    found = {}
    ask = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"
    for name, tool in TOOLS.items():
        if name in pythons:
            package = tool.packages[-1]
            done = subprocess.run([pythons[name], "-c", ask, package], capture_output=True, text=True)
            found[name] = f"{package} {done.stdout.strip() or 'of unknown version'}"
    return found


def kit_source() -> str:
    """sha256 over kit's Python files: measurements of two states of kit do not mix."""
    files = sorted((HERE.parent / "kit").rglob("*.py"))
    return store.sha256_bytes(b"".join(store.sha256_file(f).encode() for f in files))


# ---------------------------------------------------------------------------------------------------------- the door


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--budget-s", type=float, default=6.0, help="Wall time of each meter, its start included.")
    parser.add_argument("--int8", type=Path, help="The int8 .onnx (default: one is made from the fp32 file).")
    parser.add_argument("--disturb", action="store_true", help="Add the rounds with a busy neighbour on the same CPU.")
    parser.add_argument("--meters", nargs="+", default=list(NAMES), help=f"Only some of: {', '.join(NAMES)}.")
    parser.add_argument("--cpu", type=int, help="CPU that the meters are pinned to (default: the last one allowed).")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--envs", type=Path, default=CACHE / "envs", help="Folder of the tools' environments.")
    parser.add_argument("--work", type=Path, default=CACHE / "work", help="Folder of the networks and the journals.")
    parser.add_argument("--journal", type=Path, help="Journal (default: one in --work, named by what is measured).")
    parser.add_argument("--fresh", action="store_true", help="Forget the journal instead of going on.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
    parser.add_argument("--markdown", action="store_true", help="Print Markdown tables.")
    args = parser.parse_args()
    for name in args.meters:
        if name not in NAMES:
            raise UnknownName("meter", name, NAMES)
    if args.rounds < 1 or args.budget_s < 1:
        raise UsageError("--rounds starts at 1 and --budget-s at 1: starting a process alone takes half a second.")
    return args


def main() -> None:
    try:
        args = arguments()
        run(args)
    except PackageNotFoundError as error:
        sys.exit(f"meters: {error.name} is not installed: {install(*extra('workshop'))}")
    except KitError as error:
        print(f"meters: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit("meters: stopped; the same command goes on from here.")


def run(args: argparse.Namespace) -> None:
    cpus = os.sched_getaffinity(0)
    cpu = max(cpus) if args.cpu is None else args.cpu
    if cpu not in cpus:
        raise UsageError(f"--cpu {cpu} is not among the CPUs of this process: {sorted(cpus)}.")
    fp32, int8 = networks(args.work.resolve() / "networks", args.int8)
    pythons, missing = tools(args.envs.resolve(), args.meters, show.say)
    files: dict[Net, tuple[Path, ...]] = {"fp32": (fp32,), "int8": (int8,), "pair": (fp32, int8)}
    header = Header(
        device_id=recognise().device_id,
        kit_version=__version__,
        kit_source=kit_source(),
        budget_s=args.budget_s,
        cpu=cpu,
        seed=args.seed,
        fp32_sha256=store.sha256_file(fp32),
        int8_sha256=store.sha256_file(int8),
        onnxruntime=version("onnxruntime"),
        numpy=version("numpy"),
        python=sys.version.split()[0],
    )
    key = store.sha256_bytes(store.canonical_json(header))[:12]
    journal = args.journal or args.work / f"meters-{key}.jsonl"
    if args.fresh:
        journal.unlink(missing_ok=True)
    bench = Bench(args.budget_s, cpu, args.seed, files, pythons, {}, versions(pythons), args.work / "profiles")
    bench = replace(bench, pilots={net: pilot(bench, net) for net in ("fp32", "int8")})
    parts: tuple[Part, ...] = ("idle", "disturbed") if args.disturb else ("idle",)
    visits = measure(bench, journal, header, args.rounds, parts, args.meters)
    tell(args, header, [v for v in visits if v.round < args.rounds], missing, journal)


def tell(
    args: argparse.Namespace, header: Header, visits: Sequence[Visit], missing: dict[str, str], journal: Path
) -> None:
    """Print the tables, as JSON, Markdown or text."""
    if not any(v.readings for v in visits):
        raise MeasurementError(f"No meter gave a value: the reasons are in {journal}.")
    table = rows(visits, args.rounds)
    judged = verdicts(table, args.rounds)
    if args.json:
        lines = [
            {
                "part": r.part,
                "net": r.net,
                "statistic": r.statistic.title,
                "values": r.values,
                "labels": r.labels,
                "spread": r.spread,
                "ratios": r.ratios,
                "median_ratio": r.median_ratio,
            }
            for r in table
        ]
        bars = [vars(v) for v in judged]
        data = {"journal": str(journal), "header": header.model_dump(), "rows": lines, "bars": bars}
        show.emit({**data, "not_available": missing, "notes": notes(header, visits, missing)})
        return
    for sheet in sheets(table, judged, args.rounds):
        if args.markdown:
            print(markdown(sheet))
        else:
            _print(sheet)
    print("\n".join(f"- {note}" for note in notes(header, visits, missing)))


def _print(sheet: Sheet) -> None:
    table = show.make_table(sheet.title, *sheet.columns)
    for cells in sheet.cells:
        table.add_row(*cells)
    show.print_table(table)


def notes(header: Header, visits: Sequence[Visit], missing: dict[str, str]) -> list[str]:
    """What a reader must know beside the tables: where, with what, how quiet it was, and what is missing."""
    tools_used = ", ".join(sorted({v.version for v in visits if v.version}))
    walls = {m: [v.wall_s for v in visits if v.meter == m and v.reason is None] for m in NAMES}
    wall = ", ".join(f"{m} {median(w):.1f}" for m, w in walls.items() if w)
    busiest, robbed = max(visits, key=lambda v: v.others_share), max(visits, key=lambda v: v.steal_share)
    first = f"{header.device_id}, CPU {header.cpu}, kit {header.kit_version}, Python {header.python}, "
    first += f"onnxruntime {header.onnxruntime}, numpy {header.numpy}, {tools_used}"
    out = [
        f"{first}; seed {header.seed}, {min(v.created_utc for v in visits)[:10]}",
        f"wall seconds of one visit, median, of a budget of {header.budget_s:g} (kit-pair: of {2 * header.budget_s:g}): {wall}",
        f"CPU time of others meanwhile: {median(v.others_share for v in visits):.1%} of one CPU, at most {busiest.others_share:.1%} "
        f"({busiest.meter}); taken by the hypervisor: at most {robbed.steal_share:.1%}",
    ]
    out += [f"{name} is not available: {reason}" for name, reason in missing.items()]
    answered = {(v.part, v.net, v.round, v.meter) for v in visits if v.reason is None}
    failed = {v.meter: v for v in visits if v.reason and (v.part, v.net, v.round, v.meter) not in answered}
    return out + [f"{name} failed: {v.reason}" for name, v in failed.items()]


if __name__ == "__main__":
    main()
