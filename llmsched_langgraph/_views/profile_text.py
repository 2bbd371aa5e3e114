"""Writes the summary of a profile as lines of text, for a terminal.

Does not compute the statistics.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmsched_langgraph._belief.profile.summary import Summary
from llmsched_langgraph._jobs.observed import Unit

WORDS = {
    Unit.SECONDS: "seconds in slots",
    Unit.TOKENS: "output tokens",
    Unit.TOOL_SECONDS: "seconds of tools",
}


def profile_text(summary: Summary) -> str:
    """Return the head, the stage table, the network's edges, and the entropy by finished stages."""
    return "\n".join((*_head(summary), *_stages(summary), *_edges(summary), *_entropy(summary)))


def _head(summary: Summary) -> Iterator[str]:
    yield f"{summary.name}  fingerprint {summary.fingerprint}"
    kept = "" if summary.remembered == summary.jobs else f", the latest {summary.remembered} remembered"
    yield (
        f"  {_jobs(summary.jobs)}{kept}; {WORDS[summary.unit]} of a job: mean {_amount(summary.mean)}, "
        f"median {_amount(summary.median)}"
    )
    if summary.model is None:
        yield "  no model was learned yet"
    else:
        what = "a network" if summary.model == "network" else "stages taken independently"
        how = "given" if summary.given else "learned"
        yield f"  model: {what}, {how} after {_jobs(summary.modelled)}"


def _stages(summary: Summary) -> Iterator[str]:
    if not summary.stages:
        return
    head = ["stage", "jobs", "present", "mean", "median", "teaches"]
    rows = [
        [
            own.stage or "all calls",
            str(own.jobs),
            f"{100 * own.present:.0f} %",
            _amount(own.mean),
            _amount(own.median),
            _amount(own.informative),
        ]
        for own in summary.stages
    ]
    yield ""
    yield from _table([head, *rows])
    most = sorted((own for own in summary.stages if own.informative > 0), key=lambda own: -own.informative)[
        :3
    ]
    if most:
        names = _and([own.stage or "all calls" for own in most])
        yield f"  Most informative about the remaining work: {names} (bits times the range of the work)."


def _edges(summary: Summary) -> Iterator[str]:
    if summary.depends:
        yield ""
        yield "  What depends on what:"
        width = max(len(own) for own, _ in summary.depends)
        for own, on in summary.depends:
            yield f"    {own:{width}}  on {_and(on)}"


def _entropy(summary: Summary) -> Iterator[str]:
    if summary.entropy_bits:
        yield ""
        yield f"  Entropy of a job in bits by finished stages, mean of the latest {_jobs(summary.followed)}:"
        heads = [str(n) for n in range(len(summary.entropy_bits))]
        cells = [f"{bits:.1f}" for bits in summary.entropy_bits]
        width = max(map(len, (*heads, *cells)))
        for row in (heads, cells):
            yield "    " + "  ".join(f"{cell:>{width}}" for cell in row)


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        name, *cells = row
        yield "  " + "  ".join(
            (f"{name:{widths[0]}}", *(f"{c:>{w}}" for c, w in zip(cells, widths[1:], strict=True)))
        )


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _jobs(count: int) -> str:
    return f"{count:,} job{'' if count == 1 else 's'}"


def _amount(amount: float) -> str:
    return f"{amount:,.0f}" if amount >= 100 else f"{amount:.3g}" if amount >= 1e-3 else f"{amount:.2f}"
