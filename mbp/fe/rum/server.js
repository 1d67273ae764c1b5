"use strict";
// The RUM collector: `node server.js [--port 9314] [--env local] [--page /]...`. Needs nothing but Node.

const fs = require("node:fs");
const http = require("node:http");
const net = require("node:net");
const path = require("node:path");
const {parseArgs} = require("node:util");
const {Refused, Views} = require("./views.js");

// Another address than the loopback is for a container only: see listen_address in mbp/_service.py.
const HOST = process.env.MBP_LISTEN ?? "127.0.0.1";
const BODY_LIMIT = 64 * 1024; // bytes
const BODY_WAIT_MS = 10000;
const TYPES = ["application/json", "text/plain"]; // sendBeacon of a string is text/plain, and so needs no preflight
const SCRIPTS = {"/collector.js": "collector.js", "/web-vitals.iife.js": "vendor/web-vitals.iife.js"};

/** Read the options; throws with a text for people. */
function options(argv) {
  const {values} = parseArgs({
    args: argv,
    options: {
      port: {type: "string", default: "9314"},
      env: {type: "string", default: "local"},
      page: {type: "string", multiple: true, default: ["/"]},
    },
  });
  const port = Number(values.port);
  if (!/^\d{1,5}$/.test(values.port) || port < 1 || port > 65535) {
    throw new Error(`--port: ${values.port} is not a port number (1 to 65535)`);
  }
  if (!/^[a-z][a-z0-9-]{0,39}$/.test(values.env)) {
    throw new Error(`--env: ${values.env} is not a short lower-case word`);
  }
  const odd = values.page.find((page) => !/^\/[A-Za-z0-9/_-]{0,79}$/.test(page));
  if (odd !== undefined || values.page.length > 20) {
    throw new Error(`--page: at most 20 paths of letters, digits, / _ -; not ${odd ?? values.page.length}`);
  }
  return {port, env: values.env, pages: [...new Set(values.page)]};
}

/** Return the whole body. Throws Refused when it is too large or too slow. */
function whole(request) {
  return new Promise((resolve, reject) => {
    const tooLarge = () => reject(new Refused(413, "body_too_large", `a body has at most ${BODY_LIMIT} bytes`));
    if (Number(request.headers["content-length"] ?? 0) > BODY_LIMIT) {
      tooLarge();
      return;
    }
    const parts = [];
    let size = 0;
    const late = setTimeout(() => reject(new Refused(408, "body_too_slow", "the body took too long")), BODY_WAIT_MS);
    request.on("data", (part) => {
      size += part.length;
      if (size > BODY_LIMIT) {
        clearTimeout(late);
        tooLarge();
      } else {
        parts.push(part);
      }
    });
    request.on("end", () => { clearTimeout(late); resolve(Buffer.concat(parts)); });
    request.on("close", () => { clearTimeout(late); reject(new Refused(400, "malformed", "the body was cut short")); });
  });
}

/** Return the JSON of a body. Throws Refused. */
async function posted(request) {
  const type = (request.headers["content-type"] ?? "").split(";")[0].trim().toLowerCase();
  if (!TYPES.includes(type)) {
    throw new Refused(415, "unsupported_type", `the body is ${TYPES.join(" or ")}`);
  }
  const body = await whole(request);
  try {
    return JSON.parse(new TextDecoder("utf-8", {fatal: true}).decode(body));
  } catch {
    throw new Refused(400, "malformed", "the body is not JSON in UTF-8");
  }
}

/** Return the address that was asked for. Throws Refused. */
function address(target) {
  try {
    return new URL(target.startsWith("/") ? `http://rum${target}` : target);
  } catch {
    throw new Refused(400, "malformed", "the address is none");
  }
}

function count(query, name, standard, most) {
  const given = query.get(name);
  if (given === null) {
    return standard;
  }
  if (!/^\d{1,15}$/.test(given) || Number(given) > most) {
    throw new Refused(422, "invalid", `${name} is a whole number up to ${most}`);
  }
  return Number(given);
}

