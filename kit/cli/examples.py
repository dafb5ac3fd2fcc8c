"""An example or two of every verb, the end of its ``--help``: tests/test_cli_help.py parses them all."""

from __future__ import annotations

import inspect

import typer

#: Verb -> command lines that it takes.
EXAMPLES: dict[str, tuple[str, ...]] = {
    "kit": ("kit run --quick", "kit profile model.onnx", "kit -v device"),
    "run": ("kit run --quick", "kit run --root vgg11 --out vgg"),
    "device": ("kit device", "kit device --json"),
    "device save": ("kit device save workbench",),
    "profile": (
        "kit profile model.onnx",
        "kit profile build --backend onnxruntime,openvino --budget 10m",
        "kit profile model.onnx --sweep threads=1,2 --sweep gap-ms=0,10",
    ),
    "explore": ("kit explore resnet18 --budget 10m", "kit explore resnet18 --until within10=0.99 --budget 1h,60"),
    "backends": ("kit backends",),
    "scenario": ("kit scenario model.onnx --kind server --bound-ms 20", "kit scenario model.onnx --kind offline"),
    "session": ("kit session",),
    "compare": ("kit compare before.jsonl after.jsonl --fail-slower 5",),
    "build": (
        "kit build resnet18",
        "kit build resnet20 --data cifar10.zip --out cifar",
        "kit build my_net.py:make --input 3x224x224 --data photos",
    ),
    "export": ("kit export resnet18 --resolution 224 --out models",),
    "describe": ("kit describe model.onnx",),
    "evaluate": (
        "kit evaluate model.onnx --data images.zip/test --mean 0.5 --std 0.25",
        "kit evaluate model.onnx --data mine.py:test_set --metric top5",
        "kit evaluate --from accuracies.csv models",
    ),
    "exits": ("kit exits build/exits/resnet18-w1.00-fp32-32.exits.json --loss 1",),
    "ladder": ("kit ladder build --precision fp32 --out ladder",),
    "split make": ("kit split make models/resnet18-224.onnx --data images.zip/test",),
    "split choose": ("kit split choose split/resnet18-224.split.json --uplink-mbps 5 --samples 100",),
    "robustness": (
        "kit robustness model.onnx --data images.zip/test --mean 0.5 --std 0.25",
        "kit robustness a.onnx b.onnx --data mine.py:test_set --ber 0,1e-3 --payload int8,int4",
    ),
    "fit": ("kit fit profiles --out model.json", "kit fit profiles --backend onnxruntime --plots fit.html"),
    "report": ("kit report profiles --out report.html",),
    "predict": ("kit predict resnet18-d2.2.2.2-w1.00-fp32-224 --model model.json",),
    "knowledge build": (
        "kit knowledge build profiles",
        "kit knowledge build profiles --model model.json --space resnet18 --accuracy accuracies.json",
    ),
    "knowledge ask": (
        "kit knowledge ask --deadline-ms 5",
        "kit knowledge ask --deadline-ms 50 --link-mbps 20 --min-accuracy 0.9",
    ),
    "knowledge explain": ("kit knowledge explain resnet18-d6-w0.50-int8-32 --deadline-ms 5",),
    "knowledge pareto": ("kit knowledge pareto --memory",),
    "knowledge compile": ("kit knowledge compile --out decisions.npz",),
    "knowledge table": ("kit knowledge table --family allocator_a --users 30",),
    "knowledge map": ("kit knowledge map --against memory --out decisions.html",),
    "library add": ("kit library add build --to library",),
    "library list": ("kit library list library",),
    "library serve": ("kit library serve library --port 8000",),
    "pull": ("kit pull http://server:8000 --deadline-ms 5 --to models",),
    "simulate bandwidth": ("kit simulate bandwidth --quick",),
    "simulate offloading": ("kit simulate offloading --quick --figure fig5",),
    "simulate placement": ("kit simulate placement --quick", "kit simulate placement --trace trace.jsonl --seeds 3"),
    "simulate downloading": ("kit simulate downloading --variants build",),
    "simulate trace": ("kit simulate trace --out trace.jsonl --slots 100 --rate 0.5",),
    "place": ("kit place --example", "kit place request.json --rule greedy_balanced"),
}


def epilog(verb: str) -> str:
    """The end of the verb's ``--help``: a line for each example."""
    return "\n\n".join(("[bold]Example[/]" if len(EXAMPLES[verb]) == 1 else "[bold]Examples[/]", *EXAMPLES[verb]))


def add_to(app: typer.Typer, group: str = "") -> None:
    """Give every registered verb its examples, and its docstring as paragraphs that fit any terminal."""
    for command in app.registered_commands:
        assert command.callback is not None
        name = group + (command.name or command.callback.__name__)
        command.epilog = epilog(name)
        # Once, for typer asks four times; get_type_hints of Python 3.10 would hide an option whose default is None.
        command.callback.__annotations__ = inspect.get_annotations(command.callback, eval_str=True)
        paragraphs = (command.callback.__doc__ or "").split("\n\n")
        command.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    for below in app.registered_groups:
        if isinstance(below.name, str) and below.typer_instance is not None:
            if below.name in EXAMPLES:
                below.epilog = epilog(below.name)
            add_to(below.typer_instance, f"{below.name} ")
