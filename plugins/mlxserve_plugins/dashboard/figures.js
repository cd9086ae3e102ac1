"use strict";
const at = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
const KEY = "mlxserve-key", PERIOD_MS = 1000, PATIENCE_MS = 5000;
let key = sessionStorage.getItem(KEY) || "", timer = 0, asking = false, locked = false, seen = null;

const headers = () => (key ? { Authorization: `Bearer ${key}` } : {});
const amount = (value) => number.format(value < 10 ? Math.round(value * 10) / 10 : Math.round(value));
const share = (part, whole) => `${amount((100 * part) / whole)}%`;
const duration = (s) =>
  s === undefined || s === null ? "–" : s < 1 ? `${(s * 1000).toPrecision(s < 0.1 ? 2 : 3)} ms` : `${s.toPrecision(3)} s`;
const span = (s) => (s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} days`);
const sum = (counts) => Object.values(counts).reduce((one, other) => one + other, 0);
const write = (id, text) => { if (at(id).textContent !== text) at(id).textContent = text; };

function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

// -- figures ---------------------------------------------------------------------------------

function table(id, rows) {
  at(id).replaceChildren(...rows.map(([name, value, mark]) => {
    const row = element("div"), term = element("dt");
    if (mark !== undefined) term.append(element("i", `key ${mark}`));
    term.append(name);
    row.append(term, element("dd", "", value));
    return row;
  }));
}

const largest = (counts) => Object.entries(counts).sort((one, other) => other[1] - one[1]);

function bar(id, parts) {
  at(id).replaceChildren(...parts.filter(([size]) => size > 0).map(([size, mark]) => {
    const part = element("i", mark);
    part.style.width = `${100 * size}%`;
    return part;
  }));
}

function ceiling(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((top) => top >= value);
}

// The top of the scale is drawn two units below the edge, for the line has a width.
function line(values, top) {
  let path = "", pen = "M";
  values.forEach((value, second) => {
    if (value === null) { pen = "M"; return; }
    path += `${pen}${(120 * second) / (values.length - 1)} ${40 - (38 * value) / top}`;
    pen = "L";
  });
  return path;
}

const area = (values, top) => `${line(values.map((value) => value || 0), top)}L120 40L0 40Z`;

function draw(id, top, about, values, others) {
  const [fill, first, second] = at(id).querySelectorAll("path");
  fill.setAttribute("d", area(values, top));
  first.setAttribute("d", line(values, top));
  if (second) second.setAttribute("d", line(others, top));
  at(id).setAttribute("aria-label", about);
}

function showSpeed(data) {
  const values = data.history.decoded.slice(0, -1), most = Math.max(...values);
  write("speed", amount(data.tokens_per_s));
  write("prefill", `${amount(data.prefill_per_s)} prompt tokens/s`);
  write("speed-top", most ? `peak ${amount(most)} tokens/s` : "");
  at("speed-empty").hidden = most > 0;
  draw("speed-chart", ceiling(most), `Tokens per second in the last two minutes, at most ${most}`, values);
}

function showLoad(engine, history) {
  const busiest = Math.max(...history.running), longest = Math.max(...history.waiting);
  write("running", amount(engine.running));
  write("waiting", amount(engine.waiting));
  write("load-top", `peak ${number.format(busiest)} running, ${number.format(longest)} waiting`);
  const batch = engine.batch ? `up to ${number.format(engine.batch)} decode at once` : "";
  write("room", engine.queue ? `${batch}, ${number.format(engine.queue)} may wait` : batch);
  draw("load-chart", ceiling(Math.max(busiest, longest, 1)),
    `In the last two minutes at most ${busiest} requests ran and ${longest} waited`,
    history.running, history.waiting);
}

function showLatency(id, found, what) {
  write(id, duration(found.p50));
  write(`${id}-95`, duration(found.p95));
  write(`${id}-99`, duration(found.p99));
  write(`${id}-note`, found.count ? `${number.format(found.count)} ${what}, last 5 min` : "None yet");
}

function showMemory({ used, cached, total }) {
  const free = Math.max(total - used - cached, 0), whole = Math.max(total, 1);
  write("memory", total ? share(used, whole) : "–");
  bar("memory-bar", [[used / whole, ""], [cached / whole, "b"]]);
  const row = (name, blocks, mark) => [name, `${share(blocks, whole)} · ${number.format(blocks)} blocks`, mark];
  table("memory-rows", [row("requests", used, "a"), row("cache only", cached, "b"), row("empty", free, "")]);
}

function showRefused({ refused, failed, recent }) {
  write("refused", number.format(recent));
  at("refusals").classList.toggle("alarm", recent > 0);
  const rows = [...largest(refused), ...largest(failed).map(([why, count]) => [`failed: ${why}`, count])];
  table("refused-rows", rows.slice(0, 5).map(([why, count]) => [why, number.format(count)]));
  write("refused-note", rows.length ? `${number.format(sum(refused) + sum(failed))} since the start, by status and reason` : "None since the start");
}

function showEnded(since, engine) {
  const rows = largest(since.replies).map(([reason, count]) => [reason, number.format(count)]);
  write("ended", number.format(sum(since.replies)));
  write("ended-since", `ended in ${span(since.seconds)}`);
  table("ended-rows", [...rows,
    ["tokens in, out", `${number.format(since.prompt_tokens)}, ${number.format(since.reply_tokens)}`],
    ["preemptions", number.format(engine.preemptions)]]);
}

function showHits({ prompt_tokens: tokens, cached }, tiers) {
  const marks = ["a", "b", "c"], names = [...new Set([...Object.keys(tiers), ...Object.keys(cached)])];
  const found = names.filter((name) => name in cached || "blocks" in (tiers[name] || {}));
  write("hits", tokens ? share(sum(cached), tokens) : "–");
  bar("hits-bar", found.map((name, tier) => [(cached[name] || 0) / Math.max(tokens, 1), marks[tier % 3]]));
  const rows = found.map((name, tier) => {
    const held = (tiers[name] || {}).blocks;
    const blocks = held === undefined ? "" : ` (${number.format(held)} blocks)`;
    return [name + blocks, tokens ? share(cached[name] || 0, tokens) : "–", marks[tier % 3]];
  });
  table("hits-rows", [...rows, ["computed", tokens ? share(Math.max(tokens - sum(cached), 0), tokens) : "–", ""]]);
}

function showDrafts({ drafted, accepted }, speculates) {
  at("speculation").hidden = !speculates && !drafted;
  write("drafts", drafted ? share(accepted, drafted) : "–");
  bar("drafts-bar", [[drafted ? accepted / drafted : 0, ""]]);
  table("drafts-rows", drafted
    ? [["kept", number.format(accepted), "a"], ["dropped", number.format(drafted - accepted), ""]]
    : [["No drafts yet", ""]]);
}

function showSlow(slow) {
  at("slow").hidden = !slow.length;
  at("slow-none").hidden = slow.length > 0;
  at("slow").tBodies[0].replaceChildren(...slow.map((reply) => {
    const prompt = number.format(reply.prompt_tokens) + (reply.cached_tokens ? ` (${number.format(reply.cached_tokens)} cached)` : "");
    const row = element("tr");
    row.append(...[`${span(reply.ago_s)} ago`, duration(reply.total_s), duration(reply.queued_s), duration(reply.ttft_s),
      prompt, number.format(reply.reply_tokens), reply.tokens_per_s === null ? "–" : amount(reply.tokens_per_s), reply.reason,
    ].map((text) => element("td", "", text)));
    return row;
  }));
}

function showPlan(data) {
  const lines = [...(data.model ? data.model.layout : []), `plugins: ${data.plugins.join(", ")}`];
  if (at("plan").childElementCount !== lines.length) {
    at("plan").replaceChildren(...lines.map((text) => element("li", "", text)));
  }
}

function show(data) {
  const engine = data.engine, model = data.model;
  seen = new Date();
  write("model", model ? model.id : "");
  write("brief", model ? `${amount(data.tokens_per_s)} tokens/s · ${engine.running} running · ${engine.waiting} waiting` : "");
  setState(data.health.state, data.health.reasons.join("; "));
  showSpeed(data);
  showLoad(engine, data.history);
  showLatency("ttft", data.ttft_s, "requests");
  showLatency("itl", data.itl_s, "tokens");
  showMemory(engine.blocks);
  showRefused(data.since_start);
  showEnded(data.since_start, engine);
  showHits(data.since_start, data.tiers);
  showDrafts(data.since_start.drafts, data.speculates);
  showSlow(data.slow);
  showPlan(data);
  at("send").disabled = !model || !model.chat;
  at("message").placeholder = !model ? "The model is loading" : model.chat ? "Message" : "This model has no chat template";
  if (model) at("length").placeholder = String(model.max_tokens);
  write("footer", `mlxserve ${data.version} · up ${span(data.since_start.seconds)} · counts are since the start`);
  document.title = model ? `${amount(data.tokens_per_s)} tokens/s · ${model.id}` : "mlxserve";
}

// -- asking for them -------------------------------------------------------------------------

function setState(state, problem) {
  write("state", state);
  at("state").dataset.state = state;
  document.body.classList.toggle("stale", state === "unreachable" || state === "locked");
  write("notice", problem);
  at("notice").hidden = !problem;
}

// Nobody is to read an old figure as a present one.
function gone(problem) {
  setState("unreachable", problem);
  for (const id of ["speed", "running", "waiting"]) write(id, "–");
  at("send").disabled = !reply;
  if (seen) write("brief", `as of ${seen.toLocaleTimeString()}`);
  document.title = "unreachable · mlxserve";
}

function lock() {
  locked = true;
  write("asks", key ? "That API key is not valid." : "This server asks for an API key.");
  at("locked").hidden = false;
  setState("locked", "");
}

async function look() {
  if (asking || locked || document.hidden) return;
  asking = true;
  clearTimeout(timer);
  try {
    const answer = await fetch("dashboard/data", { headers: headers(), cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    if (answer.status === 401) lock();
    else if (!answer.ok) gone(await told(answer));
    else show(await answer.json());
  } catch (error) {
    gone("The server does not answer. Trying again.");
    console.error(error);
  } finally {
    asking = false;
    timer = setTimeout(look, PERIOD_MS);
  }
}

async function told(answer) {
  const body = await answer.json().catch(() => null);
  return (body && body.error && body.error.message) || `The server answered ${answer.status}.`;
}

at("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  key = at("secret").value.trim();
  sessionStorage.setItem(KEY, key);
  at("secret").value = "";
  at("locked").hidden = true;
  locked = false;
  look();
});
document.addEventListener("visibilitychange", look);
look();
