"""Lines that a killed writer, a power cut or a damaged disk left behind: skipped, counted, and told once."""

from __future__ import annotations

import gzip
import json
import tempfile
import warnings
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsched_langgraph.errors import InvalidDataError
from llmsched_langgraph.traces import Skipped, SkippedLinesWarning, done_jobs, read_gaps, read_jobs


def job(number):
    stage = {"n": "ask", "k": "llm", "dep": [], "calls": [[10, number, 0.5]]}
    return {"id": f"j{number}", "app": "demo", "jct": 3.5, "stages": [stage]}


def line(number):
    return json.dumps(job(number)).encode() + b"\n"


def lines(*numbers):
    return b"".join(map(line, numbers))


def read(path):
    """The numbers of the jobs in the file, and what was told to be skipped."""
    told = []
    numbers = [int(found.id[1:]) for found in read_jobs(path, skipped=told.append)]
    return numbers, told


@pytest.fixture(params=["jobs.jsonl", "jobs.jsonl.gz"])
def file(tmp_path, request):
    """Writes bytes into a file, compressed or not."""

    def write(data):
        path = tmp_path / request.param
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
        return path

    return write


@pytest.mark.parametrize(
    ("torn", "reason"),
    [
        (b'{"id": "b", "app":\n', "is not a complete JSON object: Expecting value at column 1"),
        (b'{"id": "b", "ap\n', "is not a complete JSON object: Invalid control character at at column 16"),
        (b'app": "demo", "stages": []}\n', "is not a complete JSON object: Expecting value at column 1"),
        (line(7).strip() + line(8), "is not a complete JSON object: Extra data at column 114"),
        (b'{"id": "\xff\xfe"}\n', "is not UTF-8 text"),
        (bytes(600) + b"\n", "is filled with NUL bytes"),
        (bytes(600) + line(7), "is not a complete JSON object: Expecting value at column 1"),
        (b"[1, 2]\n", "must be a JSON object, not list"),
        (b"null\n", "must be a JSON object, not NoneType"),
        (b"id,app,jct\n", "is not a complete JSON object: Expecting value at column 1"),
        (b'{"jct": NaN}\n', "NaN is not valid JSON; write null for an unknown value"),
        (b'{"jct": -Infinity}\n', "-Infinity is not valid JSON; write null for an unknown value"),
        (
            b'{"jct": 1' + 5000 * b"0" + b"}\n",
            "Exceeds the limit (4300 digits) for integer string conversion",
        ),
        (b"[" * 100_000 + b"\n", "maximum recursion depth exceeded"),
        (b"\xef\xbb\xbf" + line(7), "is not a complete JSON object: Unexpected UTF-8 BOM"),
    ],
)
def test_a_line_in_the_middle_costs_itself(file, torn, reason):
    """The jobs around it are read, and the first torn line of the file is told with its reason."""
    path = file(lines(1, 2) + torn + lines(3) + torn + lines(4))
    numbers, (told,) = read(path)
    assert numbers == [1, 2, 3, 4]
    assert (told.path, told.lines, told.first) == (path, 2, 3)
    assert told.reason.startswith(reason)
    assert str(told) == f"{path}: line 3: {told.reason}; 2 lines skipped"


def test_the_first_line_may_be_torn(file):
    """The format is that of the first whole object."""
    numbers, (told,) = read(file(line(1)[30:] + lines(2, 3)))
    assert (numbers, told.lines, told.first) == ([2, 3], 1, 1)


def test_empty_lines_are_counted_in_numbers_and_not_skipped(file):
    assert read(file(b"\n  \r\n" + lines(1) + b"\n{\n"))[1][0].first == 5
    assert read(file(b"\n  \r\n" + lines(1).replace(b"\n", b"\r\n") + b"\n")) == ([1], [])


@pytest.mark.parametrize("tail", [bytes(1), bytes(100_000), bytes(70_000) + b"\n", b"\n" + bytes(9)])
def test_a_tail_of_nul_bytes(tmp_path, tail):
    """What a power cut leaves of blocks that were allocated and not written."""
    path = tmp_path / "jobs.jsonl"
    path.write_bytes(lines(1, 2) + tail)
    numbers, (told,) = read(path)
    assert numbers == [1, 2]
    assert (told.lines, told.reason) == (1, "is filled with NUL bytes")


