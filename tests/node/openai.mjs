// OpenAI's own SDK: create from a picture, poll, download, list, cancel by deleting, files, an error.
import fs from "node:fs";
import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 0 });
const file = await client.files.create({ file: fs.createReadStream(process.env.FIRST), purpose: "vision" });
const made = await client.videos.create({
  prompt: "it turns",
  model: "nano",
  seconds: "2",
  input_reference: fs.createReadStream(process.env.FIRST),
});
let video = made;
while (!["completed", "failed"].includes(video.status)) {
  await new Promise((done) => setTimeout(done, 50));
  video = await client.videos.retrieve(made.id);
}
const content = await client.videos.downloadContent(made.id);
const bytes = (await content.arrayBuffer()).byteLength;
const listed = [];
for await (const item of client.videos.list({ limit: 2 })) listed.push(item.id);
const waiting = await client.videos.create({ prompt: "wait" });
await client.videos.delete(waiting.id);
const deleted = await client.files.delete(file.id);
let refused = null;
try {
  await client.videos.create({ prompt: "x", seconds: "99" });
} catch (error) {
  refused = { status: error.status, param: error.param, code: error.code };
}
console.log(
  JSON.stringify({
    id: made.id,
    status: video.status,
    bytes,
    kind: content.headers.get("content-type"),
    listed,
    waiting: waiting.id,
    file,
    deleted: deleted.deleted,
    refused,
  }),
);
