/** `lxstow init`: how it reads answers, which server it takes, what it writes for systemd and into the configuration. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, it, mock } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { parse } from 'yaml';
import { loadConfig } from '../../services/contract/config.ts';
import { type Check, examine } from '../../services/doctor/finding.ts';
import { poolsBeside } from '../../services/doctor/folder.ts';
import { isOlder } from '../../services/doctor/nats.ts';
import { chooseServer, findAnswers, type Question } from '../../services/init/askAnswers.ts';
import {
  keepCa,
  keepConfiguration,
  keptConfiguration,
  readEarlier,
  usualPorts,
  writeConfiguration,
} from '../../services/init/configurationFile.ts';
import { readBucket, readDays, readPlace, readTime, readYes, type S3Place } from '../../services/init/initAnswers.ts';
import { placesFor } from '../../services/init/places.ts';
import { recoveryPage, writePage } from '../../services/init/recoveryPage.ts';
import type { LocalServer } from '../../services/init/servers.ts';
import { tryFolder } from '../../services/init/tryStore.ts';
import { undo } from '../../services/init/undo.ts';
import { dropIn, ownUnit, unitFiles } from '../../services/init/units.ts';
import { markerName } from '../../services/storage/folder/folderMarker.ts';

const place: S3Place = {
  endpoint: 'https://s3.example.net',
  bucket: 'backups',
  region: 'eu-central-1',
  accessKey: 'key',
  secretKey: 'it\'s # secret: "x"',
};
const server = (product: 'LXD' | 'Incus', instances: number): LocalServer => ({
  product,
  version: '1',
  socket: `/${product}`,
  gid: 0,
  instances: Array.from({ length: instances }, (_, index) => `c${index}`),
  pools: [],
});
const settings = { store: place, access: {}, socket: '/s', state: '/state', ports: usualPorts };

/** Gives these answers, one after the other, and remembers what was asked and refused. */
function person(...answers: string[]) {
  const asked: string[] = [];
  const refused: string[] = [];
  return {
    asked,
    refused,
    async ask<T>({ text, usual, read }: Question<T>): Promise<T> {
      asked.push(text);
      for (;;) {
        const next = answers.shift();
        assert.ok(next !== undefined, `no answer to ${text}`);
        try {
          return await read(next === '' && usual !== undefined ? usual : next);
        } catch (error) {
          refused.push((error as Error).message);
        }
      }
    },
  };
}

