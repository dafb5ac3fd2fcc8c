"""What the figures of paper C are made from: each world's points and each seed's networks, computed once, when they are needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from kit.papers.engine import Progress
from kit.papers.placement import experiment
from kit.papers.placement.agents import TrainedAgent
from kit.papers.placement.experiment import KIT, PlacementPoint, Settings, TrainedNetworks, retrained_name
from kit.papers.placement.world import PlacementWorld, Policy

WORLDS_IN_ALL = 45  # of all figures: how many follow is not known while one is computed


class Study:
    """The points of each world and the networks of each seed; ``policies`` are evaluated as well: name -> (hash of its network, policy)."""

    def __init__(
        self,
        world: PlacementWorld,
        settings: Settings,
        folder: Path,
        progress: Progress,
        policies: Mapping[str, tuple[str, Policy]],
    ) -> None:
        self.world, self.settings, self.folder, self.policies = world, settings, folder, policies
        self.progress = progress
        self.points: dict[PlacementWorld, list[PlacementPoint]] = {}
        self.retrained: list[TrainedAgent] = []
        self._networks: dict[bool, list[TrainedNetworks]] = {}
        self._points_done = 0

    def networks(self, *, flat: bool = True) -> list[TrainedNetworks]:
        """Of each seed the dual-price policy and the shared networks. ``flat`` adds the paper's agents; without it, where more seeds are to
        be had for little, the dual-price policy is that of the first seed: it is not trained for one factory.
        """
        settings, folder = self.settings, self.folder
        if flat not in self._networks:
            self._networks[flat] = []
            for seed in settings.seeds:
                own_seed = seed if flat else settings.seeds[0]
                progress = self._training(seed)
                own = experiment.own_of(settings.price_steps, own_seed, folder, progress.steps(KIT, digits=3))
                recipes = settings.shared(seed) | (settings.flat(seed) if flat else {})
                agents = experiment.agents_of(self.world, recipes, settings, folder, progress)
                self._networks[flat].append(TrainedNetworks(seed, own, agents))
        return self._networks[flat]

    def at(self, *, train: bool = False, **changes: Any) -> list[PlacementPoint]:
        """The points of the world with these changes; ``train`` also trains shared networks for it alone."""
        world = self.world.model_copy(update=changes)
        if world not in self.points:
            self.points[world] = [self._point(world, networks, train) for networks in self.networks()]
        return self.points[world]

    def _point(self, world: PlacementWorld, networks: TrainedNetworks, train: bool) -> PlacementPoint:
        settings, folder = self.settings, self.folder
        share = min(0.99, self._points_done / (WORLDS_IN_ALL * len(settings.seeds)))
        self.progress(f"seed {networks.seed}, a world's slots", share)
        self._points_done += 1
        retrained: dict[str, TrainedAgent] = {}
        if train and settings.retrain and world != self.world:
            recipes = {retrained_name(name): recipe for name, recipe in settings.shared(networks.seed).items()}
            retrained = experiment.agents_of(world, recipes, settings, folder, self._training(networks.seed))
            self.retrained += retrained.values()
        point = experiment.at(world, settings, networks, folder, retrained=retrained)
        if not self.policies:
            return point
        given = experiment.learned_at(world, settings, networks.seed, folder, self.policies)
        return point.model_copy(update={"methods": {**point.methods, **given.methods}})

    def _training(self, seed: int) -> Progress:
        """Reports the share of the present training: how many follow is not known."""
        return self.progress.named(f"seed {seed}, ")

    def trained(self) -> dict[str, dict[str, JsonValue]]:
        """What was trained, as a simulation's file holds it."""
        facts: dict[str, dict[str, JsonValue]] = {}
        every = [networks for several in self._networks.values() for networks in several]
        for networks in every:
            record = networks.own[0]
            facts[f"own-{networks.seed}"] = {"steps": record.steps, "train_s": record.train_s, **record.recipe}
        for agent in [agent for networks in every for agent in networks.agents.values()] + self.retrained:
            record = agent.record
            key = f"{record.recipe['method']}-{record.seed}-{record.network_sha256[:8]}"
            last = float(agent.curve.looks[-1][1])
            facts[key] = {"steps": record.steps, "train_s": record.train_s, "reward": last, "recipe": record.recipe}
        return facts
