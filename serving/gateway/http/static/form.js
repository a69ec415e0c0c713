"use strict";
// The form: what it offers follows the served model and the chosen task.

const TASKS = {
  text_to_video: ["Text", "A clip from words alone."],
  image_to_video: ["Image", "A clip that starts with a picture, or goes on from another clip."],
  first_last_frame: ["First & last", "A clip between two pictures."],
  grid_to_video: ["Grid", "A clip that follows a storyboard of nine pictures, or one sheet of three rows of three."],
  reference_to_video: ["References", "A clip of the subjects of pictures or clips; the prompt calls them Image 1, Video 1 and so on."],
  edit_video: ["Edit", "An edit of a clip by an instruction; what it does not mention is kept."],
};
const LABELS = { first_frame: "First frame", last_frame: "Last frame", panels: "Pictures of the storyboard",
  references: "References", video: "Clip to edit", audio: "Sound track" };
const SWITCHES = { loop: "Loop: end with the first frame", keep_audio: "Keep the clip's sound" };
const SHAPES = new Set(["image_to_video", "first_last_frame", "grid_to_video", "edit_video"]); // have a ratio of their own
const form = $("form"), fields = form.elements;
let slots = [], switches = {}, audioSlot = null;

const taskOf = () => model.tasks.find(task => task.kind === fields.task.value);

// Makes the form that of another model; "" for the service's first.
async function choose(name) {
  model = await read("/model?" + new URLSearchParams(name ? { name } : {}));
  fields.model.value = model.name;
  offer();
}

function offerModels(names) {
  if ([...fields.model.options].map(option => option.value).join() !== names.join()) {
    options(fields.model, names.map(name => [name, name]));
    fields.model.value = model.name;
  }
  field("model").hidden = names.length < 2;
}

function offer() {
  const chosen = fields.task?.value;
  $("tasks").replaceChildren($("tasks").querySelector("legend"), ...Object.keys(TASKS).map(kind => {
    const input = element("input"), served = model.tasks.some(task => task.kind === kind);
    Object.assign(input, { type: "radio", name: "task", value: kind, disabled: !served });
    const label = element("label", "task", input, element("span", "", TASKS[kind][0]));
    if (!served) label.title = model.name + " does not serve this task";
    return label;
  }));
  const first = model.tasks.some(task => task.kind === chosen) ? chosen : model.tasks[0].kind;
  form.querySelector(`input[value="${first}"]`).checked = true;
  options(fields.size, [["", "default, " + model.default_size], ...Object.keys(model.sizes).map(name => [name, name]),
    ["custom", "in pixels"]]);
  options(fields.container, model.formats.map(name => [name, name]));
  const limits = { duration_seconds: ["max", model.max_seconds], steps: ["max", model.max_steps],
    guidance: ["max", model.max_guidance], guidance_low: ["max", model.max_guidance], fps: ["max", model.max_fps],
    prompt: ["maxLength", model.max_prompt_chars], negative_prompt: ["maxLength", model.max_negative_prompt_chars] };
  for (const [name, [limit, value]] of Object.entries(limits)) fields[name][limit] = value;
  const usual = { steps: model.default_steps, guidance: model.default_guidance, fps: model.fps,
    guidance_low: model.default_guidance_low ?? "as the other", flow_shift: model.default_flow_shift,
    negative_prompt: model.default_negative_prompt || "none" };
  for (const [name, value] of Object.entries(usual)) fields[name].placeholder = value;
  field("guidance_low").hidden = !model.two_experts;
  field("flow_shift").hidden = model.default_flow_shift === null;
  field("generate_audio").hidden = !model.generates_audio;
  $("no-negative").hidden = !model.default_negative_prompt;
  audioSlot = new Slot({ name: "audio", label: LABELS.audio, kinds: ["sound"] }, summarise);
  $("audio-slot").replaceChildren(audioSlot.node);
  form.inert = false;
  arrange();
}

const field = name => form.querySelector(`[data-field="${name}"]`);

function options(select, pairs) {
  const before = select.value;
  select.replaceChildren(...pairs.map(([value, label]) => new Option(label, value)));
  if (pairs.some(([value]) => value === before)) select.value = before;
}

