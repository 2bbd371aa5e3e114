"""`llmsched testbed`: both sides on the embedded backend and on an endpoint; its data, its errors."""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from llmsched_langgraph._extras import install
from llmsched_langgraph.cli.main import main
from llmsched_langgraph.lab.serve_sim.server import SimulatedBackend, running_backend
from llmsched_langgraph.lab.sim.workloads import generate
from llmsched_langgraph.lab.testbed.script import Script
from llmsched_langgraph.traces import write_jobs

PASS_KEYS = {"mean_jct_s", "p50_jct_s", "p95_jct_s", "makespan_s", "backend_peak"}
SMALL = ["--runs", "6", "--warmup", "4", "--slots", "2", "--load", "2"]


def shown(capsys, *arguments):
    status = main(["testbed", *arguments])
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    return out


@pytest.mark.parametrize("ahead", [0, 1])
def test_embedded(capsys, ahead):
    """The agreed keys; the lengths exact; the backend within its slots; the rounds and the applications."""
    arguments = ["--apps", "code_generation,web_search", "--rounds", "2", "--time-scale", "300", *SMALL]
    result = json.loads(shown(capsys, *arguments, "--ahead", str(ahead), "--json"))
    assert (result["runs"], result["warmup"], result["slots"], result["rounds"]) == (6, 4, 2, 2)
    assert set(result["stock"]) == set(result["scheduled"]) == PASS_KEYS
    assert result["scheduled"]["backend_peak"] <= 2 + ahead < result["stock"]["backend_peak"]
    assert all(seen["peak_waiting"] <= ahead for seen in result["engine"]["scheduled"])
    for side in ("stock", "scheduled"):
        assert len(result["by_round"]) == 2
        mean = sum(each[side]["mean_jct_s"] for each in result["by_round"]) / 2
        assert result[side]["mean_jct_s"] == pytest.approx(mean)
        lengths = result["lengths"][side]
        assert lengths["prompt_tokens"] == lengths["prompt_tokens_asked"] > 0
        assert lengths["output_tokens"] == lengths["output_tokens_asked"] > 0
        assert all(seen["peak_running"] <= 2 for seen in result["engine"][side])
    expected = 1 - result["scheduled"]["mean_jct_s"] / result["stock"]["mean_jct_s"]
    assert result["mean_jct_reduction"] == pytest.approx(expected)
    assert sum(app["runs"] for app in result["per_app"].values()) == 6
    assert set(result["per_app"]) <= {"code_generation", "web_search"}
    for app in result["per_app"].values():
        assert set(app) == {"runs", "stock_mean_jct_s", "scheduled_mean_jct_s", "mean_jct_reduction"}
    assert set(result["predicted"]) == {
        "stock_mean_jct_s",
        "scheduled_mean_jct_s",
        "mean_jct_reduction",
        "fit",
    }
    assert result["predicted"]["scheduled_mean_jct_s"] > 0
    assert set(result["predicted"]["fit"]) == {"speed", "handover_s"}
    assert (result["held_after"], result["waiting_after"]) == (0, 0)


