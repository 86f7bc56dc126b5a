/** What input may cost is counted before it is spent. A parser, a route or a schema that is new, and has no limit, fails here. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { glob } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { Server as HttpsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { basename, join } from 'node:path';
import { describe, it } from 'node:test';
import type { Request } from 'express';
import { Temporal } from 'temporal-polyfill';
import { WebSocket } from 'ws';
import { loadConfig } from '../../services/contract/config.ts';
import { deepestJson, excessOfJson, mostJsonNodes, parseJson } from '../../services/contract/json.ts';
import { faultsOf, type SchemaName } from '../../services/contract/schemas.ts';
import { takeUpgrades } from '../../services/gateway/events/upgrade.ts';
import type { GatewayParts } from '../../services/gateway/gatewayParts.ts';
import { pageOf } from '../../services/gateway/http/pages.ts';
import { fullPath } from '../../services/gateway/http/route.ts';
import { endpoints } from '../../services/gateway/natsApi/endpoints.ts';
import { routeGroups } from '../../services/gateway/routes/table.ts';
import { createSchedule, type ScheduleClient } from '../../services/gateway/runs/scheduleChanges.ts';
import { parseJob } from '../../services/jobs/jobs.ts';
import { checkSelector, meaningOf } from '../../services/runs/selector.ts';
import { nextSlot, parseCron } from '../../services/schedules/cron.ts';
import { noFile } from '../lab/noFile.ts';

const root = join(import.meta.dirname, '../..');

/** What turns bytes into something larger, or into a program. */
const parsers =
  /JSON\.parse\(|\bparseYaml\(|(?<![.\w])parse\(|RE2JS\.compile\(|new RegExp\(|new XMLParser\(|createGunzip\(|createZstdDecompress\(|promisify\(gunzip\)|gunzipSync\(|express\.(json|raw|text|urlencoded)\(|new X509Certificate\(|new WebSocketServer\(/g;

/** Why each of them costs little, whoever sends what it reads. */
const bounds: Record<string, string> = {
  // From anybody, or from a client.
  'services/gateway/app.ts':
    'express.json: gateway.bodyLimitBytes, 64 KiB of strangers, excessOfJson. RegExp: of our own routes',
  'services/gateway/access/access.ts': 'RegExp: of our own routes',
  'services/contract/json.ts': 'excessOfJson before JSON.parse; NATS bounds the bytes',
  'services/gateway/http/filter.ts': 'largestProgram, stepsAtOnce, mostSteps: test/unit/filter.test.ts',
  'services/gateway/events/upgrade.ts': 'maxPayload of 4 KiB',
  'services/gateway/routes/certificates.ts': 'a certificate that TLS has taken',
  'services/trust/certificates.ts': '32 KiB, by http-certificates-post.json',
  'services/trust/tokens.ts': '32 KiB, by http-certificates-post.json; strangers 64 KiB of body',
  'services/archive/tar/indexYaml.ts':
    'largestIndexBytes, mostIndexMarks, a thread with a deadline: test/unit/archive.test.ts',
  'services/archive/tar/decompress.ts': 'streams; unpackLimits: test/unit/archive.test.ts',
  // From NATS, by who may write there: a worker, a gateway, the janitor. A message has max_payload.
  'services/nats/bucket/bucket.ts': 'entries that workers and gateways wrote',
  'services/gateway/access/audit.ts': 'a header that NATS writes, or a user of the own account',
  'services/hosts/lookUp.ts': 'a message of a gateway',
  'services/hosts/hostInventory.ts': 'messages of workers and gateways; maxOutputLength',
  'services/trust/pair.ts': "the operator's own files",
  'services/runs/createRun.ts': 'what was checked already, as JSON has it',
  'services/outages/outage.ts': 'an entry that a worker wrote',
  'services/worker/backup/checkpoint.ts': 'entries that workers wrote',
  // From the store, by who has its keys.
  'services/backups/manifest.ts': 'read up to a limit by storage/s3/s3Objects.ts',
  'services/archive/compression/blockFormat.ts': 'maxOutputLength is the block',
  'services/backups/backupIndex.ts': 'written by gateways; a line of 64 KiB, 512 MiB in all, as a stream',
  'services/storage/s3/s3Messages.ts': "the store's answers, read up to a limit by storage/s3/s3Connection.ts",
  'services/storage/s3/s3Connection.ts': "the store's answers, read up to a limit",
  // From LXD, and from the operator's own machine.
  'services/lxd/connection/client.ts': "LXD's answers, up to 64 MiB",
  'services/lxd/inventory.ts': 'RegExp: of a constant',
  'services/lxd/ownNames.ts': 'RegExp: of a constant',
  'services/contract/config.ts': "the operator's own file",
  'services/cli/client/remotes.ts': "the user's own file",
  'services/cli/client/gatewayClient.ts': "the gateway's answers, up to 64 MiB",
  'services/cli/client/following/watchedOperations.ts': "the gateway's events, up to 64 MiB each",
  'services/cli/commands/remote.ts': "the user's own token",
  'services/cli/commands/schedule.ts': "the user's own file",
  'services/cli/commands/scheduleEdit.ts': "the user's own text",
  'services/cli/standalone/natsAt.ts': 'one line of a NATS on this machine',
  'services/doctor/certificates.ts': "the operator's own files",
  'services/doctor/s3.ts': "the store's own metrics; RegExp: of constants",
  'services/trust/trustDirectory.ts': "the operator's own files",
  'services/init/places.ts': "init's own file",
};

/**
 * What each route reads besides its path, whose parameters match schemas: its body, and of the query what costs more than to be read. Bodies are counted
 * (test/integration/trust.test.ts asks all routes of docs/openapi.json), and schemas and queries have limits, below.
 */
const reads: Record<string, { body?: string; query?: string }> = {
  'GET /': {},
  'GET /1.0': {},
  'GET /1.0/openapi.json': {},
  'GET /1.0/events': { query: 'a websocket: frames of 4 KiB, 1000 of them' },
  'GET /1.0/projects': {},
  'GET /1.0/projects/{project}': {},
  'GET /1.0/storage-pools': {},
  'GET /1.0/storage-pools/{pool}': {},
  'GET /1.0/certificates': {},
  'POST /1.0/certificates': { body: 'http-certificates-post.json' },
  'GET /1.0/certificates/{fingerprint}': {},
  'PUT /1.0/certificates/{fingerprint}': { body: 'http-certificate-put.json' },
  'PATCH /1.0/certificates/{fingerprint}': { body: 'http-certificate-put.json' },
  'DELETE /1.0/certificates/{fingerprint}': {},
  'GET /1.0/instances': { query: 'filter: test/unit/filter.test.ts' },
  'POST /1.0/instances': { body: 'archive' },
  'GET /1.0/instances/{instance}': {},
  'GET /1.0/instances/{instance}/state': {},
  'GET /1.0/instances/{instance}/snapshots': {},
  'GET /1.0/instances/{instance}/snapshots/{snapshot}': {},
  'GET /1.0/instances/{instance}/backups': { query: 'filter, pages' },
  'POST /1.0/instances/{instance}/backups': { body: 'http-create-backup.json' },
  'GET /1.0/instances/{instance}/backups/{backup}': {},
  'POST /1.0/instances/{instance}/backups/{backup}': { body: 'http-restore-backup.json' },
  'PUT /1.0/instances/{instance}/backups/{backup}': { body: 'http-update-backup.json' },
  'PATCH /1.0/instances/{instance}/backups/{backup}': { body: 'http-update-backup.json' },
  'DELETE /1.0/instances/{instance}/backups/{backup}': {},
  'GET /1.0/instances/{instance}/backups/{backup}/export': {},
  'GET /1.0/instances/{instance}/backups/{backup}/export/url': {},
  'GET /1.0/operations': { query: 'filter, pages' },
  'GET /1.0/operations/{id}': {},
  'DELETE /1.0/operations/{id}': {},
  'GET /1.0/operations/{id}/wait': {},
  'GET /1.0/status': { query: 'filter, pages' },
  'GET /1.0/runs': { query: 'pages' },
  'POST /1.0/runs': { body: 'http-create-run.json' },
  'GET /1.0/runs/{id}': {},
  'DELETE /1.0/runs/{id}': {},
  'GET /1.0/runs/{id}/children': { query: 'pages' },
  'POST /1.0/runs/{id}/retry': { body: 'http-retry-run.json' },
  'POST /1.0/prune': { body: 'http-prune.json' },
  'GET /1.0/schedules': {},
  'POST /1.0/schedules': { body: 'http-schedules-post.json' },
  'GET /1.0/schedules/{name}': {},
  'PUT /1.0/schedules/{name}': { body: 'http-schedule.json' },
  'DELETE /1.0/schedules/{name}': {},
  'POST /1.0/schedules/{name}/pause': { body: 'http-schedule-pause.json' },
  'POST /1.0/schedules/{name}/resume': {},
  'POST /1.0/schedules/{name}/run': { body: 'http-retry-run.json' },
  'GET /1.0/schedules/{name}/next': { query: 'count, 100 at most' },
};

describe('prices', () => {
  it('every file that parses has a bound, and each bound a file', async () => {
    const found: string[] = [];
    for await (const file of glob('services/**/*.ts', { cwd: root }))
      if (readFileSync(join(root, file), 'utf8').match(parsers)) found.push(file);
    assert.deepEqual(found.sort(), Object.keys(bounds).sort());
  });

  it('JSON has so many values and levels at most', () => {
    const values = (count: number) => Buffer.from(`[${'1,'.repeat(count - 2)}1]`);
    const levels = (count: number) => Buffer.from('['.repeat(count) + ']'.repeat(count));
    assert.equal(excessOfJson(values(mostJsonNodes)), undefined);
    assert.match(String(excessOfJson(values(mostJsonNodes + 1))), /more than 10000 values/);
    assert.equal(excessOfJson(levels(deepestJson)), undefined);
    assert.match(String(excessOfJson(levels(deepestJson + 1))), /deeper than 32/);
    assert.equal(
      excessOfJson(Buffer.from(JSON.stringify('[,{"\\'.repeat(20_000)))),
      undefined,
      'in a text nothing counts',
    );
    assert.deepEqual(parseJson(Buffer.from('{"a":[1]}'), 'it', 'bad-request'), { a: [1] });
    assert.throws(() => parseJson(values(mostJsonNodes + 1), 'it', 'bad-message'), { code: 'bad-message' });
  });

  for (const kind of ['backup', 'restore', 'delete', 'prune'])
    it(`a ${kind} job has so many values at most`, () => {
      const data = Buffer.from(`[${'1,'.repeat(mostJsonNodes)}1]`);
      const subject = `lxstow.jobs.local.${kind}.default.c1`;
      assert.throws(() => parseJob({ subject, data }), { code: 'bad-message', message: /more than 10000 values/ });
    });

  it('of input one fault is looked for', async () => {
    const names: string[] = [];
    const others = [
      'config.json',
      'http-answers.json',
      'names.json',
      'nats-api.json',
      'requestor.json',
      'run-answers.json',
    ];
    for await (const file of glob('schemas/*.json', { cwd: root }))
      if (!others.includes(basename(file))) names.push(basename(file));
    const all = [...names, ...endpoints.map(({ request }) => request), 'names.json#/$defs/tags'] as SchemaName[];
    assert.ok(all.length > 15);
    const many = Array.from({ length: 50 }, (_, i) => [`k${i}!`, [i]]);
    for (const name of all) assert.ok(faultsOf(name, Object.fromEntries(many)).length <= 1, name);
    const projects = Array.from({ length: 900 }, () => 7);
    // One of each alternative, and that none fits.
    assert.ok(faultsOf('http-certificates-post.json', { projects }).length <= 3);
  });

  it('every route is listed with what it reads, and nothing else is', () => {
    const all = routeGroups.flatMap((group) => group.routes.map((route) => ({ route, path: fullPath(group, route) })));
    assert.deepEqual(all.map(({ route, path }) => `${route.method} ${path}`).sort(), Object.keys(reads).sort());
    for (const { route, path } of all) {
      const { body } = reads[`${route.method} ${path}`] ?? {};
      assert.equal(body === 'archive', route.readsBody === true, path);
      if (['GET', 'DELETE'].includes(route.method)) assert.equal(body, undefined, path);
    }
  });

  const bodies = Object.values(reads).flatMap(({ body }) => (body === undefined || body === 'archive' ? [] : [body]));
  const jobs = ['backup', 'restore', 'delete', 'prune'].map((kind) => `job-${kind}.json`);
  for (const name of new Set([...bodies, ...jobs, ...endpoints.map(({ request }) => request)]))
    it(`all that ${name} takes has an end: its texts and lists`, () => assert.deepEqual(endless(name), []));

  it('a page has so many at most', () => {
    const page = (limit: string, most?: number) => pageOf({ query: { limit } } as unknown as Request, most);
    assert.equal(page('1000').limit, 1000);
    assert.throws(() => page('1001'), { code: 'bad-request' });
    assert.throws(() => page('10001', 10_000), { code: 'bad-request' });
  });

  it('a selector compares each name with so many patterns at most', () => {
    const wild = (count: number) => Array.from({ length: count }, (_, index) => `a*${index}`);
    checkSelector({ instances: [...wild(16), 'a', 'b'], exclude: wild(16) });
    assert.throws(() => checkSelector({ instances: wild(16), exclude: wild(17) }), /32 patterns with \* or \? at most/);
    for (const field of ['projects', 'remotes'])
      assert.throws(() => checkSelector({ all: true, [field]: [] }), new RegExp(`selector: ${field} is empty`));
    const [named] = [meaningOf({ instances: ['web', 'db-?'], exclude: ['db-2'] })];
    const meant = ['web', 'web-1', 'db-1', 'db-2'].filter((name) => named({ name, project: 'default' }));
    assert.deepEqual(meant, ['web', 'db-1']);
  });

  it('a cron rule that is never due is not looked for day by day of a calendar', (t) => {
    const add = t.mock.method(Temporal.PlainDate.prototype, 'add');
    assert.throws(() => parseCron('0 0 30 2 *'), /never due/);
    assert.throws(() => parseCron('* * 31 4,6,9,11 *'), /never due/);
    assert.ok(nextSlot(parseCron('59 23 29 2 *'), 'Europe/Berlin', new Date('2096-03-01T00:00:00Z')));
    assert.ok(add.mock.callCount() < 10, `${add.mock.callCount()} days`);
  });

  it('schedules are 1000 at most, of which restricted clients and publishers have 500', async () => {
    const config = loadConfig({ env: { ...noFile, LXSTOW_S3_ACCESS_KEY: 'a', LXSTOW_S3_SECRET_KEY: 'b' } });
    const [owner, publisher] = ['tls', 'nats'].map((protocol) => ({ username: 'u', protocol, address: '' }));
    const of = (count: number, owned: object) => Array.from({ length: count }, () => ({ schedule: owned }));
    const create = (known: object[], asks: object) => {
      const hasAtLeast = async (count: number) => known.length >= count;
      const schedules = { hasAtLeast, list: async () => known, create: async () => 1 };
      const wanted = { name: 'one', definition: { cron: '@daily' } };
      return createSchedule({ config, schedules } as unknown as GatewayParts, asks as ScheduleClient, wanted);
    };
    const limited = [
      { requestor: owner, restricted: true },
      { requestor: publisher, restricted: false },
    ];
    for (const each of limited) {
      await create([...of(499, each), ...of(499, { requestor: owner })], each);
      const [full] = limited.map((other) => [...of(300, each), ...of(200, other)]);
      const refused = { code: 'queue-full', message: /500 schedules of restricted clients and publishers already/ };
      await assert.rejects(create(full ?? [], each), refused);
      await create([...(full ?? []), ...of(499, { requestor: owner })], { requestor: owner, restricted: false });
    }
    await assert.rejects(create(of(1000, {}), { requestor: owner }), /there are 1000 schedules already/);
  });

  it('a frame of a websocket has 4 KiB at most', async () => {
    const server = createServer();
    takeUpgrades(server as unknown as HttpsServer, (_request, response) => {
      const { accept } = (response as unknown as { locals: { accept: () => Promise<WebSocket> } }).locals;
      void accept().then((socket) => socket.on('error', () => undefined));
    });
    await once(server.listen(0, '127.0.0.1'), 'listening');
    try {
      const closed = async (bytes: number) => {
        const socket = new WebSocket(`ws://127.0.0.1:${(server.address() as AddressInfo).port}`);
        await once(socket, 'open');
        socket.send(Buffer.alloc(bytes));
        socket.close();
        return (await once(socket, 'close'))[0];
      };
      assert.deepEqual([await closed(4096), await closed(4097)], [1005, 1009]);
    } finally {
      server.closeAllConnections();
      server.close();
    }
  });
});

interface Node {
  $ref?: string;
  type?: string | string[];
  properties?: Record<string, Node>;
  additionalProperties?: boolean | Node;
  items?: Node;
  [word: string]: unknown;
}

/** The texts and lists of a schema that have no limit. A pattern of this project's ends its text, and a time is short. */
function endless(name: string): string[] {
  const found: string[] = [];
  const walk = (file: string, node: Node, path: string) => {
    if (node.$ref) {
      const [other = '', pointer = ''] = node.$ref.split('#');
      return walk(other || file, schemaAt(other || file, pointer), path);
    }
    for (const word of ['oneOf', 'anyOf', 'allOf'])
      for (const each of (node[word] ?? []) as Node[]) walk(file, each, path);
    const types = [node.type].flat();
    const hasEnd =
      ['maxLength', 'enum', 'const', 'anyOf', 'oneOf'].some((word) => word in node) || node.format === 'date-time';
    const isShort = /\{\d+(,\d+)?\}[^+*]*\$$|^[^+*{]*\$$/.test(String(node.pattern ?? '+'));
    if (types.includes('string') && !hasEnd && !isShort) found.push(path);
    if (types.includes('array') && !('maxItems' in node)) found.push(path);
    if (node.items) walk(file, node.items, `${path}[]`);
    for (const [key, each] of Object.entries(node.properties ?? {})) walk(file, each, `${path}.${key}`);
    if (typeof node.additionalProperties === 'object') walk(file, node.additionalProperties, `${path}.*`);
  };
  const [file = '', pointer = ''] = name.split('#');
  walk(file, schemaAt(file, pointer), name);
  return found;
}

function schemaAt(file: string, pointer: string): Node {
  let node = JSON.parse(readFileSync(join(root, 'schemas', file), 'utf8'));
  for (const word of pointer.split('/').filter(Boolean)) node = node[word];
  return node;
}
