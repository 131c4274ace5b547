// The status page in a real headless Chromium: against the demo for what lives, against made-up answers for every state.
//
// Needs the binary (WDT_BIN, default target/debug/wdt-connector) and a Chromium (CHROMIUM, default /usr/bin/chromium).
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import { createServer } from "node:http";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import axe from "axe-core";
import { chromium } from "playwright-core";
import { HOSTILE, calm, samples, troubled } from "./states.mjs";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const binary = process.env.WDT_BIN ?? here("../../target/debug/wdt-connector");
// A loaded machine, not a promise.
const PATIENCE = 90_000;
let demo;
let address;
let browser;
let canned;

before(async () => {
  mkdirSync(here("shots"), { recursive: true });
  demo = spawn(binary, ["demo", "--for", "15m", "--commands", "60", "--seed", "7"], { stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  address = await new Promise((resolve, reject) => {
    const read = (chunk) => {
      said += chunk;
      const found = /status page: (http:\/\/\S+)/.exec(said);
      if (found) resolve(found[1]);
    };
    demo.stdout.on("data", read);
    demo.stderr.on("data", read);
    demo.on("exit", (code) => reject(new Error(`the demo ended with ${code}: ${said}`)));
  });
  demo.removeAllListeners("exit");
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"] });
  canned = await cannedServer();
});
after(async () => {
  await browser?.close();
  canned?.close();
  demo?.kill("SIGKILL");
});

// The same document under the same policy, with answers of our own.
const cannedServer = async () => {
  const answer = await fetch(address);
  const [policy, document] = [answer.headers.get("content-security-policy"), await answer.text()];
  const server = createServer((request, response) => {
    if (server.token && request.headers.authorization !== `Basic ${Buffer.from(`me:${server.token}`).toString("base64")}`) {
      return response.writeHead(401, { "www-authenticate": 'Basic realm="wdt-connector", charset="UTF-8"' }).end();
    }
    if (request.url === "/") return response.writeHead(200, { "content-type": "text/html; charset=utf-8", "content-security-policy": policy }).end(document);
    if (request.url === "/events") {
      response.writeHead(200, { "content-type": "text/event-stream" });
      server.streams.push(response);
      return server.say(response);
    }
    response.writeHead(404).end();
  });
  server.streams = [];
  server.state = troubled;
  server.say = (response) => response.write(`retry: 200\nevent: samples\ndata: ${JSON.stringify(samples)}\n\nevent: status\ndata: ${JSON.stringify(server.state)}\n\n`);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  server.url = `http://127.0.0.1:${server.address().port}/`;
  return server;
};

// A page whose console must stay silent.
const open = async (t, url, options = {}) => {
  const context = await browser.newContext({ locale: "en-US", viewport: { width: 1280, height: 900 }, ...options });
  const page = await context.newPage();
  const complaints = [];
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.setDefaultTimeout(PATIENCE);
  t.after(() => context.close());
  await page.goto(url, { waitUntil: "domcontentloaded" });
  return { page, complaints };
};
const shot = (page, name) => page.screenshot({ path: here(`shots/${name}.png`), fullPage: true });
const accessible = async (page) => {
  await page.evaluate(axe.source);
  const found = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  assert.deepEqual(found.violations.map(({ id, nodes }) => [id, nodes.slice(0, 3).map(({ html }) => html)]), []);
};
const figure = (page, step) => page.locator(`section[aria-labelledby=pipeline-commands] .flow li:has(b:text-is("${step}")) .figure`);

test("the demo lives on the page", async (t) => {
  const { page, complaints } = await open(t, address);
  assert.equal(await page.getAttribute("html", "lang"), "en");
  await page.getByText("ready", { exact: true }).waitFor();
  await page.locator("#results tbody tr").first().waitFor();
  await page.locator("#changes tbody tr").first().waitFor();
  await page.locator("#charts svg").first().waitFor();
  // Figures move without a reload.
  const received = page.locator("section[aria-labelledby=pipeline-commands] .facts");
  const first = await received.textContent();
  await page.waitForFunction(([before]) => document.querySelector("section[aria-labelledby=pipeline-commands] .facts").textContent !== before, [first]);
  assert.ok((await page.locator("#charts svg").count()) >= 3);
  assert.match(await page.locator("#charts svg").first().getAttribute("aria-label"), /\d/);
  await shot(page, "demo-en");
  await accessible(page);
  assert.deepEqual(complaints, []);
});

test("a command is followed from its row, by keyboard", async (t) => {
  const { page, complaints } = await open(t, address);
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.className), "skip");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  const row = page.locator("#results tbody tr", { hasText: "CREATED" }).first();
  await row.waitFor();
  // The list moves on while one looks: the pair is read and typed.
  const cells = await row.locator("td").allTextContents();
  await page.locator("input[name=return_no]").focus();
  await page.keyboard.type(cells[1]);
  await page.keyboard.press("Tab");
  await page.keyboard.type(cells[2]);
  await page.keyboard.press("Enter");
  await page.locator("#way li", { hasText: "settle" }).first().waitFor();
  const way = await page.locator("#way li").allTextContents();
  for (const stage of ["validate", "journal", "call", "settle"]) assert.ok(way.some((step) => step.includes(stage)), `${stage} is not in ${way}`);
  await page.locator("input[name=command_id]").fill("never sent");
  await page.getByRole("button", { name: "Show" }).click();
  await page.getByText("has not seen this command lately").waitFor();
  // The browser itself notes the 404.
  assert.deepEqual(complaints.filter((text) => !text.includes("404")), []);
});

