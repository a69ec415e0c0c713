// The npm package `replicate` as its README shows it, and Vercel's AI SDK with its provider for Replicate. The test plays
// the router, and sends the webhooks.
//
// BASE_URL, TOKEN: of the gateway. CLIP: a file to edit. FOLDER: gets run.mp4.

import { once } from "node:events";
import { readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { createReplicate } from "@ai-sdk/replicate";
import { experimental_generateVideo as generateVideo } from "ai";
import Replicate, { parseProgressFromLogs, validateWebhook } from "replicate";

const { BASE_URL, CLIP, FOLDER, TOKEN } = process.env;
const options = { auth: TOKEN, baseUrl: `${BASE_URL}/v1` };
const replicate = new Replicate(options);
const T2V = "wan-video/wan-2.7-t2v";
const EDIT = "wan-video/wan-2.7-videoedit";
const prompt = "a red circle";
const report = {};

async function refusal(call) {
  try {
    await call;
  } catch (error) {
    return { status: error.response?.status ?? null, message: error.message };
  }
  throw new Error("was not refused");
}

async function read(file) {
  return Buffer.from(await (await file.blob()).arrayBuffer()).toString("base64");
}

async function pages(endpoint) {
  const all = [];
  for await (const page of replicate.paginate(endpoint)) all.push(...page);
  return all;
}

// Run, with and without files.
report.states = [];
const ran = await replicate.run(T2V, { input: { prompt } }, ({ status }) => report.states.push(status));
await writeFile(`${FOLDER}/run.mp4`, ran);
const video = new File([await readFile(CLIP)], "clip.mp4", { type: "video/mp4" });
const input = { prompt: "make it blue", video };
report.edited = await read(await replicate.run(EDIT, { input, wait: { mode: "poll", interval: 20 } }));
const encoded = `data:application/octet-stream;base64,${(await readFile(CLIP)).toString("base64")}`;
report.encoded = await read(await replicate.run(EDIT, { input: { ...input, video: encoded } }));
report.text = await new Replicate({ ...options, useFileOutput: false }).run(T2V, { input: { prompt } });
report.failed = await refusal(replicate.run(T2V, { input: { prompt: "fail" } }));

// Files.
const made = await replicate.files.create(await readFile(CLIP), { shot: 1 });
report.file = { made, listed: (await replicate.files.list()).results, found: await replicate.files.get(made.id) };
report.file.deleted = await replicate.files.delete(made.id);

// Predictions.
const created = await replicate.predictions.create({
  model: "wan-video/wan-2.2-t2v-fast",
  input: { prompt, go_fast: true, resolution: "480P" },
});
const done = await replicate.wait(created, { interval: 20 });
report.fetched = Buffer.from(await (await fetch(done.output)).arrayBuffer()).toString("base64");
report.progress = parseProgressFromLogs(done);
report.done = { ...done, output: null };
const held = await replicate.predictions.create({ model: T2V, input: { prompt: "hold" } });
report.canceled = (await replicate.predictions.cancel(held.id)).status;
report.listed = (await pages(replicate.predictions.list)).map(({ id, output }) => ({ id, output }));

// Models.
report.models = (await pages(replicate.models.list)).map(({ name }) => name);
const model = await replicate.models.get("wan-video", "wan-2.7-t2v");
const [version] = (await replicate.models.versions.list("wan-video", "wan-2.7-t2v")).results;
report.same = model.latest_version.id === version.id;
report.versioned = await read(await replicate.run(`${T2V}:${version.id}`, { input: { prompt } }));
report.account = (await replicate.accounts.current()).username;

// A webhook.
const server = createServer().listen(0, "127.0.0.1");
await once(server, "listening");
const webhook = `http://127.0.0.1:${server.address().port}/`;
const arrived = once(server, "request");
const hooked = await replicate.predictions.create({ model: T2V, input: { prompt }, webhook, webhook_events_filter: ["completed"] });
const [request, response] = await arrived;
let body = "";
for await (const chunk of request) body += chunk;
response.end();
server.close();
const { key } = await replicate.webhooks.default.secret.get();
const { headers } = request;
report.webhook = {
  right: await validateWebhook({ headers, body }, key),
  wrong: await validateWebhook({ headers, body: `${body} ` }, key),
  same: JSON.parse(body).id === hooked.id,
  output: Buffer.from(await (await fetch(JSON.parse(body).output)).arrayBuffer()).toString("base64"), // without a key
};

// What users see of errors.
report.errors = {
  field: await refusal(replicate.run(T2V, { input: { prompt, fps: 999 } })),
  model: await refusal(replicate.run("someone/else", { input: { prompt } })),
  prediction: await refusal(replicate.predictions.get("vid_none")),
  path: await refusal(replicate.collections.list()),
  method: await refusal(replicate.models.create("me", "mine", { visibility: "public", hardware: "cpu" })),
  key: await refusal(new Replicate({ ...options, auth: "zk_wrong" }).predictions.list()),
  stream: await refusal(replicate.stream(T2V, { input: { prompt } }).next()),
};

// Vercel's AI SDK.
const provider = createReplicate({ apiToken: TOKEN, baseURL: options.baseUrl });
const generated = await generateVideo({
  model: provider.video(T2V),
  prompt,
  resolution: "832x480",
  duration: 2,
  fps: 8,
  seed: 3,
  providerOptions: { replicate: { pollIntervalMs: 20, num_inference_steps: 4 } },
});
report.vercel = Buffer.from(generated.video.uint8Array).toString("base64");

console.log(JSON.stringify(report));
