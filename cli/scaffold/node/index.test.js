'use strict';
const assert = require('node:assert');
const test = require('node:test');
const { configure, missing } = require('./index.js');

const namespace = (name, labels) => ({ metadata: { name, labels } });

test('labels that a namespace lacks', () => {
  const config = configure({ labels: { team: 'blue' } });
  assert.deepStrictEqual(missing(config, namespace('a')), { team: 'blue' });
  assert.deepStrictEqual(missing(config, namespace('a', { team: 'red' })), {});
  assert.deepStrictEqual(missing({ ...config, overwrite: true }, namespace('a', { team: 'red' })), { team: 'blue' });
  assert.deepStrictEqual(missing(config, namespace('kube-system')), {});
});

test('a configuration that cannot be taken', () => {
  assert.throws(() => configure({ label: {} }), /unknown field "label"/);
  assert.throws(() => configure({ labels: { 'no good': 'x' } }), /labels\[no good\]/);
  assert.throws(() => configure({ labels: { team: 'no good' } }), /labels\[team\]/);
});
