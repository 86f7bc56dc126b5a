import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { archiveKey, listPrefix, manifestKey, parseManifestKey } from '../../services/backups/keys.ts';
import { parseManifest } from '../../services/backups/manifest.ts';
import { backupName, checkBackupName } from '../../services/contract/backupNames.ts';
import { loadConfig, withoutSecrets } from '../../services/contract/config.ts';
import { LxstowError } from '../../services/contract/errors.ts';
import { faultsOf, type Manifest } from '../../services/contract/schemas.ts';
import { formatTagging, parseTagging } from '../../services/contract/tagging.ts';
import { operationIdOf, parseJob } from '../../services/jobs/jobs.ts';
import type { LxdInstance } from '../../services/lxd/instances.ts';
import { natsFailure } from '../../services/nats/failures.ts';
import {
  decodeToken,
  encodeToken,
  jobSubject,
  parseApiSubject,
  parseJobSubject,
} from '../../services/nats/subjects.ts';
import {
  amend,
  begin,
  cancel,
  fail,
  isFinal,
  newOperation,
  requeue,
  requeueForOutage,
  type Status,
  succeed,
} from '../../services/operations/operation.ts';
import { ownIdentity } from '../../services/worker/restore/identity.ts';
import { whyNotReplaceable } from '../../services/worker/restore/replace.ts';
import { noFile } from '../lab/noFile.ts';

const now = new Date('2026-02-26T07:52:18.123Z');
const instance = fc.stringMatching(/^[A-Za-z][A-Za-z0-9-]{0,61}[A-Za-z0-9]$/);
const project = fc
  .string({ unit: 'grapheme', minLength: 1, maxLength: 20 })
  .filter((name) => faultsOf('names.json#/$defs/projectName', name).length === 0);
const backup = fc
  .stringMatching(/^[A-Za-z0-9][A-Za-z0-9._-]{0,60}$/)
  .filter((name) => faultsOf('names.json#/$defs/backupName', name).length === 0);

describe('names', () => {
  it('a backup is named after its second, in UTC, with its real extension', () => {
    assert.equal(backupName(now, 'gzip'), 'backup_2026-02-26-07-5218.tar.gz');
    assert.equal(backupName(now, 'zstd', 2), 'backup_2026-02-26-07-5218-2.tar.zst');
    assert.equal(backupName(now, 'none'), 'backup_2026-02-26-07-5218.tar');
  });

  it('a chosen name may not lie about the compression', () => {
    checkBackupName('before-upgrade', 'gzip');
    checkBackupName('x.tar.gz', 'gzip');
    assert.throws(() => checkBackupName('x.tar.zst', 'gzip'), { code: 'bad-request' });
  });

  it('bad instances, projects and backups are refused', () => {
    for (const name of ['', 'a/b', '..', '.', 'a\0b', 'a b', '123', '-a', 'a-', 'x'.repeat(64), 'ä', 'a.b', 'a_b']) {
      assert.ok(faultsOf('names.json#/$defs/instanceName', name).length > 0, name);
    }
    for (const name of ['', 'a/b', '..', '.', 'a\0b', 'a b', 'a_b', "a'b", 'a"b', 'a*b', 'x'.repeat(64)]) {
      assert.ok(faultsOf('names.json#/$defs/projectName', name).length > 0, name);
    }
    for (const name of ['', 'a/b', '..', '.x', 'a\0b', 'a b', 'x.manifest.json', 'x'.repeat(129)]) {
      assert.ok(faultsOf('names.json#/$defs/backupName', name).length > 0, name);
    }
  });
});

