/** An LXD with 2 000 instances whose configuration is fat: its lists are read item by item. */
import assert from 'node:assert/strict';
import { after, before, it } from 'node:test';
import { LxdClient } from '../../services/lxd/client.ts';
import { listInstances, recordedInstances } from '../../services/lxd/inventory.ts';
import { errorText, run } from '../lab/run.ts';
import { type LxdSimulator, startSimulator } from './simulator.ts';

const count = 2000;
const pageBytes = 4 * 1024 * 1024;
/** 12 KiB, as keys of cloud-init are. */
const fat = Object.fromEntries(Array.from({ length: 12 }, (_, index) => [`user.key${index}`, 'é'.repeat(512)]));
const names = Array.from({ length: count }, (_, index) => `web-${(index * 7919) % count}`).toSorted();

let simulator: LxdSimulator;
let lxd: LxdClient;
const signal = AbortSignal.timeout(300_000);

before(async () => {
  simulator = await startSimulator({ files: false });
  lxd = new LxdClient('large', { socket: simulator.socket }, {});
  // In another order than that of their names.
  for (let index = 0; index < count; index++) {
    const options = { project: 'default', config: fat, devices: {}, profiles: ['default'] };
    simulator.state.addInstance(simulator.state.newInstance(`web-${(index * 7919) % count}`, options));
  }
});

after(async () => {
  lxd[Symbol.dispose]();
  await simulator[Symbol.asyncDispose]();
});

it('is listed page by page, each instance once, in order', async () => {
  const found: string[] = [];
  let pages = 0;
  for (let after: { project: string; name: string } | undefined; ; pages++) {
    const page = await listInstances(lxd, { full: false, after, bytes: pageBytes }, signal);
    const last = page.at(-1);
    if (!last) break;
    assert.ok(Buffer.byteLength(JSON.stringify(page.slice(0, -1))) <= 1.1 * pageBytes);
    found.push(...page.map(({ name }) => name));
    after = { project: last.project, name: last.name };
  }
  assert.deepEqual(found, names);
  assert.ok(pages > 5, `${pages} pages`);
});

it('is listed whole, with what the records tell', async () => {
  const found = await recordedInstances(lxd, ['volatile.uuid'], signal);
  assert.deepEqual(found.map(({ name }) => name).toSorted(), names);
  assert.deepEqual(Object.keys(found[0]?.config ?? {}), ['volatile.uuid']);
});

it('says so where its list is cut off, or refused', async () => {
  const list = () => listInstances(lxd, { projects: ['default'], full: false }, signal);
  simulator.faults.next('GET /1.0/instances', { drop: true });
  await assert.rejects(list(), { code: 'lxd-unavailable' });
  simulator.faults.next('GET /1.0/instances', { status: 500, error: 'database is locked' });
  await assert.rejects(list(), { code: 'lxd-failed', message: /database is locked/ });
});

for (const [what, call] of [
  ['nothing', ''],
  ['the records', 'await recordedInstances(lxd, [], signal)'],
  ['a page of 16 MiB', 'await listInstances(lxd, { full: false, bytes: 16 * 2 ** 20 }, signal)'],
  ['all at once, as before', "await lxd.get('/1.0/instances', { recursion: '1', project: 'default' }, signal)"],
]) {
  it(`memory of a process that asks for ${what}`, async (at) => {
    const services = new URL('../../services/lxd/', import.meta.url).href;
    const script = `
      import { LxdClient } from '${services}client.ts';
      import { listInstances, recordedInstances } from '${services}inventory.ts';
      const lxd = new LxdClient('large', { socket: '${simulator.socket}' }, {});
      const signal = AbortSignal.timeout(120_000);
      ${call};
      console.log(Math.round(process.resourceUsage().maxRSS / 1024));
      lxd[Symbol.dispose]();`;
    const peak = await run(process.execPath, ['--input-type=module', '--eval', script]).catch((error) =>
      assert.fail(errorText(error)),
    );
    at.diagnostic(`peak ${peak.trim()} MiB`);
  });
}
