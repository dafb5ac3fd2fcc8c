"""A library that lies in order to run code on the device: what is unpickled here would leave a marker, and none ever appears."""

from __future__ import annotations

import builtins
import json
import pickle
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library_case import choose, make_promise
from typer.testing import CliRunner

from kit import backends, delivery, store, trust
from kit.backends import onnxdata
from kit.cli import app
from kit.errors import IntegrityError, KitError, UntrustedPackage
from kit.library import oci, package, server, swap
from kit.measure.targets import resolve
from kit.records import Answer, Artifact, FileRef, InstallReceipt, Manifest, Need

NAME = "resnet18-d2-w1.00-fp32-32"
FAST = ("--rounds-min", "1", "--rounds-max", "1", "--run-s", "0.02")


class Payload:
    """Unpickling it makes the file ``marker``."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return builtins.open, (str(self.marker), "x")


class Attacker:
    """A folder of files that the attacker made, and the package that he tells of them."""

    def __init__(self, build: Path, root: Path) -> None:
        self.folder, self.marker = root / "evil", root / "marker"
        self.folder.mkdir()
        for file in (f"{NAME}.onnx", f"{NAME}.sample.npz"):
            shutil.copy(build / file, self.folder)
        honest = store.read_record(build / f"{NAME}.json", Artifact).model_copy(update={"torch_program": None})
        self.artifact = self.sidecar = honest
        self.others: list[FileRef] = []
        self.backend = self.promised = "onnxruntime"
        self._poison(build / f"{NAME}.pt2", self.folder / f"{NAME}.pt2")

    def _poison(self, program: Path, to: Path) -> None:
        """A torch.export archive whose weights are pickles."""
        with zipfile.ZipFile(program) as read, zipfile.ZipFile(to, "w") as write:
            for name in read.namelist():
                data = read.read(name)
                if name.endswith("weights_config.json"):
                    config = json.loads(data)
                    for weight in config["config"].values():
                        weight["use_pickle"] = True
                    data = json.dumps(config).encode()
                elif "/weights/" in name:
                    data = self.pickled()
                write.writestr(name, data)

    def pickled(self) -> bytes:
        return pickle.dumps(Payload(self.marker))

    def ref(self, file: str) -> FileRef:
        data = (self.folder / file).read_bytes()
        return FileRef(file=file, sha256=store.sha256_bytes(data), size_bytes=len(data))

    def put(self, file: str, data: bytes) -> FileRef:
        (self.folder / file).write_bytes(data)
        return self.ref(file)

    def name_program(
        self, file: str = f"{NAME}.pt2", *, manifest: bool = True, sidecar: bool = True, library_copy: bool = True
    ) -> None:
        """Name ``file`` as the torch program in the manifest and in the sidecar, and hold it among the package's files."""
        update = {"torch_program": self.ref(file)}
        if manifest:
            self.artifact = self.artifact.model_copy(update=update)
        if sidecar:
            self.sidecar = self.sidecar.model_copy(update=update)
        if library_copy:
            self.others.append(self.ref(file))

    def both(self, **update: Any) -> None:
        self.artifact = self.sidecar = self.artifact.model_copy(update=update)

    def manifest(self) -> Manifest:
        sidecar = self.put(oci.sidecar_name(self.artifact), store.pretty_json(self.sidecar).encode())
        files = [self.ref(self.artifact.model.file), sidecar, *self.others]
        files += [self.artifact.sample] if self.artifact.sample else []
        return Manifest(
            name=NAME,
            created_utc=store.utc_now(),
            kit_version="0",
            artifact=self.artifact,
            files=tuple(files),
            promises=(make_promise().model_copy(update={"backend": self.promised}),),
        )

    def answer(self, manifest: Manifest) -> Answer:
        answer = choose([manifest], Need())
        assert answer.chosen is not None
        return answer.model_copy(update={"chosen": answer.chosen.model_copy(update={"backend": self.backend})})

    @contextmanager
    def serving(self) -> Iterator[str]:
        """A server of the attacker's own: it tells the truth about every hash, and checks nothing."""
        manifest = self.manifest()
        image, config = oci.image_of(manifest)
        files = [(self.folder / f.file).read_bytes() for f in manifest.files]
        replies = {f"/v2/{NAME}/blobs/sha256:{store.sha256_bytes(data)}": data for data in (config, *files)}
        replies[f"/v2/{NAME}/manifests/sha256:{store.sha256_bytes(image)}"] = image
        reply = {"package": NAME, "manifest_digest": f"sha256:{store.sha256_bytes(image)}"}
        choice = json.dumps({**reply, "answer": self.answer(manifest).model_dump(mode="json")}).encode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(replies[self.path])

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.reply(choice)

            def reply(self, data: bytes) -> None:
                self.send_response(200)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
            thread = threading.Thread(target=listener.serve_forever, daemon=True)
            thread.start()
            try:
                yield f"http://127.0.0.1:{listener.server_port}"
            finally:
                listener.shutdown()
                thread.join()

    def installed(self, to: Path) -> Path:
        """What an older kit, which checked nothing of this, would have installed in ``to``."""
        manifest = self.manifest()
        digest = f"sha256:{store.sha256_bytes(oci.image_of(manifest)[0])}"
        staged = swap.stage(to, digest)
        for ref in manifest.files:
            shutil.copy(self.folder / ref.file, staged)
        receipt = InstallReceipt(
            package=NAME,
            manifest_digest=digest,
            source="http://old.example",
            installed_utc=store.utc_now(),
            bytes_downloaded=1,
            download_s=1.0,
            checked="nothing",
        )
        folder = swap.install(to, staged, receipt, manifest)
        swap.point(to, folder)
        return folder


