"""The law of the house: imports go only down, and what belongs on a board runs without the workshop.

The table is docs/architecture.md's; change both together, with the reason.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

KIT = Path(__file__).parent.parent / "kit"

#: room -> (floor, third-party packages that it may import). A longer name beats a shorter one.
ROOMS: dict[str, tuple[int, set[str]]] = {
    "kit": (0, set()),
    "kit.__main__": (5, set()),
    "kit.errors": (0, set()),
    "kit.series": (0, {"numpy", "pydantic", "pydantic_core"}),
    "kit.records": (0, {"numpy", "pydantic"}),
    "kit.store": (0, {"numpy", "pydantic"}),
    "kit.stats": (0, {"numpy"}),
    "kit.configs": (1, {"pydantic", "tomli"}),
    "kit.device": (1, {"psutil"}),
    "kit.telemetry": (1, {"numpy", "psutil", "pynvml"}),
    "kit.timing": (1, set()),
    "kit.clock": (1, {"numba"}),
    "kit.operating": (1, {"numpy"}),
    "kit.reference": (1, {"numpy"}),
    "kit.worker": (1, {"numpy", "psutil", "pydantic"}),
    "kit.nursery": (1, set()),
    "kit.targets": (1, set()),
    "kit.verdict": (1, {"numpy"}),
    "kit.profiler": (1, {"numpy", "psutil"}),
    "kit.scenario": (1, {"numpy"}),
    "kit.spaces": (1, {"numpy"}),
    "kit.backends": (1, {"numpy"}),
    "kit.backends.onnxrt": (1, {"numpy", "onnxruntime"}),
    "kit.backends.pytorch": (1, {"numpy", "torch"}),
    "kit.backends.openvino_rt": (1, {"numpy", "openvino"}),
    "kit.backends.trt": (1, {"numpy", "tensorrt"}),
    "kit.backends.fake": (1, {"numpy"}),
    "kit.backends.allocfile": (1, {"numpy", "pydantic"}),
    "kit.backends.allocator": (1, {"numpy"}),
    "kit.backends.allocator_compiled": (1, {"numpy", "numba", "llvmlite"}),
    "kit.library": (1, {"httpx", "pydantic"}),
    "kit.library.server": (1, {"starlette", "uvicorn", "anyio", "pydantic"}),
    "kit.latency": (2, {"numpy"}),
    "kit.latency.fitting": (2, {"numpy", "scipy"}),
    "kit.latency.choice": (2, {"numpy", "scipy"}),
    "kit.latency.baselines": (2, {"numpy", "sklearn"}),
    "kit.knowledge": (2, {"numpy"}),
    "kit.compare": (2, {"numpy"}),
    "kit.survey": (2, {"numpy"}),
    "kit.nets": (3, {"torch", "torchvision", "numpy"}),
    "kit.variants": (
        3,
        {"torch", "torchvision", "torch_pruning", "onnx", "onnxruntime", "onnxscript", "sklearn", "numpy", "google"},
    ),
    "kit.report": (3, {"numpy", "plotly"}),
    "kit.sim": (3, {"numpy", "scipy", "gymnasium", "stable_baselines3", "torch", "pydantic"}),
    "kit.sim.offloading.genetic": (3, {"numpy", "pydantic", "pygad"}),
    "kit.sim.placement.trained": (3, {"numpy", "pydantic", "onnxruntime"}),
    "kit.cli": (4, {"typer", "rich", "numpy", "psutil", "pydantic"}),
}
MEASURING = {
    "configs",
    "device",
    "telemetry",
    "clock",
    "operating",
    "timing",
    "reference",
    "worker",
    "nursery",
    "targets",
    "verdict",
    "profiler",
    "scenario",
    "backends",
}
APART = [
    (MEASURING, {"library"}),
    ({"variants"}, {"sim"}),
]  # nets are the families: the workshop and the playground both train them
BLOCKED = ("torch", "torchvision", "onnx", "tensorrt", "gymnasium", "scipy")
BOARD = [
    "kit",
    "kit.__main__",
    "kit.cli",
    "kit.errors",
    "kit.series",
    "kit.records",
    "kit.store",
    "kit.stats",
    "kit.configs",
    "kit.device",
    "kit.telemetry",
    "kit.timing",
    "kit.clock",
    "kit.operating",
    "kit.reference",
    "kit.worker",
    "kit.nursery",
    "kit.targets",
    "kit.verdict",
    "kit.profiler",
    "kit.scenario",
    "kit.compare",
    "kit.spaces",
    "kit.backends",
    "kit.backends.onnxrt",
    "kit.backends.fake",
    "kit.backends.allocfile",
    "kit.backends.allocator",
    "kit.backends.cuda",
    "kit.backends.onnxgraph",
    "kit.backends.stages",
    "kit.cli.runtimes",
    "kit.cli.predict",
    "kit.latency",
    "kit.latency.active",
    "kit.latency.model",
    "kit.survey",
    "kit.knowledge",
    "kit.library.package",
    "kit.library.client",
    "kit.sim.placement.observation",
    "kit.sim.placement.trained",
    "kit.nets",
    "kit.report.format",
    "kit.cli.place",
    "kit.sim.placement",
    "kit.sim.placement.controller",
    "kit.sim.placement.measured",
    "kit.sim.placement.prices",
    "kit.sim.placement.trace",
]


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(KIT.rglob("*.py")):
        name = ".".join(path.relative_to(KIT.parent).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def law(module: str) -> tuple[int, set[str]]:
    parts = module.split(".")
    for end in range(len(parts), 1, -1):
        if (name := ".".join(parts[:end])) in ROOMS:
            return ROOMS[name]
    assert module == "kit", f"{module} stands in no room: add it to docs/architecture.md and to this table"
    return ROOMS["kit"]


def imports(module: str, path: Path) -> set[str]:
    """Every module that ``path`` imports anywhere, ``if TYPE_CHECKING`` included, as full names."""
    known, found = modules(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports hide the floor"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {n for n in names if n in known} or {node.module or ""}
    return found


@pytest.mark.parametrize("module", modules())
def test_imports_go_only_down(module: str) -> None:
    floor, allowed = law(module)
    for name in sorted(imports(module, modules()[module])):
        top = name.split(".")[0]
        assert top not in {"bench", "tests", "scripts"}, f"{module} imports {name}"
        if top == "kit":
            assert law(name)[0] <= floor, f"{module} (floor {floor}) imports {name} above it"
            mine, theirs = module.split(".")[1:2], name.split(".")[1:2]
            for one, other in APART:
                crossing = (set(mine) <= one and set(theirs) <= other) or (set(mine) <= other and set(theirs) <= one)
                assert not (mine and theirs and crossing), f"{module} and {name} must not know each other"
        elif top not in sys.stdlib_module_names:
            assert top in allowed, f"{module} imports {top}, which its floor does not allow"


def test_no_towers() -> None:
    banned = {"utils", "util", "common", "core", "manager", "base", "helpers", "misc"}
    assert not [m for m in modules() if banned & set(m.split("."))]


def blocked(code: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a process in which the workshop's packages cannot be imported."""
    guard = f"""
        import sys
        class Guard:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in {BLOCKED!r}:
                    raise ModuleNotFoundError(f"No module named {{name!r}} (blocked)", name=name)
        sys.meta_path.insert(0, Guard())
    """
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(guard) + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env=environment,
    )