describe('tags', () => {
  const key = fc
    .stringMatching(/^[A-Za-z0-9 +\-=._:/@]{1,128}$/)
    .filter((text) => !text.startsWith('aws:') && text !== '__proto__');
  const value = fc.stringMatching(/^[A-Za-z0-9 +\-=._:/@]{0,256}$/);

  it('come back from the header as they went', () => {
    fc.assert(
      fc.property(fc.dictionary(key, value, { maxKeys: 10 }), (tags) =>
        assert.deepEqual(parseTagging(formatTagging(tags)), { ...tags }),
      ),
    );
  });

  it('are read as S3 reads them', () => {
    assert.deepEqual(parseTagging('os=Ubuntu&version=20.04&a%20b=c+d&bare&eq=1=2'), {
      os: 'Ubuntu',
      version: '20.04',
      'a b': 'c d',
      bare: '',
      eq: '1=2',
    });
    assert.deepEqual(parseTagging(''), {});
  });

  for (const [why, header] of [
    ['eleven', Array.from({ length: 11 }, (_, i) => `k${i}=v`).join('&')],
    ['a key twice', 'a=1&a=2'],
    ['a bad character in a key', 'a%3Fb=1'],
    ['a bad character in a value', 'a=%00'],
    ['letters that not every S3 takes', 'a=%C3%A9'],
    ['a broken escape', 'a=%E0%A4%A'],
    ['an empty key', '=v'],
    ["AWS's own prefix", 'aws:a=1'],
    ['a key too long', `${'k'.repeat(129)}=1`],
    ['a value too long', `k=${'v'.repeat(257)}`],
  ] as const) {
    it(`${why}: refused`, () => assert.throws(() => parseTagging(header), { code: 'bad-request' }));
  }
});

describe('subjects and keys', () => {
  it('any name makes one token, and comes back', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme', minLength: 1 }), (name) => {
        assert.match(encodeToken(name), /^[A-Za-z0-9_=-]+$/);
        assert.equal(decodeToken(encodeToken(name)), name);
      }),
    );
  });

  it('a name has one spelling in a subject, so that a right that denies it holds', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme', minLength: 1 }), fc.nat(), (name, at) => {
        const bytes = [...Buffer.from(name)];
        const hex = (byte: number) => `=${byte.toString(16).toUpperCase().padStart(2, '0')}`;
        const other = bytes.map((byte, index) => (index === at % bytes.length ? hex(byte) : String.fromCharCode(byte)));
        for (const spelling of [other.join(''), bytes.map(hex).join(''), bytes.map(hex).join('').toLowerCase(), name]) {
          if (spelling === encodeToken(name) || spelling.includes('.')) continue;
          const from = `lxstow.jobs.local.restore.default.c1.from.local.${spelling}.c1`;
          for (const subject of [`lxstow.jobs.local.backup.default.${spelling}`, from])
            assert.throws(() => parseJob({ subject, data: Buffer.from('{}') }), /must be spelled/);
          assert.throws(() =>
            parseApiSubject('backups.list.{remote}.{project}', `lxstow.api.backups.list.local.${spelling}`),
          );
        }
      }),
    );
  });

  it('a job is addressed by its subject alone', () => {
    fc.assert(
      fc.property(project, instance, (project, instance) => {
        const address = { remote: 'local', project, instance };
        assert.deepEqual(parseJobSubject(jobSubject('backup', address)), { ...address, kind: 'backup' });
        const source = { remote: 'oslo', project: instance, instance: project };
        const restore = jobSubject('restore', address, source);
        assert.deepEqual(parseJobSubject(restore), { ...address, kind: 'restore', source });
      }),
    );
  });

  it('a manifest is found by its key', () => {
    fc.assert(
      fc.property(fc.constantFrom('', 'a', 'a/b'), project, instance, backup, (prefix, project, instance, backup) => {
        const address = { remote: 'local', project, instance, backup };
        assert.deepEqual(parseManifestKey(prefix, manifestKey(prefix, address)), address);
        assert.equal(parseManifestKey(prefix, archiveKey(prefix, address)), undefined);
        assert.ok(manifestKey(prefix, address).startsWith(listPrefix(prefix, { remote: 'local', project })));
      }),
    );
  });

  it('one instance is no prefix of another', () => {
    assert.ok(
      !archiveKey('', { remote: 'l', project: 'p', instance: 'c10', backup: 'b' }).startsWith(
        listPrefix('', { remote: 'l', project: 'p', instance: 'c1' }),
      ),
    );
  });
});

