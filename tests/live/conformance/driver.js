// Drives toxiproxy-node-client: one JSON line {call, with} in, one line {error} out. argv: address, folder of the client.
"use strict";
const path = require("path");
const readline = require("readline");
const { Toxiproxy } = require(path.join(process.argv[3], "node_modules", "toxiproxy-node-client"));

const toxiproxy = new Toxiproxy(process.argv[2]);
const calls = {
  version: () => toxiproxy.getVersion(),
  proxies: () => toxiproxy.getAll(),
  create: (body) => toxiproxy.createProxy(body),
  proxy: ({ name }) => toxiproxy.get(name),
  update: async ({ name, change }) => (await toxiproxy.get(name)).update(change),
  delete: async ({ name }) => (await toxiproxy.get(name)).remove(),
  add_toxic: async ({ name, toxic }) => (await toxiproxy.get(name)).addToxic(toxic),
  toxic: async ({ name, toxic }) => (await toxiproxy.get(name)).getToxic(toxic),
  update_toxic: async ({ name, toxic, change }) => (await (await toxiproxy.get(name)).getToxic(toxic)).update(change),
  remove_toxic: async ({ name, toxic }) => (await (await toxiproxy.get(name)).getToxic(toxic)).remove(),
  populate: ({ proxies }) => toxiproxy.populate(proxies),
  reset: () => toxiproxy.reset(),
};

readline.createInterface({ input: process.stdin }).on("line", async (line) => {
  const { call, with: given } = JSON.parse(line);
  let error = null;
  if (!calls[call]) error = "not offered";
  else await calls[call](given).catch((found) => (error = String(found.message || found)));
  process.stdout.write(JSON.stringify({ error }) + "\n");
});
