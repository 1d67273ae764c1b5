"use strict";
// What a view may say, what is counted, and the exposition.

const assert = require("node:assert/strict");
const test = require("node:test");
const {Views} = require("../../../mbp/fe/rum/views.js");

const AT = "2026-01-01T00:00:00.000Z";
const said = (view, more = {}) => ({
  view, page: "/", env: "local", trace_id: "0af7651916cd43dd8448eb211c80319c", bundle: "candidate", step: 0,
  agent: "chromium 156", ...more,
});
const fresh = () => new Views({pages: ["/"], env: "local", edges: [100, 200, 500]});
const named = (views, name) => views.metrics().split("\n").filter((line) => line.startsWith(name));
const refusal = (work) => { try { work(); } catch (error) { return [error.status, error.code, error.message]; } return null; };

test("every series is there at 0 from the start, with le as Prometheus 3 spells it, and no score", () => {
  assert.equal(fresh().metrics(), `# HELP web_vitals_inp_ms Interaction to Next Paint of a page view, milliseconds.
# TYPE web_vitals_inp_ms histogram
web_vitals_inp_ms_bucket{env="local",page="/",le="100.0"} 0
web_vitals_inp_ms_bucket{env="local",page="/",le="200.0"} 0
web_vitals_inp_ms_bucket{env="local",page="/",le="500.0"} 0
web_vitals_inp_ms_bucket{env="local",page="/",le="+Inf"} 0
web_vitals_inp_ms_sum{env="local",page="/"} 0
web_vitals_inp_ms_count{env="local",page="/"} 0
# HELP rum_visits_total Page views with an interaction that were announced.
# TYPE rum_visits_total counter
rum_visits_total 0
# HELP rum_beacons_total Page views whose INP arrived.
# TYPE rum_beacons_total counter
rum_beacons_total 0
# HELP rum_beacons_refused_total Visits and beacons that were refused.
# TYPE rum_beacons_refused_total counter
rum_beacons_refused_total 0
`);
});

test("an edge belongs to its own bucket, and what is beyond the last counts in +Inf alone", () => {
  const views = fresh();
  [100, 101, 200, 500.5].forEach((inp_ms, n) => views.beacon(said(`view-000${n}`, {inp_ms}), AT));
  assert.deepEqual(named(views, "web_vitals_inp_ms_bucket").map((line) => line.split(" ")[1]), ["1", "3", "3", "4"]);
  assert.deepEqual(named(views, "web_vitals_inp_ms_sum"), ['web_vitals_inp_ms_sum{env="local",page="/"} 901.5']);
});

test("a view is announced and told once; in either order it is one visit", () => {
  const views = fresh();
  views.visit(said("view-0001"), AT);
  views.visit(said("view-0001"), AT);
  views.beacon(said("view-0001", {inp_ms: 144}), AT);
  views.beacon(said("view-0002", {inp_ms: 152}), AT);
  views.visit(said("view-0002"), AT);
  assert.deepEqual(refusal(() => views.beacon(said("view-0001", {inp_ms: 1}), AT)).slice(0, 2), [409, "view_known"]);
  assert.deepEqual([views.visits, views.beacons], [2, 2]);
  assert.deepEqual(views.after(1, 10), {
    rows: [
      {seq: 2, at: AT, kind: "beacon", ...said("view-0001", {inp_ms: 144})},
      {seq: 3, at: AT, kind: "visit", ...said("view-0002", {inp_ms: 152})},
      {seq: 4, at: AT, kind: "beacon", ...said("view-0002", {inp_ms: 152})},
    ],
    next: 4, newest: 4,
  });
  assert.deepEqual(views.after(4, 10), {rows: [], next: 4, newest: 4});
});

test("the score is the share of good views among the last twenty, and absent before", () => {
  const views = fresh();
  for (let n = 0; n < 19; n += 1) {
    views.beacon(said(`view-${1000 + n}`, {inp_ms: 200}), AT);
  }
  assert.equal(views.score(), null);
  views.beacon(said("view-1019", {inp_ms: 201}), AT);
  assert.deepEqual([views.score(), named(views, "cwv_score")], [0.95, ["cwv_score 0.95"]]);
  for (let n = 20; n < 40; n += 1) {
    views.beacon(said(`view-${1000 + n}`, {inp_ms: 208}), AT);
  }
  assert.equal(views.score(), 0);
});

for (const [what, body] of [
  ["a list", []], ["null", null], ["a text", "x"],
  ["another page", said("view-0001", {inp_ms: 1, page: "/other"})],
  ["another env", said("view-0001", {inp_ms: 1, env: "prod"})],
  ["an unknown field", said("view-0001", {inp_ms: 1, user: "someone"})],
  ["a prototype's name", said("view-0001", {inp_ms: 1, constructor: 1})],
  ["no value", said("view-0001")],
  ["a negative value", said("view-0001", {inp_ms: -1})],
  ["a value beyond a minute", said("view-0001", {inp_ms: 60001})],
  ["a value as text", said("view-0001", {inp_ms: "12"})],
  ["a value that is no number", said("view-0001", {inp_ms: NaN})],
  ["a short view", said("v", {inp_ms: 1})],
  ["a trace id of zeros", said("view-0001", {inp_ms: 1, trace_id: "0".repeat(32)})],
  ["an unknown bundle", said("view-0001", {inp_ms: 1, bundle: "third"})],
  ["half a step", said("view-0001", {inp_ms: 1, step: 0.5})],
  ["a long agent", said("view-0001", {inp_ms: 1, agent: "x".repeat(41)})],
]) {
  test(`${what} is refused, and nothing is counted`, () => {
    const views = fresh();
    assert.deepEqual(refusal(() => views.beacon(body, AT)).slice(0, 2), [422, "invalid"]);
    assert.deepEqual([views.visits, views.beacons, views.after(0, 10).rows], [0, 0, []]);
  });
}

test("memory is bounded: rows and known views are let go, counts are not", () => {
  const views = fresh();
  for (let n = 0; n < 6000; n += 1) {
    views.beacon(said(`view-${10000 + n}`, {inp_ms: 100}), AT);
  }
  assert.deepEqual([views.rows.length, views.known.size, views.beacons, views.after(0, 1).rows[0].seq], [2000, 5000, 6000, 10001]);
});