@pytest.fixture
def attacker(tiny_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Attacker]:
    monkeypatch.chdir(tmp_path)
    attacker = Attacker(tiny_build, tmp_path)
    yield attacker
    assert not attacker.marker.exists(), "code of the package ran here"


def refused(*words: object) -> KitError:
    """The refusal of a verb: exit code 1, one printable sentence."""
    completed = CliRunner().invoke(app, [str(w) for w in words])
    assert isinstance(completed.exception, KitError), completed.output
    assert completed.exception.exit_code == 1, completed.exception
    assert str(completed.exception).isprintable()
    return completed.exception


def test_the_payload_is_real(attacker: Attacker) -> None:
    """Without this the others would prove nothing: PyTorch runs what the program says, whatever its name ends in."""
    torch = pytest.importorskip("torch")
    for file in (f"{NAME}.pt2", "x.onnx"):
        shutil.copy(attacker.folder / f"{NAME}.pt2", attacker.folder / "x.onnx")
        with pytest.raises(RuntimeError) as caught:
            torch.export.load(attacker.folder / file)
        assert attacker.marker.exists(), caught
        attacker.marker.unlink()


# ---------------------------------------------------------------------------------------------------------------- pulling


def evil_pt2(a: Attacker) -> None:
    a.name_program()
    a.backend = a.promised = "pytorch"


def evil_row(backend: str) -> Any:
    def change(a: Attacker) -> None:
        a.backend = backend

    return change


def only_manifest_names_it(a: Attacker) -> None:
    a.name_program(sidecar=False)


def only_sidecar_names_it(a: Attacker) -> None:
    a.name_program(manifest=False)


def sidecar_names_a_file_of_an_earlier_pull(a: Attacker) -> None:
    a.name_program(manifest=False, library_copy=False)


def model_is_the_program(a: Attacker) -> None:
    shutil.copy(a.folder / f"{NAME}.pt2", a.folder / f"{NAME}.onnx")
    a.both(model=a.ref(f"{NAME}.onnx"))


def model_is_the_program_and_nothing_to_compare(a: Attacker) -> None:
    model_is_the_program(a)
    a.both(sample=None)


def sidecar_calls_the_model_a_program(a: Attacker) -> None:
    model_is_the_program(a)
    a.name_program(f"{NAME}.onnx", manifest=False, library_copy=False)


def model_of_another_name(a: Attacker) -> None:
    shutil.copy(a.folder / f"{NAME}.pt2", a.folder / f"{NAME}.pt2.bin")
    a.both(model=a.ref(f"{NAME}.pt2.bin"))


def one_more_file(file: str) -> Any:
    def change(a: Attacker) -> None:
        a.others.append(a.put(file, a.pickled()))

    return change


def sample_that_is_a_pickle(a: Attacker) -> None:
    a.both(sample=a.put(f"{NAME}.sample.npz", a.pickled()))


def sample_of_objects(a: Attacker) -> None:
    objects = np.empty(1, object)
    objects[0] = Payload(a.marker)
    np.savez(a.folder / f"{NAME}.sample.npz", input=objects, output=objects)
    a.both(sample=a.ref(f"{NAME}.sample.npz"))


