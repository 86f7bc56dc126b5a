/** docs/disaster.md, typed on an empty LXD, with a new NATS and a new configuration: only the bucket has survived. */
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { findLxd } from '../lab/findLxd.ts';
import { fingerprintOf } from '../lab/fingerprint.ts';
import { type LabFolder, openFolder } from '../lab/folder.ts';
import { startLxd } from '../lab/lxd.ts';
import { ownLxd } from '../lab/lxdPlace.ts';
import { startLxstow } from '../lab/lxstow.ts';
import { startNats } from '../lab/nats.ts';
import { type TypedPage, typePage } from '../lab/page.ts';
import { findNatsServer } from '../lab/parts.ts';
import { freePort } from '../lab/processes.ts';
import { type LabS3, startS3 } from '../lab/s3.ts';
import { assertSame, succeeded } from './stack.ts';

const quiet = () => undefined;
const found = process.env.LXSTOW_LAB_LXD_SOCKET
  ? { available: false, reason: 'an empty LXD can only be one of our own' }
  : await findLxd(quiet, undefined, 'lxd');
const skip = found.available ? false : found.reason;

describe('when all else burned', { timeout: 1_800_000, skip }, () => {
  let s3: LabS3;
  let folder: LabFolder;
  let page: TypedPage;
  /** By project and name. */
  const instances = new Map<string, Map<string, string>>();

  before(async () => {
    s3 = await startS3({ name: 'disaster', log: quiet });
    folder = await openFolder('disaster', quiet);
    await attic();
  });
  after(async () => {
    await folder?.[Symbol.asyncDispose]();
    await s3?.[Symbol.asyncDispose]();
  });

  /** Lives, backs up, and burns. */
  async function attic(): Promise<void> {
    await using lxd = await startLxd({ engine: 'lxd', name: 'attic', log: quiet });
    await using nats = await startNats({ name: 'attic', log: quiet });
    await using stow = await startLxstow({
      name: 'attic',
      log: quiet,
      natsUrl: nats.url,
      s3,
      socket: lxd.socket,
      config: {
        remotes: { attic: { socket: lxd.socket } },
        worker: { remote: 'attic' },
        gateway: { defaultRemote: 'attic' },
      },
    });
    const { lxc, pool } = lxd;
    await lxc(['profile', 'create', 'front']);
    await lxc(['profile', 'set', 'front', 'user.role', 'front']);
    await lxc(['profile', 'device', 'add', 'front', 'root', 'disk', 'path=/', `pool=${pool}`]);
    await lxc(['project', 'create', 'shop', '--config', 'features.images=false']);
    await lxd.launch('web', { dataMiB: 4 });
    await lxc(['profile', 'add', 'web', 'front']);
    await lxc(['snapshot', 'web', 'yesterday']);
    await lxd.launch('db', { dataMiB: 2 });
    await lxd.launch('till', { dataMiB: 1, project: 'shop' });
    for (const [instance, project, optimized] of [
      ['web', 'default', false],
      ['db', 'default', true],
      ['till', 'shop', false],
    ] as const) {
      instances.set(`${project}/${instance}`, await lxd.fingerprint(instance, project));
      const query = `?project=${project}&optimize=${optimized}`;
      await succeeded(stow, await stow.request('POST', `/1.0/instances/${instance}/backups${query}`));
    }
  }

  it('brings all back on a new host, by the commands of docs/disaster.md', async () => {
    const lxd = await ownLxd(folder);
    const nats = await freePort();
    const monitor = await freePort();
    const ports = { gateway: await freePort(), gatewayHealth: await freePort(), workerHealth: await freePort() };
    await mkdir(join(folder.path, 'lxc'));
    const env = {
      LXSTOW_NATS_SERVERS: `nats://127.0.0.1:${nats}`,
      LXSTOW_S3_ENDPOINT: s3.endpoint,
      LXSTOW_S3_ACCESS_KEY: s3.accessKey,
      LXSTOW_S3_SECRET_KEY: s3.secretKey,
      LXSTOW_S3_BUCKET: s3.bucket,
      LXSTOW_GATEWAY_PORT: String(ports.gateway),
      LXSTOW_GATEWAY_HEALTH_PORT: String(ports.gatewayHealth),
      LXSTOW_WORKER_HEALTH_PORT: String(ports.workerHealth),
      LXD_DIR: lxd.dir,
      LXD_CONF: join(folder.path, 'lxc'),
    };
    page = await typePage('docs/disaster.md', {
      folder,
      env,
      replace: {
        '-m 8222': `-m ${monitor}`,
        '127.0.0.1:8222': `127.0.0.1:${monitor}`,
        '127.0.0.1:8081': `127.0.0.1:${ports.gatewayHealth}`,
        '127.0.0.1:8082': `127.0.0.1:${ports.workerHealth}`,
      },
      commands: { 'nats-server': `exec '${await findNatsServer(quiet)}' "$@" -p ${nats}` },
    });
    const { said } = page;
    for (const row of [/attic +default +db +backup_/, /attic +default +web +backup_/, /attic +shop +till +backup_/])
      assert.match(said, row);

    for (const [name, files] of instances) {
      const [project = '', instance = ''] = name.split('/');
      const { status, config, profiles } = JSON.parse(
        await lxd.lxc(['query', `/1.0/instances/${instance}?project=${project}`]),
      );
      assert.equal(status, 'Running', name);
      assert.ok(config['volatile.uuid']);
      const owner = project === 'default' ? instance : `${project}_${instance}`;
      assertSame(await fingerprintOf(join(lxd.visibleDir, 'storage-pools/fast/containers', owner, 'rootfs')), files);
      if (instance !== 'web') continue;
      assert.deepEqual(profiles, ['default', 'front']);
      const [snapshot] = JSON.parse(await lxd.lxc(['query', '/1.0/instances/web/snapshots']));
      assert.match(snapshot, /yesterday$/);
    }
    const front = JSON.parse(await lxd.lxc(['query', '/1.0/profiles/front']));
    assert.equal(front.config['user.role'], 'front');
  });

  it('touches nothing that is there when it is said again', async () => {
    const again = await page.type('lxstow restore --all --target attic --to-target local -q');
    assert.equal(again.status, 73);
    for (const instance of ['web', 'db'])
      assert.match(again.stderr, new RegExp(`${instance}: instance ${instance} already exists on local`));
  });

  it('says where the old name can be read, and where it cannot be written', async () => {
    const nowhere = await page.type('lxstow restore web latest --target attic --as web2');
    assert.equal(nowhere.status, 64);
    assert.match(nowhere.stderr, /there is no host attic to restore to; .*--to-target.*: local/);
    const typo = await page.type('lxstow list --target atitc');
    assert.equal(typo.status, 66);
    assert.match(typo.stderr, /host atitc does not exist/);
    const info = await page.type(
      'lxstow info db latest --target attic && lxstow export db latest - --target attic | tar -tz | head -1',
    );
    assert.match(info.stdout, /^name: backup_[\s\S]*\ninstance: db\n[\s\S]*\nbackup\/index\.yaml\n$/);
    const kept = await page.type('lxstow delete db latest2 --target attic');
    assert.equal(kept.status, 66);
  });

  it('shows a restricted client its own projects', async () => {
    const add = 'lxstow remote add stow "$(lxstow -c lxstow.yaml trust token till --project shop | tail -1)"';
    const seen = await page.type(`${add} && lxstow list --all --format csv`, {
      XDG_CONFIG_HOME: join(folder.path, 'till'),
    });
    assert.match(seen.stdout, /^[^\n]*\nattic,shop,till,[^\n]*\n$/);
    const refused = await page.type('lxstow list --all --project default', {
      XDG_CONFIG_HOME: join(folder.path, 'till'),
    });
    assert.equal(refused.status, 77);
  });
});
