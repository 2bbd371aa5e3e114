"""The learner: what it finds in rows, when it keeps to the marginals, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from math import lgamma

import numpy as np
import pytest
from support import pgmpy_reference
from support.networks import married

from llmsched_langgraph._belief.fit import tables as learner
from llmsched_langgraph._belief.fit.tables import choose, fit, k2
from llmsched_langgraph._belief.network.network import Network
from llmsched_langgraph.errors import InvalidDataError

pytestmark = pytest.mark.timeout(120)  # the reference is pgmpy, which takes seconds to import


def chain(count=4, keep=0.9, rows=200, seed=0):
    """Rows of a chain in which every variable mostly repeats the one before."""
    random = np.random.default_rng(seed)
    made = [random.integers(0, 3, rows)]
    for _ in range(count - 1):
        made.append(np.where(random.random(rows) < keep, made[-1], random.integers(0, 3, rows)))
    return np.stack(made, axis=1)


def names(count):
    return [f"stage {i}" for i in range(count)]


def test_a_chain_is_found():
    """Each variable takes the one before it, and the tables are those of the rows."""
    learned = fit(chain(), [3] * 4, names(4))
    assert learned.parents == ((), (0,), (1,), (2,))
    assert learned.names == tuple(names(4))
    assert all(table[i, i] == pytest.approx(0.93, abs=0.1) for table in learned.tables[1:] for i in range(3))


def test_parents_come_before_and_are_married():
    """At most two, and adjacent to each other, whatever the rows: so no clique outgrows a family."""
    rows = married(4, 12, 3, window=9).sample(400, seed=1)
    learned = fit(rows, [3] * 12, names(12))
    assert any(len(own) == 2 for own in learned.parents)
    for i, own in enumerate(learned.parents):
        assert len(own) <= 2
        assert all(p < i for p in own)
        if len(own) == 2:
            assert own[0] in learned.parents[own[1]]
    assert all(clique.separator == own for clique, own in zip(learned._tree, learned.parents, strict=True))


def test_tables_are_counts_with_a_prior_that_backs_off():
    """Worked by hand: one row's weight of prior, spread as the variable is without its parent."""
    rows = [[0, 0]] * 6 + [[1, 1]] * 3
    learned = fit(rows, [3, 2], ["a", "b"], smoothing=1.0)
    alone = np.array([6.5, 3.5]) / 10
    assert learned.parents == ((), (0,))
    assert learned.tables[0] == pytest.approx(np.array([6 + 1 / 3, 3 + 1 / 3, 1 / 3]) / 10)
    assert learned.tables[1][0] == pytest.approx((np.array([6.0, 0.0]) + alone) / 7)
    assert learned.tables[1][1] == pytest.approx((np.array([0.0, 3.0]) + alone) / 4)
    assert learned.tables[1][2] == pytest.approx(alone)


def test_the_score_is_k2():
    """By its formula, on rows that leave most combinations of parents out: those count for nothing."""
    rows = np.random.default_rng(2).integers(0, 2, (40, 3))
    score = k2(rows, [7, 5, 6])
    for family in ((2,), (0, 2), (1, 2), (0, 1, 2)):
        expected = 0.0
        for combination in {tuple(row[list(family[:-1])]) for row in rows}:
            held = [row[2] for row in rows if tuple(row[list(family[:-1])]) == combination]
            expected += lgamma(6) - lgamma(6 + len(held)) + sum(lgamma(held.count(k) + 1) for k in range(6))
        assert score(2, tuple((p, False) for p in family[:-1])) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(12))
def test_the_score_is_pgmpys_bdeu_of_one_row_a_cell(seed):
    """On random rows, of any parents, whole or by their absence alone; combinations no row has count too."""
    import pandas as pd
    from pgmpy.structure_score import BDeu

    random = np.random.default_rng(seed)
    count = int(random.integers(1, 5))
    cards = [int(card) for card in random.integers(2, 7, count)]
    many = int(random.integers(1, 120))
    rows = np.stack([random.integers(0, card, many) for card in cards], axis=1)
    score = k2(rows, cards)
    for _ in range(6):
        i = int(random.integers(0, count))
        parents = sorted(random.permutation([p for p in range(count) if p != i])[: random.integers(0, 3)])
        family = tuple((int(p), bool(random.integers(0, 2))) for p in parents)
        levels = {"x": cards[i]} | {f"p{p}": 2 if coarse else cards[p] for p, coarse in family}
        columns = {"x": rows[:, i]} | {
            f"p{p}": np.minimum(rows[:, p], 1) if coarse else rows[:, p] for p, coarse in family
        }
        frame = pd.DataFrame(
            {name: pd.Categorical(own, categories=range(levels[name])) for name, own in columns.items()}
        )
        cells = int(np.prod(list(levels.values())))
        states = {name: list(range(card)) for name, card in levels.items()}
        bdeu = BDeu(frame, equivalent_sample_size=cells, state_names=states)
        expected = bdeu.local_score("x", tuple(name for name in levels if name != "x"))
        assert score(i, family) == pytest.approx(expected, rel=1e-9)


