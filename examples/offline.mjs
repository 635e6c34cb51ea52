// Keeps messages for users who are offline, and sends them as soon as they are back. Needs Node.js 18 or newer and nothing
// else. One process at a time may use a folder of messages.
//
//     node examples/offline.mjs
//     curl --data-binary 'hi' http://127.0.0.1:8080/send/alice     stores a message, and sends all that alice is owed
//
//     pombo serve --hook-url http://127.0.0.1:8080/hook --hook-secret-file hook.secret --hook-returns on
//
// docs/hooks.md says why nothing is lost. POMBO_URL says where the control listener is, POMBO_CONTROL_TOKEN who calls,
// POMBO_HOOK_SECRET_FILE which secret the hook has (./hook.secret), OFFLINE_FOLDER where messages are stored, one file
// for each (./offline-messages), PORT where to listen, on 127.0.0.1.
// The answer is 200 when nothing is owed, 202 when messages are stored and wait, and 422 when pombo refuses the message,
// which is kept as FILE.refused.

import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, open, readFile, readdir, rename, unlink } from "node:fs/promises";
import { createServer } from "node:http";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const URL = process.env.POMBO_URL ?? "http://127.0.0.1:1235";
const TOKEN = process.env.POMBO_CONTROL_TOKEN;
const FOLDER = process.env.OFFLINE_FOLDER ?? "offline-messages";
const SECRET_FILE = process.env.POMBO_HOOK_SECRET_FILE ?? "hook.secret";
const MESSAGES_MAX = 1000; // For one user, with those that pombo refuses; a further message is not stored.
const BODY_BYTES_MAX = 4 << 20;
const FLUSH_INTERVAL = 60_000;

const folder = (uid) => join(FOLDER, createHash("sha256").update(uid).digest("hex"));

/** The files of a user's messages whose names end so, in the order in which they were stored. */
async function messages(path, ends = /\.json$/) {
  const names = await readdir(path).catch((error) => (error.code === "ENOENT" ? [] : Promise.reject(error)));
  return names.filter((name) => ends.test(name)).sort();
}

/** Calls `act` when all earlier calls for this name have ended. */
const locks = new Map();
function locked(name, act) {
  const turn = (locks.get(name) ?? Promise.resolve()).then(act);
  const end = turn.catch(() => {}).then(() => locks.get(name) === end && locks.delete(name));
  locks.set(name, end);
  return turn;
}

/** Stores a message for a user, behind those that are stored; resolves to its file. */
function store(uid, message) {
  const path = folder(uid);
  return locked(`store ${path}`, async () => {
    await mkdir(path, { recursive: true, mode: 0o700 });
    // A refused message keeps its number, or the next one that is refused would replace it.
    const stored = await messages(path, /\.json(\.refused)?$/);
    if (stored.length >= MESSAGES_MAX) throw new Error(`the user has ${MESSAGES_MAX} messages already`);
    const number = stored.length > 0 ? Number.parseInt(stored.at(-1), 10) + 1 : 1;
    const file = await open(join(path, "new"), "w");
    try {
      await file.writeFile(JSON.stringify({ uid, message }));
      await file.sync();
    } finally {
      await file.close();
    }
    // Whoever lists the folder sees the whole message or none of it.
    const storedAs = join(path, `${String(number).padStart(12, "0")}.json`);
    await rename(join(path, "new"), storedAs);
    return storedAs;
  });
}

/** Sends a user the stored messages, oldest first, until one has to wait. */
function flush(path) {
  // One at a time, or a message would be sent twice, or overtake another.
  return locked(`flush ${path}`, async () => {
    for (const name of await messages(path)) {
      const file = join(path, name);
      const { uid, message } = JSON.parse(await readFile(file, "utf8"));
      const outcome = await push(uid, message);
      if (outcome === "later") return;
      if (outcome === "delivered") {
        await unlink(file);
      } else {
        console.error(`a message for ${uid} can't be sent: it is kept as ${file}.refused`);
        await rename(file, `${file}.refused`);
      }
    }
  });
}

/** Sends all that can be sent: what failed for another reason than that its user is offline, and what was missed. */
async function flushAll() {
  for (const name of await readdir(FOLDER)) {
    await flush(join(FOLDER, name)).catch((error) => console.error(`not sent yet: ${error.message}`));
  }
}

