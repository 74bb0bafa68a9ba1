<?php

/**
 * Client and worker of TaskManager, a task queue behind an HTTP API.
 *
 * One file for PHP 7.4 or newer with the extensions curl and json. Fields have the names that
 * docs/api.md gives them. The classes are Client, Worker and Task, what a handler throws (Retry,
 * Fail, Release) and what a call throws (ApiError, NoAnswer, WaitTimeout). Everything marked
 * @internal may change.
 */

declare(strict_types=1);

namespace TaskManager;

/** What a call throws. */
abstract class ClientError extends \RuntimeException
{
}

/** The server refused a call. The message is the server's sentence for people. */
class ApiError extends ClientError
{
    /** @var string what programs compare, such as 'task_not_found' */
    public $code;
    /** @var int the HTTP status */
    public $status;
    /** @var mixed for an invalid request, a list of ['path' => …, 'message' => …, 'keyword' => …] */
    public $details;
    /** @var ?string names this call in the server's log */
    public $requestId;
    /** @var ?float seconds after which the server wants the call again; null: not at all */
    public $retryAfter;

    /** @param mixed $details */
    public function __construct(
        string $message,
        string $code,
        int $status,
        $details = null,
        ?string $requestId = null,
        ?float $retryAfter = null
    ) {
        parent::__construct($message);
        $this->code = $code;
        $this->status = $status;
        $this->details = $details;
        $this->requestId = $requestId;
        $this->retryAfter = $retryAfter;
    }
}

/** No answer arrived, or none of TaskManager's. `$sent`: the server may have acted all the same. */
class NoAnswer extends ClientError
{
    /** @var bool */
    public $sent;

    public function __construct(string $message, bool $sent)
    {
        parent::__construct($message);
        $this->sent = $sent;
    }
}

/** Client::wait() gave up. */
class WaitTimeout extends ClientError
{
}

/** Thrown by a handler: the attempt failed, try again. */
class Retry extends \RuntimeException
{
    /** @var ?float seconds */
    public $after;

    /**
     * @param ?float $after seconds until the next attempt; null: as the type's `retry` says
     * @param string $code the error_code of the attempt, up to 100 characters
     */
    public function __construct(
        ?float $after = null,
        string $message = 'The handler asks for another attempt.',
        string $code = 'retry'
    ) {
        parent::__construct($message);
        $this->after = $after;
        $this->code = $code;
    }
}

/** Thrown by a handler: the task failed for good. */
class Fail extends \RuntimeException
{
    /** @param string $code the task's error_code, up to 100 characters */
    public function __construct(string $code, string $message)
    {
        parent::__construct($message);
        $this->code = $code;
    }
}

/** Thrown by a handler: put the task back. The attempt does not count. */
class Release extends \RuntimeException
{
    /** @var float seconds */
    public $delay;

    /** @param float $delay seconds until the task can be claimed again */
    public function __construct(float $delay = 0)
    {
        parent::__construct('The handler releases the task.');
        $this->delay = $delay;
    }
}

/**
 * A task: what the client returns, and what a handler gets.
 *
 * Times are strings such as '2026-01-31T12:00:00.000Z'. Objects in params and results are arrays.
 */
final class Task
{
    public int $id;
    public string $type;
    public string $status;
    /** @var array<string, mixed> empty in lists that leave it out */
    public array $params = [];
    /** @var mixed any JSON value */
    public $result = null;
    public ?string $error_message = null;
    public ?string $error_code = null;
    public int $priority = 0;
    public int $progress = 0;
    public ?string $progress_message = null;
    /** How many attempts have begun; `$attempt` is the same number. */
    public int $attempts = 0;
    public int $attempt = 0;
    public int $max_attempts = 0;
    public ?int $parent_task_id = null;
    public ?string $concurrency_key = null;
    public ?string $group_key = null;
    /** @var list<string> */
    public array $tags = [];
    public ?string $worker_id = null;
    public ?string $available_at = null;
    public ?string $completed_at = null;
    public string $created_at = '';
    public string $updated_at = '';
    /** True where create() found the task instead of creating it. */
    public bool $deduplicated = false;
    /** @var array<string, mixed> every field as the server sent it */
    public array $fields;

    private ?Handling $handling;

    /**
     * @internal
     * @param array<string, mixed> $fields
     */
    public function __construct(array $fields, ?Handling $handling = null)
    {
        $this->fields = $fields;
        foreach ($fields as $name => $value) {
            if ($value !== null && $name !== 'fields' && property_exists($this, $name)) {
                $this->$name = $value;
            }
        }
        $this->attempt = $this->attempts;
        $this->handling = $handling;
    }

    public function isFinished(): bool
    {
        return in_array($this->status, ['completed', 'failed', 'cancelled'], true);
    }

    /** Within a handler: reports how far the task is, 0 to 100. Sent at most once a second. */
    public function progress(int $percent, ?string $message = null): void
    {
        $this->handling()->progress($percent, $message);
    }

    /**
     * Within a handler: true once it should end, because the task was cancelled, its lease was
     * lost, its time is over, or the worker is stopping. What it returns then is still reported
     * where the task is still the worker's.
     */
    public function stopping(): bool
    {
        return $this->handling()->stopping();
    }

    /**
     * Within a handler: renews the lease if that is due. Only needed where handlers run in the
     * worker's own process; anywhere else the worker does it. Returns false once stopping() is true.
     */
    public function heartbeat(): bool
    {
        return $this->handling()->heartbeat();
    }

    private function handling(): Handling
    {
        if ($this->handling === null) {
            throw new \LogicException('Only a handler can do this, with the task that it was given.');
        }
        return $this->handling;
    }
}

/**
 * The calls of the API, one method each. docs/api.md describes fields and answers.
 *
 * A method returns the `data` of the answer, and throws ApiError or NoAnswer. A call whose
 * answer is lost, or that is answered 429, 502, 503 or 504, is repeated as long as
 * `retry_seconds` allows, if doing it twice is the same as doing it once. A full queue (`queue_full`) is no such case.
 */
class Client
{
    /** @internal Seconds that the server may wait before it answers. */
    public const MAX_WAIT_SECONDS = 20;

    private string $url;
    private string $key;
    private float $timeout;
    private float $retrySeconds;
    /** @var \CurlHandle|resource|null kept, so that the connection is */
    private $curl = null;

    /**
     * @param string $url address of the server, with or without /api at the end
     * @param array{timeout?: float, retry_seconds?: float} $options in seconds: of one request
     *     (default 30), and how long calls are repeated (default 60)
     */
    public function __construct(string $url, string $key, array $options = [])
    {
        if (!preg_match('~^https?://[^\s/]+~i', $url)) {
            throw new \InvalidArgumentException("The address must begin with http:// or https://, not: '$url'");
        }
        if ($unknown = array_diff_key($options, ['timeout' => 1, 'retry_seconds' => 1])) {
            throw new \InvalidArgumentException('Unknown option of Client: ' . key($unknown));
        }
        $this->url = (string) preg_replace('~(/api)?/*$~', '', rtrim($url, '/')) . '/api';
        $this->key = $key;
        $this->timeout = (float) ($options['timeout'] ?? 30);
        $this->retrySeconds = (float) ($options['retry_seconds'] ?? 60);
    }

    /** The client for the address in TASKMANAGER_URL and the key in TASKMANAGER_KEY. */
    public static function fromEnv(): self
    {
        $values = [];
        foreach (['TASKMANAGER_URL', 'TASKMANAGER_KEY'] as $name) {
            $values[] = $value = getenv($name);
            if ($value === false || $value === '') {
                throw new \InvalidArgumentException("$name is not set in the environment.");
            }
        }
        return new self(...$values);
    }

    // Tasks

