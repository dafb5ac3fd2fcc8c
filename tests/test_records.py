from __future__ import annotations

import made
import pytest

from kit import records, store
from kit.errors import BadRecord, UnknownName, UsageError
from kit.records import Artifact, FileRef, KnowledgeBase, ProfileRecord, SubNetwork


@pytest.mark.parametrize("text", ["resnet18-d6-w0.50-int8-32", "vit_tiny-d12-w1.00-fp32-224", "vgg11-d8-w0.30-bf16-64"])
def test_sub_network_ids_read_back(text: str) -> None:
    assert SubNetwork.parse(text).id == text


@pytest.mark.parametrize(
    "text", ["resnet18", "resnet18-d6-w0.5-int8-32", "resnet18-d6-w0.50-int9-32", "../x-d1-w1.00-fp32-32"]
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no sub-network id"):
        SubNetwork.parse(text)


def test_profile_survives_json_to_the_last_bit() -> None:
    profile = made.profile(spread=0.1)
    again = records.load(ProfileRecord, __import__("json").loads(store.canonical_json(profile)), "here")
    assert again == profile
    assert again.measurement is not None and profile.measurement is not None
    assert again.measurement.interval_s == profile.measurement.interval_s


def test_statistics_are_derived_in_seconds() -> None:
    measurement = made.profile(latency_s=0.01, spread=0.0).measurement
    assert measurement is not None
    assert measurement.median_s == pytest.approx(0.01)
    assert measurement.p99_s == pytest.approx(0.01)
    assert measurement.memory_bytes == 30_000_000
    assert measurement.calls == 300


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema_version": 2}, "schema version 2"),
        ({"kind": "profile"}, "kind 'profile'"),
        ({"surprise": 1}, "surprise"),
        ({"macs": "many"}, "macs"),
    ],
)
def test_a_wrong_record_is_one_sentence(change: dict[str, object], says: str) -> None:
    data = {**made.artifact().model_dump(mode="json"), **change}
    with pytest.raises(BadRecord, match=says) as caught:
        records.load(Artifact, data, "x.json")
    assert "\n" not in str(caught.value) and "x.json" in str(caught.value)


def test_another_thing_than_an_object_is_refused() -> None:
    with pytest.raises(BadRecord, match="JSON object"):
        records.load(KnowledgeBase, [1], "x.json")


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "..", "a\\b", "a\0b"])
def test_file_names_cannot_leave_their_folder(name: str) -> None:
    with pytest.raises(ValueError, match="bare file name"):
        FileRef(file=name, sha256="0" * 64, size_bytes=1)


def test_unknown_names_are_answered_with_the_nearest() -> None:
    assert "did you mean 'resnet18'" in str(UnknownName("root", "resnet81", ["resnet18", "vgg11"]))
    assert "did you mean" not in str(UnknownName("root", "zzz", ["resnet18"]))
