<?php
// Pushes a message to a user from a PHP back end, over HTTP, with nothing but PHP.
//
//     php examples/push.php alice 'hi from PHP'
//
// POMBO_URL says where the control listener is, POMBO_CONTROL_TOKEN who calls, if that is needed.
// Exit codes: 0 a session took it, 3 the user is offline, 4 all of their sessions are behind, 1 an error.

/** Sends a message to every session of a user; returns what became of it: delivered, offline or shed. */
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
        'timeout' => 5,           // Seconds without an answer.
        'ignore_errors' => true,  // Read the answer of a refusal, too.
        'follow_location' => 0,
    ]]);
    $url = (getenv('POMBO_URL') ?: 'http://127.0.0.1:1235') . '/v1/push/' . rawurlencode($uid);
    $body = @file_get_contents($url, false, $context);
    if ($body === false) {
        throw new RuntimeException(error_get_last()['message'] ?? 'no answer');
    }
    $answer = json_decode($body, true);
    if (!preg_match('# 200 #', $http_response_header[0] . ' ')) {
        throw new RuntimeException($http_response_header[0] . ': ' . ($answer['detail'] ?? $answer['title'] ?? $body));
    }
    if (!is_string($answer['outcome'] ?? null)) {
        throw new RuntimeException("the answer is not understood: $body");
    }
    return $answer['outcome'];
}

if ($argc !== 3) {
    fwrite(STDERR, "usage: php push.php UID MESSAGE\n");
    exit(2);
}
try {
    $outcome = push($argv[1], $argv[2]);
} catch (RuntimeException $error) {
    fwrite(STDERR, 'not pushed: ' . $error->getMessage() . "\n");
    exit(1);
}
echo "$outcome\n";
exit(['delivered' => 0, 'offline' => 3, 'shed' => 4][$outcome] ?? 1);
