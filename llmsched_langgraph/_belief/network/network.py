"""Defines a discrete Bayesian network as an immutable value with exact queries.

Does not interpret its variables, learn tables or implement inference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmsched_langgraph._belief.network import inference
from llmsched_langgraph._fields import Field
from llmsched_langgraph.errors import InvalidDataError

Evidence = Mapping[int, ArrayLike]
"""Soft evidence: for a variable's number, a nonnegative weight P(observation | state) per state.

Weights may have any common factor. One-hot weights are hard evidence. Missing variables are unobserved.
"""

MI_CELLS = 2**16
"""Maximum table size of `mutual_information`, in cells: five variables of seven states, 2 ms."""

ROUNDING = 1e-6
"""Maximum deviation of a distribution's sum from 1."""


@dataclass(frozen=True, slots=True)
class Information:
    """The mutual information of one variable with others.

    Attributes:
        bits: I(X; `of` | E), in bits: I(X; Y1..YM | E) if `exact`, else a lower bound of it.
        of: the Ys that were included, ascending.
        exact: whether X is independent of the omitted Ys, given `of` and E.
    """

    bits: float
    of: tuple[int, ...]
    exact: bool


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """P(X1..Xn) = prod_i P(Xi | parents of Xi), over variables numbered so that parents come first.

    Variables are addressed by number. Networks with equal names, cards, parents and tables are equal.

    Attributes:
        names: the unique name of each variable.
        cards: the number of states of each variable.
        parents: for each variable the numbers of its parents, ascending, all below its own.
        tables: for each variable P(variable | parents), shape (cards of the parents..., own card). The last
            axis sums to 1. Read-only.

    Raises:
        InvalidDataError: the fields are inconsistent, or a clique would exceed `inference.MAX_CELLS` cells.
    """

    names: tuple[str, ...]
    cards: tuple[int, ...]
    parents: tuple[tuple[int, ...], ...]
    tables: tuple[NDArray[np.float64], ...]
    _tree: tuple[inference.Clique, ...] = field(init=False, repr=False)
    _adjacent: tuple[frozenset[int], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        names, cards = tuple(self.names), tuple(self.cards)
        for i, name in enumerate(names):
            if not isinstance(name, str):
                raise InvalidDataError(f"names[{i}]: expected a string, got {name!r}")
        for i, card in enumerate(cards):
            if type(card) is not int or card < 1:
                raise InvalidDataError(f"cards[{i}]: expected a whole number >= 1, got {card!r}")
        if len(set(names)) != len(names):
            raise InvalidDataError(f"names: not unique: {sorted({n for n in names if names.count(n) > 1})}")
        for what, got in (("cards", cards), ("parents", self.parents), ("tables", self.tables)):
            if len(got) != len(names):
                raise InvalidDataError(f"{what}: {len(got)} entries for {len(names)} names")
        parents = tuple(_parents(own, i) for i, own in enumerate(self.parents))
        tables = tuple(
            _table(table, (*(cards[p] for p in own), card), i)
            for i, (table, own, card) in enumerate(zip(self.tables, parents, cards, strict=True))
        )
        for what, value in (("names", names), ("cards", cards), ("parents", parents), ("tables", tables)):
            object.__setattr__(self, what, value)
        near: list[set[int]] = [set() for _ in names]
        for i, own in enumerate(parents):
            for a in (*own, i):
                near[a].update((*own, i))
        object.__setattr__(self, "_adjacent", tuple(frozenset(own - {i}) for i, own in enumerate(near)))
        object.__setattr__(self, "_tree", inference.cliques(cards, parents, tables))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Network):
            return NotImplemented
        mine, its = (self.names, self.cards, self.parents), (other.names, other.cards, other.parents)
        return mine == its and all(map(np.array_equal, self.tables, other.tables))

    def __hash__(self) -> int:
        return hash((self.names, self.cards, self.parents))

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        edges = sum(map(len, self.parents))
        return f"<Network of {len(self)} variables, {edges} edges, {self.parameters} parameters>"

    @property
    def parameters(self) -> int:
        """The number of free parameters of the tables."""
        return sum(table.size - table.size // table.shape[-1] for table in self.tables)

    def adjacent(self, variable: int) -> frozenset[int]:
        """Return the Markov blanket: parents, children, and the children's other parents."""
        return self._adjacent[variable]

    def descendants(self, variable: int) -> tuple[int, ...]:
        """Return the variables with a directed path from `variable`, ascending."""
        found = {self._known(variable)}
        for i in range(variable + 1, len(self)):
            if found & set(self.parents[i]):
                found.add(i)
        return tuple(sorted(found - {variable}))

    def marginals(self, likelihoods: Evidence | None = None) -> tuple[NDArray[np.float64], ...]:
        """Return P(X | E) of each variable X: arrays of shape (card,) that sum to 1.

        Raises:
            InvalidDataError: the evidence is malformed, or has probability zero.
        """
        collected = inference.collect(self._tree, self._evidence(likelihoods))
        return tuple(rows[0] for rows in inference.marginals(self._tree, collected))

    def variants(
        self, likelihoods: Mapping[int, NDArray[np.float64]], changed: Sequence[tuple[int, int]]
    ) -> list[tuple[NDArray[np.float64], ...]]:
        """Return `marginals`, and then `marginals` once per change of one variable's state.

        All are computed in one batch. Only evidence of probability zero raises; shapes are not validated.

        Args:
            likelihoods: weights of shape (card,). Each changed variable must be among them.
            changed: (variable, state) pairs.
        """
        count = len(changed) + 1
        rows = dict(likelihoods)
        for at, (i, state) in enumerate(changed, 1):
            own = rows[i] if rows[i].ndim == 2 else np.repeat(rows[i][None], count, axis=0)
            own[at] = 0.0
            own[at, state] = 1.0
            rows[i] = own
        made = inference.marginals(self._tree, inference.collect(self._tree, rows))
        return [tuple(own[min(at, len(own) - 1)] for own in made) for at in range(count)]

    def evidence_bits(self, likelihoods: Evidence) -> float:
        """Return log2 P(E), P(E) being the expected likelihood. Raises as `marginals` does."""
        return float(inference.collect(self._tree, self._evidence(likelihoods)).bits[0])

    def entropy(self, variables: Iterable[int], likelihoods: Evidence | None = None) -> float:
        """Return H(variables | E), the joint Shannon entropy, in bits. Raises as `marginals` does.

        The joint table is not built: forty variables of seven states take 20 to 50 ms.
        """
        wanted = tuple(sorted(set(map(self._known, variables))))
        evidence = self._evidence(likelihoods)
        if len(wanted) == 1:
            tree = self._tree
            alone = inference.marginals(tree, inference.collect(tree, evidence))[wanted[0]]
            return inference.entropy_bits(alone[0])
        return inference.joint_entropy_bits(self.cards, self._factors(wanted, evidence))

    def mutual_information(
        self,
        x: int,
        ys: Iterable[int],
        likelihoods: Evidence | None = None,
        *,
        ranges: Mapping[int, float] | None = None,
        max_cells: int = MI_CELLS,
    ) -> Information:
        """Return the joint conditional mutual information of X and Y1..YM (LLMSched, Eq. 6).

        I(X; Y1..YM | E) = H(X | E) + H(Y1..YM | E) - H(X, Y1..YM | E). The sum of pairwise terms bounds it
        neither from above nor from below. Ys that the other Ys and the evidence separate from X contribute
        nothing and are dropped. If the remaining table has more than `max_cells` cells, Ys are added by
        descending range (then ascending number) while they fit. Information is monotone in the set of Ys,
        so the result is then a lower bound, and `exact` is False.

        Args:
            x: the variable X.
            ys: the variables Y1..YM; X among them is ignored.
            likelihoods: the evidence E; errors as in `marginals`.
            ranges: range of each Y, in s; 0 where missing.
            max_cells: maximum table size, in cells.
        """
        wanted = sorted(set(map(self._known, ys)) - {self._known(x)})
        evidence = self._evidence(likelihoods)
        settled = inference.known(evidence)
        if x in settled:
            inference.collect(self._tree, evidence)
            return Information(0.0, (), exact=True)
        wanted = [y for y in wanted if y not in settled]
        near = inference.requisite(self.parents, x, wanted, evidence)
        if exact := self._cells((x, *near), evidence) <= max_cells:
            chosen = near
        else:
            chosen = []
            for y in sorted(wanted, key=lambda y: (-(ranges or {}).get(y, 0.0), y)):
                more = inference.requisite(self.parents, x, [*chosen, y], evidence)
                if self._cells((x, *more), evidence) <= max_cells:
                    chosen = more
        _, table = inference.product(self.cards, self._factors((x, *chosen), evidence))
        total = table.sum()
        if not total > 0.0:
            raise InvalidDataError("likelihoods: the evidence has probability zero under the network")
        table = table / total
        axis = sorted((x, *chosen)).index(x)
        others = tuple(a for a in range(table.ndim) if a != axis)
        bits = inference.entropy_bits(table.sum(axis=others)) + inference.entropy_bits(table.sum(axis=axis))
        return Information(max(0.0, bits - inference.entropy_bits(table)), tuple(chosen), exact)

    def log_likelihood(self, rows: ArrayLike) -> NDArray[np.float64]:
        """Return log2 P(row) of each row, shape (rows,), for states of shape (rows, variables).

        Raises:
            InvalidDataError: a state is out of range, or the shape is wrong.
        """
        states = complete_rows(rows, self.cards)
        bits = np.zeros(len(states))
        with np.errstate(divide="ignore"):
            for i, (own, table) in enumerate(zip(self.parents, self.tables, strict=True)):
                bits += np.log2(table[tuple(states[:, v] for v in (*own, i))])
        return bits

    def sample(self, count: int, likelihoods: Evidence | None = None, *, seed: int = 0) -> NDArray[np.intp]:
        """Return `count` samples of P(all variables | E): states of shape (count, variables).

        Deterministic for a given network, evidence, count and seed. Raises as `marginals` does.
        """
        collected = inference.collect(self._tree, self._evidence(likelihoods))
        return inference.draw(self._tree, collected, count, np.random.default_rng(seed))

    def independent(self) -> Network:
        """Return the network without edges in which every variable keeps its marginal."""
        return Network(self.names, self.cards, ((),) * len(self), self.marginals())

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data; `from_json` restores the network exactly."""
        return {
            "names": list(self.names),
            "cards": list(self.cards),
            "parents": [list(own) for own in self.parents],
            "tables": [table.reshape(-1).tolist() for table in self.tables],
        }

    @classmethod
    def from_json(cls, data: Field) -> Network:
        """Return the network that `to_json` wrote.

        Raises:
            InvalidDataError: the data is damaged; the message names the field.
        """
        names = tuple(name.string() for name in data["names"].items())
        cards = tuple(card.count(least=1) for card in data["cards"].items())
        parents = tuple(tuple(parent.count() for parent in own.items()) for own in data["parents"].items())
        tables = tuple(np.array([p.number() for p in table.items()]) for table in data["tables"].items())
        try:
            return cls(names, cards, parents, tables)
        except InvalidDataError as error:
            raise data.placed(error) from None

    def _known(self, variable: int) -> int:
        if not 0 <= variable < len(self):
            raise InvalidDataError(f"variables: no number {variable} among {len(self)}")
        return variable

    def _evidence(self, likelihoods: Evidence | None) -> dict[int, NDArray[np.float64]]:
        checked = {}
        for i, given in (likelihoods or {}).items():
            weights = np.asarray(given, dtype=np.float64)
            # The negated comparison also rejects NaN.
            if weights.shape != (self.cards[self._known(i)],) or not weights.min() >= 0.0:
                raise InvalidDataError(
                    f"likelihoods[{i}]: expected {self.cards[i]} nonnegative weights, "
                    f"got {weights.tolist()!r:.60}"
                )
            if not 0.0 < weights.max() < np.inf:
                raise InvalidDataError(f"likelihoods[{i}]: weights must be finite and not all zero")
            checked[i] = weights
        return checked

    def _cells(self, keep: Sequence[int], evidence: Mapping[int, Any]) -> int:
        """Return the size of the largest table that the joint of `keep` needs, in cells."""
        largest = inference.largest_table(self.cards, self.parents, keep, evidence)
        return max(largest, prod(self.cards[v] for v in keep))

    def _factors(self, keep: Sequence[int], evidence: Mapping[int, Any]) -> list[inference.Factor]:
        return inference.eliminate(self.cards, self.parents, self.tables, keep, evidence)


def independent(names: Sequence[str], tables: Sequence[ArrayLike]) -> Network:
    """Return a network without edges whose `tables` are the marginals of the variables.

    Raises:
        InvalidDataError: as `Network`.
    """
    arrays = tuple(np.asarray(table, dtype=np.float64) for table in tables)
    return Network(tuple(names), tuple(table.size for table in arrays), ((),) * len(arrays), arrays)


def complete_rows(rows: ArrayLike, cards: Sequence[int]) -> NDArray[np.intp]:
    """Return rows of states as an array of shape (rows, variables), validated against `cards`.

    Raises:
        InvalidDataError: the shape is wrong, or a state is not an integer in range.
    """
    try:
        given = np.asarray(rows)
        states = (
            given.astype(np.intp, casting="safe")
            if given.size
            else np.zeros((len(given), len(cards)), np.intp)
        )
    except (TypeError, ValueError) as error:
        raise InvalidDataError(f"rows: expected integers, one list of states per row: {error}") from None
    if states.ndim != 2 or states.shape[1] != len(cards):
        raise InvalidDataError(
            f"rows: expected {len(cards)} states per row, got an array of shape {states.shape}"
        )
    wrong = np.argwhere((states < 0) | (states >= np.asarray(cards)))
    if wrong.size:
        r, v = map(int, wrong[0])
        raise InvalidDataError(f"rows[{r}][{v}]: state {states[r, v]} of a variable with {cards[v]} states")
    return states


def _parents(data: Any, i: int) -> tuple[int, ...]:
    if not isinstance(data, (list, tuple)) or any(type(parent) is not int for parent in data):
        raise InvalidDataError(f"parents[{i}]: expected a list of whole numbers, got {data!r}")
    own = tuple(data)
    if list(own) != sorted(set(own)) or (own and not 0 <= own[0] <= own[-1] < i):
        raise InvalidDataError(f"parents[{i}]: expected ascending numbers under {i}, got {list(own)}")
    return own


def _table(data: Any, shape: tuple[int, ...], i: int) -> NDArray[np.float64]:
    try:
        table = np.array(data, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidDataError(f"tables[{i}]: expected numbers") from None
    if table.size != prod(shape):
        raise InvalidDataError(f"tables[{i}]: {table.size} numbers for a table of shape {shape}")
    table = table.reshape(shape)
    if not (np.isfinite(table).all() and table.min() >= 0.0):
        raise InvalidDataError(f"tables[{i}]: expected probabilities, got {table.min()} .. {table.max()}")
    sums = table.sum(axis=-1)
    if np.abs(sums - 1.0).max() > ROUNDING:
        worst = sums.flat[int(np.abs(sums - 1.0).argmax())]
        raise InvalidDataError(f"tables[{i}]: a distribution sums to {worst:.6g}, not 1")
    table.setflags(write=False)
    return table
