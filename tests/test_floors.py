"""The layers: imports go only down, nothing outgrows its size, and what belongs on a board runs without the training tools.

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

#: package or module -> (layer, third-party packages that it may import). A longer name beats a shorter one.
LAYERS: dict[str, tuple[int, set[str]]] = {
    "kit": (0, set()),
    "kit.__main__": (6, set()),
    "kit.errors": (0, set()),
    "kit.folders": (0, set()),
    "kit.packed": (0, {"numpy", "pydantic", "pydantic_core"}),
    "kit.records": (0, {"numpy", "pydantic"}),
    "kit.store": (0, {"numpy", "pydantic"}),
    "kit.stats": (0, {"numpy"}),
    "kit.trust": (0, set()),
    "kit.units": (0, set()),
    "kit.versions": (0, set()),
    "kit.devices": (1, {"numpy", "numba", "psutil", "pydantic", "pynvml", "tomli", "tomllib"}),
    "kit.measure": (1, {"numpy", "psutil", "pydantic"}),
    "kit.spaces": (1, {"numpy"}),
    "kit.allocators": (1, {"numpy", "pydantic", "numba", "llvmlite"}),
    "kit.backends": (1, {"numpy"}),
    "kit.backends.onnxrt": (1, {"numpy", "onnxruntime"}),
    "kit.backends.pytorch": (1, {"numpy", "torch"}),
    "kit.backends.openvino_rt": (1, {"numpy", "openvino"}),
    "kit.backends.tensorrt_rt": (1, {"numpy", "tensorrt"}),
    "kit.library": (1, {"httpx", "pydantic", "starlette", "uvicorn", "anyio"}),
    "kit.latency": (2, {"numpy", "pydantic", "scipy", "sklearn"}),
    "kit.knowledge": (2, {"numpy"}),
    "kit.nets": (3, {"torch", "torchvision", "numpy"}),
    "kit.variants": (
        3,
        {"torch", "torchvision", "torch_pruning", "onnx", "onnxruntime", "onnxscript", "sklearn", "numpy", "google"},
    ),
    "kit.report": (3, {"numpy", "plotly"}),
    "kit.papers": (
        3,
        {"numpy", "scipy", "gymnasium", "stable_baselines3", "torch", "pydantic", "pygad", "onnxruntime"},
    ),
    "kit.delivery": (2, set()),
    "kit.api": (4, {"pydantic", "torch"}),
    "kit.cli": (5, {"typer", "rich", "numpy", "psutil", "pydantic"}),
}
#: Packages that do not know each other. nets are the families: the training tools and the papers both train them.
APART = [({"measure", "devices", "backends"}, {"library"}), ({"variants"}, {"papers"})]
BLOCKED = ("torch", "torchvision", "onnx", "tensorrt", "gymnasium", "scipy")
#: What a board runs: whole packages, and of others the modules that it needs.
BOARD = (
    "kit",
    "kit.__main__",
    "kit.api",
    "kit.cli",
    "kit.errors",
    "kit.folders",
    "kit.packed",
    "kit.records",
    "kit.store",
    "kit.stats",
    "kit.trust",
    "kit.units",
    "kit.versions",
    "kit.delivery",
    "kit.devices",
    "kit.measure",
    "kit.spaces",
    "kit.allocators",
    "kit.backends",
    "kit.latency",
    "kit.knowledge",
    "kit.library",
    "kit.nets",
    "kit.papers.placement",
)
#: Modules of those packages that a board does without: another runtime each, the server, fitting and training.
NOT_ON_A_BOARD = {
    "kit.allocators.compiled",
    "kit.allocators.vector_code",
    "kit.backends.openvino_rt",
    "kit.backends.pytorch",
    "kit.backends.tensorrt_rt",
    "kit.latency.baselines",
    "kit.latency.fitting",
    "kit.latency.selection",
    "kit.latency.training",
    "kit.library.server",
    "kit.nets.allocator",
    "kit.nets.exits",
    "kit.nets.export",
    "kit.nets.resnet",
    "kit.nets.vgg",
    "kit.nets.vit",
    "kit.papers.placement.agents",
    "kit.papers.placement.bound",
    "kit.papers.placement.compared",
    "kit.papers.placement.environment",
    "kit.papers.placement.experiment",
    "kit.papers.placement.figures",
    "kit.papers.placement.simulate",
    "kit.papers.placement.options",
    "kit.papers.placement.own",
    "kit.papers.placement.study",
}


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(KIT.rglob("*.py")):
        name = ".".join(path.relative_to(KIT.parent).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def layer_of(module: str) -> tuple[int, set[str]]:
    parts = module.split(".")
    for end in range(len(parts), 1, -1):
        if (name := ".".join(parts[:end])) in LAYERS:
            return LAYERS[name]
    assert module == "kit", f"{module} belongs to no layer: add it to docs/architecture.md and to this table"
    return LAYERS["kit"]


def imports(module: str, path: Path) -> set[str]:
    """Every module that ``path`` imports anywhere, ``if TYPE_CHECKING`` included, as full names."""
    known, found = modules(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative imports hide the layer"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {n for n in names if n in known} or {node.module or ""}
    return found


@pytest.mark.parametrize("module", modules())
def test_imports_go_only_down(module: str) -> None:
    # kit itself names what its packages hold, for type checkers, and loads it when it is used: test_importing_kit_does_no_work.
    layer, allowed = (max(level for level, _ in LAYERS.values()), set()) if module == "kit" else layer_of(module)
    for name in sorted(imports(module, modules()[module])):
        top = name.split(".")[0]
        assert top not in {"bench", "tests", "scripts"}, f"{module} imports {name}"
        if top == "kit":
            assert layer_of(name)[0] <= layer, f"{module} (layer {layer}) imports {name} above it"
            mine, theirs = module.split(".")[1:2], name.split(".")[1:2]
            for one, other in APART:
                crossing = (set(mine) <= one and set(theirs) <= other) or (set(mine) <= other and set(theirs) <= one)
                assert not (mine and theirs and crossing), f"{module} and {name} must not know each other"
        elif top not in sys.stdlib_module_names:
            assert top in allowed, f"{module} imports {top}, which its layer does not allow"


#: What still grows too long or too wide, as file or file:function. To be emptied, not added to.
LINES_OF_A_MODULE, LINES_OF_A_VERB = 600, 40


def test_no_module_and_no_verb_outgrows_its_size() -> None:
    """Modules of 600 lines, functions of the command line of 40, signature included."""
    long = set()
    for path in modules().values():
        name, text = path.relative_to(KIT.parent).as_posix(), path.read_text()
        if text.count("\n") > LINES_OF_A_MODULE:
            long.add(name)
        if path.parent.name == "cli":
            functions = (n for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))
            long |= {f"{name}:{f.name}" for f in functions if (f.end_lineno or 0) - f.lineno + 1 > LINES_OF_A_VERB}
    assert not long, sorted(long)


def test_no_towers() -> None:
    banned = {"utils", "util", "common", "core", "manager", "base", "helpers", "misc"}
    assert not [m for m in modules() if banned & set(m.split("."))]


def blocked(code: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a process in which the training tools cannot be imported."""
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
def test_board_modules_import_without_the_training_tools() -> None:
    names = [
        m for m in modules() if any(m == b or m.startswith(f"{b}.") for b in BOARD[1:]) and m not in NOT_ON_A_BOARD
    ]
    done = blocked(f"""
        import importlib
        for name in {names!r}:
            importlib.import_module(name)
        heavy = sorted(set({BLOCKED!r}) & set(sys.modules))
        assert not heavy, heavy
    """)
    assert done.returncode == 0, done.stderr


@pytest.mark.board
def test_every_verb_answers_help_without_the_training_tools() -> None:
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