test("a pipeline is paused and resumed from the page, after a question", async (t) => {
  const { page, complaints } = await open(t, address);
  const asked = [];
  page.on("dialog", (dialog) => (asked.push(dialog.message()), dialog.accept()));
  await page.getByRole("button", { name: "Pause: Purchase returns" }).click();
  await page.locator("#notices td", { hasText: "purchase_returns was told to be paused" }).waitFor();
  await page.locator("#problems li", { hasText: "purchase returns: paused: listener of" }).waitFor();
  await page.getByRole("button", { name: "Resume: Purchase returns" }).waitFor();
  assert.equal(asked.length, 1);
  assert.equal((await fetch(`${address}pipelines/purchase_returns/resume`, { method: "POST", headers: { origin: "http://evil.example" } })).status, 403);
  assert.equal((await fetch(`${address}pipelines/purchase_returns/resume`, { method: "POST" })).status, 200);
  await page.locator("#notices td", { hasText: "purchase_returns was told to be running" }).waitFor();
  await page.getByRole("button", { name: "Pause: Purchase returns" }).waitFor();
  assert.deepEqual(complaints, []);
});

test("every state is shown, and nothing of it becomes markup", async (t) => {
  canned.state = troubled;
  const { page, complaints } = await open(t, canned.url);
  for (const text of ["not ready", "stalled", "circuit open", "waiting", "snapshot"]) await page.locator(".pill", { hasText: text }).first().waitFor();
  const problems = await page.locator("#problems li").allTextContents();
  for (const text of ["partitions [0, 1, 2] are being restored", "no progress for 00:11:40", HOSTILE, "could not be reached", "secret:salt"]) {
    assert.ok(problems.some((problem) => problem.includes(text)), `${text} is not in ${problems}`);
  }
  const doubts = await page.locator("#doubts tbody tr").allTextContents();
  assert.equal(doubts.length, 2);
  assert.match(doubts[0], /TH9.*nothing to do/);
  assert.match(doubts[1], /CK7, CK8; then decide: wdt-connector commands resolve/);
  const letters = await page.locator("#dead_letters tbody tr").allTextContents();
  assert.match(letters[0], /undecodable.*2:17/);
  assert.match(letters[1], /why it is in doubt/);
  assert.match((await page.locator("#results tbody tr").allTextContents())[0], /several orders carry the marker/);
  assert.equal(await figure(page, "commands topic").textContent(), "4,321");
  assert.equal(await page.locator("progress").evaluate((bar) => bar.value), 37.5);
  assert.equal(await page.locator("#charts figure").count(), 6);
  assert.equal(await page.evaluate(() => window.broken), undefined);
  assert.equal(await page.locator("main img, main script, header img").count(), 0);
  await page.locator("summary").click();
  for (const stream of canned.streams.splice(0)) stream.destroy();
  // The raw figures appear with the next status, which a lost connection brings again by itself.
  await page.locator("#raw table").first().waitFor();
  await shot(page, "troubled-en");
  await accessible(page);
  assert.deepEqual(complaints.filter((text) => !/ERR_INCOMPLETE_CHUNKED_ENCODING|net::ERR/.test(text)), []);
});

