const place = (id) => document.getElementById(id);
const pipelines = [
  ["commands", "Commands"],
  ["purchase_returns", "Purchase returns"],
  ["return_outbounds", "Return outbounds"],
];
let status = null;
let recent = {};
let samples = [];

// How much a counter grew per minute over the last half minute of samples.
const rate = (pick) => {
  const end = samples.at(-1);
  const begin = samples[Math.max(0, samples.length - 16)];
  if (!end || !begin || end.at <= begin.at) return null;
  return Math.max(0, (pick(end) ?? 0) - (pick(begin) ?? 0)) * 60000 / (end.at - begin.at);
};

// ---- pipelines as they flow ----
const flow = (steps) => {
  const list = make("ol", null, "flow");
  list.setAttribute("role", "list");
  for (const [name, figure, unit, kind] of steps) {
    const item = make("li", null, kind);
    item.append(make("b", say(name)), make("span", whole(figure), "figure"), make("span", say(unit), "unit"));
    list.append(item);
  }
  return list;
};
const facts = (pairs) => {
  const list = make("ul", null, "facts");
  for (const [name, value] of pairs.filter(([, value]) => value !== null && value !== undefined)) {
    const item = make("li", `${label(name)} `);
    item.append(make("b", value));
    list.append(item);
  }
  return list;
};
const pill = (text, tone) => make("span", say(text), `pill ${tone}`);

const commandsCard = (pipeline) => {
  const now = pipeline.now ?? {};
  const open = pipeline.circuit !== "closed";
  const results = Object.entries(pipeline.results ?? {}).map(([name, count]) => `${name} ${whole(count)}`).join(" · ");
  return [
    flow([
      ["commands topic", now.consumer_lag_records, "records behind", "topic"],
      ["command", rate((sample) => sample.received), "per minute"],
      ["validate", pipeline.dead_letters, "dead letters"],
      ["journal", now.waiting_for_quota, "wait for quota"],
      ["call", now.calls_in_flight, "on the wire", open ? "stopped" : ""],
      ["outcome", now.unverified, "in doubt", now.unverified ? "stopped" : ""],
      ["settle", now.waiting_for_commit, "wait for a commit"],
      ["results topic", rate((sample) => sample.settled), "per minute", "topic"],
    ]),
    facts([["received", whole(pipeline.received)], ["settled", results || "0"], ["duplicates", whole(pipeline.duplicates)], ["recovered", whole(pipeline.recovered)],
      ["pending", whole(now.pending)], ["open intents", whole(now.open_intents)], ["partitions", (pipeline.partitions ?? []).map((one) => one.partition).join(", ") || "–"]]),
  ];
};
const feedCard = (feed, name) => {
  const lag = feed.lag_ms === null || feed.lag_ms === undefined ? null : feed.lag_ms / 1000;
  const parts = [
    flow([
      ["ERP query", feed.calls, "pages asked", "topic"],
      ["window", feed.windows, "windows"],
      ["fetch", feed.rows, "rows read", ["waiting", "blocked"].includes(feed.state) ? "stopped" : ""],
      ["diff", feed.unchanged, "unchanged"],
      ["change", feed.dead_letters, "dead letters"],
      ["publish", feed.events, "events"],
      ["change topic", rate((sample) => sample.feeds?.[name]?.events), "per minute", "topic"],
    ]),
    facts([["behind now", span(lag)], ["watermark", feed.watermark], ["late pass", feed.late_watermark], ["last window", feed.last_window?.join(" … ")],
      ["clock of the ERP", feed.clock_skew_ms === null || feed.clock_skew_ms === undefined ? null : `${whole(feed.clock_skew_ms)} ms`]]),
  ];
  for (const [what, progress] of [["first read", feed.progress], ["backfill", feed.backfill]]) {
    if (!progress) continue;
    const bar = make("progress");
    bar.max = 100;
    bar.value = progress.percent;
    bar.setAttribute("aria-label", say(what));
    parts.push(make("p", `${say(what)}: ${whole(progress.percent)} % · ${progress.position} · ${say("left")} ${span(progress.remaining_seconds)}`, "note"), bar);
  }
  if (feed.advice) parts.push(make("p", feed.advice, "note"));
  return parts;
};
// The decision that pauses a pipeline, where there is one.
const told = (key) => status?.sections.paused?.[key];
const stateOf = (key, pipeline) => {
  if (!pipeline) return null;
  if (told(key) || pipeline.paused) return ["paused", "warn"];
  if (key === "commands") return pipeline.circuit === "closed" ? ["circuit closed", "good"] : [`circuit ${pipeline.circuit.replace("_", " ")}`, "bad"];
  return [pipeline.state, { live: "good", snapshot: "good", blocked: "bad", waiting: "bad", paused: "warn" }[pipeline.state] || "plain"];
};
const ask = async (key, action) => {
  const question = action === "pause" ? "Pause this pipeline on all instances?" : "Resume this pipeline on all instances?";
  if (!confirm(`${say(question)} ${label(key)}`)) return;
  try {
    const answer = await fetch(`/pipelines/${key}/${action}`, { method: "POST" });
    alertLine(answer.ok ? `${label(key)}: ${say("was told")}` : `${label(key)}: ${say("was not changed")}: ${await answer.text()}`);
  } catch {
    alertLine(say("no answer from the connector; trying again"));
  }
};
const cards = new Map();
const pipelineCard = (key, title) => {
  const section = make("section");
  const head = make("div", null, "head");
  const name = make("h2", say(title));
  name.id = `pipeline-${key}`;
  section.setAttribute("aria-labelledby", name.id);
  const state = make("span");
  const buttons = ["pause", "resume"].map((action) => {
    const button = make("button", say(action === "pause" ? "Pause" : "Resume"));
    button.type = "button";
    button.setAttribute("aria-label", `${button.textContent}: ${say(title)}`);
    button.addEventListener("click", () => ask(key, action));
    return button;
  });
  head.append(name, state, make("span", null, "grow"), ...buttons);
  const body = make("div");
  section.append(head, body);
  place("pipelines").append(section);
  return { state, body, buttons };
};
for (const [key, title] of pipelines) cards.set(key, pipelineCard(key, title));