describe('answers to lxstow init', () => {
  it('a place is a folder, or an S3 server with or without a bucket', () => {
    assert.deepEqual(readPlace(' /mnt/nas/lxstow/ '), { folder: '/mnt/nas/lxstow' });
    assert.deepEqual(readPlace('https://s3.example.net'), { endpoint: place.endpoint, bucket: undefined });
    assert.deepEqual(readPlace('http://box:9000/lxstow/'), { endpoint: 'http://box:9000', bucket: 'lxstow' });
    for (const wrong of [
      '',
      'backups',
      './x',
      '/',
      's3://b',
      'https://',
      'https://h/b/more',
      'https://h/B',
      'https://u:p@h',
      'https://h?x',
      '/a"b',
    ])
      assert.throws(() => readPlace(wrong), { code: 'bad-request' }, wrong);
  });

  it('times, nights, buckets and yes or no', () => {
    assert.deepEqual(['3', '03:00', '23:59', 'no', 'never'].map(readTime), [
      '03:00',
      '03:00',
      '23:59',
      undefined,
      undefined,
    ]);
    for (const wrong of ['', '24', '3:60', '3pm', '03:0']) assert.throws(() => readTime(wrong), /time of day/, wrong);
    assert.equal(readDays(' 14 '), 14);
    for (const wrong of ['', '0', '-1', '1.5', 'x', '99999'])
      assert.throws(() => readDays(wrong), /number of nights/, wrong);
    assert.throws(() => readBucket('ab'), /3 to 63/);
    assert.deepEqual(['y', 'YES', 'n'].map(readYes), [true, true, false]);
    assert.throws(() => readYes('perhaps'), /yes or no/);
  });

  it('with an LXD and an Incus it asks which, and proposes the one with more instances', async () => {
    const both = { found: [server('LXD', 1), server('Incus', 3)], unusable: [] };
    const one = person('docker', '');
    assert.equal((await chooseServer(both, {}, one)).product, 'Incus');
    assert.match(one.asked[0] ?? '', /LXD has 1, Incus has 3/);
    assert.match(one.refused[0] ?? '', /answer lxd or incus/);
    assert.equal((await chooseServer(both, { engine: 'lxd' }, undefined)).product, 'LXD');
    // What is configured already is the usual answer.
    assert.equal((await chooseServer(both, {}, person(''), '/LXD')).product, 'LXD');
    assert.equal((await chooseServer(both, {}, undefined, '/LXD')).product, 'LXD');
    assert.equal((await chooseServer({ found: [server('LXD', 0)], unusable: [] }, {}, person())).product, 'LXD');
    await assert.rejects(chooseServer({ found: [], unusable: [] }, {}, undefined), /install one and initialise it/);
    await assert.rejects(
      chooseServer({ found: [], unusable: ['no permission'] }, {}, undefined),
      /no permission\. Run this as root/,
    );
  });

  it('a folder is tried at once, and asked for again when it will not do', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'lxstow-init-'));
    writeFileSync(join(folder, 'versitygw'), '', { mode: 0o755 });
    writeFileSync(join(folder, 'file'), '');
    mkdirSync(join(folder, 'state'));
    symlinkSync(join(folder, 'state'), join(folder, 'link'));
    const said: string[] = [];
    const asking = {
      options: {},
      earlier: undefined,
      repeated: false,
      server: server('LXD', 2),
      env: { PATH: folder },
      state: join(folder, 'state'),
      confined: false,
      stop: new AbortController().signal,
      say: (text: string) => void said.push(text),
    };
    const own = [`${folder}/state`, `${folder}/link/store`];
    const wrong = ['/nowhere/at/all', `${folder}/file`, `${folder}/file/below`, ...own];
    const asker = person(...wrong, `${folder}/store`, 'no', 'c7', 'c1');
    const { store, nightly, backup } = await findAnswers({ ...asking, asker });
    assert.deepEqual([store, nightly, backup], [{ folder: `${folder}/store` }, undefined, { instance: 'c1' }]);
    const faults = said.filter((text) => / problem /.test(text)).map((text) => text.split('\n')[0]?.trim());
    assert.deepEqual(faults, [
      'problem  /nowhere/at does not exist',
      `problem  ${folder}/file is not a folder`,
      `problem  ${folder}/file is not a folder`,
      ...own.map((each) => `problem  ${each} is in lxstow's own folder, ${folder}/state`),
    ]);
    assert.match(said.join('\n'), /store can be written to\n.* are free in /);
    assert.ok(!existsSync(`${folder}/store`), 'nothing is made before all is answered');
    const flags = { store: `${folder}/store`, nightly: '01:30', keepDaily: '5', backup: 'none' };
    assert.deepEqual(await findAnswers({ ...asking, options: flags, asker: undefined }), {
      store,
      access: {},
      nightly: { time: '01:30', keepDaily: 5 },
      backup: 'none',
    });
    // What nobody chose is not an answer: a schedule that is there already stays as it is.
    const yes = { ...asking, asker: undefined, options: { store: `${folder}/store`, backup: 'none' } };
    const unchosen = { time: undefined, keepDaily: undefined };
    assert.deepEqual((await findAnswers(yes)).nightly, unchosen);
    const timed = { ...yes, options: { ...yes.options, nightly: '01:30' } };
    assert.deepEqual((await findAnswers(timed)).nightly, { time: '01:30', keepDaily: undefined });
    const counted = { ...yes, options: { ...yes.options, keepDaily: '5' } };
    assert.deepEqual((await findAnswers(counted)).nightly, { time: undefined, keepDaily: 5 });
    // After one that was cut off, everything is asked again, and the store is the usual answer.
    const earlier = {
      store,
      hasStore: true,
      access: { prefix: 'berlin' },
      socket: '/s',
      ports: usualPorts,
      hasNats: false,
    };
    const usual = { store, access: { prefix: 'berlin' }, nightly: { time: '03:00', keepDaily: 14 }, backup: 'all' };
    assert.deepEqual(await findAnswers({ ...asking, earlier, asker: undefined }), { ...usual, nightly: unchosen });
    assert.deepEqual(await findAnswers({ ...asking, earlier, asker: person('', '', '', '') }), usual);
    // A second time, without options, everything stays as it is.
    const again = { ...asking, earlier, repeated: true };
    const unchanged = { store, access: { prefix: 'berlin' }, nightly: undefined, backup: 'none' };
    assert.deepEqual(await findAnswers({ ...again, asker: undefined }), unchanged);
    assert.deepEqual(await findAnswers({ ...again, asker: person('', '', '') }), unchanged);
    const env = { ...asking.env, LXSTOW_S3_PREFIX: 'paris', LXSTOW_S3_PATH_STYLE: 'false' };
    const moved = await findAnswers({ ...again, env, asker: undefined });
    assert.deepEqual(moved.access, { prefix: 'paris', pathStyle: false });
    const later = await findAnswers({ ...again, asker: person('', '4:30', '', '') });
    assert.deepEqual(later.nightly, { time: '04:30', keepDaily: undefined }, 'the number of nights stays');
    const never = await findAnswers({ ...again, asker: person('', 'no', '') });
    assert.equal(never.nightly, 'none');
    const weekly = await findAnswers({ ...again, options: { keepDaily: '7' }, asker: undefined });
    assert.deepEqual(weekly.nightly, { time: undefined, keepDaily: 7 });
    // The store stays, even when its keys are elsewhere by now.
    const keyless = findAnswers({ ...again, earlier: { ...earlier, store: undefined }, asker: undefined });
    await assert.rejects(keyless, /names a store without its keys/);
  });
});