    /**
     * Creates a task, or finds the one that exists (`$task->deduplicated`).
     *
     * @param array<string, mixed> $params
     * @param array<string, mixed> $options priority, max_attempts, delay_seconds, available_at,
     *     dedupe, dedupe_key, parent_task_id, concurrency_key, group_key, tags, depends_on,
     *     on_dependency_failed
     */
    public function create(string $type, array $params = [], array $options = []): Task
    {
        $task = self::prepare(['type' => $type, 'params' => $params] + $options);
        return new Task($this->call('POST', '/tasks', $task, function () use ($task): bool {
            return $this->isCreatedOnce($task);
        }));
    }

    /**
     * Creates up to 1,000 tasks in one transaction.
     *
     * @param array<array<string, mixed>> $tasks each with type, params and the options of create()
     * @param bool $atomic create all of them or none: a single bad one throws
     * @return array<Task|ApiError> for each task, in order, the task or why it was refused
     */
    public function createMany(array $tasks, bool $atomic = false): array
    {
        $tasks = array_map([self::class, 'prepare'], array_values($tasks));
        $body = ['tasks' => $tasks, 'atomic' => $atomic];
        $data = $this->call('POST', '/tasks/batch', $body, function () use ($tasks): bool {
            return array_filter($tasks, [$this, 'isCreatedOnce']) === $tasks;
        });
        return array_map(static function (array $result) {
            if ($result['outcome'] === 'error') {
                $error = $result['error'];
                return new ApiError($error['message'], $error['code'], $error['status'], $error['details'] ?? null);
            }
            return new Task(['deduplicated' => $result['outcome'] === 'deduplicated'] + $result['task']);
        }, $data['results']);
    }

    /**
     * The body of one creation. Without de-duplication a repeated call would create a second task,
     * so such a task gets a key of its own instead.
     *
     * @param array<string, mixed> $task
     * @return array<string, mixed>
     */
    private static function prepare(array $task): array
    {
        $task['params'] = (object) ($task['params'] ?? []);
        if (($task['dedupe'] ?? null) === 'none') {
            $task = ['dedupe' => 'forever', 'dedupe_key' => bin2hex(random_bytes(16))] + $task;
        }
        return $task;
    }

    /**
     * Whether the same creation, sent again, finds the task of the first one.
     *
     * @param array<string, mixed> $task
     */
    private function isCreatedOnce(array $task): bool
    {
        try {
            return ($task['dedupe'] ?? $this->type($task['type'])['dedupe']) !== 'none';
        } catch (ApiError $error) {
            return false;
        }
    }

    public function get(int $id): Task
    {
        return new Task($this->call('GET', "/tasks/$id"));
    }

    /**
     * Every task that matches, the newest first; further pages are fetched as they are needed.
     *
     * @param array<string, mixed> $query status, type, worker_id, include, limit (of a page), …
     * @return \Generator<int, Task>
     */
    public function tasks(array $query = []): \Generator
    {
        foreach ($this->pages('/tasks', 'tasks', $query) as $task) {
            yield new Task($task);
        }
    }

    /**
     * @param array<string, mixed> $query
     * @return \Generator<int, array<string, mixed>>
     */
    private function pages(string $path, string $name, array $query = []): \Generator
    {
        do {
            $page = $this->call('GET', $path . self::query($query));
            foreach ($page[$name] as $item) {
                yield $item;
            }
            $query['cursor'] = $page['next_cursor'];
        } while ($page['next_cursor'] !== null);
    }

    /**
     * Waits until a task is finished.
     *
     * @param Task|int $task
     * @param float $timeout seconds
     * @throws WaitTimeout if it is not finished by then
     */
    public function wait($task, float $timeout = 300): Task
    {
        $id = $task instanceof Task ? $task->id : $task;
        $end = now() + $timeout;
        for ($pause = 0.5; ; $pause = min($pause * 1.5, 5)) {
            $askedAt = now();
            // Not for so long that the request ends without an answer.
            $wait = (int) max(0, min(self::MAX_WAIT_SECONDS, $this->timeout / 2, $end - $askedAt));
            $task = new Task($this->call('GET', "/tasks/$id?wait_seconds=$wait"));
            if ($task->isFinished()) {
                return $task;
            }
            if (now() >= $end) {
                throw new WaitTimeout("Task $id is still {$task->status} after $timeout seconds.");
            }
            // A server that cannot wait is asked now and then.
            pause(min($askedAt + $pause, $end) - now());
        }
    }

    /**
     * What a task depends on and what depends on it: tasks, edges, is_complete.
     *
     * @return array<string, mixed>
     */
    public function graph(int $id): array
    {
        return $this->call('GET', "/tasks/$id/graph");
    }

    /** @return array<array<string, mixed>> the history of a task, oldest entry first */
    public function logs(int $id): array
    {
        return $this->call('GET', "/tasks/$id/logs")['logs'];
    }

    /**
     * Changes a task that waits. Refused once a worker has claimed it.
     *
     * @param array<string, mixed> $changes params, priority, max_attempts, delay_seconds, available_at, tags
     */
    public function change(int $id, array $changes): Task
    {
        return new Task($this->call('PATCH', "/tasks/$id", $changes));
    }

    public function cancel(int $id, ?string $reason = null): Task
    {
        return new Task($this->call('POST', "/tasks/$id/cancel", ['reason' => $reason]));
    }

    /** Puts a failed or cancelled task back into the queue, with all its attempts. */
    public function retry(int $id): Task
    {
        return new Task($this->call('POST', "/tasks/$id/retry", [], false));
    }

    /**
     * What happened to tasks, oldest first: next_cursor is the `after` of the next call.
     *
     * @param array<string, mixed> $query after, limit, type, status, tag
     * @return array<string, mixed> events, next_cursor, is_complete, …
     */
    public function events(array $query = []): array
    {
        return $this->call('GET', '/events' . self::query($query));
    }

    /**
     * Failed tasks in groups.
     *
     * @param array<string, mixed> $query the filters of tasks()
     * @return array<array<string, mixed>> each with type, error_code, message, count, …
     */
    public function errors(array $query = []): array
    {
        return $this->call('GET', '/tasks/errors' . self::query($query))['groups'];
    }

    /**
     * Changes many tasks.
     *
     * @param string $action retry, cancel, release, delete or update
     * @param array<string, mixed> $fields ids or filter, limit, dry_run, …
     * @return array<string, mixed> matched, changed, skipped, next_cursor
     */
    public function changeMany(string $action, array $fields): array
    {
        return $this->call('POST', "/tasks/$action", $fields);
    }

    // Batches: tasks that belong together

    /**
     * Creates a batch. Not repeated if the answer is lost: that would be another batch.
     *
     * @param array<array<string, mixed>> $tasks each with type, params and the options of create()
     * @param array<string, mixed> $options name, is_open, on_finished, on_completed, on_failed, …
     * @return array<string, mixed> the batch, with a result for each task
     */
    public function createBatch(array $tasks = [], array $options = []): array
    {
        $body = ['tasks' => array_map([self::class, 'prepare'], $tasks)] + $options;
        return $this->call('POST', '/batches', $body, false);
    }

    /**
     * Creates tasks in an open batch, all or none. Not repeated if the answer is lost.
     *
     * @param array<array<string, mixed>> $tasks
     * @return array<string, mixed> the batch, with a result for each task
     */
    public function addToBatch(int $id, array $tasks): array
    {
        $body = ['tasks' => array_map([self::class, 'prepare'], $tasks)];
        return $this->call('POST', "/batches/$id/tasks", $body, false);
    }

    /**
     * Lets a batch take no more tasks, so that it can finish.
     *
     * @return array<string, mixed>
     */
    public function closeBatch(int $id): array
    {
        return $this->call('POST', "/batches/$id/close");
    }

    /** @return array<string, mixed> status, tasks, counts, progress, …; its tasks: tasks(['batch_id' => $id]) */
    public function batch(int $id): array
    {
        return $this->call('GET', "/batches/$id");
    }

    /** @return \Generator<int, array<string, mixed>> the newest first */
    public function batches(): \Generator
    {
        return $this->pages('/batches', 'batches');
    }

