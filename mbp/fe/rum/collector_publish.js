"use strict";
// `node collector_publish.js --url http://127.0.0.1:9314 --out FILE`: write what the collector counts to a JSON file.
//
// FILE is replaced whole or not at all: {"taken_at", "url", "identity", "samples": [{"name", "labels", "value"}]}.
// Exit 0: written. 1: the collector does not answer, or FILE cannot be written. 2: wrong options.

const fs = require("node:fs");
const {parseArgs} = require("node:util");

const WAIT_MS = 5000;
const SAMPLE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"/g;

/** Return the samples of a Prometheus text exposition; throws on a line that is none. */
function samples(text) {
  return text.split("\n").filter((line) => line && !line.startsWith("#")).map((line) => {
    const found = SAMPLE.exec(line);
    const value = found ? Number(found[3]) : NaN;
    if (!Number.isFinite(value)) {
      throw new Error(`not a sample: ${line.slice(0, 80)}`);
    }
    const labels = Object.fromEntries([...(found[2] ?? "").matchAll(LABEL)].map(([, name, said]) => [name, said]));
    return {name: found[1], labels, value};
  });
}

async function get(url) {
  const answer = await fetch(url, {signal: AbortSignal.timeout(WAIT_MS), redirect: "error"});
  if (!answer.ok) {
    throw new Error(`GET ${url}: ${answer.status}`);
  }
  return answer.text();
}

/** Take the snapshot and write it. */
async function publish(url, out, wall = Date.now) {
  const identity = JSON.parse(await get(`${url}/identity`));
  const found = samples(await get(`${url}/metrics`));
  const snapshot = {taken_at: new Date(wall()).toISOString(), url, identity, samples: found};
  const draft = `${out}.${process.pid}.new`;
  fs.writeFileSync(draft, `${JSON.stringify(snapshot, null, 2)}\n`);
  fs.renameSync(draft, out);
}

async function main(argv) {
  let values;
  try {
    ({values} = parseArgs({args: argv, options: {url: {type: "string"}, out: {type: "string"}}}));
    if (!values.url || !values.out) {
      throw new Error("--url and --out are required");
    }
  } catch (error) {
    console.error(`collector_publish: ${error.message}`);
    return 2;
  }
  try {
    await publish(values.url.replace(/\/$/, ""), values.out);
    return 0;
  } catch (error) {
    console.error(`collector_publish: ${error.message}${error.cause ? ` (${error.cause.message})` : ""}`);
    return 1;
  }
}

module.exports = {publish, samples};

if (require.main === module) {
  main(process.argv.slice(2)).then((code) => { process.exitCode = code; });
}