it('a check that is late reports only what it could not remove, not the requests that were cut off', async () => {
  const late = new AbortController();
  const { mock: timeout } = mock.method(AbortSignal, 'timeout', () => late.signal);
  const check: Check = async ({ signal }, report, reportLeft) => {
    report('ok', 'before');
    await once(signal, 'abort');
    report('problem', 'S3 does not support conditional writes: no answer in 5 s');
    reportLeft('warning', 'the test object may still be in the bucket');
    signal.throwIfAborted();
  };
  const examined = examine('s3', check, {} as never, new AbortController().signal);
  timeout.restore();
  late.abort(new DOMException('late', 'TimeoutError'));
  assert.deepEqual(
    (await examined).map(({ finding }) => finding),
    ['before', 'the test object may still be in the bucket', 'the remaining checks did not finish within 20 s'],
  );
});

it('a check that is stopped removes what it has created before it ends', async () => {
  const stop = new AbortController();
  let there = false;
  const check = async ({ signal }: { signal: AbortSignal }) => {
    there = true;
    try {
      await once(signal, 'abort');
      signal.throwIfAborted();
    } finally {
      for (let answers = 0; answers < 3; answers += 1) await setImmediate();
      there = false;
    }
  };
  const examined = examine('s3', check, {} as never, stop.signal);
  stop.abort(new Error('stopped'));
  await assert.rejects(examined, /stopped/);
  assert.equal(there, false);
});

