
'use strict';
// Asks for v1/stats once a second and shows the differences; for the hours before, it asks for v1/history.
// What a uid, a reason, a setting or a problem says is put in as text only.
const POLL_MS = 1000;
const ANSWER_MS = 10000;
const SPAN_MS = 120000;         // what the charts show
const MINUTE_MS = 60000;
const GAP_MS = 4000;            // a longer pause between two answers breaks the lines
const SESSIONS_MAX = 50;        // shown of one uid
const BACKOFF_FIRST_MS = 1000, BACKOFF_MAX_MS = 15000;
const HISTORY_MS = 10000;
const HOURS_MS = 3 * 3600000;   // what the node keeps
const UIDS_ON_PAGE = 50;
const MEANINGS = {closes};      // what each close code means
const REFUSALS = {refusals};    // what each reason to refuse a connection means

const SHED = ['shed_newest', 'shed_oldest', 'shed_closed', 'shed_shard_gone'];
const LOST = [
  ['shed_newest', 'client read too slowly, newest dropped'], ['shed_oldest', 'client read too slowly, oldest dropped'],
  ['shed_closed', 'session ended before it was sent'], ['shed_shard_gone', 'shard had ended'], ['offline', 'nobody was logged in'],
];
// Why no session took a push.
const UNTAKEN = {
  'outbox-full': 'the client reads too slowly, and the messages that wait for it fill their space',
  'too-long': 'the message is longer than the space for one client',
  lost: 'the connection failed at that moment',
};
const CEILINGS = {
  connections_max: ['setting', 'The setting connections_max allows no more.'],
  descriptors: ['open files', 'The limit of open files allows no more; raise it with ulimit -n, or LimitNOFILE of systemd.'],
  memory: ['planned by memory', 'Half of the memory has room for no more idle connections. It is a plan: more are not refused.'],
};

const $ = id => document.getElementById(id);
const make = (parent, tag, name = '', text = '') => {
  const element = parent.appendChild(document.createElement(tag));
  element.className = name;
  element.textContent = text;
  return element;
};
const draw = (parent, tag, name, attributes = {}) => {
  const element = parent.appendChild(document.createElementNS('http://www.w3.org/2000/svg', tag));
  element.setAttribute('class', name);
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  return element;
};
const write = (element, text) => { if (element.textContent !== text) element.textContent = text; };

// Numbers as people read them.

