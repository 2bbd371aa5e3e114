"""Writes the README's table of policies from what `llmsched bench --json` measured.

python benchmarks/readme_bench.py WHAT=FILE [WHAT=FILE ...]

WHAT is how the table calls the rows of a file with one workload; a file with several brings their names.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
MARKED = re.compile(r"(<!-- policies: .*? -->\n).*?(<!-- /policies -->)", re.DOTALL)
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


def rows(what: str, path: Path) -> list[list[str]]:
    """A row for each workload and load: JCT over the clairvoyant's by policy, and what llmsched saves."""
    result = json.loads(path.read_text())
    found: dict[tuple[str, float], dict[str, dict[str, object]]] = {}
    for entry in result["summary"]:
        found.setdefault((entry["workload"], entry["load"]), {})[entry["policy"]] = entry
    several = len({workload for workload, _ in found}) > 1
    made = []
    for (workload, load), entries in found.items():
        saved = entries["llmsched"]["vs"]
        assert isinstance(saved, dict)
        named = f"`{workload}`" if several else what
        cells = [f"{entries[name]['vs_clairvoyant']:.2f}" if name in entries else "" for name in POLICIES]
        made.append([f"{named}, load {load:g}", *cells, f"{saved['fcfs']:.0%}"])
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", metavar="WHAT=FILE", nargs="+")
    parser.add_argument("--dry-run", action="store_true", help="print the table and leave the README alone")
    options = parser.parse_args()
    body = []
    for given in options.files:
        what, _, path = given.partition("=")
        body += rows(what, Path(path))
    head = ["mean JCT, as times the clairvoyant's", *(f"`{name}`" for name in POLICIES), "saved against fcfs"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    if options.dry_run:
        print(text)
        return
    README.write_text(MARKED.sub(lambda marks: marks[1] + text + marks[2], README.read_text()))


if __name__ == "__main__":
    main()
