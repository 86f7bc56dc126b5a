/** A run over many instances while those who do it are killed: on the simulator, for LXD is not what is in doubt here. */
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { RunChildPage, ShownRun, ShownRunChild } from '../../services/contract/schemas.ts';
import { idOf } from '../integration/stack.ts';
import { type Lab, openLab } from '../lab/lab.ts';
import { type Lxstow, startLxstow } from '../lab/lxstow.ts';
import { writeBackupYaml } from '../simulator/imports.ts';
import { type LxdSimulator, startSimulator } from '../simulator/simulator.ts';

const rounds = process.env.LXSTOW_LAB_FAULT_ROUNDS;
const count = rounds ? 1000 : 40;
const kills = Number(rounds ?? 6);
const workers = rounds ? 8 : 2;
const slots = 2;
/** After which a run is cancelled. */
const moments = rounds ? [0, 20, 100, 300, 700, 1500, 3000] : [0, 100, 700];
const log = () => undefined;

describe(`a run over ${count} instances`, { timeout: 3_600_000 }, () => {
  const stack = new AsyncDisposableStack();
  let lab: Lab;
  let simulator: LxdSimulator;
  let gateways: [Lxstow, Lxstow];
  before(async () => {
    simulator = stack.use(await startSimulator());
    lab = stack.use(await openLab({ name: 'runs', log, lxd: false }));
    const { nats, s3 } = lab;
    assert.ok(nats && s3);
    for (let i = 0; i < count; i++) await makeSmall(`c${i}`);
    const config = {
      worker: { slots, graceMs: 0, compression: 'none', attempts: 50, leaseTtlMs: 3000, heartbeatMs: 800 },
    };
    const common = { log, natsUrl: nats.url, s3, socket: simulator.socket, config };
    const first = stack.use(await startLxstow({ name: 'runs-one', ...common, workers }));
    gateways = [first, stack.use(await startLxstow({ name: 'runs-two', ...common, workers: 0 }))];
  });
  after(() => stack.disposeAsync());

  async function makeSmall(name: string): Promise<void> {
    const { state } = simulator;
    const instance = state.newInstance(name, { project: 'default', config: {}, profiles: ['default'], devices: {} });
    const volume = state.volume(instance);
    await mkdir(join(volume, 'rootfs'), { recursive: true });
    await writeFile(join(volume, 'metadata.yaml'), 'properties: {}\n');
    await writeBackupYaml(state, instance);
    await state.makeLink(instance);
    state.addInstance(instance);
  }

  /** From whichever gateway answers: they are killed. */
  async function ask<T>(method: string, path: string, body?: object): Promise<T> {
    for (let turn = 0; ; turn++) {
      const stow = gateways[turn % 2] as Lxstow;
      try {
        const answer = await stow.request(method, path, { ...(body && { body }) });
        if (answer.status < 500) return answer.body.metadata ?? answer;
      } catch (error) {
        if (turn > 200) throw error;
      }
      await delay(100);
    }
  }

  it('ends with each child once and counts that add up, though gateways, workers and NATS are killed', async () => {
    const [one, two] = gateways;
    const body = { id: '7d3b0c52-2d5a-4a3e-9a55-0d6a1c2f3e4b', selector: { all: true } };
    const made = await one.request('POST', '/1.0/runs', { body });
    assert.equal(idOf(made), body.id, made.text);
    const victims = [...one.workers, one.gateway, two.gateway];
    const stop = new AbortController();
    const killing = (async () => {
      for (let turn = 0; turn < kills && !stop.signal.aborted; turn++) {
        await delay(700, undefined, { signal: stop.signal }).catch(() => undefined);
        const victim = turn % 6 === 5 ? lab.nats : victims[Math.floor(Math.random() * victims.length)];
        if (stop.signal.aborted || !victim) break;
        await victim.kill('SIGKILL');
        await victim.start();
      }
    })();
    let again: Promise<string> | undefined;
    let run: ShownRun;
    const half = () => run.counts.success + run.counts.failure >= count / 2;
    do {
      await delay(200);
      run = await ask<ShownRun>('GET', `/1.0/runs/${body.id}`);
      const { total, ...each } = run.counts;
      assert.deepEqual([total, Object.values(each).reduce((sum, n) => sum + n, 0)], [count, count]);
      // The same again, meanwhile: all that is not over is skipped.
      if (run.counts.success > 0) again ??= begin();
    } while (run.status_code < 200 && !half());
    stop.abort();
    await killing;
    const second = await (again ?? begin());
    while (run.status_code < 200) {
      await delay(200);
      run = await ask<ShownRun>('GET', `/1.0/runs/${body.id}`);
    }
    assert.deepEqual([run.status, run.counts.success], ['Success', count], JSON.stringify(run.failures));
    let other: ShownRun;
    do {
      await delay(200);
      other = await ask<ShownRun>('GET', `/1.0/runs/${second}`);
    } while (other.status_code < 200);
    assert.equal(other.status, 'Success');
    assert.ok(other.counts.skipped > 0, 'nothing was skipped');
    assert.equal(other.counts.skipped + other.counts.success, count);

    const children: ShownRunChild[] = [];
    let page: RunChildPage;
    do {
      const after: string = children.length > 0 ? `&after=${children.length - 1}` : '';
      page = await ask<RunChildPage>('GET', `/1.0/runs/${body.id}/children?limit=100${after}`);
      children.push(...page.children);
    } while (page.next !== undefined);
    assert.equal(new Set(children.map(({ instance }) => instance)).size, count);
    const stored = await ask<{ instance: string }[]>('GET', '/1.0/instances/*/backups');
    assert.equal(stored.length, count + other.counts.success, 'an instance was backed up twice');
  });

  const begin = async (): Promise<string> => {
    const id = randomUUID();
    await ask('POST', '/1.0/runs', { id, selector: { all: true } });
    return id;
  };
  const ended = async (id: string): Promise<ShownRun> => {
    for (;;) {
      const run = await ask<ShownRun>('GET', `/1.0/runs/${id}`);
      const { total, ...each } = run.counts;
      assert.deepEqual([total, Object.values(each).reduce((sum, n) => sum + n, 0)], [count, count]);
      if (run.status_code >= 200) return run;
      await delay(200);
    }
  };
  const backups = async () => (await ask<unknown[]>('GET', '/1.0/instances/*/backups')).length;

  it('and another one begun at the same time: each instance is backed up by one of them at a time', async () => {
    const before = await backups();
    const both = await Promise.all((await Promise.all([begin(), begin()])).map(ended));
    assert.deepEqual(
      both.map(({ status }) => status),
      ['Success', 'Success'],
    );
    const [success, skipped] = (['success', 'skipped'] as const).map((state) =>
      both.reduce((sum, { counts }) => sum + counts[state], 0),
    );
    assert.equal((success ?? 0) + (skipped ?? 0), 2 * count);
    assert.ok((success ?? 0) >= count, `${success} of ${count}`);
    assert.equal((await backups()) - before, success);
  });

  for (const ms of moments)
    it(`is cancelled after ${ms} ms: what had been backed up stays, nothing else is`, async () => {
      const before = await backups();
      const id = await begin();
      await delay(ms);
      await ask('DELETE', `/1.0/operations/${id}`);
      const { status, counts } = await ended(id);
      if (counts.cancelled > 0) assert.equal(status, 'Cancelled');
      assert.deepEqual([counts.failure, counts.skipped], [0, 0]);
      assert.equal((await backups()) - before, counts.success);
      const operations = await ask<Record<string, ShownRun[]>>('GET', '/1.0/operations?recursion=1');
      assert.deepEqual(
        Object.keys(operations).filter((state) => /running|pending|cancelling/i.test(state)),
        [],
      );
    });

  it('keeps a job by hand waiting behind those at work and slots + 3 others at most', async () => {
    const id = randomUUID();
    const already = await backups();
    await ask('POST', '/1.0/runs', { id, selector: { all: true, exclude: ['c0'] } });
    let before: number;
    do before = await backups();
    while (before < already + 2);
    const made = await gateways[0].request('POST', '/1.0/instances/c0/backups');
    for (;;) {
      const { status } = await ask<{ status: string }>('GET', `/1.0/operations/${idOf(made)}`);
      if (status !== 'Pending') break;
      await delay(20);
    }
    const passed = (await backups()) - before;
    // Some end while they are counted, and one may be the job's own.
    const meanwhile = 3;
    assert.ok(passed <= 2 * slots * workers + 3 + meanwhile, `${passed} others went before it`);
    for (;;) if ((await ask<ShownRun>('GET', `/1.0/runs/${id}`)).status_code >= 200) return;
  });
});