const scaled = (value, step, units) => {
  let unit = 0;
  while (value >= step * .9995 && unit < units.length - 1) { value /= step; unit++; }
  return value.toFixed(value < 9.95 && value !== Math.round(value) ? 1 : 0) + units[unit];
};
const rate = value => value === null ? '–' : scaled(value, 1000, ['', 'k', 'M', 'G']);
const bytes = value => value === null ? '–' : scaled(value, 1024, [' B', ' KiB', ' MiB', ' GiB']);
const time = ns => ns === null ? '–' : scaled(ns / 1000, 1000, [' µs', ' ms', ' s']);
const whole = value => value === null ? '–' : value < 1e7 ? value.toLocaleString('en') : `${(value / 1e6).toLocaleString('en', { maximumFractionDigits: 1 })} M`;
const span = ms => {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return s < 86400 ? `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min` : `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
};
const clock = (at, seconds = false) => new Date(at).toLocaleTimeString('en-GB', seconds ? {} : { hour: '2-digit', minute: '2-digit' });
const percent = part => part === null ? '–' : `${part < .0995 ? (100 * part).toFixed(1) : Math.round(100 * part)} %`;
const isLoopback = host => /^(localhost|127\.[0-9.]+|\[::1\])$/.test(host);
const many = (count, word) => `${whole(count)} ${word}${count === 1 ? '' : 's'}`;

// Asking.

let token = sessionStorage.getItem('token') || '';

// Returns the status, what the answer says, and if it is a problem, which and why; throws when there is no answer.
async function ask(method, path, body) {
  const headers = {};
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers['Content-Type'] = 'text/plain; charset=utf-8';
  const answer = await fetch(path, { method, headers, body, cache: 'no-store', signal: AbortSignal.timeout(ANSWER_MS) });
  const text = await answer.text();
  let data = null;
  try { data = JSON.parse(text); } catch { /* a proxy's page, perhaps */ }
  if (answer.ok && data) return { status: answer.status, data };
  const detail = data && data.detail ? `${data.title}: ${data.detail}` : `the answer was ${answer.status} ${answer.statusText}, expected JSON of a node`;
  return { status: answer.status, detail };
}

function wantToken(why) {
  $('token-form').hidden = false;
  write($('token-hint'), why);
  $('forget').hidden = true;
  $('token').focus();
}

function forget() {
  token = '';
  sessionStorage.removeItem('token');
}

// What was answered lately, each with the differences to the one before.

let samples = [];       // {at, stats, shards, node}
let isBegun = false;    // the first answer came, and with it the parts that don't renew each second
let failures = 0;
let answered = 0;       // when the last answer came
let retryAt = 0;
let pollTimer = 0;
let pollNumber = 0;     // answers to any other poll are stale

async function poll() {
  clearTimeout(pollTimer);
  const number = ++pollNumber, begun = performance.now();
  let answer = null;
  try { answer = await ask('GET', 'v1/stats'); } catch { /* told by what follows */ }
  if (number !== pollNumber) return;
  if (answer && answer.data && Array.isArray(answer.data.shards)) {
    failures = 0;
    answered = performance.now();
    $('token-form').hidden = true;
    $('forget').hidden = !token;
    take(answer.data);
    // Once: after a computer's sleep the answers before are too old, and the list is where it was left.
    if (!isBegun) { isBegun = true; remember(); list(); }
    pollTimer = setTimeout(poll, Math.max(50, POLL_MS - (performance.now() - begun)));
  } else if (answer && answer.status === 401) {
    const why = token ? 'This token is not taken. Expected one from the node’s control tokens.' : 'The node asks for a token. It is kept for this tab only.';
    forget();
    show('token', 'token needed');
    wantToken(why);
  } else {
    // A wait that grows, and is not the same for every tab that watches.
    const wait = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** failures) * (.75 + Math.random() * .5);
    failures = Math.min(failures + 1, 10);
    retryAt = performance.now() + wait;
    pollTimer = setTimeout(poll, wait);
    if (answer && answer.status === 403) {
      show('forbidden', 'not allowed');
      say('failed', answer.detail);
      $('forget').hidden = !token;
    } else {
      stale();
    }
  }
}

function stale() {
  const silent = answered ? `no answer for ${span(performance.now() - answered)}` : 'no answer';
  const left = Math.ceil((retryAt - performance.now()) / 1000);
  show('stale', left > 0 ? `${silent}, next try in ${left} s` : `${silent}, trying`);
}

function show(state, text) {
  if ($('state').dataset.state !== state) write($('announce'), text);
  $('state').dataset.state = state;
  write($('state'), text);
  document.body.toggleAttribute('data-stale', samples.length > 0 && !['serving', 'unready', 'draining'].includes(state));
}

function take(stats) {
  const last = samples.at(-1), at = performance.now();
  // All counts begin anew with the node; a smaller uptime can't come from anything else.
  const before = last && last.stats.uptime_ms <= stats.uptime_ms && last.stats.shards.length === stats.shards.length ? last : null;
  const seconds = before ? (stats.uptime_ms - before.stats.uptime_ms) / 1000 : 0;
  if (last && !before) {
    write($('announce'), 'the node has restarted');
    // It has forgotten the hours before, too.
    past = null;
    remember();
    samples = samples.map(sample => ({ ...sample, stats: { ...sample.stats, uptime_ms: -1 } }));
  }
  const shards = stats.shards.map((now, index) => {
    const then = before && seconds > 0 ? before.stats.shards[index] : null;
    return figures(now.counts ? now : null, then && then.counts ? then : null, seconds);
  });
  const node = { totals: totals(stats), ...worst(stats, seconds > 0 ? before : null) };
  for (const name of ['in', 'out', 'bytesIn', 'bytesOut']) {
    node[name] = shards.some(shard => shard[name] !== null) ? shards.reduce((sum, shard) => sum + shard[name], 0) : null;
  }
  const cpu = stats.process.cpu_seconds, cpuBefore = before && before.stats.process.cpu_seconds;
  node.cpu = seconds > 0 && cpu !== null && cpuBefore !== null ? Math.max(0, cpu - cpuBefore) / seconds : null;
  samples.push({ at, stats, shards, node });
  while (samples[0].at < at - SPAN_MS - GAP_MS) samples.shift();
  render();
}

function figures(now, then, seconds) {
  const none = { in: null, out: null, bytesIn: null, bytesOut: null, p50: null, p99: null, letters: null, waiting: null };
  if (!now) return none;
  none.waiting = now.counts.mail_bytes;
  if (!then) return none;
  const grown = (...names) => names.reduce((sum, name) => sum + now.counts[name] - then.counts[name], 0) / seconds;
  const turns = now.turn_time.counts.map((count, place) => count - then.turn_time.counts[place]);
  return {
    ...none, in: grown('frames_in'), out: grown('delivered', 'broadcast_deliveries'), letters: grown('mail_letters'),
    bytesIn: grown('bytes_in'), bytesOut: grown('bytes_out'),
    p50: quantile(turns, now.turn_time.bounds_ns, .5), p99: quantile(turns, now.turn_time.bounds_ns, .99),
  };
}

// Estimates a quantile of durations, as if those between two bounds were spread evenly over the ratio of the bounds.
function quantile(counts, bounds, part) {
  let left = part * counts.reduce((sum, count) => sum + count, 0);
  for (let place = 0; place < counts.length; place++) {
    if (counts[place] > 0 && left <= counts[place]) {
      const high = place < bounds.length ? bounds[place] : bounds.at(-1) * 4;
      const low = place > 0 ? bounds[place - 1] : high / 4;
      return low * (high / low) ** (left / counts[place]);
    }
    left -= counts[place];
  }
  return null;
}

// Returns the node's quantiles of turns, over all shards.
function worst(stats, before) {
  const turns = [];
  let bounds = [];
  stats.shards.forEach((now, index) => {
    const then = before && before.stats.shards[index];
    if (!now.counts || !then || !then.counts) return;
    bounds = now.turn_time.bounds_ns;
    now.turn_time.counts.forEach((count, place) => { turns[place] = (turns[place] || 0) + count - then.turn_time.counts[place]; });
  });
  return { p50: quantile(turns, bounds, .5), p99: quantile(turns, bounds, .99) };
}

// Returns the sums of the shards that answered, in which a count keeps its name, and those of codes and reasons.
function totals(stats) {
  const sum = { counts: {}, closes: {}, refusals: stats.refusals, silent: 0 };
  for (const shard of stats.shards) {
    if (!shard.counts) { sum.silent++; continue; }
    for (const part of ['counts', 'closes']) {
      for (const name in shard[part]) sum[part][name] = (sum[part][name] || 0) + shard[part][name];
    }
  }
  sum.shed = SHED.reduce((all, name) => all + (sum.counts[name] || 0), 0);
  sum.refused = Object.values(stats.refusals).reduce((all, count) => all + count, 0);
  return sum;
}

// Showing: all that stays is made once, and written over each second.

const TURN = 'A turn is one pass of a shard’s loop: it receives, delivers and sends. p50: half of the turns are shorter; p99: all but 1 %.';
const TILES = [
  ['sessions', 'Sessions', 'Clients that have logged in'], ['connections', 'Connections', 'Open connections, logged in or not'],
  ['out', 'Messages out /s', 'Messages that sessions took, by unicast and by broadcast'], ['in', 'Messages in /s', 'Frames that clients sent'],
  ['bytes-out', 'Bytes out /s', 'Sent to clients, frame headers included'], ['bytes-in', 'Bytes in /s', 'Received from clients, frame headers included'],
  ['cpu', 'CPU', 'Processor time of the whole process; 100 % is one core'], ['memory', 'Memory', 'Resident memory of the process, and the part of it that messages take'],
  ['turn', 'Turn time, p99', TURN], ['slow', 'Slow clients closed', 'Sessions closed because they read too slowly (code 4008)'],
  ['shed', 'Messages dropped', 'Messages that a session took, or would have taken, and did not get'],
  ['refused', 'Connections refused', 'Connections that ended before their login'],
];
const explained = (parent, tag, name, text, title) => title ? Object.assign(make(make(parent, tag, name), 'abbr', '', text), { title }) : make(parent, tag, name, text);
const tiles = {};
for (const [key, name, title] of TILES) {
  const tile = make($('totals'), 'div');
  explained(tile, 'dt', '', name, title);
  tiles[key] = [make(tile, 'dd', '', '–'), make(tile, 'dd', '', '\u00a0')];
  tiles[key][0].id = `total-${key}`;
}

const log = value => Math.log10(value / 1000);
const COLUMNS = [
  { name: 'Messages /s', short: 'Out, in /s', lines: [['out', 'out'], ['in', 'in']], show: rate, top: max => round(max, 10, [1, 2, 5]), floor: 10 },
  { name: 'Turn time', short: 'Turn p50, p99', title: TURN, lines: [['p50', 'p50'], ['p99', 'p99']], show: time, top: max => round(max, 10, [1]), floor: 1e6, y: (value, top) => log(Math.max(value, 1000)) / log(top) },
  { name: 'From other shards /s', short: 'From shards /s', title: 'Messages that this shard took from the others', lines: [['letters', 'taken']], show: rate, top: max => round(max, 10, [1, 2, 5]), floor: 10 },
  { name: 'For other shards', short: 'For shards', title: 'Bytes of messages that wait until another shard takes them', lines: [['waiting', 'waiting']], show: bytes, top: max => round(max, 2, [1]), floor: 1024 },
];
// Returns the next round number, so that a scale moves seldom.
function round(value, base, steps) {
  const power = base ** Math.floor(Math.log(value) / Math.log(base));
  return power * ([...steps, base].find(step => power * step >= value * .9999));
}

let rows = [];
let cursor = null;      // the moment that is read instead of the latest

function build(count) {
  $('rows').replaceChildren();
  // Mail is for other shards: a single one has none.
  const columns = count > 1 ? COLUMNS : COLUMNS.slice(0, 2);
  $('rows').style.setProperty('--columns', columns.length);
  const titles = make($('rows'), 'div', 'row titles');
  make(titles, 'span');
  for (const column of columns) {
    const title = make(titles, 'span');
    explained(title, 'span', '', column.name, column.title);
    column.scales = [make(title, 'small')];
  }
  rows = Array.from({ length: count }, (_, index) => {
    const row = make($('rows'), 'div', 'row'), shard = make(row, 'div', 'shard');
    make(shard, 'h3', '', `Shard ${index}`);
    const charts = columns.map(column => {
      const chart = make(row, 'div', 'chart'), values = make(chart, 'div', 'values'), plot = make(chart, 'div', 'plot');
      const name = make(values, 'span', 'name');
      explained(name, 'span', '', column.short, column.title);
      column.scales.push(make(name, 'small'));
      const svg = draw(plot, 'svg', '', { viewBox: '0 0 100 100', preserveAspectRatio: 'none', 'aria-hidden': 'true' });
      draw(svg, 'path', 'grid', { d: 'M0 1H100M0 50H100' });
      const lines = column.lines.map(([key, name], place) => {
        const label = make(values, 'span', place ? 'two' : '');
        const value = make(label, 'b', '', '–');
        make(label, 'i', '', ` ${name}`);
        return { key, value, path: draw(svg, 'path', place ? 'two' : '') };
      });
      return { column, lines, mark: draw(svg, 'path', 'cursor') };
    });
    return { row, sessions: make(shard, 'p'), trouble: make(shard, 'p'), charts };
  });
}

function render() {
  const latest = samples.at(-1), { stats, node } = latest;
  if (rows.length !== stats.shards.length) build(stats.shards.length);
  // As /readyz says it; a node that drains is unready for that alone.
  const isFull = stats.state === 'serving' && stats.unready.length > 0;
  show(isFull ? 'unready' : stats.state, isFull ? `accepts no connections: ${stats.unready.join('; ')}` : stats.state);
  write($('node'), `${location.host} · version ${stats.version} · up ${span(stats.uptime_ms)}`);
  // The node may know only that it listens on every address. Its loopback address is another machine's for a remote browser.
  const page = stats.page && new URL(stats.page.replace(/\/\/(0\.0\.0\.0|\[::\])/, () => `//${location.hostname}`));
  $('page').hidden = !page || isLoopback(page.hostname) && !isLoopback(location.hostname);
  if (page) $('page').href = page.href;
  renderTotals(latest);
  renderCharts(latest);
  renderCounts(latest);
}