describe('messages', () => {
  const subject = 'lxstow.jobs.local.backup.default.c1';
  const read = (data: string, at = subject) => parseJob({ subject: at, data: Buffer.from(data) });

  it('an empty one asks for the usual backup', () => {
    assert.deepEqual(read(''), {
      kind: 'backup',
      address: { remote: 'local', project: 'default', instance: 'c1' },
      body: {},
    });
  });

  it('its own UUID is the operation; else its place in the stream is, the same each time', () => {
    const id = '0b5a3c1e-7f0d-4c62-9d3b-1f4b6a5d2e11';
    assert.equal(operationIdOf({ messageId: id, sequence: 7 }), id);
    assert.equal(
      operationIdOf({ messageId: 'mine', sequence: 7 }),
      operationIdOf({ messageId: undefined, sequence: 7 }),
    );
    assert.notEqual(
      operationIdOf({ messageId: undefined, sequence: 7 }),
      operationIdOf({ messageId: undefined, sequence: 8 }),
    );
    assert.deepEqual(faultsOf('names.json#/$defs/uuid', operationIdOf({ messageId: undefined, sequence: 7 })), []);
  });

  for (const [why, data, at] of [
    ['not JSON', '{', subject],
    ['not UTF-8 text of an object', '[]', subject],
    ['an unknown field', '{"optimised":true}', subject],
    ['a wrong type', '{"optimized":"yes"}', subject],
    ['an unknown compression', '{"compression":"xz"}', subject],
    ['a restore without its backup', '{}', 'lxstow.jobs.local.restore.default.c1'],
    ['an unknown kind', '{}', 'lxstow.jobs.local.frobnicate.default.c1'],
    ['an instance that cannot be', '{}', 'lxstow.jobs.local.backup.default.=2E=2E'],
    ['too few tokens', '{}', 'lxstow.jobs.local.backup.c1'],
  ] as const) {
    it(`${why}: refused, and said why`, () => assert.throws(() => read(data, at), { code: 'bad-message' }));
  }

  it('nothing makes the parser throw anything else', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.string(), (data, tail) => {
        try {
          parseJob({ subject: `lxstow.jobs.local.backup.${tail}`, data });
        } catch (error) {
          assert.ok(error instanceof LxstowError && error.code === 'bad-message');
        }
      }),
    );
  });
});

describe('an operation', () => {
  const fresh = () =>
    newOperation(
      {
        id: '0b5a3c1e-7f0d-4c62-9d3b-1f4b6a5d2e11',
        kind: 'backup',
        address: { remote: 'local', project: 'p', instance: 'c1' },
        body: { backup: 'b' },
      },
      now,
    );

  it("has LXD's words and codes", () => {
    const operation = fresh();
    assert.deepEqual(
      [operation.status, operation.status_code, operation.class, operation.err],
      ['Pending', 105, 'task', ''],
    );
    assert.deepEqual(operation.resources, {
      instances: ['/1.0/instances/c1?project=p'],
      backups: ['/1.0/backups/b'],
    });
    assert.deepEqual(faultsOf('operation.json', operation), []);
  });

  it('ends once: no walk leaves a final state, and each attempt is counted', () => {
    const steps = {
      begin: (op: ReturnType<typeof fresh>) => begin(op, 'w', now),
      requeue: (op: ReturnType<typeof fresh>) => requeue(op, 'why', now, true),
      succeed: (op: ReturnType<typeof fresh>) => succeed(op, now),
      fail: (op: ReturnType<typeof fresh>) => fail(op, new LxstowError('internal', 'x'), now),
    };
    fc.assert(
      fc.property(
        fc.array(fc.constantFrom(...(Object.keys(steps) as (keyof typeof steps)[])), { maxLength: 12 }),
        (walk) => {
          let operation = fresh();
          let begun = 0;
          for (const step of walk) {
            const before = operation;
            try {
              operation = steps[step](operation);
            } catch {
              continue;
            }
            assert.ok(!isFinal(before), `${before.status} went on to ${operation.status}`);
            if (step === 'begin') begun += 1;
            assert.equal(operation.attempt, begun);
            assert.deepEqual(faultsOf('operation.json', operation), []);
            assert.equal(operation.err !== '', (operation.status as Status) === 'Failure');
          }
        },
      ),
    );
  });
});