const isRoot = process.getuid?.() === 0;
it("a folder is tried with the rights of the package's service, too", { skip: !isRoot && 'not root' }, async () => {
  const bin = mkdtempSync(join(tmpdir(), 'lxstow-init-'));
  writeFileSync(join(bin, 'versitygw'), '', { mode: 0o755 });
  const folder = join(bin, 'nas');
  mkdirSync(folder);
  const problems = async (confined: boolean) =>
    (await tryFolder({ folder }, server('LXD', 0), { env: { PATH: bin }, state: '/state', confined }))
      .filter(({ level }) => level === 'problem')
      .map(({ finding, advice }) => `${finding} → ${advice}`);
  assert.deepEqual(await problems(true), []);
  chownSync(folder, 1000, 1000);
  assert.deepEqual(await problems(false), []);
  assert.match((await problems(true)).join(), /service may not write to .*nas: .* → chown root: /);
  assert.deepEqual(readdirSync(folder), []);
  writeFileSync(join(folder, markerName), '');
  assert.match((await problems(true)).join(), /→ chown -R root: /);
  rmSync(join(folder, markerName));
  // What a home directory is on some systems.
  chownSync(folder, 0, 0);
  chownSync(bin, 1000, 1000);
  chmodSync(bin, 0o700);
  const [problem = ''] = await problems(true);
  assert.ok(
    problem.endsWith(`→ Use a folder outside of ${bin}, which other users may not enter, or: chmod o+x '${bin}'.`),
    problem,
  );
});

it('a pool is beside a folder when its folder or disk image is on the same disk', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'lxstow-init-'));
  const pools = [
    { name: 'folder', source: folder },
    { name: 'image', source: join(folder, 'default.img') },
    { name: 'dataset', source: 'tank/lxd' },
    { name: 'elsewhere', source: '/proc' },
  ];
  assert.deepEqual(await poolsBeside(folder, pools), ['folder', 'image']);
});

