"""Writes the README's tables of policies from what `llmsched bench` measured.

llmsched bench --paper paper --jobs 300 --seeds 6
llmsched bench --traces TRACES --slots 4 --load 0.9 --seeds 5 --json traces.json
python benchmarks/readme_bench.py paper "recorded applications"=traces.json [WHAT=FILE ...]

WHAT is how the tables call the rows of a file of recorded jobs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marked import table, write

from llmsched_langgraph.policies import llmsched

POLICIES = (
    "fcfs",
    "app_fifo",
    "fair",
    "plas",
    "sjf",
    "justitia",
    "hermes",
    "srtf_marginal",
    "srtf",
    "llmsched",
    "gittins",
)
TAILS = ("fcfs", "plas", "justitia", "srtf", "llmsched", "gittins")
TAILS_AT = 0.9
"""The load at which tails are compared."""


@dataclass(frozen=True)
class Setting:
    """All policies at one workload and load."""

    what: str
    load: float
    entries: dict[str, dict[str, Any]]

    @property
    def title(self) -> str:
        """What the rows call it."""
        return f"{self.what}, load {self.load:g}"

    def times(self, policy: str, key: str, than: str) -> str:
        """A figure of a policy as times that of another one; empty if it was not measured."""
        if policy not in self.entries:
            return ""
        return f"{self.entries[policy][key] / self.entries[than][key]:.2f}"


def settings(path: Path, what: str | None = None) -> Iterator[Setting]:
    """Those of a result, in its order; `what` names its workload, else it names its own."""
    found: dict[tuple[str, float], dict[str, dict[str, Any]]] = {}
    for entry in json.loads(path.read_text())["summary"]:
        found.setdefault((entry["workload"], entry["load"]), {})[entry["policy"]] = entry
    for (workload, load), entries in found.items():
        yield Setting(what or f"`{workload}`", load, entries)


def policies(found: list[Setting]) -> str:
    """JCT over the clairvoyant's by policy, and what llmsched saves against fcfs."""
    rows = []
    for setting in found:
        own = setting.entries["llmsched"]
        means = [
            f"{setting.entries[name]['vs_clairvoyant']:.2f}" if name in setting.entries else ""
            for name in POLICIES
        ]
        rows.append([setting.title, *means, f"{own['vs']['fcfs']:.0%} ± {own['vs_ci95']['fcfs'] * 100:.0f}"])
    head = ["mean JCT, as times the clairvoyant's", *(f"`{name}`" for name in POLICIES), "`llmsched` saves"]
    return table(head, rows)


def tails(found: list[Setting]) -> str:
    """Mean, p99 and the worst slowdown of each policy, as times those of llmsched."""
    rows = []
    for setting in found:
        if setting.load != TAILS_AT:
            continue
        for key, name in (
            ("mean_jct_s", "mean JCT"),
            ("p99_jct_s", "p99 JCT"),
            ("worst_slowdown", "worst slowdown"),
        ):
            rows.append(
                [f"{setting.what}, {name}", *(setting.times(policy, key, "llmsched") for policy in TAILS)]
            )
    return table([f"load {TAILS_AT:g}, as times `llmsched`", *(f"`{name}`" for name in TAILS)], rows)


def parameters(found: list[Setting]) -> str:
    """The mean JCT of llmsched by epsilon and sampling ratio, as times that of srtf."""
    names = [name for name in found[0].entries if name not in ("srtf", "clairvoyant")]
    usual = llmsched().exploration
    assert usual is not None
    plain = f"epsilon={usual.epsilon:g},sample={usual.sample:g}"
    shown = {name: name.partition("(")[2].rstrip(")") or plain for name in names}
    cells = {name: dict(part.split("=") for part in text.split(",")) for name, text in shown.items()}
    ratios = list(dict.fromkeys(cell["sample"] for cell in cells.values()))
    rows = []
    for epsilon in dict.fromkeys(cell["epsilon"] for cell in cells.values()):
        row = {cell["sample"]: name for name, cell in cells.items() if cell["epsilon"] == epsilon}
        rows.append(
            [
                epsilon,
                *(setting.times(row[ratio], "mean_jct_s", "srtf") for setting in found for ratio in ratios),
            ]
        )
    head = ["epsilon", *(f"{setting.what}, r {ratio}" for setting in found for ratio in ratios)]
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("paper", type=Path, help="the folder of `llmsched bench --paper`")
    parser.add_argument("files", metavar="WHAT=FILE", nargs="*")
    parser.add_argument("--dry-run", action="store_true", help="print the tables and leave the README alone")
    options = parser.parse_args()
    found = list(settings(options.paper / "workloads.json"))
    for given in options.files:
        what, _, path = given.partition("=")
        found += settings(Path(path), what)
    swept = list(settings(options.paper / "sensitivity.json"))
    for name, text in (
        ("policies", policies(found)),
        ("tails", tails(found)),
        ("parameters", parameters(swept)),
    ):
        print(text)
        if not options.dry_run:
            write(name, text)


if __name__ == "__main__":
    main()
