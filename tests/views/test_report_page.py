"""The page in a browser: it draws a thousand jobs, answers hover, filter, zoom and keys, without an error."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from PIL import Image
from support.browser import browser
from support.recordings import NASTY, recording

from llmsched_langgraph.reports import Report
from llmsched_langgraph.traces import EndedCall

JOBS = 1000

RUNNING = """(() => {
  const drawn = document.querySelector("#rows canvas");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [drawn.width, drawn.height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(drawn, 0, 0);
  const [r, g, b] = getComputedStyle(document.documentElement).getPropertyValue("--run").trim()
    .match(/[0-9a-f]{2}/g).map((part) => parseInt(part, 16));
  const { data, width } = context.getImageData(0, 0, canvas.width, canvas.height);
  const found = [];
  for (let at = 0; at < data.length; at += 4) {
    if (data[at] !== r || data[at + 1] !== g || data[at + 2] !== b) continue;
    found.push((at / 4) % width, Math.floor(at / 4 / width));
  }
  return found;
})()"""
"""The pixels of running calls in the rows: x, y, x, y, ..."""


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("browser")) as tab:
        yield tab


@pytest.fixture(scope="module")
def day():
    return recording(JOBS)


@pytest.fixture
def open_page(tab, tmp_path):
    """Opens the page of some jobs; at the end, it must have complained of nothing and loaded nothing else."""

    def open_(jobs, **window):
        path = tmp_path / "report.html"
        path.write_text(Report(jobs, "day.jsonl").html(), encoding="utf-8")
        tab.open(path.as_uri(), **window)
        tab.run("document.getElementById('jobs').scrollIntoView()")
        return tab.drawn()

    yield open_
    assert tab.complaints == []
    assert len(tab.loaded) == 1


def text(tab, selector):
    return tab.run(f"document.querySelector({selector!r}).textContent")


def click(tab, selector):
    tab.run(f"document.querySelector({selector!r}).click()")
    tab.drawn()


def write(tab, words):
    """Replace the text of the filter."""
    tab.run("(() => { const field = document.getElementById('filter'); field.focus(); field.select(); })()")
    tab.write(words)


def spot(tab):
    """A point of a running call: x and y in the window, and the number of its row among those in sight."""
    found = tab.run(RUNNING)
    assert found
    left, top, *_ = tab.box("#rows")
    middle = len(found) // 4 * 2
    return left + found[middle], top + found[middle + 1]


def seen(tab, path):
    """The colours in the window."""
    tab.screenshot(path)
    with Image.open(path) as image:
        return {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}


def axis(tab):
    """How many seconds a pixel is, by the tooltips of the slots, which share the time axis with the rows."""
    moments = []
    tab.run("document.querySelector('#slots .chart canvas').scrollIntoView()")
    tab.drawn()
    left, top, width, height = tab.box("#slots .chart canvas")
    for part in (0.3, 0.8):
        tab.mouse("mouseMoved", left + part * width, top + height / 2)
        moments.append(float(re.search(r", ([\d,.]+) s after", text(tab, "#tip"))[1].replace(",", "")))
    return (moments[1] - moments[0]) / (0.5 * width)


def test_a_thousand_jobs_are_drawn(open_page, day):
    """Rows are drawn where they are in sight; all figures are on the page."""
    tab = open_page(day)
    assert text(tab, "#count") == "1,000 jobs"
    assert tab.run(RUNNING)
    click(tab, "#fit")
    first = tab.run(RUNNING)
    assert len(first) > 2000
    tab.run("document.getElementById('rows').scrollTop = 1e9")
    tab.drawn()
    click(tab, "#fit")
    last = tab.run(RUNNING)
    assert len(last) > 2000
    assert last != first
    tab.run("document.getElementById('rows').focus()")
    tab.key("End")
    assert f"job {max(day, key=lambda job: job.arrival_s).id}." in text(tab, "#spoken")
    made = Report(day).figures
    summary = text(tab, "#summary")
    assert "1,000" in summary
    assert f"{100 * made['waiting_share']:.1f} %" in summary
    for app in ("research", "support", "report"):
        assert app in text(tab, "#paid")
    assert f"{100 * made['prediction']['inside']:.1f} %" in text(tab, "#predicted")


def test_hover_tells_exact_figures(open_page, day):
    """Of the call under the pointer, and of the job in whose row it is."""
    tab = open_page(day)
    write(tab, f"id:{day[7].id}")
    by_id = {job.id: job for job in day if day[7].id in job.id}
    assert text(tab, "#count") == f"{len(by_id)} of 1,000 jobs"
    click(tab, "#fit")
    x, y = spot(tab)
    tab.mouse("mouseMoved", x, y)
    said = text(tab, "#tip")
    job = by_id[re.search(r"job (\S+),", said)[1]]
    waits = {
        f"waited {round(call.granted_s - call.asked_s, 6):.6f}".rstrip("0").rstrip(".")
        for call in job.llm_calls()
    }
    assert re.search(r"waited [\d.]+", said)[0] in waits
    assert any(f"in a slot for {call.seconds:,.6f}".rstrip("0") in said for call in job.llm_calls())
    tab.mouse("mouseMoved", tab.box("#rows")[0] + 20, y)
    assert f"JCT: {job.jct_s:,.6f}".rstrip("0") in text(tab, "#tip")
    tab.mouse("mouseMoved", 2, 2)
    assert tab.run("document.getElementById('tip').hidden")


def test_filter_and_sort(open_page, day):
    """By any word, by field, and by names in the tables."""
    tab = open_page(day)
    for words, passes in {
        "end:failed": lambda job: job.end == "failed",
        "app:support gold": lambda job: job.app == "support" and job.tenant == "gold",
        "SUPPORT": lambda job: job.app == "support",
        '"no such job"': lambda job: False,
    }.items():
        write(tab, words)
        count = sum(map(passes, day))
        assert text(tab, "#count") == f"{count} of 1,000 jobs", words
    click(tab, "#paid button")
    chosen = Report(day).figures["paid"]["app"][0]
    assert text(tab, "#count") == f"{chosen['jobs']} of 1,000 jobs"
    write(tab, " ")
    choose = "(() => { const s = document.getElementById('sort'); s.value = 'jct'; %s })()"
    tab.run(choose % "s.dispatchEvent(new Event('change'));")
    tab.run("document.getElementById('rows').focus()")
    for click_, pick in ((False, min), (True, max)):
        if click_:
            click(tab, "#direction")
            tab.run("document.getElementById('rows').focus()")
        tab.key("Home")
        assert f"job {pick(day, key=lambda job: job.jct_s).id}." in text(tab, "#spoken")


def test_zoom_and_pan(open_page, day):
    """By wheel, drag, keys and buttons; the place under the pointer stays."""
    tab = open_page(day)
    whole = axis(tab)  # which scrolls the chart into view
    x, y, width, height = tab.box("#slots .chart canvas")
    middle = (x + width / 2, y + height / 2)
    for times in (1, 2):
        tab.mouse("mouseWheel", *middle, deltaX=0, deltaY=-400, modifiers=2)
        assert axis(tab) == pytest.approx(whole / 2.718281828**times, rel=0.01)
    tab.mouse("mouseMoved", *middle)
    before = text(tab, "#tip")
    tab.mouse("mousePressed", *middle, button="left", buttons=1, clickCount=1)
    tab.mouse("mouseMoved", middle[0] - 100, middle[1], button="left", buttons=1)
    tab.mouse("mouseReleased", middle[0] - 100, middle[1], button="left", clickCount=1)
    tab.mouse("mouseMoved", middle[0] - 99, middle[1])
    tab.mouse("mouseMoved", middle[0] - 100, middle[1])
    after = text(tab, "#tip")
    assert re.search(r"[\d,.]+ s after", before)[0] == re.search(r"[\d,.]+ s after", after)[0]
    tab.run("document.getElementById('rows').focus()")
    near = axis(tab)
    tab.key("+")
    assert axis(tab) == pytest.approx(near / 1.5, rel=0.01)
    tab.key("0")
    assert axis(tab) == pytest.approx(whole, rel=0.001)
    click(tab, "#closer")
    assert axis(tab) == pytest.approx(whole / 1.5, rel=0.01)


def test_jobs_from_their_own_arrivals(open_page, day):
    """All begin at the left; slots over time are out of sight until the reader goes back."""
    tab = open_page(day)
    choose = "(() => { const s = document.getElementById('align'); s.value = '%s'; %s })()"
    event = "s.dispatchEvent(new Event('change'));"
    tab.run(choose % ("aligned", event))
    tab.drawn()
    click(tab, "#fit")
    found = tab.run(RUNNING)
    assert min(found[::2]) < 250
    assert tab.run("document.getElementById('slots').hidden")
    tab.run(choose % ("clock", event))
    tab.drawn()
    assert not tab.run("document.getElementById('slots').hidden")
    assert axis(tab) > 0.0


def test_a_report_draws_itself_in_a_notebook(tab, day, tmp_path):
    """In a frame that reaches nothing around it."""
    path = tmp_path / "notebook.html"
    path.write_text(f"<!DOCTYPE html><html><body>{Report(day)._repr_html_()}</body></html>", encoding="utf-8")
    tab.open(path.as_uri())
    _, _, width, height = tab.box("iframe")
    assert (width > 1000, height) == (True, 720)
    wait = (0xB4, 0x53, 0x09)  # the bars of the waits, which the script of the page draws
    while wait not in seen(tab, tmp_path / "notebook.png"):
        tab.drawn()  # a frame of another process comes later
    assert tab.complaints == []
    assert [address for address in tab.loaded if not address.startswith("about:")] == [path.as_uri()]


def test_keys_choose_a_job_and_show_its_calls(open_page, day):
    """What the rows show is read out; the calls of a job are a table."""
    tab = open_page(day)
    tab.run("document.getElementById('rows').focus()")
    tab.key("ArrowDown")
    tab.key("ArrowDown")
    chosen = sorted(day, key=lambda job: job.arrival_s)[1]
    assert f"job {chosen.id}. {chosen.end}" in text(tab, "#spoken")
    tab.key("Enter", "\r")
    calls = list(chosen.llm_calls())
    assert tab.run("document.querySelectorAll('#detail tbody tr').length") == len(calls)
    assert tab.run("document.activeElement.id") == "detail"
    assert f"{calls[-1].ended_s:.6f}".rstrip("0") in text(tab, "#detail")
    click(tab, "#detail button")
    assert tab.run("document.activeElement.id") == "rows"


def test_both_themes_and_a_phone(open_page, day, tmp_path):
    """The system's theme, until the reader chooses; nothing is wider than a phone."""
    back = "getComputedStyle(document.body).backgroundColor"
    tab = open_page(day, dark=True)
    dark = tab.run(back)
    click(tab, "#theme")
    light = tab.run(back)
    click(tab, "#theme")
    assert (tab.run(back), light) == (dark, "rgb(255, 255, 255)")
    assert dark != light
    tab = open_page(day, width=390, height=800, touch=True)
    assert tab.run("document.documentElement.scrollWidth") <= 390
    click(tab, "#fit")
    assert len(tab.run(RUNNING)) > 500


def test_names_of_any_kind_are_texts(open_page):
    """Scripts, quotes, marks that turn the direction, and letters that are none."""
    jobs = []
    for number, job in enumerate(recording(4 * len(NASTY))):
        name = NASTY[number % len(NASTY)]
        stages = tuple(
            replace(
                stage,
                name=name,
                tool=name,
                calls=tuple(replace(call, backend=name, reason=name) for call in stage.calls),
            )
            for stage in job.stages
        )
        jobs.append(replace(job, id=f"{name}{number}", app=name, tenant=name, stages=stages))
    tab = open_page(jobs)
    assert tab.run("document.scripts.length") == 2
    tab.run("document.getElementById('rows').focus()")
    for _ in range(len(NASTY)):
        tab.key("ArrowDown")
        tab.key("Enter", "\r")
        tab.run("document.getElementById('rows').focus()")
    for at in range(2 * len(NASTY)):  # the names of applications and tenants set the filter
        click(tab, f"#paid tbody tr:nth-child({at % len(NASTY) + 1}) button")
        assert text(tab, "#count") == f"4 of {len(jobs)} jobs"
    assert "</script><script>alert(1)</script>" in text(tab, "#paid")
    assert "\\u202egpj.exe\\u2066" in text(tab, "#paid")
    assert "\u202e" not in tab.run("document.body.innerText")
    assert tab.run("document.documentElement.scrollWidth <= innerWidth")


def test_without_times_the_page_says_so(open_page, day):
    """Jobs, calls and work are there."""
    jobs = [
        replace(
            job,
            arrival_s=None,
            jct_s=None,
            predicted=None,
            stages=tuple(
                replace(
                    stage,
                    calls=tuple(
                        EndedCall(call.prompt_tokens, call.output_tokens, call.seconds)
                        for call in stage.calls
                    ),
                )
                for stage in job.stages
            ),
        )
        for job in day[:20]
    ]
    tab = open_page(jobs)
    assert "The times of calls were not recorded" in text(tab, "#summary")
    assert tab.run("document.getElementById('slots')") is None
    assert "No prediction was recorded" in text(tab, "#predicted")
    assert tab.run(RUNNING) == []
    tab.run("document.getElementById('rows').focus()")
    tab.key("ArrowDown")
    tab.key("Enter", "\r")
    assert tab.run("document.querySelectorAll('#detail tbody tr').length") == len(list(day[0].llm_calls()))