@pytest.mark.board
def test_board_modules_import_without_the_workshop() -> None:
    done = blocked(f"""
        import importlib
        for name in {BOARD!r}:
            importlib.import_module(name)
        heavy = sorted(set({BLOCKED!r}) & set(sys.modules))
        assert not heavy, heavy
    """)
    assert done.returncode == 0, done.stderr


@pytest.mark.board
def test_every_verb_answers_help_without_the_workshop() -> None:
    done = blocked("""
        import typer.testing, typer.main
        from kit.cli import app
        runner = typer.testing.CliRunner()
        def walk(command, words):
            yield words
            for name, sub in getattr(command, "commands", {}).items():
                yield from walk(sub, [*words, name])
        seen = list(walk(typer.main.get_command(app), []))
        for words in seen:
            result = runner.invoke(app, [*words, "--help"])
            assert result.exit_code == 0 and "Usage" in result.output, (words, result.output)
        print(len(seen))
    """)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 15


def loaded_by(module: str) -> set[str]:
    """The top packages that a fresh Python has loaded after ``import module`` and had not before."""
    code = f"import sys; had = set(sys.modules); import {module}; print(*set(sys.modules) - had)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = done.stdout.split()
    assert module in names
    return {name.split(".")[0] for name in names}


def test_importing_kit_does_no_work() -> None:
    assert loaded_by("kit") - sys.stdlib_module_names == {"kit"}


def test_the_command_line_starts_without_heavy_packages() -> None:
    """``kit --help`` must not wait for numpy, pydantic or httpx."""
    loaded = loaded_by("kit.cli")
    assert "typer" in loaded and not loaded & {"numpy", "pydantic", "httpx", "torch"}