describe('what lxstow init writes', () => {
  const places = () =>
    placesFor(join(mkdtempSync(join(tmpdir(), 'lxstow-init-')), 'lxstow.yaml'), { HOME: '/home/me' }, false);

  it('a configuration that is valid, for its owner alone, and read again by the next run', async () => {
    const there = places();
    assert.equal(await writeConfiguration(there, settings), true);
    assert.equal(statSync(there.config).mode & 0o777, 0o600);
    const config = loadConfig({ file: there.config, env: {} });
    assert.deepEqual(
      [config.s3.secretKey, config.s3.region, config.remotes.local?.socket],
      [place.secretKey, 'eu-central-1', '/s'],
    );
    const read = { store: place, hasStore: true, access: {}, socket: '/s', ports: usualPorts, hasNats: false };
    assert.deepEqual(readEarlier(there), read);
    assert.equal(await writeConfiguration(there, settings), false);
    const access = { prefix: 'berlin', pathStyle: false, checksumHeaders: true };
    assert.equal(await writeConfiguration(there, { ...settings, access }), true);
    assert.deepEqual(readEarlier(there)?.access, access);
    assert.equal(await writeConfiguration(there, settings), false);
    const ports = { ...usualPorts, gateway: 9443 };
    assert.equal(await writeConfiguration(there, { ...settings, ports }), true);
    assert.deepEqual(readEarlier(there)?.ports, ports);
  });

  it('no second host when the owner has given the host another name, or reaches it by its URL', async () => {
    for (const remote of ['{ socket: /s }', '{ url: "https://lxd.example.net:8443" }']) {
      const there = places();
      writeFileSync(there.config, `remotes: { box: ${remote} }\nworker: { remote: box }\n`);
      await writeConfiguration(there, settings);
      assert.deepEqual(parse(readFileSync(there.config, 'utf8')).remotes, parse(`box: ${remote}`));
    }
    const there = places();
    writeFileSync(there.config, 'remotes: { box: { socket: /old } }\nworker: { remote: box }\n');
    await writeConfiguration(there, settings);
    assert.equal(readEarlier(there)?.socket, '/s');
  });

  it('has the CA beside it, wherever that was', async () => {
    const there = places();
    const ca = join(mkdtempSync(join(tmpdir(), 'lxstow-init-')), 'ca.pem');
    writeFileSync(ca, 'PEM\n', { mode: 0o600 });
    const store = (await keepCa(there, { ...place, ca })) as S3Place;
    assert.equal(store.ca, join(there.config, '..', 's3-ca.crt'));
    assert.equal(statSync(store.ca ?? '').mode & 0o777, 0o644);
    assert.deepEqual(await keepCa(there, store), store);
    assert.match(
      recoveryPage({ store, access: {} }, new Date(0)),
      /cat >lxstow-ca\.crt <<'END'\nPEM\nEND\n[\s\S]*--ca lxstow-ca\.crt\n/,
    );
  });

  it('keeps a configuration that was there, beside it', async () => {
    const there = places();
    assert.equal(await keepConfiguration(there), false);
    writeFileSync(there.config, '# mine\nlog:\n  level: debug\n');
    assert.equal(await keepConfiguration(there), true);
    await writeConfiguration(there, settings);
    assert.equal(readFileSync(keptConfiguration(there), 'utf8'), '# mine\nlog:\n  level: debug\n');
    assert.match(readFileSync(there.config, 'utf8'), /^# mine\nlog:\n {2}level: debug\n/);
  });

  it('not over a store of other people, wherever its keys are', () => {
    const there = places();
    const hasStore = (s3: string) => {
      writeFileSync(there.config, `s3: ${s3}\n`);
      return readEarlier(there)?.hasStore;
    };
    const packaged = readFileSync(new URL('../../packaging/lxstow.yaml', import.meta.url), 'utf8');
    for (const none of ['{}', '{ prefix: berlin }', JSON.stringify(parse(packaged).s3)])
      assert.equal(hasStore(none), false, none);
    for (const store of [
      '{ endpoint: https://s3.example.net, bucket: lxstow }',
      '{ bucket: prod }',
      '{ folder: /nas }',
    ])
      assert.equal(hasStore(store), true, store);
  });

  it('fills sections that were there, and empty', async () => {
    const there = places();
    writeFileSync(there.config, 's3:\n  # bucket: mine\nremotes:\nworker:\n  # slots: 2\n');
    assert.equal(readEarlier(there)?.hasStore, false);
    await writeConfiguration(there, settings);
    assert.equal(loadConfig({ file: there.config, env: {} }).s3.bucket, 'backups');
    assert.match(readFileSync(there.config, 'utf8'), /^s3:\n {2}# bucket: mine\n {2}endpoint: /);
    writeFileSync(there.config, '- s3\n');
    assert.throws(() => readEarlier(there), /must contain keys and values/);
  });

  it('a unit of its own without the package, with the port of NATS where that is another one', () => {
    const service = {
      places: placesFor('/etc/lxstow/lxstow.yaml', {}, true),
      program: ['/opt/node', '/opt/my lxstow/main.js'],
      env: { PATH: '/usr/bin' },
      natsPort: 4223,
      healthPorts: [],
      gid: 107,
      folder: undefined,
    };
    const [file] = unitFiles(service, [...service.program, 'standalone', '--nats-port', '4223']);
    assert.equal(file?.path, '/etc/systemd/system/lxstow-standalone.service');
    assert.match(
      file?.content ?? '',
      /^ExecStart=\/opt\/node "\/opt\/my lxstow\/main\.js" standalone --nats-port 4223$/m,
    );
  });

  it('a drop-in whose service reads the configuration that init writes, whatever its name is', () => {
    const service = { program: ['lxstow'], env: {}, natsPort: 4222, healthPorts: [], gid: 107 };
    const places = placesFor('/etc/lxstow/home 100%.yaml', {}, true);
    const text = (folder?: string) => dropIn({ ...service, places, folder }, ['lxstow']);
    assert.match(text('/mnt/nas'), /^Environment="LXSTOW_CONFIG=\/etc\/lxstow\/home 100%%\.yaml"$/m);
    assert.match(text(), /^LoadCredential=lxstow\.yaml:\/etc\/lxstow\/home 100%%\.yaml$/m);
  });

  it('mounts nothing at the folder of backups or above it, so that `umount` and a later mount reach the service', () => {
    const service = {
      places: placesFor('/etc/lxstow/lxstow.yaml', {}, true),
      program: ['lxstow'],
      env: {},
      natsPort: 4222,
      healthPorts: [],
      gid: 107,
    };
    const valuesOf = (text: string, key: string) =>
      [...text.matchAll(new RegExp(`^${key}=(.*)$`, 'gm'))].map(([, value = '']) => value);
    for (const folder of [
      '/mnt/nas/lxstow',
      '/mnt/lxstow',
      '/srv',
      '/var/backups/lxstow',
      '/home/me/x',
      '/tmp/x',
      '/b',
    ]) {
      const text = dropIn({ ...service, folder }, ['lxstow']);
      assert.doesNotMatch(text, /^(ReadWrite|Bind)Paths/m);
      assert.deepEqual(valuesOf(text, 'ProtectSystem'), ['full']);
      const guarded = valuesOf(text, 'ReadOnlyPaths').flatMap((value) => value.replaceAll('-', '').split(' '));
      for (const path of guarded) assert.ok(!`${folder}/`.startsWith(`${path}/`), `${folder} in ${path}`);
      for (const path of ['/mnt', '/run', '/var/lib', '/var/spool', '/root'])
        assert.ok(guarded.includes(path) || folder.startsWith(`${path}/`), `${path} can be written to`);
      assert.deepEqual(valuesOf(text, 'ProtectHome'), folder.startsWith('/home/') ? ['no'] : []);
      assert.deepEqual(valuesOf(text, 'PrivateTmp'), folder.startsWith('/tmp/') ? ['no'] : []);
    }
  });

  it('a sandbox that lets the service write to a folder behind a link, or where ProtectSystem=full is read-only', () => {
    const service = { program: ['lxstow'], env: { PATH: '' }, natsPort: 4222, healthPorts: [], gid: 107 };
    const places = placesFor('/etc/lxstow/lxstow.yaml', {}, true);
    const text = (folder: string, links: Record<string, string> = {}) =>
      dropIn({ ...service, places, folder }, ['lxstow'], (path) => links[path] ?? path);
    const backups = text('/data/backups/lxstow', { '/var/backups': '/data/backups' });
    assert.doesNotMatch(backups, /-\/var\/backups/);
    assert.match(backups, /-\/var\/cache/);
    assert.match(text('/data/home/anna/b', { '/home': '/data/home' }), /^ProtectHome=no$/m);
    assert.match(text('/data/tmp/b', { '/tmp': '/data/tmp' }), /^PrivateTmp=no$/m);
    const local = text('/usr/local/b');
    assert.match(local, /^ProtectSystem=no$/m);
    assert.match(local, /^ReadOnlyPaths=-\/boot -\/efi -\/etc -\/usr\/bin /m);
    assert.match(ownUnit({ ...service, places, folder: '/etc/b' }, ['lxstow']), /^ProtectSystem=no$/m);
    assert.match(ownUnit({ ...service, places, folder: '/mnt/b' }, ['lxstow']), /^ProtectSystem=full$/m);
  });

  it('no recovery page over that of a store with a similar name', async () => {
    const there = places();
    for (const endpoint of ['https://minio.example.net', 'https://minio', 'https://minio'])
      await writePage(there, { store: { ...place, endpoint }, access: {} });
    const pages = readdirSync(join(there.page, '..')).sort();
    assert.equal(pages.length, 2);
    const texts = pages.map((name) => readFileSync(join(there.page, '..', name), 'utf8'));
    assert.match(texts[0] ?? '', /at https:\/\/minio\.example\.net\.$/m);
    assert.match(texts[1] ?? '', /at https:\/\/minio\.$/m);
  });

  it('a recovery page whose commands keep keys in one piece', () => {
    const page = recoveryPage({ store: place, access: {} }, new Date(0));
    assert.match(page, /export LXSTOW_S3_ACCESS_KEY=key LXSTOW_S3_SECRET_KEY='it'\\''s # secret: "x"'/);
    assert.match(page, /--store https:\/\/s3\.example\.net\/backups .*--region eu-central-1/);
    const access = { prefix: 'berlin', pathStyle: false };
    assert.match(
      recoveryPage({ store: place, access }, new Date(0)),
      / LXSTOW_S3_PREFIX=berlin LXSTOW_S3_PATH_STYLE=false\nlxstow init --yes .*\nunset .* LXSTOW_S3_PATH_STYLE\n/,
    );
    assert.match(
      recoveryPage({ store: { folder: '/mnt/nas' }, access: {} }, new Date(0)),
      /--store \/mnt\/nas --no-nightly/,
    );
  });
});

it('lxstow init --undo removes what lxstow wrote, and no backup, wherever that is', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'lxstow-init-'));
  const there = placesFor(join(folder, 'lxstow.yaml'), { XDG_STATE_HOME: folder }, false);
  const { state } = there;
  const backups = ['.lxstow-store', 'objects/lxstow/backup', 'nas/metadata/lxstow/backup'];
  for (const file of ['nats/password', 'store/secret', 'server.key', ...backups]) {
    mkdirSync(join(state, file, '..'), { recursive: true });
    writeFileSync(join(state, file), '');
  }
  const store = `the folder ${state}`;
  const record = { hadConfiguration: false, state, natsPort: 4222, service: 'background' as const, units: [], store };
  const kept = await undo(there, record);
  assert.deepEqual(readdirSync(state).sort(), ['.lxstow-store', 'nas', 'objects', 'store']);
  for (const file of backups) assert.ok(existsSync(join(state, file)), file);
  assert.match(kept.join('\n'), /^what else is in \S+\/lxstow: [^/]+$/m);
});

