/** Who may do what, call by call. Operations, whose project is in NATS, are in test/integration/trust.test.ts. */
import assert from 'node:assert/strict';
import { parse } from 'node:querystring';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import openapi from '../../docs/openapi.json' with { type: 'json' };
import { isCode } from '../../services/contract/errors.ts';
import type { Role } from '../../services/contract/schemas.ts';
import { authorize, nearestRight, type ProjectLookUp } from '../../services/gateway/access/access.ts';
import type { Client } from '../../services/gateway/access/apiClient.ts';
import { fullPath, type Right } from '../../services/gateway/http/route.ts';
import { routeGroups } from '../../services/gateway/routes/table.ts';

const client = (role: Role, projects?: string[]): Client => ({
  fingerprint: 'f',
  trusted: true,
  name: 'n',
  role,
  projects,
});
const stranger: Client = { ...client('admin'), trusted: false };
const nothing = { find: async () => undefined };
const noOwners: ProjectLookUp = { operations: { findAnywhere: nothing.find }, runs: nothing };
const rightFor = nearestRight(routeGroups);

async function may(who: Client, call: string): Promise<boolean> {
  const [method = '', url = ''] = call.split(' ');
  const [path = '', query = ''] = url.split('?');
  try {
    const { right, parameters } = rightFor(method, path);
    await authorize(who, right, { parameters, query: parse(query) }, noOwners);
    return true;
  } catch (error) {
    assert.ok(isCode(error, 'forbidden'), String(error));
    assert.equal((error as Error).message, 'not authorized');
    return false;
  }
}

const b = '/1.0/instances/c1/backups';

