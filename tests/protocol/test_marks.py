"""Marks say whose output follows, however the bytes between and around them are cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from conductor_protocol.marks import MarkReader, Speaker, mark

KEY = "0123456789abcdef"
ONE = Speaker("01999999-9999-7999-9999-999999999999", 1, 1)
TWO = Speaker("01999999-9999-7999-9999-99999999999a", 2**63 - 1, 3)

texts = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"\x1e", b"\x1e\x02", b"\x1f", b"\x1e\x02" + KEY[:5].encode(), b"line\n"]),
    st.just(mark("another key here", ONE)),
)
speakers = st.sampled_from([None, ONE, TWO])


def read(reader: MarkReader, chunks: Iterable[bytes]) -> list[tuple[Speaker | None, bytes]]:
    """Feed chunks to the end, and join what belongs together."""
    pieces = [piece for chunk in chunks for piece in reader.feed(chunk)] + reader.finish()
    assert all(text for _, text in pieces)
    joined: list[tuple[Speaker | None, bytes]] = []
    for speaker, text in pieces:
        if joined and joined[-1][0] == speaker:
            joined[-1] = (speaker, joined[-1][1] + text)
        else:
            joined.append((speaker, text))
    return joined


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """Cut data at these places."""
    ends = sorted({min(place, len(data)) for place in places})
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


@given(st.lists(st.tuples(speakers, texts), max_size=8), st.lists(st.integers(0, 600), max_size=12))
@example([(ONE, b"a\x1e"), (TWO, b"\x02b")], [1, 2, 3])
def test_each_piece_comes_back_with_its_speaker(
    spoken: list[tuple[Speaker | None, bytes]], places: list[int]
) -> None:
    """Whatever the texts contain but the runner's own key, and wherever the pipe cuts."""
    data = b"".join(mark(KEY, speaker) + text for speaker, text in spoken)
    whole = [(speaker, text) for speaker, text in spoken if text]
    assert read(MarkReader(KEY), cut(data, places)) == read(MarkReader(KEY), [data])
    expected: list[tuple[Speaker | None, bytes]] = []
    for speaker, text in whole:
        if expected and expected[-1][0] == speaker:
            expected[-1] = (speaker, expected[-1][1] + text)
        else:
            expected.append((speaker, text))
    assert read(MarkReader(KEY), cut(data, places)) == expected


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=12))
def test_garbage_without_marks_is_nobodys_and_complete(garbage: bytes, places: list[int]) -> None:
    """Not a byte is lost."""
    assert b"".join(text for _, text in read(MarkReader(KEY), cut(garbage, places))) == garbage


@given(
    st.integers(0, len(mark(KEY, ONE)) - 1),
    st.binary(max_size=300),
    st.lists(st.integers(0, 300), max_size=12),
)
def test_a_torn_mark_costs_at_most_itself(torn_at: int, rest: bytes, places: list[int]) -> None:
    """What follows it is text, and the next mark is heeded."""
    rest = rest.replace(b"\x1f", b"").replace(b"\x1e", b"")
    assume(not rest or rest[0] != mark(KEY, ONE)[torn_at])  # it must not go on with the mark by chance
    data = mark(KEY, ONE)[:torn_at] + rest + b"." * 200 + mark(KEY, TWO) + b"two"
    pieces = read(MarkReader(KEY), cut(data, places))
    assert pieces[-1] == (TWO, b"two")
    before = b"".join(text for speaker, text in pieces[:-1])
    assert before.endswith(rest + b"." * 200)
    assert all(speaker is None for speaker, _ in pieces[:-1])


@pytest.mark.parametrize(
    "forged",
    [
        mark("fedcba9876543210", ONE),
        mark(KEY, ONE)[:-1] + b"\n",
        mark(KEY, ONE).replace(b" 1 1", b" 1"),
        mark(KEY, ONE).replace(b" 1 1", b" -1 1"),
        mark(KEY, ONE).replace(b"01999999", b"../../.."),
    ],
    ids=["another key", "no end", "no attempt", "a negative claim", "no id"],
)
def test_what_only_looks_like_a_mark_names_nobody(forged: bytes) -> None:
    """It is shown as the text that it is, but for the runner's own key."""
    ((speaker, text),) = read(MarkReader(KEY), [b"before ", forged + b" after" + b"." * 200])
    assert speaker is None
    assert text.startswith(b"before ")
    assert text.endswith(b" after" + b"." * 200)
    assert KEY.encode() not in text


def test_a_mark_that_death_has_cut_off_is_not_shown() -> None:
    """The runner died while it wrote it."""
    whole = mark(KEY, ONE)
    assert read(MarkReader(KEY), [b"text" + whole[:30]]) == [(None, b"text")]
    assert read(MarkReader(KEY), [b"text" + whole[:10]]) == [(None, b"text" + whole[:10])]


def test_text_is_not_held_back() -> None:
    """A line is passed on when it comes, not with the next one."""
    reader = MarkReader(KEY)
    assert reader.feed(b"a line\n") == [(None, b"a line\n")]
    assert reader.feed(mark(KEY, ONE) + b"another\n") == [(ONE, b"another\n")]
