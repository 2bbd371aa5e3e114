"""Times between arrivals out of recorded traces."""

from __future__ import annotations

import pytest

from llmsched_langgraph.errors import InvalidDataError
from llmsched_langgraph.traces import read_gaps


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize(
    ("text", "gaps"),
    [
        ("t_s,in_tokens\n0.0,374\n1.5,2\n1.5,7\n4.0,1\n", (1.5, 0.0, 2.5)),
        ("x,t_ms\n1,0\n1,3000\n1,3500\n", (3.0, 0.5)),
        ("gmt_create,kind\n2024-11-15 16:59:50,A\n2024-11-15 17:00:10,B\n", (20.0,)),
        ("timestamp\n2024-03-31T00:30:00Z\n2024-03-31T02:30:00+00:00\n", (7200.0,)),
        ("t_s,win\n0,0\n1,0\n3,1\n99,5\n100,5\n", (1.0, 2.0, 1.0)),
    ],
)
def test_the_column_of_times_is_found(write, name, text, gaps):
    """Seconds, milliseconds or dates; a gap across windows that were left out is none."""
    assert read_gaps(write(name, text)) == pytest.approx(gaps)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "line 1: needs one of the columns t_s, t_ms, gmt_create, timestamp; has a, b"),
        ("", "line 1: needs one of the columns t_s"),
        ("t_s\n1\nx\n", "line 3: t_s: is not valid: x"),
        ("t_s\n1\nnan\n", "line 3: t_s: is not valid: nan"),
        ("t_s,win\n1,0\n2,\n", "line 3: t_s or win: is not valid: 2,"),
        ("a,t_s\n1,1\n2\n", "line 3: t_s: is not valid: 2"),
        ("t_s\n1\n\n\nx\n", "line 5: t_s: is not valid: x"),
        ("t_s\n5\n4\n", "line 3: the time goes back, from 5.0 s to 4.0 s"),
        ("t_s\n5\n", "needs at least two arrivals at different times"),
        ("t_s\n5\n5\n", "needs at least two arrivals at different times"),
        ("gmt_create\n2024-01-01\nsoon\n", "line 3: gmt_create: is not valid: soon"),
    ],
)
def test_a_damaged_trace_is_named(write, text, message):
    path = write("a.csv", text)
    with pytest.raises(InvalidDataError) as caught:
        read_gaps(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_trace_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InvalidDataError, match="cannot be read: No such file"):
        read_gaps(tmp_path / "no.csv")