// Returns the sample of a minute ago, or the oldest there is of this run.
function minuteAgo(latest) {
  return samples.find(sample => sample.stats.uptime_ms >= 0 && sample.at >= latest.at - MINUTE_MS);
}

// Names the time since that sample: a page that was just opened knows less than a minute.
function sinceThen(latest, short = false) {
  const seconds = Math.round((latest.at - minuteAgo(latest).at) / 1000);
  return seconds < MINUTE_MS / 1000 - 5 ? `last ${seconds} s` : short ? 'last min' : 'last minute';
}

function renderTotals(latest) {
  const { stats, node } = latest, { counts } = node.totals, then = minuteAgo(latest).node.totals;
  const fill = (key, value, below, isAlarm = false) => {
    write(tiles[key][0], value);
    write(tiles[key][1], below);
    tiles[key][1].classList.toggle('alarm', isAlarm);
  };
  const silent = node.totals.silent;
  const lately = (now, before) => silent || now < before ? '\u00a0' : `${whole(now - before)} ${sinceThen(latest)}`;
  fill('sessions', whole(counts.sessions ?? null), silent ? `${many(silent, 'shard')} silent` : many(counts.uids || 0, 'user'), silent > 0);
  fill('connections', whole(stats.connections), `of ${whole(stats.connections_ceiling)} (${CEILINGS[stats.connections_limited_by][0]})`);
  tiles.connections[1].title = CEILINGS[stats.connections_limited_by][1];
  fill('out', rate(node.out), `${whole((counts.delivered || 0) + (counts.broadcast_deliveries || 0))} in all`);
  fill('in', rate(node.in), `${whole(counts.frames_in || 0)} in all`);
  fill('bytes-out', bytes(node.bytesOut), `${bytes(counts.bytes_out || 0)} in all`);
  fill('bytes-in', bytes(node.bytesIn), `${bytes(counts.bytes_in || 0)} in all`);
  const cores = stats.process.cpu_seconds;
  fill('cpu', percent(node.cpu), cores === null ? '\u00a0' : `${span(cores * 1000)} in all`);
  fill('memory', bytes(stats.process.resident_bytes), `${bytes(counts.memory_held || 0)} for messages`);
  tiles.memory[1].title = `At most ${bytes(stats.memory_bytes_max)}, by the setting memory_bytes_max`;
  fill('turn', time(node.p99), `p50 ${time(node.p50)}`);
  const slow = counts.slow_consumers || 0, slowThen = then.counts.slow_consumers || 0;
  fill('slow', whole(slow), lately(slow, slowThen), slow > slowThen);
  fill('shed', whole(node.totals.shed), lately(node.totals.shed, then.shed), node.totals.shed > then.shed);
  fill('refused', whole(node.totals.refused), lately(node.totals.refused, then.refused));
}

