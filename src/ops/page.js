"use strict";
(() => {
  const chinese = (navigator.languages || [navigator.language || ""]).find((tag) => /^(zh|en)/i.test(tag))?.toLowerCase().startsWith("zh") || false;
  const words = {
    ready: "就绪", "not ready": "未就绪", healthy: "运行正常", stalled: "停滞", version: "版本", "up for": "已运行",
    "no answer from the connector": "连接器没有应答", "not running in this instance": "本实例未运行此路线",
    "access refused": "访问被拒绝", "no progress for": "无进展已达", yes: "是", no: "否", none: "无",
    Commands: "指令路线", "Purchase returns": "采购退货单变更", "Return outbounds": "退货出库单变更",
    pending: "待处理", received: "已接收", settled: "已完成", state: "状态", paused: "暂停", partitions: "分区", in_doubt: "存疑",
    calls: "在途调用", calls_in_flight: "在途调用", open_intents: "未结意图", outcomes: "结果", breaker: "熔断器", watermark: "水位",
    late_watermark: "补漏水位", lag_ms: "延迟（毫秒）", events: "事件", snapshot: "首次快照", quota: "配额", edition: "版本线", error: "错误",
    last_error: "最近错误", reason: "原因", rows: "行数", windows: "窗口", restored: "已恢复", owned: "持有",
  };
  const say = (text) => (chinese && words[text]) || text;
  const routes = [
    ["commands", "Commands", chinese ? "接收 ▸ 校验 ▸ 日志 ▸ 调用 ▸ 结果 ▸ 结算" : "command ▸ validate ▸ journal ▸ call ▸ outcome ▸ settle"],
    ["purchase_returns", "Purchase returns", chinese ? "窗口 ▸ 读取 ▸ 比较 ▸ 变更 ▸ 发布" : "window ▸ fetch ▸ diff ▸ change ▸ publish"],
    ["return_outbounds", "Return outbounds", chinese ? "窗口 ▸ 读取 ▸ 比较 ▸ 变更 ▸ 发布" : "window ▸ fetch ▸ diff ▸ change ▸ publish"],
  ];
  document.documentElement.lang = chinese ? "zh-CN" : "en";

  // Everything from the connector becomes a text node: nothing in it can become markup.
  const make = (tag, text, name) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (name) node.className = name;
    return node;
  };
  const label = (key) => (chinese && words[key]) || key.replaceAll("_", " ");
  const plain = (value) => {
    if (value === null || value === "") return "–";
    if (value === true) return say("yes");
    if (value === false) return say("no");
    return typeof value === "number" ? value.toLocaleString(chinese ? "zh-CN" : "en") : String(value);
  };
  const show = (value) => {
    if (value === null || typeof value !== "object") return document.createTextNode(plain(value));
    const entries = Array.isArray(value) ? value.slice(0, 100).map((item, at) => [item && (item.id || item.name || item.partition) !== undefined ? "" : String(at), item]) : Object.entries(value);
    if (entries.length === 0) return document.createTextNode(say("none"));
    const flat = (item) => item === null || typeof item !== "object";
    if (entries.every(([, item]) => flat(item)) && Array.isArray(value)) {
      return document.createTextNode(value.slice(0, 100).map(plain).join(", ") + (value.length > 100 ? " …" : ""));
    }
    if (Array.isArray(value) && value.every((item) => !flat(item) && Object.values(item).every(flat))) return rows(value.slice(0, 100));
    const table = make("table");
    for (const [key, item] of entries) {
      const row = table.insertRow();
      row.append(make("th", label(key)));
      row.insertCell().append(show(item));
    }
    return table;
  };
  // A list of like things is a table with one head.
  const rows = (list) => {
    const names = [...new Set(list.flatMap((item) => Object.keys(item)))];
    const table = make("table");
    table.className = "list";
    const head = table.createTHead().insertRow();
    for (const name of names) {
      const cell = make("th", label(name));
      cell.scope = "col";
      head.append(cell);
    }
    const body = table.createTBody();
    for (const item of list) {
      const row = body.insertRow();
      for (const name of names) row.insertCell().append(plain(item[name] ?? null));
    }
    return table;
  };
  const span = (seconds) => {
    const days = Math.floor(seconds / 86400);
    const clock = [seconds / 3600 % 24, seconds / 60 % 60, seconds % 60].map((part) => String(Math.floor(part)).padStart(2, "0")).join(":");
    return days > 0 ? `${days} d ${clock}` : clock;
  };
  const card = (title, hops, value) => {
    const section = make("section");
    section.append(make("h2", say(title)));
    if (hops) section.append(make("p", hops, "hops"));
    section.append(value === undefined ? make("p", say("not running in this instance"), "none") : show(value));
    return section;
  };
  const summary = document.getElementById("summary");
  const problems = document.getElementById("problems");
  const place = document.getElementById("routes");

  const paint = (status) => {
    // Both feeds stand in one section and have a card each.
    const { feeds, ...others } = status.sections || {};
    const sections = { ...others, ...feeds };
    summary.replaceChildren(
      make("strong", say(status.ready ? "ready" : "not ready"), status.ready ? "good" : "bad"), " · ",
      make("strong", say(status.healthy ? "healthy" : "stalled"), status.healthy ? "good" : "bad"),
      ` · ${say("version")} ${status.version} · ${say("up for")} ${span(status.uptime_seconds)}`,
    );
    problems.replaceChildren(
      ...(status.unready || []).map((item) => make("li", `${label(item.part)}: ${item.reason}`)),
      ...(status.stalled || []).map((item) => make("li", `${label(item.loop)}: ${say("no progress for")} ${Math.round(item.silent_ms / 1000)} s`)),
    );
    const named = routes.map(([key]) => key);
    place.replaceChildren(
      ...routes.map(([key, title, hops]) => card(title, hops, sections[key])),
      ...Object.keys(sections).filter((key) => !named.includes(key)).map((key) => card(label(key), "", sections[key])),
    );
  };
  const refresh = async () => {
    try {
      const answer = await fetch("/status", { cache: "no-store", signal: AbortSignal.timeout(5000) });
      if (answer.ok) paint(await answer.json());
      else summary.replaceChildren(make("strong", `${say("access refused")} (${answer.status})`, "bad"));
    } catch {
      summary.replaceChildren(make("strong", say("no answer from the connector"), "bad"));
    }
    setTimeout(refresh, 1000);
  };
  refresh();
})();