describe('authorization', () => {
  const calls: [call: string, viewer: boolean, operator: boolean, restricted: boolean][] = [
    [`GET ${b}`, true, true, false],
    [`HEAD ${b}`, true, true, false],
    [`GET ${b}?project=blue`, true, true, true],
    [`GET ${b}?project=Blue`, true, true, false],
    [`GET ${b}?project=`, true, true, false],
    [`GET ${b}?project=blue&project=blue`, true, true, false],
    [`GET ${b}?project=blue&all-projects=true`, true, true, false],
    [`GET ${b}?project=blue&all-projects=yes`, true, true, false],
    [`GET ${b}?project=blue&all-projects=false`, true, true, true],
    [`POST ${b}?project=blue`, false, true, true],
    [`DELETE ${b}/x?project=blue`, false, true, true],
    [`PATCH ${b}/x?project=red`, false, true, false],
    [`GET ${b}/x/export?project=blue`, false, true, true],
    [`GET ${b}/x/EXPORT/?project=blue`, false, true, true],
    [`HEAD ${b}/x/export?project=blue`, false, true, true],
    [`GET ${b}/x/export/url?project=blue`, false, true, true],
    ['GET /1.0/operations?all-projects=true', true, true, true],
    ['GET /1.0/operations', true, true, false],
    ['GET /1.0/status?all-projects=true', true, true, true],
    ['GET /1.0/status?project=red', true, true, false],
    ['GET /1.0/events?all-projects=true', true, true, true],
    ['GET /1.0/events?project=red', true, true, false],
    ['GET /1.0/projects', true, true, true],
    ['GET /1.0/projects/blue', true, true, true],
    ['GET /1.0/projects/red', true, true, false],
    ['GET /1.0/projects/%62lue', true, true, true],
    ['POST /1.0/instances?project=blue', false, true, true],
    ['POST /1.0/instances', false, true, false],
    ['GET /1.0/certificates', true, true, true],
    ['POST /1.0/certificates', false, false, false],
    ['DELETE /1.0/certificates/abc?project=blue', false, false, false],
    ['PUT /1.0/CERTIFICATES/abc?project=blue', false, false, false],
    // Instances of all names, and one that is called so.
    ['GET /1.0/instances/*/backups?all-projects=true', true, true, true],
    ['GET /1.0/instances/%2a/backups/?all-projects=true', true, true, true],
    ['GET /1.0/instances/ALL/backups?all-projects=true', true, true, false],
    ['GET /1.0/instances/*/backups/x?all-projects=true', true, true, false],
    // What a path lacks is guarded as the nearest above it that does the same.
    ['PUT /1.0/certificates?project=blue', false, false, false],
    ['GET /1.0/certificates/abc/def', true, true, true],
    ['PATCH /1.0/runs/0a', false, true, true],
    ['POST /1.0/runs/0a/children', false, true, true],
    ['GET /1.0/runs/0a/retry', true, true, true],
    ['POST /1.0/status?all-projects=true', false, true, false],
    ['GET /1.0/status/more?all-projects=true', true, true, false],
    ['POST /1.0/projects', false, true, false],
    ['POST /1.0/projects/blue', false, true, false],
    ['POST /1.0?project=blue', false, true, true],
    ['POST /1.0', false, true, false],
    ['GET /1.0/openapi.json', true, true, true],
    ['GET /1.0/what-comes-next', true, true, false],
    ['GET /1.0/what-comes-next?project=blue', true, true, true],
    ['PURGE /1.0/what-comes-next?project=blue', false, true, true],
  ];
  for (const [call, viewer, operator, restricted] of calls) {
    it(call, async () => {
      assert.deepEqual(
        [
          await may(stranger, call),
          await may(client('viewer'), call),
          await may(client('operator'), call),
          await may(client('operator', ['blue']), call),
          await may(client('admin'), call),
        ],
        [false, viewer, operator, restricted, true],
      );
    });
  }

  it('being restricted, or of a lesser role, never allows more', async () => {
    const methods = fc.constantFrom('GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS');
    const words = fc.array(
      fc.constantFrom('1.0', 'certificates', 'instances', 'c1', 'backups', 'projects', 'blue', 'events'),
    );
    const queries = fc.constantFrom(
      '',
      '?project=blue',
      '?project=red',
      '?all-projects=true',
      '?project=blue&project=red',
    );
    await fc.assert(
      fc.asyncProperty(methods, words, queries, async (method, path, query) => {
        const call = `${method} /${path.join('/')}${query}`;
        for (const role of ['viewer', 'operator', 'admin'] as const)
          if (await may(client(role, ['blue']), call)) assert.ok(await may(client(role), call), call);
        if (await may(client('viewer'), call)) assert.ok(await may(client('operator'), call), call);
        if (await may(client('operator'), call)) assert.ok(await may(client('admin'), call), call);
        assert.ok(!(await may(stranger, call)), call);
      }),
    );
  });

  it('is about each route that docs/openapi.json has, and about no other', () => {
    const documented = Object.entries(openapi.paths).flatMap(([path, calls]) =>
      Object.keys(calls)
        .filter((each) => each !== 'parameters')
        .map((method) => `${method.toUpperCase()} ${path}`),
    );
    const routes = routeGroups.flatMap((group) =>
      group.routes.map((route) => `${route.method} ${fullPath(group, route)}`),
    );
    assert.deepEqual(routes.toSorted(), documented.toSorted());
  });

  it('needs trust everywhere, but at / and /1.0', () => {
    const open = routeGroups.flatMap((group) =>
      group.routes.filter(({ least }) => least === 'anyone').map((route) => fullPath(group, route)),
    );
    assert.deepEqual(open, ['/', '/1.0']);
  });

  for (const [what, right] of [
    ['no right', {}],
    ['no role', { projects: 'checkedByRoute' }],
    ['a role that does not exist', { least: 'owner', projects: 'checkedByRoute' }],
    ['no rule for projects', { least: 'viewer' }],
    ['a rule that does not exist', { least: 'viewer', projects: 'most' }],
  ] as const)
    it(`is refused by a route with ${what}`, async () => {
      const call = { parameters: {}, query: { project: 'blue' } };
      await assert.rejects(
        authorize(client('admin', ['blue']), right as unknown as Right, call, noOwners),
        /not authorized/,
      );
    });
});