def sample_that_is_one_array(a: Attacker) -> None:
    with (a.folder / "x.npy").open("wb") as file:
        np.save(file, np.zeros(3))
    a.both(sample=a.put(f"{NAME}.sample.npz", (a.folder / "x.npy").read_bytes()))


def sample_of_another_name(a: Attacker) -> None:
    a.both(sample=a.put(f"{NAME}.pkl", a.pickled()))


def model_with_a_compiled_part(a: Attacker) -> None:
    """An operator that onnxruntime's TensorRT and OpenVINO providers hand to their runtime as it is, inside a branch of an If."""
    helper = pytest.importorskip("onnx.helper")
    x, y, b = (helper.make_tensor_value_info(n, t, s) for n, t, s in (("x", 1, [1, 4]), ("y", 1, [1, 4]), ("b", 9, [])))
    engine = helper.make_node(
        "EPContext", ["x"], ["y"], domain="com.microsoft", embed_mode=1, ep_cache_context=b"\x7fELF"
    )
    branch = helper.make_graph([engine], "branch", [], [y])
    choice = helper.make_node("If", ["b"], ["y"], then_branch=branch, else_branch=branch)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph([choice], "g", [x, b], [y]), opset_imports=opsets)
    a.both(model=a.put(f"{NAME}.onnx", model.SerializeToString()), sample=None)


FORGED = [
    (evil_pt2, "backend 'pytorch'"),
    (evil_row("pytorch"), "backend 'pytorch'"),
    (evil_row("pytorch-compile"), "backend 'pytorch-compile'"),
    (evil_row("pytorch-cudagraphs"), "backend 'pytorch-cudagraphs'"),
    (evil_row("allocator"), "backend 'allocator'"),
    (evil_row("fake"), "backend 'fake'"),
    (evil_row("onnxruntime\x1b[2J\nx"), "backend 'onnxruntime"),
    (evil_row("tensorrt"), "is for backend tensorrt and onnxruntime was requested"),
    (only_manifest_names_it, rf"'{NAME}\.pt2'\), and a package holds no programs"),
    (only_sidecar_names_it, r"\.pt2'\), and a package holds no programs"),
    (sidecar_names_a_file_of_an_earlier_pull, "describes another network than the manifest"),
    (model_is_the_program, "is no ONNX model"),
    (model_is_the_program_and_nothing_to_compare, "is no ONNX model"),
    (sidecar_calls_the_model_a_program, "describes another network than the manifest"),
    (model_of_another_name, "a package holds no programs"),
    (one_more_file("libevil.so"), "'libevil.so'"),
    (one_more_file("net.engine"), "'net.engine'"),
    (one_more_file("other.onnx"), "'other.onnx'"),
    (one_more_file("x.alloc.npz"), "'x.alloc.npz'"),
    (one_more_file("sitecustomize.py"), "'sitecustomize.py'"),
    (sample_that_is_a_pickle, "no sample of plain numbers"),
    (sample_of_objects, "no sample of plain numbers"),
    (sample_that_is_one_array, "no sample of plain numbers"),
    (sample_of_another_name, "a package holds no programs"),
    (model_with_a_compiled_part, "compiled elsewhere"),
]


@pytest.mark.parametrize(("change", "words"), FORGED)
def test_pull_installs_nothing_of_a_forged_package(attacker: Attacker, tmp_path: Path, change: Any, words: str) -> None:
    to = tmp_path / "device"
    before = attacker.installed(to)  # an honest one
    files = {p.name: p.read_bytes() for p in before.iterdir()}
    change(attacker)
    with attacker.serving() as url:
        error = refused("pull", url, "--to", to)
    assert error.__class__ in (UntrustedPackage, IntegrityError)
    with pytest.raises(IntegrityError, match=words):
        raise error
    assert swap.current(to) == before
    assert {p.name: p.read_bytes() for p in before.iterdir()} == files
    assert [p.name for p in to.iterdir() if p.is_dir() and p.name not in (before.name, "current")] in ([], [".staging"])
    assert not list(to.rglob(".staging/*/*"))


def test_pull_as_a_process(attacker: Attacker, tmp_path: Path) -> None:
    """The whole way of the attack: exit code 1, one sentence, nothing installed, also when the device asks for PyTorch."""
    evil_pt2(attacker)
    for options in ((), ("--backend", "pytorch")):
        with attacker.serving() as url:
            words = [sys.executable, "-m", "kit", "pull", url, "--to", "device", *options]
            completed = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert completed.returncode == 1
        assert completed.stdout == "" and completed.stderr.startswith("kit: The choice of http://127.0.0.1:")
        assert len(completed.stderr.splitlines()) == 1
        assert not (tmp_path / "device").exists()


