/**
 * Client and worker of TaskManager, a task queue behind an HTTP API.
 *
 * One module without dependencies, for Node 18 or newer and for browsers. Fields have the names that
 * docs/api.md gives them; taskmanager.d.ts has the types and describes what is exported.
 */

const env = globalThis.process?.env ?? {};
const now = () => performance.now() / 1000; // seconds, on a clock that nobody sets
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
const jitter = (seconds) => seconds * (0.8 + 0.4 * Math.random());
// Unique, not secret. Node 18 has no global `crypto`.
const randomId = () =>
  Array.from({ length: 4 }, () => Math.floor(Math.random() * 2 ** 32).toString(16).padStart(8, "0")).join("");

const MAX_WAIT_SECONDS = 20; // that the server may wait before it answers

export class ClientError extends Error {}

export class ApiError extends ClientError {
  name = "ApiError";

  constructor(message, { code, status, details = null, requestId = null, retryAfter = null }) {
    super(message);
    Object.assign(this, { code, status, details, requestId, retryAfter });
  }
}

export class NoAnswer extends ClientError {
  name = "NoAnswer";

  constructor(message, { sent, cause }) {
    super(message, { cause });
    this.sent = sent;
  }
}

export class WaitTimeout extends ClientError {
  name = "WaitTimeout";
}

export class Retry extends Error {
  name = "Retry";

  constructor({ after = null, message = "The handler asks for another attempt.", code = "retry" } = {}) {
    super(message);
    this.after = after;
    this.code = code;
  }
}

export class Fail extends Error {
  name = "Fail";

  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

export class Release extends Error {
  name = "Release";

  constructor({ delay = 0 } = {}) {
    super("The handler releases the task.");
    this.delay = delay;
  }
}

export class Client {
  #url;
  #key;
  #timeout;
  #retrySeconds;

  constructor(url, key, { timeout = 30, retry_seconds = 60, ...unknown } = {}) {
    refuse(unknown, "Client");
    if (!/^https?:\/\/[^\s/]/i.test(url)) {
      throw new TypeError(`The address of the server must begin with http:// or https://, not: '${url}'`);
    }
    this.#url = url.replace(/\/+$/, "").replace(/\/api$/, "") + "/api";
    this.#key = key;
    this.#timeout = timeout;
    this.#retrySeconds = retry_seconds;
  }

  static fromEnv(options) {
    for (const name of ["TASKMANAGER_URL", "TASKMANAGER_KEY"]) {
      if (!env[name]) throw new TypeError(`${name} is not set in the environment.`);
    }
    return new Client(env.TASKMANAGER_URL, env.TASKMANAGER_KEY, options);
  }

  // Tasks

