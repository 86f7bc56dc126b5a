/** What a restore touches, and what it leaves as it was, on a real LXD: other people rename, start and protect meanwhile. */
import assert from 'node:assert/strict';
import { createHash, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import https from 'node:https';
import { json, text } from 'node:stream/consumers';
import { after, before, describe, it } from 'node:test';
import type { Manifest, Operation } from '../../services/contract/schemas.ts';
import type { Abilities } from '../../services/lxd/forward.ts';
import type { LxdInstance } from '../../services/lxd/instances.ts';
import { recordedInstances } from '../../services/lxd/inventory.ts';
import { type Certificate, makeCertificate } from '../lab/certificates.ts';
import type { Answer } from '../lab/lxstow.ts';
import { publish } from './publisher.ts';
import { assertError, assertSame, failed, idOf, openStack, type Stack, succeeded, until } from './stack.ts';

const macKey = 'volatile.eth0.hwaddr';

describe('a restore', { timeout: 1_800_000 }, () => {
  let stack: Stack;
  let lxc: (...args: string[]) => Promise<string>;
  let isReal = false;
  before(async () => {
    // What happens amid a restore of 150 MiB is to happen before its end.
    stack = await openStack('restoring', { config: { worker: { slots: 2, bandwidth: '64MiB' } } });
    isReal = stack.lab.lxd !== undefined;
    lxc = async (...args) => (await stack.lab.lxd?.lxc(args)) ?? '';
    if (!isReal) return;
    await stack.launch('large', { dataMiB: 150 });
    await stack.launch('web', { dataMiB: 2 });
  });
  after(() => stack?.[Symbol.asyncDispose]());

  const path = (instance: string, backup: string) => `/1.0/instances/${instance}/backups/${backup}`;
  const restore = (instance: string, backup: string, body: object = {}) =>
    stack.stow.request('POST', path(instance, backup), { body });
  const show = async (name: string): Promise<LxdInstance> =>
    JSON.parse(await lxc('query', `/1.0/instances/${name}`)) as LxdInstance;

  /** Every instance with its state, but those that have nothing to do with `names`. */
  async function instances(...names: string[]): Promise<string[]> {
    const all = JSON.parse(await lxc('query', '/1.0/instances?recursion=1')) as LxdInstance[];
    return all
      .filter(({ name }) => name.startsWith('lxstow-') || names.some((wanted) => name.startsWith(wanted)))
      .map(({ name, status }) => `${name} ${status}`)
      .sort();
  }

  /** What must be as it was; what a start and a stop change is left out. */
  async function configOf(name: string): Promise<Record<string, string>> {
    const { config } = await show(name);
    const passing = /^volatile\.(idmap|last_state|[^.]+\.(host_name|last_state))/;
    return Object.fromEntries(Object.entries(config).filter(([key]) => !passing.test(key)));
  }

  const moved = (answer: Answer) =>
    until(
      async () => (await stack.stow.request('GET', answer.body.operation)).body.metadata as Operation,
      ({ status_code, metadata }) => status_code >= 200 || (metadata.bytes_done ?? 0) > 5_000_000,
    );

  for (const end of ['ends', 'is cancelled'] as const) {
    it(`that ${end} leaves the original alone that is renamed back and started meanwhile`, async (t) => {
      if (!isReal) return t.skip('no LXD here');
      const backup = await stack.backup('large', '?compression=none');
      const files = await stack.fingerprint('large');
      await lxc('stop', '-f', 'large');
      await lxc('rename', 'large', 'large-aside');
      const before = await configOf('large-aside');
      const answer = await restore('large', backup);
      await moved(answer);
      await lxc('rename', 'large-aside', 'large');
      await lxc('start', 'large');
      if (end === 'is cancelled') {
        await stack.stow.request('DELETE', answer.body.operation);
        const { status } = await stack.stow.finished(answer);
        assert.ok(['Cancelled', 'Failure'].includes(status), status);
      } else {
        const { err, code } = await failed(stack.stow, answer);
        assert.equal(code, 'conflict');
        assert.match(
          err,
          /(another client has made an instance large in the meantime|large already exists on local); it was not touched/,
        );
      }
      assert.deepEqual(await instances('large'), ['large Running']);
      assertSame(await stack.fingerprint('large'), files);
      const changed = ['volatile.cloud-init.instance-id', 'volatile.apply_template'];
      const rest = (config: object) => Object.entries(config).filter(([key]) => !changed.includes(key));
      assert.deepEqual(rest(await configOf('large')), rest(before));
    });
  }

  it('that replaces gives the instance the identity of its backup, and nothing of ours stays', async (t) => {
    if (!isReal) return t.skip('no LXD here');
    const backup = await stack.backup('web');
    const before = await configOf('web');
    const files = await stack.fingerprint('web');
    await succeeded(stack.stow, await restore('web', backup, { replace: true }));
    assert.deepEqual(await instances('web'), ['web Running']);
    assert.deepEqual(await configOf('web'), before);
    assertSame(await stack.fingerprint('web'), files);
  });

  it('of a running instance does not run when LXD is started again, unless it was to', async (t) => {
    if (!isReal) return t.skip('no LXD here');
    await stack.launch('rebooted');
    const backup = await stack.backup('rebooted');
    const before = await configOf('rebooted');
    await stack.remove('rebooted');
    await succeeded(stack.stow, await restore('rebooted', backup));
    await succeeded(stack.stow, await restore('rebooted', backup, { name: 'rebooted-2', start: true }));
    await stack.lab.lxd?.kill('SIGKILL');
    await stack.lab.lxd?.start();
    // By its own order LXD has started all that it will when it has started this one.
    await lxc('config', 'set', 'rebooted-2', 'user.seen', 'yes');
    assert.deepEqual(await instances('rebooted'), ['rebooted Stopped', 'rebooted-2 Running']);
    assert.deepEqual(await configOf('rebooted'), before);
    for (const name of ['rebooted', 'rebooted-2']) await stack.remove(name);
  });

  it('that replaces is refused before anything is done where the instance cannot give way', async (t) => {
    if (!isReal) return t.skip('no LXD here');
    await lxc('init', 'bb', 'once', '--ephemeral', '--config', 'security.privileged=true');
    await lxc('start', 'once');
    const backup = await stack.backup('once');
    assertError(await restore('once', backup, { replace: true }), 409, /once cannot be replaced: it is ephemeral/);
    assert.deepEqual(await instances('once'), ['once Running']);
    await stack.remove('once');

    const kept = await stack.backup('web');
    await lxc('config', 'set', 'web', 'security.protection.delete', 'true');
    assertError(await restore('web', kept, { replace: true }), 409, /web cannot be replaced: it is protected/);
    await lxc('config', 'unset', 'web', 'security.protection.delete');
    assert.deepEqual(await instances('web'), ['web Running']);
  });

  it('that is cancelled removes what it made, protected or not', async (t) => {
    if (!isReal) return t.skip('no LXD here');
    await lxc('config', 'set', 'large', 'security.protection.delete', 'true');
    const backup = await stack.backup('large', '?compression=none');
    await lxc('config', 'unset', 'large', 'security.protection.delete');
    // LXD may have unpacked it before the cancel comes, which is then refused: once more.
    for (let tries = 1; ; tries++) {
      const answer = await restore('large', backup, { name: 'large-copy' });
      // LXD has made it, under a name of ours, and unpacks.
      await until(
        () => instances('large-copy'),
        (there) => there.some((name) => name.startsWith('lxstow-') || name.startsWith('large-copy')),
      );
      const { status } = await stack.stow.request('DELETE', answer.body.operation);
      const operation = await stack.stow.finished(answer);
      assert.equal(operation.status, status === 200 ? 'Cancelled' : 'Success', operation.err);
      if (status === 200) break;
      assert.ok(tries < 10, 'each cancel came too late');
      await lxc('config', 'unset', 'large-copy', 'security.protection.delete');
      await lxc('delete', '-f', 'large-copy');
    }
    assert.deepEqual(await instances('large'), ['large Running']);
  });

  it('that replaces a frozen instance leaves one that runs', async (t) => {
    if (!isReal) return t.skip('no LXD here');
    const backup = await stack.backup('web');
    await lxc('pause', 'web');
    await succeeded(stack.stow, await restore('web', backup, { replace: true }));
    assert.deepEqual(await instances('web'), ['web Running']);
  });

  it('that does not start walks back once: the one before runs as it did', async (t) => {
    if (!isReal) return t.skip('no LXD here');
    await lxc('config', 'set', 'web', 'raw.lxc', 'lxc.hook.pre-start = /bin/false');
    const backup = await stack.backup('web');
    await lxc('config', 'unset', 'web', 'raw.lxc');
    const before = await configOf('web');
    const files = await stack.fingerprint('web');
    const answer = await restore('web', backup, { replace: true });
    const { err, code } = await failed(stack.stow, answer);
    assert.equal(code, 'not-replaced');
    assert.match(err, /^instance web could not be replaced, and is as it was: /);
    assert.equal(
      (await stack.stow.logOf(0)).split('job begun').filter((line) => line.includes(idOf(answer))).length,
      1,
    );
    assert.deepEqual(await instances('web'), ['web Running']);
    assert.deepEqual(await configOf('web'), before);
    assertSame(await stack.fingerprint('web'), files);

    const alone = await failed(stack.stow, await restore('web', backup, { name: 'web-2', start: true }));
    assert.equal(alone.code, 'not-started');
    assert.match(alone.err, /web-2 is restored, but does not start: /);
    assert.deepEqual(await instances('web'), ['web Running', 'web-2 Stopped']);
    assert.equal((await show('web-2')).config['user.lxstow.restored'], undefined);
    await stack.remove('web-2');
  });

  it('under another name is no twin of the instance that lives, unless that is wanted', async (t) => {
    if (!isReal) return t.skip('no LXD here');
    await lxc('init', 'bb', 'db', '--config', 'security.privileged=true');
    await lxc('config', 'device', 'add', 'db', 'eth0', 'nic', 'nictype=p2p', 'name=eth0');
    // As a VLAN may be called.
    await lxc('config', 'device', 'add', 'db', 'eth0.100', 'nic', 'nictype=p2p', 'name=eth1');
    await lxc('start', 'db');
    const backup = await stack.backup('db');
    const original = (await show('db')).config;
    const keys = ['volatile.uuid', macKey, 'volatile.eth0.100.hwaddr', 'volatile.cloud-init.instance-id'];
    for (const key of keys) assert.ok(original[key], key);

    await succeeded(stack.stow, await restore('db', backup, { name: 'db-own', start: true }));
    const own = (await show('db-own')).config;
    for (const key of keys) assert.notEqual(own[key], original[key], key);
    assert.match(own[macKey] ?? '', /^00:16:3e(:[0-9a-f]{2}){3}$/);

    const kept = await succeeded(stack.stow, await restore('db', backup, { name: 'db-kept', keep_identity: true }));
    const { config } = await show('db-kept');
    for (const key of keys) assert.equal(config[key], original[key], key);
    assert.match(kept.metadata.warnings?.[0] ?? '', /^db has the same identity/);

    await lxc('config', 'device', 'set', 'db', 'eth0', 'hwaddr=00:16:3e:12:34:56');
    const fixed = await stack.backup('db');
    const told = await succeeded(stack.stow, await restore('db', fixed, { name: 'db-static' }));
    assert.match(
      told.metadata.warnings?.join() ?? '',
      /device eth0 has the address 00:16:3e:12:34:56, which db has, too/,
    );

    await succeeded(stack.stow, await restore('db', fixed, { name: 'db-look', network: false, start: true }));
    assert.deepEqual((await show('db-look')).expanded_devices.eth0, { type: 'none' });
    for (const name of ['db', 'db-own', 'db-kept', 'db-static', 'db-look']) await stack.remove(name);
  });

  it('into a restricted project says what LXD would not let it keep, or take at all', async (t) => {
    if (!isReal) return t.skip('no LXD here');
    const restricted = ['-c', 'restricted=true', '-c', 'restricted.containers.privilege=allow'];
    await lxc('project', 'create', 'narrow', '-c', 'features.images=false', ...restricted);
    const backup = await stack.backup('web');
    const answer = await restore('web', backup, { project: 'narrow', name: 'web' });
    if (stack.lab.lxd?.engine === 'lxd') {
      const { metadata } = await succeeded(stack.stow, answer);
      assert.match(metadata.warnings?.join() ?? '', /volatile\.uuid of web \(project narrow\) could not be set to /);
      await stack.remove('web', 'narrow');
    } else {
      // The later ones take no import into such a project: every archive has such keys.
      const { code, err } = await failed(stack.stow, answer);
      assert.equal(code, 'lxd-refused');
      assert.match(err, /Setting "volatile\.\S+" on container "web" in project "narrow" is forbidden/);
    }
    await lxc('profile', 'delete', 'default', '--project', 'narrow').catch(() => undefined);
    await lxc('project', 'delete', 'narrow');
  });

  describe('for a client that is restricted to projects', () => {
    let certificate: Certificate;
    before(async () => {
      certificate = await makeCertificate({ commonName: 'restricted' });
      const pem = certificate.cert.replaceAll(/-----[A-Z ]+-----|\s/g, '');
      const narrow = ['-c', 'features.images=false', '-c', 'restricted=true'];
      await lxc('project', 'create', 'tight', ...narrow);
      const body = {
        type: 'client',
        certificate: pem,
        restricted: true,
        projects: ['default', 'tight', stack.project],
      };
      assert.equal((await stack.stow.request('POST', '/1.0/certificates', { body })).status, 201);
    });
    const restored = (instance: string, backup: string, body: object) =>
      stack.stow.request('POST', path(instance, backup), { body, certificate });

    /** Sends the archive that LXD has exported, as this client. */
    async function sent(instance: string, backup: string): Promise<Answer> {
      const archive = await stack.bucket().getObject(stack.s3.bucket, `local/default/${instance}/${backup}`);
      const headers = { 'content-type': 'application/octet-stream', 'x-lxd-name': `${instance}-sent` };
      const request = https.request(`${stack.stow.url}/1.0/instances`, {
        ...{ method: 'POST', headers, cert: certificate.cert, key: certificate.key },
        ...{ rejectUnauthorized: false, agent: false },
      });
      request.on('error', () => undefined);
      archive.pipe(request);
      const [response] = (await once(request, 'response')) as [IncomingMessage];
      const answer = await text(response);
      return { status: response.statusCode ?? 0, headers: response.headers, text: answer, body: JSON.parse(answer) };
    }

    it('brings no privileged container, by HTTP or NATS, but where LXD itself is asked', async (t) => {
      if (!isReal) return t.skip('no LXD here');
      const backup = await stack.backup('web');
      const refusal = /web(-sent)? has security\.privileged: .*gateway\.restrictedRestores/;
      assertError(await restored('web', backup, { name: 'bad' }), 403, refusal);
      assertError(await sent('web', backup), 403, refusal);

      const subject = 'lxstow.jobs.local.restore.default.bad.from.local.default.web';
      const id = await publish(stack.nats.url, subject, { backup });
      const ended = await until(
        async () => (await stack.stow.request('GET', `/1.0/operations/${id}`)).body.metadata as Operation,
        (found) => found?.status_code >= 200,
      );
      assert.deepEqual([ended.status, (ended.metadata as { code?: string }).code], ['Failure', 'forbidden']);
      assert.ok(ended.err.includes(`${subject}.unrestricted`), ended.err);

      const { err, code } = await failed(stack.stow, await restored('web', backup, { name: 'bad', project: 'tight' }));
      assert.equal(code, 'lxd-refused');
      // The later ones begin with keys that every archive has.
      assert.match(err, /privileged containers are forbidden|Setting "volatile\.\S+" on .* is forbidden/i);
      await lxc('project', 'delete', 'tight');
      assert.deepEqual(await instances('bad'), []);
      await stack.assertNothingLeft();
    });

    it('makes no profile in a project that it did not name, by HTTP or NATS', async (t) => {
      if (!isReal) return t.skip('no LXD here');
      await lxc('profile', 'create', 'gone');
      await lxc('init', 'bb', 'profiled', '-p', 'default', '-p', 'gone');
      const backup = await stack.backup('profiled');
      await stack.remove('profiled');
      await lxc('profile', 'delete', 'gone');
      const profiles = async () => (await lxc('profile', 'list', '-f', 'csv')).includes('gone');

      const refusal =
        /has profile gone, which does not exist, and would be created in project default: not allowed for clients/;
      assertError(await restored('profiled', backup, { project: stack.project }), 403, refusal);
      const subject = `lxstow.jobs.local.restore.${stack.project}.profiled.from.local.default.profiled`;
      const id = await publish(stack.nats.url, subject, { backup });
      const ended = await until(
        async () => (await stack.stow.request('GET', `/1.0/operations/${id}`)).body.metadata as Operation,
        (found) => found?.status_code >= 200,
      );
      assert.match(ended.err, refusal);
      assert.equal(await profiles(), false);

      await succeeded(stack.stow, await restored('profiled', backup, {}));
      assert.equal(await profiles(), true);
      await stack.remove('profiled');
      await lxc('profile', 'delete', 'gone');
    });

    it('brings in and back what is ordinary', async (t) => {
      if (!isReal) return t.skip('no LXD here');
      await lxc('init', 'bb', 'plain');
      const backup = await stack.backup('plain');
      await succeeded(stack.stow, await restored('plain', backup, { name: 'plain-2' }));
      const upload = await sent('plain', backup);
      await succeeded(stack.stow, upload);
      await succeeded(stack.stow, await restored('plain-sent', upload.body.metadata.name, {}));
      for (const name of ['plain', 'plain-2', 'plain-sent']) await stack.remove(name);
    });
  });

  it('that the server would refuse is refused before a byte is sent, and anyway sent', async (t) => {
    if (!isReal) return t.skip('no LXD here');
    const { api_extensions, environment } = await stack.lxd.get<Abilities>('/1.0', {}, AbortSignal.timeout(60_000));
    if (environment.driver?.includes('qemu') || api_extensions.includes('instance_generation_id'))
      return t.skip('this server takes more than that');
    const backup = await stack.backup('web');
    const key = `local/default/web/${backup}.manifest.json`;
    const { bucket } = stack.s3;
    const manifest = (await json(await stack.bucket().getObject(bucket, key))) as Manifest;
    Object.assign(manifest.instance, { type: 'virtual-machine' });
    manifest.instance.config['volatile.uuid.generation'] = randomUUID();
    await stack.bucket().putObject(bucket, key, JSON.stringify(manifest));

    const refused = await stack.stow.finished(await restore('web', backup, { name: 'web-new' }));
    assert.deepEqual([refused.status, refused.metadata.code], ['Failure', 'lxd-refused']);
    assert.match(refused.err, /no driver for virtual machines \(only lxc\).* key volatile\.uuid\.generation.*--anyway/);
    assert.equal(refused.metadata.bytes_done ?? 0, 0);
    // Its archive is that of a container still, and goes in.
    await succeeded(stack.stow, await restore('web', backup, { name: 'web-new', anyway: true }));
    await stack.remove('web-new');
  });

  it('of an archive that lacks a snapshot of its index is not tried again', async (t) => {
    if (!isReal) return t.skip('no LXD here');
    await lxc('init', 'bb', 'snapped');
    for (const name of ['first', 'lost']) await lxc('snapshot', 'snapped', name);
    const backup = await stack.backup('snapped', '?compression=none');
    const key = `local/default/snapped/${backup}`;
    const { bucket } = stack.s3;
    const archive = Buffer.concat(await (await stack.bucket().getObject(bucket, key)).toArray());
    // The letters are the same, and so are the sums of the headers.
    const folder = 'backup/snapshots/lost';
    for (let at = archive.indexOf(folder); at >= 0; at = archive.indexOf(folder, at))
      archive.write('backup/snapshots/tsol', at);
    const { etag } = await stack.bucket().putObject(bucket, key, archive);
    const manifestKey = `${key}.manifest.json`;
    const manifest = (await json(await stack.bucket().getObject(bucket, manifestKey))) as Manifest;
    const parts = manifest.archive.parts.map((part) => ({
      ...part,
      sha256: createHash('sha256').update(archive.subarray(part.rawStart, part.rawEnd)).digest('hex'),
    }));
    Object.assign(manifest.archive, { etag, parts });
    await stack.bucket().putObject(bucket, manifestKey, JSON.stringify(manifest));
    const { err, code } = await failed(stack.stow, await restore('snapped', backup, { name: 'snapped-2' }));
    assert.equal(code, 'archive-corrupt');
    assert.match(err, /the archive has no files of snapshot lost, which its index names: LXD cannot import it/);
    await stack.remove('snapped');
  });

  it('that fails leaves no profile that it made', async (t) => {
    if (!isReal) return t.skip('no LXD here');
    const names = ['left-over', 'taken'];
    for (const name of names) await lxc('profile', 'create', name);
    await lxc('init', 'bb', 'profiled', '-p', 'default', ...names.flatMap((name) => ['-p', name]));
    const backup = await stack.backup('profiled');
    await stack.remove('profiled');
    for (const name of names) await lxc('profile', 'delete', name);
    const key = `local/default/profiled/${backup}.manifest.json`;
    const { bucket } = stack.s3;
    const manifest = (await json(await stack.bucket().getObject(bucket, key))) as Manifest;
    // LXD makes these profiles, and refuses the next one.
    manifest.instance.profiles.push({ name: 'impossible', description: '', config: { bogus: 'key' }, devices: {} });
    await stack.bucket().putObject(bucket, key, JSON.stringify(manifest));
    const { err } = await failed(stack.stow, await restore('profiled', backup));
    assert.match(err, /profile impossible, which the backup needs, cannot be made/);
    const there = await lxc('profile', 'list', '-f', 'csv');
    for (const name of names) assert.ok(!there.includes(name), there);
  });

  it('leaves a profile as it is that differs from the backup’s, and says so', async (t) => {
    if (!isReal) return t.skip('no LXD here');
    await lxc('profile', 'create', 'changing');
    await lxc('init', 'bb', 'profiled', '-p', 'default', '-p', 'changing');
    const backup = await stack.backup('profiled');
    await lxc('profile', 'set', 'changing', 'user.since', 'the backup');
    const { metadata } = await succeeded(stack.stow, await restore('profiled', backup, { name: 'profiled-2' }));
    assert.match(metadata.warnings?.join() ?? '', /profile changing differs from the backup's; it was left as it is/);
    assert.equal(await lxc('profile', 'get', 'changing', 'user.since'), 'the backup\n');
    for (const name of ['profiled', 'profiled-2']) await stack.remove(name);
    await lxc('profile', 'delete', 'changing');
  });

  it('whose profile is deleted during the import has another attempt', async (t) => {
    if (!isReal) return t.skip('no LXD here');
    await lxc('profile', 'create', 'passing');
    await lxc('profile', 'assign', 'large', 'default,passing');
    const backup = await stack.backup('large', '?compression=none');
    await lxc('profile', 'assign', 'large', 'default');
    await lxc('profile', 'delete', 'passing');
    const answer = await restore('large', backup, { name: 'large-new' });
    await moved(answer);
    await lxc('profile', 'delete', 'passing');
    await succeeded(stack.stow, answer);
    assert.deepEqual((await show('large-new')).profiles, ['default', 'passing']);
    await stack.remove('large-new');
    await lxc('profile', 'delete', 'passing');
  });

  it('of a snapshot whose name would lead LXD elsewhere is refused before a byte is sent', async () => {
    const backup = await stack.backup('web');
    const key = `local/default/web/${backup}.manifest.json`;
    const { bucket } = stack.s3;
    const manifest = (await json(await stack.bucket().getObject(bucket, key))) as Manifest;
    manifest.instance.snapshots = ['../../x'];
    await stack.bucket().putObject(bucket, key, JSON.stringify(manifest));
    const refused = await stack.stow.finished(await restore('web', backup, { name: 'web-new' }));
    assert.deepEqual([refused.metadata.code, refused.metadata.bytes_done ?? 0], ['bad-request', 0]);
    assert.match(refused.err, /the backup of web: snapshots\.0: "\.\.\/\.\.\/x" is not allowed/);
  });

  it('is not made to names of lxstow’s own, and these are in no list', async (t) => {
    if (!isReal) return t.skip('no LXD here');
    const backup = await stack.backup('web');
    const name = 'lxstow-0b5a3c1e-7f0d-4c62-9d3b-1f4b6a5d2e11';
    assertError(await restore('web', backup, { name }), 400, /is reserved for lxstow/);
    await lxc('init', 'bb', name);
    const { body } = await stack.stow.request('GET', '/1.0/instances');
    assert.ok(!body.metadata.some((each: string) => each.includes(name)), body.metadata);
    // What `lxstow status` shows is recorded from this.
    const recorded = await recordedInstances(stack.lxd, [], AbortSignal.timeout(60_000));
    assert.deepEqual(
      [recorded.some((each) => each.name === 'web'), recorded.some((each) => each.name === name)],
      [true, false],
    );
    for (const kind of ['backup', 'restore']) {
      const id = await publish(stack.nats.url, `lxstow.jobs.local.${kind}.default.${name}`, { backup });
      const refused = await until(
        async () => (await stack.stow.request('GET', `/1.0/operations/${id}`)).body.metadata as Operation,
        (found) => found?.status_code >= 200,
      );
      assert.match(refused.err, /the name lxstow-\S+ is reserved for lxstow/);
    }
    await stack.remove(name);
  });
});
