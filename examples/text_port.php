<?php
// Pushes to users over the text port, as the Workerman manual does: a line of JSON for each message, and `ok` or `fail`
// for each line. One connection serves for all, and lines are sent together.
//
//     pombo --text 127.0.0.1:5678
//     php examples/text_port.php 88% alice bob
//
// TEXT_PORT_ADDRESS says where the text port is. Exit codes: 0 all were taken, 3 some were not, 1 an error.

if ($argc < 3) {
    fwrite(STDERR, "usage: php text_port.php PERCENT UID...\n");
    exit(2);
}
$address = getenv('TEXT_PORT_ADDRESS') ?: '127.0.0.1:5678';
$client = @stream_socket_client("tcp://$address", $errno, $error, 1);
if ($client === false) {
    fwrite(STDERR, "can't connect to $address: $error\n");
    exit(1);
}
stream_set_timeout($client, 5);

// The whole line is what its user gets; `uid` is the only name that pombo knows. json_encode writes no line ends.
$uids = array_slice($argv, 2);
$lines = '';
foreach ($uids as $uid) {
    $lines .= json_encode(['uid' => $uid, 'percent' => $argv[1]], JSON_THROW_ON_ERROR) . "\n";
}
// A few hundred lines at a time: who sends without end, and reads no answers, is not read at some point.
fwrite($client, $lines);

$failed = 0;
foreach ($uids as $uid) {
    $answer = fgets($client);
    if ($answer === false) {
        fwrite(STDERR, "no answer for $uid\n");
        exit(1);
    }
    $answer = trim($answer);
    echo "$uid: $answer\n";
    $failed += $answer !== 'ok';
}
exit($failed === 0 ? 0 : 3);
