/** `lxstow doctor` on real parts, well and ill: each finding is what is so, and nothing is left behind. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import http, { type IncomingMessage } from 'node:http';
import https from 'node:https';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { Client } from 'minio';
import { parse } from 'yaml';
import { LxdClient } from '../../services/lxd/connection/client.ts';
import { readServer } from '../../services/lxd/instances.ts';
import { probeOfLxd } from '../../services/outages/probes.ts';
import { markFolder } from '../../services/storage/folder/folderMarker.ts';
import { poor, strict } from '../contract/dialects.ts';
import { type Dialect, scriptedS3 } from '../fault/scriptedS3.ts';
import { makeCertificate } from '../lab/certificates.ts';
import { type Lab, openLab } from '../lab/lab.ts';
import type { LabLxd } from '../lab/lxd.ts';
import { lxstow } from '../lab/lxstow.ts';
import { type LabNats, startNats } from '../lab/nats.ts';
import { findIsal } from '../lab/parts.ts';
import { freePort } from '../lab/processes.ts';
import { attempt } from '../lab/run.ts';
import type { LabS3 } from '../lab/s3.ts';
import { type LxdSimulator, startSimulator } from '../simulator/simulator.ts';

const unsupported = {
  status: 501,
  code: 'NotImplemented',
  message: 'A header you provided implies functionality that is not implemented',
};
const cli = fileURLToPath(new URL('../../services/cli/main.ts', import.meta.url));

interface Finding {
  level: 'ok' | 'warning' | 'problem';
  area: string;
  finding: string;
  advice: string | null;
}

/** One account has JetStream, one has not, and one user may do next to nothing. */
const accounts = `
accounts {
  WITH {
    jetstream: enabled
    users: [
      { user: all, password: all }
      { user: little, password: little, permissions: { publish: ["$JS.API.STREAM.INFO.>"], subscribe: ["_INBOX.>"] } }
    ]
  }
  WITHOUT { users: [{ user: none, password: none }] }
  EMPTY { jetstream: enabled, users: [{ user: empty, password: empty }] }
}`;

