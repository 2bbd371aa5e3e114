"""`llmsched profile show` and its sisters: what they print and write, and errors in one line."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from support.beliefs import fan_job, loop_job
from support.profiles import TEMPLATE, profile

from llmsched_langgraph._belief.profile.serialization import profile_from_json
from llmsched_langgraph._extras import install
from llmsched_langgraph._learning.stores import DirectoryStore
from llmsched_langgraph.cli.main import main
from llmsched_langgraph.traces import EndedCall, EndedStage, write_jobs

pytestmark = pytest.mark.timeout(120)  # pgmpy takes seconds to import


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("traces")
    write_jobs([fan_job(n, (1, 2, 4)[n % 3]) for n in range(30)], folder / "fan.jsonl.gz")
    write_jobs([loop_job(n, 1 + n % 3) for n in range(20)], folder / "loop.jsonl")
    return folder


@pytest.fixture(scope="module")
def fitted(traces):
    out = traces.parent / "fitted.json"
    assert main(["profile", "fit", str(traces), str(out)]) == 0
    return out


def ran(capsys, *words):
    """Exit status, output and errors of `llmsched profile`."""
    status = main(["profile", *map(str, words)])
    return status, *capsys.readouterr()


def refused(capsys, *words):
    """The one line that an error is."""
    status, _, err = ran(capsys, *words)
    *_, line = err.splitlines()
    assert status == 2
    assert line.startswith("llmsched: ")
    return line


def test_fit_learns_and_writes_one_file(traces, fitted, tmp_path, capsys):
    status, out, err = ran(capsys, "fit", traces / "fan.jsonl.gz", traces / "loop.jsonl", tmp_path / "x.json")
    assert (status, out.splitlines()[-1]) == (
        0,
        f"2 applications of 50 jobs written to {tmp_path / 'x.json'}",
    )
    assert "[1/2] fan: 30 jobs" in err
    assert (tmp_path / "x.json").read_bytes() == fitted.read_bytes()
    learned = profile_from_json(json.loads(fitted.read_text()))
    assert learned.jobs(TEMPLATE.fingerprint) == 30
    for own in learned.applications.values():
        assert own.model is not None
        assert own.modelled == own.jobs == len(own.outcomes)
        assert len(own.history.ids) == own.jobs


def test_fit_weighs_structures(traces, tmp_path, capsys):
    """A table of all for each application; the one with the fewest bits is chosen."""
    _, out, err = ran(capsys, "fit", traces, tmp_path / "x.json")
    head, *rows = [line.split() for line in out.splitlines()[:11]]
    assert head == ["application", "jobs", "structure", "bits/job", "chosen"]
    for app, jobs in (("fan", "30"), ("loop", "20")):
        own = [row for row in rows if row[0] == app]
        assert [row[1] for row in own] == [jobs] * 5
        assert [row[2] for row in own] == ["own", "hill-climb", "ges", "chow-liu", "marginals"]
        (chosen,) = (row for row in own if row[-1] == "yes")
        bits = [float(row[3]) for row in own if row[3] != "left"]
        assert float(chosen[3]) == min(bits)
    assert "left out" not in err.replace("ges left out", "")


def test_fit_prints_data(traces, tmp_path, capsys):
    """One list, and nothing else on the standard output."""
    status, out, err = ran(capsys, "fit", traces / "fan.jsonl.gz", tmp_path / "x.json", "--json")
    (data,) = json.loads(out)
    assert status == 0
    assert f"1 application of 30 jobs written to {tmp_path / 'x.json'}" in err
    assert (data["app"], data["fingerprint"], data["jobs"]) == ("fan", TEMPLATE.fingerprint, 30)
    assert [one["structure"] for one in data["structures"]][-1] == "marginals"
    assert sum(one["chosen"] for one in data["structures"]) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("own",),
        ("hill-climb",),
        ("hill-climb", "--score", "bdeu"),
        ("ges",),
        ("ges", "--score", "bdeu"),
        ("chow-liu",),
    ],
    ids=" ".join,
)
def test_fit_with_the_structure_asked_for(traces, tmp_path, capsys, words):
    """It alone beside the marginals; and it stays, unless it is the scheduler's own."""
    name, *more = words
    arguments = (traces / "fan.jsonl.gz", tmp_path / "x.json", "--json", "--structure", name, *more)
    status, out, _ = ran(capsys, "fit", *arguments)
    (data,) = json.loads(out)
    assert status == 0
    assert [(one["structure"], one["chosen"]) for one in data["structures"]] == [
        (name, True),
        ("marginals", False),
    ]
    learned = profile_from_json(json.loads((tmp_path / "x.json").read_text()))
    assert learned.applications[TEMPLATE.fingerprint].model.given is (name != "own")


