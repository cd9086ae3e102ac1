// -- chat ------------------------------------------------------------------------------------

let messages = [], reply = null;

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    for (const text of lines) {
      const data = text.startsWith("data:") ? text.slice(5).trim() : "";
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
}

function addTurn(name) {
  const log = at("log"), turn = element("div", `turn ${name}`);
  if (!messages.length) log.replaceChildren();
  log.append(turn);
  log.scrollTop = log.scrollHeight;
  return turn;
}

function facts(usage, began, first, reason) {
  const now = performance.now(), tokens = usage ? usage.completion_tokens : 0, found = [];
  if (tokens) found.push(`${tokens} tokens`);
  if (first) found.push(`first after ${duration((first - began) / 1000)}`);
  if (tokens > 1 && now > first) found.push(`${amount(((tokens - 1) * 1000) / (now - first))} tokens/s`);
  const cached = usage && usage.prompt_tokens_details ? usage.prompt_tokens_details.cached_tokens : 0;
  if (cached) found.push(`${share(cached, usage.prompt_tokens)} of the prompt cached`);
  if (reason && reason !== "stop") found.push(reason === "length" ? "cut off at max_tokens" : reason);
  return found.join(" · ");
}

function asked(talk) {
  const system = at("system").value.trim(), longest = Number(at("length").value);
  return {
    messages: [...(system ? [{ role: "system", content: system }] : []), ...talk],
    temperature: Number(at("heat").value), stream: true, stream_options: { include_usage: true },
    ...(longest > 0 ? { max_tokens: Math.round(longest) } : {}),
  };
}

// Renders once a frame at most, however many pieces come: a reply is parsed as a whole each time.
function renderer(said) {
  const log = at("log");
  let due = 0, latest = "";
  const now = () => {
    cancelAnimationFrame(due);
    due = 0;
    const low = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    said.replaceChildren(rendered(latest));
    if (low) log.scrollTop = log.scrollHeight;
  };
  return { later(text) { latest = text; due = due || requestAnimationFrame(now); }, now };
}

async function stream(talk, turn, signal) {
  const thought = element("div", "thought"), said = element("div", "said"), log = at("log");
  const paper = renderer(said);
  turn.append(thought, said);
  const began = performance.now();
  let first = 0, usage = null, reason = "", text = "";
  const answer = await fetch("v1/chat/completions", {
    method: "POST", signal, headers: { "Content-Type": "application/json", ...headers() },
    body: JSON.stringify(asked(talk)),
  });
  if (answer.status === 401) lock();
  if (answer.status === 404) throw new Error("No plugin of this server answers chats.");
  if (!answer.ok) throw new Error(await told(answer));
  try {
    for await (const event of events(answer.body)) {
      if (event.error) throw new Error(event.error.message);
      const choice = (event.choices || [])[0], delta = (choice && choice.delta) || {};
      const low = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
      usage = event.usage || usage;
      reason = (choice && choice.finish_reason) || reason;
      if (!first && (delta.content || delta.reasoning_content)) first = performance.now();
      if (delta.reasoning_content) thought.append(delta.reasoning_content);
      if (delta.content) { text += delta.content; paper.later(text); }
      if (low) log.scrollTop = log.scrollHeight;
    }
  } finally {
    paper.now();
    if (text) talk.push({ role: "assistant", content: text });
  }
  turn.append(element("div", "facts", facts(usage, began, first, reason)));
}

async function ask(text) {
  addTurn("user").textContent = text;
  messages.push({ role: "user", content: text });
  const turn = addTurn("model"), mine = new AbortController(), talk = messages;
  reply = mine;
  turn.setAttribute("aria-busy", "true");
  write("send", "Stop");
  try {
    await stream(talk, turn, mine.signal);
  } catch (error) {
    turn.append(mine.signal.aborted ? element("div", "facts", "stopped") : element("div", "wrong", error.message));
    if (talk.at(-1).role === "user") talk.pop();
  } finally {
    turn.removeAttribute("aria-busy");
    at("log").scrollTop = at("log").scrollHeight;
    if (reply === mine) { reply = null; write("send", "Send"); }
  }
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("message").value.trim();
  if (reply || !text || at("send").disabled) return;
  at("message").value = "";
  ask(text);
});
at("send").addEventListener("click", (event) => {
  if (reply) { event.preventDefault(); reply.abort(); }
});
at("message").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  at("ask").requestSubmit(at("send"));
});
at("clear").addEventListener("click", () => {
  if (reply) reply.abort();
  messages = [];
  at("log").replaceChildren(element("p", "hint", "Ask something."));
  at("message").focus();
});