const paintPipelines = (sections) => {
  for (const [key] of pipelines) {
    const card = cards.get(key);
    const pipeline = key === "commands" ? sections.commands : sections.feeds?.[key];
    const state = stateOf(key, pipeline);
    if (changed(`state ${key}`, state)) card.state.replaceChildren(...(state ? [pill(...state)] : []));
    card.buttons[0].hidden = !pipeline || Boolean(told(key));
    card.buttons[1].hidden = !pipeline || !told(key);
    const parts = !pipeline ? [make("p", say("not running in this instance"), "none")] : key === "commands" ? commandsCard(pipeline) : feedCard(pipeline, key);
    if (changed(`card ${key}`, parts.map((part) => part.outerHTML))) card.body.replaceChildren(...parts);
  }
};

// ---- what needs attention ----
const problemsOf = (status) => {
  const { commands, feeds, reload } = status.sections;
  const found = [];
  for (const item of status.unready ?? []) found.push(`${label(item.part)}: ${item.reason}`);
  for (const item of status.stalled ?? []) found.push(`${label(item.loop)}: ${say("no progress for")} ${span(Math.round(item.heartbeat_age_ms / 1000))}`);
  for (const [name] of pipelines) if (told(name)) found.push(`${label(name)}: ${say("paused")}: ${[told(name).by, told(name).at].filter(Boolean).join(", ")}`);
  if (commands?.paused && !told("commands")) found.push(`${label("commands")}: ${say("paused")}: ${commands.paused}`);
  if (commands?.circuit_reason) found.push(`${label("commands")}: ${say(`circuit ${commands.circuit.replace("_", " ")}`)}: ${commands.circuit_reason}`);
  for (const [name, feed] of Object.entries(feeds ?? {})) if (feed.error) found.push(`${label(name)}: ${feed.error}`);
  for (const [part, reason] of Object.entries(reload?.refused ?? {})) found.push(`${say("reload refused")}: ${part}: ${reason}`);
  return found;
};
const alertLine = (text) => {
  const item = make("li", text);
  place("problems").append(item);
  place("problems-box").hidden = false;
  shown.delete("problems");
};
const paintProblems = () => {
  const problems = problemsOf(status);
  if (!changed("problems", problems)) return;
  place("problems").replaceChildren(...problems.map((text) => make("li", text)));
  place("problems-box").hidden = problems.length === 0;
};
const paintSummary = () => {
  put(place("facts"), `${status.instance} · ${say("version")} ${status.version} · ${say("up for")} ${span(status.uptime_seconds)}`);
  const state = [status.ready ? "ready" : "not ready", status.healthy ? "healthy" : "stalled"];
  if (changed("summary", [...state, "live"])) {
    place("summary").replaceChildren(pill(state[0], status.ready ? "good" : "bad"), " ", pill(state[1], status.healthy ? "good" : "bad"), " ", pill("live", "plain"));
  }
};

