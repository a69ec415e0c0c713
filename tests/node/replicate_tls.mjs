// The npm package `replicate` over TLS: it sends no key to the URL of an output.

import Replicate from "replicate";

const { BASE_URL, TOKEN } = process.env;
const replicate = new Replicate({ auth: TOKEN, baseUrl: `${BASE_URL}/v1` });
const file = await replicate.run("wan-video/wan-2.7-t2v", { input: { prompt: "a red circle" } });
const bytes = Buffer.from(await (await file.blob()).arrayBuffer());
console.log(JSON.stringify({ url: file.url(), bytes: bytes.toString("base64") }));
