'use strict';
// The contract between Keelson's kernel and a plugin, for Node.js: what proto/plugin.proto
// and docs/plugins.md ask of every plugin. index.js is the plugin itself.
const crypto = require('node:crypto');
const fs = require('node:fs');
const http = require('node:http');
const https = require('node:https');
const net = require('node:net');
const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const COOKIE = '7d9f7c5e-keelson-plugin';
const VERSION = 1; // of the contract
const LEVELS = ['debug', 'info', 'warn', 'error'];

// FieldError is a configuration that cannot be taken: it names field and value.
class FieldError extends Error {}

class Status extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
    this.details = message;
  }
}

// log writes one JSON object for each line to standard error, which the kernel keeps.
let lowest = 1;
const log = Object.fromEntries(LEVELS.map((level, i) => [level, (msg, more = {}) => {
  if (i >= lowest) {
    process.stderr.write(`${JSON.stringify({ time: new Date().toISOString(), level: level.toUpperCase(), msg, ...more })}\n`);
  }
}]));

// handover reads the identity with which the plugin serves. The descriptor ends with the
// kernel, and so does the plugin then.
function handover(onEnd) {
  return new Promise((resolve, reject) => {
    const socket = new net.Socket({ fd: Number(process.env.KEELSON_PLUGIN_HANDOVER_FD), readable: true, writable: false });
    delete process.env.KEELSON_PLUGIN_HANDOVER_FD;
    let text = '';
    socket.on('data', (chunk) => {
      text += chunk;
      if (text.includes('\n')) resolve(JSON.parse(text.slice(0, text.indexOf('\n'))));
    });
    socket.on('error', reject);
    socket.on('close', onEnd);
  });
}

// checkPair refuses a certificate that is none, or has another key.
function checkPair(field, pair) {
  try {
    if (!new crypto.X509Certificate(pair.certificate).checkPrivateKey(crypto.createPrivateKey(pair.private_key))) {
      throw new Error('the private key is of another certificate');
    }
  } catch (err) {
    throw new Status(grpc.status.INVALID_ARGUMENT, `${field}: ${err.message}`);
  }
}

// Service is the base contract over one plugin.
class Service {
  constructor(plugin, exit) {
    this.plugin = plugin;
    this.exit = exit;
    this.request = null; // of the configuration in force
    this.work = null; // what is active: {stop, done}
    this.health = { state: 'STATE_STANDBY', message: '' };
    this.streams = new Set();
  }

  describe() {
    const { name, kind, version, description, scope, rules, schema } = this.plugin;
    return {
      name, kind, version, description, scope: scope === 'Cluster' ? 'SCOPE_CLUSTER' : 'SCOPE_NODE',
      rules: rules.map((r) => ({
        verbs: r.verbs, api_groups: r.apiGroups, resources: r.resources, resource_names: r.resourceNames || [], non_resource_urls: r.nonResourceURLs || [],
      })),
      config_schema: JSON.stringify(schema),
    };
  }

  configure(request) {
    if (this.work) throw new Status(grpc.status.FAILED_PRECONDITION, 'configure: the plugin is active; deactivate it first');
    const level = LEVELS.indexOf(request.log_level || 'info');
    if (level < 0) throw new Status(grpc.status.INVALID_ARGUMENT, `logLevel: got "${request.log_level}", want one of ${LEVELS}`);
    const config = this.read(request); // throws before anything is changed
    lowest = level;
    this.request = request;
    this.config = config;
    return {};
  }

  // read checks a configuration; nothing is started.
  read(request) {
    try {
      return this.plugin.configure(request.config.length ? JSON.parse(request.config) : {});
    } catch (err) {
      if (err instanceof FieldError || err instanceof SyntaxError) throw new Status(grpc.status.INVALID_ARGUMENT, err.message);
      throw err;
    }
  }

