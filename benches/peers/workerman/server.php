<?php
// The plain protocol on Workerman, as in the manual's demo "send data to a specific client": one process, one map.
// Run with the port to listen on: php server.php start 1234
use Workerman\Connection\TcpConnection;
use Workerman\Worker;

require __DIR__ . '/vendor/autoload.php';

$port = (int) ($argv[2] ?? 1234);
// By default one process may run of each script.
Worker::$pidFile = sys_get_temp_dir() . "/pombo-peer-workerman-$port.pid";
Worker::$logFile = '/dev/null';
$worker = new Worker("websocket://127.0.0.1:$port");
$worker->count = 1;
$users = [];
// By default what a receiver has not taken is at most 1 MiB, and more is dropped.
TcpConnection::$defaultMaxSendBufferSize = 16 << 20;

$worker->onMessage = function (TcpConnection $connection, string $data) use (&$users): void {
    if (!isset($connection->uid)) {
        $connection->uid = $data;
        $users[$data] = $connection;
        $connection->send("Login realizado com sucesso, seu uid é $data");
        return;
    }
    $parts = explode(':', $data, 2);
    if (!isset($parts[1])) {
        $connection->send('error: expected uid:message');
        return;
    }
    [$uid, $message] = $parts;
    foreach ($uid === 'all' ? $users : [$users[$uid] ?? null] as $other) {
        $other?->send($message);
    }
};
$worker->onClose = function (TcpConnection $connection) use (&$users): void {
    if (isset($connection->uid) && ($users[$connection->uid] ?? null) === $connection) {
        unset($users[$connection->uid]);
    }
};

Worker::runAll();
