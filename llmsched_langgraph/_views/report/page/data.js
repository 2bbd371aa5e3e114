// Reads the data of the page. The order of the lists is that of `data.py`.

const page = JSON.parse(document.getElementById("data").textContent);
const { figures, about } = page;
const word = (number) => (number === null ? null : page.words[number]);

const jobs = page.jobs.map((job, number) => readJob(job, number));

function readJob(job, number) {
  const made = {
    ...job, number,
    app: word(job.app), tenant: word(job.tenant), end: page.ends[job.end],
    stages: job.stages.map(readStage),
  };
  made.calls = made.stages.flatMap((stage) => stage.calls);
  made.timed = made.calls.filter((call) => call.takesSlot && call.asked !== null && call.granted !== null && call.ended !== null);
  const last = made.timed.reduce((most, call) => Math.max(most, call.ended), 0);
  made.length = Math.max(job.jct === null ? 0 : job.jct + job.paused, last);
  return made;
}

function readStage([name, llm, occurrence, deps, tool, calls], number) {
  const stage = { name: word(name), llm: Boolean(llm), occurrence, deps, tool: word(tool), number };
  stage.calls = calls.map((call) => readCall(stage, call));
  return stage;
}

function readCall(stage, [prompt, output, seconds, asked, granted, ended, wait, backend, attempts, reason, derived]) {
  const name = word(backend);
  return {
    stage, prompt, output, seconds, asked, granted, ended, wait, attempts, derived: Boolean(derived),
    backend: name, reason: word(reason), takesSlot: stage.llm || name !== "",
  };
}

// The calls of a job by lane: those of a lane do not overlap.
function lanes(job) {
  if (!job.lanes) {
    job.lanes = [];
    for (const call of [...job.timed].sort((one, two) => one.asked - two.asked || one.ended - two.ended)) {
      let lane = job.lanes.find((own) => own[own.length - 1].ended <= call.asked);
      if (!lane) job.lanes.push(lane = []);
      lane.push(call);
    }
  }
  return job.lanes;
}

function stageName(stage) {
  const name = stage.name === "" ? "call outside any stage" : shown(stage.name);
  return stage.occurrence > 1 ? `${name} (${stage.occurrence})` : name;
}

function tenantName(tenant) {
  return tenant === null ? "without a tenant" : shown(tenant);
}

function backendName(backend) {
  return backend === "" ? "unnamed backend" : shown(backend);
}

// What a tooltip and a screen reader say of a job.
function aboutJob(job) {
  const [mean, low, high] = job.predicted ?? [];
  return [
    `${shown(job.app)}, job ${shown(job.id)}`,
    `${job.end}; ${tenantName(job.tenant)}; priority ${job.priority}`,
    `arrived: ${job.arrival === null ? NOT_RECORDED : `${exact(job.arrival)} after the first`}`,
    `JCT: ${exact(job.jct)}${job.paused ? ` without ${exact(job.paused)} of pauses` : ""}`,
    `waits of its ${count(job.calls.length, "call")}: ${exact(job.wait)}; waiting for ${exact(job.waiting)}`,
    `slowdown: ${times(job.slowdown)}; work: ${exact(job.work)}`,
    job.predicted ? `predicted work: ${exact(mean)} (${exact(low)} to ${exact(high)})` : "predicted work: not recorded",
  ];
}

function aboutCall(job, call) {
  return [
    `${stageName(call.stage)} at ${backendName(call.backend)}`,
    `waited ${exact(call.wait)}${call.reason ? `, granted by reason "${shown(call.reason)}"` : ""}`,
    `in a slot for ${exact(call.seconds)}${call.derived ? " (derived)" : ""}${call.attempts > 1 ? `, ${call.attempts} attempts` : ""}`,
    `asked ${exact(call.asked)}, granted ${exact(call.granted)}, ended ${exact(call.ended)} after the arrival`,
    `tokens: ${count(call.prompt)} in, ${count(call.output)} out`,
    `${shown(job.app)}, job ${shown(job.id)}, ${job.end}`,
  ];
}
