"""The verbs for a factory's controller: ``place`` answers a slot's request; ``simulate trace`` makes requests to replay."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from kit.cli import show, simulate

if TYPE_CHECKING:
    from kit.papers.placement.controller import Controller, SlotAnswer
    from kit.papers.placement.world import PlacementWorld, Policy


def add_to(app: typer.Typer) -> None:
    """Add ``place`` and ``simulate trace``."""
    app.command(rich_help_panel="Simulate")(place)
    simulate.simulate_app.command()(trace)


WorldFile = Annotated[
    Path | None, typer.Option("--world", metavar="WORLD.json", help="A world of your own: parameters by their names.")
]


Request = Annotated[
    str | None, typer.Argument(metavar="REQUEST.json|-", help="One slot's request; - reads standard input.")
]
PolicyFile = Annotated[
    Path | None, typer.Option(metavar="FILE.policy.json", help="A trained policy; its network .onnx lies beside it.")
]
Rule = Annotated[
    str | None, typer.Option(help="A rule instead: greedy_balanced, greedy, equal, random or lp_rounding.")
]
ModelsSeed = Annotated[
    int | None, typer.Option(min=0, help="Seed of the devices' models (default: the policy's, else 0).")
]
Serve = Annotated[
    bool,
    typer.Option("--serve", help="Stay: a request a line on standard input, an answer a line on standard output."),
]
RecordFile = Annotated[
    Path | None, typer.Option(metavar="FILE.jsonl", help="With --serve: write the requests as a trace at the end.")
]
Example = Annotated[bool, typer.Option("--example", help="Print a valid request, one line, and leave.")]


def place(
    request: Request = None,
    policy: PolicyFile = None,
    rule: Rule = None,
    world: WorldFile = None,
    spectrum: simulate.Spectrum = None,
    models_seed: ModelsSeed = None,
    serve: Serve = False,
    record: RecordFile = None,
    example: Example = False,
    out: Annotated[Path | None, typer.Option(help="Write the answer to this file.")] = None,
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """Answer one slot's request: for each task its node, its variant and its parts of band and clock. ``--serve`` answers a stream."""
    from kit.errors import UsageError
    from kit.papers.placement import controller

    if serve and (request is not None or out is not None):
        raise UsageError("--serve reads requests from standard input and answers there: leave REQUEST and --out away.")
    if example:
        print(controller.example(_world(world, spectrum)).model_dump_json())
        return
    if record is not None and not serve:
        raise UsageError("--record keeps the requests of a stream: give it with --serve.")
    controlling = _controller(policy, rule, world, spectrum, models_seed)
    if serve:
        _serve(controlling, sys.stdin.buffer, sys.stdout.buffer, record)
        return
    if request is None:
        raise UsageError("Give a request: a file, or - for standard input; kit place --example prints one.")
    answer = controlling.answer(controller.parse(_read(request), "standard input" if request == "-" else request))
    _print_answer(controlling, answer, out, json)


def trace(
    out: Annotated[Path, typer.Option(metavar="FILE.jsonl", help="The trace to write.")],
    slots: Annotated[int, typer.Option(min=1, help="Slots of the trace.")] = 50,
    rate: Annotated[
        float | None, typer.Option(help="Mean tasks of a device in a slot, Poisson (default: one task in every slot).")
    ] = None,
    burst_rate: Annotated[float | None, typer.Option(help="That while a gateway's devices have a burst.")] = None,
    burst_slots: Annotated[float, typer.Option(help="Mean slots of a burst.")] = 5.0,
    quiet_slots: Annotated[float, typer.Option(help="Mean slots between two bursts.")] = 20.0,
    fading: Annotated[
        bool, typer.Option("--fading", help="Links change from slot to slot, by a Gauss-Markov process.")
    ] = False,
    memory: Annotated[float, typer.Option(help="With --fading: correlation of a slot with the next.")] = 0.9,
    rician_k: Annotated[float, typer.Option(help="With --fading: power of the direct path over the others.")] = 10.0,
    world: WorldFile = None,
    spectrum: simulate.Spectrum = None,
    seed: show.Seed = 0,
    json: show.Json = False,
) -> None:
    """Generate a request trace for paper C: arrivals, sizes and link rates, to replay through any policy with placement --trace."""
    from pydantic import ValidationError

    from kit.errors import UsageError
    from kit.papers.placement import trace as traces
    from kit.records import first_problem

    try:
        arrivals = traces.Arrivals(rate=rate, burst_rate=burst_rate, burst_slots=burst_slots, quiet_slots=quiet_slots)
        links = traces.Fading(memory=memory, rician_k=rician_k) if fading else None
    except ValidationError as error:
        raise UsageError(f"No trace can be made of this: {first_problem(error)}.") from None
    generated = traces.generate(_world(world, spectrum), slots, seed=seed, arrivals=arrivals, fading=links)
    traces.write(out, generated)
    requests, source = generated.requests, generated.header.source
    if json:
        show.emit({"out": str(out), "slots": slots, "requests": requests, "source": source})
        return
    print(f"{out}: {requests} requests in {slots} slots, {requests / slots:.1f} a slot ({source})")