def test_endpoint(capsys, tmp_path):
    """Any server: recorded jobs, made shorter; its speed measured, kept, and used; a table for people."""
    write_jobs(generate("chain", 12, 0), tmp_path / "jobs.jsonl")
    speed = tmp_path / "speed.json"
    with running_backend(SimulatedBackend(slots=2, time_scale=40)) as backend:
        where = ["--base-url", backend.base_url, "--time-scale", "20", "--ignore-eos", *SMALL]
        where += ["--traces", str(tmp_path / "jobs.jsonl")]
        speed.write_text(shown(capsys, *where, "--calibrate", "--json"))
        steps = json.loads(speed.read_text())["latency"]["decode_step_s"]
        assert [batch for batch, _ in steps] == [1, 2]
        assert "a decode step with 2 at once " in shown(capsys, *where, "--calibrate")
        table = shown(capsys, *where, "--latency", str(speed))
    for word in ("stock", "scheduled", "predicted", "web_search", "of the output tokens"):
        assert word in table


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--runs", "0"], "--runs must be at least 1, not 0"),
        (["--warmup", "-1"], "--warmup must be at least 0, not -1"),
        (["--slots", "0"], "--slots must be a whole number of at least 1"),
        (["--ahead", "-1"], "--ahead must be at least 0, not -1"),
        (["--load", "0"], "--load must be above 0, such as 0.9, not 0.0"),
        (["--rounds", "0"], "--rounds must be at least 1, not 0"),
        (["--time-scale", "0"], "--time-scale must be above 0, such as 20, not 0.0"),
        (["--policy", "magic"], "unknown policy 'magic'; choose one of: "),
        (["--mix", "magic"], "unknown workload 'magic'; choose one of "),
        (["--apps", "magic"], "--apps: no application is called 'magic'; choose from "),
        (["--apps", ","], "--apps: name one of "),
        (["--apps", "web_search", "--mix", "chain"], "give either --apps or --mix, not both"),
        (["--traces", "nowhere"], "nowhere"),
        (["--model", "m"], "--model is for an endpoint: name it with --base-url"),
        (["--base-url", "localhost:1"], "--base-url must be a URL such as http://127.0.0.1:8080/v1"),
        (
            ["--base-url", "http://127.0.0.1:9/v1", "--model", "m"],
            "no server answers at http://127.0.0.1:9/v1",
        ),
        (["--base-url", "http://127.0.0.1:abc/v1"], "--base-url must be a URL such as http://"),
        (["--base-url", "http://[::1/v1"], "--base-url must be a URL such as http://"),
        (["--base-url", "http:///v1"], "--base-url must be a URL such as http://"),
        (["--latency", "magic"], "--latency magic: neither a preset (llama-3.1-8b-h100, "),
    ],
)
def test_errors_are_one_line(refuses, arguments, words):
    """What is wrong and what to do, exit status 2."""
    refuses(["testbed", *arguments], words)


def test_a_refusal_is_one_line(capsys):
    """What the endpoint said, and what to do."""
    with running_backend(SimulatedBackend()) as backend:
        where = ["--base-url", backend.base_url, "--model", "nonsense", *SMALL]
        assert main(["testbed", *where]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"{backend.base_url} answered 404: " in err
    assert "The model 'nonsense' does not exist" in err


def test_a_terminal_has_bars_and_the_file_its_data(capsys, monkeypatch):
    """Whatever is drawn on a terminal, what is printed goes to the standard output."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    with running_backend(SimulatedBackend(slots=2, time_scale=400)) as backend:
        assert main(["testbed", "--base-url", backend.base_url, *SMALL, "--calibrate", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["latency"]["name"] == "measured"
    assert "calibration" in err


def test_no_two_passes_have_a_prompt_in_common(capsys, monkeypatch):
    """What one pass said a server may have kept, and the next would be faster for it."""
    salts = []

    def of(job, salt):
        salts.append(salt)
        return made(job, salt)

    made = Script.of
    monkeypatch.setattr(Script, "of", of)
    shown(capsys, "--apps", "web_search", "--time-scale", "400", "--rounds", "2", *SMALL)
    assert sorted(map(salts.count, set(salts))) == [4, 4, 6, 6, 6, 6]


@pytest.mark.parametrize("model", [[], ["--model", "m"]])
def test_a_page_is_no_endpoint(refuses, page, model):
    """What answers every request with HTML."""
    words = f"{page} answers, but not as an OpenAI-compatible server does; does the URL lack its /v1?"
    refuses(["testbed", "--base-url", page, *model, *SMALL], words)


@pytest.fixture
def page():
    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            text = b"<html></html>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_a_speed_that_is_no_text(refuses, tmp_path):
    """Bytes of something else."""
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")
    where = ["--base-url", "http://127.0.0.1:9/v1", "--latency", str(tmp_path / "x")]
    refuses(["testbed", *where], "no latency model in it")


def test_without_the_extra(capsys, monkeypatch):
    """One line that names the cure."""
    for name in [
        name
        for name in sys.modules
        if name.startswith(("llmsched_langgraph.lab.testbed", "langchain_openai"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "langchain_openai", None)
    assert main(["testbed", *SMALL]) == 2
    cure = f"llmsched: the testbed needs langchain_openai, of the extra `demo`: {install('demo')}\n"
    assert capsys.readouterr().err == cure
