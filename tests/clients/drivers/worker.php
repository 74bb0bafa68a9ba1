<?php

// The driver in PHP; ../scenarios.py says what it does.

declare(strict_types=1);

require __DIR__ . '/../../../taskmanager/clients/php/TaskManager.php';

use TaskManager\{Client, Fail, Retry, Task, Worker};

function note(string $text): void
{
    file_put_contents(getenv('NOTES'), "$text\n", FILE_APPEND);
}

$client = Client::fromEnv();
if (getenv('CREATE')) {
    $client->health();
    $dedupe = getenv('DEDUPE');
    echo $client->create(getenv('CREATE'), [], $dedupe === '' ? [] : ['dedupe' => 'none'])->id, "\n";
    exit;
}
$worker = new Worker($client, [
    'grace' => (float) (getenv('GRACE') ?: 1),
    'processes' => getenv('PROCESSES') !== '0',
]);
$worker->task('scenario.echo', fn (Task $task) => $task->params);
$worker->task('scenario.retry', function (Task $task) {
    if ($task->attempt === 1) {
        throw new Retry(0);
    }
    return $task->attempt;
});
$worker->task('scenario.fail', function () {
    throw new Fail('broken', 'It will never work.');
});
$worker->task('scenario.error', function () {
    throw new DomainException('Something broke.');
});
$slow = function (Task $task) {
    note('began');
    $end = microtime(true) + $task->params['seconds'];
    while (microtime(true) < $end) {
        usleep(20000);
        if (getenv('PROCESSES') === '0') {
            $task->heartbeat();
        }
    }
    note('ended');
    return 'done';
};
$worker->task('scenario.long', $slow);
$worker->task('scenario.slow', $slow, ['lease_seconds' => 6]);
$wait = function (Task $task) {
    note('began');
    while (!$task->stopping()) {
        usleep(20000);
    }
    note('stopping');
    return 'stopped';
};
$worker->task('scenario.wait', $wait);
$worker->task('scenario.lease', $wait, ['lease_seconds' => 6]);
$worker->task('scenario.hang', function () {
    note('began');
    while (true) {
        sleep(1);
    }
}, ['timeout' => 1]);
$worker->run(['burst' => getenv('BURST') === '1']);