  activate(request) {
    if (request.mode === 'MODE_SHADOW') throw new Status(grpc.status.UNIMPLEMENTED, 'activate: the plugin has no shadow mode');
    if (!this.request) throw new Status(grpc.status.FAILED_PRECONDITION, 'activate: the plugin is not configured');
    if (this.work) return {};
    const stop = new AbortController();
    this.metrics = new Map();
    const env = {
      config: this.config, log, signal: stop.signal, node: this.request.node && this.request.node.name, dataDir: this.request.data_dir,
      api: this.request.api && this.request.api.server ? new API(() => this.request.api) : null,
      ready: () => this.say('STATE_READY', ''), degraded: (why) => this.say('STATE_DEGRADED', why), starting: (why) => this.say('STATE_STARTING', why),
      count: (name, labels = '') => this.metrics.set(name + labels, (this.metrics.get(name + labels) || 0) + 1),
    };
    const metrics = this.serveMetrics();
    this.say('STATE_STARTING', '');
    const done = Promise.resolve().then(() => this.plugin.run(env)).then(() => {
      if (!stop.signal.aborted) throw new Error("the plugin's work ended by itself");
    }).catch((err) => {
      if (stop.signal.aborted) return;
      log.error('Plugin cannot go on', { err: err.stack });
      this.say('STATE_FAILED', err.message);
      this.exit(1); // the kernel starts another process
    }).finally(() => metrics.close());
    this.work = { stop, done };
    return {};
  }

  async deactivate() {
    if (!this.work) return {};
    this.work.stop.abort();
    await this.work.done;
    this.work = null;
    this.say('STATE_STANDBY', '');
    return {};
  }

  // serveMetrics serves what was counted, in Prometheus' text form, on a socket in the
  // plugin's own folder.
  serveMetrics() {
    const server = http.createServer((_, response) => {
      response.setHeader('Content-Type', 'text/plain; version=0.0.4');
      response.end([...this.metrics].map(([name, value]) => `${name} ${value}\n`).join(''));
    });
    const socket = path.join(this.request.run_dir, 'metrics.sock');
    server.on('error', (err) => log.warn('Metrics are not served', { err: err.message }));
    fs.rmSync(socket, { force: true });
    server.listen(socket, () => fs.chmodSync(socket, 0o600));
    return server;
  }

  // say tells all callers of Health.
  say(state, message) {
    if (this.health.state === state && this.health.message === message) return;
    this.health = { state, message };
    for (const stream of this.streams) stream.write(this.health);
  }

  watchHealth(stream) {
    this.streams.add(stream);
    stream.write(this.health);
    const beat = setInterval(() => stream.write(this.health), 5000);
    stream.on('cancelled', () => { clearInterval(beat); this.streams.delete(stream); stream.end(); });
  }

  renew(request) {
    if (!this.request) throw new Status(grpc.status.FAILED_PRECONDITION, 'renew: the plugin is not configured');
    checkPair('client', request.client || {});
    if (request.serving) checkPair('serving', request.serving);
    this.request = { ...this.request, api: this.request.api && { ...this.request.api, client: request.client }, serving: request.serving };
    return {};
  }

  drain() { return {}; }

  async stop() {
    await this.deactivate();
    setTimeout(() => this.exit(0), 50); // lets the answer reach the caller
    return {};
  }
}

// API is the Kubernetes API under the plugin's own identity.
class API {
  constructor(credentials) { this.credentials = credentials; }

  // request gives the answer of the server, whose body is still to be read.
  request(method, url, { body, type = 'application/json', signal } = {}) {
    const { server, ca, client } = this.credentials();
    return new Promise((resolve, reject) => {
      const request = https.request(server + url, {
        method, ca, cert: client.certificate, key: client.private_key, signal,
        headers: body ? { 'Content-Type': type, 'Content-Length': Buffer.byteLength(body) } : {},
      }, resolve);
      request.on('error', reject);
      request.end(body);
    });
  }

  // call gives the object that the server answers with.
  async call(method, url, options) {
    const response = await this.request(method, url, options);
    let text = '';
    for await (const chunk of response.setEncoding('utf8')) text += chunk;
    if (response.statusCode >= 300) {
      const err = new Error(`${method} ${url}: ${response.statusCode} ${text}`);
      err.code = response.statusCode;
      throw err;
    }
    return JSON.parse(text);
  }