    /**
     * Closes a batch and those in it, and cancels their tasks, up to 10,000 a call.
     *
     * @return array<string, mixed> the batch, with matched, changed and next_cursor
     */
    public function cancelBatch(int $id, ?string $reason = null): array
    {
        return $this->call('POST', "/batches/$id/cancel", ['reason' => $reason]);
    }

    /**
     * Tries the failed and cancelled tasks of a batch again, up to 10,000 a call.
     *
     * @return array<string, mixed> the batch, with matched, changed and next_cursor
     */
    public function retryBatch(int $id): array
    {
        return $this->call('POST', "/batches/$id/retry");
    }

    // The calls of a worker. Worker makes them by itself.

    /**
     * Claims up to `limit` tasks (default 1).
     *
     * @param array<string, mixed> $fields type, task_types, type_pattern, limit, lease_seconds, …
     * @return array<array<string, mixed>> tasks with their claim_token; empty if there are none
     */
    public function claim(string $workerId, array $fields = []): array
    {
        $body = ['worker_id' => $workerId] + $fields + ['limit' => 1, 'request_id' => bin2hex(random_bytes(16))];
        try {
            return $this->call('POST', '/tasks/claim', $body)['tasks'];
        } catch (ApiError $error) {
            if ($error->code === 'no_task_available') {
                return [];
            }
            throw $error;
        }
    }

    /** @param array<string, mixed> $report worker_id, claim_token, success, result, error, … */
    public function complete(int $id, array $report): Task
    {
        return new Task($this->call('POST', "/tasks/$id/complete", $report));
    }

    /**
     * @param array<array<string, mixed>> $completions each with its id and the fields of complete()
     * @return array<array<string, mixed>> a result for each, in order
     */
    public function completeMany(string $workerId, array $completions): array
    {
        $body = ['worker_id' => $workerId, 'completions' => $completions];
        return $this->call('POST', '/tasks/complete', $body)['results'];
    }

    /**
     * @param array<string, mixed> $fields worker_id, claim_token, progress (0 to 100), message
     * @return array<string, mixed> cancelled, lease_seconds, next_heartbeat_in, …
     */
    public function progress(int $id, array $fields): array
    {
        return $this->call('POST', "/tasks/$id/progress", $fields);
    }

    /**
     * @param array<string, mixed> $fields worker_id, claim_token, lease_seconds
     * @return array<string, mixed> cancelled, lease_seconds, next_heartbeat_in, …
     */
    public function heartbeat(int $id, array $fields): array
    {
        return $this->call('POST', "/tasks/$id/heartbeat", $fields);
    }

    /** @param array<string, mixed> $fields worker_id, claim_token, delay_seconds */
    public function release(int $id, array $fields): Task
    {
        return new Task($this->call('POST', "/tasks/$id/release", $fields, false));
    }

    /**
     * Renews several leases.
     *
     * @param array<string, mixed> $fields tasks (each with id and claim_token), metadata
     * @return array<string, mixed> the ids renewed, lost, cancelled; lease_seconds, next_heartbeat_in
     */
    public function heartbeatWorker(string $workerId, array $fields = []): array
    {
        return $this->call('POST', '/workers/heartbeat', ['worker_id' => $workerId] + $fields);
    }

    /** @return int[] the ids of the released tasks */
    public function shutDownWorker(string $workerId): array
    {
        return $this->call('POST', '/workers/' . rawurlencode($workerId) . '/shutdown')['released'];
    }

    // Task types

    /**
     * Creates a type or updates it.
     *
     * @param array<string, mixed> $schema JSON Schema of the params
     * @param array<string, mixed> $options priority, max_attempts, lease_seconds, retry, dedupe,
     *     concurrency, start_rate, fair, max_open
     * @return array<string, mixed>
     */
    public function register(string $name, string $version, array $schema, array $options = []): array
    {
        $type = ['name' => $name, 'version' => $version, 'param_schema' => (object) $schema];
        return $this->call('POST', '/task-types/register', $type + $options);
    }

    /** @return array<array<string, mixed>> every type that the key may use */
    public function types(): array
    {
        return $this->call('GET', '/task-types')['task_types'];
    }

    /** @return array<string, mixed> one type with its param_schema */
    public function type(string $name, ?string $version = null): array
    {
        return $this->call('GET', '/task-types/' . rawurlencode($name) . self::query(['version' => $version]));
    }

    /**
     * @param array<string, mixed> $changes is_active, is_paused, or a default; null removes a default
     * @return array<string, mixed>
     */
    public function changeType(string $name, array $changes): array
    {
        return $this->call('PATCH', '/task-types/' . rawurlencode($name), $changes);
    }

    /**
     * Checks params (`['params' => …]`) or a new schema (`['param_schema' => …]`); stores nothing.
     *
     * @param array<string, mixed> $fields
     * @return array<string, mixed>
     */
    public function validate(string $type, array $fields): array
    {
        return $this->call('POST', '/task-types/' . rawurlencode($type) . '/validate', $fields);
    }

    // Schedules

    /**
     * @param array<string, mixed> $fields name, type, params, cron or interval_seconds, …
     * @return array<string, mixed>
     */
    public function createSchedule(array $fields): array
    {
        return $this->call('POST', '/schedules', $fields, false);
    }

    /** @return \Generator<int, array<string, mixed>> every schedule */
    public function schedules(): \Generator
    {
        return $this->pages('/schedules', 'schedules');
    }

    /** @return array<string, mixed> */
    public function schedule(int $id): array
    {
        return $this->call('GET', "/schedules/$id");
    }

    /**
     * @param array<string, mixed> $changes
     * @return array<string, mixed>
     */
    public function changeSchedule(int $id, array $changes): array
    {
        return $this->call('PATCH', "/schedules/$id", $changes);
    }

    public function deleteSchedule(int $id): void
    {
        $this->call('DELETE', "/schedules/$id", null, false);
    }

    /** Creates a task of the schedule now. */
    public function runSchedule(int $id): Task
    {
        return new Task($this->call('POST', "/schedules/$id/run", [], false));
    }

    // Workers and the service

    /** @return \Generator<int, array<string, mixed>> every worker, the one seen last first */
    public function workers(): \Generator
    {
        return $this->pages('/workers', 'workers');
    }

    /** @return array<string, mixed> */
    public function worker(string $workerId): array
    {
        return $this->call('GET', '/workers/' . rawurlencode($workerId));
    }

    /** @return array<string, mixed> status, database, version, … */
    public function health(): array
    {
        return $this->call('GET', '/health');
    }

    /** @return array<string, mixed> by_status, by_type, total, … */
    public function stats(): array
    {
        return $this->call('GET', '/stats');
    }

    /**
     * Makes any call, such as `call('POST', '/admin/keys', ['name' => 'x', 'role' => 'worker'], false)`.
     *
     * @param string $path below /api, with its query
     * @param ?array<string, mixed> $body
     * @param bool|callable(): bool $repeat whether to repeat the call where the server may have done it
     * @return array<string, mixed> the `data` of the answer
     * @throws ApiError|NoAnswer
     */
    public function call(string $method, string $path, ?array $body = null, $repeat = true): array
    {
        $end = now() + $this->retrySeconds;
        for ($tries = 1; ; $tries++) {
            try {
                return $this->attempt($method, $path, $body, null, $repeat === true);
            } catch (ClientError $error) {
                $delay = self::delayAfter($error, $tries);
                if ($delay === null || now() + $delay > $end) {
                    throw $error;
                }
                if (self::mayBeDone($error)) {
                    $repeat = is_bool($repeat) ? $repeat : $repeat();
                    if (!$repeat) {
                        throw $error;
                    }
                }
                pause($delay);
            }
        }
    }

