// Makes each call of the client once, and checks what its methods return.

import assert from "node:assert/strict";
import { ApiError, Client } from "../../../taskmanager/clients/javascript/taskmanager.mjs";

const tm = Client.fromEnv();
const worker_id = "me/1";
const all = async (items) => {
  const found = [];
  for await (const item of items) found.push(item);
  return found;
};
assert((await tm.register("calls", "1", { type: "object", required: ["n"] })).created);
assert.equal((await tm.changeType("calls", { max_attempts: 5 })).max_attempts, 5);
assert.deepEqual((await tm.type("calls")).param_schema.required, ["n"]);
assert((await tm.types()).some(({ name }) => name === "calls"));
assert(!(await tm.validate("calls", { params: {} })).valid);

const task = await tm.create("calls", { n: 1 }, { priority: 3 });
assert.equal(task.priority, 3);
assert((await tm.create("calls", { n: 1 })).deduplicated);
await tm.changeType("calls", { max_open: { type: 1 } });
const started = Date.now();
await assert.rejects(tm.create("calls", { n: 9 }), (error) => {
  assert.deepEqual([error.code, error.status, error.details.limit], ["queue_full", 429, "type"]);
  return Date.now() - started < 1000 * error.retryAfter;
});
await tm.changeType("calls", { max_open: null });
const [first, again, bad] = await tm.createMany([
  { type: "calls", params: { n: 2 }, dedupe: "none" },
  { type: "calls", params: { n: 1 } },
  { type: "calls", params: { m: 1 } },
]);
assert(!first.deduplicated && again.deduplicated);
assert(bad instanceof ApiError && bad.code === "validation_failed" && bad.details.length);
assert.deepEqual((await tm.get(task.id)).params, { n: 1 });
assert.equal((await tm.change(task.id, { priority: 4 })).priority, 4);
const ids = (await all(tm.tasks({ type: "calls", limit: 1 }))).map(({ id }) => id);
assert.deepEqual(ids, [first.id, task.id]);

const [{ id, claim_token }] = await tm.claim(worker_id, { type: "calls" });
const holder = { worker_id, claim_token };
assert.equal(id, task.id);
assert.equal((await tm.progress(id, { ...holder, progress: 10 })).cancelled, false);
assert.equal((await tm.heartbeat(id, { ...holder, lease_seconds: 60 })).lease_seconds, 60);
assert.deepEqual((await tm.heartbeatWorker(worker_id, { tasks: [{ id, claim_token }] })).renewed, [id]);
assert.equal((await tm.release(id, holder)).status, "pending");
const [one, two] = await tm.claim(worker_id, { type: "calls", limit: 2 });
assert.deepEqual(await tm.claim(worker_id, { type: "calls" }), []);
const done = { worker_id, claim_token: one.claim_token, success: true, result: [1.5, {}] };
assert.equal((await tm.complete(one.id, done)).status, "completed");
assert.deepEqual((await tm.wait(one.id)).result, [1.5, {}]);
const failed = { id: two.id, claim_token: two.claim_token, success: false, is_retryable: false };
assert.equal((await tm.completeMany(worker_id, [failed]))[0].outcome, "failed");
assert.equal((await tm.retry(two.id)).status, "pending");
assert.equal((await tm.cancel(two.id, "enough")).status, "cancelled");
assert.equal((await tm.logs(two.id))[0].event, "created");
assert.equal((await tm.graph(two.id)).tasks[0].id, two.id);
assert.equal((await tm.worker(worker_id)).status, "active");
assert((await all(tm.workers())).some((worker) => worker.id === worker_id));
assert.deepEqual(await tm.shutDownWorker(worker_id), []);

const callback = { type: "calls", params: { n: 7 } };
const batch = await tm.createBatch([], { name: "two", on_finished: callback });
assert.equal(batch.status, "open");
const more = [
  { type: "calls", params: { n: 5 }, dedupe: "none" },
  { type: "calls", params: { n: 6 } },
];
assert.equal((await tm.addToBatch(batch.id, more)).tasks, 2);
assert.equal((await tm.closeBatch(batch.id)).status, "running");
assert.equal((await tm.cancelBatch(batch.id, "enough")).changed, 2);
assert.equal((await tm.retryBatch(batch.id)).changed, 2);
assert.equal((await tm.batch(batch.id)).progress, 0);
assert.equal((await all(tm.batches())).length, 1);

const fields = { name: "nightly", type: "calls", params: { n: 9 }, cron: "0 3 * * *" };
const schedule = await tm.createSchedule(fields);
assert.equal((await tm.schedule(schedule.id)).name, "nightly");
assert.equal((await all(tm.schedules())).length, 1);
assert.equal((await tm.changeSchedule(schedule.id, { is_active: false })).is_active, false);
assert.equal((await tm.runSchedule(schedule.id)).type, "calls");
await tm.deleteSchedule(schedule.id);
assert.equal((await tm.health()).status, "healthy");
assert.deepEqual((await tm.events({ after: "latest" })).events, []);
assert((await tm.stats()).total > 0);

await assert.rejects(tm.get(999999), (error) => {
  assert(error instanceof ApiError && error.requestId);
  return error.code === "task_not_found" && error.status === 404;
});