function renderCharts(latest) {
  const read = cursor === null ? latest : samples.reduce((best, sample) => Math.abs(sample.at - cursor) < Math.abs(best.at - cursor) ? sample : best);
  const age = Math.round((latest.at - read.at) / 1000);
  write($('moment'), cursor === null || age === 0 ? 'the last two minutes' : `${age} s ago`);
  const x = sample => 100 * (1 - (latest.at - sample.at) / SPAN_MS);
  const tops = new Map();
  for (const { column } of rows.length ? rows[0].charts : []) {
    // One scale for all shards, so that they can be compared.
    let max = column.floor;
    for (const sample of samples) for (const shard of sample.shards) for (const [key] of column.lines) max = Math.max(max, shard[key] ?? 0);
    tops.set(column, column.top(max));
    for (const scale of column.scales) write(scale, `to ${column.show(tops.get(column))}`);
  }
  rows.forEach(({ row, sessions, trouble, charts }, index) => {
    const now = latest.stats.shards[index], then = read.shards[index];
    row.toggleAttribute('data-silent', !now.counts);
    write(sessions, now.counts ? many(now.counts.sessions, 'session') : now.error || 'no answer');
    write(trouble, now.counts ? troubleOf(now.counts) : '');
    for (const { column, lines, mark } of charts) {
      const top = tops.get(column), height = column.y || ((value, most) => value / most);
      for (const { key, value, path } of lines) {
        write(value, column.show(then ? then[key] : null));
        let d = '', before = null;
        for (const sample of samples) {
          const shard = sample.shards[index], isThere = shard && shard[key] !== null;
          // Where nothing is known the line has a gap.
          if (isThere) d += `${before && sample.at - before.at < GAP_MS ? 'L' : 'M'}${x(sample).toFixed(2)} ${(99 - 97 * height(shard[key], top)).toFixed(2)}`;
          before = isThere ? sample : null;
        }
        path.setAttribute('d', d);
      }
      mark.setAttribute('d', cursor === null ? '' : `M${x(read).toFixed(2)} 0V100`);
    }
  });
}

