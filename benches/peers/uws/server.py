"""The plain protocol on uWebSockets, a server in C++, by its binding for Python, socketify: one thread, one map, and a topic
for everybody. Each message runs a callback in Python, which is part of the cost. Run with the port to listen on:
server.py 1234
"""

import sys

from socketify import App, CompressOptions, OpCode

users = {}


def upgrade(response, request, context):
    header = request.get_header
    key, protocol = header("sec-websocket-key"), header("sec-websocket-protocol")
    # What belongs to the connection: its uid, once it has logged in.
    response.upgrade(key, protocol, header("sec-websocket-extensions"), context, {})


def message(socket, data, kind):
    state = socket.get_user_data()
    if "uid" not in state:
        uid = data if isinstance(data, str) else data.decode()
        state["uid"] = uid
        socket.send(f"Login realizado com sucesso, seu uid é {uid}", OpCode.TEXT)
        users[uid] = socket
        socket.subscribe("all")
        return
    uid, colon, payload = data.partition(":" if isinstance(data, str) else b":")
    if not colon:
        socket.send("error: expected uid:message", OpCode.TEXT)
        return
    if not isinstance(uid, str):
        uid = uid.decode()
    if uid == "all":
        app.publish("all", payload, kind)
    elif to := users.get(uid):
        to.send(payload, kind)


def close(socket, code, reason):
    state = socket.get_user_data()
    # A newer login of the same uid stays.
    if (other := users.get(state.get("uid"))) and other.get_user_data() is state:
        del users[state["uid"]]


app = App()
app.ws(
    "/*",
    {
        "compression": CompressOptions.DISABLED,
        # By default a message has at most 16 KiB, and what a receiver has not taken at most 64 KiB.
        "max_payload_length": 1 << 20,
        "max_backpressure": 16 << 20,
        "upgrade": upgrade,
        "message": message,
        "close": close,
    },
)
app.listen({"host": "127.0.0.1", "port": int(sys.argv[1]) if len(sys.argv) > 1 else 1234}, lambda _: None)
app.run()
