<?php
// Keeps messages for users who are offline, and sends them as soon as they are back. Needs PHP 8.1 and nothing else.
//
//     php -S 127.0.0.1:8080 examples/offline.php     takes the events of pombo's hook (or php-fpm does)
//     php examples/offline.php send alice 'hi'       stores a message, and sends all that alice is owed
//     php examples/offline.php flush                 the same for every user: run it once a minute
//
//     pombo serve --hook-url http://127.0.0.1:8080/ --hook-secret-file hook.secret --hook-returns on
//
// docs/hooks.md says why nothing is lost. POMBO_URL says where the control listener is, POMBO_CONTROL_TOKEN who calls,
// POMBO_HOOK_SECRET_FILE which secret the hook has (./hook.secret), OFFLINE_FOLDER where messages are stored, one file
// for each (./offline-messages).
// Exit codes: 0 nothing is owed, 3 messages are stored and wait, 1 the message is not stored.

const MESSAGES_MAX = 1000;  // For one user; a further message is refused.

/** The folder of all messages. */
function root(): string
{
    return getenv('OFFLINE_FOLDER') ?: 'offline-messages';
}

/** The folder of a user's messages, which the first message makes. */
function folder(string $uid): string
{
    return root() . '/' . hash('sha256', $uid);
}

/** The files of a user's messages, in the order in which they were stored. */
function messages(string $folder): array
{
    $names = array_filter(scandir($folder), fn (string $name): bool => str_ends_with($name, '.json'));
    return array_map(fn (string $name): string => "$folder/$name", array_values($names));
}

/** Calls $act while no other process holds the lock of this name. */
function locked(string $folder, string $name, callable $act): mixed
{
    $lock = fopen("$folder/$name.lock", 'c');
    if ($lock === false || !flock($lock, LOCK_EX)) {
        throw new RuntimeException("cannot lock $folder/$name.lock");
    }
    try {
        return $act();
    } finally {
        fclose($lock);
    }
}

/** Stores a message for a user, behind those that are stored. */
function store(string $uid, string $message): void
{
    $folder = folder($uid);
    if (!is_dir($folder) && !@mkdir($folder, 0700, true) && !is_dir($folder)) {
        throw new RuntimeException("cannot make the folder $folder");
    }
    locked($folder, 'store', function () use ($folder, $uid, $message) {
        $stored = messages($folder);
        if (count($stored) >= MESSAGES_MAX) {
            throw new RuntimeException('the user has ' . MESSAGES_MAX . ' messages already');
        }
        $number = $stored ? (int) basename(end($stored), '.json') + 1 : 1;
        $content = json_encode(['uid' => $uid, 'message' => $message], JSON_THROW_ON_ERROR);
        $file = fopen("$folder/new", 'w');
        if ($file === false || fwrite($file, $content) !== strlen($content) || !fsync($file) || !fclose($file)) {
            throw new RuntimeException("cannot write $folder/new");
        }
        // Whoever lists the folder sees the whole message or none of it.
        rename("$folder/new", sprintf('%s/%012d.json', $folder, $number));
    });
}

/** Sends a user the stored messages, oldest first, until one can't be sent; returns whether nothing is left. */
function flush_messages(string $folder): bool
{
    if (!is_dir($folder)) {
        return true;
    }
    // One process at a time, or a message would be sent twice, or overtake another.
    return locked($folder, 'flush', function () use ($folder) {
        foreach (messages($folder) as $file) {
            ['uid' => $uid, 'message' => $message] = json_decode(file_get_contents($file), true, 8, JSON_THROW_ON_ERROR);
            $outcome = push($uid, $message);
            if ($outcome === 'never') {
                error_log("a message for $uid can't be sent: it is kept as $file.refused");
                rename($file, "$file.refused");
            } elseif ($outcome === 'delivered') {
                unlink($file);
            } else {
                return false;
            }
        }
        return true;
    });
}