// What went wrong on a shard, without what did not.
function troubleOf(counts) {
  const dropped = SHED.reduce((sum, name) => sum + counts[name], 0);
  return [counts.slow_consumers && `${whole(counts.slow_consumers)} slow`, dropped && `${whole(dropped)} dropped`].filter(Boolean).join(', ');
}

// Tables of counts, of those that are not zero: name, since the start, in the last minute.

function table(id, title) {
  const card = make($('counts'), 'div', 'card'), element = make(card, 'table');
  make(element, 'caption', '', title);
  const head = make(make(element, 'thead'), 'tr');
  for (const name of ['', 'in all', 'last min']) make(head, 'th', '', name).scope = 'col';
  head.firstChild.replaceChildren();
  head.lastChild.className = 'lately';
  const body = make(element, 'tbody'), known = new Map();
  body.id = id;
  const none = make(card, 'p', 'hint', '\u00a0');
  return (name, label, count, before) => {
    if (!known.has(name)) {
      if (count === 0) return;
      const row = make(body, 'tr');
      make(row, 'th', '', label).scope = 'row';
      known.set(name, { row, all: make(row, 'td'), lately: make(row, 'td') });
      none.hidden = true;
    }
    const { row, all, lately } = known.get(name), fresh = Math.max(0, count - before);
    write(all, whole(count));
    write(lately, whole(fresh));
    lately.className = fresh > 0 ? 'fresh' : '';
  };
}
const tables = {
  closes: table('closes', 'Sessions closed'), lost: table('lost', 'Messages not delivered'), refusals: table('refusals', 'Connections refused'),
};

function renderCounts(latest) {
  const { counts, closes, refusals } = latest.node.totals, then = minuteAgo(latest).node.totals;
  for (const head of $('counts').querySelectorAll('.lately')) write(head, sinceThen(latest, true));
  for (const hint of $('counts').querySelectorAll('.hint')) write(hint, 'none so far');
  for (const [name, label] of LOST) tables.lost(name, label, counts[name] || 0, then.counts[name] || 0);
  for (const code in closes) tables.closes(code, MEANINGS[code] ? `${code} ${MEANINGS[code]}` : 'with another code', closes[code], then.closes[code] || 0);
  for (const reason in refusals) tables.refusals(reason, REFUSALS[reason] || reason, refusals[reason], then.refusals[reason] || 0);
}

// Reading an earlier second, by pointer or arrow keys.

