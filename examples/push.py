"""Pushes a message to a user from a Python back end, over HTTP, with nothing but the standard library.

    python3 examples/push.py alice 'hi from Python'

POMBO_URL says where the control listener is, POMBO_CONTROL_TOKEN who calls, if that is needed.
Exit codes: 0 a session took it, 3 the user is offline, 4 all of their sessions are behind, 1 an error.
"""

import json
import os
import sys
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

URL = os.environ.get("POMBO_URL", "http://127.0.0.1:1235")
TOKEN = os.environ.get("POMBO_CONTROL_TOKEN")


class NotPushed(Exception):
    """The message was not sent, or nobody knows."""


def push(uid: str, message: str) -> dict:
    """Sends a message to every session of a user; returns what became of it."""
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    if TOKEN:
        headers["Authorization"] = f"Bearer {TOKEN}"
    request = Request(f"{URL}/v1/push/{quote(uid, safe='')}", message.encode(), headers, method="POST")
    try:
        with urlopen(request, timeout=5) as answer:
            return json.load(answer)
    except HTTPError as refusal:
        body = refusal.read()
        try:
            problem = json.loads(body)
            words = problem.get("detail") or problem.get("title")
        except (ValueError, AttributeError):
            words = body.decode(errors="replace")
        raise NotPushed(f"{refusal.code} {refusal.reason}: {words}") from refusal
    except (OSError, HTTPException, ValueError) as error:
        raise NotPushed(f"no answer: {error}") from error


def main() -> int:
    if len(sys.argv) != 3:
        print("usage: push.py UID MESSAGE", file=sys.stderr)
        return 2
    try:
        outcome = push(sys.argv[1], sys.argv[2]).get("outcome")
    except NotPushed as error:
        print(f"not pushed: {error}", file=sys.stderr)
        return 1
    print(outcome)
    return {"delivered": 0, "offline": 3, "shed": 4}.get(outcome, 1)


if __name__ == "__main__":
    sys.exit(main())