def test_an_honest_package_is_installed_and_measured(attacker: Attacker, tmp_path: Path) -> None:
    with attacker.serving() as url:
        completed = CliRunner().invoke(app, ["pull", url, "--to", "device", "--no-measure", "--json"])
    assert completed.exit_code == 0, completed.output
    current = tmp_path / "device/current"
    assert {p.suffix for p in current.iterdir()} == {".onnx", ".json", ".npz"}
    completed = CliRunner().invoke(app, ["profile", str(current), *FAST, "--json"])
    assert completed.exit_code == 0, completed.output


# -------------------------------------------------------------------------------------------------------- the server's side


def test_a_server_serves_no_forged_package(attacker: Attacker, tmp_path: Path) -> None:
    """What a client refuses, a server of this kit does not hand out either: one law for both."""
    attacker.name_program()
    manifest, lib = attacker.manifest(), tmp_path / "lib"
    package.add(lib, tmp_path, [], {})
    for ref in manifest.files:
        shutil.copy(attacker.folder / ref.file, package.blob_path(lib, f"sha256:{ref.sha256}"))
    package._write_index(lib, {NAME: package._write_image(lib, manifest)})
    for read in (package.read_packages, lambda at: server.make_app(at, delivery.choose)):
        with pytest.raises(UntrustedPackage, match="holds no programs"):
            read(lib)


def test_a_choice_for_another_runtime_is_not_served(attacker: Attacker, tiny_build: Path, tmp_path: Path) -> None:
    httpx = pytest.importorskip("httpx")
    artifact = store.read_record(tiny_build / f"{NAME}.json", Artifact)
    package.add(tmp_path / "lib", tiny_build, [artifact], {NAME: [make_promise()]})
    attacker.backend = "pytorch"
    with server.running(tmp_path / "lib", lambda packages, need: attacker.answer(packages[0])) as url:
        reply = httpx.post(f"{url}/v1/choose", json={})
    assert (reply.status_code, reply.json()["code"]) == (404, "not_packaged")


def test_add_leaves_the_program_at_home(attacker: Attacker, tiny_build: Path, tmp_path: Path) -> None:
    artifact = store.read_record(tiny_build / f"{NAME}.json", Artifact)
    assert artifact.torch_program is not None
    (manifest,) = package.add(tmp_path / "lib", tiny_build, [artifact], {NAME: [make_promise()]})
    assert manifest.artifact == artifact.model_copy(update={"torch_program": None})
    sidecar = package.blob_path(tmp_path / "lib", f"sha256:{manifest.files[1].sha256}")
    assert store.read_record(sidecar, Artifact) == manifest.artifact
    wrong = make_promise().model_copy(update={"backend": "pytorch"})
    with pytest.raises(UntrustedPackage, match="backend 'pytorch'"):
        package.add(tmp_path / "lib", tiny_build, [artifact], {NAME: [wrong]})
    assert package.read_packages(tmp_path / "lib") == [manifest]


# ------------------------------------------------------------------------------------------------------ an earlier install


@pytest.fixture
def old(attacker: Attacker, tmp_path: Path) -> Path:
    """A forged package that an older kit installed."""
    attacker.name_program()
    attacker.backend = attacker.promised = "pytorch"
    return attacker.installed(tmp_path / "device")


@pytest.mark.parametrize("verb", ["profile", "scenario"])
@pytest.mark.parametrize("backend", ["pytorch", "pytorch-compile"])
def test_no_verb_loads_a_program_of_an_install(old: Path, tmp_path: Path, verb: str, backend: str) -> None:
    link = tmp_path / "link.onnx"
    link.symlink_to(old / f"{NAME}.onnx")
    (tmp_path / "link.json").write_text((old / f"{NAME}.json").read_text())
    for target in (
        old,
        old.parent / "current",
        old / f"{NAME}.onnx",
        Path("device") / "current" / f"{NAME}.onnx",
        link,
    ):
        error = refused(verb, target, "--backend", backend)
        assert isinstance(error, UntrustedPackage) and "was installed by kit pull" in str(error), error
    assert isinstance(refused(verb, NAME, "--build", old, "--backend", backend), UntrustedPackage)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_an_install_on_its_way_or_with_a_broken_receipt_is_one(old: Path, attacker: Attacker, tmp_path: Path) -> None:
    staged = tmp_path / "other/.staging/0123"
    shutil.copytree(old, staged)
    (staged / trust.RECEIPT_FILE).unlink()
    (old / trust.RECEIPT_FILE).write_text("{")
    for folder in (staged, old):
        assert isinstance(refused("profile", folder, "--backend", "pytorch"), UntrustedPackage)