const json = (response, status, body) => {
  const text = JSON.stringify(body);
  const close = status === 408 || status === 413 ? {Connection: "close"} : {};
  response.writeHead(status, {"Content-Type": "application/json", "Content-Length": Buffer.byteLength(text), ...close});
  response.end(text);
};

/** Return the collector's HTTP server over `views`; `wall` gives Unix milliseconds. */
function build(views, wall = Date.now) {
  const identity = {
    environment: process.env.MBP_ENVIRONMENT ?? "unlabelled",
    instance: process.env.MBP_INSTANCE ?? "unlabelled",
    service: "rum",
  };
  const script = (name) => fs.readFileSync(path.join(__dirname, name));
  const scripts = Object.fromEntries(Object.entries(SCRIPTS).map(([route, name]) => [route, script(name)]));
  const send = (response, type, body) => response.writeHead(200, {"Content-Type": type}).end(body);
  const gets = {
    "/healthz": (_, response) => json(response, 200, {status: "ok", service: "rum"}),
    "/identity": (_, response) => json(response, 200, identity),
    "/metrics": (_, response) => send(response, "text/plain; version=0.0.4; charset=utf-8", views.metrics()),
    "/views": (query, response) =>
      json(response, 200, views.after(count(query, "after", 0, 1e15), Math.max(1, count(query, "limit", 500, 2000)))),
  };
  for (const [route, body] of Object.entries(scripts)) {
    gets[route] = (_, response) => send(response, "text/javascript; charset=utf-8", body);
  }
  const posts = {"/visit": (body, at) => views.visit(body, at), "/beacon": (body, at) => views.beacon(body, at)};

  async function answer(request, response) {
    const {pathname, searchParams} = address(request.url);
    const method = request.method === "HEAD" ? "GET" : request.method;
    if (!Object.hasOwn(gets, pathname) && !Object.hasOwn(posts, pathname)) {
      throw new Refused(404, "not_found", "Not Found");
    }
    if (method === "GET" && Object.hasOwn(gets, pathname)) {
      gets[pathname](searchParams, response);
    } else if (method === "POST" && Object.hasOwn(posts, pathname)) {
      try {
        posts[pathname](await posted(request), new Date(wall()).toISOString());
      } catch (error) {
        views.refused += 1;
        throw error;
      }
      response.writeHead(204).end();
    } else {
      throw new Refused(405, "method_not_allowed", "Method Not Allowed");
    }
  }

  const server = http.createServer((request, response) => {
    answer(request, response).catch((error) => {
      if (!(error instanceof Refused)) {
        console.error(error);
      }
      const [status, code] = error instanceof Refused ? [error.status, error.code] : [500, "internal"];
      if (!response.headersSent) {
        json(response, status, {error: code, detail: status === 500 ? "unexpected; see the service's log" : error.message});
      }
      request.resume();
    });
  });
  server.keepAliveTimeout = 75000;
  server.requestTimeout = 2 * BODY_WAIT_MS;
  return server;
}

function main(argv) {
  let wanted;
  try {
    wanted = options(argv);
  } catch (error) {
    console.error(`rum: ${error.message}`);
    process.exit(2);
  }
  if (net.isIPv4(HOST) === false) {
    console.error(`rum: MBP_LISTEN: ${HOST} is not an IPv4 address`);
    process.exit(2);
  }
  const edges = JSON.parse(fs.readFileSync(path.join(__dirname, "inp_edges.json"), "utf-8"));
  const server = build(new Views({pages: wanted.pages, env: wanted.env, edges}));
  server.on("error", (error) => {
    console.error(`rum: cannot listen on ${HOST}:${wanted.port}: ${error.code}`);
    process.exit(2);
  });
  server.listen(wanted.port, HOST);
  for (const signal of ["SIGTERM", "SIGINT"]) {
    process.on(signal, () => {
      server.close(() => process.exit(0));
      setTimeout(() => server.closeAllConnections(), 200).unref();
    });
  }
}

module.exports = {build, options};

if (require.main === module) {
  main(process.argv.slice(2));
}
