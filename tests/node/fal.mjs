// fal's own client, moved by the lines of docs/apis/fal.md, and Vercel's AI SDK with its provider for fal.
import { ApiError, ValidationError, createFalClient } from "@fal-ai/client";
import { createFal } from "@ai-sdk/fal";
import { experimental_generateVideo as generateVideo } from "ai";

const { URL_, KEY, PICTURE } = process.env;
const APP = "fal-ai/wan/v2.7/text-to-video";
const proxy = `${URL_}/fal/proxy`;
const fal = createFalClient({ credentials: KEY, proxyUrl: { url: proxy, when: "always" } });
const found = {};

// Upload, subscribe by polling, download.
const picture = new File([Buffer.from(PICTURE, "base64")], "a picture.png", { type: "image/png" });
found.uploaded = await fal.storage.upload(picture);
const updates = [];
const result = await fal.subscribe("fal-ai/wan/v2.7/image-to-video", {
  input: { prompt: "a red circle", image_url: found.uploaded, seed: 7 },
  logs: true,
  pollInterval: 50,
  onQueueUpdate: (update) => updates.push(update),
});
found.result = result;
found.last = updates.at(-1);
found.bytes = (await (await fetch(result.data.video.url)).arrayBuffer()).byteLength;

// A file among the input is uploaded by the client; the states come as a stream.
const streamed = [];
const second = await fal.subscribe("fal-ai/wan/v2.7/image-to-video", {
  input: { prompt: "a red circle", image_url: picture },
  logs: true,
  mode: "streaming",
  onQueueUpdate: (update) => streamed.push(update),
});
found.second = second.data.video.file_size;
found.streamed = streamed.map((update) => update.status);
found.lines = streamed.at(-1).logs.map((log) => log.message);

// The call that waits.
found.run = (await fal.run(APP, { input: { prompt: "a red circle" } })).data.video.file_size;

// Cancel; the test makes no video with this seed.
const { request_id: requestId } = await fal.queue.submit(APP, { input: { prompt: "wait", seed: 99 } });
await fal.queue.cancel(APP, { requestId });
found.cancelled = await fal.queue.subscribeToStatus(APP, { requestId, pollInterval: 50 });
try {
  await fal.queue.result(APP, { requestId });
} catch (error) {
  found.cancelledResult = [error instanceof ApiError, error.status, error.message, error.requestId];
}

// Bad input.
try {
  await fal.subscribe(APP, { input: { prompt: "a", num_frames: 0, reverse_video: true } });
} catch (error) {
  found.refused = [error instanceof ValidationError, error.getFieldErrors("reverse_video")];
}

// Vercel's AI SDK knows no other host: its requests go the same way.
const provider = createFal({
  apiKey: KEY,
  fetch: (url, init) => {
    const headers = new Headers(init.headers);
    headers.set("x-fal-target-url", url);
    return fetch(proxy, { ...init, headers });
  },
});
const download = async ({ url }) => {
  const answer = await fetch(url);
  return { data: new Uint8Array(await answer.arrayBuffer()), mediaType: answer.headers.get("content-type") };
};
const made = await generateVideo({
  model: provider.video("wan/v2.7/text-to-video"),
  prompt: "a red circle",
  aspectRatio: "16:9",
  duration: 1,
  seed: 3,
  download,
});
found.vercel = { bytes: made.video.uint8Array.byteLength, metadata: made.providerMetadata.fal };
try {
  await generateVideo({ model: provider.video("wan/v2.7/text-to-video"), prompt: "a", duration: 999, download });
} catch (error) {
  found.vercelRefused = String(error);
}
console.log(JSON.stringify(found));