it('lxstow init --undo ends what a killed standalone has left running, and no process that has got its number', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'lxstow-init-'));
  const there = placesFor(join(folder, 'lxstow.yaml'), { XDG_STATE_HOME: folder }, false);
  const { state } = there;
  const store = 'the folder /nas';
  const record = { hadConfiguration: false, state, natsPort: 4222, service: 'background' as const, units: [], store };
  const ends = async (words: string[], file: string) => {
    mkdirSync(join(state, file, '..'), { recursive: true });
    const child = spawn(process.execPath, ['-e', 'setInterval(() => undefined, 1000)', '--', ...words]);
    const ended = once(child, 'exit');
    try {
      await once(child, 'spawn');
      writeFileSync(join(state, file), `${child.pid} 1\n`);
      await undo(there, record);
      return (
        child.exitCode !== null || child.signalCode !== null || !readFileSync(`/proc/${child.pid}/cmdline`, 'utf8')
      );
    } finally {
      child.kill('SIGKILL');
      await ended;
    }
  };
  assert.equal(await ends(['nats-server', '--config', join(state, 'nats', 'nats.conf')], 'nats/pid'), true);
  assert.equal(await ends(['versitygw'], 'store/pids'), true);
  assert.equal(await ends(['nats-server', '--config', '/etc/nats.conf'], 'nats/pid'), false);
  assert.equal(await ends(['editor'], 'store/pids'), false);
});

it('a nats-server is due when it is older than the one that lxstow is tested with', () => {
  for (const older of ['2.15.0', '2.14.9', '1.99.99', '2.14.0-beta.1'])
    assert.equal(isOlder(older, '2.15.1'), true, older);
  for (const newer of ['2.15.1', '2.15.2', '2.16.0', '3.0.0', '2.15.1-beta.1', ''])
    assert.equal(isOlder(newer, '2.15.1'), false, newer);
});