function point(at) {
  cursor = at;
  if (samples.length) renderCharts(samples.at(-1));
}
$('rows').onpointermove = event => {
  const svg = event.target.closest('.plot svg');
  if (!svg || !samples.length) return point(null);
  const box = svg.getBoundingClientRect();
  point(samples.at(-1).at - SPAN_MS * (1 - (event.clientX - box.x) / box.width));
};
$('rows').onpointerleave = () => point(null);
$('rows').onblur = () => point(null);
$('rows').onkeydown = event => {
  const step = { ArrowLeft: -POLL_MS, ArrowRight: POLL_MS }[event.key];
  if (event.key === 'Escape' || !samples.length) return point(null);
  if (!step) return;
  event.preventDefault();
  const latest = samples.at(-1).at, at = (cursor ?? latest) + step;
  point(at >= latest ? null : Math.max(at, samples[0].at));
};

// One user.

let user = '';          // whom the shown sessions are of
let lookNumber = 0;     // answers to any other look are stale

function say(kind, text, place = 'result') {
  $(place).dataset.kind = kind;
  write($(place), text);
}

// Does something about a uid; says what kept it from being done, and returns the answer otherwise.
async function act(method, path, uid, body, place) {
  // A client turns these into another path, however they are written.
  if (uid === '.' || uid === '..') return say('failed', `A uid that is ${uid} can’t stand in an address; use a list, as docs/push.md tells.`, place);
  say('', 'asking …', place);
  let answer;
  try {
    answer = await ask(method, path.replace('{uid}', () => encodeURIComponent(uid)), body);
  } catch (error) {
    const mayBe = method === 'GET' ? '' : ' It may have been done, or not.';
    return say('failed', `No answer from the node.${mayBe}`, place);
  }
  if (answer.data) return answer.data;
  if (answer.status === 401) {
    forget();
    wantToken('The node asks for a token. It is kept for this tab only.');
  }
  say('failed', answer.detail, place);
}

async function look(uid) {
  const number = ++lookNumber, told = await act('GET', 'v1/uids/{uid}', uid);
  if (number !== lookNumber) return false;
  $('found').hidden = !told;
  if (!told) return false;
  user = uid;
  write($('who'), told.uid);
  write($('presence'), told.online ? `online, ${many(told.sessions.length, 'session')}` : 'offline');
  $('presence').dataset.online = told.online;
  $('kick').disabled = !told.online;
  $('sessions').replaceChildren();
  for (const { since, address } of told.sessions.slice(0, SESSIONS_MAX)) {
    const item = make($('sessions'), 'li'), begun = new Date(since);
    make(item, 'span', '', address ?? 'over a Unix socket');
    make(item, 'span', '', `since ${begun.toLocaleString()}`).title = since;
  }
  const more = told.sessions.length - SESSIONS_MAX;
  if (more > 0) make(make($('sessions'), 'li'), 'span', '', `and ${more} more`);
  say('', '');
  return true;
}

$('find').onsubmit = event => {
  event.preventDefault();
  look($('uid').value);
};
$('push').onsubmit = async event => {
  event.preventDefault();
  const to = user, told = await act('POST', 'v1/push/{uid}', to, $('message').value);
  if (!told) return;
  if (told.outcome === 'delivered') {
    say('done', `Delivered to ${many(told.sessions, 'session')} of ${to}.`);
    $('message').value = '';
  } else if (told.outcome === 'offline') {
    say('missed', `Not delivered: nobody is logged in as ${to}.`);
  } else {
    say('missed', `Not delivered: ${UNTAKEN[told.reason] || told.outcome}.`);
  }
};
$('kick').onclick = () => {
  write($('sure-who'), user);
  $('reason').value = '';
  $('sure').showModal();
};
$('spare').onclick = () => $('sure').close();
$('sure-form').onsubmit = async event => {
  event.preventDefault();
  $('sure').close();
  const reason = $('reason').value, uid = user;
  const told = await act('DELETE', `v1/uids/{uid}${reason ? `?reason=${encodeURIComponent(reason)}` : ''}`, uid);
  if (told && await look(uid)) say(told.sessions ? 'done' : 'missed', told.sessions ? `Closed ${many(told.sessions, 'session')} of ${uid}.` : `${uid} had no session.`);
};

// Who is online, page by page.

let nextCursor = null;
let listNumber = 0;     // answers to any other list are stale

async function list(cursor = null) {
  const number = ++listNumber;
  const path = `v1/uids?limit=${UIDS_ON_PAGE}${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ''}`;
  const told = await act('GET', path, '', undefined, 'online-result');
  if (number !== listNumber || !told) return;
  say('', told.uids.length ? '' : cursor ? 'Nobody on this page.' : 'Nobody has logged in.', 'online-result');
  write($('online-moment'), `at ${clock(Date.now(), true)}`);
  $('uids').replaceChildren();
  for (const uid of told.uids) {
    const button = make(make($('uids'), 'li'), 'button', 'uid');
    button.type = 'button';
    make(button, 'bdi', '', uid);
    button.onclick = () => { $('uid').value = uid; look(uid); };
  }
  $('uids').scrollTop = 0;
  nextCursor = told.next;
  $('next-page').hidden = !nextCursor;
  write($('first-page'), cursor ? 'First page' : 'Refresh');
}
$('first-page').onclick = () => list();
$('next-page').onclick = () => list(nextCursor);