/** As flush_messages; if the push fails, the messages wait for the next time. */
function try_flush(string $folder): bool
{
    try {
        return flush_messages($folder);
    } catch (RuntimeException $error) {
        fwrite(STDERR, 'stored, but not sent yet: ' . $error->getMessage() . "\n");
        return false;
    }
}

/** Pushes a message: delivered, later (the user is offline, or behind), or never (pombo will not take this message). */
function push(string $uid, string $message): string
{
    $headers = ['Content-Type: text/plain; charset=utf-8'];
    if ($token = getenv('POMBO_CONTROL_TOKEN')) {
        $headers[] = "Authorization: Bearer $token";
    }
    $context = stream_context_create(['http' => [
        'method' => 'POST',
        'header' => $headers,
        'content' => $message,
        'timeout' => 5,
        'ignore_errors' => true,
        'follow_location' => 0,
    ]]);
    $url = (getenv('POMBO_URL') ?: 'http://127.0.0.1:1235') . '/v1/push/' . rawurlencode($uid);
    $body = @file_get_contents($url, false, $context);
    if ($body === false) {
        throw new RuntimeException(error_get_last()['message'] ?? 'no answer');
    }
    $answer = json_decode($body, true);
    $status = (int) (explode(' ', $http_response_header[0])[1] ?? 0);
    // Too large, or no uid: the same again would be refused again.
    if ($status === 413 || $status === 422 || ($answer['reason'] ?? '') === 'too-long') {
        return 'never';
    }
    if ($status !== 200) {
        throw new RuntimeException("$http_response_header[0]: " . ($answer['detail'] ?? $body));
    }
    return $answer['outcome'] === 'delivered' ? 'delivered' : 'later';
}

/** Whether pombo has sent this body, within the last five minutes. */
function is_genuine(string $signature, string $body): bool
{
    $secret = rtrim(file_get_contents(getenv('POMBO_HOOK_SECRET_FILE') ?: 'hook.secret'), "\r\n");
    if (!preg_match('/^t=(\d+),/', $signature, $time) || abs(time() - (int) $time[1]) > 300) {
        return false;
    }
    $expected = hash_hmac('sha256', "$time[1].$body", $secret);
    preg_match_all('/,v1=([0-9a-f]{64})/', $signature, $tags);
    foreach ($tags[1] as $tag) {
        if (hash_equals($expected, $tag)) {
            return true;
        }
    }
    return false;
}

/** Takes a batch of events: who has come online gets what is stored. Answers 204, or pombo sends the batch again. */
function take_hook(): void
{
    $body = file_get_contents('php://input');
    if (!is_genuine($_SERVER['HTTP_POMBO_SIGNATURE'] ?? '', $body)) {
        http_response_code(403);
        return;
    }
    $batch = json_decode($body, true, 8, JSON_THROW_ON_ERROR);
    foreach ($batch['events'] as $event) {
        // Events may come twice, and late: a push says what is true now. What `lost` counts is found by the next flush.
        if ($event['event'] === 'online') {
            flush_messages(folder($event['uid']));
        }
    }
    http_response_code(204);
}

if (PHP_SAPI !== 'cli') {
    try {
        take_hook();
    } catch (Throwable $error) {
        error_log($error->getMessage());
        http_response_code(500);
    }
    return;
}
try {
    if ($argc === 4 && $argv[1] === 'send') {
        // In this order: a message that is stored before its push can't miss the user's return.
        store($argv[2], $argv[3]);
        exit(try_flush(folder($argv[2])) ? 0 : 3);
    }
    if ($argc === 2 && $argv[1] === 'flush') {
        $is_done = true;
        foreach (is_dir(root()) ? array_diff(scandir(root()), ['.', '..']) : [] as $name) {
            $is_done = try_flush(root() . "/$name") && $is_done;
        }
        exit($is_done ? 0 : 3);
    }
} catch (Throwable $error) {
    fwrite(STDERR, 'not stored: ' . $error->getMessage() . "\n");
    exit(1);
}
fwrite(STDERR, "usage: php offline.php send UID MESSAGE | flush\n");
exit(2);
