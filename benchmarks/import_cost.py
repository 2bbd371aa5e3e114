"""Measures what importing the package costs beside `import langgraph.graph`: ratios, side by side.

    python benchmarks/import_cost.py [--repeats 15]

Each statement runs in fresh processes, in turn, and the fastest of each counts: everything slower is
the machine's doing. Also says which heavy modules an import pulled in.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

BASELINE = "import langgraph.graph"
STATEMENTS = (
    BASELINE,
    "import llmsched_langgraph",
    "import langgraph.graph, llmsched_langgraph",
    "from llmsched_langgraph import schedule, Scheduler",
    "from llmsched_langgraph import schedule, Scheduler, wrap_openai",
)
HEAVY = ("pgmpy", "pandas", "sklearn", "scipy", "torch", "numpy", "openai", "tiktoken", "starlette", "rich")

PROBE = """
import sys, time
begin = time.perf_counter()
{statement}
print(time.perf_counter() - begin, *[name for name in {heavy} if name in sys.modules])
"""


def measure(statement: str) -> tuple[float, list[str]]:
    code = PROBE.format(statement=statement, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, *heavy = done.stdout.split()
    return float(seconds), heavy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15, help="fresh processes for each statement")
    options = parser.parse_args()
    best = dict.fromkeys(STATEMENTS, float("inf"))
    pulled: dict[str, list[str]] = {}
    for _ in range(options.repeats):
        for statement in STATEMENTS:
            seconds, pulled[statement] = measure(statement)
            best[statement] = min(best[statement], seconds)
    print(f"{'ratio':>6}  {'heavy modules':<24}  statement")
    for statement in STATEMENTS:
        heavy = ", ".join(pulled[statement]) or "none"
        print(f"{best[statement] / best[BASELINE]:6.3f}  {heavy:<24}  {statement}")


if __name__ == "__main__":
    main()