    /**
     * @internal Seconds until a failed call is worth another try; null if it is not.
     */
    public static function delayAfter(ClientError $error, int $tries): ?float
    {
        if ($error instanceof ApiError) {
            if ($error->code === 'queue_full') { // the producer decides whether to wait for that
                return null;
            }
            $isPassing = in_array($error->code, ['http_429', 'http_502', 'http_503', 'http_504'], true);
            return $error->retryAfter ?? ($isPassing ? self::backoff($tries) : null);
        }
        return self::backoff($tries);
    }

    /** @internal Seconds to wait after a number of failures: 0.4, 0.8, … 5, a fifth more or less. */
    public static function backoff(int $tries): float
    {
        return jitter(min(0.2 * 2 ** min($tries, 5), 5));
    }

    private static function mayBeDone(ClientError $error): bool
    {
        return $error instanceof NoAnswer ? $error->sent : $error->status !== 429;
    }

    /**
     * @internal One request, which is not repeated.
     * @param ?array<string, mixed> $body
     * @param ?float $timeout in seconds
     * @param bool $reuse the open connection; if it turns out to be dead, curl sends the request again
     * @param ?callable(): bool $isOver asked about once a second: whether to end without an answer
     * @return array<string, mixed>
     * @throws ApiError|NoAnswer
     */
    public function attempt(
        string $method,
        string $path,
        ?array $body = null,
        ?float $timeout = null,
        bool $reuse = true,
        ?callable $isOver = null
    ): array {
        $headers = [];
        $timeout = (int) (1000 * ($timeout ?? $this->timeout));
        $this->curl = $this->curl ?? curl_init();
        curl_reset($this->curl);
        curl_setopt_array($this->curl, [
            CURLOPT_URL => $this->url . $path,
            CURLOPT_CUSTOMREQUEST => $method,
            // Without the empty Expect, curl asks before it sends a large body, and waits a second.
            CURLOPT_HTTPHEADER => ['X-API-Key: ' . $this->key, 'Content-Type: application/json', 'Expect:'],
            CURLOPT_RETURNTRANSFER => true,
            CURLOPT_FRESH_CONNECT => !$reuse,
            CURLOPT_NOSIGNAL => true,
            CURLOPT_CONNECTTIMEOUT_MS => min(10000, $timeout),
            CURLOPT_TIMEOUT_MS => $timeout,
            CURLOPT_HEADERFUNCTION => static function ($curl, string $line) use (&$headers): int {
                [$name, $value] = explode(':', $line, 2) + [1 => ''];
                $headers[strtolower($name)] = trim($value);
                return strlen($line);
            },
        ]);
        if ($body !== null) {
            curl_setopt($this->curl, CURLOPT_POSTFIELDS, encode((object) $body));
        }
        if ($isOver !== null) {
            curl_setopt($this->curl, CURLOPT_NOPROGRESS, false);
            curl_setopt($this->curl, CURLOPT_PROGRESSFUNCTION, static function () use ($isOver): int {
                return (int) $isOver();
            });
        }
        $text = curl_exec($this->curl);
        if (!is_string($text)) {
            $neverSent = in_array(curl_errno($this->curl), [CURLE_COULDNT_RESOLVE_HOST, CURLE_COULDNT_CONNECT], true);
            throw new NoAnswer("No answer from {$this->url}: " . curl_error($this->curl), !$neverSent);
        }
        return $this->data((int) curl_getinfo($this->curl, CURLINFO_RESPONSE_CODE), $headers, $text);
    }

    /**
     * @param array<string, string> $headers
     * @return array<string, mixed>
     */
    private function data(int $status, array $headers, string $text): array
    {
        // Integers that PHP cannot hold become strings of digits.
        $answer = json_decode($text, true, 512, JSON_BIGINT_AS_STRING);
        if (isset($answer['success']) && $answer['success']) {
            return $answer['data'];
        }
        if ($status < 300) {
            throw new NoAnswer("The answer from {$this->url} is cut off, or not TaskManager's.", true);
        }
        $where = isset($headers['location']) ? "; it leads to {$headers['location']}" : '';
        $retryAfter = $headers['retry-after'] ?? null;
        throw new ApiError(
            $answer['message'] ?? "{$this->url} answered $status, and it is not TaskManager that answered$where.",
            $answer['code'] ?? "http_$status",
            $status,
            $answer['details'] ?? null,
            $headers['x-request-id'] ?? null,
            is_numeric($retryAfter) ? (float) $retryAfter : null
        );
    }

    /** @param array<string, mixed> $fields */
    private static function query(array $fields): string
    {
        $words = array_map(static function ($value) {
            return is_bool($value) ? ($value ? 'true' : 'false') : $value;
        }, $fields);
        $text = http_build_query($words, '', '&', PHP_QUERY_RFC3986);
        return $text === '' ? '' : "?$text";
    }
}


/**
 * Claims tasks and gives each to the handler of its type, until it is stopped.
 *
 * A handler runs in a process of its own: the script, started once more, calls run() and there
 * waits for tasks. The worker's own process meanwhile renews the leases. Where a host does not allow
 * that, handlers run in the worker's process, one at a time, and call `$task->heartbeat()`.
 */
final class Worker
{
    private const DEFAULTS = [
        'worker_id' => null,
        'concurrency' => 1,
        'processes' => null,
        'grace' => 30.0,
        'max_tasks' => INF,
        'max_memory' => INF,
        'max_runtime' => INF,
        'log' => 'error_log',
    ];
    private const RUN_DEFAULTS = ['burst' => false, 'max_tasks' => INF, 'max_runtime' => INF, 'lock' => null];
    private const TASK_DEFAULTS = ['schema' => null, 'version' => '1', 'lease_seconds' => null, 'timeout' => INF];
    private const CHILD = 'TASKMANAGER_CHILD';
    /** After a handler was asked to stop: until SIGTERM, and until SIGKILL. */
    private const TERM_SECONDS = 2.0;
    private const KILL_SECONDS = 5.0;
    private const IDLE_SECONDS = 1.0;
    private const LEASE_SECONDS_UNKNOWN = 20;

    private Client $client;
    /** @var array<string, mixed> */
    private array $options;
    private string $id;
    private bool $usesProcesses;
    /** @var array<string, callable(Task): mixed> by type */
    private array $handlers = [];
    /** @var array<string, array<string, mixed>> by type */
    private array $types = [];

    /** @var array<int, Held> by task id */
    private array $held = [];
    /** @var Process[] */
    private array $processes = [];
    /** @var array<array<string, mixed>> filters of the claims that are made in turn, one for each lease */
    private array $turns = [];
    private int $emptyTurns = 0;
    private ?float $shortestLease = null;
    /** @var ?array<string, mixed> the claim that has not been answered yet */
    private ?array $claim = null;
    private int $failedClaims = 0;
    private bool $hasBeenAnswered = false;
    private float $claimAt = 0;
    private float $heartbeatAt = INF;
    private int $failedHeartbeats = 0;
    /** @var array<string, mixed> the options of run() */
    private array $limits = self::RUN_DEFAULTS;
    private float $endsAt = INF;
    private int $claimed = 0;
    /** Nothing more is claimed. */
    private bool $isEnding = false;
    /** stop() was called. */
    private bool $isStopped = false;
    private float $givesUpAt = INF;
    private ?ApiError $refusal = null;

    /**
     * @param array{
     *     worker_id?: string, concurrency?: int, processes?: bool, grace?: float, max_tasks?: int,
     *     max_memory?: int, max_runtime?: float, log?: callable(string): mixed
     * } $options
     *     worker_id: default is the host name, the process id and a random part;
     *     concurrency: how many handlers run at the same time;
     *     processes: false runs handlers in the worker's process;
     *     grace: seconds that handlers may go on after SIGTERM;
     *     max_tasks, max_memory (bytes), max_runtime (seconds): after which a handler's process is
     *     replaced, once it is idle
     */
    public function __construct(Client $client, array $options = [])
    {
        if ($unknown = array_diff_key($options, self::DEFAULTS)) {
            throw new \InvalidArgumentException('Unknown option of Worker: ' . key($unknown));
        }
        $this->client = $client;
        $this->options = $options + self::DEFAULTS;
        $this->id = $this->options['worker_id'] ?? gethostname() . '-' . getmypid() . '-' . bin2hex(random_bytes(3));
        $this->usesProcesses = $this->options['processes'] ?? Process::isAllowed();
        if (!$this->usesProcesses) {
            $this->options['concurrency'] = 1;
        }
    }