def test_of_a_parent_it_may_matter_only_whether_it_is_absent():
    """A second time round that comes only after a first, and takes as long whatever the first took."""
    random = np.random.default_rng(3)
    first = random.integers(0, 7, 120) * (random.random(120) < 0.6)
    second = np.where(first > 0, random.integers(1, 7, 120), 0)
    learned = fit(np.stack([first, second], axis=1), [7, 7], ["first", "second"])
    assert learned.parents == ((), (0,))
    absent, *present = learned.tables[1]
    assert absent[0] > 0.95
    assert all(np.array_equal(row, present[0]) for row in present)
    assert present[0][0] < 0.05


def test_every_state_stays_possible():
    """Evidence never has probability zero, not even a state that no row had."""
    learned = fit(chain(), [4] * 4, names(4))
    assert min(table.min() for table in learned.tables) > 0.0
    assert learned.marginals({0: [0, 0, 0, 1.0], 3: [0, 0, 0, 1.0]})[1].sum() == pytest.approx(1.0)


def test_the_network_is_taken_where_it_predicts_better():
    """By how many bits, and how surely."""
    made = choose(chain(), [3] * 4, names(4))
    assert made.correlated
    assert made.gain_bits > 10 * made.error_bits > 0.0
    assert made.network == fit(chain(), [3] * 4, names(4))


def test_the_marginals_are_kept_where_it_does_not():
    """Independent coins: whatever structure chance shows, held-out rows do not confirm it."""
    rows = np.random.default_rng(5).integers(0, 4, (60, 8))
    made = choose(rows, [4] * 8, names(8))
    assert not made.correlated
    assert made.network == fit(rows, [4] * 8, names(8), max_parents=0)
    assert made.network.parents == ((),) * 8


def test_a_sum_among_the_variables_does_not_decide():
    """Two coins and their sum: the sum is told by the coins, but the coins by nothing."""
    coins = np.random.default_rng(1).integers(0, 2, (200, 2))
    rows = np.column_stack([coins.sum(axis=1), coins])
    taken = choose(rows, [3, 2, 2], names(3))
    assert taken.correlated
    kept = choose(rows, [3, 2, 2], names(3), hidden=[0])
    assert abs(kept.gain_bits) < 0.1
    assert not kept.correlated


def test_the_same_rows_give_the_same_network():
    """To the last bit, and so does the choice."""
    rows = chain(5, 0.7)
    assert fit(rows, [3] * 5, names(5)) == fit(rows, [3] * 5, names(5))
    assert choose(rows, [3] * 5, names(5), seed=3) == choose(rows, [3] * 5, names(5), seed=3)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_very_few_rows(rows):
    """A choice is always made; of one row, nothing can be held out."""
    made = choose(chain(rows=rows), [3] * 4, names(4))
    assert isinstance(made.network, Network)


def test_constants_stay_alone():
    """A variable that never varied, or has one state, is nobody's parent or child."""
    rows = np.column_stack([chain(3), np.zeros(200, int), np.full(200, 2)])
    learned = fit(rows, [3, 3, 3, 1, 3], names(5))
    assert learned.parents[3:] == ((), ())
    assert learned.tables[4].argmax() == 2


BAD = {
    "rows: at least one row": ([], [2], ["a"], {}),
    r"rows\[1\]\[0\]: state 2 of a variable with 2 states": ([[0], [2]], [2], ["a"], {}),
    r"rows\[0\]\[0\]: state -1": ([[-1]], [2], ["a"], {}),
    "rows: expected 2 states per row": ([[0]], [2, 2], ["a", "b"], {}),
    "rows: expected integers": ([[None]], [2], ["a"], {}),
    "names: 1 names for 2 cards": ([[0, 0]], [2, 2], ["a"], {}),
    "names: not unique": ([[0, 0]], [2, 2], ["a", "a"], {}),
    "smoothing: expected a positive number": ([[0]], [2], ["a"], {"smoothing": 0.0}),
}


@pytest.mark.parametrize("told", BAD)
def test_bad_input(told):
    """One clear error, before or instead of pgmpy's."""
    rows, cards, called, more = BAD[told]
    with pytest.raises(InvalidDataError, match=told):
        fit(rows, cards, called, **more)


