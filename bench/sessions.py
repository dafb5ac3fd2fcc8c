"""All sessions beside each other: what each network and each state variable takes over what it took in the device's first session.

    python bench/sessions.py [PROFILES] [--device ID] [--last 8] [--plot sessions.html] [--json]

A session is a file of `kit session` (scripts/session-profile). Ratios above 1 are slower for networks, calibration workloads and
dependent loads ("chase"), and faster for the clock and for reading in order ("read"); so "read" and the clock are shown inverted, as
times, and every number above 1 means slower. The column "repeat" is the spread of the state's two readings within a session, at worst.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kit.cli import show
from kit.errors import BadRecord, KitError
from kit.measure import session as sessions
from kit.measure.session import Recording

RATES = ("_hz", "_bytes_s")  # more is faster: shown as one over


@dataclass(frozen=True)
class Comparison:
    """The sessions of one device, the oldest first, and for each variable its slowdown over the first session, [sessions]."""

    device_id: str
    recordings: tuple[Recording, ...]
    state: dict[str, list[float | None]]
    networks: dict[str, list[float | None]]
    repeat: dict[str, float]  # of a state variable: the largest |after / before - 1| of any session


def slowdown(name: str, ratio: float | None) -> float | None:
    return None if ratio is None else 1 / ratio if name.endswith(RATES) else ratio


def compare(recordings: Sequence[Recording]) -> Comparison:
    """``recordings`` are of one device, the oldest first. Raises BadRecord where there is none."""
    if not recordings:
        raise BadRecord("There is no session: run scripts/session-profile first.")
    first = recordings[0]
    pairs = [sessions.ratios(recording, first) for recording in recordings]
    state = {name: [slowdown(name, pair[0].get(name)) for pair in pairs] for name in pairs[0][0]}
    networks = {name: [pair[1].get(name) for pair in pairs] for name in pairs[0][1]}
    repeats = [sessions.repeats(recording.session) for recording in recordings]
    worst = {name: max((abs(r[name] - 1) for r in repeats if name in r), default=float("nan")) for name in state}
    return Comparison(first.session.device.device_id, tuple(recordings), state, networks, worst)


def column(recording: Recording) -> str:
    session = recording.session
    return f"{session.created_utc[5:16].replace('T', ' ')} {session.machine_tag[:4]}"


def print_tables(comparison: Comparison, last: int) -> None:
    shown = sorted({0, *range(max(0, len(comparison.recordings) - last), len(comparison.recordings))})
    heads = [column(comparison.recordings[i]) for i in shown]
    table = show.make_table(f"{comparison.device_id}: slowdown over the first session", "state", *heads, "repeat")
    for name, ratios in comparison.state.items():
        table.add_row(name, *(_ratio(ratios[i]) for i in shown), f"{comparison.repeat[name]:.1%}")
    show.print_table(table)
    table = show.make_table("networks (raw medians)", "network", "label", *heads)
    labels = {r.artifact.artifact_id: r.label for r in comparison.recordings[-1].records}
    for name, ratios in comparison.networks.items():
        table.add_row(name, labels.get(name) or "", *(_ratio(ratios[i]) for i in shown))
    show.print_table(table)


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def plot(comparison: Comparison, path: Path) -> None:
    """One page: a map of every variable over the sessions, red is slower than the first session, blue faster."""
    import plotly.graph_objects as go

    rows = {**comparison.state, **comparison.networks}
    values = np.array([[np.nan if v is None else 100 * (v - 1) for v in rows[name]] for name in rows])
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=[column(recording) for recording in comparison.recordings],
            y=list(rows),
            colorscale="RdBu_r",
            zmid=0,
            zmin=-20,
            zmax=20,
            text=[["" if np.isnan(v) else f"{v:+.1f}" for v in row] for row in values],
            texttemplate="%{text}",
            colorbar={"title": "% slower"},
            xgap=2,
            ygap=2,
        )
    )
    figure.update_layout(
        title=f"{comparison.device_id}: % slower than in the first session",
        height=120 + 22 * len(rows),
        width=460 + 90 * len(comparison.recordings),
        yaxis={"autorange": "reversed"},
        template="plotly_white",
    )
    figure.write_html(path, include_plotlyjs=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "profiles",
        nargs="?",
        type=Path,
        default=Path(__file__).resolve().parent.parent / "profiles",
        metavar="PROFILES",
    )
    parser.add_argument("--device", help="Only the sessions of this device id.")
    parser.add_argument("--last", type=int, default=8, help="Sessions that the tables show, beside the first.")
    parser.add_argument("--plot", type=Path, metavar="FILE.html", help="Write a map of all sessions.")
    parser.add_argument("--json", action="store_true", help="One JSON object in place of tables.")
    args = parser.parse_args()
    try:
        recordings = [r for r in sessions.read_all(args.profiles) if args.device in (None, r.session.device.device_id)]
        devices = list(dict.fromkeys(r.session.device.device_id for r in recordings))
        comparisons = [compare([r for r in recordings if r.session.device.device_id == d]) for d in devices]
        if not comparisons:
            raise BadRecord(f"{args.profiles} holds no session: run scripts/session-profile first.")
    except KitError as error:
        sys.exit(f"sessions: {error}")
    if args.json:
        print(json.dumps([_data(c) for c in comparisons], indent=2))
    else:
        for comparison in comparisons:
            print_tables(comparison, args.last)
    if args.plot:
        for comparison in comparisons:
            name = (
                args.plot if len(comparisons) == 1 else args.plot.with_stem(f"{args.plot.stem}-{comparison.device_id}")
            )
            plot(comparison, name)
            print(f"Wrote {name}", file=sys.stderr)


def _data(comparison: Comparison) -> dict[str, object]:
    return {
        "device": comparison.device_id,
        "sessions": [
            {"id": r.session.session_id, "machine": r.session.machine_tag, "created_utc": r.session.created_utc}
            for r in comparison.recordings
        ],
        "state_slowdown": comparison.state,
        "state_repeat_worst": comparison.repeat,
        "network_slowdown": comparison.networks,
    }


if __name__ == "__main__":
    main()