// Shows what the chosen task takes.
function arrange() {
  const task = taskOf(), kept = new Map(slots.map(slot => [slot.name, slot]));
  $("hint").textContent = TASKS[task.kind][1];
  slots = wanted(task).map(want => {
    const old = kept.get(want.name), fresh = new Slot(want, summarise);
    if (old && String(old.kinds) === String(want.kinds)) fresh.items = old.items.splice(0, want.most || 1);
    fresh.draw();
    return fresh;
  });
  for (const old of kept.values()) old.clear();
  switches = Object.fromEntries(task.switches.map(name => {
    const input = element("input");
    Object.assign(input, { type: "checkbox", checked: switches[name]?.checked ?? false });
    return [name, input];
  }));
  const checks = Object.entries(switches).map(([name, input]) => {
    const label = element("label", "check", input, SWITCHES[name]);
    label.dataset.field = name;
    return label;
  });
  $("slots").replaceChildren(...slots.map(slot => slot.node), ...checks);
  const own = SHAPES.has(task.kind);
  options(fields.ratio, [["", own ? "as given" : "default"], ...model.ratios.map(ratio => [ratio, ratio])]);
  fields.prompt.required = task.prompt_required;
  fields.duration_seconds.placeholder = task.kind === "edit_video" ? "as the clip" : number(model.default_seconds);
  field("fit").hidden = task.kind === "text_to_video";
  summarise();
}

// The slots of a task. A picture to start with and a clip to go on from are one place that takes either.
function wanted(task) {
  const either = task.media.some(slot => slot.name === "image") && task.media.some(slot => slot.name === "clip");
  const found = either ? [{ name: "image", label: "First frame, or a clip to go on from", kinds: ["image", "clip"],
    required: true }] : [];
  for (const slot of task.media) {
    if (either && (slot.name === "image" || slot.name === "clip")) continue;
    const kinds = slot.kind ? [slot.kind] : ["image", "clip"];
    const numbered = slot.name === "references" ? `up to ${slot.most}` : slot.most ? `${slot.most}, or one sheet of them` : "";
    const clip = slot.kind === "clip" && slot.max_seconds ? `${slot.min_seconds} to ${slot.max_seconds} s long` : "";
    const last = either && slot.name === "last_frame" ? "beside a clip; “First & last” leads from picture to picture" : "";
    found.push({ name: slot.name, label: LABELS[slot.name] || slot.name, kinds, most: slot.most || 1,
      required: slot.required, names: slot.name === "references", note: numbered || clip || last });
  }
  return found;
}

function summarise() {
  if (!model || !fields.task.value) return;
  const size = fields.size.value === "custom" ? "" : fields.size.value || model.default_size;
  const given = SHAPES.has(taskOf().kind) && !fields.ratio.value;
  $("custom").hidden = fields.size.value !== "custom";
  field("ratio").hidden = fields.size.value === "custom";
  const pixels = model.sizes[size]?.[fields.ratio.value || model.ratios[0]];
  const shown = size === "" ? fields.pixels.value : given ? size + " in the shape of what is given"
    : pixels ? pixels.join("×") : size;
  const picture = model.picture_formats.includes(fields.container.value);
  const long = fields.duration_seconds.value || (taskOf().kind === "edit_video" ? "" : number(model.default_seconds));
  const length = picture ? "one picture" : long ? long + " s" : "as long as the clip";
  const busy = slots.some(slot => slot.busy) || audioSlot?.busy;
  $("summary").textContent = busy ? "Uploading…" : [shown, length, (fields.steps.value || model.default_steps) + " steps"]
    .filter(Boolean).join(" · ");
  form.querySelector("[type=submit]").disabled = Boolean(busy);
}

function request() {
  const body = { task: fields.task.value, prompt: fields.prompt.value, fit: fields.fit.value,
    container: fields.container.value };
  if (!field("model").hidden) body.model = model.name;
  if (fields.no_negative.checked) body.negative_prompt = "";
  else if (fields.negative_prompt.value.trim()) body.negative_prompt = fields.negative_prompt.value;
  if (fields.size.value) body.size = fields.size.value === "custom" ? fields.pixels.value : fields.size.value;
  if (fields.ratio.value && fields.size.value !== "custom") body.ratio = fields.ratio.value;
  if (fields.seed.value.trim()) body.seed = fields.seed.value.trim(); // a text: a number here would lose digits
  for (const name of ["duration_seconds", "steps", "guidance", "guidance_low", "flow_shift", "fps"])
    if (fields[name].value !== "" && !field(name).hidden) body[name] = Number(fields[name].value);
  if (fields.generate_audio.checked && model.generates_audio) body.generate_audio = true;
  for (const [name, input] of Object.entries(switches)) if (input.checked) body[name] = true;
  for (const slot of [...slots, audioSlot]) {
    const values = slot.values.map(item => item.value);
    if (!values.length) continue;
    const name = slot.name === "image" && slot.values[0].kind === "clip" ? "clip" : slot.name;
    body[name] = slot.most > 1 ? values : values[0];
  }
  return body;
}

// Empties the form; the task stays.
function clear() {
  const chosen = fields.task.value;
  for (const slot of [...slots, audioSlot]) slot.clear();
  for (const input of Object.values(switches)) input.checked = false;
  form.reset();
  fields.model.value = model.name;
  showFaults(null);
  form.querySelector(`input[name=task][value="${chosen}"]`).checked = true;
  arrange();
}

