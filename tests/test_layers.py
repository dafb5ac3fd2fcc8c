"""The layers: imports go only down, nothing outgrows its size, and what belongs on a board runs without the training tools.

The table is docs/architecture.md's; change both together, with the reason.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

KIT = Path(__file__).parent.parent / "kit"
_LOADER = SourceFileLoader("import_graph", str(KIT.parent / "scripts" / "import-graph"))
GRAPH = module_from_spec(spec_from_loader("import_graph", _LOADER))  # type: ignore[arg-type]
_LOADER.exec_module(GRAPH)
modules = lru_cache(GRAPH.modules)  # name -> file

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
    "kit.usercode": (0, set()),
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
    "kit.evaluation": (2, {"numpy", "PIL"}),
    "kit.early_exit": (2, {"numpy"}),
    "kit.split": (2, set()),
    "kit.latency": (2, {"numpy", "pydantic", "scipy", "sklearn", "threadpoolctl"}),
    "kit.knowledge": (2, {"numpy"}),
    "kit.nets": (3, {"torch", "torchvision", "numpy", "onnx", "onnx_ir"}),
    "kit.variants": (
        3,
        {
            "torch",
            "torchvision",
            "torch_pruning",
            "timm",
            "safetensors",
            "onnx",
            "onnxruntime",
            "onnxscript",
            "sklearn",
            "numpy",
            "google",
        },
    ),
    "kit.report": (3, {"numpy", "plotly"}),
    "kit.papers": (
        3,
        {"numpy", "scipy", "gymnasium", "stable_baselines3", "torch", "pydantic", "pygad", "onnxruntime"},
    ),
    "kit.delivery": (2, set()),
    "kit.api": (4, {"torch"}),
    "kit.cli": (5, {"typer", "rich", "numpy", "psutil", "pydantic"}),
}
#: Packages that do not know each other. nets are the families: the training tools and the papers both train them.
APART = [({"measure", "devices", "backends"}, {"library"}), ({"variants"}, {"papers"})]
BLOCKED = ("torch", "torchvision", "onnx", "tensorrt", "gymnasium", "scipy")
#: What a board runs: packages, each less the modules that it does without (other runtimes, the server, fitting, training).
BOARD: dict[str, str] = {
    "kit.__main__": "",
    "kit.allocators": "compiled vector_code",
    "kit.api": "",
    "kit.backends": "openvino_rt pytorch tensorrt_rt",
    "kit.cli": "",
    "kit.delivery": "",
    "kit.devices": "",
    "kit.errors": "",
    "kit.evaluation": "",
    "kit.folders": "",
    "kit.knowledge": "",
    "kit.latency": "baselines fitting selection training",
    "kit.library": "server",
    "kit.measure": "",
    "kit.nets": "allocator exits export resnet stages vgg vit",
    "kit.packed": "",
    "kit.papers.placement": "agents bound compared environment experiment figures options own simulate study",
    "kit.records": "",
    "kit.spaces": "",
    "kit.stats": "",
    "kit.store": "",
    "kit.trust": "",
    "kit.units": "",
    "kit.usercode": "",
    "kit.versions": "",
}
#: Modules of fewer than 30 lines, and why each is one; a package's face may be short.
SHORT = {
    "kit.__main__": "python -m kit",
    "kit.latency.kernels": "where kernels come from: models, fits and searches ask, none of them owns the answer",
    "kit.papers.streams": "the one source of random numbers",
}


def on_board(module: str) -> bool:
    package = max((p for p in BOARD if module == p or module.startswith(f"{p}.")), key=len, default=None)
    return package is not None and module.removeprefix(f"{package}.") not in BOARD[package].split()


def layer_of(module: str) -> tuple[int, set[str]]:
    parts = module.split(".")
    for end in range(len(parts), 1, -1):
        if (name := ".".join(parts[:end])) in LAYERS:
            return LAYERS[name]
    assert module == "kit", f"{module} belongs to no layer: add it to docs/architecture.md and to this table"
    return LAYERS["kit"]


@pytest.mark.parametrize("module", modules())
def test_imports_go_only_down(module: str) -> None:
    # kit itself names what its packages hold, for type checkers, and loads it when it is used: test_importing_kit_does_no_work.
    layer, allowed = (max(level for level, _ in LAYERS.values()), set()) if module == "kit" else layer_of(module)
    for name in sorted(GRAPH.imported(modules()[module], modules())):
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


LINES_OF_A_MODULE, LINES_OF_A_VERB, LINES_OF_A_SHORT_MODULE = 600, 40, 30


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


def test_short_modules_have_a_reason() -> None:
    short = {
        name
        for name, path in modules().items()
        if path.name != "__init__.py" and path.read_text().count("\n") < LINES_OF_A_SHORT_MODULE
    }
    assert short == set(SHORT)


def public(body: Iterable[ast.stmt], prefix: str = "") -> Iterator[tuple[str, bool]]:
    """(name, whether it has a docstring) of every public class, function and method."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            if any(isinstance(d, ast.Name) and d.id == "overload" for d in node.decorator_list):
                continue
            yield f"{prefix}{node.name}", ast.get_docstring(node) is not None
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{prefix}{node.name}.")


def test_public_names_have_docstrings() -> None:
    """95 of 100, methods counted."""
    names = {
        f"{m}.{name}": has for m, path in modules().items() for name, has in public(ast.parse(path.read_text()).body)
    }
    without = sorted(name for name, has in names.items() if not has)
    assert len(names) > 1500 and len(without) <= 0.05 * len(names), without


def test_the_figure_of_the_architecture_is_made_from_the_imports() -> None:
    done = subprocess.run(
        [sys.executable, KIT.parent / "scripts" / "import-graph", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_no_catch_all_modules() -> None:
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
    names = [m for m in modules() if on_board(m)]
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
