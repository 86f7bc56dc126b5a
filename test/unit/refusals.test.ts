import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { RefusalLimit } from '../../services/gateway/access/refusalLimit.ts';

describe('refusals', () => {
  it('are counted by address, and forgotten in time', () => {
    const limit = new RefusalLimit(60);
    for (let i = 0; i < 59; i++) limit.count('10.0.0.1', 1, 0);
    assert.equal(limit.over('10.0.0.1', 0), undefined);
    limit.count('10.0.0.1', 1, 0);
    assert.equal(limit.over('10.0.0.1', 0), 1);
    assert.equal(limit.over('10.0.0.2', 0), undefined);
    assert.equal(limit.over('10.0.0.1', 1100), undefined);
  });

  it('never keep an address out for more than some seconds beyond a minute', () => {
    const limit = new RefusalLimit(60);
    for (let i = 0; i < 10_000; i++) limit.count('10.0.0.1', 10, 0);
    assert.ok((limit.over('10.0.0.1', 0) ?? 0) <= 11);
  });

  it('of a host with many IPv6 addresses are one count', () => {
    const limit = new RefusalLimit(10);
    for (let i = 0; i < 10; i++) limit.count(`2001:db8::1:2:3:${i}`, 1, 0);
    assert.notEqual(limit.over('2001:db8:0:0:9:9:9:9', 0), undefined);
    assert.equal(limit.over('2001:db8:0:1::1', 0), undefined);
    for (let i = 0; i < 10; i++) limit.count('::ffff:10.0.0.1', 1, 0);
    assert.notEqual(limit.over('10.0.0.1', 0), undefined);
    assert.equal(limit.over('::ffff:10.0.0.2', 0), undefined);
  });

  it('are remembered of a bounded number of addresses', () => {
    const limit = new RefusalLimit(1);
    limit.count('first', 1, 0);
    for (let i = 0; i < 20_000; i++) limit.count(`10.${i >> 16}.${(i >> 8) & 255}.${i & 255}`, 1, 0);
    assert.equal(limit.over('first', 0), undefined);
    assert.notEqual(limit.over('10.0.78.31', 0), undefined);
  });
});