// Puts a request back into the form, as `request` of a job's details has it.
async function fill(wanted) {
  if (wanted.model && wanted.model !== model.name) await choose(wanted.model);
  clear();
  const radio = form.querySelector(`input[name=task][value="${wanted.task}"]`);
  if (radio.disabled) throw new Error(model.name + " does not serve " + wanted.task.replaceAll("_", " ") + ".");
  radio.checked = true;
  arrange();
  for (const slot of [...slots, audioSlot]) {
    const given = wanted[slot.name] ?? (slot.name === "image" ? wanted.clip : undefined) ?? [];
    const kind = slot.name === "image" ? (wanted.clip ? "clip" : "image") : slot.kinds[0];
    for (const value of [given].flat()) slot.add(value, kind);
  }
  for (const [name, input] of Object.entries(switches)) input.checked = Boolean(wanted[name]);
  fields.no_negative.checked = wanted.negative_prompt === "";
  for (const name of ["prompt", "negative_prompt", "steps", "guidance", "guidance_low", "flow_shift", "fps", "seed",
    "container", "fit"]) if (wanted[name] !== undefined) fields[name].value = wanted[name];
  if (wanted.frames) { // rounded down, so that no clip to edit is a hair too short for it
    const seconds = wanted.frames / (wanted.fps || model.fps);
    fields.duration_seconds.value = Math.floor(seconds * 1e4) / 1e4;
  }
  if (wanted.size) setSize(wanted.size);
  for (const [id, names] of Object.entries({ sampling: ["steps", "guidance", "guidance_low", "flow_shift"] }))
    $(id).open = names.some(name => fields[name].value !== "" && fields[name].value !== fields[name].placeholder);
  $("output").open = Boolean(wanted.audio || wanted.generate_audio || (wanted.container || "mp4") !== "mp4");
  summarise();
  form.scrollIntoView({ block: "start" });
  fields.prompt.focus({ preventScroll: true });
}

function setSize(text) {
  const [width, height] = text.split("x").map(Number);
  for (const [name, ratios] of Object.entries(model.sizes))
    for (const [ratio, pixels] of Object.entries(ratios))
      if (pixels[0] === width && pixels[1] === height) {
        Object.assign(fields.size, { value: name });
        Object.assign(fields.ratio, { value: ratio });
        return;
      }
  fields.size.value = "custom";
  fields.pixels.value = text;
}

function showFaults(error) {
  for (const node of form.querySelectorAll(".fault.field")) node.remove();
  for (const node of form.querySelectorAll("[aria-invalid]")) {
    node.removeAttribute("aria-invalid");
    node.removeAttribute("aria-describedby");
  }
  $("message").textContent = error ? error.message : "";
  let first = null;
  for (const [name, description] of Object.entries(error?.fields || {})) {
    const stem = name.split(".")[0], holder = field({ clip: "image", frames: "duration_seconds" }[stem] || stem);
    if (!holder || holder.hidden) continue;
    const note = element("p", "fault field", description), input = holder.querySelector("input, select, textarea");
    note.id = "fault-" + stem;
    holder.after(note);
    input.setAttribute("aria-invalid", "true");
    input.setAttribute("aria-describedby", note.id);
    const around = holder.closest("details");
    if (around) around.open = true;
    first ||= input;
  }
  first?.focus();
}

// What the page itself sees to be wrong; the service checks everything else.
function ownFaults() {
  const found = {};
  for (const name of ["duration_seconds", "steps", "guidance", "guidance_low", "flow_shift", "fps"])
    if (fields[name].validity.badInput) found[name] = "is not a number";
  for (const slot of [...slots, audioSlot])
    if (slot.items.some(item => item.error)) found[slot.name] = "a file cannot be used, remove it or choose another";
  return found;
}

form.addEventListener("submit", async event => {
  event.preventDefault();
  const found = ownFaults();
  if (Object.keys(found).length) {
    const message = Object.entries(found).map(([name, description]) => name + ": " + description).join("; ");
    return showFaults({ message, fields: found });
  }
  const submit = form.querySelector("[type=submit]");
  submit.disabled = true;
  try {
    await send("/jobs", request());
    showFaults(null);
    await toFirstPage();
  } catch (error) {
    showFaults(error);
  } finally {
    submit.disabled = false;
  }
});
$("clear").addEventListener("click", () => { clear(); fields.prompt.focus(); });
form.addEventListener("input", event => {
  if (event.target.name === "model") choose(event.target.value).catch(showFaults);
  else if (event.target.name === "task") arrange();
  else summarise();
});
