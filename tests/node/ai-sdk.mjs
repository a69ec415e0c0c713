// The Vercel AI SDK: a video by its Replicate provider; its OpenAI provider has none.
import { createOpenAI } from "@ai-sdk/openai";
import { createReplicate } from "@ai-sdk/replicate";
import { experimental_generateVideo as generateVideo } from "ai";

const replicate = createReplicate({ baseURL: process.env.BASE_URL, apiToken: "none" });
const { video, providerMetadata } = await generateVideo({
  model: replicate.video("wan-video/wan-2.7-t2v"),
  prompt: "a red circle",
  seed: 7,
  providerOptions: { replicate: { num_inference_steps: 4, pollIntervalMs: 50 } },
});
console.log(
  JSON.stringify({
    id: providerMetadata.replicate.predictionId,
    bytes: video.uint8Array.byteLength,
    mediaType: video.mediaType,
    openai: "video" in createOpenAI({ apiKey: "none" }),
  }),
);