    /**
     * Says who handles the tasks of a type.
     *
     * @param callable(Task): mixed $handler returns the result, any JSON value
     * @param array{schema?: array<string, mixed>, version?: string, lease_seconds?: int, timeout?: float} $options
     *     schema: registers the type with this schema when the worker starts;
     *     lease_seconds: of its claims; timeout: seconds after which the attempt has failed
     */
    public function task(string $type, callable $handler, array $options = []): self
    {
        if ($unknown = array_diff_key($options, self::TASK_DEFAULTS)) {
            throw new \InvalidArgumentException("Unknown option of the task type $type: " . key($unknown));
        }
        $this->handlers[$type] = $handler;
        $this->types[$type] = $options + self::TASK_DEFAULTS;
        return $this;
    }

    /**
     * Works until SIGTERM or stop(), or as long as the options say.
     *
     * @param array{burst?: bool, max_tasks?: int, max_runtime?: float, lock?: string} $options
     *     burst: return as soon as there is nothing to claim;
     *     max_tasks, max_runtime (seconds): after which nothing more is claimed;
     *     lock: a file; run() returns at once while another worker holds it
     * @throws ApiError where the server refuses this worker, such as for its key
     * @throws NoAnswer where types cannot be registered at the start
     */
    public function run(array $options = []): void
    {
        if ($unknown = array_diff_key($options, self::RUN_DEFAULTS)) {
            throw new \InvalidArgumentException('Unknown option of run(): ' . key($unknown));
        }
        $this->limits = $options + self::RUN_DEFAULTS;
        if (getenv(self::CHILD) !== false) {
            putenv(self::CHILD);
            (new Child())->serve($this->handlers);
            exit;
        }
        $lock = null;
        if ($this->limits['lock'] !== null) {
            // Closed in the handlers' processes, so that it ends with the worker.
            $lock = fopen($this->limits['lock'], 'ce');
            if ($lock === false) {
                throw new \RuntimeException("Cannot open the lock file {$this->limits['lock']}");
            }
            if (!flock($lock, LOCK_EX | LOCK_NB)) {
                return;
            }
        }
        $this->begin();
        while (!$this->isEnding || ($this->held && now() < $this->givesUpAt)) {
            $this->claim();
            $this->renewLeases();
            $this->enforceDeadlines();
            $this->sendReports();
            $this->listen();
        }
        $this->end();
        if ($lock !== null) {
            fclose($lock);
        }
    }

    /**
     * Claims nothing more. run() returns once the handlers have ended; after `grace` seconds they are
     * killed and their tasks released. A second call kills them at once.
     */
    public function stop(): void
    {
        $grace = $this->options['grace'];
        [$termAfter, $killAfter] = $this->isStopped ? [0, 0] : [$grace, $grace + self::KILL_SECONDS];
        $this->isStopped = $this->isEnding = true;
        $this->givesUpAt = now() + $killAfter + 1;
        foreach ($this->held as $held) {
            $this->stopHandler($held, Held::RELEASED, $termAfter, $killAfter);
        }
    }

    private function begin(): void
    {
        if (!$this->handlers) {
            throw new \LogicException('The worker has no handler: call task() before run().');
        }
        if (function_exists('pcntl_async_signals')) {
            pcntl_async_signals(true);
            foreach ([SIGTERM, SIGINT] as $signal) {
                pcntl_signal($signal, function (): void {
                    $this->log('stopping; ' . count($this->held) . ' tasks are still held');
                    $this->stop();
                });
            }
        }
        $this->turns = [];
        foreach ($this->types as $type => $options) {
            $lease = array_filter(['lease_seconds' => $options['lease_seconds']]);
            if ($options['schema'] !== null) {
                $this->client->register($type, $options['version'], $options['schema'], $lease);
            }
            $key = (int) $options['lease_seconds'];
            $this->turns[$key] = $this->turns[$key] ?? $lease;
            $this->turns[$key]['task_types'][] = $type;
        }
        $this->turns = array_values($this->turns);
        $this->isEnding = $this->isStopped;  // stop() is for good, the limits of an earlier run() are not
        $this->endsAt = now() + $this->limits['max_runtime'];
        $this->claimed = 0;
        // Workers that start together do not ask together.
        $this->claimAt = now() + jitter(0.5);
        $this->log('started, for ' . implode(', ', array_keys($this->types)));
    }

    private function claim(): void
    {
        $this->isEnding = $this->isEnding || now() >= $this->endsAt || $this->claimed >= $this->limits['max_tasks'];
        $free = $this->options['concurrency'] - count($this->held);
        $free = (int) min($free, $this->limits['max_tasks'] - $this->claimed);
        if ($free < 1 || now() < $this->claimAt || $this->isEnding) {
            return;
        }
        // The same request until it is answered: if an answer is lost, the next one has its tasks.
        $this->claim = $this->claim ?? $this->turns[0] + [
            'worker_id' => $this->id, 'limit' => $free, 'request_id' => bin2hex(random_bytes(16)),
        ] + array_filter(['wait_seconds' => $this->waitSeconds()]);
        $wait = $this->claim['wait_seconds'] ?? 0;
        $sentAt = now();
        try {
            $tasks = $this->send('/tasks/claim', $this->claim, $wait)['tasks'];
        } catch (ClientError $error) {
            $this->claimFailed($error, $wait > 0 && now() - $sentAt >= $wait);
            return;
        }
        $this->claimed += count($tasks);
        $leases = array_column($tasks, 'lease_seconds');
        $this->shortestLease = min($this->shortestLease ?? INF, ...$leases);
        $isRepeated = $this->failedClaims > 0;
        $this->claimAnswered();
        $this->emptyTurns = 0;
        foreach ($tasks as $task) {
            $held = $this->held[$task['id']] = new Held($task, $this->types[$task['type']]['timeout']);
            $held->renewed($sentAt);
            $this->heartbeatAt = min($this->heartbeatAt, $sentAt + $task['next_heartbeat_in']);
            if ($isRepeated) {
                // It may have begun earlier: at least this much of the lease is left.
                $held->leaseLasts($sentAt, 3 * $task['next_heartbeat_in']);
                $this->heartbeatAt = $sentAt;
            }
            if ($this->isStopped) {
                $held->report(Held::RELEASED);
            } else {
                $this->start($held);
            }
        }
    }

    /** How long the server may wait for a task; 0 if this worker had something else to do meanwhile. */
    private function waitSeconds(): int
    {
        if ($this->held || $this->limits['burst'] || count($this->turns) > 1) {
            return 0;
        }
        // A lease may have begun when its claim was sent, as far as is known here.
        $lease = $this->turns[0]['lease_seconds'] ?? $this->shortestLease ?? self::LEASE_SECONDS_UNKNOWN;
        return (int) max(0, min(Client::MAX_WAIT_SECONDS, $lease / 4, $this->endsAt - now()));
    }

    private function claimAnswered(): void
    {
        $this->claim = null;
        $this->failedClaims = 0;
        $this->hasBeenAnswered = true;
        $this->turns[] = array_shift($this->turns);
    }