def test_whoever_opens_a_network_refuses_it(old: Path, tmp_path: Path) -> None:
    """The last door, for callers that never resolved a target: also a program that a link leads to."""
    artifact = store.read_record(old / f"{NAME}.json", Artifact)
    with pytest.raises(UntrustedPackage):
        backends.load("pytorch").open(old / f"{NAME}.onnx", artifact, 1)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / f"{NAME}.pt2").symlink_to(old / f"{NAME}.pt2")
    shutil.copy(old / f"{NAME}.onnx", mine)
    with pytest.raises(UntrustedPackage):
        backends.load("pytorch").open(mine / f"{NAME}.onnx", artifact, 1)


def test_pull_of_what_an_older_kit_installed(old: Path, attacker: Attacker) -> None:
    """It lies there whole and nothing would be downloaded: it is judged all the same."""
    for backend in ("pytorch", "onnxruntime"):
        attacker.backend = backend
        with attacker.serving() as url:
            assert isinstance(refused("pull", url, "--to", old.parent), UntrustedPackage)


def test_an_old_install_is_still_measured_as_an_onnx_model(old: Path) -> None:
    completed = CliRunner().invoke(app, ["profile", str(old), *FAST, "--json"])
    assert completed.exit_code == 0, completed.output


def test_an_old_install_with_a_compiled_part(attacker: Attacker, tmp_path: Path) -> None:
    model_with_a_compiled_part(attacker)
    folder = attacker.installed(tmp_path / "device")
    assert "compiled elsewhere" in str(refused("profile", folder))
    (folder / f"{NAME}.json").unlink()
    assert "compiled elsewhere" in str(refused("profile", folder / f"{NAME}.onnx"))


# ---------------------------------------------------------------------------------------------------------------- the rule


def test_every_backend_is_listed_or_refused() -> None:
    """A new backend is refused for installs until somebody says that it reads the ONNX file and nothing beside it."""
    of_onnx = {"kit.backends.onnxrt", "kit.backends.openvino_rt", "kit.backends.tensorrt_rt"}
    assert {name for name, leaf in backends.LEAVES.items() if leaf.module in of_onnx} == trust.ONNX_BACKENDS


def test_folders_that_are_no_install(tiny_build: Path, tmp_path: Path) -> None:
    """A build of one's own runs in PyTorch as before, also beside the sidecar of a network that is called install."""
    for file in tiny_build.glob(f"{NAME}.*"):
        shutil.copy(file, tmp_path)
    artifact = store.read_record(tmp_path / f"{NAME}.json", Artifact)
    store.write_record(tmp_path / trust.RECEIPT_FILE, artifact.model_copy(update={"artifact_id": "install"}))
    assert trust.install_of(tmp_path / f"{NAME}.onnx") is None
    assert trust.install_of(tmp_path / "not there") is None
    assert [t.artifact for t in resolve([str(tmp_path / f"{NAME}.onnx")], backend="pytorch")] == [artifact]
    onnxdata.refuse_programs(tmp_path / f"{NAME}.onnx")


def test_a_model_does_not_configure_its_own_session(tiny_build: Path, tmp_path: Path) -> None:
    """onnxruntime can be told by the environment to take options from the file: threads, and a trace written beside it."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(tiny_build / f"{NAME}.onnx")
    entry = model.metadata_props.add()
    entry.key, entry.value = (
        "ort_config",
        json.dumps({"session_options": {"intra_op_num_threads": 7, "enable_profiling": 1}}),
    )
    onnx.save(model, tmp_path / "x.onnx")
    script = """
from pathlib import Path
from kit import backends
session = backends.load("onnxruntime").open(Path("x.onnx"), None, 1)
print(session._session.get_session_options().intra_op_num_threads)
"""
    environment = {"ORT_LOAD_CONFIG_FROM_MODEL": "1", "PYTHONPATH": str(Path(backends.__file__).parents[2])}
    completed = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert completed.stdout.split() == ["1"]
    assert [p.name for p in tmp_path.iterdir()] == ["x.onnx"]
