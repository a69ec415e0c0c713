// Types of openapi-typescript for the whole document; calls of openapi-fetch, which the compiler checks against them.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";
import openapiTS, { astToString } from "openapi-typescript";
import ts from "typescript";

const url = process.env.URL;
const calls = `
import createClient from "openapi-fetch";
import type { paths } from "./api.js";

export async function run(baseUrl: string) {
  const client = createClient<paths>({ baseUrl });
  const path = { owner: "wan-video", name: "wan-2.7-t2v" };
  const create = (prompt: string) =>
    client.POST("/v1/models/{owner}/{name}/predictions", {
      params: { path, header: { Prefer: "wait=60" } },
      body: { input: { prompt } },
    });
  const { data } = await create("x");
  const made: string = data!.id;
  const file = await client.GET("/v1/predictions/{prediction_id}/output/{filename}", {
    params: { path: { prediction_id: made, filename: "video.mp4" } },
    parseAs: "text",
  });
  const refused = (await create("")).error!;
  return { made, status: data!.status as string, file: file.data, refused };
}
`;

// Below the working folder, where packages are found.
const folder = await mkdtemp("openapi-");
try {
  const api = astToString(await openapiTS(new URL(`${url}/openapi.json`), { defaultNonNullable: false }));
  await writeFile(`${folder}/api.ts`, api);
  await writeFile(`${folder}/calls.mts`, calls);
  const options = {
    module: ts.ModuleKind.NodeNext,
    target: ts.ScriptTarget.ES2022,
    strict: true,
    skipLibCheck: true,
    types: [],
    lib: ["lib.es2022.d.ts", "lib.dom.d.ts", "lib.dom.iterable.d.ts"],
  };
  const program = ts.createProgram([`${folder}/calls.mts`], options);
  const typed = ts.getPreEmitDiagnostics(program).map((item) => ts.flattenDiagnosticMessageText(item.messageText, " "));
  program.emit();
  const { run } = await import(pathToFileURL(`${folder}/calls.mjs`).href);
  const operations = api.match(/^    operations?: |^        (get|put|post|delete|patch): (?!never)/gm) ?? [];
  console.log(JSON.stringify({ typed, operations: operations.length, ...(await run(url)) }));
} finally {
  await rm(folder, { recursive: true });
}