    /** @param bool $hasWaited whether the server has waited as long as it was asked to */
    private function claimFailed(ClientError $error, bool $hasWaited): void
    {
        if ($this->isStopped) {
            return;  // signing off releases what the claim may have got
        }
        if ($error instanceof ApiError && $error->code === 'no_task_available') {
            $this->claimAnswered();
            if (++$this->emptyTurns % count($this->turns) === 0) {
                // Else the server does not wait: it cannot, or as many as may wait there already.
                $this->claimAt = now() + ($hasWaited ? 0 : jitter($error->details['poll_after_seconds']));
                $this->isEnding = $this->isEnding || ($this->limits['burst'] && !$this->held);
            }
            return;
        }
        $this->log("cannot claim: {$error->getMessage()}");
        // Where another program answers, the address is wrong, or the server is being replaced.
        if (isRefusal($error) && (!isFromElsewhere($error) || !$this->hasBeenAnswered)) {
            $this->refusal = $error;
            $this->stop();
            return;
        }
        $this->claimAt = now() + $this->delayAfter($error, ++$this->failedClaims);
    }

    private function start(Held $held): void
    {
        if (!$this->usesProcesses) {
            $held->report($this->runHere($held));
            return;
        }
        $idle = array_filter($this->processes, static function (Process $process): bool {
            return $process->isIdle();
        });
        try {
            $process = reset($idle);
            if ($process === false) {
                $process = $this->processes[] = new Process([self::CHILD => '1']);
            }
            $process->handle($held);
        } catch (\RuntimeException $error) {
            $this->log($error->getMessage());
            $held->report(['delay_seconds' => 10] + Held::RELEASED);
        }
    }

    /** @return array<string, mixed> the report */
    private function runHere(Held $held): array
    {
        $task = new Task($held->task, new Here(
            function () use ($held): bool {
                $this->renewLeases();
                $this->enforceDeadlines();
                return $held->stopped !== null;
            },
            function (int $percent, ?string $message) use ($held): void {
                $held->progress = ['progress' => $percent, 'message' => $message];
                $this->sendProgress($held);
            }
        ));
        return $held->outcome(outcome($this->handlers[$task->type], $task));
    }

    private function renewLeases(): void
    {
        if (!$this->held) {
            $this->heartbeatAt = INF;
        }
        if (now() < $this->heartbeatAt) {
            return;
        }
        $tasks = array_values(array_map(static function (Held $held): array {
            return ['id' => $held->task['id'], 'claim_token' => $held->task['claim_token']];
        }, $this->held));
        $sentAt = now();
        try {
            $answer = $this->send('/workers/heartbeat', ['worker_id' => $this->id, 'tasks' => $tasks]);
        } catch (ClientError $error) {
            $this->log("cannot renew leases: {$error->getMessage()}");
            $this->heartbeatAt = now() + $this->delayAfter($error, ++$this->failedHeartbeats);
            return;
        }
        $this->failedHeartbeats = 0;
        $this->heartbeatAt = $sentAt + $answer['next_heartbeat_in'];
        foreach ($answer['renewed'] as $id) {
            $this->held[$id]->renewed($sentAt);
        }
        foreach (array_merge($answer['lost'], $answer['cancelled']) as $id) {
            $this->stopHandler($this->held[$id], Held::DROPPED);
        }
    }

    /** Ends handlers whose time is over, and those whose lease could not be renewed, before it ends. */
    private function enforceDeadlines(): void
    {
        foreach ($this->held as $held) {
            if ($held->stopped === null && now() >= $held->timesOutAt) {
                $this->stopHandler($held, [
                    'success' => false,
                    'error' => 'The handler did not end within the timeout of its type.',
                    'error_code' => 'timed_out',
                ]);
            }
            if ($held->stopped !== Held::DROPPED && now() >= $held->leaseEnd(0.75)) {
                $this->stopHandler($held, Held::DROPPED, $held->leaseEnd(0.85) - now(), $held->leaseEnd(0.95) - now());
            }
            if ($held->process !== null && now() >= $held->termAt) {
                $held->process->signal($held->killAt <= now() ? 9 : 15);
                $held->termAt = $held->killAt > now() ? $held->killAt : INF;
            }
        }
    }

    /**
     * @param array<string, mixed> $stopped the report, if the handler's process has to be killed
     * @param float $termAfter seconds until SIGTERM
     * @param float $killAfter seconds until SIGKILL
     */
    private function stopHandler(
        Held $held,
        array $stopped,
        float $termAfter = self::TERM_SECONDS,
        float $killAfter = self::KILL_SECONDS
    ): void {
        if ($held->report !== null) {
            return;
        }
        if ($held->stopped === null || $stopped === Held::DROPPED) {
            $held->stopped = $stopped;
        }
        $held->termAt = min($held->termAt, now() + $termAfter);
        $held->killAt = min($held->killAt, now() + $killAfter);
        if ($held->process !== null) {
            $held->process->tell(['stop' => true]);
        }
    }

    private function sendReports(): void
    {
        foreach ($this->held as $id => $held) {
            if ($held->report === null) {
                $this->sendProgress($held);
                continue;
            }
            if (now() < $held->reportAt) {
                continue;
            }
            $isReport = isset($held->report['success']);
            try {
                if ($held->report !== Held::DROPPED) {
                    $path = "/tasks/$id/" . ($isReport ? 'complete' : 'release');
                    $this->send($path, $held->sender($this->id) + $held->report);
                }
                unset($this->held[$id]);
            } catch (ClientError $error) {
                $this->reportFailed($held, $error);
            }
        }
    }

    private function reportFailed(Held $held, ClientError $error): void
    {
        $id = $held->task['id'];
        $this->log("cannot report task $id: {$error->getMessage()}");
        $status = $error instanceof ApiError ? $error->status : 0;
        $isRefused = ($held->report['error_code'] ?? null) === 'result_refused';
        if (in_array($status, [400, 413], true) && !$isRefused) {
            $message = "The server refused the result: {$error->getMessage()}";
            $held->report = failure($message, 'result_refused') + ['is_retryable' => false];
        } elseif (
            (!isRefusal($error) && ($status !== 500 || $held->failedReports < 10))
            || isFromElsewhere($error)
        ) {
            $held->reportAt = now() + $this->delayAfter($error, ++$held->failedReports);
        } else {
            unset($this->held[$id]);
        }
    }

    private function sendProgress(Held $held): void
    {
        if ($held->progress === null || now() < $held->progressAt) {
            return;
        }
        $held->progressAt = now() + 1;
        $sentAt = now();
        try {
            $answer = $this->send("/tasks/{$held->task['id']}/progress", $held->sender($this->id) + $held->progress);
        } catch (ClientError $error) {
            $this->log("cannot report progress: {$error->getMessage()}");
            if ($error instanceof ApiError && in_array($error->status, [403, 404, 409], true)) {
                $this->stopHandler($held, Held::DROPPED);
            }
            return;
        } finally {
            $held->progress = null;
        }
        $held->renewed($sentAt);
        if ($answer['cancelled']) {
            $this->stopHandler($held, Held::DROPPED);
        }
    }

    /** Waits for the handlers' processes, until something else is due. */
    private function listen(): void
    {
        if ($this->isEnding && !$this->held) {
            return;
        }
        $hasFree = !$this->isEnding && count($this->held) < $this->options['concurrency'];
        $due = [now() + self::IDLE_SECONDS, $hasFree ? $this->claimAt : INF];
        foreach ($this->held as $held) {
            $due[] = min($this->heartbeatAt, $held->nextAt());
        }
        Process::select($this->processes, max(0, min($due) - now()));
        foreach ($this->processes as $key => $process) {
            $isOver = $process->isOver();  // asked first: what it wrote before it ended is still read
            foreach ($process->messages() as $message) {
                $this->received($process, $message);
            }
            if ($isOver) {
                unset($this->processes[$key]);
                $this->processEnded($process);
            }
        }
    }

    /** @param array<string, mixed> $message */
    private function received(Process $process, array $message): void
    {
        if ($process->held === null) {
            return;
        }
        if (isset($message['begun'])) {
            $process->hasBegun = true;
        } elseif (isset($message['outcome'])) {
            $this->handlerEnded($process, (array) $message['outcome'], $message['memory']);
        } else {
            $process->held->progress = $message;
        }
    }

