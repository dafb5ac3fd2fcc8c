from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import synthetic

from kit import store
from kit.errors import BadRecord, StorageError, UsageError
from kit.records import Artifact, FileRef, MeasureSettings


def test_canonical_json_does_not_depend_on_order() -> None:
    assert store.canonical_json({"b": 1, "a": [1.5, "é"]}) == '{"a":[1.5,"é"],"b":1}'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.canonical_json({"a": float("nan")})


def test_atomic_write_replaces_whole_files_and_leaves_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.json"
    store.write_atomic(path, b"one")
    store.write_atomic(path, b"two")
    assert path.read_bytes() == b"two" and os.listdir(path.parent) == ["x.json"]


def test_a_failed_write_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    store.write_atomic(path, b'{"old": 1}\n')

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="disk is full"):
        store.write_atomic(path, b"new")
    assert path.read_bytes() == b'{"old": 1}\n' and os.listdir(tmp_path) == ["x"]
    with pytest.raises(StorageError, match="disk is full"):
        store.append_line(path, {"a": 1})
    assert path.read_bytes() == b'{"old": 1}\n'


def test_a_write_is_a_flushed_file_next_to_the_target_that_is_renamed_onto_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step the target holds its old content whole; the last step is one rename inside its folder."""
    path, steps = tmp_path / "x.json", []
    store.write_atomic(path, b"old")
    sync, rename = os.fsync, Path.replace

    def synced(handle: int) -> None:
        file = Path(f"/proc/self/fd/{handle}").resolve()
        steps.append(("sync", file, file.read_bytes(), path.read_bytes()))
        sync(handle)

    def renamed(one: Path, other: Path) -> Path:
        steps.append(("rename", one, one.read_bytes(), path.read_bytes()))
        assert other == path
        return rename(one, other)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    store.write_atomic(path, b"new")
    (first, temporary, *_), (last, source, *_) = steps
    assert (first, last) == ("sync", "rename") and temporary == source
    assert source.parent == path.parent and source != path and source.name.startswith(".")  # readers of folders skip it
    assert all(written == b"new" and before == b"old" for _, _, written, before in steps)
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == 0o644 and os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize("step", ["write", "fsync", "chmod", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "broken"), KeyboardInterrupt()])
def test_a_write_that_ends_at_any_step_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    path = tmp_path / "x.json"
    store.write_atomic(path, b"old")

    def end(*_: object, **__: object) -> None:
        raise error

    class Half(io.FileIO):
        def write(self, data: Any) -> int:
            super().write(bytes(data)[:1])
            raise error

    owner, name = {"write": (os, "fdopen"), "fsync": (os, "fsync")}.get(step, (Path, step))
    monkeypatch.setattr(owner, name, Half if step == "write" else end)
    with pytest.raises((StorageError, KeyboardInterrupt)):
        store.write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["x.json"]


WRITER = """
import sys
from pathlib import Path
from kit import store
path, size = Path(sys.argv[1]), int(sys.argv[2])
for i in range(10**6):
    store.write_atomic(path, bytes([65 + i % 26]) * size)
    if i == 0:
        print("writing", flush=True)