  // each calls back for each object below url as it is, and for each change, until signal
  // ends; synced when all that there were have been told.
  async each(url, signal, synced, object) {
    while (!signal.aborted) {
      try {
        const list = await this.call('GET', url, { signal });
        for (const item of list.items) await object(item);
        synced();
        const watch = await this.request('GET', `${url}?watch=1&allowWatchBookmarks=true&resourceVersion=${list.metadata.resourceVersion}`, { signal });
        let rest = '';
        for await (const chunk of watch.setEncoding('utf8')) {
          const lines = (rest + chunk).split('\n');
          rest = lines.pop();
          for (const line of lines) {
            const event = JSON.parse(line);
            if (event.type === 'ADDED' || event.type === 'MODIFIED') await object(event.object);
            else if (event.type === 'ERROR') throw new Error(event.object.message);
          }
        }
      } catch (err) {
        if (signal.aborted) return;
        log.warn('The API is asked again', { err: err.message });
        await new Promise((resolve) => { setTimeout(resolve, 500 + Math.random() * 500); });
      }
    }
  }
}

// onlyTheKernel refuses other holders of a certificate of the same authority.
function onlyTheKernel(call) {
  const peer = call.getAuthContext().sslPeerCertificate;
  if (!peer || peer.subject.CN !== 'system:kernel') throw new Status(grpc.status.UNAUTHENTICATED, 'the caller is not the kernel');
}

function unary(method) {
  return (call, answer) => {
    Promise.resolve().then(() => { onlyTheKernel(call); return method(call.request); })
      .then((value) => answer(null, value), (err) => answer(err.code !== undefined ? err : new Status(grpc.status.FAILED_PRECONDITION, err.message)));
  };
}

// run is the whole life of a plugin's process.
async function run(plugin) {
  if (process.env.KEELSON_PLUGIN !== COOKIE) {
    process.stderr.write(`${plugin.name} is a Keelson plugin (kind ${plugin.kind}) and does nothing by itself: name its file in a Plugin object\n`);
    process.exit(1);
  }
  const service = new Service(plugin, (code) => process.exit(code));
  const end = () => { setTimeout(() => process.exit(1), 5000).unref(); service.deactivate().then(() => process.exit(0)); };
  process.on('SIGTERM', end);
  const identity = await handover(end);

  const proto = grpc.loadPackageDefinition(loader.loadSync(['plugin.proto', 'health.proto'], {
    includeDirs: [path.join(__dirname, 'proto')], keepCase: true, enums: String, defaults: true, oneofs: true,
  }));
  const server = new grpc.Server();
  server.addService(proto.plugin.v1.PluginService.service, {
    Describe: unary(() => service.describe()), Configure: unary((r) => service.configure(r)), Activate: unary((r) => service.activate(r)),
    Deactivate: unary(() => service.deactivate()), Renew: unary((r) => service.renew(r)), Drain: unary(() => service.drain()), Stop: unary(() => service.stop()),
    Health: (stream) => {
      try {
        onlyTheKernel(stream);
        service.watchHealth(stream);
      } catch (err) {
        stream.destroy(err);
      }
    },
  });
  server.addService(proto.grpc.health.v1.Health.service, { Check: (_, answer) => answer(null, { status: 'SERVING' }) });
  const socket = path.join(process.env.PLUGIN_UNIX_SOCKET_DIR || '/tmp', `plugin${process.pid}`);
  const pair = { private_key: Buffer.from(identity.privateKey), cert_chain: Buffer.from(identity.certificate) };
  await new Promise((resolve, reject) => {
    server.bindAsync(`unix:${socket}`, grpc.ServerCredentials.createSsl(Buffer.from(identity.ca), [pair], true), (err) => (err ? reject(err) : resolve()));
  });
  process.stdout.write(`1|${VERSION}|unix|${socket}|grpc|\n`);
}

module.exports = { run, FieldError };
