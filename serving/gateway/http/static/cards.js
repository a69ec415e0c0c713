"use strict";
// The cards of jobs. A card's file is loaded once the card is seen, and plays while it is.

const NAMES = { text_to_video: "Text to video", image_to_video: "Image to video", first_last_frame: "First and last frame",
  grid_to_video: "Grid to video", reference_to_video: "References", edit_video: "Edit" };
const FINAL = ["succeeded", "failed", "cancelled"];
const cards = new Map();
const still = matchMedia("(prefers-reduced-motion: reduce)");
const watcher = new IntersectionObserver(entries => {
  for (const { target, isIntersecting } of entries) {
    const parts = cards.get(target.parentNode.dataset.id);
    if (!parts) continue;
    parts.inView = isIntersecting;
    const video = target.querySelector("video");
    if (isIntersecting && parts.failed) parts.shown = null; // tried once more
    if (isIntersecting) show(parts);
    if (video && isIntersecting && !still.matches) video.play().catch(() => {});
    if (video && !isIntersecting) video.pause();
  }
}, { rootMargin: "100px" });

function card(job) {
  const node = element("li", "job");
  node.dataset.id = job.id;
  const parts = { node, screen: element("div", "screen"), badge: element("span", "badge"), length: element("span", "length"),
    corner: element("div", "corner"), frame: element("div", "frame"), prompt: element("p", "prompt"), facts: element("p", "facts"), bar: element("progress"),
    notes: element("div", "notes"), details: element("details"), list: element("dl"), row: element("div", "row"),
    shown: null, url: null, inView: false, signature: "" };
  parts.prompt.id = "prompt-" + job.id;
  parts.screen.append(parts.frame, parts.badge, parts.corner);
  parts.details.append(element("summary", "", "Details"), parts.list);
  parts.details.addEventListener("toggle", () => { if (parts.details.open) describe(parts); });
  parts.bar.setAttribute("aria-label", "progress");
  node.append(parts.screen, element("div", "text", parts.prompt, parts.bar, parts.facts, parts.notes, parts.details, parts.row));
  cards.set(job.id, parts);
  watcher.observe(parts.screen);
  return parts;
}

function forget(id) {
  const parts = cards.get(id);
  const video = parts.frame.querySelector("video");
  watcher.unobserve(parts.screen);
  if (video) { video.removeAttribute("src"); video.load(); } // else it would go on loading
  release(parts.url);
  parts.node.remove();
  cards.delete(id);
}

function update(job) {
  const parts = cards.get(job.id) || card(job);
  const before = parts.job, done = FINAL.includes(job.state);
  parts.job = job;
  parts.badge.className = "badge " + job.state;
  parts.badge.textContent = job.cancel_requested && !done ? "stopping" : job.stage || job.state;
  parts.length.textContent = picture(job) ? "picture" : number(job.seconds) + " s";
  parts.prompt.textContent = job.prompt || "(no prompt)";
  parts.prompt.title = job.prompt;
  parts.bar.hidden = done;
  Object.assign(parts.bar, { max: job.steps, value: job.step });
  const facts = [NAMES[job.task] || job.task, job.size.replace("x", "×")];
  if (job.state === "queued") facts.push(job.queue_position ? job.queue_position + " in front" : "next");
  if (!done) facts.push("step " + job.step + " of " + job.steps);
  if (!done && job.eta_seconds !== null) facts.push("about " + duration(job.eta_seconds) + " left" + between(job));
  if (job.state === "succeeded") facts.push("took " + duration(job.finished_at - job.started_at));
  facts.push(ago(job.created_at));
  parts.facts.textContent = facts.join(" · ");
  const notes = [[job.notice, "notice"], [job.error, "error"], ...job.warnings.map(text => [text, "warning"])];
  const signature = JSON.stringify([notes, job.state, job.cancel_requested, job.download]);
  if (signature !== parts.signature) { // otherwise what has the focus, or is being read, stays as it is
    parts.signature = signature;
    parts.notes.replaceChildren(...notes.filter(([text]) => text).map(([text, kind]) => element("p", kind, text)));
    const [row, corner] = actions(parts, done);
    parts.row.replaceChildren(...row);
    parts.corner.replaceChildren(parts.length, ...corner);
    if (parts.details.open) describe(parts);
  }
  if (before && !FINAL.includes(before.state) && done)
    $("news").textContent = { succeeded: "Finished", failed: "Failed", cancelled: "Cancelled" }[job.state] + ": " + job.prompt;
  if (parts.inView) show(parts);
  return parts.node;
}

// The interval of an estimate, where it says more than the estimate does.
function between(job) {
  if (job.eta_low_seconds === null) return "";
  const low = duration(job.eta_low_seconds), high = duration(job.eta_high_seconds);
  return low === high ? "" : " (" + low + " to " + high + ")";
}

const picture = job => ["png", "webp", "jpg"].includes(job.container);

function ago(at) {
  const seconds = Math.max(0, Date.now() / 1000 - at);
  return seconds < 60 ? "just now" : seconds < 86400 ? duration(Math.max(90, seconds)) + " ago" : new Date(at * 1000).toLocaleDateString();
}

