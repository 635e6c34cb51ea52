<?php
// Logs the users of a PHP application in to pombo by their PHP session: a page connects, and its cookie says who it is.
//
//     php -S 127.0.0.1:8080 examples/auth_session.php
//     pombo serve --auth http --auth-url http://127.0.0.1:8080/pombo --auth-url-login-headers cookie
//
//     curl --cookie-jar cookies --data user=alice http://127.0.0.1:8080/login    # then connect with this cookie
//
// A browser sends the cookie if page and pombo have the same host name; ports may differ. List the sites whose pages may
// connect in the setting origins, since a browser sends the cookie for the page of any other site, too.
// Only pombo needs to reach /pombo. It asks again for the same cookie after auth_cache_ttl. A logout ends no session of
// pombo: close those as well, with DELETE /v1/uids/UID.

/** The uid of the PHP session that these Cookie headers name; null if it names none, or nobody is logged in there. */
function uid_of(array $cookie_lines): ?string
{
    foreach ($cookie_lines as $line) {
        foreach (explode(';', $line) as $pair) {
            [$name, $id] = explode('=', trim($pair), 2) + [1 => ''];
            if ($name !== session_name() || !preg_match('/^[A-Za-z0-9,-]{22,256}$/', $id)) {
                continue;
            }
            session_id($id);
            // It is only read, so that the user's own requests need not wait for it. With use_strict_mode a session that
            // does not exist gets another id.
            session_start(['use_cookies' => false, 'use_strict_mode' => true, 'read_and_close' => true]);
            return session_id() === $id ? $_SESSION['uid'] ?? null : null;
        }
    }
    return null;
}

switch (parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH)) {
    case '/pombo':
        $question = json_decode(file_get_contents('php://input'), true);
        $uid = uid_of($question['headers']['cookie'] ?? []);
        if ($uid === null) {
            http_response_code(403);
            break;
        }
        header('Content-Type: application/json');
        // "may" lists what the user may send: add 'unicast' and 'broadcast' as they should.
        echo json_encode(['uid' => $uid, 'may' => ['unicast']], JSON_THROW_ON_ERROR);
        break;
    case '/login':
        $uid = $_POST['user'] ?? '';
        // pombo takes no other uid; 256 is the default of its setting uid_bytes_max.
        if (!is_string($uid) || !preg_match('/^[^:]{1,256}$/D', $uid) || $uid === 'all' || !preg_match('//u', $uid)) {
            http_response_code(400);
            echo "a user is 1 to 256 bytes of UTF-8 without a colon, and not all\n";
            break;
        }
        // Your application's own login stands here; this one believes everybody.
        session_start(['use_strict_mode' => true, 'cookie_httponly' => true, 'cookie_samesite' => 'Lax']);
        session_regenerate_id(true);
        $_SESSION['uid'] = $uid;
        echo "logged in\n";
        break;
    case '/logout':
        session_start(['use_strict_mode' => true]);
        session_destroy();
        echo "logged out\n";
        break;
    default:
        http_response_code(404);
}
