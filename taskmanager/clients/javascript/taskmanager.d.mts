/**
 * Types of taskmanager.mjs. Fields have the names that docs/api.md gives them, and times are strings
 * such as "2026-01-31T12:00:00.000Z".
 *
 * JavaScript has no integers beyond 2^53: JSON.parse rounds larger ones in params and results
 * without a sign. Put them into tasks as strings.
 */

/** Any JSON value. A result may be one, or undefined, which becomes null. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [name: string]: Json | undefined };
export type Params = { readonly [name: string]: any };
export type Status =
  "blocked" | "scheduled" | "pending" | "claimed" | "completed" | "failed" | "cancelled";
export type DedupePolicy = "forever" | "active" | "none";

/** A task as the server sends it. Lists leave out `params` and `result` unless asked for them. */
export interface Task {
  id: number;
  type: string;
  type_version: string;
  status: Status;
  params: any;
  result: any;
  error_message: string | null;
  error_code: string | null;
  priority: number;
  progress: number;
  progress_message: string | null;
  attempts: number;
  max_attempts: number;
  dedupe: DedupePolicy;
  dedupe_key: string;
  parent_task_id: number | null;
  concurrency_key: string | null;
  group_key: string | null;
  tags: string[];
  worker_id: string | null;
  claimed_at: string | null;
  lease_expires_at: string | null;
  available_at: string;
  completed_at: string | null;
  created_at: string;
  updated_at: string;
  /** True where create() found the task instead of creating it. */
  deduplicated?: boolean;
  [field: string]: any;
}

export interface ClaimedTask extends Task {
  claim_token: string;
  lease_seconds: number;
  /** Seconds. */
  next_heartbeat_in: number;
}

/** What a handler gets: the claimed task, and how to speak to the worker about it. */
export interface RunningTask extends Omit<ClaimedTask, "progress"> {
  /** Which attempt this is, from 1. */
  readonly attempt: number;
  /** Aborts when the handler has to end: cancelled, lease lost, timeout, or the grace is over. */
  readonly signal: AbortSignal;
  /** True from then on, and from SIGTERM on: a good moment to return or to throw Release. */
  readonly stopping: boolean;
  /** Reports how far the task is, 0 to 100. Sent at most once a second. */
  progress(percent: number, message?: string | null): void;
}

export interface TaskOptions {
  priority?: number;
  max_attempts?: number;
  /** Seconds. */
  delay_seconds?: number;
  available_at?: string | Date;
  dedupe?: DedupePolicy;
  dedupe_key?: string;
  /** With `dedupe` "forever": seconds after its creation until the key is free. */
  dedupe_seconds?: number;
  /** What is done to a task that exists and still waits. */
  on_duplicate?: "keep" | "replace" | "postpone";
  parent_task_id?: number;
  /** Up to 10, of 1 to 50 characters. */
  tags?: string[];
  /** Cancelled if nobody has claimed it by then. */
  expires_at?: string | Date;
  /** Seconds. */
  expires_in_seconds?: number;
  /** How long an attempt may run. */
  max_run_seconds?: number;
  /** Tasks that have to complete first, or earlier ones of the same call by `index`. */
  depends_on?: (number | { index: number })[];
  /** What happens if one of them does not complete; "cancel" by default. */
  on_dependency_failed?: "cancel" | "run";
  /** A type with `concurrency` per key holds only so many tasks of one key at once. */
  concurrency_key?: string;
  /** A fair type takes tasks of its groups in turn. */
  group_key?: string;
}

/** What `change` sets of a task that waits. */
export interface TaskChanges {
  params?: Params;
  priority?: number;
  max_attempts?: number;
  /** Seconds. */
  delay_seconds?: number;
  available_at?: string | Date;
  tags?: string[];
}

/** The tasks `on_…` are created when the batch has ended. */
export interface BatchOptions {
  name?: string;
  is_open?: boolean;
  on_finished?: NewTask;
  on_completed?: NewTask;
  on_failed?: NewTask;
  metadata?: object;
  parent_batch_id?: number;
}