/** Pushes a message: delivered, later (the user is offline, or behind), or never (pombo will not take this message). */
async function push(uid, message) {
  const headers = { "Content-Type": "text/plain; charset=utf-8" };
  if (TOKEN) headers.Authorization = `Bearer ${TOKEN}`;
  const signal = AbortSignal.timeout(5000);
  const request = { method: "POST", headers, body: message, redirect: "error", signal };
  const answer = await fetch(`${URL}/v1/push/${encodeURIComponent(uid)}`, request);
  const text = await answer.text();
  // Too large, or no uid: the same again would be refused again.
  if (answer.status === 413 || answer.status === 422) return "never";
  if (!answer.ok) throw new Error(`${answer.status}: ${text}`);
  const { outcome, reason } = JSON.parse(text);
  if (reason === "too-long") return "never";
  return outcome === "delivered" ? "delivered" : "later";
}

/** The secrets of the hook: one per line, of which there are two while a secret is changed. */
async function secrets() {
  const text = await readFile(SECRET_FILE, "utf8");
  return text.replace(/^\uFEFF/, "").split(/\r?\n/).filter((line) => line !== "");
}

/** Whether pombo has sent this body, within the last five minutes. */
async function isGenuine(signature, body) {
  const time = /^t=(\d+),/.exec(signature)?.[1];
  if (time === undefined || Math.abs(Date.now() / 1000 - Number(time)) > 300) return false;
  const sign = (secret) => createHmac("sha256", secret).update(`${time}.`).update(body).digest();
  const expected = (await secrets()).map(sign);
  const tags = [...signature.matchAll(/,v1=([0-9a-f]{64})/g)].map(([, tag]) => Buffer.from(tag, "hex"));
  return expected.some((mine) => tags.some((tag) => timingSafeEqual(tag, mine)));
}

/** Takes a batch of events: who has come online gets what is stored. */
async function takeHook(request, body) {
  if (!(await isGenuine(request.headers["pombo-signature"] ?? "", body))) return [403, "not from pombo\n"];
  // Events may come twice, and late: a push says what is true now. What `lost` counts is found by the next flushAll.
  for (const { event, uid } of JSON.parse(body).events) {
    if (event === "online") await flush(folder(uid));
  }
  return [204];
}

/** Takes a message of your application. */
async function takeMessage(request, uid, body) {
  // Any page can have its visitor's browser post here, and a browser says for which page it does.
  if (request.headers.origin !== undefined) return [403, "web pages may not send\n"];
  // In this order: a message that is stored before its push can't miss the user's return.
  const file = await store(uid, body.toString());
  await flush(folder(uid)).catch((error) => console.error(`not sent yet: ${error.message}`));
  if (existsSync(`${file}.refused`)) return [422, "pombo refuses the message, which is kept\n"];
  return existsSync(file) ? [202, "stored\n"] : [200, "nothing is owed\n"];
}

async function answer(request) {
  const pieces = [];
  let length = 0;
  for await (const piece of request) {
    length += piece.length;
    if (length > BODY_BYTES_MAX) return [413, "the body is too large\n"];
    pieces.push(piece);
  }
  const body = Buffer.concat(pieces);
  const [, uid] = /^\/send\/([^/?]+)$/.exec(request.url) ?? [];
  if (request.method === "POST" && request.url === "/hook") return takeHook(request, body);
  if (request.method === "POST" && uid !== undefined) return takeMessage(request, decodeURIComponent(uid), body);
  return [404, "expected POST /hook or POST /send/UID\n"];
}

await secrets(); // A file that can't be read ends the program here.
await mkdir(FOLDER, { recursive: true, mode: 0o700 });
const server = createServer(async (request, response) => {
  let [status, text] = [500, "failed\n"];
  try {
    [status, text] = await answer(request);
  } catch (error) {
    // pombo sends the batch again.
    console.error(error.message);
  }
  response.writeHead(status).end(text);
});
server.listen(Number(process.env.PORT ?? 8080), "127.0.0.1", () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
for (;;) {
  await flushAll();
  await sleep(FLUSH_INTERVAL);
}
