/** What is on the remotes, as LXD shows it: asked of all of them, and told without those that say nothing. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, describe, it } from 'node:test';
import { LxstowError } from '../../services/contract/errors.ts';
import { answerInventory, type InventoryQuestion } from '../../services/hosts/hostInventory.ts';
import type { LxdObject } from '../../services/lxd/inventory.ts';
import { connectNats } from '../../services/nats/connection.ts';
import { createLogger } from '../../services/telemetry/logger.ts';
import { type Certificate, makeCertificate } from '../lab/certificates.ts';
import { hasLxc, openUserLxc, type UserLxc } from '../lab/lxc.ts';
import { type Lxstow, startLxstow } from '../lab/lxstow.ts';
import { type LxdSimulator, startSimulator } from '../simulator/simulator.ts';
import { assertError, openStack, type Stack } from './stack.ts';

const withLxc = { skip: !(await hasLxc()) && 'there is no lxc' };
/** Two remotes with an LXD each, and one without a worker. */
const config = { remotes: { far: {}, silent: {} } };

describe('instances', { timeout: 1_800_000 }, () => {
  let stack: Stack;
  /** A second gateway. */
  let other: Lxstow;
  let far: LxdSimulator;
  let backup: string;
  before(async () => {
    far = await startSimulator();
    await Promise.all(['c1', 'd1'].map((name) => far.createInstance(name)));
    stack = await openStack('instances', { config });
    const { nats, s3 } = stack;
    const remotes = { local: {}, far: { socket: far.socket }, silent: {} };
    await stack.stow.addWorker({ LXSTOW_WORKER_REMOTE: 'far', LXSTOW_REMOTES: JSON.stringify(remotes) });
    other = await startLxstow({
      name: 'instances2',
      log: () => undefined,
      natsUrl: nats.url,
      s3,
      socket: '/none',
      workers: 0,
      config,
    });
    await stack.launch('c1');
    await stack.launch('p1', { project: stack.project, pool: stack.pools.btrfs });
    backup = await stack.backup('c1');
  });
  after(async () => {
    for (const each of [other, stack, far]) await each?.[Symbol.asyncDispose]();
  });

  const settings = () => ({
    servers: [stack.nats.url],
    replicas: 1,
    operationsKeptHours: 1,
    runsKeptHours: 1,
    maxQueuedJobs: 1000,
  });
  const get = (path: string, certificate?: Certificate) =>
    stack.stow.request('GET', `/1.0/${path}`, certificate ? { certificate } : {});
  const listed = async (query: string, certificate?: Certificate): Promise<[string, string][]> => {
    const { status, text, body } = await get(`instances?recursion=1${query}`, certificate);
    assert.equal(status, 200, text);
    return body.metadata.map(({ name, location }: { name: string; location: string }) => [name, location]);
  };

  it('of all remotes are listed, by any gateway; one that is silent is named', async () => {
    for (const stow of [stack.stow, other]) {
      const { status, headers, body } = await stow.request('GET', '/1.0/instances?recursion=1');
      assert.equal(status, 200);
      assert.match(String(headers.warning), /^199 lxstow "host silent is not in this answer: no-worker"$/);
      assert.deepEqual(
        body.metadata.map(({ name, location, status, type }: LxdObject) => [name, location, status, type]),
        [
          ['c1', 'local', 'Running', 'container'],
          ['c1', 'far', 'Running', 'container'],
          ['d1', 'far', 'Running', 'container'],
        ],
      );
    }
    assert.deepEqual((await get('instances')).body.metadata, [
      '/1.0/instances/c1',
      '/1.0/instances/c1?target=far',
      '/1.0/instances/d1?target=far',
    ]);
    const full = await get('instances?recursion=2&target=far');
    assert.equal(full.headers.warning, undefined);
    assert.deepEqual(
      full.body.metadata.map(({ name, state }: { name: string; state: LxdObject }) => [name, state.status]),
      [
        ['c1', 'Running'],
        ['d1', 'Running'],
      ],
    );
    assertError(await get('instances?target=silent'), 503, /no worker of host silent is up/);
    assertError(await get('instances?target=mars'), 404, /host mars does not exist/);
  });

  it('are those of a project, or of all, and those that a filter leaves', async () => {
    assert.deepEqual(await listed(`&project=${stack.project}`), [['p1', 'local']]);
    assert.deepEqual(await listed('&all-projects=true&target=local'), [
      ['c1', 'local'],
      ['p1', 'local'],
    ]);
    assert.deepEqual(await listed('&filter=status+eq+running+and+name+eq+d.*'), [['d1', 'far']]);
    assert.deepEqual(await listed('&filter=name=(c1|^c1.*)'), [
      ['c1', 'local'],
      ['c1', 'far'],
    ]);
    assert.deepEqual(await listed('&instance-type=virtual-machine'), []);
    assertError(await get('instances?filter=name'), 400, /\?filter=: an operator is missing/);
    assertError(await get('instances?all-projects=true&project=default'), 400, /either/);
  });

  it('are shown one by one: where no remote is named that of the default one, else the only one', async () => {
    const shown = await get('instances/c1');
    assert.deepEqual([shown.body.metadata.name, shown.body.metadata.location], ['c1', 'local']);
    assert.match(String(shown.headers.etag), /^"[0-9a-f]{64}"$/);
    assert.equal(shown.headers.etag, (await get('instances/c1?recursion=1')).headers.etag);
    assert.equal((await get('instances/c1?target=far')).body.metadata.location, 'far');
    assert.equal((await get('instances/d1')).body.metadata.location, 'far');
    assert.equal((await get('instances/c1/state')).body.metadata.status, 'Running');
    assertError(await get('instances/d1?target=local'), 404, /instance d1 does not exist/);
    assertError(await get('instances/nobody'), 404, /instance nobody does not exist/);
    assertError(await get(`instances/c1?project=${stack.project}`), 404, /instance c1 does not exist/);
    assertError(await get('instances/nobody/state'), 404, /instance nobody/);
    assertError(await get('instances/c1?target=silent'), 503, /no worker/);
    assertError(await get('instances/c1/logs'), 404, /not found/);
    assertError(await stack.stow.request('PUT', '/1.0/instances/c1'), 405, /allowed: GET/);
  });

  it('have snapshots, and the old paths of containers', async () => {
    await far.snapshot('d1', 'first');
    assert.deepEqual((await get('instances/c1/snapshots')).body.metadata, []);
    const path = '/1.0/instances/d1/snapshots/first';
    assert.deepEqual((await get('instances/d1/snapshots')).body.metadata, [`${path}?target=far`]);
    const [shown] = (await get('instances/d1/snapshots?recursion=1')).body.metadata;
    assert.equal(shown.name, 'first');
    assert.deepEqual((await get('containers/d1/snapshots/first')).body.metadata, shown);
    assertError(await get('instances/d1/snapshots/second'), 404, /snapshot second of instance d1 does not exist/);
    assert.deepEqual((await get('containers')).body.metadata, (await get('instances')).body.metadata);
    assert.equal((await get('containers/c1')).body.metadata.name, 'c1');
    assert.equal((await get('containers/c1/backups')).body.metadata[0].name, backup);
    assertError(await get('containersx'), 404, /not found/);
  });

  it('come with the backups that are stored, and without them when the store is away', async () => {
    const { backups } = (await get('instances/c1?recursion=1')).body.metadata;
    assert.deepEqual(
      backups.map(({ name, optimized_storage }: LxdObject) => [name, optimized_storage]),
      [[backup, false]],
    );
    await stack.s3.kill();
    const without = await get('instances/c1?recursion=1');
    assert.deepEqual([without.status, without.body.metadata.backups], [200, null]);
    assert.match(String(without.headers.warning), /backups are not in this answer/);
    await stack.s3.start();
  });

  it('show a viewer no values that are secrets by habit, and filters find none', async () => {
    const config = {
      'environment.TOKEN': 'geheim',
      'cloud-init.user-data': 'geheim',
      'user.user-data': 'geheim',
      'user.note': 'seen',
      'environment.EMPTY': '',
    };
    const about = { name: 'c9', project: 'default', location: 'silent', type: 'container', config };
    const instance = { ...about, expanded_config: config, snapshots: [{ name: 's', config, expanded_config: config }] };
    const log = createLogger({ level: 'error', format: 'json' }, {});
    await using nats = await connectNats(settings(), 'lxstow-test', log);
    const stop = new AbortController();
    answerInventory(nats, 'silent', async () => [instance], stop.signal);
    await nats.connection.flush();
    const viewer = await makeCertificate({ commonName: 'viewer' });
    const certificate = viewer.cert.replaceAll(/-----[A-Z ]+-----|\s/g, '');
    const body = { type: 'client', name: 'viewer', certificate, role: 'viewer' };
    assert.equal((await stack.stow.request('POST', '/1.0/certificates', { body })).status, 201);
    try {
      for (const path of ['instances?recursion=2&target=silent', 'instances/c9?recursion=1&target=silent']) {
        const { text } = await get(path, viewer);
        assert.ok(text.includes('********') && text.includes('seen') && !text.includes('geheim'), text);
        assert.ok((await get(path)).text.includes('geheim'));
      }
      const filter = (value: string) => `&target=silent&filter=config.environment.TOKEN+eq+${value}`;
      assert.deepEqual(await listed(filter('g.*'), viewer), []);
      assert.deepEqual(await listed(filter('g.*')), [['c9', 'silent']]);
    } finally {
      stop.abort();
    }
  });

  it('by the thousand come page by page', async () => {
    const log = createLogger({ level: 'error', format: 'json' }, {});
    await using nats = await connectNats(settings(), 'lxstow-test', log);
    const stop = new AbortController();
    const many: LxdObject[] = Array.from({ length: 3000 }, (_, i) => ({
      name: `c${String(i).padStart(5, '0')}`,
      project: 'default',
      location: 'silent',
      type: 'container',
      // Random, so that it cannot be packed.
      config: { 'user.noise': randomBytes(500).toString('base64') },
    }));
    let asked = 0;
    const inventory = async (question: InventoryQuestion) => {
      asked++;
      return question.kind === 'instances'
        ? many
        : [{ name: 'huge', project: 'default', noise: randomBytes(2_000_000).toString('base64') }];
    };
    answerInventory(nats, 'silent', inventory, stop.signal);
    await nats.connection.flush();
    try {
      const { status, body, text } = await get('instances?recursion=1&target=silent');
      assert.equal(status, 200, text.slice(0, 500));
      assert.deepEqual(body.metadata, many);
      assert.ok(asked > 1);
      assertError(await get('instances/huge?target=silent'), 413, /too large/);
    } finally {
      stop.abort();
    }
  });

  it('are in projects and on pools', async () => {
    const projects = (await get('projects')).body.metadata;
    assert.ok(projects.includes('/1.0/projects/default') && projects.includes(`/1.0/projects/${stack.project}`));
    assert.equal((await get(`projects/${stack.project}`)).body.metadata.name, stack.project);
    assertError(await get('projects/mars'), 404, /project mars does not exist/);
    const pools = (await get('storage-pools?recursion=1')).body.metadata as { name: string; locations: string[] }[];
    assert.deepEqual(pools.find(({ name }) => name === stack.pools.btrfs)?.locations.at(0), 'local');
    assert.deepEqual(pools.find(({ name }) => name === far.pool)?.locations.at(-1), 'far');
    assert.equal((await get(`storage-pools/${stack.pools.dir}?target=local`)).body.metadata.driver, 'dir');
    assertError(await get('storage-pools/mars'), 404, /storage pool mars does not exist/);
    // Without a worker there is LXD's own.
    assert.deepEqual((await get('projects?target=silent')).body.metadata, ['/1.0/projects/default']);
  });

  it('are on pools whose secrets viewers do not see', async () => {
    const secrets = ['powerflex.user.password', 'pure.api.token', 'truenas.api_key'];
    const config = { ...Object.fromEntries(secrets.map((key) => [key, 'geheim'])), 'pure.gateway': 'seen', token: '' };
    const log = createLogger({ level: 'error', format: 'json' }, {});
    await using nats = await connectNats(settings(), 'lxstow-test', log);
    const stop = new AbortController();
    const pool = { name: 'array', driver: 'pure', config, used_by: [] };
    answerInventory(nats, 'silent', async () => [pool], stop.signal);
    await nats.connection.flush();
    const viewer = await makeCertificate({ commonName: 'viewer of pools' });
    const certificate = viewer.cert.replaceAll(/-----[A-Z ]+-----|\s/g, '');
    const body = { type: 'client', certificate, role: 'viewer' };
    assert.equal((await stack.stow.request('POST', '/1.0/certificates', { body })).status, 201);
    try {
      const masked = Object.fromEntries(secrets.map((key) => [key, '********']));
      for (const path of ['storage-pools?recursion=1&target=silent', 'storage-pools/array?target=silent']) {
        const [shown] = [(await get(path, viewer)).body.metadata].flat();
        assert.deepEqual(shown.config, { ...config, ...masked });
        assert.deepEqual([(await get(path)).body.metadata].flat()[0].config, config);
      }
      const filter = 'storage-pools?target=silent&filter=config.pure.api.token+eq+g.*';
      assert.deepEqual((await get(filter, viewer)).body.metadata, []);
      assert.deepEqual((await get(filter)).body.metadata, ['/1.0/storage-pools/array']);
    } finally {
      stop.abort();
    }
  });

  it('of other projects are hidden from a restricted client', async () => {
    const client = await makeCertificate({ commonName: 'restricted' });
    const added = await stack.stow.request('POST', '/1.0/certificates', {
      body: {
        type: 'client',
        name: 'restricted',
        certificate: client.cert.replaceAll(/-----[A-Z ]+-----|\s/g, ''),
        restricted: true,
        projects: [stack.project],
      },
    });
    assert.equal(added.status, 201, added.text);
    assert.deepEqual(await listed('&all-projects=true', client), [['p1', 'local']]);
    assert.deepEqual(await listed(`&project=${stack.project}`, client), [['p1', 'local']]);
    assertError(await get('instances', client), 403, /not authorized/);
    assertError(await get('instances/c1', client), 403, /not authorized/);
    assert.deepEqual((await get('projects', client)).body.metadata, [`/1.0/projects/${stack.project}`]);
    const [pool] = (await get('storage-pools?recursion=1', client)).body.metadata;
    assert.deepEqual([pool.config, pool.used_by], [{}, []]);
  });

  it('of all projects are listed for a client of which a host lacks some', async () => {
    const client = await makeCertificate({ commonName: 'of two planets' });
    const certificate = client.cert.replaceAll(/-----[A-Z ]+-----|\s/g, '');
    const body = { type: 'client', certificate, restricted: true, projects: ['earth', 'mars'] };
    assert.equal((await stack.stow.request('POST', '/1.0/certificates', { body })).status, 201);
    const log = createLogger({ level: 'error', format: 'json' }, {});
    await using nats = await connectNats(settings(), 'lxstow-test', log);
    const stop = new AbortController();
    // As an LXD that has no project mars.
    const inventory = async (question: InventoryQuestion) => {
      const { projects = ['default', 'earth'] } = question as { projects?: string[] };
      if (projects.includes('mars')) throw new LxstowError('not-found', 'Project not found');
      const rest = { location: 'silent', type: 'container', status: 'Running', config: {} };
      return projects.map((project) => ({ ...rest, name: `of-${project}`, project }));
    };
    answerInventory(nats, 'silent', inventory, stop.signal);
    await nats.connection.flush();
    try {
      assert.deepEqual(await listed('&all-projects=true&target=silent', client), [['of-earth', 'silent']]);
      assertError(await get('instances?project=mars&target=silent', client), 404, /Project not found/);
    } finally {
      stop.abort();
    }
  });

  it('are told packed to who takes that, never to a cache, and not to pages of another origin', async () => {
    const packed = await stack.stow.request('GET', '/1.0/instances?recursion=2', {
      headers: { 'accept-encoding': 'gzip' },
    });
    assert.equal(packed.headers['content-encoding'], 'gzip');
    assert.equal(packed.body.type, 'sync');
    const plain = await get('instances?recursion=2');
    assert.equal(plain.headers['content-encoding'], undefined);
    assert.equal(plain.headers['cache-control'], 'no-store');
    assert.equal(plain.headers['x-content-type-options'], 'nosniff');
    const from = (origin: string) => stack.stow.request('GET', '/1.0/instances', { headers: { origin } });
    assert.equal((await from(stack.stow.url)).status, 200);
    assertError(await from('https://elsewhere.example'), 403, /elsewhere/);
  });

  describe("LXD's own client", withLxc, () => {
    let lxc: UserLxc;
    before(async () => {
      lxc = await openUserLxc(stack.stow, 'instances');
    });
    after(() => lxc?.[Symbol.asyncDispose]());

    it('lists them, by name and by what they are', async () => {
      const names = async (...args: string[]) =>
        (await lxc(['list', 'stow:', '-f', 'csv', '-c', 'ns', ...args])).trim();
      assert.equal(await names(), 'c1,RUNNING\nc1,RUNNING\nd1,RUNNING');
      assert.equal(await names('d'), 'd1,RUNNING');
      assert.equal(await names('status=stopped'), '');
      assert.equal(await names('user.none=x'), '');
      assert.match(await names('--all-projects'), /^p1,RUNNING$/m);
      assert.match(await lxc(['list', 'stow:']), /\| c1 +\| RUNNING \|/);
    });

    it('shows one, with its backups', async () => {
      const shown = await lxc(['info', 'stow:c1']);
      assert.match(shown, /Name: c1\nStatus: RUNNING/);
      assert.ok(shown.includes(backup), shown);
      assert.match(await lxc(['config', 'show', 'stow:c1']), /image\.|architecture/);
      await assert.rejects(lxc(['info', 'stow:nobody']), /instance nobody does not exist/);
    });

    it('lists projects and pools', async () => {
      assert.match(await lxc(['project', 'list', 'stow:', '-f', 'csv']), new RegExp(`^${stack.project},`, 'm'));
      assert.match(await lxc(['storage', 'list', 'stow:', '-f', 'csv']), new RegExp(`^${stack.pools.dir},dir,`, 'm'));
    });

    it('lists, shows and cancels operations', async () => {
      for (const worker of stack.stow.workers) await worker.stop();
      const { operation } = (await stack.stow.request('POST', '/1.0/instances/c1/backups')).body;
      const id = operation.split('/').at(-1);
      assert.match(
        await lxc(['operation', 'list', 'stow:', '-f', 'csv']),
        new RegExp(`^${id},.*Backing up instance`, 'm'),
      );
      assert.match(await lxc(['operation', 'show', `stow:${id}`]), /status: Pending/);
      assert.match(await lxc(['operation', 'delete', `stow:${id}`]), /deleted/);
      assert.match(await lxc(['operation', 'show', `stow:${id}`]), /status: Cancelled/);
      await assert.rejects(lxc(['operation', 'delete', `stow:${id}`]), /Only running operations can be cancelled/);
      const byStatus = await get('operations?recursion=1&filter=status+eq+cancelled');
      assert.deepEqual(Object.keys(byStatus.body.metadata), ['cancelled']);
    });
  });
});