// A message to everybody, after it was shown once more.

$('broadcast').onsubmit = event => {
  event.preventDefault();
  const latest = samples.at(-1);
  write($('sure-all-hint'), latest ? `${many(latest.node.totals.counts.sessions || 0, 'session')} would get it.` : 'Every session would get it.');
  write($('sure-all-text'), $('broadcast-message').value);
  $('sure-all').showModal();
};
$('spare-all').onclick = () => $('sure-all').close();
$('sure-all-form').onsubmit = async event => {
  event.preventDefault();
  $('sure-all').close();
  const told = await act('POST', 'v1/broadcast', '', $('broadcast-message').value, 'broadcast-result');
  if (!told) return;
  say(told.sessions ? 'done' : 'missed', told.sessions ? `Sent to ${many(told.sessions, 'session')}.` : 'Nobody is logged in.', 'broadcast-result');
  if (told.sessions) $('broadcast-message').value = '';
};

// The last hours, as the node has kept them.

const HOURS = [
  { name: 'Sessions', show: whole, floor: 10, lines: [['sessions', '', false]] },
  { name: 'Messages /s', show: rate, floor: 10, lines: [['deliveries', 'out', true], ['frames_in', 'in', true]] },
  { name: 'Bytes /s', show: bytes, floor: 1024, base: 2, lines: [['bytes_out', 'out', true], ['bytes_in', 'in', true]] },
  { name: 'CPU', title: '100 % is one core', show: percent, floor: .1, scale: .001, lines: [['cpu_ms', '', true]] },
  { name: 'Memory', show: bytes, floor: 1 << 20, base: 2, lines: [['resident_bytes', '', false]] },
  { name: 'Dropped, refused /s', title: 'Messages dropped, and connections refused', show: rate, floor: 1, lines: [['dropped', 'dropped', true], ['refused', 'refused', true]] },
];
for (const hour of HOURS) {
  const chart = make($('hours'), 'div', 'chart');
  const head = make(chart, 'div', 'hour');
  explained(head, 'span', '', hour.name, hour.title);
  hour.most = make(head, 'small');
  const values = make(chart, 'div', 'values');
  const svg = draw(make(chart, 'div', 'plot'), 'svg', '', { viewBox: '0 0 100 100', preserveAspectRatio: 'none', 'aria-hidden': 'true' });
  draw(svg, 'path', 'grid', { d: 'M0 1H100M0 50H100' });
  hour.shown = hour.lines.map(([, name], place) => {
    const label = make(values, 'span', place ? 'two' : ''), value = make(label, 'b', '', '–');
    make(label, 'i', '', name && ` ${name}`);
    return { value, path: draw(svg, 'path', place ? 'two' : '') };
  });
  hour.mark = draw(svg, 'path', 'cursor');
}

let past = null;        // columns of samples, as v1/history has them
let pastMoment = null;  // the uptime that is read instead of the latest
let historyTimer = 0;
let historyNumber = 0;  // answers to any other question are stale

async function remember() {
  clearTimeout(historyTimer);
  const number = ++historyNumber;
  let answer = null;
  try { answer = await ask('GET', `v1/history${past && past.uptime_ms.length ? `?since=${past.uptime_ms.at(-1)}` : ''}`); } catch { /* the state says it */ }
  if (number !== historyNumber) return;
  if (answer && answer.data && Array.isArray(answer.data.uptime_ms)) {
    keep(answer.data);
  }
  historyTimer = setTimeout(remember, HISTORY_MS);
}

function keep(more) {
  const columns = past ? {} : more;
  for (const name in past ? more : {}) columns[name] = Array.isArray(more[name]) ? [...past[name], ...more[name]] : more[name];
  past = columns;
  const gone = past.uptime_ms.findIndex(at => at >= past.uptime_ms.at(-1) - HOURS_MS);
  if (gone > 0) for (const name in past) if (Array.isArray(past[name])) past[name].splice(0, gone);
  renderHours();
}

// Returns a figure at a sample: a value, or what has come since the sample before, per second.
function figure(key, isRate, index, factor = 1) {
  const now = past[key][index];
  if (!isRate || now === null) return now;
  const before = index > 0 ? past[key][index - 1] : null;
  // The node has restarted, or this is its first sample.
  if (before === null || now < before) return null;
  return factor * (now - before) * 1000 / (past.uptime_ms[index] - past.uptime_ms[index - 1]);
}