    /** @param array<string, mixed> $outcome */
    private function handlerEnded(Process $process, array $outcome, int $memory): void
    {
        $held = $process->held;
        $held->report($held->outcome($outcome));
        $process->held = $held->process = null;
        ['max_tasks' => $tasks, 'max_memory' => $bytes, 'max_runtime' => $seconds] = $this->options;
        if ($process->tasks >= $tasks || $memory >= $bytes || now() - $process->startedAt >= $seconds) {
            $process->retire();
        }
    }

    private function processEnded(Process $process): void
    {
        $held = $process->held;
        if ($held === null) {
            return;
        }
        $held->process = null;
        if (!$process->hasBegun && $process->tasks > 1 && $held->stopped === null) {
            $this->start($held);  // it ended after its previous task; this one was not looked at
        } else {
            $held->report($held->stopped ?? failure("The handler's process {$process->end()}.", 'worker_died'));
        }
    }

    private function end(): void
    {
        foreach ($this->processes as $process) {
            $process->retire();
        }
        $this->processes = $this->held = [];
        $this->signOff();
        $this->log('stopped');
        if ($this->refusal !== null) {
            throw $this->refusal;
        }
    }

    /** Releases what a claim that was not answered may have got. */
    private function signOff(): void
    {
        for ($tries = 1; $tries <= 3; $tries++) {
            try {
                $path = '/workers/' . rawurlencode($this->id) . '/shutdown';
                $this->client->attempt('POST', $path, [], self::KILL_SECONDS);
                return;
            } catch (ClientError $error) {
                $this->log("cannot sign off: {$error->getMessage()}");
                pause(Client::backoff($tries));
            }
        }
    }

    /**
     * One request, which does not take so long that the leases end meanwhile.
     *
     * @param array<string, mixed> $body
     * @param float $wait seconds that the server may wait, unless the worker is stopped meanwhile
     * @return array<string, mixed>
     */
    private function send(string $path, array $body, float $wait = 0): array
    {
        $timeout = 30.0;
        foreach ($this->held as $held) {
            $timeout = min($timeout, $held->task['lease_seconds'] / 4);
        }
        $isOver = $wait > 0 ? function (): bool {
            return $this->isStopped;
        } : null;
        return $this->client->attempt('POST', $path, $body, max(1, $timeout) + $wait, true, $isOver);
    }

    private function delayAfter(ClientError $error, int $tries): float
    {
        return Client::delayAfter($error, $tries) ?? Client::backoff($tries);
    }

    private function log(string $message): void
    {
        ($this->options['log'])("taskmanager worker {$this->id}: $message");
    }
}

/** @internal A task that the worker holds. */
final class Held
{
    /** Reports that are none: the task is put back; the task is not the worker's any more. */
    public const RELEASED = ['delay_seconds' => 0];
    public const DROPPED = ['dropped' => true];

    /** @var array<string, mixed> as it was claimed */
    public array $task;
    public ?Process $process = null;
    public float $timesOutAt;
    /** @var ?array<string, mixed> once the handler has to end: the report, if it does not report itself */
    public ?array $stopped = null;
    public float $termAt = INF;
    public float $killAt = INF;
    /** @var ?array<string, mixed> once the handler has ended */
    public ?array $report = null;
    public float $reportAt = 0;
    public int $failedReports = 0;
    /** @var ?array<string, mixed> not sent yet */
    public ?array $progress = null;
    public float $progressAt = 0;
    private float $leaseKnownAt = 0;
    private float $leaseSeconds = 0;

    /** @param array<string, mixed> $task */
    public function __construct(array $task, float $timeout)
    {
        $this->task = $task;
        $this->timesOutAt = now() + $timeout;
    }

    /** @return array<string, mixed> what proves that the task is this worker's */
    public function sender(string $workerId): array
    {
        return ['worker_id' => $workerId, 'claim_token' => $this->task['claim_token']];
    }

    /** The lease began anew when that request was sent, or later. */
    public function renewed(float $sentAt): void
    {
        $this->leaseLasts($sentAt, $this->task['lease_seconds']);
    }

    /** At least this many seconds of the lease were left when that request was sent. */
    public function leaseLasts(float $sentAt, float $seconds): void
    {
        $this->leaseKnownAt = $sentAt;
        $this->leaseSeconds = $seconds;
    }

    /** When a part of the lease is over. */
    public function leaseEnd(float $part): float
    {
        return $this->leaseKnownAt + $part * $this->leaseSeconds;
    }

    /** @param array<string, mixed> $report */
    public function report(array $report): void
    {
        $this->report = $report;
    }

    /**
     * What a handler that has ended reports: after its timeout or a lost lease, only success counts.
     *
     * @param array<string, mixed> $outcome
     * @return array<string, mixed>
     */
    public function outcome(array $outcome): array
    {
        $onlySuccessCounts = $this->stopped !== null && $this->stopped !== self::RELEASED;
        return $onlySuccessCounts && !($outcome['success'] ?? false) ? $this->stopped : $outcome;
    }

    /** When the worker has to look at the task again. */
    public function nextAt(): float
    {
        if ($this->report !== null) {
            return $this->reportAt;
        }
        return min(
            $this->stopped === null ? $this->timesOutAt : INF,
            $this->stopped === self::DROPPED ? INF : $this->leaseEnd(0.75),
            $this->progress === null ? INF : $this->progressAt,
            $this->process === null ? INF : $this->termAt
        );
    }
}

/**
 * @internal A process that runs handlers, seen from the worker's.
 *
 * Both sides write JSON, one message a line: the worker on the child's descriptor 3, the child on 4.
 * Its standard input is empty and what it prints is the worker's output.
 */
final class Process
{
    public ?Held $held = null;
    /** How many tasks it was given. */
    public int $tasks = 0;
    public float $startedAt;
    /** Whether it has read the present one. */
    public bool $hasBegun = false;
    /** @var resource */
    private $process;
    /** @var resource[] 3: to the child; 4: from it */
    private array $pipes = [];
    private string $outbox = '';
    private string $inbox = '';
    private bool $isRetired = false;
    /** @var array<string, mixed> */
    private array $status = [];

    /** Whether this host allows it. */
    public static function isAllowed(): bool
    {
        $isAllowed = PHP_SAPI === 'cli' && PHP_BINARY !== '' && DIRECTORY_SEPARATOR === '/';
        foreach (['proc_open', 'proc_get_status', 'proc_terminate', 'proc_close', 'stream_select'] as $function) {
            $isAllowed = $isAllowed && function_exists($function);
        }
        return $isAllowed;
    }

    /** @param array<string, string> $environment in addition to this process's */
    public function __construct(array $environment)
    {
        $command = [PHP_BINARY, get_included_files()[0], ...array_slice($_SERVER['argv'], 1)];
        $descriptors = [0 => ['file', '/dev/null', 'r'], 3 => ['pipe', 'r'], 4 => ['pipe', 'w']];
        $process = @proc_open($command, $descriptors, $this->pipes, null, $environment + getenv());
        if ($process === false) {
            throw new \RuntimeException('Cannot start a process: ' . (error_get_last()['message'] ?? 'no reason given'));
        }
        $this->process = $process;
        $this->startedAt = now();
        stream_set_blocking($this->pipes[3], false);
        stream_set_blocking($this->pipes[4], false);
    }

    public function handle(Held $held): void
    {
        $this->held = $held;
        $held->process = $this;
        $this->hasBegun = false;
        $this->tasks++;
        $this->tell(['task' => $held->task]);
    }

    public function isIdle(): bool
    {
        return $this->held === null && !$this->isRetired;
    }

    /** @param array<string, mixed> $message */
    public function tell(array $message): void
    {
        $this->outbox .= encode($message) . "\n";
        $this->flush();
    }

    private function flush(): void
    {
        $written = @fwrite($this->pipes[3], $this->outbox);
        // If the child is gone, isOver() says so.
        $this->outbox = $written === false ? '' : (string) substr($this->outbox, $written);
    }