// The buttons below a card's text, and those in its corner.
function actions(parts, done) {
  const job = parts.job;
  const act = (label, title, run) => {
    const node = button(label, "", async () => {
      node.disabled = true;
      try { await run(); await refresh(); } catch (error) { fault(parts, error); } finally { node.disabled = false; }
    });
    node.title = title;
    node.setAttribute("aria-describedby", parts.prompt.id);
    return node;
  };
  if (!done) {
    const cancel = () => send("/jobs/" + job.id + "/cancel");
    return [job.cancel_requested ? [] : [act("Cancel", "Stop this job", cancel)], []];
  }
  const found = [];
  if (job.download) {
    const link = element("a", "button", "Download");
    Object.assign(link, { href: job.download, download: job.id + "." + job.container });
    link.setAttribute("aria-describedby", parts.prompt.id);
    found.push(link);
  }
  found.push(act("Again", "Put this request into the form", async () => {
    await fill((await read("/jobs/" + job.id)).request);
  }));
  found.push(act("New seed", "Make it again at once, with another seed", async () => {
    const { seed, ...same } = (await read("/jobs/" + job.id)).request;
    await send("/jobs", same);
    await toFirstPage();
  }));
  if (job.video && model?.tasks.some(task => task.kind === "image_to_video"))
    found.push(act(picture(job) ? "Animate" : "Extend", picture(job) ? "Start a clip with this picture" : "Go on from this clip",
      async () => { await fill(extension(job, (await read("/jobs/" + job.id)).request)); }));
  let asked = false;
  const ask = now => {
    asked = now;
    remove.textContent = now ? "Delete for good" : "✕";
    remove.setAttribute("aria-label", now ? "Delete for good" : "Delete");
  };
  const remove = act("", "Delete this job and its file", async () => {
    if (asked) return void await call("/jobs/" + job.id, { method: "DELETE" });
    ask(true);
    setTimeout(ask, 5000, false);
  });
  ask(false);
  return [found, [remove]];
}

// The request that goes on from a finished video: its settings, without its media and its seed.
function extension(job, made) {
  const kept = ["prompt", "negative_prompt", "size", "fps", "steps", "guidance", "guidance_low", "flow_shift", "fit"];
  const wanted = Object.fromEntries(kept.filter(name => name in made).map(name => [name, made[name]]));
  if (!picture(job)) Object.assign(wanted, { frames: made.frames, container: made.container });
  return { ...wanted, task: "image_to_video", [picture(job) ? "image" : "clip"]: "operations/" + job.id };
}

function fault(parts, error) {
  parts.notes.append(element("p", "error", error.message));
}

async function describe(parts) {
  let job;
  try { job = await read("/jobs/" + parts.job.id); } catch (error) { return fault(parts, error); }
  const asked = job.request, given = value => value !== undefined && value !== null && value !== "";
  const media = ["image", "clip", "first_frame", "last_frame", "panels", "references", "video", "audio"]
    .filter(name => asked[name]).map(name => name.replaceAll("_", " ") + ([asked[name]].flat().length > 1
      ? " × " + asked[name].length : "")).join(", ");
  const stages = Object.entries(job.timings).map(([stage, seconds]) => stage + " " + number(seconds) + " s").join(", ");
  const facts = { Id: job.id, Seed: job.seed, Negative: asked.negative_prompt, Given: media, Steps: asked.steps,
    Guidance: [asked.guidance, asked.guidance_low].filter(given).join(" / "), "Flow shift": asked.flow_shift,
    Length: asked.frames + " frames at " + asked.fps + " per second", File: job.size_bytes
      ? job.container + ", " + bytes(job.size_bytes) : job.container,
    Created: new Date(job.created_at * 1000).toLocaleString() + " by " + job.api, Stages: stages,
    "Kept until": job.expire_at ? new Date(job.expire_at * 1000).toLocaleString() : "", Error: job.error_code };
  parts.list.replaceChildren(...Object.entries(facts).filter(([, value]) => given(value))
    .flatMap(([name, value]) => [element("dt", "", name), element("dd", "", String(value))]));
}

// Loads what the card of a job that is in view should show: the file, or a preview of it.
async function show(parts) {
  const { job } = parts, wanted = job.video ? "video" : job.preview === null ? "none" : "preview " + job.preview;
  if (parts.shown === wanted) return;
  Object.assign(parts, { shown: wanted, failed: false });
  if (wanted === "none") return void parts.frame.replaceChildren(FINAL.includes(job.state) ? "no file" : "no preview yet");
  let url;
  try {
    url = URL.createObjectURL(await blobOf("/jobs/" + job.id + (job.video ? "/video" : "/preview")));
  } catch (error) {
    if (parts.shown !== wanted) return;
    if (job.video) parts.frame.replaceChildren(error.message);
    else parts.shown = null; // a preview may be gone, because a newer one is there
    parts.failed = true;
    return;
  }
  if (parts.shown !== wanted || cards.get(job.id) !== parts) return release(url);
  const moving = job.video && !picture(job), node = element(moving ? "video" : "img", job.video ? "" : "preview");
  node.onerror = () => parts.frame.replaceChildren("This browser cannot show a file like this; download it.");
  if (moving) Object.assign(node, { controls: true, loop: true, muted: true, playsInline: true, 
    autoplay: parts.inView && !still.matches });
  else node.alt = job.video ? "the finished picture" : "preview after step " + job.preview;
  if (moving) node.setAttribute("aria-label", "video: " + (job.prompt || job.id));
  node.src = url;
  parts.frame.replaceChildren(node);
  release(parts.url);
  parts.url = url;
}