  create(type, params = {}, options = {}) {
    const task = prepare({ type, params, ...options });
    return this.call("POST", "/tasks", task, () => this.#isCreatedOnce(task));
  }

  async createMany(tasks, { atomic = false } = {}) {
    const prepared = tasks.map(prepare);
    const { results } = await this.call("POST", "/tasks/batch", { tasks: prepared, atomic }, async () => {
      for (const task of prepared) {
        if (!(await this.#isCreatedOnce(task))) return false;
      }
      return true;
    });
    return results.map(({ outcome, task, error }) =>
      error ? new ApiError(error.message, error) : { ...task, deduplicated: outcome === "deduplicated" },
    );
  }

  /** Whether the same creation, sent again, finds the task of the first one. */
  async #isCreatedOnce(task) {
    try {
      return (task.dedupe ?? (await this.type(task.type)).dedupe) !== "none";
    } catch {
      return false;
    }
  }

  get(id) {
    return this.call("GET", `/tasks/${id}`);
  }

  tasks(query = {}) {
    return this.#pages("/tasks", "tasks", query);
  }

  async *#pages(path, name, query = {}) {
    let { cursor } = query;
    do {
      const page = await this.call("GET", path + queryString({ ...query, cursor }));
      yield* page[name];
      cursor = page.next_cursor;
    } while (cursor !== null);
  }

  async wait(task, { timeout = 300 } = {}) {
    const id = task.id ?? task;
    const end = now() + timeout;
    for (let seconds = 0.5; ; seconds = Math.min(seconds * 1.5, 5)) {
      const askedAt = now();
      // Not for so long that the request ends without an answer.
      const wait = Math.max(0, Math.floor(Math.min(MAX_WAIT_SECONDS, this.#timeout / 2, end - askedAt)));
      const found = await this.call("GET", `/tasks/${id}?wait_seconds=${wait}`);
      if (["completed", "failed", "cancelled"].includes(found.status)) return found;
      if (now() >= end) {
        throw new WaitTimeout(`Task ${id} is still ${found.status} after ${timeout} seconds.`);
      }
      // A server that cannot wait is asked now and then.
      await pause(Math.min(askedAt + seconds, end) - now());
    }
  }

  async graph(id) {
    return this.call("GET", `/tasks/${id}/graph`);
  }

  async logs(id) {
    return (await this.call("GET", `/tasks/${id}/logs`)).logs;
  }

  change(id, changes) {
    return this.call("PATCH", `/tasks/${id}`, changes);
  }

  cancel(id, reason = null) {
    return this.call("POST", `/tasks/${id}/cancel`, { reason });
  }

  retry(id) {
    return this.call("POST", `/tasks/${id}/retry`, {}, false);
  }

  events(query = {}) {
    return this.call("GET", "/events" + queryString(query));
  }

  async errors(query = {}) {
    return (await this.call("GET", "/tasks/errors" + queryString(query))).groups;
  }

  changeMany(action, fields) {
    return this.call("POST", `/tasks/${action}`, fields);
  }

  // Batches

  createBatch(tasks = [], options = {}) {
    return this.call("POST", "/batches", { ...options, tasks: tasks.map(prepare) }, false);
  }

  addToBatch(id, tasks) {
    return this.call("POST", `/batches/${id}/tasks`, { tasks: tasks.map(prepare) }, false);
  }

  closeBatch(id) {
    return this.call("POST", `/batches/${id}/close`, {});
  }

  batch(id) {
    return this.call("GET", `/batches/${id}`);
  }

  batches() {
    return this.#pages("/batches", "batches");
  }

  cancelBatch(id, reason = null) {
    return this.call("POST", `/batches/${id}/cancel`, { reason });
  }

  retryBatch(id) {
    return this.call("POST", `/batches/${id}/retry`, {});
  }

  // The calls of a worker. Worker makes them by itself.

  async claim(worker_id, fields = {}) {
    try {
      const body = { worker_id, limit: 1, request_id: randomId(), ...fields };
      return (await this.call("POST", "/tasks/claim", body)).tasks;
    } catch (error) {
      if (error.code === "no_task_available") return [];
      throw error;
    }
  }

  complete(id, report) {
    return this.call("POST", `/tasks/${id}/complete`, report);
  }

  async completeMany(worker_id, completions) {
    return (await this.call("POST", "/tasks/complete", { worker_id, completions })).results;
  }

  progress(id, fields) {
    return this.call("POST", `/tasks/${id}/progress`, fields);
  }

  heartbeat(id, fields) {
    return this.call("POST", `/tasks/${id}/heartbeat`, fields);
  }

  release(id, fields) {
    return this.call("POST", `/tasks/${id}/release`, fields, false);
  }

  heartbeatWorker(worker_id, fields = {}) {
    return this.call("POST", "/workers/heartbeat", { worker_id, ...fields });
  }

  async shutDownWorker(workerId) {
    return (await this.call("POST", `/workers/${encodeURIComponent(workerId)}/shutdown`, {})).released;
  }

  // Task types

  register(name, version, param_schema, options = {}) {
    return this.call("POST", "/task-types/register", { name, version, param_schema, ...options });
  }

  async types() {
    return (await this.call("GET", "/task-types")).task_types;
  }

  type(name, version = null) {
    return this.call("GET", `/task-types/${encodeURIComponent(name)}` + queryString({ version }));
  }

  changeType(name, changes) {
    return this.call("PATCH", `/task-types/${encodeURIComponent(name)}`, changes);
  }

  validate(type, fields) {
    return this.call("POST", `/task-types/${encodeURIComponent(type)}/validate`, fields);
  }

  // Schedules

  createSchedule(fields) {
    return this.call("POST", "/schedules", fields, false);
  }

  schedules() {
    return this.#pages("/schedules", "schedules");
  }

  schedule(id) {
    return this.call("GET", `/schedules/${id}`);
  }

  changeSchedule(id, changes) {
    return this.call("PATCH", `/schedules/${id}`, changes);
  }

  async deleteSchedule(id) {
    await this.call("DELETE", `/schedules/${id}`, undefined, false);
  }

  runSchedule(id) {
    return this.call("POST", `/schedules/${id}/run`, {}, false);
  }

  // Workers and the service

  workers() {
    return this.#pages("/workers", "workers");
  }

  worker(workerId) {
    return this.call("GET", `/workers/${encodeURIComponent(workerId)}`);
  }

  health() {
    return this.call("GET", "/health");
  }

  stats() {
    return this.call("GET", "/stats");
  }

  async call(method, path, body, repeat = true) {
    const end = now() + this.#retrySeconds;
    for (let tries = 1; ; tries++) {
      try {
        return await this.attempt(method, path, body);
      } catch (error) {
        const delay = delayAfter(error, tries);
        if (delay === null || now() + delay > end) throw error;
        const mayBeDone = error instanceof NoAnswer ? error.sent : error.status !== 429;
        if (mayBeDone && typeof repeat === "function") repeat = await repeat();
        if (mayBeDone && !repeat) throw error;
        await pause(delay);
      }
    }
  }

  /** One request, which is not repeated; `timeout` in seconds. Not part of the interface. */
  async attempt(method, path, body, timeout = this.#timeout, abort = new AbortController()) {
    const timer = setTimeout(() => abort.abort(new Error(`it took more than ${timeout} seconds`)), 1000 * timeout);
    const request = {
      method,
      headers: { "X-API-Key": this.#key, "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: abort.signal,
      redirect: "manual",
    };
    let response, text;
    try {
      response = await fetch(this.#url + path, request);
      text = await response.text();
    } catch (error) {
      const neverSent = ["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN"].includes(error.cause?.code);
      const why = error.cause?.message || error.message;
      throw new NoAnswer(`No answer from ${this.#url}: ${why}`, { sent: !neverSent, cause: error });
    } finally {
      clearTimeout(timer);
    }
    return this.#data(response, text);
  }

  #data(response, text) {
    let answer = null;
    try {
      answer = JSON.parse(text);
    } catch {
      // Not from TaskManager, or cut off.
    }
    if (answer?.success) return answer.data;
    const { status, headers } = response;
    if (status < 300) {
      throw new NoAnswer(`The answer from ${this.#url} is cut off, or not TaskManager's.`, { sent: true });
    }
    const where = headers.get("Location") ? `; it leads to ${headers.get("Location")}` : "";
    const retryAfter = parseFloat(headers.get("Retry-After"));
    throw new ApiError(
      answer?.message ?? `${this.#url} answered ${status}, and it is not TaskManager that answered${where}.`,
      {
        code: answer?.code ?? `http_${status}`,
        status,
        details: answer?.details ?? null,
        requestId: headers.get("X-Request-ID"),
        retryAfter: Number.isNaN(retryAfter) ? null : retryAfter,
      },
    );
  }
}

/**
 * The body of one creation. Without de-duplication a repeated call would create a second task, so
 * such a task gets a key of its own instead.
 */
function prepare(task) {
  return task.dedupe === "none" ? { ...task, dedupe: "forever", dedupe_key: randomId() } : task;
}

function queryString(fields) {
  const sent = Object.entries(fields).filter(([, value]) => value !== undefined && value !== null);
  return sent.length ? `?${new URLSearchParams(sent)}` : "";
}

function refuse(unknown, where) {
  for (const name of Object.keys(unknown)) throw new TypeError(`Unknown option of ${where}: ${name}`);
}

/** Seconds until a failed call is worth another try; null if it is not. */
function delayAfter(error, tries) {
  if (error instanceof NoAnswer) return backoff(tries);
  if (error.code === "queue_full") return null; // the producer decides whether to wait for that
  const isPassing = ["http_429", "http_502", "http_503", "http_504"].includes(error.code);
  return error.retryAfter ?? (isPassing ? backoff(tries) : null);
}

/** Seconds to wait after a number of failures: 0.4, 0.8, … 5, a fifth more or less. */
function backoff(tries) {
  return jitter(Math.min(0.2 * 2 ** Math.min(tries, 5), 5));
}

// Seconds that a handler has after it was asked to stop.
const STOP_SECONDS = 5;
const TICK_SECONDS = 0.1;
// A lease may have begun when its claim was sent, as far as is known here, so the server may wait
// for a task for a quarter of the shortest lease.
const LEASE_SECONDS_UNKNOWN = 20;
// Reports that are none: the task is put back; the task is not the worker's any more.
const RELEASED = Object.freeze({ delay_seconds: 0 });
const DROPPED = Object.freeze({ dropped: true });

export class Worker {
  #client;
  #id;
  #options;
  #limits; // of run()
  #claimed = 0;
  #types = new Map(); // type → {handler, schema, version, lease_seconds, timeout}
  #held = new Map(); // task id → Held
  #turns = []; // filters of the claims that are made in turn, one for each lease
  #emptyTurns = 0;
  #shortestLease = null; // that was seen
  #claiming; // aborts the claim that the server waits with
  #hasBeenAnswered = false;
  #heartbeatAt = Infinity;
  #failedHeartbeats = 0;
  #isRenewing = false;
  #isEnding = false; // nothing more is claimed
  #isStopped = false; // stop() was called
  #givesUpAt = Infinity;
  #refusal = null;
  #running = 0; // handlers, also those that were given up
  #wake = () => {};

  constructor(client, options = {}) {
    const { worker_id, concurrency = 1, grace = 30, log = (line) => console.error(line), ...unknown } = options;
    refuse(unknown, "Worker");
    this.#client = client;
    this.#options = { concurrency, grace, log };
    this.#id = worker_id ?? `${env.HOSTNAME ?? "javascript"}-${globalThis.process?.pid ?? 0}-${randomId().slice(0, 6)}`;
  }

  task(type, handler, options = {}) {
    const { schema = null, version = "1", lease_seconds = null, timeout = Infinity, ...unknown } = options;
    refuse(unknown, `the task type ${type}`);
    this.#types.set(type, { handler, schema, version, lease_seconds, timeout });
    return this;
  }

  async run({ burst = false, max_tasks = Infinity, max_runtime = Infinity, ...unknown } = {}) {
    refuse(unknown, "run()");
    this.#limits = { burst, max_tasks, endsAt: now() + max_runtime };
    this.#isEnding = this.#isStopped; // stop() is for good, the limits of an earlier run() are not
    this.#claimed = 0;
    await this.#begin();
    let gotSignal = false;
    const onSignal = () => {
      this.#log(`stopping; ${this.#held.size} tasks are still held`);
      gotSignal = true;
      this.stop();
    };
    const signals = globalThis.process?.on ? ["SIGTERM", "SIGINT"] : [];
    for (const signal of signals) process.on(signal, onSignal);
    const timer = setInterval(() => this.#tick(), 1000 * TICK_SECONDS);
    try {
      await this.#claimUntilEnding();
      while (this.#held.size && now() < this.#givesUpAt) await this.#sleep(TICK_SECONDS);
    } finally {
      clearInterval(timer);
      for (const signal of signals) process.off(signal, onSignal);
    }
    await this.#end();
    // A handler that goes on after its task was released would do the work a second time.
    if (gotSignal && this.#running) process.exit(1);
  }

  stop() {
    const { grace } = this.#options;
    const [abortAfter, giveUpAfter] = this.#isStopped ? [0, 0] : [grace, grace + STOP_SECONDS];
    this.#isStopped = this.#isEnding = true;
    this.#givesUpAt = now() + giveUpAfter + 1;
    this.#claiming?.abort();
    for (const held of this.#held.values()) held.stop(RELEASED, abortAfter, giveUpAfter);
    this.#wake();
  }

  async #begin() {
    if (!this.#types.size) throw new TypeError("The worker has no handler: call task() before run().");
    const turns = new Map();
    for (const [type, { schema, version, lease_seconds }] of this.#types) {
      const lease = lease_seconds === null ? {} : { lease_seconds };
      if (schema !== null) await this.#client.register(type, version, schema, lease);
      if (!turns.has(lease_seconds)) turns.set(lease_seconds, { ...lease, task_types: [] });
      turns.get(lease_seconds).task_types.push(type);
    }
    this.#turns = [...turns.values()];
    this.#log(`started, for ${[...this.#types.keys()].join(", ")}`);
  }

  async #claimUntilEnding() {
    const { endsAt, max_tasks } = this.#limits;
    await this.#sleep(jitter(0.5)); // workers that start together do not ask together
    while (!this.#isEnding) {
      const free = Math.min(this.#options.concurrency - this.#held.size, max_tasks - this.#claimed);
      const seconds = free < 1 ? 1 : await this.#claim(free);
      this.#isEnding ||= now() >= endsAt || this.#claimed >= max_tasks;
      if (!this.#isEnding) await this.#sleep(Math.min(seconds, endsAt - now()));
    }
  }

  /** Claims until it is answered, and returns the seconds until the next claim. */
  async #claim(limit) {
    // The same request until it is answered: if an answer is lost, the next one has its tasks.
    const wait = this.#waitSeconds();
    const request = { worker_id: this.#id, limit, request_id: randomId(), ...this.#turns[0] };
    if (wait) request.wait_seconds = wait;
    for (let tries = 1; !this.#isEnding; tries++) {
      const sentAt = now();
      try {
        this.#claiming = wait ? new AbortController() : undefined;
        const { tasks } = await this.#send("/tasks/claim", request, wait, this.#claiming);
        this.#hasBeenAnswered = true;
        this.#emptyTurns = 0;
        this.#claimed += tasks.length;
        this.#turns.push(this.#turns.shift());
        for (const task of tasks) this.#start(task, sentAt, tries > 1);
        return 0;
      } catch (error) {
        if (error.code === "no_task_available") {
          this.#hasBeenAnswered = true;
          this.#turns.push(this.#turns.shift());
          if (++this.#emptyTurns % this.#turns.length) return 0;
          this.#isEnding ||= this.#limits.burst && !this.#held.size;
          if (wait && now() - sentAt >= wait) return 0;
          // The server does not wait: it cannot, or as many as may wait there already.
          return jitter(error.details.poll_after_seconds);
        }
        if (this.#isStopped) return 0; // signing off releases what the claim may have got
        this.#log(`cannot claim: ${error.message}`);
        if (isForGood(error) || (isRefusal(error) && !this.#hasBeenAnswered)) {
          this.#refusal = error;
          this.stop();
        } else {
          await this.#sleep(delayAfter(error, tries) ?? backoff(tries));
        }
      }
    }
    return 0;
  }

  /** How long the server may wait for a task; 0 if other claims would be late meanwhile. */
  #waitSeconds() {
    const { burst, endsAt } = this.#limits;
    if (burst || this.#turns.length > 1) return 0;
    const lease = this.#turns[0].lease_seconds ?? this.#shortestLease ?? LEASE_SECONDS_UNKNOWN;
    return Math.max(0, Math.floor(Math.min(MAX_WAIT_SECONDS, lease / 4, endsAt - now())));
  }

  #start(task, sentAt, isRepeated) {
    this.#shortestLease = Math.min(task.lease_seconds, this.#shortestLease ?? Infinity);
    const { handler, timeout } = this.#types.get(task.type);
    const held = new Held(task, timeout);
    held.renewed(sentAt);
    this.#heartbeatAt = Math.min(this.#heartbeatAt, sentAt + task.next_heartbeat_in);
    if (isRepeated) {
      // It may have begun earlier: at least this much of the lease is left.
      held.leaseLasts(sentAt, 3 * task.next_heartbeat_in);
      this.#heartbeatAt = sentAt;
    }
    this.#held.set(task.id, held);
    this.#work(held, handler);
  }

  async #work(held, handler) {
    if (this.#isStopped) {
      held.report = RELEASED;
    } else {
      this.#running++;
      const ended = held.run(handler).then((report) => {
        this.#running--;
        return report;
      });
      held.report = await Promise.race([ended, held.givenUp]);
    }
    if (held.report !== DROPPED) await this.#report(held);
    this.#held.delete(held.task.id);
    this.#wake();
  }

  /** Sends the report until it is answered. */
  async #report(held) {
    const { id } = held.task;
    for (let tries = 1; now() < this.#givesUpAt; tries++) {
      const { report } = held;
      try {
        const call = "success" in report ? "complete" : "release";
        await this.#send(`/tasks/${id}/${call}`, { ...held.sender(this.#id), ...report });
        return;
      } catch (error) {
        this.#log(`cannot report task ${id}: ${error.message}`);
        if ([400, 413].includes(error.status) && report.error_code !== "result_refused") {
          const message = `The server refused the result: ${error.message}`;
          held.report = { ...failure(message, "result_refused"), is_retryable: false };
        } else if (isForGood(error) || (error.status === 500 && tries > 10)) {
          return;
        } else {
          await pause(delayAfter(error, tries) ?? backoff(tries));
        }
      }
    }
  }

  /** What is due while tasks are held: heartbeats, deadlines, progress. */
  #tick() {
    if (!this.#held.size) this.#heartbeatAt = Infinity;
    if (now() >= this.#heartbeatAt && !this.#isRenewing) this.#renewLeases();
    for (const held of this.#held.values()) {
      // After a handler that blocked the event loop, the heartbeat that is under way decides.
      held.enforceDeadlines({ isRenewing: this.#isRenewing });
      const progress = held.dueProgress();
      if (progress) this.#sendProgress(held, progress);
    }
  }

  async #renewLeases() {
    this.#isRenewing = true;
    const tasks = [...this.#held.values()].map(({ task: { id, claim_token } }) => ({ id, claim_token }));
    const sentAt = now();
    try {
      const answer = await this.#send("/workers/heartbeat", { worker_id: this.#id, tasks });
      this.#failedHeartbeats = 0;
      this.#heartbeatAt = sentAt + answer.next_heartbeat_in;
      for (const id of answer.renewed) this.#held.get(id)?.renewed(sentAt);
      for (const id of [...answer.lost, ...answer.cancelled]) this.#held.get(id)?.stop(DROPPED);
    } catch (error) {
      this.#log(`cannot renew leases: ${error.message}`);
      const tries = ++this.#failedHeartbeats;
      this.#heartbeatAt = now() + (delayAfter(error, tries) ?? backoff(tries));
    } finally {
      this.#isRenewing = false;
    }
  }

  async #sendProgress(held, progress) {
    const sentAt = now();
    try {
      const answer = await this.#send(`/tasks/${held.task.id}/progress`, { ...held.sender(this.#id), ...progress });
      held.renewed(sentAt);
      if (answer.cancelled) held.stop(DROPPED);
    } catch (error) {
      this.#log(`cannot report progress: ${error.message}`);
      if ([403, 404, 409].includes(error.status)) held.stop(DROPPED);
    }
  }

  /** One request, which does not take so long that the leases end meanwhile; the server may `wait`. */
  #send(path, body, wait = 0, abort = undefined) {
    const leases = [...this.#held.values()].map(({ task }) => task.lease_seconds / 4);
    return this.#client.attempt("POST", path, body, Math.max(1, Math.min(30, ...leases)) + wait, abort);
  }

  async #end() {
    await this.#signOff();
    this.#log("stopped");
    if (this.#refusal) throw this.#refusal;
  }

  /** Releases what a claim that was not answered may have got. */
  async #signOff() {
    for (let tries = 1; tries <= 3; tries++) {
      try {
        await this.#client.attempt("POST", `/workers/${encodeURIComponent(this.#id)}/shutdown`, {}, STOP_SECONDS);
        return;
      } catch (error) {
        this.#log(`cannot sign off: ${error.message}`);
        await pause(backoff(tries));
      }
    }
  }

  /** Sleeps until the time is over or the worker has something else to do. */
  #sleep(seconds) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, 1000 * seconds);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  #log(message) {
    this.#options.log(`taskmanager worker ${this.#id}: ${message}`);
  }
}

/** Whether TaskManager itself refused, and will refuse the same again. */
function isForGood(error) {
  return isRefusal(error) && error.code !== `http_${error.status}`;
}

/** The same, or another program that answers there; perhaps only while the server is replaced. */
function isRefusal(error) {
  return error instanceof ApiError && error.status < 500 && error.status !== 429;
}

/** A task that the worker holds. */
class Held {
  report = null; // once the handler has ended
  #stopped = null; // once the handler has to end: the report, unless it succeeds
  #abortAt = Infinity;
  #giveUpAt = Infinity;
  #timesOutAt;
  #leaseNearlyOverAt = 0;
  #progress = null;
  #progressAt = 0;
  #controller = new AbortController();
  #giveUp;

  constructor(task, timeout) {
    this.task = task;
    this.#timesOutAt = now() + timeout;
    this.givenUp = new Promise((resolve) => (this.#giveUp = resolve));
  }

  /** Runs the handler and returns the report, in the API's words. */
  async run(handler) {
    const held = this;
    const task = {
      ...this.task,
      attempt: this.task.attempts,
      signal: this.#controller.signal,
      get stopping() {
        return held.#stopped !== null;
      },
      progress(percent, message = null) {
        held.#progress = { progress: percent, message: message === null ? null : readable(message) };
      },
    };
    const report = await outcome(handler, task);
    return this.#controller.signal.aborted && !report.success ? this.#stopped : report;
  }

  /** Asks the handler to end: its signal aborts after some seconds, and nobody waits for it for ever. */
  stop(stopped, abortAfter = 0, giveUpAfter = abortAfter + STOP_SECONDS) {
    if (this.report) return;
    if (this.#stopped === null || stopped === DROPPED) this.#stopped = stopped;
    this.#abortAt = Math.min(this.#abortAt, now() + abortAfter);
    this.#giveUpAt = Math.min(this.#giveUpAt, now() + giveUpAfter);
    this.enforceDeadlines({ isRenewing: true });
  }

  enforceDeadlines({ isRenewing }) {
    if (this.report) return;
    if (this.#stopped === null && now() >= this.#timesOutAt) {
      this.stop(failure("The handler did not end within the timeout of its type.", "timed_out"));
    }
    const leaseIsNearlyOver = now() >= this.#leaseNearlyOverAt;
    if (leaseIsNearlyOver && !isRenewing && this.#stopped !== DROPPED) this.stop(DROPPED);
    if (now() >= this.#abortAt && !this.#controller.signal.aborted) this.#controller.abort();
    if (now() >= this.#giveUpAt) this.#giveUp(this.#stopped);
  }

  dueProgress() {
    if (this.#progress === null || this.report || now() < this.#progressAt) return null;
    const progress = this.#progress;
    this.#progress = null;
    this.#progressAt = now() + 1;
    return progress;
  }

  /** What proves that the task is this worker's. */
  sender(worker_id) {
    return { worker_id, claim_token: this.task.claim_token };
  }

  /** The lease began anew when that request was sent, or later. */
  renewed(sentAt) {
    this.leaseLasts(sentAt, this.task.lease_seconds);
  }

  /** At least this many seconds of the lease were left when that request was sent. */
  leaseLasts(sentAt, seconds) {
    this.#leaseNearlyOverAt = sentAt + 0.75 * seconds;
  }
}

async function outcome(handler, task) {
  let result;
  try {
    result = (await handler(task)) ?? null;
  } catch (error) {
    if (error instanceof Release) return { delay_seconds: error.delay };
    if (error instanceof Retry) return { ...failure(error.message, error.code), retry_after_seconds: error.after };
    if (error instanceof Fail) return { ...failure(error.message, error.code), is_retryable: false };
    return failure(error?.stack || String(error), "exception");
  }
  try {
    JSON.stringify(result); // throws for a BigInt or a cycle
  } catch (error) {
    const message = `The handler's result cannot be written as JSON: ${error.message}`;
    return { ...failure(message, "invalid_result"), is_retryable: false };
  }
  return { success: true, result };
}

function failure(message, error_code) {
  return { success: false, error: readable(message), error_code: readable(error_code).slice(0, 100) };
}

/** The text as the server takes it: without U+0000 and halves of surrogate pairs, up to 10,000 characters. */
function readable(text) {
  return String(text).slice(0, 10000).replaceAll("\0", "").replace(/\p{Surrogate}/gu, "\ufffd");
}