def test_fit_with_the_edges_of_a_file(traces, fitted, tmp_path, capsys):
    """Those of a network that was handed out and written by pgmpy; tables are learned anew."""
    from pgmpy.readwrite import BIFWriter

    network = profile_from_json(json.loads(fitted.read_text())).to_pgmpy("fan")
    file = tmp_path / "fan.bif"
    BIFWriter(network).write(str(file))
    made = tmp_path / "x.json"
    assert ran(capsys, "fit", traces / "fan.jsonl.gz", made, "--structure", file)[0] == 0
    own = profile_from_json(json.loads(made.read_text())).to_pgmpy("fan")
    assert set(own.edges) == set(network.edges)
    line = refused(capsys, "fit", traces, made, "--structure", file)
    assert f"--structure {file} is the network of one application, but the jobs belong to 2:" in line
    line = refused(capsys, "fit", traces / "loop.jsonl", made, "--structure", file)
    assert f"loop: --structure {file}: network: the model has no variable 'fan_out:map'" in line
    line = refused(capsys, "fit", traces, made, "--structure", tmp_path / "no.bif")
    assert "no.bif" in line


def test_fit_refuses_what_goes_with_nothing(traces, tmp_path, capsys):
    """A score where nothing is scored, one that GES cannot use, and a structure that is none."""
    out = tmp_path / "x.json"
    words = "--score bic goes with --structure hill-climb or ges, not chow-liu; leave it out"
    assert words in refused(capsys, "fit", traces, out, "--structure", "chow-liu", "--score", "bic")
    words = "--score k2: GES needs a score that is equal for equivalent networks; use bdeu or bic"
    assert words in refused(capsys, "fit", traces, out, "--structure", "ges", "--score", "k2")
    for option, words in (
        (
            ("--structure", "pc"),
            "must be own, hill-climb, ges, chow-liu or a file that ends in .bif, not 'pc'",
        ),
        (("--score", "aic"), "invalid choice: 'aic'"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["profile", "fit", str(traces), str(out), *option])
        assert ended.value.code == 2
        assert words in capsys.readouterr().err
    assert not out.exists()
    status, _, err = ran(capsys, "fit", traces / "fan.jsonl.gz", out, "--score", "k2")
    assert status == 0
    assert "ges left out: GES needs a score that is equal for equivalent networks: bic or bdeu" in err


def test_fit_learns_what_a_live_scheduler_would_find(tmp_path, capsys):
    """A node's own code, where it took long, is no node of the graph: the profile is that of the graph."""
    fan = fan_job(0, 2)
    first, *rest = fan.stages
    code = EndedStage(name=f"{first.name} (code)", kind="tool", deps=(), calls=(EndedCall(None, None, 0.2),))
    moved = [replace(stage, deps=tuple(dep + 1 for dep in stage.deps)) for stage in rest]
    busy = replace(fan, id="busy", stages=(code, replace(first, deps=(0,)), *moved))
    write_jobs([*(fan_job(n, 2) for n in range(5)), busy], tmp_path / "fan.jsonl")
    assert ran(capsys, "fit", tmp_path / "fan.jsonl", tmp_path / "x.json")[0] == 0
    learned = profile_from_json(json.loads((tmp_path / "x.json").read_text()))
    assert learned.jobs(TEMPLATE.fingerprint) == 6


def test_show_prints_all_or_one(fitted, capsys):
    _, out, _ = ran(capsys, "show", fitted)
    assert [line.split()[0] for line in out.splitlines() if "fingerprint" in line] == ["fan", "loop"]
    for name in ("fan", TEMPLATE.fingerprint):
        _, out, _ = ran(capsys, "show", fitted, name, "--json")
        (data,) = json.loads(out)
        assert (data["name"], data["fingerprint"], data["jobs"]) == ("fan", TEMPLATE.fingerprint, 30)


def test_a_file_goes_into_a_store_and_comes_out(fitted, tmp_path, capsys):
    """Merged: what is taken in twice counts once."""
    store = tmp_path / "store"
    for _ in range(2):
        status, out, _ = ran(capsys, "import", fitted, store)
        assert status == 0
        assert f"fan: 30 jobs taken in, 30 in {store}" in out
    status, out, _ = ran(capsys, "export", store, tmp_path / "out.json")
    assert out == f"2 applications of 50 jobs written to {tmp_path / 'out.json'}\n"
    one, other = (profile_from_json(json.loads(path.read_text())) for path in (fitted, tmp_path / "out.json"))
    assert {own.outcomes for own in one.applications.values()} == {
        own.outcomes for own in other.applications.values()
    }
    # One file of a store is a profile, too.
    _, out, _ = ran(capsys, "show", store / f"{TEMPLATE.fingerprint}.json")
    assert out.startswith("fan")


def test_what_a_store_cannot_read_is_told(tmp_path, capsys):
    DirectoryStore(tmp_path).save(profile(range(6)))
    (tmp_path / "bad.json").write_text("{")
    status, out, err = ran(capsys, "show", tmp_path)
    assert status == 0
    assert out.startswith("fan")
    assert err.startswith(f"left out: {tmp_path / 'bad.json'}: is not a complete JSON document")
    (tmp_path / f"{TEMPLATE.fingerprint}.json").unlink()
    assert str(tmp_path / "bad.json") in refused(capsys, "show", tmp_path)


def test_draw(fitted, tmp_path, capsys):
    out = tmp_path / "fan.svg"
    status, told, _ = ran(capsys, "draw", fitted, "fan", out)
    assert (status, told) == (0, f"fan: network of 30 jobs drawn into {out}\n")
    assert "work of split" in {element.text for element in ET.fromstring(out.read_text()).iter()}
    pytest.importorskip("matplotlib")
    assert ran(capsys, "draw", fitted, "fan", tmp_path / "fan.png")[0] == 0
    assert (tmp_path / "fan.png").stat().st_size > 5_000


def test_plot(traces, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "plot.png"
    status, told, _ = ran(capsys, "plot", traces, out, "--seed", "1")
    assert (status, told) == (0, f"2 applications drawn into {out}\n")
    assert out.stat().st_size > 5_000
    write_jobs([fan_job(n, (1, 2, 4)[n % 3]) for n in range(100, 140)], tmp_path / "train.jsonl")
    status, told, err = ran(capsys, "plot", traces, tmp_path / "x.svg", "--train", tmp_path / "train.jsonl")
    assert told == f"1 application drawn into {tmp_path / 'x.svg'}\n"
    assert "left out: loop" in err


def test_without_matplotlib(fitted, traces, tmp_path, capsys, monkeypatch):
    """SVG needs nothing; what needs it says how to get it."""
    for name in [
        name for name in sys.modules if name.startswith(("matplotlib", "llmsched_langgraph._views.p"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    cure = f"needs matplotlib, of the extra `plots`: {install('plots')}"
    assert cure in refused(capsys, "draw", fitted, "fan", tmp_path / "x.png")
    assert cure in refused(capsys, "plot", traces, tmp_path / "x.png")
    assert ran(capsys, "draw", fitted, "fan", tmp_path / "x.svg")[0] == 0


def test_errors_name_the_thing_and_the_cure(fitted, traces, tmp_path, capsys):
    missing, empty = tmp_path / "missing", tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "foreign.json").write_text('{"format": "x"}')
    nothing = tmp_path / "nothing.jsonl"
    nothing.write_text("")
    for words, line in {
        ("show", missing): f"{missing}: cannot be read: No such file or directory",
        ("show", empty): f"{empty}: there are no profiles in the folder",
        ("show", tmp_path / "foreign.json"): "foreign.json: version: is missing",
        ("show", fitted, "other"): "has no application 'other'; it has: fan, loop",
        ("draw", fitted, "other", tmp_path / "x.svg"): "has no application 'other'; it has: fan, loop",
        ("draw", fitted, "fan", tmp_path / "x.gif"): "x.gif: name a file that ends in .svg or .png",
        ("draw", fitted, "fan", missing / "x.svg"): f"OUT {missing / 'x.svg'}: No such file or directory",
        ("plot", traces, tmp_path / "x"): "x: name a file that ends in .png or .svg",
        (
            "fit",
            traces,
            empty,
        ): f"OUT {empty} is a folder; give a file name. To merge FILE into that store, run",
        ("fit", traces, missing / "x.json"): f"OUT {missing / 'x.json'}: No such file or directory",
        ("fit", nothing, tmp_path / "x.json"): "nothing.jsonl",
        ("export", fitted, empty): f"OUT {empty} is a folder",
        ("import", fitted, tmp_path / "foreign.json"): "foreign.json is not a folder; name the folder",
        ("import", missing, empty): f"{missing}: cannot be read",
    }.items():
        assert line in refused(capsys, *words), words


def test_applications_of_one_name_are_panels_by_policy(tmp_path, capsys):
    store = DirectoryStore(tmp_path)
    store.save(profile(range(3)))
    assert "no model was learned of its 3 jobs yet" in refused(
        capsys, "draw", tmp_path, "fan", tmp_path / "x.svg"
    )
    write_jobs([loop_job(n, 1, "fan") for n in range(9)], tmp_path / "x.jsonl")
    ran(capsys, "fit", tmp_path / "x.jsonl", tmp_path / "x.out")
    ran(capsys, "import", tmp_path / "x.out", tmp_path)
    line = refused(capsys, "draw", tmp_path, "fan", tmp_path / "x.svg")
    assert "several applications are called fan; name one of " in line
    assert TEMPLATE.fingerprint in line
