// What clients of grpc-js and proto-loader do: upload, create, wait, watch, download, list, cancel, delete.
import { createHash } from "node:crypto";
import { createRequire } from "node:module";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const root = process.env.PROTOS;
const options = { includeDirs: [root], keepCase: true, longs: Number, enums: String, oneofs: true, bytes: Buffer };
const files = ["zoetrope/video/v1/media.proto", "zoetrope/video/v1/video.proto", "google/longrunning/operations.proto"];
const api = grpc.loadPackageDefinition(await loader.load(files, options));
const credentials = grpc.credentials.createInsecure();
const connect = (Service) => new Service(process.env.TARGET, credentials);
const videos = connect(api.zoetrope.video.v1.VideoService);
const media = connect(api.zoetrope.video.v1.MediaService);
const operations = connect(api.google.longrunning.Operations);

const call = (client, method, request) =>
  new Promise((done, fail) => client[method](request, (error, answer) => (error ? fail(error) : done(answer))));
const check = (any, type) => {
  if (any.type_url !== `type.googleapis.com/zoetrope.video.v1.${type}`) throw new Error(`${any.type_url}, not ${type}`);
};

// Upload, in two pieces.
const picture = Buffer.from(process.env.PICTURE, "base64");
const sha256 = createHash("sha256").update(picture).digest("hex");
const made = await call(media, "CreateMedia", { size_bytes: picture.length, sha256, filename: "picture.png" });
const image = await new Promise((done, fail) => {
  const stream = media.WriteMedia((error, answer) => (error ? fail(error) : done(answer)));
  stream.write({ name: made.name, data: picture.subarray(0, 10) });
  stream.end({ offset: 10, data: picture.subarray(10) });
});

// A refusal names the field.
const refusal = await call(videos, "CreateVideo", { text_to_video: { prompt: "x" }, steps: 5000 }).catch((e) => e);

// Create and wait for the end of the operation.
const create = { text_to_video: { prompt: "one" }, steps: 4, labels: { of: "node" } };
const operation = await call(videos, "CreateVideo", create);
check(operation.metadata, "VideoMetadata");
const done = await call(operations, "WaitOperation", { name: operation.name, timeout: { seconds: 60 } });
check(done.response, "Video");
const video = await call(videos, "GetVideo", { name: operation.name.replace("operations/", "videos/") });
const events = [];
for await (const event of videos.WatchVideo({ name: video.name })) events.push(event);

// Download.
const pieces = [];
for await (const piece of videos.DownloadVideo({ name: video.name })) pieces.push(piece.data);

// List, cancel, delete.
const second = await call(videos, "CreateVideo", { text_to_video: { prompt: "two" }, labels: { of: "node" } });
await call(operations, "CancelOperation", { name: second.name });
const cancelled = await call(operations, "GetOperation", { name: second.name });
const listed = [];
let token = "";
do {
  const query = { name: "operations", filter: "labels.of=node", page_size: 1, page_token: token };
  const page = await call(operations, "ListOperations", query);
  listed.push(...page.operations.map((item) => item.name));
  token = page.next_page_token;
} while (token);
await call(operations, "DeleteOperation", { name: second.name });
const gone = await call(operations, "GetOperation", { name: second.name }).catch((error) => error);
await call(media, "DeleteMedia", { name: image.name });
const models = await call(videos, "ListModels", {});

console.log(
  JSON.stringify({
    media: image,
    refusal: [refusal.code, refusal.details],
    first: operation.name,
    second: second.name,
    done: done.done,
    video,
    last: events.at(-1).metadata.state,
    bytes: Buffer.concat(pieces).toString("base64"),
    cancelled: cancelled.error.code,
    listed,
    gone: gone.code,
    models: models.models.map((model) => model.name),
  }),
);
