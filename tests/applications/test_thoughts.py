"""The two graphs of thoughts: what comes out is right, and wrong answers are mended or survived."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest
from applications.capable import CapableModel, documents, sentences
from langchain_core.messages import AIMessage


def run(module, given, spoil=None, **settings):
    model = CapableModel(spoil=spoil)
    return asyncio.run(module.build(model, **settings).ainvoke(given)), model


@pytest.fixture(scope="module")
def sorting():
    import sequence_sorting

    return sequence_sorting


@pytest.fixture(scope="module")
def merging():
    import document_merging

    return document_merging


@pytest.mark.parametrize("length", [0, 1, 2, 15, 16, 17, 32, 33, 48, 64, 100, 128])
def test_lists_are_sorted(sorting, length):
    """Whatever the length: in order, nothing lost, by as many calls as parts and merges take."""
    rng = random.Random(length)
    given = [rng.randint(-9, 99) for _ in range(length)]
    output, model = run(sorting, {"numbers": given})
    assert (output["result"], output["errors"]) == (sorted(given), 0)
    parts = -(-length // sorting.PART)
    assert len(model.asked("Split")) == (parts > 1)
    assert len(model.asked("Sort")) == 2 * parts
    assert len(model.asked("Merge")) == 2 * max(parts - 1, 0)
    assert not model.asked("The second list")


def test_errors_are_given_back(sorting):
    """Every first sort and merge loses a number and swaps two; the improved lists are right."""

    def spoil(prompt, answer):
        if prompt.startswith(("Sort", "Merge")):
            found = sorting.numbers_in(answer.text)
            return str([found[1], found[0], *found[2:-1]])
        return None

    given = sorting.inputs()[0]
    output, model = run(sorting, given, spoil, samples=1)
    assert (output["result"], output["errors"]) == (sorted(given["numbers"]), 0)
    improved = model.asked("The second list")
    assert len(improved) == 3  # two parts and their merge
    assert all("is missing" in prompt for prompt in improved)
    rounds = {(thought["start"], thought["stop"]): thought["round"] for thought in output["thoughts"]}
    assert rounds == {(0, 1): 1, (1, 2): 1, (0, 2): 1}


def test_the_better_of_several_thoughts_goes_on(sorting):
    """Of the samples of a list the one without errors is kept, and nothing is improved."""
    turn = itertools.count()

    def spoil(prompt, answer):
        return "[1, 2, 3]" if prompt.startswith(("Sort", "Merge")) and next(turn) % 2 else None

    given = sorting.inputs()[1]
    output, model = run(sorting, given, spoil)
    assert output["result"] == sorted(given["numbers"])
    assert not model.asked("The second list")


@pytest.mark.parametrize(
    "answer", ["", "no idea", "[", "{}", "[[1, 2], [3]]", '{"a": 3}', "[1e999, x]", "[" * 5000]
)
def test_nonsense_ends_in_errors_not_in_exceptions(sorting, answer):
    """A model that never answers as asked: every list is improved as often as it may be, then it ends."""
    given = sorting.inputs()[0]
    output, model = run(sorting, given, lambda *_: answer, samples=1)
    assert output["errors"] > 0
    assert len(model.asked("The second list")) == 3 * sorting.IMPROVEMENTS


@pytest.mark.parametrize(
    "answer",
    ['{"List 1": [1, 2]}', '{"List 1": 7}', "[[1]]", '{"List 1": [1, "x"]}', "{" * 3000, '{"a": []}'],
)
def test_a_split_that_loses_numbers_is_not_used(sorting, answer):
    """Numbers do not depend on whether a model can copy them."""
    given = sorting.inputs()[0]
    output, _ = run(sorting, given, lambda prompt, _: answer if prompt.startswith("Split") else None)
    assert output["result"] == sorted(given["numbers"])


def test_an_unequal_split_is_used(sorting):
    """A split into other lengths than asked for is one, too."""
    numbers = sorting.inputs()[0]["numbers"]
    answer = f'Here: {{"List 1": {numbers[:5]}, "List 2": {numbers[5:9]}, "List 3": {numbers[9:]}}}'
    output, _ = run(
        sorting, {"numbers": numbers}, lambda prompt, _: answer if prompt.startswith("Split") else None
    )
    assert [len(part) for part in output["parts"]] == [5, 4, 23]
    assert output["result"] == sorted(numbers)


@pytest.mark.parametrize("at", range(3))
def test_documents_are_merged(merging, at):
    """Every fact of the documents once, and none besides."""
    given = merging.inputs()[at]
    output, model = run(merging, given)
    facts = {fact for text in given["documents"] for fact in sentences(text)}
    assert sorted(sentences(output["merged"])) == sorted(facts)
    assert output["score"] == pytest.approx(10)
    assert len(model.asked("Merge the following")) == merging.MERGES
    assert len(model.asked("Below are")) == merging.AGGREGATES
    assert len(model.asked("The document <S>")) == 2 * merging.JUDGES


def test_the_best_merges_are_aggregated(merging):
    """Four merges that keep one to four facts: all are scored, the two best aggregated."""
    turn = itertools.count(1)

    def spoil(prompt, answer):
        if prompt.startswith("Merge"):
            return f"<Merged>{' '.join(documents(prompt)[: next(turn)])}</Merged>"
        return None

    given = merging.inputs()[0]
    output, model = run(merging, given, spoil)
    scored = model.asked("The document <S>")
    assert len(scored) == (merging.MERGES + 1) * merging.JUDGES
    (prompt, *_) = model.asked("Below are")
    attempts = [sentences(part.partition("</Attempt")[0]) for part in prompt.split("<Attempt")[1:]]
    assert [len(attempt) for attempt in attempts] == [4, 3]
    assert output["score"] == pytest.approx(10)


def test_a_poor_document_is_improved(merging):
    """Merges and aggregates say something twice; the improved document does not."""

    def spoil(prompt, answer):
        if prompt.startswith(("Merge", "Below")) and "of 10 points" not in " ".join(prompt.split()):
            text = merging.text_in(answer.text)
            return f"<Merged>{text} {text}</Merged>"
        return None

    given = merging.inputs()[1]
    output, model = run(merging, given, spoil)
    (improved,) = [prompt for prompt in model.asked("Below are") if "got" in prompt]
    assert "got 6.7 of 10" in improved
    assert output["rounds"] == 1
    assert len(sentences(output["merged"])) == len(set(sentences(output["merged"])))


@pytest.mark.parametrize("answer", ["", "no idea", "<Merged>", "<Redundancy>many</Redundancy>", "<S>[}"])
def test_nonsense_is_merged_as_nonsense(merging, answer):
    """Without a readable mark it improves as often as it may, then gives what it has."""
    output, _ = run(merging, merging.inputs()[0], lambda *_: AIMessage(answer))
    assert (output["score"], output["rounds"]) == (0, merging.IMPROVEMENTS)


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("<Redundancy>10</Redundancy> <Retained>5</Retained>", 20 / 3),
        ("<Retained> 8.5 of 10</Retained><Redundancy>\n8.5", 8.5),
        ("<Redundancy>0</Redundancy><Retained>0</Retained>", 0),
        ("<Redundancy>99</Redundancy><Retained>99</Retained>", 10),
        ("<Redundancy>9</Redundancy>", None),
        ("9 and 9", None),
    ],
)
def test_marks_are_read(merging, answer, score):
    """Two marks make a score; half an answer makes none."""
    assert merging.score_in(answer) == (score if score is None else pytest.approx(score))
