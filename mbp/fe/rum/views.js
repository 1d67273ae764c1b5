"use strict";
// The page views that were told of: what is valid, what is counted, and the metrics made of it. Pure; no I/O, no clock.

const SCORED = 20; // cwv_score is the share of good views among so many
const GOOD_MS = 200;
const LONGEST_MS = 60000;
const KEPT = 2000; // rows for readers
const KNOWN = 5000; // view ids, so that no view counts twice

class Refused extends Error {
  /** What was sent is refused: HTTP status, stable code, text. */
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }
}

const text = (pattern, what) => (value) => (typeof value === "string" && pattern.test(value) ? "" : what);
const number = (least, most, whole) => (value) =>
  typeof value === "number" && value >= least && value <= most && (!whole || Number.isInteger(value))
    ? "" : `a ${whole ? "whole " : ""}number from ${least} to ${most}`;

/** Spell an edge as Prometheus 3 stores it: 200.0, not 200. */
const le = (edge) => (Number.isInteger(edge) ? `${edge}.0` : `${edge}`);

class Views {
  /** Count views of `pages` in `env` into buckets at `edges` (ms, rising); all of it is there, at 0, from the start. */
  constructor({pages, env, edges}) {
    this.env = env;
    this.edges = edges;
    this.histograms = new Map(pages.map((page) => [page, {counts: edges.map(() => 0), count: 0, sum: 0}]));
    this.visits = 0;
    this.beacons = 0;
    this.refused = 0;
    this.last = [];
    this.known = new Map();
    this.rows = [];
    this.seq = 0;
    const among = (values) => (value) => (values.includes(value) ? "" : `one of ${values.join(", ")}`);
    this.fields = {
      view: text(/^[A-Za-z0-9-]{8,64}$/, "8 to 64 letters, digits or dashes"),
      page: among(pages),
      env: among([env]),
      trace_id: text(/^(?!0{32})[0-9a-f]{32}$/, "32 hex digits, not all 0"),
      bundle: among(["candidate", "stable"]),
      step: number(0, 63, true),
      agent: text(/^[a-z][ -~]{0,39}$/, "a short text"),
    };
  }

  /** Take in the announcement of a visit; again is no error. Throws Refused. */
  visit(body, at) {
    this.check(body, this.fields);
    this.announce(body, at);
  }

  /** Take in the value of a view, once. Throws Refused. */
  beacon(body, at) {
    this.check(body, {...this.fields, inp_ms: number(0, LONGEST_MS, false)});
    if (this.known.get(body.view) === "told") {
      throw new Refused(409, "view_known", `view ${body.view} was told already`);
    }
    this.announce(body, at);
    this.known.set(body.view, "told");
    this.beacons += 1;
    this.last = [...this.last, body.inp_ms].slice(-SCORED);
    const into = this.histograms.get(body.page);
    into.count += 1;
    into.sum += body.inp_ms;
    const bucket = this.edges.findIndex((edge) => body.inp_ms <= edge);
    if (bucket >= 0) {
      into.counts[bucket] += 1;
    }
    this.keep("beacon", body, at);
  }

  announce(body, at) {
    if (this.known.has(body.view)) {
      return;
    }
    this.known.set(body.view, "announced");
    if (this.known.size > KNOWN) {
      this.known.delete(this.known.keys().next().value);
    }
    this.visits += 1;
    this.keep("visit", body, at);
  }

  keep(kind, body, at) {
    this.seq += 1;
    this.rows.push({seq: this.seq, at, kind, ...body});
    if (this.rows.length > KEPT) {
      this.rows.shift();
    }
  }

  check(body, fields) {
    if (body === null || typeof body !== "object" || Array.isArray(body)) {
      throw new Refused(422, "invalid", "the body is an object");
    }
    const wrong = Object.keys(body).filter((name) => !Object.hasOwn(fields, name)).map((name) => `${name.slice(0, 40)}: unknown`);
    for (const [name, rule] of Object.entries(fields)) {
      const complaint = rule(body[name]);
      if (complaint) {
        wrong.push(`${name}: must be ${complaint}`);
      }
    }
    if (wrong.length) {
      throw new Refused(422, "invalid", wrong.slice(0, 8).join("; "));
    }
  }

  /** Return at most `limit` rows with seq > `after`, oldest first. */
  after(after, limit) {
    const rows = this.rows.filter((row) => row.seq > after).slice(0, limit);
    return {rows, next: rows.length ? rows[rows.length - 1].seq : Math.max(after, 0), newest: this.seq};
  }

  /** Return the share of good views among the last `SCORED`; null until there were so many. */
  score() {
    return this.last.length < SCORED ? null : this.last.filter((value) => value <= GOOD_MS).length / SCORED;
  }

  /** Return the Prometheus text exposition. */
  metrics() {
    const lines = [
      "# HELP web_vitals_inp_ms Interaction to Next Paint of a page view, milliseconds.",
      "# TYPE web_vitals_inp_ms histogram",
    ];
    for (const [page, {counts, count, sum}] of this.histograms) {
      const labels = `env="${this.env}",page="${page}"`;
      let below = 0;
      this.edges.forEach((edge, index) => {
        below += counts[index];
        lines.push(`web_vitals_inp_ms_bucket{${labels},le="${le(edge)}"} ${below}`);
      });
      lines.push(`web_vitals_inp_ms_bucket{${labels},le="+Inf"} ${count}`);
      lines.push(`web_vitals_inp_ms_sum{${labels}} ${sum}`, `web_vitals_inp_ms_count{${labels}} ${count}`);
    }
    const single = (name, kind, help, value) =>
      lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${kind}`, `${name} ${value}`);
    single("rum_visits_total", "counter", "Page views with an interaction that were announced.", this.visits);
    single("rum_beacons_total", "counter", "Page views whose INP arrived.", this.beacons);
    single("rum_beacons_refused_total", "counter", "Visits and beacons that were refused.", this.refused);
    const score = this.score();
    if (score !== null) {
      single("cwv_score", "gauge", `Share of views with INP <= ${GOOD_MS} ms among the last ${SCORED}.`, score);
    }
    return `${lines.join("\n")}\n`;
  }
}

module.exports = {Refused, Views, le};