describe('a prune that is attempted again', () => {
  it('goes on counting where the attempt before it ended', () => {
    const address = { remote: 'local', project: 'p', instance: 'c1' };
    const fresh = newOperation({ id: '0b5a3c1e-7f0d-4c62-9d3b-1f4b6a5d2e11', kind: 'prune', address }, now);
    const counts = { backups_deleted: 2, bytes_freed: 10, bytes_in_old_versions: 20 };
    const cut = amend(begin(fresh, 'w', now), { metadata: { ...counts, stage: 'deleting' } }, now);
    assert.deepEqual(begin(requeue(cut, 'why', now, true), 'w', now).metadata, counts);
  });
});

describe('an operation that is cancelled while its attempt ends', () => {
  it('stays so, and belongs to nobody: a worker cleans up', () => {
    const address = { remote: 'local', project: 'p', instance: 'c1' };
    const operation = newOperation({ id: '0b5a3c1e-7f0d-4c62-9d3b-1f4b6a5d2e11', kind: 'backup', address }, now);
    const cancelling = cancel(begin(operation, 'w', now), now);
    for (const ended of [requeue(cancelling, 'why', now, true), requeueForOutage(cancelling, 'why', now, now, 'S3')]) {
      assert.deepEqual([ended.status, ended.owner], ['Cancelling', undefined]);
      assert.deepEqual(faultsOf('operation.json', ended), []);
      assert.equal(begin(ended, 'next', now).owner, 'next');
    }
  });
});

