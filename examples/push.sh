#!/bin/sh
# Pushes a message to a user from a shell, over HTTP, with curl. (`pombo push` does the same without it.)
#
#     sh examples/push.sh alice 'hi from curl'
#
# POMBO_URL says where the control listener is, POMBO_CONTROL_TOKEN who calls, if that is needed. The uid is put into the
# path as it is: one with other letters than those of URLs has to be percent-encoded.
# Exit codes: 0 a session took it, 3 the user is offline, 4 all of their sessions are behind, 1 an error.
set -u

if [ $# -ne 2 ]; then
    echo 'usage: push.sh UID MESSAGE' >&2
    exit 2
fi

# The token goes by standard input: arguments are seen by everybody on the machine.
answer=$(
    { [ -z "${POMBO_CONTROL_TOKEN:-}" ] || printf 'header = "Authorization: Bearer %s"\n' "$POMBO_CONTROL_TOKEN"; } |
        curl --config - --silent --show-error --max-time 5 \
            --header 'Content-Type: text/plain; charset=utf-8' --data-raw "$2" \
            "${POMBO_URL:-http://127.0.0.1:1235}/v1/push/$1"
) || { echo "not pushed: $answer" >&2; exit 1; }

case $answer in
*'"outcome":"delivered"'*) echo delivered ;;
*'"outcome":"offline"'*) echo offline; exit 3 ;;
*'"outcome":"shed"'*) echo shed; exit 4 ;;
# A problem, which says what it is, or no answer of a node.
*) echo "not pushed: $answer" >&2; exit 1 ;;
esac
