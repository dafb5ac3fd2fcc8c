"""Long series of whole numbers in one short string: nothing lost, nothing damaged gets through."""

from __future__ import annotations

import base64
import json
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kit.packed import Series
from kit.records import Record

NUMBERS = st.one_of(st.lists(st.integers(0, 2**32 - 1), max_size=200), st.lists(st.integers(0, 2**63 - 1), max_size=50))


class Holder(Record):
    times: Series


def packed(letter: str, data: bytes) -> str:
    return letter + base64.b85encode(zlib.compress(data)).decode()


@given(NUMBERS)
def test_numbers_come_back_as_they_went_in(numbers: list[int]) -> None:
    series = Series(numbers)
    assert series.array().tolist() == numbers and series.array().dtype == np.int64 and len(series) == len(numbers)
    assert Series(series.packed) == series and hash(Series(series.packed)) == hash(series)
    assert eval(repr(series), {"Series": Series}) == series


@given(NUMBERS)
def test_a_record_survives_json(numbers: list[int]) -> None:
    holder = Holder(times=numbers)  # type: ignore[arg-type]
    data = json.loads(holder.model_dump_json())
    assert data == {"times": holder.times.packed} == holder.model_dump(mode="json")
    assert Holder.model_validate(data) == holder == Holder.model_validate({"times": numbers})


@given(st.lists(st.floats(0, 1e15), min_size=1))
def test_floats_are_rounded_to_whole_numbers(values: list[float]) -> None:
    assert Series(values).array().tolist() == [round(v) for v in values]
    assert Series(np.array(values)) == Series(tuple(values)) == Series(iter(values))


@pytest.mark.parametrize(("largest", "letter"), [(0, "I"), (2**32 - 1, "I"), (2**32, "Q"), (2**63 - 1, "Q")])
def test_the_first_letter_says_how_wide_a_number_is(largest: int, letter: str) -> None:
    assert Series([largest]).packed[0] == letter and Series([largest]).array().tolist() == [largest]


def test_timings_take_about_two_bytes_each() -> None:
    rng = np.random.default_rng(0)
    timings = Series(4_000_000 * (1 + 0.01 * rng.standard_normal(1000)))
    assert len(timings.packed) < 3500 < len(json.dumps(timings.array().tolist())) / 2


def test_an_empty_series_is_a_series() -> None:
    assert len(Series([])) == 0 and Series(Series([]).packed) == Series([])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "starts with I or Q"),
        ("X", "starts with I or Q"),
        ("[1, 2]", "starts with I or Q"),
        ("I", "cut off"),
        ("I no base85 \x00", "damaged"),
        ("Iß", "damaged"),
        ("I" + base64.b85encode(b"no zlib").decode(), "damaged"),
        (packed("I", b"12345"), "cut off"),
        (packed("Q", b"1234"), "cut off"),
    ],
)
def test_damaged_strings_are_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Series(text)
    with pytest.raises(ValidationError, match=says):
        Holder(times=text)  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50), st.data())
def test_a_string_that_lost_its_end_is_refused(numbers: list[int], data: st.DataObject) -> None:
    text = Series(numbers).packed
    with pytest.raises(ValueError, match="series"):
        Series(text[: data.draw(st.integers(0, len(text) - 6))])


@given(st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=50), st.data())
def test_a_changed_letter_never_goes_unseen(numbers: list[int], data: st.DataObject) -> None:
    """The checksum inside finds it; letters that stand for nothing are only the padding behind the last byte."""
    text = Series(numbers).packed
    place = data.draw(st.integers(1, len(text) - 6))
    letter = data.draw(st.sampled_from("0A~z").filter(lambda c: c != text[place]))
    try:
        found = Series(text[:place] + letter + text[place + 1 :])
    except ValueError:
        return
    assert found.array().tolist() == numbers


@pytest.mark.parametrize(
    "values", [[-1], [float("nan")], [float("inf")], [1e19], [2**63], [[1, 2], [3, 4]], ["a"], [None], [2**70]]
)
def test_what_is_no_number_from_zero_up_is_refused(values: list[object]) -> None:
    with pytest.raises(ValueError, match="a series holds"):
        Series(values)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [1, None, {"a": 1}, 2.5])
def test_other_things_are_refused_by_a_record(value: object) -> None:
    with pytest.raises(ValidationError, match=r"packed series or a list of numbers|a series holds"):
        Holder(times=value)  # type: ignore[arg-type]


def test_a_packed_number_above_the_range_is_refused() -> None:
    too_large = np.array([2**63], dtype="<u8").view(np.uint8).reshape(-1, 8).T.tobytes()
    with pytest.raises(ValueError, match="2\\*\\*63"):
        Series(packed("Q", too_large))
