"""The verb ``session``: the state of this machine and a fixed set of networks, for comparing days and machines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kit import units
from kit.cli import options, show
from kit.cli.table import Column

if TYPE_CHECKING:
    from kit.cli.table import Table
    from kit.measure.session import Recording

UNITS = (("_hz", 1e-9, "GHz"), ("_bytes_s", 1e-9, "GB/s"), ("_s", 1e6, "us"))  # the first ending that fits counts


def add_to(app: typer.Typer) -> None:
    """Register the verb."""
    app.command(rich_help_panel="Measure")(session)


def session(
    profiles: options.Profiles = options.PROFILES,
    even_if_busy: Annotated[
        bool, typer.Option("--even-if-busy", help="Measure although other processes use the machine.")
    ] = False,
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """Record this machine today: clock, caches and memory, calibration workloads, and 25 fixed networks with random weights.

    Takes about four minutes, during which the machine should do nothing else. Writes PROFILES/<device_id>/sessions/<utc>.jsonl; kit fit and
    the knowledge base leave that folder alone. bench/sessions.py compares all sessions.
    """
    from kit.devices import recognise
    from kit.measure import session as sessions

    device = recognise()
    earlier = [r for r in sessions.read_all(profiles) if r.session.device.device_id == device.device_id]
    with show.progress("session") as update:
        recording = sessions.run(device, profiles, even_if_busy=even_if_busy, progress=show.steps(update))
    if json:
        show.emit(_summary(recording, earlier[-1] if earlier else None))
        return
    show.print_table(_state_table(recording), _network_table(recording))
    if earlier:
        show.say(f"Against the session of {earlier[-1].session.created_utc[:16]}: bench/sessions.py shows all of them.")
    size = units.size(recording.path.stat().st_size)
    show.say(f"Wrote {recording.path} ({size}, {recording.session.wall_s:.0f} s)")


def _summary(recording: Recording, before: Recording | None) -> dict[str, Any]:
    from kit.measure import session as sessions

    session = recording.session
    states, networks = sessions.ratios(recording, before) if before else ({}, {})
    return {
        "session": session.session_id,
        "device": session.device.device_id,
        "machine": session.machine_tag,
        "file": str(recording.path),
        "size_bytes": recording.path.stat().st_size,
        "wall_s": session.wall_s,
        "state": sessions.state_figures((*session.states_before, *session.states_after)),
        "state_repeat": sessions.repeats(session),
        "medians_s": sessions.medians_s(recording),
        "labels": {r.artifact.artifact_id: r.label for r in recording.records},
        "against_previous": {
            "session": before.session.session_id if before else None,
            "state": states,
            "networks": networks,
        },
    }


def _state_table(recording: Recording) -> Table:
    from kit.measure import session as sessions

    session = recording.session
    table = show.make_table(
        f"{session.device.device_id}, machine {session.machine_tag}", "state", Column("value"), Column("repeat", 1)
    )
    repeats = sessions.repeats(session)
    for name, value in sessions.state_figures((*session.states_before, *session.states_after)).items():
        table.add_row(*written(name, value), f"{repeats[name] - 1:+.1%}" if name in repeats else "unknown")
    return table


def written(name: str, value: float) -> tuple[str, str]:
    """A state variable for people: its name without the unit, its value with one."""
    for ending, factor, unit in UNITS:
        if name.endswith(ending):
            return name.removesuffix(ending).replace("_", " "), f"{value * factor:.4g} {unit}"
    return name, f"{value:.4g}"


def _network_table(recording: Recording) -> Table:
    table = show.make_table("networks", "network", Column("median ms"), Column("95 %", 2), Column("label", 1, "left"))
    for record in recording.records:
        timing = record.measurement
        if timing is None:
            table.add_row(record.artifact.artifact_id, "", "", record.status)
            continue
        low, high = timing.interval_s
        span = f"{show.ms(low)} to {show.ms(high)}"
        table.add_row(record.artifact.artifact_id, show.ms(timing.median_s), span, record.label or "")
    return table