// ---- charts ----
const classes = ["lookup", "command", "feed", "late_pass", "backfill"];
const named = { command: "commands", feed: "live feeds" };
const growth = (pick) => samples.slice(1).map((sample, at) => {
  const before = samples[at];
  const minutes = (sample.at - before.at) / 60000;
  return minutes > 0 ? Math.max(0, (pick(sample) ?? 0) - (pick(before) ?? 0)) / minutes : 0;
});
const paintCharts = () => {
  if (samples.length < 2) return place("charts").replaceChildren(make("p", say("no chart yet"), "none"));
  const all = (pick) => samples.map((sample) => pick(sample) ?? 0);
  const charts = [];
  const calls = Object.keys(samples.at(-1).quota ?? {}).filter((call) => samples.some((sample) => Object.values(sample.quota?.[call]?.used ?? {}).some((used) => used > 0)));
  for (const call of calls) {
    const now = samples.at(-1).quota[call];
    const series = classes.map((name, colour) => ({ name: named[name] ?? name, colour, values: all((sample) => sample.quota?.[call]?.used?.[name]) })).filter(({ values }) => values.some((value) => value > 0));
    charts.push(chart(`${say("Quota used")}: ${call}, ${say("calls in the last minute")}`, series, { stacked: true, limit: now.rate + now.burst }));
  }
  if (status?.sections.commands) {
    charts.push(chart(say("Commands per minute"), [{ name: "received", values: growth((sample) => sample.received) }, { name: "settled", values: growth((sample) => sample.settled) }]));
    charts.push(chart(say("Waiting commands"), ["lag", "pending", "in_flight", "unverified"].map((name) => ({ name, values: all((sample) => sample[name]) }))));
  }
  const feeds = Object.keys(samples.at(-1).feeds ?? {});
  if (feeds.length) {
    charts.push(chart(say("Events per minute"), feeds.map((name) => ({ name, values: growth((sample) => sample.feeds?.[name]?.events) }))));
    charts.push(chart(say("Lag of the feeds, seconds"), feeds.map((name) => ({ name, values: all((sample) => (sample.feeds?.[name]?.lag_ms ?? 0) / 1000) }))));
  }
  place("charts").replaceChildren(...charts);
};

