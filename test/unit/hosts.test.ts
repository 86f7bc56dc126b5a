import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { portOf } from '../../services/contract/hosts.ts';

describe('the port of LXD or of a gateway', () => {
  for (const [url, port] of [
    ['https://lxd', 8443],
    ['https://lxd/', 8443],
    ['https://[2001:db8::443]', 8443],
    ['https://lxd:443', 443],
    ['HTTPS://lxd:443/', 443],
    ['https://[2001:db8::1]:443', 443],
    ['https://lxd:8444/1.0', 8444],
  ] as const)
    it(`is ${port} in ${url}`, () => assert.equal(portOf(url), port));
});