function renderHours() {
  // Not the wall clock, which may be set back.
  const times = past.uptime_ms;
  $('history').hidden = times.length < 2;
  if (times.length < 2) return;
  const first = times[0], last = times.at(-1), length = Math.max(1, last - first);
  const read = pastMoment === null ? times.length - 1 : times.reduce((best, at, index) => Math.abs(at - pastMoment) < Math.abs(times[best] - pastMoment) ? index : best, 0);
  write($('history-moment'), pastMoment === null ? `the last ${span(last - first)}` : `at ${clock(past.at_ms[read], true)}`);
  for (const { lines, shown, show, floor, base, scale, most, mark } of HOURS) {
    const columns = lines.map(([key, , isRate]) => times.map((_, index) => figure(key, isRate, index, scale)));
    const max = columns.flat().reduce((max, value) => Math.max(max, value ?? 0), floor);
    const top = base === 2 ? round(max, 2, [1, 1.5]) : round(max, 10, [1, 2, 5]);
    write(most, `to ${show(top)}`);
    shown.forEach(({ value, path }, place) => {
      write(value, show(columns[place][read]));
      let d = '', before = null;
      columns[place].forEach((height, index) => {
        if (height === null) { before = null; return; }
        const isNext = before !== null && times[index] - before < 3 * past.interval_ms;
        d += `${isNext ? 'L' : 'M'}${(100 * (times[index] - first) / length).toFixed(2)} ${(99 - 97 * height / top).toFixed(2)}`;
        before = times[index];
      });
      path.setAttribute('d', d);
    });
    mark.setAttribute('d', pastMoment === null ? '' : `M${(100 * (times[read] - first) / length).toFixed(2)} 0V100`);
  }
}
$('hours').onpointermove = event => {
  const svg = event.target.closest('.plot svg');
  if (!past) return;
  const box = svg && svg.getBoundingClientRect();
  pastMoment = svg ? past.uptime_ms[0] + (past.uptime_ms.at(-1) - past.uptime_ms[0]) * (event.clientX - box.x) / box.width : null;
  renderHours();
};
$('hours').onpointerleave = $('hours').onblur = () => { pastMoment = null; if (past) renderHours(); };
$('hours').onkeydown = event => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!past || !step && event.key !== 'Escape') return;
  event.preventDefault();
  const times = past.uptime_ms, last = times.length - 1;
  const index = pastMoment === null ? last : times.findIndex(at => at >= pastMoment);
  const next = step ? Math.max(0, index + step) : last;
  pastMoment = next >= last ? null : times[next];
  renderHours();
};

// The settings in force, asked for when they are looked at.

async function showSettings() {
  const told = await act('GET', 'v1/settings', '', undefined, 'settings-result');
  $('only-changed-label').hidden = $('setting-rows').parentElement.hidden = !told;
  if (!told) return;
  const changed = told.settings.filter(setting => setting.changed).length;
  say('', changed ? `${changed} of ${told.settings.length} differ from their default.` : 'All have their default.', 'settings-result');
  $('setting-rows').replaceChildren();
  let group = '';
  for (const setting of told.settings) {
    if (setting.group !== group) {
      const row = make($('setting-rows'), 'tr', 'group'), head = make(row, 'th', '', group = setting.group);
      head.colSpan = 3;
      head.scope = 'rowgroup';
    }
    const row = make($('setting-rows'), 'tr', setting.changed ? 'changed' : ''), name = make(row, 'th');
    name.scope = 'row';
    make(name, 'code', '', setting.key);
    make(name, 'small', '', `${setting.help}${setting.live ? '' : '; only a restart changes it'}`);
    make(row, 'td', '', setting.value);
    make(row, 'td', '', setting.changed ? setting.default : '');
  }
}
$('settings').ontoggle = () => { if ($('settings').open) showSettings(); };
$('only-changed').onchange = () => $('settings').toggleAttribute('data-only-changed', $('only-changed').checked);

// The description of the API takes a token where the node has some, which a link can't send: then it becomes a file.
$('api').onclick = async event => {
  if (!token) return;
  event.preventDefault();
  const told = await act('GET', 'v1/openapi.json', '');
  if (!told) return;
  say('', '');
  const file = document.createElement('a');
  file.href = URL.createObjectURL(new Blob([JSON.stringify(told, null, 2)], { type: 'application/json' }));
  file.download = 'pombo-openapi.json';
  file.click();
  URL.revokeObjectURL(file.href);
};

$('token-form').onsubmit = event => {
  event.preventDefault();
  const typed = $('token').value.trim();
  if (!/^[-A-Za-z0-9._~+/=]+$/.test(typed)) return write($('token-hint'), 'A token has letters, digits and -._~+/= only.');
  token = typed;
  sessionStorage.setItem('token', token);
  $('token').value = '';
  $('token-form').hidden = true;
  say('', '');
  poll();
};
$('forget').onclick = () => {
  forget();
  $('forget').hidden = true;
  poll();
};

// Counts down, and tells how long nothing has come.
setInterval(() => { if ($('state').dataset.state === 'stale') stale(); }, POLL_MS);
// Back on a network, or looked at again: no need to sit out the wait.
addEventListener('online', () => { if (failures) poll(); });
document.addEventListener('visibilitychange', () => { if (!document.hidden && failures) poll(); });
poll();
