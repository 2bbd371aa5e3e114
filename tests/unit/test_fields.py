"""Values read out of JSON: taken by type, and named where they are wrong."""

from enum import StrEnum

import pytest

from llmsched_langgraph._fields import MOST, Field
from llmsched_langgraph.errors import InvalidDataError


class Size(StrEnum):
    SMALL = "small"
    LARGE = "large"


NO_NUMBERS = (None, True, "1", [1], {}, -1, float("nan"), float("inf"), MOST + 1)


def at(value):
    """The value three steps inside a document."""
    return Field({"jobs": [{"size": value}]})["jobs"][0]["size"]


@pytest.mark.parametrize("bad", NO_NUMBERS)
def test_numbers_are_finite_and_in_range(bad):
    with pytest.raises(
        InvalidDataError, match=r"^jobs\[0\]\.size: must be a number, 0 to 1,000,000,000,000, not "
    ):
        at(bad).number()
    assert at(MOST).number() == MOST
    assert at(1e300).number(1e300) == 1e300
    with pytest.raises(InvalidDataError, match=r"^jobs\[0\]\.size: must be a number, 0 to 0\.5, not 1$"):
        at(1).number(0.5)


@pytest.mark.parametrize("bad", [*NO_NUMBERS, 2.0, 1])
def test_counts_are_integers_in_range(bad):
    with pytest.raises(InvalidDataError, match=r"^jobs\[0\]\.size: must be an integer, 2 to "):
        at(bad).count(least=2)
    if bad is None:
        assert at(bad).maybe_count(least=2) is None
    else:
        with pytest.raises(InvalidDataError, match=r"^jobs\[0\]\.size: must be an integer, 2 to "):
            at(bad).maybe_count(least=2)
    assert at(2).count(least=2) == at(2).maybe_count(least=2) == 2


@pytest.mark.parametrize("bad", [None, True, 1, ["small"], {}])
def test_strings_and_choices(bad):
    with pytest.raises(InvalidDataError, match=r"^jobs\[0\]\.size: must be a string, not "):
        at(bad).string()
    for none in (bad, "", "SMALL"):
        with pytest.raises(InvalidDataError, match=r"^jobs\[0\]\.size: must be one of small, large, not "):
            at(none).choice(Size)
    assert at("").string() == ""
    assert at("large").choice(Size) is Size.LARGE


def test_an_error_from_inside_is_placed():
    error = InvalidDataError("width: too large")
    assert str(at({}).placed(error)) == "jobs[0].size.width: too large"
    assert str(Field({}).placed(error)) == "width: too large"
