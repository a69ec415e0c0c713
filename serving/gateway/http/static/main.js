"use strict";
// The list of jobs: filters, pages, and reading it again while something changes.

const list = { token: "", before: [], reading: false, again: false, rest: 0, live: true };
const filters = { search: $("filters").querySelector("[name=search]"), state: $("filters").querySelector("[name=state]"),
  task: $("filters").querySelector("[name=task]") };
options(filters.task, [["", "all tasks"], ...Object.entries(NAMES)]);

const filtered = () => Object.values(filters).some(input => input.value);

// In the part of the address that no server sees: prompts stay out of logs.
function remember() {
  const kept = Object.entries(filters).filter(([, input]) => input.value).map(([name, input]) => [name, input.value]);
  history.replaceState(null, "", kept.length ? "#" + new URLSearchParams(kept) : location.pathname);
}
function recall() {
  const kept = new URLSearchParams(location.hash.slice(1));
  for (const [name, input] of Object.entries(filters)) input.value = kept.get(name) || "";
}

function query() {
  const task = filters.task.value && "task=" + filters.task.value;
  const filter = [filters.state.value, task].filter(Boolean).join(" AND ");
  return new URLSearchParams(Object.entries({ filter, search: filters.search.value.trim(), page_token: list.token })
    .filter(([, value]) => value));
}

async function toFirstPage() {
  Object.assign(list, { token: "", before: [] });
  await refresh();
}

async function refresh() {
  if (list.reading) { list.again = true; return; } // what is being read may be from before
  list.reading = true;
  const started = performance.now();
  let used = key;
  try {
    do {
      list.again = false;
      used = key;
      const state = await read("/state?" + query());
      if (!model || !state.models.includes(model.name)) await choose("");
      offerModels(state.models);
      draw(state);
      if (!$("engines").hidden) drawQueue(await read("/queue"));
      $("link").textContent = "";
    } while (list.again);
  } catch (error) {
    $("link").textContent = error.message;
    list.live = true;
    // What was read with the key before says nothing of this one.
    if (error.status === 401 && !list.asked && used === key) { list.asked = true; askKey(key && error.message); }
  } finally {
    list.reading = false;
    list.rest = performance.now() - started;
  }
}

function draw(state) {
  $("model").textContent = state.models.join(", ");
  $("queued").textContent = state.queued;
  $("running").textContent = state.running;
  document.title = state.running ? `${state.running} running · Zoetrope` : "Zoetrope";
  drawEngines(state.engines);
  const nodes = state.jobs.map(update), kept = new Set(state.jobs.map(job => job.id));
  for (const id of [...cards.keys()]) if (!kept.has(id)) forget(id);
  const jobs = $("jobs");
  nodes.forEach((node, i) => { if (jobs.children[i] !== node) jobs.insertBefore(node, jobs.children[i] || null); });
  list.next = state.next_page_token;
  list.live = state.jobs.some(job => !FINAL.includes(job.state));
  const since = state.searched_to === null ? "" : "searched back to " + new Date(state.searched_to * 1000).toLocaleString();
  $("empty").hidden = nodes.length > 0;
  $("empty").textContent = since ? "Nothing yet, " + since + "." : filtered() ? "No video matches."
    : list.before.length ? "No older videos." : "No videos yet. Describe one, and it will appear here.";
  $("pager").hidden = !list.before.length && !list.next;
  $("newer").disabled = !list.before.length;
  $("older").disabled = !list.next;
  $("place").textContent = "page " + (list.before.length + 1) + (since && nodes.length ? ", " + since : "");
}

