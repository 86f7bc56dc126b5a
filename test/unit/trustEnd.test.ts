/** In the trust store, the end of a certificate or a token is told from what earlier versions have written. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { faultsOf } from '../../services/contract/schemas.ts';
import { endOf } from '../../services/trust/trustStore.ts';

const at = '2026-11-28T12:00:00.000Z';
const end = { state: 'revoked', name: 'laptop', at, by: { username: 'root', protocol: 'nats', address: 'stow1' } };
const entry = (value: unknown) => ({ value: Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)) });

describe('an entry of the trust store', () => {
  it('is an end: of a certificate that was revoked, of a token that was used', () => {
    assert.deepEqual(endOf(entry(end)), end);
    assert.deepEqual(endOf(entry({ ...end, state: 'used' })), { ...end, state: 'used' });
  });

  it('that is a certificate, a token, damaged, or of a later version is none', () => {
    const certificate = { fingerprint: '0'.repeat(64), name: 'laptop', type: 'client', certificate: 'x', added_at: at };
    for (const value of [certificate, { ...certificate, ...end }, { ...end, state: 'lost' }, '', '{', 'null', '[]'])
      assert.equal(endOf(entry(value)), undefined, JSON.stringify(value));
  });

  it('grants nothing to a gateway of an earlier version, which takes an end for damaged', () => {
    assert.notDeepEqual(faultsOf('trusted-certificate.json', end), []);
    assert.notDeepEqual(faultsOf('trust-token.json', end), []);
  });
});
