// The driver in JavaScript; ../scenarios.py says what it does.

import { appendFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { Client, Fail, Retry, Worker } from "../../../taskmanager/clients/javascript/taskmanager.mjs";

const { BURST, CREATE, DEDUPE, GRACE = 1, NOTES } = process.env;
const note = (text) => appendFileSync(NOTES, `${text}\n`);

const client = Client.fromEnv();
if (CREATE) {
  await client.health();
  console.log((await client.create(CREATE, {}, DEDUPE === "" ? {} : { dedupe: "none" })).id);
  process.exit();
}
const worker = new Worker(client, { grace: Number(GRACE) });
worker.task("scenario.echo", (task) => task.params);
worker.task("scenario.retry", (task) => {
  if (task.attempt === 1) throw new Retry({ after: 0 });
  return task.attempt;
});
worker.task("scenario.fail", () => {
  throw new Fail("broken", "It will never work.");
});
worker.task("scenario.error", async () => {
  throw new RangeError("Something broke.");
});
const slow = async (task) => {
  note("began");
  await sleep(1000 * task.params.seconds);
  note("ended");
  return "done";
};
worker.task("scenario.long", slow);
worker.task("scenario.slow", slow, { lease_seconds: 6 });
const wait = async (task) => {
  note("began");
  while (!task.stopping) await sleep(20);
  note("stopping");
  return "stopped";
};
worker.task("scenario.wait", wait);
worker.task("scenario.lease", wait, { lease_seconds: 6 });
worker.task(
  "scenario.hang",
  async () => {
    note("began");
    await new Promise(() => {});
  },
  { timeout: 1 },
);
await worker.run({ burst: BURST === "1" });
