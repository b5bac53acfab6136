#!/usr/bin/env node
'use strict';
// namespace-labels gives each namespace the labels that its configuration names.
const keelson = require('./keelson.js');

const NAME = 'namespace-labels';
const KIND = 'controller';
const COUNTER = 'keelson_namespace_labels_patches_total';

const schema = {
  type: 'object',
  additionalProperties: false,
  properties: {
    labels: { type: 'object', additionalProperties: { type: 'string' } },
    exclude: { type: 'array', items: { type: 'string' } },
    overwrite: { type: 'boolean' },
  },
};

// configure sets defaults and checks: unknown and wrong fields are errors that name them.
function configure(given) {
  for (const field of Object.keys(given)) {
    if (!schema.properties[field]) throw new keelson.FieldError(`config: unknown field "${field}"`);
  }
  const {
    labels = { 'pod-security.kubernetes.io/warn': 'baseline' },
    exclude = ['kube-system', 'kube-public', 'kube-node-lease'],
    overwrite = false,
  } = given;
  const word = /^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$/;
  for (const [key, value] of Object.entries(labels)) {
    const name = key.split('/').pop();
    if (!name || !word.test(name)) throw new keelson.FieldError(`labels[${key}]: Invalid value: "${key}": must be a label's name, as app or example.com/app`);
    if (!word.test(value)) throw new keelson.FieldError(`labels[${key}]: Invalid value: "${value}": must be a label's value of at most 63 characters`);
  }
  return { labels, exclude, overwrite };
}

// missing are the labels that a namespace is to get.
function missing(config, namespace) {
  if (config.exclude.includes(namespace.metadata.name)) return {};
  const has = namespace.metadata.labels || {};
  return Object.fromEntries(Object.entries(config.labels).filter(([key, value]) => !(key in has) || (config.overwrite && has[key] !== value)));
}

// run works until env.signal ends.
async function run(env) {
  if (!env.api) {
    env.ready();
    await new Promise((resolve) => { env.signal.addEventListener('abort', resolve); });
    return;
  }
  env.starting('Waiting for the list of namespaces');
  await env.api.each('/api/v1/namespaces', env.signal, env.ready, async (namespace) => {
    const labels = missing(env.config, namespace);
    if (Object.keys(labels).length === 0 || namespace.metadata.deletionTimestamp) return;
    const url = `/api/v1/namespaces/${namespace.metadata.name}?fieldManager=${NAME}`;
    try {
      await env.api.call('PATCH', url, { body: JSON.stringify({ metadata: { labels } }), type: 'application/merge-patch+json', signal: env.signal });
    } catch (err) {
      if (err.code === 404 || env.signal.aborted) return; // gone: nothing to do
      env.count(COUNTER, '{result="error"}');
      env.degraded(`not labelled: ${namespace.metadata.name}`);
      throw err; // the list is read again
    }
    env.count(COUNTER, '{result="success"}');
    env.log.info('Labelled a namespace', { namespace: namespace.metadata.name, labels });
  });
}

const plugin = {
  name: NAME,
  kind: KIND,
  version: '0.1.0',
  scope: 'Cluster',
  description: 'Gives each namespace the labels of its configuration.',
  rules: [{ verbs: ['get', 'list', 'watch', 'patch'], apiGroups: [''], resources: ['namespaces'] }],
  schema,
  configure,
  run,
};

module.exports = { plugin, configure, missing };
if (require.main === module) keelson.run(plugin);