function drawEngines(engines) {
  const ready = engines.filter(engine => engine.state === "ready").length;
  $("engine-count").textContent = ready === engines.length ? `${ready} engine${ready === 1 ? "" : "s"}`
    : `${ready} of ${engines.length} engines ready`;
  $("engines-toggle").classList.toggle("up", ready > 0);
  $("no-engines").hidden = engines.length > 0;
  const table = $("engines").querySelector("table");
  table.hidden = !engines.length;
  table.querySelector("tbody").replaceChildren(...engines.map(engine => {
    const lost = Object.entries(engine.restarts).filter(([, count]) => count).map(([why, count]) => count + " " + why);
    const runs = element("td");
    for (const job of engine.jobs)
      runs.append(element("p", "", job.prompt || job.id, element("span", "soft", ` step ${job.step} of ${job.steps}`)));
    if (engine.others) runs.append(element("p", "soft", engine.others + (engine.others === 1 ? " job" : " jobs") + " of others"));
    if (!runs.childNodes.length) runs.append(element("span", "soft", "nothing now"));
    const cells = [engine.model, engine.state, engine.ranks, lost.join(", ") || "none", stepOf(engine)];
    const name = element("th", "", engine.id);
    name.scope = "row";
    return element("tr", "", name, ...cells.map(text => element("td", "", String(text))), runs);
  }));
}

// Of the newest finished step: what it took, and what had been predicted.
function stepOf(engine) {
  if (engine.step_seconds === null) return "–";
  const predicted = engine.expected_step_seconds;
  return brief(engine.step_seconds) + (predicted === null ? "" : ", predicted " + brief(predicted));
}
const brief = seconds => seconds < 10 ? Math.round(1000 * seconds) + " ms" : number(seconds) + " s";

function drawQueue({ queues, waiting }) {
  rows("queue", queues.map(queue => [queue.others ? "all others" : queue.tenant || "(no key)", queue.model, queue.queued,
    queue.running, number(queue.gpu_seconds)]));
  rows("waiting", waiting.map(job => [job.prompt || job.id, job.queue_position,
    job.eta_seconds === null ? "–" : duration(job.eta_seconds), job.notice]));
}

function rows(id, lines) {
  $(id).hidden = !lines.length;
  $(id).querySelector("tbody").replaceChildren(...lines.map(([first, ...rest]) => {
    const name = element("th", "", first);
    name.scope = "row";
    return element("tr", "", name, ...rest.map(text => element("td", "", String(text))));
  }));
}

$("engines-toggle").addEventListener("click", () => {
  const open = $("engines").hidden;
  $("engines").hidden = !open;
  $("engines-toggle").setAttribute("aria-expanded", String(open));
  if (open) refresh();
});

function page(token) {
  list.token = token;
  refresh().then(() => $("videos").scrollIntoView({ block: "start" }));
}
$("older").addEventListener("click", () => { list.before.push(list.token); page(list.next); });
$("newer").addEventListener("click", () => page(list.before.pop()));

let typing = 0;
function filter() { remember(); toFirstPage(); }
filters.search.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(filter, 300); });
filters.state.addEventListener("change", filter);
filters.task.addEventListener("change", filter);
addEventListener("hashchange", () => { recall(); toFirstPage(); });

const dialog = $("key-dialog"), keyForm = dialog.querySelector("form");
function askKey(fault) {
  $("key-fault").textContent = fault;
  keyForm.elements.key.value = key;
  dialog.showModal();
}
$("key-open").addEventListener("click", () => askKey(""));
$("key-cancel").addEventListener("click", () => dialog.close());
keyForm.addEventListener("submit", event => {
  event.preventDefault();
  key = keyForm.elements.key.value.trim();
  sessionStorage.setItem(KEY, key);
  dialog.close();
  model = null; // another key may have another service's worth of jobs
  list.asked = false; // of this key nothing is known yet
  toFirstPage();
});

// A file that is dropped beside its place does not replace the page.
for (const name of ["dragover", "drop"]) addEventListener(name, event => event.preventDefault());

recall();
(async () => {
  for (;;) {
    await refresh();
    // A page that takes long to read is read less often, whoever looks at it.
    const wait = Math.max(document.hidden ? 5000 : list.live ? 500 : 2000, 4 * list.rest);
    await new Promise(next => setTimeout(next, wait));
  }
})();