export interface Batch {
  id: number;
  name: string | null;
  status: "open" | "running" | "finished";
  /** How many tasks it has had. */
  tasks: number;
  counts: { completed: number; failed: number; cancelled: number; unfinished: number };
  /** 0 to 100. */
  progress: number;
  /** Further fields of GET /api/batches/{id}. */
  [field: string]: any;
}

export interface NewTask extends TaskOptions {
  type: string;
  params: Params;
}

export interface TaskQuery {
  /** Of one page. */
  limit?: number;
  status?: Status;
  type?: string;
  worker_id?: string;
  tag?: string;
  priority_min?: number;
  priority_max?: number;
  created_after?: string;
  created_before?: string;
  sort_by?: "created_at" | "priority" | "id";
  sort_order?: "asc" | "desc";
  include?: string;
  /** Further filters of GET /api/tasks. */
  [filter: string]: any;
}

export interface ClaimFields {
  task_type_id?: number;
  task_type_ids?: number[];
  type?: string;
  task_types?: string[];
  type_pattern?: string;
  sort_by?: "priority" | "created_at" | "id" | "attempts";
  sort_order?: "ASC" | "DESC";
  /** 1 to 100; default 1. */
  limit?: number;
  lease_seconds?: number;
  request_id?: string;
  /** 0 to 20: how long the server may wait for a task. */
  wait_seconds?: number;
  /** Which fields of a task are wanted; default all. */
  fields?: string[];
}

/** What proves that a task is held by the caller. */
export interface Holder {
  worker_id: string;
  claim_token?: string;
}

export interface Report extends Holder {
  success: boolean;
  result?: any;
  error?: string;
  error_code?: string;
  is_retryable?: boolean;
  /** Seconds. */
  retry_after_seconds?: number | null;
}

export interface Lease {
  lease_expires_at: string;
  /** Seconds. */
  lease_seconds: number;
  /** Seconds. */
  next_heartbeat_in: number;
  cancelled: boolean;
}

export interface TypeDefaults {
  priority?: number | null;
  max_attempts?: number | null;
  lease_seconds?: number | null;
  retry?: object | null;
  dedupe?: DedupePolicy | null;
  concurrency?: { limit: number; per?: "type" | "key" } | null;
  start_rate?: string | null;
  fair?: boolean | null;
  max_open?: { type?: number; group?: number } | null;
}

/** What a call throws. */
export class ClientError extends Error {}

/** The server refused a call. The message is the server's sentence for people. */
export class ApiError extends ClientError {
  /** What programs compare, such as "task_not_found". */
  readonly code: string;
  /** The HTTP status. */
  readonly status: number;
  /** For an invalid request, a list of {path, message, keyword}. */
  readonly details: any;
  /** Names this call in the server's log. */
  readonly requestId: string | null;
  /** Seconds after which the server wants the call again; null: not at all. */
  readonly retryAfter: number | null;
}

/** No answer arrived, or none of TaskManager's. `sent`: the server may have acted all the same. */
export class NoAnswer extends ClientError {
  readonly sent: boolean;
}

/** Client.wait() gave up. */
export class WaitTimeout extends ClientError {}

/** Thrown by a handler: the attempt failed, try again. */
export class Retry extends Error {
  /**
   * @param options after: seconds until the next attempt; default: as the type's `retry` says.
   * code: the error_code of the attempt, up to 100 characters
   */
  constructor(options?: { after?: number | null; message?: string; code?: string });
}

/** Thrown by a handler: the task failed for good. */
export class Fail extends Error {
  /** @param code the task's error_code, up to 100 characters */
  constructor(code: string, message: string);
}

/** Thrown by a handler: put the task back. The attempt does not count. */
export class Release extends Error {
  /** @param options delay: seconds until the task can be claimed again; default 0 */
  constructor(options?: { delay?: number });
}

export interface ClientOptions {
  /** Seconds that one request may take; default 30. */
  timeout?: number;
  /** Seconds for which calls are repeated; default 60. */
  retry_seconds?: number;
}

/**
 * The calls of the API, one method each. docs/api.md describes fields and answers.
 *
 * A method returns the `data` of the answer, and throws ApiError or NoAnswer. A call whose
 * answer is lost, or that is answered 429, 502, 503 or 504, is repeated as long as `retry_seconds`
 * allows, if doing it twice is the same as doing it once. A full queue (`queue_full`) is no such case.
 */
