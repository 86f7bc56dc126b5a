/** What input may cost is counted before it is spent. A parser or a schema that is new, and has no limit, fails here. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { glob } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { describe, it } from 'node:test';
import { deepestJson, excessOfJson, mostJsonNodes, parseJson } from '../../services/contract/json.ts';
import { faultsOf, type SchemaName } from '../../services/contract/schemas.ts';
import { parseJob } from '../../services/jobs/jobs.ts';

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
  'services/archive/tar/decompress.ts': 'streams; the ratio is bounded: test/unit/archive.test.ts',
  // From NATS, by who may write there: a worker, a gateway, the janitor. A message has max_payload.
  'services/nats/bucket.ts': 'entries that workers and gateways wrote',
  'services/gateway/access/audit.ts': 'a header that NATS writes, or a user of the own account',
  'services/hosts/look.ts': 'a message of a gateway',
  'services/hosts/hostInventory.ts': 'messages of workers and gateways; maxOutputLength',
  'services/trust/pair.ts': "the operator's own files",
  'services/runs/createRun.ts': 'what was checked already, as JSON has it',
  'services/outages/outage.ts': 'an entry that a worker wrote',
  'services/worker/backup/checkpoint.ts': 'entries that workers wrote',
  // From the store, by who has its keys.
  'services/backups/manifest.ts': 'read up to a limit by storage/s3Objects.ts',
  'services/archive/compression/blockFormat.ts': 'maxOutputLength is the block',
  'services/backups/backupIndex.ts': 'written by gateways; maxOutputLength',
  'services/storage/s3Messages.ts': "the store's answers, read up to a limit by storage/s3Connection.ts",
  'services/storage/s3Connection.ts': "the store's answers, read up to a limit",
  // From LXD, and from the operator's own machine.
  'services/lxd/client.ts': "LXD's answers, up to 64 MiB",
  'services/lxd/inventory.ts': 'RegExp: of a constant',
  'services/lxd/ownNames.ts': 'RegExp: of a constant',
  'services/contract/config.ts': "the operator's own file",
  'services/cli/client/remotes.ts': "the user's own file",
  'services/cli/client/gatewayClient.ts': "the gateway's answers, up to 64 MiB",
  'services/cli/client/runChildren.ts': "the gateway's events, up to 64 MiB each",
  'services/cli/commands/remote.ts': "the user's own token",
  'services/cli/commands/schedule.ts': "the user's own file",
  'services/cli/commands/scheduleEdit.ts': "the user's own text",
  'services/cli/natsAt.ts': 'one line of a NATS on this machine',
  'services/doctor/certificates.ts': "the operator's own files",
  'services/doctor/s3.ts': "the store's own metrics; RegExp: of constants",
  'services/trust/trustDirectory.ts': "the operator's own files",
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

  for (const kind of ['backup', 'restore', 'delete'])
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
    const all = [
      ...names,
      ...['listRequest', 'backupRequest', 'operationsRequest', 'operationRequest', 'waitRequest', 'statusRequest'].map(
        (request) => `nats-api.json#/$defs/${request}`,
      ),
      ...['runRequest', 'runsRequest', 'childrenRequest', 'retryRequest'].map(
        (request) => `run-answers.json#/$defs/${request}`,
      ),
      'names.json#/$defs/tags',
    ] as SchemaName[];
    assert.ok(all.length > 15);
    const many = Array.from({ length: 50 }, (_, i) => [`k${i}!`, [i]]);
    for (const name of all) assert.ok(faultsOf(name, Object.fromEntries(many)).length <= 1, name);
    const projects = Array.from({ length: 900 }, () => 7);
    // One of each alternative, and that none fits.
    assert.ok(faultsOf('http-certificates-post.json', { projects }).length <= 3);
  });
});
