<?php
// Makes the token with which a user logs in to a pombo with auth = "jwt", with nothing but PHP.
//
//     head -c 32 /dev/urandom | base64 > jwt.secret
//     pombo serve --auth jwt --jwt-secret-file jwt.secret
//     php examples/jwt.php alice                     may send what the setting rights says
//     php examples/jwt.php alice unicast broadcast   may send to a uid, and to everybody
//
// A page gets the token from your application, for the user who is logged in there, and connects with it:
//
//     new WebSocket("wss://chat.example.org", ["pombo.plain", "bearer." + token])
//
// JWT_SECRET_FILE says where the secret is: ./jwt.secret unless it is set.

const LIFETIME = 300;  // Seconds. pombo closes the session when its token expires; the page then fetches a new one.

/** Signs claims with HS256 (RFC 7515); returns the token. */
function token(array $claims, string $secret): string
{
    $encoded = fn (string $bytes): string => rtrim(strtr(base64_encode($bytes), '+/', '-_'), '=');
    $json = fn (array $value): string => $encoded(json_encode($value, JSON_THROW_ON_ERROR));
    $signed = $json(['typ' => 'JWT', 'alg' => 'HS256']) . '.' . $json($claims);
    return $signed . '.' . $encoded(hash_hmac('sha256', $signed, $secret, true));
}

if ($argc < 2) {
    fwrite(STDERR, "usage: php jwt.php UID [RIGHT …]\n");
    exit(2);
}
// pombo takes no other uid; 256 is the default of its setting uid_bytes_max.
if (!preg_match('/^[^:]{1,256}$/D', $argv[1]) || $argv[1] === 'all' || !preg_match('//u', $argv[1])) {
    fwrite(STDERR, "a uid is 1 to 256 bytes of UTF-8 without a colon, and not all\n");
    exit(2);
}
// pombo ignores a right that it does not know: whoever writes one means something else.
if ($unknown = array_diff(array_slice($argv, 2), ['unicast', 'broadcast'])) {
    fwrite(STDERR, 'a right is unicast or broadcast, not ' . implode(', ', $unknown) . "\n");
    exit(2);
}
$file = getenv('JWT_SECRET_FILE') ?: 'jwt.secret';
$secret = @file_get_contents($file);
if ($secret === false) {
    fwrite(STDERR, "cannot read the secret in $file\n");
    exit(1);
}
// The uid is a text, also if it is a number in your database.
$claims = ['sub' => (string) $argv[1], 'iat' => time(), 'exp' => time() + LIFETIME];
if ($argc > 2) {
    $claims['may'] = array_slice($argv, 2);
}
// As in pombo, the end of the line is no part of the secret.
echo token($claims, rtrim($secret, "\r\n")), "\n";
