// Shows one job: its figures, and a row for each call.

function showDetail(job) {
  const stages = job.stages.flatMap((stage) => (stage.calls.length ? stage.calls.map((call) => [stage, call]) : [[stage, null]]));
  const after = (stage) => (stage.deps.length ? stage.deps.map((number) => number + 1).join(", ") : "");
  const [head, ...lines] = aboutJob(job);
  document.getElementById("detail").replaceChildren(
    make("h3", {}, head),
    make("ul", {}, ...lines.map((line) => make("li", {}, line))),
    table("Stages and calls; times in seconds after the arrival", [
      ["Stage", ([stage]) => `${stage.number + 1}. ${stageName(stage)}${stage.tool ? `, tool ${shown(stage.tool)}` : ""}`],
      ["After", ([stage]) => after(stage)],
      ["Kind", ([stage]) => (stage.llm ? "LLM" : "tool")],
      ["Backend", ([, call]) => (call && call.takesSlot ? backendName(call.backend) : "")],
      ["Asked", ([, call]) => (call ? moment(call.asked) : "")],
      ["Granted", ([, call]) => (call ? moment(call.granted) : "")],
      ["Ended", ([, call]) => (call ? moment(call.ended) : "")],
      ["Wait", ([, call]) => (call && call.takesSlot ? duration(call.wait) : "")],
      ["Seconds", ([, call]) => (call ? duration(call.seconds) + (call.derived ? " (derived)" : "") : "")],
      ["Tokens in", ([, call]) => (call ? call.prompt?.toLocaleString("en") ?? "" : "")],
      ["out", ([, call]) => (call ? call.output?.toLocaleString("en") ?? "" : "")],
      ["Attempts", ([, call]) => (call ? String(call.attempts) : "")],
      ["Reason", ([, call]) => (call ? shown(call.reason) : "")],
    ], stages, 100),
    make("button", { type: "button", onclick: closeDetail }, "Close"));
}

function closeDetail() {
  document.getElementById("detail").replaceChildren();
  document.getElementById("rows").focus();
}

function moment(seconds) {
  return seconds === null ? "" : seconds.toLocaleString("en", { maximumFractionDigits: 6 });
}