describe('lxstow doctor', { timeout: 1_800_000 }, () => {
  const opened = new AsyncDisposableStack();
  let [lab, nats, s3]: [Lab, LabNats, LabS3] = [] as never;
  let lxd: LabLxd | LxdSimulator;
  let dir: string;
  let client: Client;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), 'lxstow-doctor-'));
    opened.defer(() => rm(dir, { recursive: true, force: true }));
    const quiet = () => undefined;
    lab = opened.use(await openLab({ name: 'doctor', log: quiet, nats: false }));
    nats = opened.use(await startNats({ name: 'doctor', log: quiet, config: accounts }));
    assert.ok(lab.s3);
    s3 = lab.s3;
    lxd = lab.lxd ?? opened.use(await startSimulator());
    client = new Client({
      endPoint: '127.0.0.1',
      port: Number(new URL(s3.endpoint).port),
      useSSL: false,
      accessKey: s3.accessKey,
      secretKey: s3.secretKey,
      region: 'us-east-1',
    });
    await lxstow(['-c', await configured({}), 'setup']);
  });
  after(() => opened.disposeAsync());

  const base = () => ({
    nats: { servers: [nats.url], user: 'all', password: 'all' },
    s3: { endpoint: s3.endpoint, accessKey: s3.accessKey, secretKey: s3.secretKey, bucket: s3.bucket },
    remotes: { local: { socket: lxd.socket } },
    gateway: { stateDir: join(dir, 'state') } as object,
    worker: {} as object,
  });

  /** A file with this over a configuration that is right. */
  async function configured(over: Record<string, object>): Promise<string> {
    const file = join(dir, `${Math.random()}.json`);
    const config: Record<string, object> = base();
    for (const [key, value] of Object.entries(over)) config[key] = { ...config[key], ...value };
    await writeFile(file, JSON.stringify(config), { mode: 0o600 });
    return file;
  }

  async function doctor(
    over: Record<string, object>,
    ...args: string[]
  ): Promise<{ status: number; findings: Finding[] }> {
    const { status, stdout, stderr } = await attempt(process.execPath, [
      cli,
      '-c',
      await configured(over),
      'doctor',
      '--format',
      'json',
      ...args,
    ]);
    assert.equal(stderr, '');
    const text = stdout.toString();
    for (const secret of [s3.secretKey, 'BEGIN']) assert.ok(!text.includes(secret));
    return { status, findings: JSON.parse(text) };
  }

  /** The one finding that says so. */
  function found(findings: Finding[], level: Finding['level'], text: RegExp, advice?: RegExp): void {
    const one = findings.find(({ finding }) => text.test(finding));
    assert.ok(one, `${text} is not in ${JSON.stringify(findings, null, 1)}`);
    assert.equal(one.level, level, one.finding);
    if (advice) assert.match(one.advice ?? '', advice);
    assert.equal(one.advice === null, level === 'ok', one.finding);
  }

  async function leftIn(bucket: string): Promise<string[]> {
    const keys: string[] = [];
    const collect = async (listing: AsyncIterable<{ name?: string; key?: string }>) => {
      for await (const { name, key } of listing) keys.push(name ?? key ?? '');
    };
    await collect(client.listObjects(bucket, '', true, { IncludeVersion: true }));
    await collect(client.listIncompleteUploads(bucket, '', true));
    return keys;
  }

  it('finds nothing wrong where nothing is, says it in four formats, and leaves nothing', async () => {
    const { status, findings } = await doctor({});
    assert.deepEqual(
      findings.filter(({ level }) => level === 'problem'),
      [],
    );
    assert.equal(status, 0);
    found(findings, 'ok', /^Node\.js 2/);
    found(findings, 'ok', /^NATS 2\.\d+\.\d+ at 127\.0\.0\.1:/);
    found(findings, 'ok', /has the rights of a gateway$/);
    found(findings, 'ok', /has the rights of a worker$/);
    found(findings, 'ok', /^JetStream is on; streams, buckets and consumers are as they should be$/);
    found(
      findings,
      'ok',
      /^tried, and allowed: put, get, list, tag, delete, begin a multipart upload, put a part, list parts, list uploads, complete an upload, abort an upload$/,
    );
    found(findings, 'ok', /has the same time$/);
    found(findings, 'ok', /keeps no versions/);
    found(findings, 'ok', /answers for host local$/);
    assert.deepEqual(await leftIn(s3.bucket), []);
    assert.deepEqual(await readdir(dir).then((names) => names.filter((name) => name === 'state')), []);
    const connection = await connect({ servers: nats.url, user: 'all', pass: 'all' });
    const jsm = await jetstreamManager(connection);
    assert.equal((await jsm.streams.info('LXSTOW_JOBS')).state.last_seq, 0);
    assert.equal((await jsm.streams.info('LXSTOW_DEAD')).state.last_seq, 0);
    for (const bucket of ['operations', 'checkpoints', 'trust'])
      assert.equal((await jsm.streams.info(`KV_lxstow_${bucket}`)).state.last_seq, 0);
    await connection.close();

    const print = async (...args: string[]) =>
      lxstow(['-c', await configured({}), 'doctor', '--only', 'configuration,s3', ...args]);
    assert.match(
      await print(),
      /^LEVEL +AREA +FINDING\nok +configuration +Node\.js .*\n(?:.*\n)*\d+ ok, 0 warnings, 0 problems\n$/,
    );
    assert.ok(
      parse(await print('--format', 'yaml')).every(({ area }: Finding) => ['configuration', 's3'].includes(area)),
    );
    assert.match(await print('--format', 'csv'), /^ok,configuration,Node\.js /);
  });

  it('says what makes gzip', async (context) => {
    const gzip = async (library: string) => (await doctor({ gzip: { library } }, '--only', 'configuration')).findings;
    const isal = await findIsal(() => undefined).catch((error: Error) => context.diagnostic(error.message));
    if (isal) found(await gzip(isal), 'ok', /^gzip uses ISA-L, .*libisal\.so\.2/);
    found(await gzip(''), 'ok', /^gzip uses zlib, because gzip\.library is empty$/);
    found(
      await gzip('/nowhere.so'),
      'ok',
      /^gzip uses zlib, which takes .* \(Debian: libisal2\): gzip\.library \/nowhere\.so cannot be used: /,
    );
  });

  it('looks at what a host is for', async () => {
    const areas = async (...args: string[]) => [
      ...new Set((await doctor({}, ...args)).findings.map(({ area }) => area)),
    ];
    assert.deepEqual(await areas('gateway'), ['configuration', 'gateway', 'nats', 's3']);
    assert.deepEqual(await areas('worker', '--only', 'configuration,gateway,lxd'), ['configuration', 'lxd']);
    const { status, stderr } = await attempt(process.execPath, [
      cli,
      '-c',
      await configured({}),
      'doctor',
      '--only',
      'disk',
    ]);
    assert.equal(status, 64);
    assert.match(stderr, /"disk" is not one of/);
  });

  it('finds keys that are unknown or contradict each other, and goes on with the rest', async () => {
    const over = {
      nats: { token: 'x', nkey: '/none' },
      gateway: { prot: 1, certificate: '/none' },
      worker: { heartbeatMs: 9000 },
      remotes: { local: { socket: lxd.socket, url: 'https://127.0.0.1:1', key: '/none', hsot: '' } },
      s3: { ca: '/none' },
      notify: { endpoints: ['http://hooks.invalid/x'] },
    };
    const { status, findings } = await doctor(over, '--only', 'configuration');
    assert.equal(status, 1);
    for (const text of [
      /^unknown key gateway\.prot$/,
      /^unknown key remotes\.local\.hsot$/,
      /^nats has nats\.user and nats\.token and nats\.nkey$/,
      /^gateway has only one of certificate and key$/,
      /^remotes\.local has only one/,
      /^remotes\.local has both url and socket/,
      /^worker\.heartbeatMs \(9000\) is not well below/,
    ])
      found(findings, 'problem', text);
    found(findings, 'warning', /^s3\.ca is set, but s3\.endpoint is http/);
    found(findings, 'warning', /^notices are not signed/, /whsec_/);
    found(findings, 'warning', /^notices go to http:\/\/hooks\.invalid unencrypted$/, /notify\.endpoints/);
    const broken = await doctor({ worker: { slots: 0 } });
    assert.equal(broken.status, 1);
    found(broken.findings, 'problem', /worker\.slots: must be >= 1/);
  });

  it('looks whether endpoints have an address, and calls none', async () => {
    const endpoints = ['http://127.0.0.1:1/x', 'https://hooks.invalid/T0-hush'];
    const { findings } = await doctor({ notify: { endpoints } }, 'gateway', '--only', 'gateway');
    found(findings, 'ok', /^notices go to http:\/\/127\.0\.0\.1:1$/);
    found(findings, 'problem', /^notices cannot reach https:\/\/hooks\.invalid: .*ENOTFOUND|EAI_AGAIN/, /DNS/);
    assert.ok(!JSON.stringify(findings).includes('hush'));
  });

  it('says what is wrong with credentials and bucket', async () => {
    const of = async (over: object) => {
      const { status, findings } = await doctor({ s3: over }, '--only', 's3');
      assert.equal(status, 1);
      return findings;
    };
    found(await of({ accessKey: 'nobody' }), 'problem', /InvalidAccessKeyId/, /s3\.accessKey/);
    found(await of({ secretKey: 'wrong' }), 'problem', /SignatureDoesNotMatch/, /s3\.secretKey/);
    found(await of({ bucket: 'missing' }), 'problem', /NoSuchBucket/, /`lxstow setup` to create missing/);
  });

  it('looks at a folder that is the store: marker, room, and the disk of the pools', async () => {
    const folder = join(lab.lxd?.dir ?? dir, 'nas');
    const endpoint = `http://127.0.0.1:${await freePort()}`;
    const of = () =>
      doctor({ s3: { folder, endpoint, accessKey: undefined, secretKey: undefined } }, '--only', 's3').then(
        ({ findings }) => findings,
      );
    found(await of(), 'problem', /^the folder .*nas does not exist: is it mounted\?$/, /Mount it/);
    await mkdir(folder);
    found(await of(), 'problem', /has no marker: is it mounted\?/, /nothing is written/);
    await markFolder(folder);
    const findings = await of();
    assert.ok(findings.some(({ finding }) => /are free in .*nas$/.test(finding)));
    found(findings, 'problem', /cannot be reached/, /Is `lxstow standalone` running\?/);
    if (lab.lxd) found(findings, 'warning', /^.*nas is on the same disk as storage pool/, /another disk/);
  });

  it('says what a store does not have, and what to do about it', async () => {
    const behind = async (dialect: Dialect, over: object = {}) => {
      await using proxy = await scriptedS3(s3.endpoint, dialect);
      return (await doctor({ s3: { endpoint: proxy.endpoint, ...over } }, '--only', 's3')).findings;
    };
    const tagless = await behind(poor(), { checksumHeaders: false });
    found(
      tagless,
      'warning',
      /^the store does not support tags: the tags of backups are only in their manifests/,
      /docs\/s3\.md/,
    );
    found(tagless, 'ok', /^tried, and allowed: put, get, list, delete, begin a multipart upload/);
    found(
      await behind(poor()),
      'problem',
      /does not let lxstow begin a multipart upload/,
      /Set s3\.checksumHeaders to false/,
    );
    const none = { refuse: ({ method = '' }: IncomingMessage) => (method === 'PUT' ? unsupported : undefined) };
    found(await behind(none), 'problem', /^S3 does not let lxstow put: .*NotImplemented/, /what a store must have/);
    found(await behind(strict(), { prefix: 'lxd' }), 'ok', /^tried, and allowed: put/);
    const over = { refuse: () => ({ status: 400, code: 'ExpiredToken', message: 'The provided token has expired.' }) };
    found(await behind(over), 'problem', /ExpiredToken/, /s3\.sessionToken/);
    // As VersityGW says it.
    const stranger = { refuse: () => ({ status: 404, code: 'XAdminUserNotFound', message: 'No user exists.' }) };
    found(await behind(stranger), 'problem', /XAdminUserNotFound/, /s3\.accessKey to a user/);
  });

  it('is not stopped by one that is dead', async () => {
    const dead = await freePort();
    const { status, findings } = await doctor({
      nats: { servers: [`nats://127.0.0.1:${dead}`] },
      s3: { endpoint: `http://127.0.0.1:${dead}` },
      remotes: { local: { socket: join(dir, 'none.socket') } },
    });
    assert.equal(status, 1);
    found(findings, 'problem', /^cannot connect to NATS at/, /nats\.servers/);
    found(findings, 'problem', /^S3 at .* cannot be reached: .*ECONNREFUSED/, /s3\.endpoint/);
    found(findings, 'problem', /^LXD \(local\) at .*none\.socket: .*ENOENT/, /remotes\.local\.socket/);
  });

  it('does not wait for one that is silent', async () => {
    await using mute = await listening(createServer(() => undefined));
    const { findings } = await doctor(
      { nats: { servers: [`nats://127.0.0.1:${mute.port}`] }, s3: { endpoint: `http://127.0.0.1:${mute.port}` } },
      '--only',
      's3,nats',
    );
    found(findings, 'problem', /^S3 at .* cannot be reached: no answer in 5 s$/);
    found(findings, 'problem', /^cannot connect to NATS at .*: no answer in 5 s$/);
  });

  it('removes what an earlier one left, and no backup of a project that begins with the same name', async () => {
    const [left, backup] = [`local/lxstow-doctor-${randomUUID()}`, 'local/lxstow-doctor-lab/c1/backup_1.tar.gz'];
    for (const key of [left, backup]) await client.putObject(s3.bucket, key, 'x');
    await using proxy = await inBetween(s3.endpoint, 0, undefined, [left, backup]);
    const { findings } = await doctor(
      { s3: { endpoint: `http://127.0.0.1:${proxy.port}` } },
      ...['worker', '--only', 's3'],
    );
    found(findings, 'ok', /^tried, and allowed: put, get, list/);
    assert.deepEqual(await leftIn(s3.bucket), [backup]);
    await client.removeObject(s3.bucket, backup);
  });

  it('finds a clock that is off, and a right that is missing', async () => {
    const skewed = async (seconds: number, refuse?: string) => {
      await using proxy = await inBetween(s3.endpoint, seconds, refuse);
      return (await doctor({ s3: { endpoint: `http://127.0.0.1:${proxy.port}` } }, '--only', 's3')).findings;
    };
    found(await skewed(-1200), 'problem', /clock is 1\d\d\d s ahead of the S3 server's/, /timedatectl/);
    found(await skewed(120), 'warning', /clock is 1\d\d s behind the S3 server's/);
    const findings = await skewed(0, 'PUT /lxstow/local/');
    assert.ok(findings.length > 0);
    found(await skewed(0, 'DELETE'), 'problem', /^S3 does not let lxstow delete: .*AccessDenied/, /s3:DeleteObject/);
    for (const name of await leftIn(s3.bucket)) await client.removeObject(s3.bucket, name);
  });

  it('says what versions and locks mean, and leaves none', {
    skip: process.env.LXSTOW_LAB_S3 === 'seaweedfs',
  }, async () => {
    if (s3.kind !== 'minio') return;
    await client.makeBucket('versioned');
    await client.setBucketVersioning('versioned', { Status: 'Enabled' });
    const versioned = await doctor({ s3: { bucket: 'versioned' } }, '--only', 's3', '--strict');
    found(
      versioned.findings,
      'warning',
      /^the bucket keeps versions: what lxstow deletes stays/,
      /put-bucket-lifecycle-configuration/,
    );
    found(versioned.findings, 'ok', /^the bucket has no Object Lock; backups cannot be locked/);
    found(versioned.findings, 'ok', /^tried, and allowed: put/);
    found(versioned.findings, 'ok', /^MinIO has .* free$/);
    assert.equal(versioned.status, 2);
    assert.deepEqual(await leftIn('versioned'), []);
    await client.setBucketLifecycle('versioned', {
      Rule: [
        { ID: 'old', Status: 'Enabled', Filter: { Prefix: '' }, NoncurrentVersionExpiration: { NoncurrentDays: 30 } },
      ],
    } as never);
    found(
      (await doctor({ s3: { bucket: 'versioned' } }, '--only', 's3')).findings,
      'ok',
      /until a lifecycle rule removes it, 30 days after the deletion$/,
    );

    await client.makeBucket('locked', 'us-east-1', { ObjectLocking: true });
    await client.setObjectLockConfig('locked', { mode: 'COMPLIANCE', unit: 'Days', validity: 3 } as never);
    const locked = await doctor({ s3: { bucket: 'locked' } }, '--only', 's3');
    assert.ok(!locked.findings.some(({ finding }) => finding.includes('no Object Lock')));
    found(locked.findings, 'warning', /nobody can remove one for 3 days \(COMPLIANCE\)/);
    found(
      locked.findings,
      'ok',
      /^tried, and allowed: put, .*deletion was not tested, and lxstow-doctor-locked stays there$/,
    );
    // However often it is asked.
    found((await doctor({ s3: { bucket: 'locked' } }, '--only', 's3')).findings, 'ok', /^tried, and allowed: put/);
    assert.equal((await leftIn('locked')).length, 1);
  });

  it("finds certificates that have expired, or are not their key's, or are good for other names", async () => {
    const own = async (name: string, days: number, addresses?: string[]) => {
      const made = await makeCertificate({ commonName: name, days, ...(addresses ? { addresses } : {}) });
      await writeFile(join(dir, `${name}.crt`), made.cert);
      await writeFile(join(dir, `${name}.key`), made.key);
      return { ...made, certificate: join(dir, `${name}.crt`), key: join(dir, `${name}.key`) };
    };
    const of = async (gateway: object) => (await doctor({ gateway }, 'gateway', '--only', 'gateway')).findings;
    const pair = ({ certificate, key }: { certificate: string; key: string }) => ({ certificate, key });
    const [old, soon, good] = [await own('old', -2), await own('soon', 10), await own('good', 100, ['stow.example'])];
    found(await of(pair(old)), 'problem', /^the gateway's certificate expired on/, /restart the gateway/);
    found(await of(pair(soon)), 'warning', /^the gateway's certificate expires on .*, in \d+ days$/);
    found(
      await of({ certificate: good.certificate, key: soon.key }),
      'problem',
      /the key in .* does not belong to the certificate$/,
    );
    const named = await of({ ...pair(good), advertise: ['stow.example:8443', 'other.example:8443'] });
    found(named, 'warning', /does not name other\.example of gateway\.advertise$/);
    found(await of({ ...pair(good), trustDir: join(dir, 'no-such') }), 'problem', /^gateway\.trustDir: ENOENT/);
    const trust = join(dir, 'trust');
    await mkdir(trust);
    found(await of({ ...pair(good), trustDir: trust }), 'ok', /^no client certificates in /);
    for (const each of [old, good]) await writeFile(join(trust, `${each.fingerprint}.crt`), each.cert);
    const trusted = await of({ ...pair(good), trustDir: trust });
    found(trusted, 'ok', /^1 valid client certificate in/);
    found(trusted, 'problem', /in gateway\.trustDir expired on/);

    await using server = await listening(
      https.createServer({ cert: old.cert, key: await readFile(old.key) }, (_, response) => response.end()),
    );
    const endpoint = `https://127.0.0.1:${server.port}`;
    const { findings } = await doctor({ s3: { endpoint, ca: old.certificate } }, '--only', 's3');
    found(findings, 'problem', /^the certificate of S3 at 127\.0\.0\.1:\d+ expired on/);
    found(findings, 'problem', /cannot be reached: certificate has expired/);
  });

  it('finds a NATS that is too old, has no JetStream, or was not set up', async () => {
    const of = async (over: object, ...args: string[]) =>
      (await doctor({ nats: over }, '--only', 'nats', ...args)).findings;
    await using old = await listening(
      createServer((socket) => {
        const info = {
          server_id: 'x',
          server_name: 'x',
          version: '2.10.25',
          proto: 1,
          headers: true,
          max_payload: 1_048_576,
          jetstream: true,
        };
        socket.write(`INFO ${JSON.stringify(info)}\r\n`);
        socket.on('data', () => socket.write('PONG\r\n'));
        socket.on('error', () => socket.destroy());
      }),
    );
    found(
      await of({ servers: [`nats://127.0.0.1:${old.port}`] }),
      'problem',
      /is 2\.10\.25; lxstow needs 2\.14 or newer$/,
      /nats-server 2\.14/,
    );
    found(await of({ user: 'none', password: 'none' }), 'problem', /JetStream is off/, /jetstream/);
    found(
      await of({ user: 'empty', password: 'empty' }),
      'problem',
      /^NATS has no stream LXSTOW_JOBS, .*bucket lxstow_trust, consumer local_transfer/,
      /lxstow setup/,
    );
    found(await of({ user: 'nobody', password: 'x' }), 'problem', /Authorization Violation/i, /nats\.password/);
    found(
      await of({ replicas: 3 }),
      'warning',
      /^differs from what `lxstow setup` creates: stream LXSTOW_JOBS: num_replicas is 1/,
    );
  });

  it('says whom an LXD over https must be told to trust, and so do a worker and who asks for its version', async (t) => {
    if (!lab.lxd) return t.skip('no LXD here');
    const port = await freePort();
    await lab.lxd.lxc(['config', 'set', 'core.https_address', `127.0.0.1:${port}`]);
    const [certificate, key, serverCertificate] = [
      join(dir, 'lxd-client.crt'),
      join(dir, 'lxd-client.key'),
      join(dir, 'lxd-server.crt'),
    ];
    const made = await makeCertificate({ commonName: 'worker' });
    await writeFile(certificate, made.cert);
    await writeFile(key, made.key, { mode: 0o600 });
    using bySocket = new LxdClient('local', { socket: lxd.socket }, {});
    const signal = AbortSignal.timeout(60_000);
    const { environment } = await bySocket.get<{ environment: { certificate: string } }>('/1.0', {}, signal);
    await writeFile(serverCertificate, environment.certificate);
    const local = { url: `https://127.0.0.1:${port}`, certificate, key, serverCertificate };
    const findings = async () =>
      (await doctor({ remotes: { local: { ...local, socket: undefined } } }, '--only', 'lxd')).findings;

    const advice =
      /lxc config trust add \S+lxd-client\.crt`; if it runs Incus: `incus config trust add-certificate \S+lxd-client\.crt/;
    found(await findings(), 'problem', /^the server at https:\/\/127\.0\.0\.1:\d+ does not trust lxstow$/, advice);
    using byHttps = new LxdClient('local', local, {});
    const refusal = /does not trust lxstow: `lxstow doctor worker` says what to do/;
    await assert.rejects(readServer(byHttps, signal), { code: 'lxd-refused', message: refusal });
    await assert.rejects(probeOfLxd(byHttps)(signal, { writes: false }), { code: 'lxd-refused', message: refusal });
    assert.match(await refusedWorker({ remotes: { local: { ...local, socket: undefined } } }, signal), refusal);

    const trusted = { type: 'client', name: 'worker', certificate: made.cert.replaceAll(/-----.*-----|\s/g, '') };
    await bySocket.call({ method: 'POST', path: '/1.0/certificates', body: trusted, signal });
    found(await findings(), 'ok', /answers for host local$/);
    assert.ok((await readServer(byHttps, signal)).environment.server_version);
  });

  /** What a worker says that LXD refuses, before it says that it is ready. */
  async function refusedWorker(over: Record<string, object>, signal: AbortSignal): Promise<string> {
    const worker = { healthPort: await freePort() };
    const args = [cli, '-c', await configured({ ...over, worker, log: { format: 'json' } }), 'worker'];
    const running = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'], signal });
    const ended = once(running, 'exit');
    let refusal = '';
    for await (const line of createInterface({ input: running.stderr })) {
      const { level, message, error } = JSON.parse(line);
      if (message === 'LXD refuses this worker') refusal = `${level}: ${error}`;
      if (message === 'worker ready') running.kill();
    }
    assert.deepEqual(await ended, [0, null]);
    return refusal;
  }

  it('names the rights that a user of NATS lacks', async () => {
    const { findings } = await doctor({ nats: { user: 'little', password: 'little' } }, '--only', 'nats', 'worker');
    found(
      findings,
      'problem',
      /^the NATS user little lacks rights of a worker: subscribe lxstow\.ask\.local\.\*, .* more$/,
      /nats\.conf/,
    );
  });

  it('sees what waits on NATS', async () => {
    const connection = await connect({ servers: nats.url, user: 'all', pass: 'all' });
    await connection.request('lxstow.jobs.local.backup.default.c1', '{}');
    await connection.request('lxstow.dead.local.backup.default.c1', '{}');
    const { findings } = await doctor({}, '--only', 'nats');
    const jsm = await jetstreamManager(connection);
    for (const stream of ['LXSTOW_JOBS', 'LXSTOW_DEAD']) await jsm.streams.purge(stream);
    await connection.close();
    found(findings, 'warning', /^host local: 1 jobs wait, 0 were taken, and no worker runs$/, /lxstow worker/);
    found(findings, 'warning', /^1 dead letter for a person to retry or discard$/, /lxstow dead-letters list/);
  });

  it('compares the room for backups with the largest instance', async (context) => {
    const real = lab.lxd;
    if (!real) return context.skip(lab.lxdUnavailable);
    await real.launch('large', { dataMiB: 64, kind: 'random' });
    // Btrfs counts what is on the disk.
    await real.lxc(['exec', 'large', '--', '/bin/busybox', 'sync']);
    const of = async () => (await doctor({}, '--only', 'lxd', 'worker')).findings;
    found(
      await of(),
      'ok',
      /where (LXD|Incus) writes backups; (it does not say how large its instances are|the largest)/,
    );
    await real.lxc(['storage', 'volume', 'create', real.pool, 'backups', 'size=20MiB']);
    await real.lxc(['config', 'set', 'storage.backups_volume', `${real.pool}/backups`]);
    // Btrfs says how large an instance is when it has counted; until then there is the average of the pool.
    const full = (await of()).find(({ finding }) => /in volume \w+\/backups/.test(finding));
    assert.match(full?.finding ?? '', /^\d+ MiB are free in .*on a full disk (LXD|Incus)'s backup never ends$/);
    assert.notEqual(full?.level, 'ok');
    assert.match(full?.advice ?? '', /(lxc|incus) storage volume set/);
    await real.lxc(['config', 'unset', 'storage.backups_volume']);
  });

  it('warns of secrets that everybody may read', async () => {
    const file = await configured({});
    await chmod(file, 0o644);
    assert.match(
      await lxstow(['-c', file, 'doctor', '--only', 'configuration']),
      /warning +configuration +every user of this host may read/,
    );
  });
});

interface Listening extends AsyncDisposable {
  port: number;
}

async function listening(server: http.Server | ReturnType<typeof createServer>): Promise<Listening> {
  const sockets = new Set<{ destroy(): void }>();
  server.on('connection', (socket) => sockets.add(socket));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      const closed = once(server, 'close');
      server.close();
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

/** A proxy in front of S3 whose Date is off by so many seconds, and that refuses requests that begin so. */
function inBetween(endpoint: string, seconds: number, refuse?: string, old: string[] = []): Promise<Listening> {
  return listening(
    http.createServer((request, response) => {
      if (refuse && `${request.method} ${request.url}`.startsWith(refuse)) {
        response.writeHead(403, { 'content-type': 'application/xml' });
        return response.end('<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>');
      }
      const { method, headers } = request;
      const onward = http.request(
        new URL(request.url ?? '/', endpoint),
        { method: method ?? 'GET', headers, agent: false },
        async (answer) => {
          const date = new Date(Date.now() + seconds * 1000).toUTCString();
          response.writeHead(answer.statusCode ?? 500, { ...answer.headers, date });
          if (old.length === 0 || !request.url?.includes('list-type')) return answer.pipe(response);
          // Of the same length.
          const aged = (listed: string, key: string) =>
            listed.replace(new RegExp(`(?<=<Key>${key}</Key>.*?<LastModified>)\\d{4}`, 's'), '2020');
          response.end(old.reduce(aged, await text(answer)));
        },
      );
      request.pipe(onward);
    }),
  );
}
