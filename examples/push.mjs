// Pushes a message to a user from a Node.js back end (18 or newer), over HTTP, with nothing but Node.
//
//     node examples/push.mjs alice 'hi from Node'
//
// POMBO_URL says where the control listener is, POMBO_CONTROL_TOKEN who calls, if that is needed.
// Exit codes: 0 a session took it, 3 the user is offline, 4 all of their sessions are behind, 1 an error.

const URL = process.env.POMBO_URL ?? "http://127.0.0.1:1235";
const TOKEN = process.env.POMBO_CONTROL_TOKEN;

/** Sends a message to every session of a user; resolves to what became of it. */
async function push(uid, message) {
  const headers = { "Content-Type": "text/plain; charset=utf-8" };
  if (TOKEN) headers.Authorization = `Bearer ${TOKEN}`;
  const answer = await fetch(`${URL}/v1/push/${encodeURIComponent(uid)}`, {
    method: "POST",
    headers,
    body: message,
    redirect: "error",
    signal: AbortSignal.timeout(5000),
  });
  const text = await answer.text();
  if (!answer.ok) {
    let words = text;
    try {
      const problem = JSON.parse(text);
      words = problem.detail ?? problem.title ?? text;
    } catch {
      // Not from pombo: shown as it is.
    }
    throw new Error(`${answer.status} ${answer.statusText}: ${words}`);
  }
  return JSON.parse(text);
}

const [uid, message, ...rest] = process.argv.slice(2);
if (message === undefined || rest.length > 0) {
  console.error("usage: node push.mjs UID MESSAGE");
  process.exit(2);
}
try {
  const { outcome } = await push(uid, message);
  console.log(outcome);
  process.exitCode = { delivered: 0, offline: 3, shed: 4 }[outcome] ?? 1;
} catch (error) {
  console.error(`not pushed: ${error.message}${error.cause ? `: ${error.cause.message}` : ""}`);
  process.exitCode = 1;
}
