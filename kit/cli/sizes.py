"""``knowledge table``: the size tables of papers A and B from measured times, and those of the formula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kit import units
from kit.cli import needs, show

if TYPE_CHECKING:
    from kit.records import AllocationQuality, DynamicTable, KnowledgeRow, SizeTiming


@dataclass(frozen=True)
class Timings:
    """The measured times of a size table."""

    family: Annotated[
        str, typer.Option(help="allocator_a (paper A), allocator_b (paper B) or allocator_u (per-user).")
    ] = "allocator_a"
    clock_ghz: Annotated[float | None, typer.Option(help="Clock of rows that know none.")] = None
    device: needs.Device = None
    backend: needs.Backend = None
    threads: needs.Threads = None
    users: Annotated[int | None, typer.Option(help="Number of users, where several were measured.")] = None

    def of(self, rows: Sequence[KnowledgeRow]) -> list[SizeTiming]:
        """Raises what :func:`kit.knowledge.timings_of` raises."""
        from kit import knowledge
        from kit.knowledge import limits

        return knowledge.timings_of(
            rows, self.family, device_id=limits.device_of(rows, self.device), backend=self.backend, threads=self.threads,
            clock_hz=None if self.clock_ghz is None else self.clock_ghz * 1e9, users=self.users,
        )  # fmt: skip


def size_table(
    timings: Timings,
    quality_file: Annotated[
        Path | None, typer.Option("--quality", help="Delay of the allocation per size (default: paper A's table I).")
    ] = None,
    sizes_kbit: Annotated[str, typer.Option(help="Mean task sizes.")] = "0.25,0.5,1,2,4,6,8,10",
    clocks_ghz: Annotated[str, typer.Option(help="Compute budgets, as clocks.")] = "0.01,0.02,0.05,0.1,0.2,0.5,1,2",
    out: Annotated[Path | None, typer.Option(help="Write the table as JSON as well.")] = None,
    knowledge_file: needs.Base = needs.KNOWLEDGE,
    json: show.Json = False,
    csv: show.Csv = False,
) -> None:
    """The size table of papers A and B from measured times, and the analytic table."""
    from kit import knowledge, store

    measured = timings.of(needs.read_base(knowledge_file).rows)
    quality = _quality(timings.family, quality_file)
    sizes = [1e3 * v for v in _numbers(sizes_kbit, "--sizes-kbit")]
    clocks = [1e9 * v for v in _numbers(clocks_ghz, "--clocks-ghz")]
    table = knowledge.dynamic_table(measured, quality, sizes, clocks)
    if out is not None:
        store.write_record(out, table)
    if json:
        show.emit(table.model_dump(mode="json"))
        return
    _print_sizes(table, sizes, clocks)


def _quality(family: str, file: Path | None) -> AllocationQuality:
    from kit import knowledge, store
    from kit.errors import UsageError
    from kit.records import AllocationQuality

    if file is None:
        if family != knowledge.TABLE_I.family:
            raise UsageError(
                f"No allocation quality of {family} is published as numbers: kit simulate writes one, give it with --quality FILE."
            )
        show.say("Quality of the allocation: published data (paper A, table I), not measured here.")
        return knowledge.TABLE_I
    quality = store.read_record(file, AllocationQuality)
    if quality.family != family:
        raise UsageError(
            f"{file} is the quality of {quality.family}: add --family {quality.family}, or give another file."
        )
    return quality


def _numbers(text: str, flag: str) -> list[float]:
    from kit.errors import UsageError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"{flag} does not take '{text}': give numbers with commas between them, such as 1,2,5."
        ) from None


def _print_sizes(table: DynamicTable, sizes: Sequence[float], clocks: Sequence[float]) -> None:
    what = {"allocator_a": "K", "allocator_b": "k,l"}.get(table.quality.family, "width,depth")
    cells = {(c.task_bit, c.clock_hz): c for c in table.cells}
    heads = [units.brief(hz, ((units.GHZ, "GHz"),), 6) for hz in clocks]
    tables = [show.make_table(f"Best {what} by measured times", "kbit", *heads)]
    tables += [show.make_table(f"Best {what} at {f:g} cycle(s) per MAC", "kbit", *heads) for f in table.factors]
    for s in sizes:
        row = [cells[s, hz] for hz in clocks]
        tables[0].add_row(units.in_unit(s, units.KB, 6), *(c.measured for c in row))
        for printed, f in zip(tables[1:], table.factors, strict=True):
            printed.add_row(
                units.in_unit(s, units.KB, 6),
                *(c.analytic[f"{f:g}"] + ("" if c.analytic[f"{f:g}"] == c.measured else " *") for c in row),
            )
    show.print_table(*tables)
    for f in table.factors:
        share, worst = table.differing(f), table.worst_excess(f)
        show.note(
            f"lambda = {f:g}: another {what} in {share:.0%} of the cells (*), which takes up to {worst:.1%} longer."
        )
    if table.left_out:
        show.say(f"left out, without a measured time or a quality: {', '.join(table.left_out)}")
