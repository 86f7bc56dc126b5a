/** The description of the API: served, complete, and true. That each answer is as it says, the test client sees to, in every suite. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import document from '../../docs/openapi.json' with { type: 'json' };
import { assertDescribed, described } from '../lab/described.ts';
import { assertError, openStack, type Stack } from './stack.ts';

const methods = ['get', 'post', 'put', 'patch', 'delete'];
const values: Record<string, string> = {
  instance: 'nobody',
  backup: 'nothing.tar',
  id: '0b5a3c1e-7f0d-4c62-9d3b-1f4b6a5d2e11',
  fingerprint: 'ab'.repeat(32),
};

describe('the description of the API', { timeout: 1_800_000 }, () => {
  let stack: Stack;
  before(async () => {
    stack = await openStack('openapi');
  });
  after(() => stack?.[Symbol.asyncDispose]());

  const pathOf = (path: string) => path.replaceAll(/{(\w+)}/g, (_, name: string) => values[name] ?? name);

  it('is served as it is checked in', async () => {
    const { status, text } = await stack.stow.request('GET', '/1.0/openapi.json');
    assert.equal(status, 200);
    assert.deepEqual(JSON.parse(text), document);
  });

  for (const [path, calls] of Object.entries(described)) {
    const known = methods.filter((method) => method in calls);
    for (const method of known) {
      it(`has ${method.toUpperCase()} ${path}, and so has the gateway`, async () => {
        const { status, text } = await stack.stow.request(method.toUpperCase(), pathOf(path), { body: '{"name": 7}' });
        assert.notEqual(status, 405, text);
        assert.doesNotMatch(text, /"error":"not found"/);
      });
    }
    it(`has no other method on ${path}, and neither has the gateway`, async () => {
      for (const method of methods.filter((each) => !known.includes(each))) {
        const answer = await stack.stow.request(method.toUpperCase(), pathOf(path));
        // Whatever has GET has HEAD.
        const allowed = known
          .join(', ')
          .toUpperCase()
          .replace(/\bGET\b/, 'GET, HEAD');
        assertError(answer, 405, new RegExp(`allowed: ${allowed}$`));
        assert.equal(answer.headers.allow, allowed);
      }
    });
  }

  it('is what answers are held against', () => {
    const good = { type: 'sync', status: 'Success', status_code: 200, operation: '', error_code: 0, error: '' };
    const said = (body: unknown, path = '/1.0/instances/c1/backups', status = 200) =>
      assertDescribed('GET', path, { status, contentType: 'application/json; charset=utf-8', body });
    said({ ...good, metadata: [] });
    assert.throws(() => said({ ...good, metadata: [{ name: 'b' }] }), /required property 'created'/);
    assert.throws(() => said({ ...good, metadata: [], more: 1 }), /additional/);
    assert.throws(() => said({ ...good, metadata: [] }, '/1.0/nothing'), /is not in docs\/openapi.json/);
    assert.throws(() => said({ ...good, metadata: [] }, '/1.0/instances/c1/backups', 404), /not as in/);
  });
});
