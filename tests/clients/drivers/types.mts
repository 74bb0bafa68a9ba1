// What TypeScript has to accept and to refuse of the types of the JavaScript client.

import { ApiError, Client, Fail, Release, Retry, Worker } from "../../../taskmanager/clients/javascript/taskmanager.mjs";

const tm: Client = Client.fromEnv({ timeout: 3 });
const task = await tm.create("video.fetch", { id: "x" }, { delay_seconds: 60 });
const result: unknown = (await tm.wait(task, { timeout: 5 })).result;
const [first] = await tm.createMany([{ type: "video.fetch", params: {}, dedupe: "none" }], { atomic: true });
if (first instanceof ApiError) console.log(first.code, first.details, result);
for await (const found of tm.tasks({ status: "failed", tag: "x" })) console.log(found.id);

const worker = new Worker(tm, { concurrency: 4, log: (line) => console.log(line.length) });
worker.task(
  "video.fetch",
  async (task) => {
    task.progress(50, "half");
    if (task.stopping) throw new Release({ delay: 3 });
    if (task.attempt > 2) throw new Fail("code", "why");
    if (task.params.later) throw new Retry({ after: 3 });
    await fetch("http://x", { signal: task.signal });
    return { ok: task.params.id };
  },
  { lease_seconds: 120 },
);
await worker.run({ burst: true, max_runtime: 55 });

// @ts-expect-error: the option is delay_seconds
await tm.create("x", {}, { delay: 3 });
// @ts-expect-error: only in a handler
task.progress(3);
// @ts-expect-error: an option of run()
new Worker(tm, { burst: true });