// ---- lists ----
const follow = (item) => {
  const button = make("button", item.command_id, "link");
  button.type = "button";
  button.addEventListener("click", () => {
    const form = place("follow");
    form.return_no.value = item.return_no;
    form.command_id.value = item.command_id;
    form.requestSubmit();
    place("follow-head").scrollIntoView();
  });
  return button;
};
const outcome = (item) => {
  const tone = { CREATED: "good", IN_DOUBT: "bad", INVALID: "bad", REJECTED: "warn" }[item.outcome] || "plain";
  const node = make("span");
  node.append(make("strong", item.outcome, tone));
  for (const mark of ["duplicate", "recovered", "resolved"]) if (item[mark]) node.append(` ${say(mark)}`);
  return node;
};
const whatToDo = (item) => {
  const node = make("span");
  const orders = item.candidates ?? [];
  node.append(orders.length ? `${say("candidates in the ERP")}: ${orders.join(", ")}; ${say("then decide")}: ` : `${say("no candidate is known: search the ERP for the marker in the remark")}; ${say("then decide")}: `);
  node.append(make("code", "wdt-connector commands resolve"));
  return node;
};
const paintLists = () => {
  const asked = (status.sections.commands?.unverified_commands ?? []).map((item) => ({ ...item, asked: true }));
  const ended = (recent.results ?? []).filter((item) => item.outcome === "IN_DOUBT");
  if (changed("doubts", [asked, ended])) {
    place("doubts").replaceChildren(table("Commands in doubt", [...asked, ...ended], [
      ["return_no", (item) => item.return_no], ["command_id", follow], ["attempts", (item) => whole(item.attempt ?? item.attempts)], ["since", (item) => clock(item.since ?? item.at)],
      ["what to do", (item) => (item.asked ? say("the ERP is being asked; nothing to do") : whatToDo(item))],
    ]));
  }
  if (changed("results", recent.results)) {
    place("results").replaceChildren(table("Recent results", recent.results, [
      ["at", (item) => clock(item.at)], ["return_no", (item) => item.return_no], ["command_id", follow], ["result", outcome], ["outbound_no", (item) => item.outbound_no],
      ["detail", (item) => [item.violations?.join("; "), item.erp_code ?? null, item.erp_message, inWords(item, "explanation"), item.warning].filter(Boolean).join(" · ")], ["attempts", (item) => whole(item.attempts)], ["took", (item) => `${whole(item.took_ms)} ms`],
    ]));
  }
  if (changed("changes", recent.changes)) {
    const operations = { r: "first time read", c: "new", u: "changed" };
    place("changes").replaceChildren(table("Recent changes", recent.changes, [
      ["at", (item) => clock(item.at)], ["pipeline", (item) => label(item.feed)], ["operation", (item) => say(operations[item.op] ?? item.op)], ["number", (item) => item.number],
      ["return_no", (item) => item.return_no], ["status", (item) => whole(item.status)], ["modified", (item) => clock(item.modified)],
    ]));
  }
  if (changed("dead_letters", recent.dead_letters)) {
    place("dead_letters").replaceChildren(table("Dead letters", recent.dead_letters, [
      ["at", (item) => clock(item.at)], ["pipeline", (item) => label(item.pipeline)], ["reason", (item) => label(item.reason)], ["key", (item) => item.key], ["detail", (item) => inWords(item, "detail")],
      ["place", (item) => (item.offset === undefined ? "–" : `${item.partition}:${item.offset}`)],
    ]));
  }
  if (changed("notices", recent.notices)) place("notices").replaceChildren(table("Notices", recent.notices, [["at", (item) => clock(item.at)], ["text", (item) => item.text]]));
};

// ---- one command ----
place("follow").addEventListener("submit", async (event) => {
  event.preventDefault();
  const query = new URLSearchParams(new FormData(event.target));
  const answer = await fetch(`/commands?${query}`, { cache: "no-store" }).catch(() => null);
  if (!answer?.ok) {
    const text = answer?.status === 404 ? `${say("this instance has not seen this command lately")}; ${say("wdt-connector commands show reads the journal")}` : say("no answer from the connector; trying again");
    return place("way").replaceChildren(make("p", text, "none"));
  }
  const list = make("ol", null, "way");
  for (const step of (await answer.json()).steps) {
    const item = make("li", `${clock(step.at)} · ${say(step.stage)} · `);
    const detail = inWords(step, "detail");
    item.append(make("strong", step.result), detail ? ` · ${detail}` : "");
    list.append(item);
  }
  place("way").replaceChildren(list);
});

// ---- live ----
const paint = () => {
  paintSummary();
  paintProblems();
  paintPipelines(status.sections);
  paintLists();
  if (changed("charted", Object.keys(status.sections))) paintCharts();
  if (document.querySelector("details").open && changed("raw", status)) place("raw").replaceChildren(nested(status));
};
const listen = () => {
  const source = new EventSource("/events");
  source.addEventListener("status", (event) => {
    status = JSON.parse(event.data);
    if (status.recent) recent = status.recent;
    paint();
  });
  source.addEventListener("samples", (event) => {
    const fresh = JSON.parse(event.data);
    // A new connection brings the whole history again.
    samples = fresh.length > 1 ? fresh : samples.concat(fresh).slice(-300);
    paintCharts();
  });
  source.addEventListener("error", () => {
    if (changed("summary", "away")) place("summary").replaceChildren(pill("no connection", "bad"), ` ${say("no answer from the connector; trying again")}`);
    // The browser tries again by itself unless the answer was a refusal.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
  });
};
listen();
