"""Results of a comparison made by hand: rows as `measure` gives them."""

from __future__ import annotations

from llmsched_langgraph.lab.sim.evaluation import summary


def row_of(policy, seed, mean, **changes):
    """One row of these figures; all others are as good as any."""
    about = {"workload": "w", "load": 0.9, "slots": 2, "jobs": 3}
    figures = {"mean_jct_s": mean, "lower_bound_s": 5.0, "slowdown_by_size": [1.5, 2.0 + seed, mean / 5]}
    figures["worst_slowdown"] = 7.0 + seed
    figures |= {f"p{n}_jct_s": mean * n / 50 for n in (50, 95, 99)}
    figures |= {f"decision_us_p{n}": float(n) for n in (50, 99)}
    return {**about, **figures, "policy": policy, "seed": seed, **changes}


def result_of(rows, focus, reference="clairvoyant"):
    """What `llmsched bench --json` writes for these rows."""
    policies = [name for name in dict.fromkeys(row["policy"] for row in rows) if name != reference]
    return {"meta": {"policies": policies, "focus": focus}, "rows": rows, "summary": summary(rows)}