describe('the configuration', () => {
  const secrets = { LXSTOW_S3_ACCESS_KEY: 'a', LXSTOW_S3_SECRET_KEY: 'geheim' };
  const keys = { ...noFile, ...secrets };

  it('has defaults for all but the credentials', () => {
    const config = loadConfig({ env: keys });
    assert.equal(config.worker.slots, 2);
    assert.deepEqual(Object.keys(config.remotes), ['local']);
    assert.throws(() => loadConfig({ env: noFile }), /s3: accessKey is missing; s3: secretKey is missing/);
  });

  it('takes a file, and the environment over it', () => {
    const file = join(mkdtempSync(join(tmpdir(), 'lxstow-config-')), 'c.yaml');
    writeFileSync(file, 'worker:\n  slots: 4\n  remote: a\nremotes:\n  a: {}\n  local: {}\n');
    writeFileSync(`${file}.secret`, 'from a file\n');
    const config = loadConfig({
      file,
      env: {
        LXSTOW_S3_ACCESS_KEY: 'a',
        LXSTOW_S3_SECRET_KEY_FILE: `${file}.secret`,
        // The value itself goes before its file, which need not be there.
        LXSTOW_NATS_PASSWORD: 'itself',
        LXSTOW_NATS_PASSWORD_FILE: '/no/such',
        LXSTOW_WORKER_SLOTS: '7',
        LXSTOW_NATS_SERVERS: 'nats://a:1, nats://b:2',
        LXSTOW_S3_PATH_STYLE: 'false',
      },
    });
    assert.deepEqual(
      [config.worker.slots, config.worker.remote, config.s3.secretKey, config.nats.password, config.s3.pathStyle],
      [7, 'a', 'from a file', 'itself', false],
    );
    assert.deepEqual(config.nats.servers, ['nats://a:1', 'nats://b:2']);
  });

  it("is the user's own file where none is named", () => {
    const home = mkdtempSync(join(tmpdir(), 'lxstow-home-'));
    mkdirSync(join(home, '.config', 'lxstow'), { recursive: true });
    writeFileSync(join(home, '.config', 'lxstow', 'lxstow.yaml'), 'worker:\n  slots: 5\n');
    const named = join(home, 'named.yaml');
    writeFileSync(named, 'worker:\n  slots: 6\n');
    const slots = (env: NodeJS.ProcessEnv, file?: string) =>
      loadConfig({ file, env: { ...secrets, HOME: home, ...env } }).worker.slots;
    assert.deepEqual([slots({}), slots({ LXSTOW_CONFIG: named }), slots({}, named)], [5, 6, 6]);
    assert.equal(slots({ HOME: '/none', XDG_CONFIG_HOME: join(home, '.config') }), 5);
    rmSync(home, { recursive: true });
  });

  for (const [why, env, said] of [
    ['an unknown variable', { LXSTOW_S3_BUCKIT: 'x' }, /LXSTOW_S3_BUCKIT/],
    ['a word for a number', { LXSTOW_WORKER_SLOTS: 'many' }, /worker\.slots/],
    ['a value out of range', { LXSTOW_WORKER_SLOTS: '0' }, /worker\.slots/],
    ['a remote that is not there', { LXSTOW_WORKER_REMOTE: 'nowhere' }, /worker\.remote.*nowhere/],
    ['no JSON where an object is due', { LXSTOW_REMOTES: '{' }, /LXSTOW_REMOTES/],
    [
      'an endpoint that is no URL',
      { LXSTOW_NOTIFY_ENDPOINTS: 'https://a:99999/geheim' },
      /^(?!.*geheim).*notify\.endpoints/,
    ],
    ['an endpoint with a password', { LXSTOW_NOTIFY_ALLOWED: 'https://u:geheim@a/' }, /^(?!.*geheim).*notify\.allowed/],
    ['a secret without its base64', { LXSTOW_NOTIFY_SECRET: 'whsec_geheim' }, /^(?!.*geheim).*notify\.secret.*whsec_/],
    ['a file that is not there', { LXSTOW_NATS_PASSWORD_FILE: '/no/such' }, /LXSTOW_NATS_PASSWORD_FILE.*\/no\/such/],
  ] as const) {
    it(`${why}: an error that names it`, () =>
      assert.throws(() => loadConfig({ env: { ...keys, ...env } }), { code: 'bad-config', message: said }));
  }

  it('shows no secret', () => {
    const shown = JSON.stringify(
      withoutSecrets(
        loadConfig({
          env: {
            ...keys,
            LXSTOW_NATS_SERVERS: 'nats://u:geheim@h:1',
            LXSTOW_NATS_PASSWORD: 'geheim',
            LXSTOW_NOTIFY_ENDPOINTS: 'https://hooks.example.net/geheim?x=geheim',
            LXSTOW_NOTIFY_SECRET: `whsec_${'geheim'.repeat(6)}`,
          },
        }),
      ),
    );
    assert.ok(!shown.includes('geheim'), shown);
    assert.ok(shown.includes('https://hooks.example.net/'), shown);
  });
});