test("a lost connection is said, and found again", async (t) => {
  canned.state = calm;
  const { page } = await open(t, canned.url);
  await page.getByText("live", { exact: true }).first().waitFor();
  assert.equal(await page.locator("#problems-box").isVisible(), false);
  const say = canned.say;
  canned.say = (response) => response.destroy();
  for (const stream of canned.streams.splice(0)) stream.destroy();
  await page.getByText("no connection").waitFor();
  canned.say = say;
  await page.locator("#summary .pill", { hasText: "live" }).waitFor();
});

test("with a token the browser asks once, and the live updates come too", async (t) => {
  canned.state = calm;
  canned.token = "hush";
  t.after(() => (canned.token = null));
  const { page } = await open(t, canned.url, { httpCredentials: { username: "me", password: "hush" } });
  await page.locator("#summary .pill", { hasText: "live" }).waitFor();
  await page.locator("#charts svg").first().waitFor();
});

test("what did not change stays as it is, so that focus and selection do", async (t) => {
  canned.state = calm;
  const { page } = await open(t, canned.url);
  await page.locator("#results tbody tr").first().waitFor();
  await page.locator("#results tbody tr button").first().focus();
  canned.state = { ...calm, uptime_seconds: 66 };
  for (const stream of canned.streams) canned.say(stream);
  await page.waitForFunction(() => document.getElementById("facts").textContent.includes("66"));
  assert.ok(await page.evaluate(() => document.querySelector("#results tbody tr button") === document.activeElement));
});

test("in Chinese for those who read it, dark for those who like it", async (t) => {
  canned.state = troubled;
  const { page, complaints } = await open(t, canned.url, { locale: "zh-CN", colorScheme: "dark" });
  assert.equal(await page.getAttribute("html", "lang"), "zh-CN");
  for (const name of ["指令管道", "采购退货单变更", "退货出库单变更", "存疑指令", "死信", "最近十分钟", "最近结果"]) await page.getByRole("heading", { name, exact: true }).waitFor();
  await page.locator(".pill", { hasText: "熔断器断开" }).waitFor();
  await page.locator("#results td", { hasText: "多张出库单带有标记" }).waitFor();
  assert.equal(await page.locator("#results td", { hasText: "several orders" }).count(), 0);
  await page.locator("#dead_letters td", { hasText: "存疑的原因" }).waitFor();
  assert.ok(!/[a-z]{4,}/.test((await page.locator("h2, button, label").allTextContents()).join(" ").replaceAll(/c-\d+/g, "")), "an English word is left");
  await page.locator("#charts svg").first().waitFor();
  await shot(page, "troubled-zh-dark");
  await accessible(page);
  assert.deepEqual(complaints, []);
});

for (const locale of ["en-US", "zh-CN"]) {
  test(`readable on a phone, ${locale}`, async (t) => {
    canned.state = troubled;
    const { page, complaints } = await open(t, canned.url, { locale, viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true });
    await page.locator("#charts svg").first().waitFor();
    assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= 360, "it has to be scrolled sideways");
    const small = await page.evaluate(() => [...document.querySelectorAll("main *")].filter((node) => node.childElementCount === 0 && node.textContent.trim() && parseFloat(getComputedStyle(node).fontSize) < 11).length);
    assert.equal(small, 0, "letters too small to read");
    await shot(page, `phone-${locale}`);
    await accessible(page);
    assert.deepEqual(complaints, []);
  });
}
