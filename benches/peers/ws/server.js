// The plain protocol as most people would write it on Node: the ws package, default settings, one map from uid to
// connection in the one process. Run with the port to listen on: node server.js 1234
import { WebSocketServer } from 'ws';

const users = new Map();
const server = new WebSocketServer({ host: '127.0.0.1', port: Number(process.argv[2] ?? 1234) });

server.on('connection', (socket) => {
  let uid;
  socket.on('message', (data, isBinary) => {
    if (uid === undefined) {
      uid = data.toString();
      users.set(uid, socket);
      socket.send(`Login realizado com sucesso, seu uid é ${uid}`);
      return;
    }
    const colon = data.indexOf(':');
    if (colon < 0) {
      socket.send('error: expected uid:message');
      return;
    }
    const to = data.toString('utf8', 0, colon);
    const message = data.subarray(colon + 1);
    if (to === 'all') {
      for (const other of users.values()) other.send(message, { binary: isBinary });
    } else {
      users.get(to)?.send(message, { binary: isBinary });
    }
  });
  socket.on('close', () => {
    if (users.get(uid) === socket) users.delete(uid);
  });
  // Without a listener a fault of one connection would end the process.
  socket.on('error', () => socket.terminate());
});
