"""`examples/watching`: its dashboard and rules ask for metrics that exist, and its program serves them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
import yaml

from llmsched_langgraph._observe.metrics import LEDGER, METRICS, SCHEDULER, SHARED_METRICS

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "watching"
DASHBOARD = json.loads((EXAMPLE / "dashboard.json").read_text())
RULES = yaml.safe_load((EXAMPLE / "alerts.yml").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = {
    f"{panel['title']} {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]
}
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
OF_PROMETHEUS = {"job", "instance", "le"}
"""Labels that Prometheus itself adds."""


def samples():
    """The labels of each sample that is exported, by its name."""
    found = {}
    for metrics, first in ((METRICS, SCHEDULER), (SHARED_METRICS, LEDGER)):
        for metric in metrics:
            labels = {first, *metric.labels} | OF_PROMETHEUS - {"le"}
            endings = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
            for ending in endings[metric.kind]:
                found[metric.exposed + ending] = labels | ({"le"} if ending == "_bucket" else set())
    return found


def selectors(query):
    """Each metric that a query selects, with the labels of its selector."""
    found = re.findall(r"\b(llmsched_\w+)(?:\{([^}]*)\})?", query)
    return [(name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels))) for name, labels in found]


def kept(query):
    """The labels that a query keeps."""
    groups = re.findall(r"\bby\s*\(([^)]*)\)", query)
    return {name.strip() for names in groups for name in names.split(",")}


@pytest.mark.parametrize(
    "query", [*QUERIES.values(), *(rule["expr"] for rule in ALERTS.values())], ids=[*QUERIES, *ALERTS]
)
def test_queries_name_what_exists(query):
    """Metrics by their exported names; each label belongs to every metric of its query."""
    there, selected = samples(), selectors(query)
    assert selected
    for name, labels in selected:
        assert labels <= there[name], name
        assert kept(query) - ({"le"} if not name.endswith("_bucket") else set()) <= there[name], name


@pytest.mark.parametrize(
    "query", [*QUERIES.values(), *(rule["expr"] for rule in ALERTS.values())], ids=[*QUERIES, *ALERTS]
)
def test_queries_are_promql(query):
    """As a parser of Prometheus' language has it; Grafana puts its own variables in before."""
    promql = pytest.importorskip("promql_parser")
    promql.parse(query.replace("$__rate_interval", "5m"))


def test_every_metric_is_shown():
    """No metric is exported that the dashboard leaves out."""
    shown = set(re.findall(r"\bllmsched_\w+", " ".join(QUERIES.values())))
    families = {re.sub("_(total|bucket|sum|count)$", "", name) for name in shown}
    assert families == {metric.exposed for metric in (*METRICS, *SHARED_METRICS)}


def test_the_dashboard_can_be_imported():
    """What Grafana needs of it: an id, a place for each panel, the data source as a variable."""
    assert DASHBOARD["uid"] == "llmsched"
    assert DASHBOARD["schemaVersion"] >= 39
    variables = {own["name"]: own for own in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    for name in ("scheduler", "backend"):
        there = re.findall(r"\bllmsched_\w+", variables[name]["definition"])
        assert there
        assert all(name in samples()[metric] for metric in there)
        assert variables[name]["query"]["query"] == variables[name]["definition"]
    used = set(re.findall(r"\$\{?(\w+)", json.dumps([DASHBOARD["panels"], DASHBOARD["templating"]])))
    assert used - {"__all", "__rate_interval"} == variables.keys()
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in PANELS:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])


def test_the_rules_can_be_loaded():
    """Each has what Prometheus wants, and says in words what is wrong, of labels that its query keeps."""
    assert len(ALERTS) == sum(len(group["rules"]) for group in RULES["groups"])
    assert len({group["name"] for group in RULES["groups"]}) == len(RULES["groups"])
    for name, rule in ALERTS.items():
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s")), name
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        told = re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values()))
        assert set(told) <= kept(rule["expr"]), name
    readme = (EXAMPLE / "README.md").read_text()
    assert set(re.findall(r"`(LLMSched\w+)`", readme)) == ALERTS.keys()


def test_prometheus_finds_the_rules_and_the_ports():
    """The configuration names files that are there, and the ports of the two programs."""
    from llmsched_langgraph.cli.metrics import PORT

    found = yaml.safe_load((EXAMPLE / "prometheus.yml").read_text())
    assert all((EXAMPLE / name).exists() for name in found["rule_files"])
    targets = [
        target
        for job in found["scrape_configs"]
        for own in job["static_configs"]
        for target in own["targets"]
    ]
    assert targets == ["127.0.0.1:9400", f"127.0.0.1:{PORT}"]


@pytest.mark.timeout(120)
def test_the_program_serves_its_metrics():
    """While its agents run; the tenants that share the slots are all in them."""
    environment = {
        name: own for name, own in os.environ.items() if not name.startswith(("LLMSCHED", "OPENAI"))
    }
    command = [sys.executable, "agents.py", "--port", "0", "--time-scale", "20"]
    with subprocess.Popen(
        command, cwd=EXAMPLE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        killer = threading.Timer(100, process.kill)
        killer.start()
        try:
            url = process.stdout.readline().split()[1]
            tenants = set()
            while tenants < {"gold", "silver", "trial"}:
                with urllib.request.urlopen(url, timeout=20) as answer:
                    text = answer.read().decode()
                tenants |= set(re.findall(r'llmsched_calls_total\{.*tenant="(\w+)"', text))
        finally:
            killer.cancel()
            process.kill()
    assert 'llmsched_slots_limit{backend="default",scheduler="default"} 4.0' in text
