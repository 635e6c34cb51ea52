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
// Exit codes: 0 nothing is owed, 3 messages are stored and wait, 4 pombo refuses the message (for flush: one of them), which
// is kept as FILE.refused, 1 the message is not stored.

const MESSAGES_MAX = 1000;  // For one user, with those that pombo refuses; a further message is not stored.
const DONE = 0;
const WAITS = 3;
const REFUSED = 4;

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

/** The files of a user's messages whose names end so, in the order in which they were stored. */
function messages(string $folder, string $ends = '/\.json$/'): array
{
    return array_map(fn (string $name): string => "$folder/$name", array_values(preg_grep($ends, scandir($folder))));
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

/** Stores a message for a user, behind those that are stored; returns its file. */
function store(string $uid, string $message): string
{
    $folder = folder($uid);
    if (!is_dir($folder) && !@mkdir($folder, 0700, true) && !is_dir($folder)) {
        throw new RuntimeException("cannot make the folder $folder");
    }
    return locked($folder, 'store', function () use ($folder, $uid, $message) {
        // A refused message keeps its number, or the next one that is refused would replace it.
        $stored = messages($folder, '/\.json(\.refused)?$/');
        if (count($stored) >= MESSAGES_MAX) {
            throw new RuntimeException('the user has ' . MESSAGES_MAX . ' messages already');
        }
        $number = $stored ? (int) basename(end($stored)) + 1 : 1;
        $content = json_encode(['uid' => $uid, 'message' => $message], JSON_THROW_ON_ERROR);
        $file = fopen("$folder/new", 'w');
        if ($file === false || fwrite($file, $content) !== strlen($content) || !fsync($file) || !fclose($file)) {
            throw new RuntimeException("cannot write $folder/new");
        }
        // Whoever lists the folder sees the whole message or none of it.
        $stored_as = sprintf('%s/%012d.json', $folder, $number);
        rename("$folder/new", $stored_as);
        return $stored_as;
    });
}

/** Sends a user the stored messages, oldest first, until one has to wait; returns DONE, WAITS or, before both, REFUSED. */
function flush_messages(string $folder): int
{
    if (!is_dir($folder)) {
        return DONE;
    }
    // One process at a time, or a message would be sent twice, or overtake another.
    return locked($folder, 'flush', function () use ($folder) {
        $outcome_of_all = DONE;
        foreach (messages($folder) as $file) {
            ['uid' => $uid, 'message' => $message] = json_decode(file_get_contents($file), true, 8, JSON_THROW_ON_ERROR);
            $outcome = push($uid, $message);
            if ($outcome === 'never') {
                error_log("a message for $uid can't be sent: it is kept as $file.refused");
                rename($file, "$file.refused");
                $outcome_of_all = REFUSED;
            } elseif ($outcome === 'delivered') {
                unlink($file);
            } else {
                return max($outcome_of_all, WAITS);
            }
        }
        return $outcome_of_all;
    });
}

/** As flush_messages; if the push fails, the messages wait for the next time. */
function try_flush(string $folder): int
{
    try {
        return flush_messages($folder);
    } catch (RuntimeException $error) {
        fwrite(STDERR, 'stored, but not sent yet: ' . $error->getMessage() . "\n");
        return WAITS;
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

/** The secrets of the hook: one per line, of which there are two while a secret is changed. */
function secrets(): array
{
    $file = getenv('POMBO_HOOK_SECRET_FILE') ?: 'hook.secret';
    $text = preg_replace('/^\xef\xbb\xbf/', '', file_get_contents($file));
    return preg_split('/\r?\n/', $text, -1, PREG_SPLIT_NO_EMPTY);
}

/** Whether pombo has sent this body, within the last five minutes. */
function is_genuine(string $signature, string $body): bool
{
    if (!preg_match('/^t=(\d+),/', $signature, $time) || abs(time() - (int) $time[1]) > 300) {
        return false;
    }
    preg_match_all('/,v1=([0-9a-f]{64})/', $signature, $tags);
    foreach (secrets() as $secret) {
        $expected = hash_hmac('sha256', "$time[1].$body", $secret);
        foreach ($tags[1] as $tag) {
            if (hash_equals($expected, $tag)) {
                return true;
            }
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
        $file = store($argv[2], $argv[3]);
        try_flush(folder($argv[2]));
        exit(is_file("$file.refused") ? REFUSED : (is_file($file) ? WAITS : DONE));
    }
    if ($argc === 2 && $argv[1] === 'flush') {
        $outcome = DONE;
        foreach (is_dir(root()) ? array_diff(scandir(root()), ['.', '..']) : [] as $name) {
            $outcome = max($outcome, try_flush(root() . "/$name"));
        }
        exit($outcome);
    }
} catch (Throwable $error) {
    fwrite(STDERR, 'not stored: ' . $error->getMessage() . "\n");
    exit(1);
}
fwrite(STDERR, "usage: php offline.php send UID MESSAGE | flush\n");
exit(2);