def _world(file: Path | None, spectrum: str | None, trained: PlacementWorld | None = None) -> PlacementWorld:
    """The world that is named; else the policy's, else the default. Raises UsageError, BadRecord, UnknownName."""
    from kit import records, store
    from kit.errors import UsageError
    from kit.papers.placement import world as worlds

    if file is not None and spectrum is not None:
        raise UsageError("--world and --spectrum both name a world: give one of the two.")
    if file is not None:
        return records.load(worlds.PlacementWorld, store.read_json(file), str(file))
    if spectrum is not None or trained is None:
        return worlds.with_spectrum(spectrum or "shared")
    return trained


def _controller(
    policy: Path | None, rule: str | None, world: Path | None, spectrum: str | None, models_seed: int | None
) -> Controller:
    from kit.errors import UsageError
    from kit.papers.placement import controller, trained

    if (policy is None) == (rule is None):
        raise UsageError("Say what decides: --policy FILE.policy.json, or --rule greedy_balanced.")
    if policy is None:
        return controller.Controller.of(_world(world, spectrum), _rule(rule or ""), models_seed=models_seed or 0)
    record, decide = trained.load(policy)
    seed = record.models_seed if models_seed is None else models_seed
    return controller.Controller.of(_world(world, spectrum, record.world), decide, models_seed=seed)


def _rule(name: str) -> Policy:
    """Raises UnknownName, BackendUnavailable where the linear program's solver is not installed."""
    from importlib.util import find_spec

    from kit import versions
    from kit.errors import BackendUnavailable, UnknownName
    from kit.papers.placement import RULES

    if name not in RULES:
        raise UnknownName("rule", name, RULES)
    if name == "lp_rounding" and find_spec("scipy") is None:
        raise BackendUnavailable(
            f"lp_rounding solves a linear program with scipy, which is not installed: {versions.install('scipy')}"
        )
    return RULES[name]


def _read(request: str) -> bytes:
    from kit import store

    if request == "-":
        return sys.stdin.buffer.read()
    with store.explained(Path(request), "read"):
        return Path(request).read_bytes()


def _serve(controlling: Controller, requests: IO[bytes], answers: IO[bytes], record: Path | None = None) -> None:
    """A line in, a line out, until the input ends; then how many there were and, with ``record``, the trace."""
    from contextlib import suppress
    from dataclasses import replace

    from kit.papers.placement import controller
    from kit.papers.placement import trace as traces

    recorder = traces.Recorder(controlling.policy)
    if record is not None:
        controlling = replace(controlling, policy=recorder)
    served = controller.ServeStatistics()
    with suppress(KeyboardInterrupt, BrokenPipeError):
        controller.serve(controlling, requests, answers, served)
    if record is not None and recorder.slots_of_tasks:
        source = f"recorded: {len(recorder.slots_of_tasks)} requests of a controller"
        traces.write(record, recorder.trace(controlling.world, source))
    show.say(_summary(served.decisions_s, served.refused))


def _summary(decisions_s: list[float], refused: int) -> str:
    """How many decisions there were, and how long they took."""
    from kit import stats

    text = f"{len(decisions_s)} decisions, {refused} requests refused"
    if not decisions_s:
        return text
    quantiles_s = (stats.quantile(decisions_s, 0.5), stats.quantile(decisions_s, 0.95), max(decisions_s))
    median, high, worst = (show.ms(value_s) for value_s in quantiles_s)
    return f"{text}; from a line read to its answer written: median {median} ms, p95 {high} ms, longest {worst} ms"


#: What the pools of an answer are called.
POOLS = {
    "first": "devices' band",
    "second": "base station's band",
    "gateway": "gateways' clocks",
    "edge": "edge's clock",
}


def _print_room(answer: SlotAnswer) -> None:
    """How near to its deadline each node's tasks end, and what lies idle of each pool."""
    late = [t.slack_s for t in answer.tasks if t.slack_s is not None]
    if not late:
        return
    slack = show.make_table("", "slack (ms)", "least", "median")
    for node, label in (("gateway", "at its gateway"), ("edge", "at the edge")):
        left = sorted(1e3 * t.slack_s for t in answer.tasks if t.node == node and t.slack_s is not None)
        if left:
            slack.add_row(label, f"{left[0]:.3g}", f"{left[len(left) // 2]:.3g}")
    show.print_table(slack)
    idle = show.make_table("", "idle (%)", "least", "most")
    for name, label in POOLS.items():
        parts = [100 * part for part in getattr(answer.idle, name)]
        idle.add_row(label, f"{min(parts):.1f}", f"{max(parts):.1f}")
    show.print_table(idle)


def _print_answer(controlling: Controller, answer: SlotAnswer, out: Path | None, json: bool) -> None:
    from kit import store

    if out is not None:
        store.write_record(out, answer)
    if json:
        show.emit(answer.model_dump(mode="json"))
        return
    names = [*controlling.names]
    table = show.make_table("", "", *names, "tasks", "accuracy")
    for node in ("gateway", "edge", "none"):
        tasks = [t for t in answer.tasks if t.node == node]
        mean = sum(t.accuracy for t in tasks) / max(1, len(tasks))
        counts = [str(sum(t.variant == name for t in tasks)) if node != "none" else "" for name in names]
        label = {"gateway": "at its gateway", "edge": "at the edge", "none": "turned away"}[node]
        table.add_row(label, *counts, str(len(tasks)), f"{mean:.4f}" if tasks and node != "none" else "")
    show.print_table(table)
    show.note(f"{answer.promised} of {len(answer.tasks)} tasks in time, average accuracy {answer.average_accuracy:.4f}")
    _print_room(answer)
    if out is not None:
        show.note(str(out))
    else:
        show.note("The decision of each task: --json or --out FILE.")