export class Client {
  /** @param url address of the server, with or without /api at the end */
  constructor(url: string, key: string, options?: ClientOptions);
  /** The client for the address in TASKMANAGER_URL and the key in TASKMANAGER_KEY. */
  static fromEnv(options?: ClientOptions): Client;

  /** Creates a task, or finds the one that exists (`task.deduplicated`). */
  create(type: string, params?: Params, options?: TaskOptions): Promise<Task>;
  /**
   * Creates up to 1,000 tasks in one transaction. Returns for each, in order, the task or why it was
   * refused. With `atomic`, all of them or none: a single bad one throws.
   */
  createMany(tasks: readonly NewTask[], options?: { atomic?: boolean }): Promise<(Task | ApiError)[]>;
  get(id: number): Promise<Task>;
  /** Every task that matches, the newest first; further pages are fetched as they are needed. */
  tasks(query?: TaskQuery): AsyncGenerator<Task, void, undefined>;
  /** Waits until a task is finished, at most `timeout` seconds (300). Throws WaitTimeout. */
  wait(task: number | Pick<Task, "id">, options?: { timeout?: number }): Promise<Task>;
  /** The history of a task, oldest entry first. */
  logs(id: number): Promise<any[]>;
  /** What a task depends on and what depends on it: `tasks`, `edges`, `is_complete`. */
  graph(id: number): Promise<any>;
  /** Changes a task that waits. Refused once a worker has claimed it. */
  change(id: number, changes: TaskChanges): Promise<Task>;
  cancel(id: number, reason?: string | null): Promise<Task>;
  /** Puts a failed or cancelled task back into the queue, with all its attempts. */
  retry(id: number): Promise<Task>;
  /** What happened to tasks, oldest first: `next_cursor` is the `after` of the next call. */
  events(query?: {
    after?: string;
    limit?: number;
    type?: string;
    status?: string | string[];
    tag?: string;
    wait_seconds?: number;
  }): Promise<{ events: any[]; next_cursor: string; is_complete: boolean; [field: string]: any }>;
  /** Failed tasks in groups: type, error_code, message, count and an example. */
  errors(query?: TaskQuery): Promise<any[]>;
  /** Changes many tasks: `fields` has ids or a filter. Returns matched, changed, skipped, next_cursor. */
  changeMany(
    action: "retry" | "cancel" | "release" | "delete" | "update",
    fields: { ids?: number[]; filter?: object; limit?: number; dry_run?: boolean; [field: string]: any },
  ): Promise<any>;

  /** Creates a batch. Not repeated if the answer is lost: that would be another batch. */
  createBatch(tasks?: readonly NewTask[], options?: BatchOptions): Promise<Batch>;
  /** Creates tasks in an open batch, all or none. Not repeated if the answer is lost. */
  addToBatch(id: number, tasks: readonly NewTask[]): Promise<Batch>;
  /** Lets a batch take no more tasks, so that it can finish. */
  closeBatch(id: number): Promise<Batch>;
  /** One batch. Its tasks: `tasks({ batch_id: id })`. */
  batch(id: number): Promise<Batch>;
  /** Every batch, the newest first. */
  batches(): AsyncGenerator<Batch, void, undefined>;
  /** Closes a batch and those in it, and cancels their tasks, up to 10,000 a call. */
  cancelBatch(id: number, reason?: string | null): Promise<Batch>;
  /** Tries the failed and cancelled tasks of a batch again, up to 10,000 a call. */
  retryBatch(id: number): Promise<Batch>;

