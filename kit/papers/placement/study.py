"""What the figures of paper C are made from: each world's points and each seed's networks, computed once, when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from kit.papers.learning import Said, Told
from kit.papers.placement import experiment
from kit.papers.placement.agents import TrainedAgent
from kit.papers.placement.experiment import KIT, Cast, Point, Settings, anew
from kit.papers.placement.world import PlacementWorld, Policy


class Study:
    """What the figures are made from: each world's points and each seed's networks, once, when they are asked for."""

    def __init__(
        self,
        world: PlacementWorld,
        settings: Settings,
        folder: Path,
        tell: Told,
        policies: Mapping[str, tuple[str, Policy]],
    ) -> None:
        self.world, self.settings, self.folder, self.tell, self.policies = world, settings, folder, tell, policies
        self.points: dict[PlacementWorld, list[Point]] = {}
        self.casts: dict[bool, list[Cast]] = {}
        self.anew: list[TrainedAgent] = []
        self.asked = 0

    def said(self, seed: int) -> Callable[[str], Said]:
        """The share that is told is of the present training: how many follow is not known."""

        def of(name: str) -> Said:
            return lambda done, steps, value: self.tell(f"seed {seed}, {name}: {value:.3f}", done / steps)

        return of

    def cast(self, *, flat: bool = True) -> list[Cast]:
        """Of each seed kit's own network and the shared ones. ``flat`` adds the paper's agents; without it, where more seeds are to be
        had for little, kit's own network is that of the first seed: it knows no factory.
        """
        settings, folder = self.settings, self.folder
        if flat not in self.casts:
            self.casts[flat] = []
            for seed in settings.seeds:
                own = experiment.own_of(
                    settings.own_steps, seed if flat else settings.seeds[0], folder, self.said(seed)(KIT)
                )
                recipes = settings.shared(seed) | (settings.flat(seed) if flat else {})
                known = experiment.agents_of(self.world, recipes, settings, folder, self.said(seed))
                self.casts[flat].append(Cast(seed, own, known))
        return self.casts[flat]

    def at(self, *, train: bool = False, **changes: Any) -> list[Point]:
        """The points of the world with these changes; ``train`` also trains shared networks for it alone."""
        there = self.world.model_copy(update=changes)
        if there not in self.points:
            self.points[there] = [self._point(there, cast, train) for cast in self.cast()]
        return self.points[there]

    def _point(self, there: PlacementWorld, cast: Cast, train: bool) -> Point:
        settings, folder = self.settings, self.folder
        self.tell(f"seed {cast.seed}, a world's slots", min(0.99, self.asked / (45 * len(settings.seeds))))
        self.asked += 1
        made: dict[str, TrainedAgent] = {}
        if train and settings.anew and there != self.world:
            recipes = {anew(name): recipe for name, recipe in settings.shared(cast.seed).items()}
            made = experiment.agents_of(there, recipes, settings, folder, self.said(cast.seed))
            self.anew += made.values()
        point = experiment.at(there, settings, cast, folder, there=made)
        extra = (
            experiment.learned_at(there, settings, cast.seed, folder, self.policies).methods if self.policies else {}
        )
        return point.model_copy(update={"methods": {**point.methods, **extra}})

    def trained(self) -> dict[str, dict[str, JsonValue]]:
        """What was trained, as a simulation's file tells it."""
        found: dict[str, dict[str, JsonValue]] = {}
        casts = [cast for several in self.casts.values() for cast in several]
        for cast in casts:
            record = cast.own[0]
            found[f"own-{cast.seed}"] = {"steps": record.steps, "train_s": record.train_s, **record.recipe}
        for agent in [a for cast in casts for a in cast.agents.values()] + self.anew:
            record = agent.record
            key = f"{record.recipe['method']}-{record.seed}-{record.network_sha256[:8]}"
            last = float(agent.curve.looks[-1][1])
            found[key] = {"steps": record.steps, "train_s": record.train_s, "reward": last, "recipe": record.recipe}
        return found
