<?php

// Makes each call of the client once, and checks what its methods return.

declare(strict_types=1);

require __DIR__ . '/../../../taskmanager/clients/php/TaskManager.php';

use TaskManager\{ApiError, Client, Task};

function check(bool $isSo, string $what): void
{
    if (!$isSo) {
        throw new Exception("not so: $what");
    }
}

$tm = Client::fromEnv();
$me = ['worker_id' => 'me/1'];
check($tm->register('calls', '1', ['type' => 'object', 'required' => ['n']])['created'], 'register');
check($tm->changeType('calls', ['max_attempts' => 5])['max_attempts'] === 5, 'changeType');
check($tm->type('calls')['param_schema']['required'] === ['n'], 'type');
check(in_array('calls', array_column($tm->types(), 'name'), true), 'types');
check(!$tm->validate('calls', ['params' => []])['valid'], 'validate');

$task = $tm->create('calls', ['n' => 1], ['priority' => 3]);
check($task->priority === 3 && !$task->deduplicated, 'create');
check($tm->create('calls', ['n' => 1])->deduplicated, 'create again');
$tm->changeType('calls', ['max_open' => ['type' => 1]]);
$started = microtime(true);
try {
    $tm->create('calls', ['n' => 9]);
    check(false, 'create in a full queue');
} catch (ApiError $error) {
    check([$error->code, $error->status, $error->details['limit']] === ['queue_full', 429, 'type'], 'queue_full');
    check(microtime(true) - $started < $error->retryAfter, 'a full queue is said at once');
}
$tm->changeType('calls', ['max_open' => null]);
[$first, $again, $bad] = $tm->createMany([
    ['type' => 'calls', 'params' => ['n' => 2], 'dedupe' => 'none'],
    ['type' => 'calls', 'params' => ['n' => 1]],
    ['type' => 'calls', 'params' => ['m' => 1]],
]);
check($first instanceof Task && !$first->deduplicated && $again->deduplicated, 'createMany');
check($bad instanceof ApiError && $bad->code === 'validation_failed' && count($bad->details) > 0, 'createMany');
check($tm->get($task->id)->params === ['n' => 1], 'get');
check($tm->change($task->id, ['priority' => 4])->priority === 4, 'change');
$ids = [];
foreach ($tm->tasks(['type' => 'calls', 'limit' => 1]) as $found) {
    $ids[] = $found->id;
}
check($ids === [$first->id, $task->id], 'tasks');

[$claimed] = $tm->claim('me/1', ['type' => 'calls']);
$holder = $me + ['claim_token' => $claimed['claim_token']];
check($claimed['id'] === $task->id, 'claim');
check($tm->progress($task->id, $holder + ['progress' => 10])['cancelled'] === false, 'progress');
check($tm->heartbeat($task->id, $holder + ['lease_seconds' => 60])['lease_seconds'] === 60, 'heartbeat');
$held = [['id' => $task->id, 'claim_token' => $claimed['claim_token']]];
check($tm->heartbeatWorker('me/1', ['tasks' => $held])['renewed'] === [$task->id], 'heartbeatWorker');
check($tm->release($task->id, $holder)->status === 'pending', 'release');
[$one, $two] = $tm->claim('me/1', ['type' => 'calls', 'limit' => 2]);
check($tm->claim('me/1', ['type' => 'calls']) === [], 'claim where there is nothing');
$done = ['claim_token' => $one['claim_token'], 'success' => true, 'result' => [1.5, new stdClass()]];
check($tm->complete($one['id'], $me + $done)->status === 'completed', 'complete');
check($tm->wait($one['id'])->result === [1.5, []], 'wait');
$failed = ['id' => $two['id'], 'claim_token' => $two['claim_token'], 'success' => false, 'is_retryable' => false];
check($tm->completeMany('me/1', [$failed])[0]['outcome'] === 'failed', 'completeMany');
check($tm->retry($two['id'])->status === 'pending', 'retry');
check($tm->cancel($two['id'], 'enough')->status === 'cancelled', 'cancel');
check($tm->logs($two['id'])[0]['event'] === 'created', 'logs');
check($tm->graph($two['id'])['tasks'][0]['id'] === $two['id'], 'graph');
check($tm->worker('me/1')['status'] === 'active', 'worker');
check(in_array('me/1', array_column(iterator_to_array($tm->workers()), 'id'), true), 'workers');
check($tm->shutDownWorker('me/1') === [], 'shutDownWorker');

$batch = $tm->createBatch([], ['name' => 'two', 'on_finished' => ['type' => 'calls', 'params' => ['n' => 7]]]);
check($batch['status'] === 'open', 'createBatch');
$more = [['type' => 'calls', 'params' => ['n' => 5], 'dedupe' => 'none'], ['type' => 'calls', 'params' => ['n' => 6]]];
check($tm->addToBatch($batch['id'], $more)['tasks'] === 2, 'addToBatch');
check($tm->closeBatch($batch['id'])['status'] === 'running', 'closeBatch');
check($tm->cancelBatch($batch['id'], 'enough')['changed'] === 2, 'cancelBatch');
check($tm->retryBatch($batch['id'])['changed'] === 2, 'retryBatch');
check($tm->batch($batch['id'])['progress'] === 0, 'batch');
check(count(iterator_to_array($tm->batches())) === 1, 'batches');

$schedule = $tm->createSchedule(['name' => 'nightly', 'type' => 'calls', 'params' => ['n' => 9], 'cron' => '0 3 * * *']);
check($tm->schedule($schedule['id'])['name'] === 'nightly', 'schedule');
check(count(iterator_to_array($tm->schedules())) === 1, 'schedules');
check($tm->changeSchedule($schedule['id'], ['is_active' => false])['is_active'] === false, 'changeSchedule');
check($tm->runSchedule($schedule['id'])->type === 'calls', 'runSchedule');
$tm->deleteSchedule($schedule['id']);
check($tm->health()['status'] === 'healthy', 'health');
check($tm->events(['after' => 'latest'])['events'] === [], 'events');
check($tm->stats()['total'] > 0, 'stats');

try {
    $tm->get(999999);
    check(false, 'an error is thrown');
} catch (ApiError $error) {
    check($error->code === 'task_not_found' && $error->status === 404 && $error->requestId !== null, 'ApiError');
}