"""


def test_readers_and_a_kill_see_whole_files_only(tmp_path: Path) -> None:
    """A process that writes again and again is read meanwhile, then killed: every content is one write, whole."""
    path, size = tmp_path / "x", 1 << 20
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(size)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == "writing\n"
        contents = [path.read_bytes() for _ in range(30)]
        child.kill()
    for content in [*contents, path.read_bytes()]:
        assert len(content) == size and content == content[:1] * size


def test_a_torn_last_line_is_skipped_then_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    store.append_line(path, {"n": 1})
    with path.open("ab") as file:
        file.write(b'{"n": 2, "torn')
    assert [data for _, data in store.read_lines(path)] == [{"n": 1}]
    store.append_line(path, {"n": 3})
    assert [data["n"] for _, data in store.read_lines(path)] == [1, 3]


def test_a_last_line_that_lacks_only_its_newline_stays(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"n": 1}\n{"n": 2}')
    store.append_line(path, {"n": 3})
    assert [data["n"] for _, data in store.read_lines(path)] == [1, 2, 3]


def test_a_broken_line_inside_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"n": 1}\nnonsense\n{"n": 2}\n')
    with pytest.raises(BadRecord, match="x.jsonl:2 is not JSON"):
        store.read_lines(path)


def test_reading_profiles_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        store.read_profiles([tmp_path / "none.jsonl"])
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(BadRecord, match="empty profile"):
        store.read_profiles([tmp_path / "empty.jsonl"])
    (tmp_path / "sub").mkdir()
    with pytest.raises(BadRecord, match=r"no \.jsonl profile"):
        store.read_profiles([tmp_path / "sub"])
    (tmp_path / "text.jsonl").write_text("hello")
    with pytest.raises(BadRecord, match="not JSON lines"):
        store.read_profiles([tmp_path / "text.jsonl"])
    store.append_line(tmp_path / "other.jsonl", synthetic.artifact())
    with pytest.raises(BadRecord, match="kind 'artifact'"):
        store.read_profiles([tmp_path / "other.jsonl"])


def test_profiles_read_back_from_a_folder(tmp_path: Path) -> None:
    profile = synthetic.profile()
    store.append_line(tmp_path / "dev" / "a.jsonl", profile)
    (tmp_path / "dev" / ".hidden.jsonl").write_text("not a profile")
    assert store.read_profiles([tmp_path]) == [profile]


def test_the_newest_record_comes_last_whatever_its_file_is_called(tmp_path: Path) -> None:
    new = synthetic.profile().model_copy(update={"created_utc": "2027-01-01T00:00:00.000000Z"})
    store.append_line(tmp_path / "a.jsonl", new)
    store.append_line(tmp_path / "z.jsonl", synthetic.profile())
    assert store.read_profiles([tmp_path])[-1] == new


def test_of_each_operating_point_one_record_decides() -> None:
    """The newest trusted one, else the newest; another point, backend, device or file is another question."""
    points = [
        MeasureSettings(),
        MeasureSettings(gap_s=0.01),
        MeasureSettings(threads=2),
        MeasureSettings(backend="pytorch"),
    ]
    old = [synthetic.profile("net", 0.01 * i, settings=p) for i, p in enumerate(points, 1)]
    new = [synthetic.profile("net", 0.02 * i, settings=p) for i, p in enumerate(points, 1)]
    noisy = [synthetic.profile("net", 0.05, settings=p, label="inconclusive") for p in points]
    others = [synthetic.profile("other"), synthetic.profile("net", on=synthetic.device("elsewhere"))]
    assert store.decisive([*old, *new, *others, *noisy]) == [*new, *others]
    assert store.decisive([noisy[0], noisy[0].model_copy(update={"label": "throttled"})])[0].label == "throttled"


def test_how_long_a_point_was_measured_is_no_other_point() -> None:
    short = synthetic.profile("net", settings=MeasureSettings(run_s=0.1, seed=5))
    assert store.decisive([synthetic.profile("net"), short]) == [short]


def test_a_special_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UsageError, match="no regular file"):
        store.write_atomic(tmp_path / "fifo", b"x")


def test_a_record_where_a_folder_lies(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="folder where a file"):
        store.read_record(tmp_path, Artifact)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is, or lies under, a file"):
        store.make_folder(tmp_path / "file" / "sub")


def test_slug() -> None:
    assert store.slug("AMD EPYC (2 cores)") == "amd-epyc-2-cores"
    assert store.slug("../..") == "unnamed"


# ------------------------------------------------------------------------------------------------------ locks and hashes


def test_a_locked_folder_has_one_holder_and_is_free_after_a_kill(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    holder = f"""
import os, time
from pathlib import Path
from kit import store
with store.locked(Path({str(folder)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(StorageError, match=r"^busy: wait\.$"), store.locked(folder, "busy: wait."):
            pass
        process.kill()
    with store.locked(folder, "busy: wait."), pytest.raises(StorageError, match="again"), store.locked(folder, "again"):
        pass
    with store.locked(folder):
        assert [path.name for path in folder.iterdir()] == [".lock"]


def test_a_file_matches_when_size_and_hash_are_as_named(tmp_path: Path) -> None:
    path = tmp_path / "x"
    ref = FileRef(file="x", sha256=store.sha256_bytes(b"content"), size_bytes=7)
    assert not store.file_matches(path, ref)
    for data, matches in ((b"content", True), (b"Content", False), (b"content!", False)):
        path.write_bytes(data)
        assert store.file_matches(path, ref) is matches


def test_a_file_and_what_a_record_keeps_of_it(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"model")
    ref = store.file_ref(path)
    assert (ref.file, ref.size_bytes) == ("net.onnx", 5) and store.file_matches(path, ref)
    path.write_bytes(b"moddl")
    assert not store.file_matches(path, ref) and not store.file_matches(tmp_path / "none", ref)
    (tmp_path / ".net").touch()
    with pytest.raises(UsageError, match="rename it"):
        store.file_ref(tmp_path / ".net")
    with pytest.raises(UsageError, match="does not exist"):
        store.file_ref(tmp_path / "none")


def test_only_json_of_kits_own_kind_is_of_it(tmp_path: Path) -> None:
    for number, text in enumerate(('{"labels": []}', "no JSON", "[1]", '{"kind": "manifest"}', '{"kind": "artifact"}')):
        (tmp_path / str(number)).write_text(text)
    assert [store.is_of_kind(tmp_path / str(n), "artifact") for n in range(6)] == [False] * 4 + [True, False]


def test_a_file_with_the_longest_name_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    store.write_atomic(path, b"data")
    assert path.read_bytes() == b"data" and [p.name for p in tmp_path.iterdir()] == [path.name]
