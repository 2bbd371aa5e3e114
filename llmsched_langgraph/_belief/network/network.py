"""Knows a discrete Bayesian network as a frozen value, and the questions that it answers exactly.

Does not know what its variables stand for, how it was learned, or how inference works.
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
"""Likelihoods: for a variable's number, a nonnegative weight for each of its states.

One-hot says which state it is; zeros and ones say which states it can still be; anything between
is P(what was seen | state), up to a constant. A variable that is missing was not seen at all.
"""

MI_CELLS = 2**16
"""Cells of the largest table that a mutual information may cost: five variables of seven states, 2 ms."""

ROUNDING = 1e-6
"""How far from 1 a stored distribution may sum."""


@dataclass(frozen=True, slots=True)
class Information:
    """What one variable tells of others.

    Attributes:
        bits: I(X; Y1..YM | E), or with `exact` False the part of it that `of` accounts for: a lower bound.
        of: the Ys that were counted, ascending.
        exact: whether leaving out the other Ys changed nothing.
    """

    bits: float
    of: tuple[int, ...]
    exact: bool


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """P(X1..Xn) = prod_i P(Xi | parents of Xi), over variables numbered so that parents come first.

    Variables are spoken of by number; `number(name)` finds it. Two networks are equal if they have
    the same names, cards, parents and tables.

    Attributes:
        names: one unique name a variable.
        cards: how many states each variable has.
        parents: each variable's parents, ascending, all smaller than itself.
        tables: conditional probabilities, one array of shape (cards of the parents..., own card) a
            variable, each row along the last axis summing to 1. Read-only.

    Raises:
        InvalidDataError: a field does not fit the others, or no exact inference is affordable.
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
        """How many free probabilities the tables hold."""
        return sum(table.size - table.size // table.shape[-1] for table in self.tables)

    def number(self, name: str) -> int:
        """The variable of that name.

        Raises:
            InvalidDataError: there is none.
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise InvalidDataError(f"names: no variable {name!r}") from None

    def adjacent(self, variable: int) -> frozenset[int]:
        """Its parents, its children, and the other parents of those: all that it depends on by itself."""
        return self._adjacent[variable]

    def descendants(self, variable: int) -> tuple[int, ...]:
        """All variables that a directed path leads to from `variable`, ascending, itself not among them."""
        found = {self._known(variable)}
        for i in range(variable + 1, len(self)):
            if found & set(self.parents[i]):
                found.add(i)
        return tuple(sorted(found - {variable}))

    def marginals(self, likelihoods: Evidence | None = None) -> tuple[NDArray[np.float64], ...]:
        """P(X | E) of every variable X: arrays of shape (card,), each summing to 1.

        Raises:
            InvalidDataError: the evidence is malformed, or has probability zero.
        """
        collected = inference.collect(self._tree, self._evidence(likelihoods))
        return tuple(rows[0] for rows in inference.marginals(self._tree, collected))

    def variants(
        self, likelihoods: Mapping[int, NDArray[np.float64]], changed: Sequence[tuple[int, int]]
    ) -> list[tuple[NDArray[np.float64], ...]]:
        """`marginals`, first as they are, and then once for each change: that a variable is in another state.

        Much cheaper than one by one. The likelihoods are taken as they are. Errors as in `marginals`.

        Args:
            likelihoods: sound ones; each changed variable has one.
            changed: the variable, and its state.
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
        """log2 of P(E), the likelihoods' expectation under the network. Errors as in `marginals`."""
        return float(inference.collect(self._tree, self._evidence(likelihoods)).bits[0])

    def joint(self, variables: Sequence[int], likelihoods: Evidence | None = None) -> NDArray[np.float64]:
        """P(variables | E): an array with one axis a variable, in the order given, summing to 1.

        Raises:
            InvalidDataError: as in `marginals`, or the table would exceed `inference.MAX_CELLS` cells.
        """
        wanted = tuple(map(self._known, variables))
        if len(set(wanted)) != len(wanted):
            raise InvalidDataError(f"variables: named twice in {list(wanted)}")
        evidence = self._evidence(likelihoods)
        scope, table = inference.product(self.cards, self._factors(wanted, evidence))
        total = table.sum()
        if not total > 0.0:
            raise InvalidDataError("likelihoods: the evidence has probability zero under the network")
        return np.transpose(table / total, [scope.index(v) for v in wanted])

    def entropy(self, variables: Iterable[int], likelihoods: Evidence | None = None) -> float:
        """H(variables | E), the joint Shannon entropy, in bits. Errors as in `joint`.

        The joint table is not made, so all variables of a long network can be asked for: 5 to 20 ms
        for twenty of seven states, 20 to 50 ms for forty.
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
        """I(X; Y1..YM | E) = H(X | E) + H(Y1..YM | E) - H(X, Y1..YM | E), in bits: Eq. 6 of LLMSched.

        The Ys count *jointly*: what two of them both tell counts once, and what only both together
        tell counts too, so a sum over pairs is neither a bound from above nor from below. Ys that the
        other Ys and the evidence separate from X change nothing and are dropped first. If the table of
        X and the rest still has more than `max_cells` cells, Ys are taken in descending order of
        `ranges` (seconds; then ascending number) while they fit: more Ys never tell less, so that is
        a lower bound, and `exact` is False. Errors as in `marginals`.
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
        """log2 P(row) of each complete row, in bits: shape (rows,) for states of shape (rows, variables).

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
        """`count` independent draws from P(all variables | E): states of shape (count, variables).

        The same network, evidence, count and seed give the same rows. Errors as in `marginals`.
        """
        collected = inference.collect(self._tree, self._evidence(likelihoods))
        return inference.draw(self._tree, collected, count, np.random.default_rng(seed))

    def independent(self) -> Network:
        """The network without its edges: every variable keeps its marginal."""
        return Network(self.names, self.cards, ((),) * len(self), self.marginals())

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; `from_json` of it is equal to this network, to the last bit."""
        return {
            "names": list(self.names),
            "cards": list(self.cards),
            "parents": [list(own) for own in self.parents],
            "tables": [table.reshape(-1).tolist() for table in self.tables],
        }

    @classmethod
    def from_json(cls, data: Field) -> Network:
        """The network that `to_json` wrote.

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
            # One comparison each refuses NaN too.
            if weights.shape != (self.cards[self._known(i)],) or not weights.min() >= 0.0:
                raise InvalidDataError(f"likelihoods[{i}]: expected {self.cards[i]} nonnegative weights")
            if not 0.0 < weights.max() < np.inf:
                raise InvalidDataError(f"likelihoods[{i}]: all zero or infinite")
            checked[i] = weights
        return checked

    def _cells(self, keep: Sequence[int], evidence: Mapping[int, Any]) -> int:
        """Cells of the largest table that the joint of `keep` takes, on the way or at the end."""
        largest = inference.largest_table(self.cards, self.parents, keep, evidence)
        return max(largest, prod(self.cards[v] for v in keep))

    def _factors(self, keep: Sequence[int], evidence: Mapping[int, Any]) -> list[inference.Factor]:
        return inference.eliminate(self.cards, self.parents, self.tables, keep, evidence)


def independent(names: Sequence[str], tables: Sequence[ArrayLike]) -> Network:
    """A network without edges: `tables` are the variables' own distributions, one after the other.

    Raises:
        InvalidDataError: as `Network`.
    """
    arrays = tuple(np.asarray(table, dtype=np.float64) for table in tables)
    return Network(tuple(names), tuple(table.size for table in arrays), ((),) * len(arrays), arrays)


def complete_rows(rows: ArrayLike, cards: Sequence[int]) -> NDArray[np.intp]:
    """Rows of states, checked against the variables' cards: shape (rows, variables).

    Raises:
        InvalidDataError: the shape is wrong, or a state is no whole number in range.
    """
    try:
        given = np.asarray(rows)
        states = (
            given.astype(np.intp, casting="safe")
            if given.size
            else np.zeros((len(given), len(cards)), np.intp)
        )
    except (TypeError, ValueError) as error:
        raise InvalidDataError(f"rows: expected whole numbers, a list of states a row: {error}") from None
    if states.ndim != 2 or states.shape[1] != len(cards):
        raise InvalidDataError(
            f"rows: expected {len(cards)} states a row, got an array of shape {states.shape}"
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
