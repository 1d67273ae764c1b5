"use strict";
// The collector over HTTP, the script in the page, and the publisher.

const assert = require("node:assert/strict");
const fs = require("node:fs");
const net = require("node:net");
const os = require("node:os");
const path = require("node:path");
const test = require("node:test");
const vm = require("node:vm");
const {build, options} = require("../../../mbp/fe/rum/server.js");
const {publish, samples} = require("../../../mbp/fe/rum/collector_publish.js");
const {Views} = require("../../../mbp/fe/rum/views.js");

const RUM = path.join(__dirname, "../../../mbp/fe/rum");
const said = (view, more = {}) => ({
  view, page: "/", env: "local", trace_id: "0af7651916cd43dd8448eb211c80319c", bundle: "stable", step: 3,
  agent: "chromium 156", ...more,
});

async function serving(work) {
  const views = new Views({pages: ["/"], env: "local", edges: [200]});
  const server = build(views, () => 0);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${server.address().port}`;
  const post = async (route, body, type = "text/plain;charset=UTF-8") => {
    const text = typeof body === "string" || body instanceof Uint8Array ? body : JSON.stringify(body);
    const answer = await fetch(url + route, {method: "POST", body: text, headers: {"Content-Type": type}});
    const told = await answer.text();
    return [answer.status, told ? JSON.parse(told).error : null];
  };
  try {
    await work({url, post, views});
  } finally {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
}

test("a beacon as the browser sends it is taken", () => serving(async ({url, post}) => {
  assert.deepEqual(await post("/visit", said("view-0001")), [204, null]);
  assert.deepEqual(await post("/beacon", said("view-0001", {inp_ms: 144}), "application/json"), [204, null]);
  const {rows} = await (await fetch(`${url}/views?after=1`)).json();
  assert.deepEqual(rows, [{seq: 2, at: "1970-01-01T00:00:00.000Z", kind: "beacon", ...said("view-0001", {inp_ms: 144})}]);
}));

test("what every service answers", () => serving(async ({url}) => {
  assert.deepEqual(await (await fetch(`${url}/healthz`)).json(), {status: "ok", service: "rum"});
  assert.equal((await (await fetch(`${url}/identity`)).json()).service, "rum");
  assert.match((await fetch(`${url}/metrics`)).headers.get("content-type"), /^text\/plain; version=0.0.4/);
  assert.equal(await (await fetch(`${url}/collector.js`)).text(), fs.readFileSync(`${RUM}/collector.js`, "utf-8"));
}));

test("bad input is a clear 4xx, is counted, and loses nothing", () => serving(async ({url, post, views}) => {
  assert.deepEqual(await post("/beacon", "{"), [400, "malformed"]);
  assert.deepEqual(await post("/beacon", Uint8Array.of(0x22, 0xff, 0x22)), [400, "malformed"]);
  assert.deepEqual(await post("/beacon", "{}", "text/html"), [415, "unsupported_type"]);
  assert.deepEqual(await post("/beacon", "x".repeat(65537)), [413, "body_too_large"]);
  assert.deepEqual(await post("/beacon", {}), [422, "invalid"]);
  assert.deepEqual(await post("/nowhere", {}), [404, "not_found"]);
  assert.equal((await fetch(`${url}/beacon`)).status, 405);
  assert.equal((await fetch(`${url}/views?after=-1`)).status, 422);
  assert.equal((await fetch(`${url}/constructor`)).status, 404);
  assert.equal((await fetch(`${url}//`)).status, 404);
  assert.equal((await fetch(`${url}//elsewhere/metrics`)).status, 404);
  assert.deepEqual([views.refused, views.beacons], [5, 0]);
  assert.deepEqual(await post("/beacon", said("view-0001", {inp_ms: 1})), [204, null]);
}));

test("a body without an announced length is cut off at the limit", () => serving(async ({url, views}) => {
  const {port} = new URL(url);
  const answer = await new Promise((resolve, reject) => {
    const socket = net.connect(port, "127.0.0.1");
    let got = "";
    socket.on("data", (part) => { got += part; socket.end(); });
    socket.on("close", () => resolve(got));
    socket.on("error", reject);
    const part = "y".repeat(40000);
    const chunk = `${part.length.toString(16)}\r\n${part}\r\n`;
    socket.write(`POST /beacon HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n${chunk}${chunk}`);
  });
  assert.match(answer, /^HTTP\/1.1 413 /);
  assert.equal(views.refused, 1);
}));

test("options are checked", () => {
  assert.deepEqual(options([]), {port: 9314, env: "local", pages: ["/"]});
  assert.deepEqual(options(["--port", "80", "--env", "stage", "--page", "/", "--page", "/a"]), {port: 80, env: "stage", pages: ["/", "/a"]});
  for (const bad of [["--port", "0"], ["--port", "x"], ["--env", "A b"], ["--page", "a\"b"], ["--what"]]) {
    assert.throws(() => options(bad));
  }
});

function page() {
  const sent = [];
  const listeners = {};
  const listen = (name, work) => { listeners[name] = work; };
  const world = {
    navigator: {
      userAgent: "Mozilla/5.0 (X11) Chrome/156.0.0.0 Safari/537.36",
      sendBeacon: (url, body) => { sent.push([url, JSON.parse(body)]); return true; },
    },
    document: {visibilityState: "visible", addEventListener: listen},
    addEventListener: listen,
    webVitals: {onINP: (callback, how) => { world.report = callback; world.how = how; }},
  };
  world.window = world;
  const {agent, ...ids} = said("view-0001");
  world.mbpRum = {url: "http://rum", ...ids};
  vm.runInNewContext(fs.readFileSync(`${RUM}/collector.js`, "utf-8"), world);
  return {world, listeners, sent};
}

test("in the page: a view without interaction sends nothing", () => {
  const {world, listeners, sent} = page();
  world.document.visibilityState = "hidden";
  listeners.visibilitychange();
  listeners.pagehide();
  assert.equal(JSON.stringify([sent, world.how]), '[[],{"reportAllChanges":true}]');
});

test("in the page: announced at the first value, told once with the last value when hidden", () => {
  const {world, listeners, sent} = page();
  world.report({value: 136});
  world.report({value: 144.4});
  listeners.visibilitychange();
  world.document.visibilityState = "hidden";
  listeners.visibilitychange();
  listeners.pagehide();
  assert.deepEqual(sent, [
    ["http://rum/visit", said("view-0001")],
    ["http://rum/beacon", said("view-0001", {inp_ms: 144})],
  ]);
});

test("the publisher writes a whole snapshot, or nothing", () => serving(async ({url, post}) => {
  await post("/beacon", said("view-0001", {inp_ms: 144}));
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "rum-"));
  const out = path.join(folder, "inp.json");
  try {
    await publish(url, out, () => 0);
    const snapshot = JSON.parse(fs.readFileSync(out, "utf-8"));
    assert.deepEqual([snapshot.taken_at, snapshot.url, snapshot.identity.service], ["1970-01-01T00:00:00.000Z", url, "rum"]);
    assert.deepEqual(snapshot.samples[0], {name: "web_vitals_inp_ms_bucket", labels: {env: "local", page: "/", le: "200.0"}, value: 1});
    await assert.rejects(publish(`${url}/nowhere`, out));
    assert.deepEqual(fs.readdirSync(folder), ["inp.json"]);
    assert.throws(() => samples("what is this"));
  } finally {
    fs.rmSync(folder, {recursive: true});
  }
}));
