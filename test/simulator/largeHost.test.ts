/** An LXD with 5 600 instances whose configuration is fat: its list is larger than an answer that is read whole, and is read item by item. */
import assert from 'node:assert/strict';
import { after, before, it } from 'node:test';
import { LxdClient } from '../../services/lxd/connection/client.ts';
import { listInstances, recordedInstances } from '../../services/lxd/inventory.ts';
import { errorText, run } from '../lab/run.ts';
import { type LxdSimulator, startSimulator } from './simulator.ts';

const count = 5600;
const mib = 1024 * 1024;
const pageBytes = 32 * mib;
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
  assert.ok(pages > 1, `${pages} pages`);
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

/** The peak memory of a process that makes this call, MiB. */
async function peakOf(call: string): Promise<number> {
  const services = new URL('../../services/lxd/', import.meta.url).href;
  const script = `
    import { LxdClient } from '${services}connection/client.ts';
    import { listInstances, recordedInstances } from '${services}inventory.ts';
    const lxd = new LxdClient('large', { socket: '${simulator.socket}' }, {});
    const signal = AbortSignal.timeout(120_000);
    ${call};
    console.log(process.resourceUsage().maxRSS / 1024);
    lxd[Symbol.dispose]();`;
  const settings = ['--max-semi-space-size=1', '--input-type=module', '--eval', script];
  return Number(await run(process.execPath, settings).catch((error) => assert.fail(errorText(error))));
}

it('takes little memory of who lists it', async (at) => {
  const nothing = await peakOf('');
  const records = (await peakOf('await recordedInstances(lxd, [], signal)')) - nothing;
  const page = (await peakOf(`await listInstances(lxd, { full: false, bytes: ${16 * mib} }, signal)`)) - nothing;
  at.diagnostic(`MiB more than nothing: the records ${records}, a page of 16 MiB ${page}`);
  // The list has more than 64 MiB.
  assert.ok(records < 40, `${records} MiB`);
  assert.ok(page < 120, `${page} MiB`);
});

it('is refused in one piece', async () => {
  const whole = lxd.get('/1.0/instances', { recursion: '1', project: 'default' }, signal);
  await assert.rejects(whole, { code: 'lxd-unavailable', message: /more than 67108864 bytes/ });
});