def test_hidden_must_exist():
    """Numbers of variables."""
    with pytest.raises(InvalidDataError, match="hidden: expected numbers under 4"):
        choose(chain(), [3] * 4, names(4), hidden=[4])


def linked(seed):
    """Rows of variables that hang together more or less, some constant, some absent in a part of the rows."""
    random = np.random.default_rng(seed)
    count, many = int(random.integers(2, 9)), int(random.integers(2, 300))
    cards = [int(card) for card in random.integers(1, 8, count)]
    base, noise = random.random(many), random.choice([0.05, 0.2, 1.0])
    columns = [
        np.clip((card * (base + random.normal(0, noise, many))).astype(int), 0, card - 1)
        * (random.random(many) < 0.8)
        for card in cards
    ]
    return np.stack(columns, axis=1), cards


@pytest.mark.parametrize("seed", range(25))
def test_tables_are_those_of_pgmpys_estimator(seed):
    """Of the same structure: to the last bit where it has edges, and to rounding where it has none."""
    rows, cards = linked(seed)
    families = learner._structure(rows, cards, 2)
    expected = pgmpy_reference.tables(rows, cards, families, 0.3)
    got = learner.tables(rows, cards, families, 0.3)
    if any(families):
        assert all(map(np.array_equal, got, expected))
    for one, other in zip(got, expected, strict=True):
        assert np.abs(one - other).max() < 1e-15


@pytest.mark.parametrize("seed", range(12))
def test_the_choice_is_that_of_pgmpys_estimator(monkeypatch, seed):
    """Network or marginals, by how many bits, and the network itself."""
    rows, cards = linked(100 + seed)
    hidden = [0] if seed % 2 else []
    made = choose(rows, cards, names(len(cards)), hidden=hidden)
    monkeypatch.setattr(learner, "tables", pgmpy_reference.tables)
    reference = choose(rows, cards, names(len(cards)), hidden=hidden)
    assert made.correlated == reference.correlated
    assert made.network.parents == reference.network.parents
    assert made.gain_bits == pytest.approx(reference.gain_bits, abs=1e-12)
    assert made.error_bits == pytest.approx(reference.error_bits, abs=1e-12)
    for one, other in zip(made.network.tables, reference.network.tables, strict=True):
        assert np.abs(one - other).max() < 1e-12


HEAVY = ("pgmpy", "pandas", "torch", "scipy", "sklearn", "networkx")

LEARNING = {
    "learn": """
from llmsched_langgraph._belief.fit.models import learn
from llmsched_langgraph._jobs.observed import observed
from llmsched_langgraph._belief.fit.template import template_of
from llmsched_langgraph.lab.sim.workloads import generate
jobs = [job for job in generate("predefined", 120, 0) if job.app == "sequence_sorting"]
assert learn(template_of(jobs[0].app, jobs), [observed(job) for job in jobs]).correlated
""",
    "a scheduler": """
from typing import TypedDict
from langchain_core.language_models import FakeListChatModel
from langgraph.graph import END, START, StateGraph
from llmsched_langgraph import Scheduler, schedule

class State(TypedDict, total=False):
    size: int

class Clock:
    now_s = 0.0
    def __call__(self):
        return self.now_s

class Model(FakeListChatModel):
    def _call(self, messages, *args, **more):
        clock.now_s += int(messages[-1].text)
        return "x"

clock, model = Clock(), Model(responses=["x"])
graph = (
    StateGraph(State)
    .add_node("plan", lambda state: model.invoke(str(1 + state["size"])) and {})
    .add_node("work", lambda state: model.invoke(str(10 + 10 * state["size"])) and {})
    .add_edge(START, "plan").add_edge("plan", "work").add_edge("work", END).compile(name="two")
)
with Scheduler(1, clock=clock) as scheduler:
    agent = schedule(graph, scheduler)
    for n in range(40):
        agent.invoke({"size": n % 4})
    scheduler.learn()
    (own,) = scheduler.profile.applications.values()
    assert own.model.correlated
""",
    "a simulated comparison": """
from llmsched_langgraph.cli.main import main
words = "bench --workload sequence_sorting --jobs 20 --policies fcfs,llmsched --seeds 1"
assert main(words.split()) == 0
""",
}


@pytest.mark.parametrize("code", LEARNING.values(), ids=LEARNING.keys())
def test_learning_needs_none_of_pgmpy(code):
    """Nor what pgmpy brings along: their import fails, here and in the processes that a command starts."""
    before = f"import sys\nsys.modules.update(dict.fromkeys({HEAVY}))\n"
    after = f"\nassert not any(sys.modules[name] for name in {HEAVY})"
    subprocess.run([sys.executable, "-c", before + code + after], check=True, capture_output=True)