@pytest.mark.parametrize("name", ["jobs.jsonl", "jobs.jsonl.gz"])
def test_a_file_that_is_cut_at_any_byte(tmp_path, name):
    """Each job whose line is there is read. Nothing is told only where nothing is missing."""
    whole = lines(*range(40))
    data = gzip.compress(whole) if name.endswith(".gz") else whole
    path = tmp_path / name
    for size in range(1, len(data)):
        path.write_bytes(data[:size])
        inflated = zlib.decompressobj(31).decompress(data[:size]) if name.endswith(".gz") else data[:size]
        *ends, rest = inflated.split(b"\n")
        there = len(ends) + (line(len(ends)).strip() == rest)
        if not there:
            with pytest.raises(InvalidDataError, match=r"line 1: .*; the file contains no jobs"):
                read(path)
        else:
            numbers, told = read(path)
            assert numbers == list(range(there))
            if name.endswith(".gz"):
                cut = "the compressed data ends in the middle; the file is truncated"
                assert [(one.lines, one.reason) for one in told] == [(1, cut)]
            else:
                assert [(one.lines, one.first) for one in told] == [(1, there + 1)] * (
                    rest not in (b"", line(there - 1).strip())
                )


def test_a_gzip_member_that_was_cut_off_costs_no_later_one(tmp_path):
    """A program that appends a member for each batch was killed in one, and started again."""
    path = tmp_path / "jobs.jsonl.gz"
    members = [gzip.compress(lines(*range(at, at + 50))) for at in (0, 50, 100)]
    for size in (1, 12, len(members[1]) // 2, len(members[1]) - 8, len(members[1]) - 1):
        path.write_bytes(members[0] + members[1][:size] + members[2])
        numbers, (told,) = read(path)
        assert numbers[:50] == list(range(50))
        assert numbers[-50:] == list(range(100, 150))
        assert numbers == sorted(set(numbers))
        assert told.first >= 51
        assert "gzip data" in told.reason or "compressed data" in told.reason


def test_members_one_after_the_other_and_padding_are_no_damage(tmp_path):
    path = tmp_path / "jobs.jsonl.gz"
    path.write_bytes(
        gzip.compress(lines(1)) + gzip.compress(lines(2)[:9]) + gzip.compress(lines(2)[9:]) + bytes(512)
    )
    assert read(path) == ([1, 2], [])


def test_bytes_after_the_compressed_data_are_told(tmp_path):
    path = tmp_path / "jobs.jsonl.gz"
    path.write_bytes(gzip.compress(lines(1)) + lines(2))
    numbers, (told,) = read(path)
    assert (numbers, told.lines, told.reason) == ([1], 1, "is not valid gzip data")


def test_damage_in_compressed_data_costs_nothing_before_it(tmp_path):
    """Data is read up to the invalid byte, not only up to the last block that was read whole."""
    path = tmp_path / "jobs.jsonl.gz"
    whole = lines(*[number * number % 9973 for number in range(2000)])
    data = bytearray(gzip.compress(whole))
    data[-8] ^= 1  # of the checksum: every line is there
    path.write_bytes(data)
    numbers, (told,) = read(path)
    assert len(numbers) == 2000
    assert (told.lines, told.first) == (1, 2001)
    assert "incorrect data check" in told.reason
    half = len(data) // 2
    data[half : half + 40] = bytes(40)
    path.write_bytes(data)
    numbers, (told,) = read(path)
    assert len(numbers) > 900
    assert told.lines >= 1


def test_each_file_is_told_once_and_by_itself(tmp_path):
    """In a folder, also a file of which nothing can be read; files of other formats are nobody's loss."""
    (tmp_path / "a.jsonl").write_bytes(lines(1) + b"{\n{\n")
    (tmp_path / "b.jsonl").write_bytes(lines(2))
    (tmp_path / "c.jsonl").write_bytes(b"")
    (tmp_path / "d.jsonl").write_bytes(bytes(10))
    (tmp_path / "e.jsonl").write_bytes(b'{"question": "why?"}\n{"quest')
    (tmp_path / "f.jsonl").write_bytes(b'{\n{"question": "why?"}\n')
    numbers, told = read(tmp_path)
    assert numbers == [1, 2]
    assert [(one.path.name, one.lines, one.first) for one in told] == [
        ("a.jsonl", 2, 2),
        ("c.jsonl", 0, 0),
        ("d.jsonl", 1, 1),
    ]
    assert str(told[1]) == f"{tmp_path / 'c.jsonl'}: is empty; file skipped"
    assert str(told[2]) == f"{tmp_path / 'd.jsonl'}: line 1: is filled with NUL bytes; line skipped"


def test_a_file_of_which_nothing_can_be_read_is_an_error(tmp_path):
    """One that was named, though others can be read; a folder, if there is nothing else in it."""
    good, bad = tmp_path / "good.jsonl", tmp_path / "in" / "bad.jsonl"
    bad.parent.mkdir()
    good.write_bytes(lines(1))
    bad.write_bytes(line(1)[:20] + b"\n" + line(2)[:20])
    told = []
    with pytest.raises(InvalidDataError) as caught:
        list(read_jobs([good, bad], skipped=told.append))
    assert str(caught.value).startswith(f"{bad}: line 1: is not a complete JSON object: ")
    assert str(caught.value).endswith("; the file contains no jobs")
    assert told == []
    with pytest.raises(InvalidDataError) as caught:
        list(read_jobs(bad.parent, skipped=told.append))
    assert str(caught.value).startswith(f"{bad.parent}: contains no jobs; {bad}: line 1: ")


def test_a_torn_line_does_not_hide_a_foreign_one(file):
    """An object with wrong fields comes from another program: the error names file, line and field."""
    path = file(lines(1) + b"{\n" + b'{"id": "b", "app": "x", "stages": 3}\n' + lines(2))
    with pytest.raises(InvalidDataError) as caught:
        list(read_jobs(path, skipped=lambda _: None))
    assert str(caught.value) == f"{path}: line 3: stages: must be a list, not 3"


def test_other_formats_are_read_like_the_own(file):
    react = {
        "id": "q1",
        "app": "react",
        "run": "r",
        "trial": 1,
        "q_tok": 24,
        "n": 1,
        "steps": [[30, 7, 200, "Finish"]],
    }
    told = []
    whole = json.dumps(react).encode() + b"\n"
    jobs = list(read_jobs(file(whole[:30] + b"\n" + whole + whole[:-9]), skipped=told.append))
    assert [found.app for found in jobs] == ["react"]
    assert [(one.lines, one.first) for one in told] == [(2, 1)]


def test_without_a_listener_it_is_a_warning(file):
    """At the line of the program that reads; what is not read to its end is not counted."""
    path = file(lines(1) + b"{\n" + lines(2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jobs = read_jobs(path)
        next(jobs)
        assert caught == []
        assert len(list(jobs)) == 1
    (one,) = caught
    assert (one.category, one.filename) == (SkippedLinesWarning, __file__)
    assert str(one.message).endswith("; line skipped")
    with pytest.warns(SkippedLinesWarning, match="line 2: is not a complete JSON object"):
        list(done_jobs(path))
    told = []
    assert len(list(done_jobs(path, skipped=told.append))) == 2
    assert [type(one) for one in told] == [Skipped]


def test_a_time_that_is_cut_short_is_another_time(tmp_path):
    """Arrivals in a CSV file are all there, or an error."""
    path = tmp_path / "arrivals.csv.gz"
    path.write_bytes(gzip.compress(b"t_s\n1\n2\n31\n")[:-9])
    with pytest.raises(InvalidDataError, match=r"line \d: the compressed data ends in the middle"):
        read_gaps(path)
    path = tmp_path / "arrivals.csv"
    path.write_bytes(b"t_s\n1\n2\xff\n")
    with pytest.raises(InvalidDataError, match="line 3: is not UTF-8 text"):
        read_gaps(path)


@given(
    st.lists(st.one_of(st.integers(0, 99), st.binary(max_size=40)), min_size=1), st.booleans(), st.booleans()
)
def test_any_bytes_between_whole_lines(parts, zipped, newline):
    """Each whole line is read, each other one that is not white space is counted."""
    bad = [part for part in parts if isinstance(part, bytes)]
    torn = [
        own for part in bad for own in part.split(b"\n") if own and not own.isspace() and not _object(own)
    ]
    data = b"\n".join(line(part).strip() if isinstance(part, int) else part for part in parts)
    data += b"\n" * newline
    if data.startswith(b"\xef\xbb\xbf"):
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.jsonl")
        path.write_bytes(gzip.compress(data) if zipped else data)
        good = [part for part in parts if isinstance(part, int)]
        if not good or any(_object(own) for part in bad for own in part.split(b"\n")):
            with pytest.raises(InvalidDataError):
                read(path)
            return
        numbers, told = read(path)
    assert numbers == good
    assert sum(one.lines for one in told) == len(torn)
    assert len(told) == bool(torn)


def _object(data):
    try:
        return isinstance(json.loads(data.decode()), dict)
    except ValueError:
        return False