    /**
     * Waits until one of them writes something or ends, but at most that long.
     *
     * @param self[] $processes
     */
    public static function select(array $processes, float $seconds): void
    {
        $readable = $writable = $exceptional = [];
        foreach ($processes as $key => $process) {
            $readable[$key] = $process->pipes[4];
            if ($process->outbox !== '') {
                $writable[$key] = $process->pipes[3];
            }
        }
        if (!$readable) {
            pause($seconds);
            return;
        }
        // A signal interrupts it: then it returns false, with a warning.
        if (@stream_select($readable, $writable, $exceptional, (int) $seconds, (int) (fmod($seconds, 1) * 1e6))) {
            foreach (array_keys($writable) as $key) {
                $processes[$key]->flush();
            }
        }
    }

    /** @return array<array<string, mixed>> what the child has written; objects within are objects */
    public function messages(): array
    {
        while (($text = (string) fread($this->pipes[4], 65536)) !== '') {
            $this->inbox .= $text;
        }
        $lines = explode("\n", $this->inbox);
        $this->inbox = (string) array_pop($lines);
        return array_map(static function (string $line): array {
            return (array) json_decode($line);
        }, $lines);
    }

    public function isOver(): bool
    {
        return feof($this->pipes[4]) || !$this->status()['running'];
    }

    /** @return string how it ended, after "The handler's process" */
    public function end(): string
    {
        for ($i = 0; $i < 100 && $this->status()['running']; $i++) {
            pause(0.01);
        }
        if ($this->status()['signaled']) {
            return "was killed by signal {$this->status()['termsig']}";
        }
        return $this->status()['running'] ? 'closed its pipe' : "ended with status {$this->status()['exitcode']}";
    }

    /** @return array<string, mixed> PHP knows the exit status once, so what it says last is kept */
    private function status(): array
    {
        if ($this->status['running'] ?? true) {
            $this->status = proc_get_status($this->process);
        }
        return $this->status;
    }

    public function signal(int $signal): void
    {
        proc_terminate($this->process, $signal);
    }

    /** Lets an idle one end. */
    public function retire(): void
    {
        $this->isRetired = true;
        fclose($this->pipes[3]);
        $this->outbox = '';
    }
}

/** @internal What a task can ask for while its handler runs. */
interface Handling
{
    public function progress(int $percent, ?string $message): void;

    public function stopping(): bool;

    public function heartbeat(): bool;
}

/** @internal In the worker's own process. */
final class Here implements Handling
{
    /** @var callable(): bool renews the lease if it is due; returns whether the handler should end */
    private $check;
    /** @var callable(int, ?string): void */
    private $report;

    public function __construct(callable $check, callable $report)
    {
        $this->check = $check;
        $this->report = $report;
    }

    public function progress(int $percent, ?string $message): void
    {
        ($this->report)($percent, $message);
    }

    public function stopping(): bool
    {
        return ($this->check)();
    }

    public function heartbeat(): bool
    {
        return !($this->check)();
    }
}

/** @internal In a process of its own: the other side of Process. */
final class Child implements Handling
{
    /** @var resource */
    private $in;
    /** @var resource */
    private $out;
    private bool $isWorking = false;
    private bool $isStopping = false;

    public function __construct()
    {
        $this->in = fopen('php://fd/3', 'r');
        $this->out = fopen('php://fd/4', 'w');
    }

    /**
     * Runs handlers as the worker asks, until it closes the descriptor or is gone.
     *
     * @param array<string, callable(Task): mixed> $handlers by type
     */
    public function serve(array $handlers): void
    {
        if (function_exists('pcntl_signal')) {
            // Ctrl-C reaches every process of the terminal; the worker decides what it means.
            pcntl_signal(SIGINT, SIG_IGN);
        }
        register_shutdown_function(function (): void {
            $this->ended();
        });
        while (($line = fgets($this->in)) !== false) {
            $fields = json_decode($line, true, 512, JSON_BIGINT_AS_STRING)['task'] ?? null;
            if ($fields !== null) {
                $this->isWorking = true;
                $this->isStopping = false;
                $this->write(['begun' => true]);
                $this->finished(outcome($handlers[$fields['type']], new Task($fields, $this)));
            }
        }
    }

    /** @param array<string, mixed> $outcome */
    private function finished(array $outcome): void
    {
        $this->write(['outcome' => $outcome, 'memory' => memory_get_usage(true)]);
        $this->isWorking = false;
    }

    /** The handler called exit(), or PHP stopped it. */
    private function ended(): void
    {
        if ($this->isWorking) {
            ini_set('memory_limit', '-1');
            $message = error_get_last()['message'] ?? 'The handler called exit().';
            $this->finished(['success' => false, 'error' => readable($message), 'error_code' => 'worker_died']);
        }
    }

    public function progress(int $percent, ?string $message): void
    {
        $this->write(['progress' => $percent, 'message' => $message === null ? null : readable($message)]);
    }

    public function stopping(): bool
    {
        $readable = [$this->in];
        $none = [];
        if (!$this->isStopping && @stream_select($readable, $none, $none, 0)) {
            fgets($this->in);  // all that comes now is the request to stop, or the end of the worker
            $this->isStopping = true;
        }
        return $this->isStopping;
    }

    public function heartbeat(): bool
    {
        return !$this->stopping();
    }

    /** @param array<string, mixed> $message */
    private function write(array $message): void
    {
        @fwrite($this->out, encode($message) . "\n");
    }
}

/**
 * @internal Runs a handler. Returns the report, in the API's words.
 * @param callable(Task): mixed $handler
 * @return array<string, mixed>
 */
function outcome(callable $handler, Task $task): array
{
    try {
        $result = $handler($task);
    } catch (Release $error) {
        return ['delay_seconds' => $error->delay];
    } catch (Retry $error) {
        return failure($error->getMessage(), $error->getCode()) + ['retry_after_seconds' => $error->after];
    } catch (Fail $error) {
        return failure($error->getMessage(), $error->getCode()) + ['is_retryable' => false];
    } catch (\Throwable $error) {
        // As PHP prints it: class, message and place, then where it was called from.
        return failure((string) $error, 'exception');
    }
    try {
        encode($result);
    } catch (\JsonException $error) {
        $message = "The handler's result cannot be written as JSON: {$error->getMessage()}";
        return failure($message, 'invalid_result') + ['is_retryable' => false];
    }
    return ['success' => true, 'result' => $result];
}

/**
 * @internal
 * @return array<string, mixed>
 */
function failure(string $message, string $code): array
{
    return ['success' => false, 'error' => readable($message), 'error_code' => readable(substr($code, 0, 100))];
}

/** @internal Whether the same call would be refused again. */
function isRefusal(ClientError $error): bool
{
    return $error instanceof ApiError && $error->status < 500 && $error->status !== 429;
}

/** @internal Whether something other than TaskManager has answered, as while the server is replaced. */
function isFromElsewhere(ClientError $error): bool
{
    return $error instanceof ApiError && strpos($error->code, 'http_') === 0;
}

/** @internal The text as the server takes it: UTF-8 without U+0000, and at most 10,000 bytes. */
function readable(string $text): string
{
    $text = str_replace("\0", '', substr($text, 0, 10000));
    return json_decode(json_encode($text, JSON_INVALID_UTF8_SUBSTITUTE) ?: '""');
}

/** @internal Seconds on a clock that nobody sets. */
function now(): float
{
    return hrtime(true) / 1e9;
}

/** @internal */
function pause(float $seconds): void
{
    usleep((int) (1e6 * max(0, $seconds)));
}

/** @internal The seconds, up to a fifth more or less. */
function jitter(float $seconds): float
{
    return $seconds * (0.8 + 0.4 * mt_rand() / mt_getrandmax());
}

/**
 * @internal
 * @param mixed $value
 * @throws \JsonException
 */
function encode($value): string
{
    $flags = JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_PRESERVE_ZERO_FRACTION;
    return json_encode($value, $flags | JSON_THROW_ON_ERROR);
}