  /** Claims up to `limit` tasks (default 1); an empty list if there are none. */
  claim(worker_id: string, fields?: ClaimFields): Promise<ClaimedTask[]>;
  complete(id: number, report: Report): Promise<Task & { will_retry: boolean; replayed: boolean }>;
  completeMany(
    worker_id: string,
    completions: readonly (Omit<Report, "worker_id"> & { id: number })[],
  ): Promise<any[]>;
  progress(id: number, fields: Holder & { progress: number; message?: string | null }): Promise<Lease>;
  heartbeat(id: number, fields: Holder & { lease_seconds?: number }): Promise<Lease>;
  release(id: number, fields: Holder & { delay_seconds?: number }): Promise<Task>;
  /** Renews several leases; returns the ids that were renewed, lost or cancelled. */
  heartbeatWorker(
    worker_id: string,
    fields?: { tasks?: { id: number; claim_token: string }[]; metadata?: object },
  ): Promise<{
    renewed: number[];
    lost: number[];
    cancelled: number[];
    lease_seconds: number | null;
    next_heartbeat_in: number;
  }>;
  /** Returns the ids of the released tasks. */
  shutDownWorker(workerId: string): Promise<number[]>;

  /** Creates a type or updates it. */
  register(name: string, version: string, param_schema: object, options?: TypeDefaults): Promise<any>;
  /** Every type that the key may use. */
  types(): Promise<any[]>;
  type(name: string, version?: string | null): Promise<any>;
  changeType(name: string, changes: TypeDefaults & { is_active?: boolean; is_paused?: boolean }): Promise<any>;
  /** Checks params or a new schema; stores nothing. */
  validate(type: string, fields: { params: Params } | { param_schema: object }): Promise<any>;

  createSchedule(fields: { name: string; type: string; params: Params; [field: string]: any }): Promise<any>;
  /** Every schedule; further pages are fetched as they are needed. */
  schedules(): AsyncGenerator<any, void, undefined>;
  schedule(id: number): Promise<any>;
  changeSchedule(id: number, changes: { [field: string]: any }): Promise<any>;
  deleteSchedule(id: number): Promise<void>;
  /** Creates a task of the schedule now. */
  runSchedule(id: number): Promise<Task>;

  /** Every worker, the one seen last first. */
  workers(): AsyncGenerator<any, void, undefined>;
  worker(workerId: string): Promise<any>;
  health(): Promise<any>;
  stats(): Promise<any>;

  /**
   * Makes any call, such as `call("POST", "/admin/keys", { name: "x", role: "worker" }, false)`.
   *
   * @param path below /api, with its query
   * @param repeat whether to repeat the call where the server may have done it; default true
   */
  call(
    method: string,
    path: string,
    body?: object,
    repeat?: boolean | (() => boolean | Promise<boolean>),
  ): Promise<any>;
}

export interface WorkerOptions {
  /** Default: HOSTNAME of the environment, the process id and a random part. */
  worker_id?: string;
  /** How many handlers run at the same time; default 1. */
  concurrency?: number;
  /** Seconds that handlers may go on after SIGTERM; default 30. */
  grace?: number;
  /** Gets each line of the log; default: console.error. */
  log?: (line: string) => void;
}

export interface RunOptions {
  /** Return as soon as there is nothing to claim. */
  burst?: boolean;
  /** Tasks after which nothing more is claimed. */
  max_tasks?: number;
  /** Seconds after which nothing more is claimed. */
  max_runtime?: number;
}

export interface HandlerOptions {
  /** Registers the type with this JSON Schema when the worker starts. */
  schema?: object | null;
  /** Of the registered type; default "1". */
  version?: string;
  /** Of its claims. Default: the type's. */
  lease_seconds?: number | null;
  /** Seconds after which the attempt has failed; default: none. */
  timeout?: number;
}

/**
 * Claims tasks and gives each to the handler of its type, until it is stopped.
 *
 * Handlers share one event loop with the worker. One that blocks it also blocks the heartbeats: its
 * task is lost to another worker when it does so for longer than the lease.
 */
export class Worker {
  constructor(client: Client, options?: WorkerOptions);
  /** Says who handles the tasks of a type. The handler returns the result, any JSON value. */
  task(type: string, handler: (task: RunningTask) => unknown, options?: HandlerOptions): this;
  /**
   * Works until SIGTERM or stop(), or as long as the options say.
   *
   * Throws ApiError where the server refuses this worker, such as for its key.
   */
  run(options?: RunOptions): Promise<void>;
  /**
   * Claims nothing more. run() returns once the handlers have ended; after `grace` seconds they are
   * given up and their tasks released. A second call gives them up at once.
   */
  stop(): void;
}