describe('a manifest', () => {
  const address = { remote: 'local', project: 'default', instance: 'c1', backup: 'b.tar' };
  const part = (number: number, rawStart: number, rawEnd: number) => ({
    number,
    rawStart,
    rawEnd,
    size: rawEnd - rawStart,
    etag: 'e',
    sha256: 'a'.repeat(64),
    crc32: 'AAAAAA==',
  });
  const whole = (): Manifest => ({
    version: 1,
    writer: 'lxstow test',
    operation: '0b5a3c1e-7f0d-4c62-9d3b-1f4b6a5d2e11',
    backup: {
      name: 'b.tar',
      remote: 'local',
      project: 'default',
      instance: 'c1',
      created: now.toISOString(),
      tags: {},
    },
    archive: {
      key: 'k',
      etag: 'e',
      size: 30,
      rawSize: 30,
      compression: 'none',
      optimized: false,
      instanceOnly: false,
      blockSize: 10,
      parts: [part(1, 0, 10), part(2, 10, 30)],
    },
    instance: {
      config: {},
      devices: {},
      profiles: [],
      pool: 'p',
      driver: 'dir',
      architecture: 'x86_64',
      type: 'container',
      snapshots: [],
    },
    lxd: { version: '5.0.2' },
  });
  const read = (manifest: unknown, at = address) => parseManifest(Buffer.from(JSON.stringify(manifest)), at);

  it('is read, and what it does not know is kept', () => {
    assert.deepEqual(read({ ...whole(), later: { x: 1 } }), { ...whole(), later: { x: 1 } });
  });

  const changed = (change: (manifest: Manifest) => void) => {
    const manifest = whole();
    change(manifest);
    return manifest;
  };
  for (const [why, manifest, said] of [
    ['of a newer version', { ...whole(), version: 2 }, /version 2.*upgrade lxstow/],
    ["of another backup's name", changed((m) => (m.backup.name = 'c.tar')), /another backup/],
    ['of another instance', changed((m) => (m.backup.instance = 'c2')), /another backup: its instance is c2/],
    ['without a field', { ...whole(), archive: undefined }, /archive/],
    ['with a part missing', changed((m) => m.archive.parts.pop()), /do not add up/],
    ['with a part missing in the middle', changed((m) => m.archive.parts.shift()), /part 1 is missing/],
    ['with a gap', changed((m) => (m.archive.parts[1] = part(2, 12, 30))), /part 2 does not begin/],
    [
      'with blocks that no memory holds',
      changed((m) => Object.assign(m.archive, { compression: 'gzip', blockSize: 2 ** 50 })),
      /its blocks have 1125899906842624 bytes; this lxstow reads up to 16777216/,
    ],
    ['with another size', changed((m) => (m.archive.size = 31)), /do not add up/],
  ] as const) {
    it(`${why}: refused`, () => assert.throws(() => read(manifest), { code: 'bad-manifest', message: said }));
  }

  it('that is not JSON: refused', () => {
    assert.throws(() => parseManifest(Buffer.from('{"version":1'), address), { code: 'bad-manifest' });
  });
});

describe('an instance that is to be replaced', () => {
  const instance = { status: 'Running', ephemeral: false, config: {}, expanded_config: {} } as unknown as LxdInstance;
  it('may run, be stopped or frozen; whatever else it does, it is left alone', () => {
    for (const status of ['Running', 'Stopped', 'Frozen'])
      assert.equal(whyNotReplaceable({ ...instance, status }), undefined);
    for (const status of ['Error', 'Starting', ''])
      assert.match(whyNotReplaceable({ ...instance, status }) ?? '', /it is in state .*; stop or repair it first/);
  });
});

describe('a copy beside its original', () => {
  const mac = '00:16:3e:00:00:01';
  it('gets its own UUID and MACs, whatever its devices are called, and leaves those of the host alone', () => {
    const own = ['uuid', 'uuid.generation', 'eth0.hwaddr', 'eth0.100.hwaddr', 'wan:1/2.x.hwaddr'];
    const others = ['eth0.last_state.hwaddr', 'eth0.100.last_state.vf.hwaddr', 'eth0.host_name', 'idmap.base'];
    const keys = [...own, ...others].map((key) => `volatile.${key}`);
    const fresh = ownIdentity({ config: Object.fromEntries([...keys, 'user.hwaddr'].map((key) => [key, mac])) });
    assert.deepEqual(Object.keys(fresh).sort(), keys.slice(0, own.length).sort());
    for (const value of Object.values(fresh)) assert.notEqual(value, mac);
  });
});

describe('a failure of NATS', () => {
  it('is none of NATS where it is a fault of our own', () => {
    assert.equal(natsFailure(new TypeError('x is undefined'), 'reading').code, 'internal');
    assert.equal(natsFailure(new Error('connection refused'), 'reading').code, 'nats-unavailable');
  });
});

describe('a time of a client', () => {
  it('is one that can be read', () => {
    const faults = (until: string) => faultsOf('http-schedule-pause.json', { until });
    for (const until of ['2027-01-01T00:00:00Z', '2027-01-01T00:00:00.123+01:00', '2028-02-29T23:59:59-11:30'])
      assert.deepEqual(faults(until), []);
    for (const until of ['2026-12-31T23:59:60Z', '2027-01-01T00:00:00+01', '2027-02-30T00:00:00Z', 'tomorrow'])
      assert.equal(faults(until).length, 1, until);
  });
});
