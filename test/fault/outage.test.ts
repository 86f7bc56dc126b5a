/** What a user gets when S3, NATS or LXD are away, or do not let us in, for a while: every job ends in Success, by itself, in its first attempt. */
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { openStack, type Stack, succeeded, until } from '../integration/stack.ts';
import type { Answer } from '../lab/lxstow.ts';
import { type LabNatsWithRoles, startNatsWithRoles } from '../lab/nats.ts';
import { startS3 } from '../lab/s3.ts';
import { assertClean, linesOf, operationOf, reaches } from './workers.ts';

const mib = 1024 * 1024;
const small = ['c2', 'c3', 'c4'];

describe('an outage', { timeout: 1_800_000 }, () => {
  let nats: LabNatsWithRoles;
  let stack: Stack;
  before(async () => {
    nats = await startNatsWithRoles({ name: 'outage', log: () => undefined });
    stack = await openStack('outage', {
      nats,
      config: {
        // Slow enough for a lease to be lost amid an upload.
        worker: { slots: 2, leaseTtlMs: 3000, heartbeatMs: 1000, bandwidth: '8MiB' },
        s3: { attempts: 2, idleTimeoutMs: 2000 },
        // One worker stands still, and does not answer.
        gateway: { askTimeoutMs: 2000 },
      },
    });
    await stack.launch('c1', { dataMiB: 60 });
    for (const name of small) await stack.launch(name);
  });
  after(async () => {
    await stack?.[Symbol.asyncDispose]();
    await nats?.[Symbol.asyncDispose]();
  });

  const begin = (instance: string) => stack.stow.request('POST', `/1.0/instances/${instance}/backups?compression=none`);

  /** Each must end in Success, without an attempt that counts before it, and nothing may be left over. */
  async function endWell(answers: Answer[]): Promise<void> {
    for (const answer of answers) await succeeded(stack.stow, answer);
    const logs = await Promise.all(stack.stow.workers.map((_, index) => stack.stow.logOf(index)));
    for (const answer of answers) {
      const begun = linesOf(logs.join('\n'), answer).matchAll(/"attempt":(\d+)/g);
      assert.deepEqual(new Set([...begun].map(([, attempt]) => attempt)), new Set(['1']));
    }
    await assertClean(stack);
  }

  /** Waits until the operation says that it waits for this. */
  async function waitsFor(answer: Answer, what: RegExp): Promise<void> {
    const { status, metadata } = await until(
      () => operationOf(stack, answer),
      ({ status_code, metadata }) => status_code >= 200 || what.test(metadata.waiting_for ?? ''),
    );
    assert.match(metadata.waiting_for ?? '', what, `${status}`);
  }

  /** What the gateway's metrics say to be away. */
  async function away(): Promise<string[]> {
    const metrics = await (await fetch(`${stack.stow.healthUrl.gateway}/metrics`)).text();
    return [...metrics.matchAll(/^lxstow_outage_seconds\{(.*)\} /gm)].map(([, labels = '']) => labels);
  }

  /** Why a worker says that it is not ready. */
  async function saidOfS3(): Promise<string> {
    const ready = await fetch(`${stack.stow.healthUrl.worker}/readyz`);
    return ((await ready.json()) as { checks: { s3: string } }).checks.s3;
  }

  const ofS3 = 'remote="local",dependency="s3"';

  it('of S3, which is killed with jobs at work and queued', async () => {
    const running = await begin('c1');
    const queued = await Promise.all(small.map(begin));
    await reaches(stack, running, 'uploading', 30 * mib);
    await stack.s3.kill();
    await waitsFor(running, /^S3, away since 20.*Z$/);
    assert.deepEqual(await away(), [ofS3]);
    assert.match(await saidOfS3(), /^S3, away since .*: S3 at .*ECONNREFUSED/);
    await stack.s3.start();
    await endWell([running, ...queued]);
    await until(away, (left) => left.length === 0);
  });

  it('of our keys, which S3 does not know for a while', async () => {
    await stack.s3.kill();
    stack.s3.useSecret('x'.repeat(32));
    await stack.s3.start();
    const answers = await Promise.all(small.map(begin));
    for (const answer of answers) await waitsFor(answer, /^S3, away since 20.*Z$/);
    await until(saidOfS3, (text) => text.includes('SignatureDoesNotMatch'));
    assert.deepEqual(await away(), [ofS3]);
    await stack.s3.kill();
    stack.s3.useSecret(stack.s3.secretKey);
    await stack.s3.start();
    await endWell(answers);
  });

  it('of our login, which NATS refuses for longer than a lease lives', async () => {
    const file = join(nats.dir, 'passwords.conf');
    const passwords = await readFile(file, 'utf8');
    const refusals = async () => (await nats.log()).split('authentication error').length - 1;
    const answer = await begin('c1');
    await reaches(stack, answer, 'uploading', 10 * mib);
    const before = await refusals();
    await writeFile(file, passwords.replace(nats.passwords.worker, 'another'));
    await nats.kill('SIGHUP');
    await until(refusals, (count) => count > before);
    await until(
      () => stack.stow.logOf(0),
      (log) => log.includes('attempt given up'),
    );
    await writeFile(file, passwords);
    await nats.kill('SIGHUP');
    await endWell([answer]);
  });

  it("of one worker's LXD: another worker does its jobs", async () => {
    const [whole] = stack.stow.workers;
    const remotes = { local: { socket: join(nats.dir, 'no-lxd.socket') } };
    const lame = await stack.stow.addWorker({ LXSTOW_REMOTES: JSON.stringify(remotes) });
    await whole?.kill('SIGSTOP');
    const answers = [await begin('c2')];
    await until(
      () => stack.stow.logOf(1),
      (log) => log.includes('a dependency is away'),
    );
    assert.deepEqual(await away(), ['remote="local",dependency="lxd"']);
    answers.push(...(await Promise.all(['c3', 'c4'].map(begin))));
    // Nobody takes them, and they say why.
    for (const answer of answers) await waitsFor(answer, /^LXD, away since 20.*Z$/);
    await whole?.kill('SIGCONT');
    await endWell(answers);
    await lame.stop();
  });
});

describe('S3 that lets us read and list, but not write', { timeout: 1_800_000 }, () => {
  it('has backups wait, without trying again and again, and they succeed when it does', async () => {
    await using s3 = await startS3({ name: 'denied', log: () => undefined, kind: 'seaweedfs' });
    const config = { worker: { slots: 2 }, s3: { attempts: 2 } };
    await using stack = await openStack('denied', { s3, config });
    for (const name of small) await stack.launch(name);
    const good = await stack.backup('c2');
    const allow = async (actions?: readonly string[]) => {
      await s3.kill();
      await s3.useActions(actions);
      await s3.start();
    };
    await allow(['Read', 'List']);
    const begin = (name: string) => stack.stow.request('POST', `/1.0/instances/${name}/backups?compression=none`);
    const answers = await Promise.all(small.map(begin));
    for (const answer of answers)
      await until(
        () => operationOf(stack, answer),
        ({ status_code, metadata, err }) => {
          assert.ok(status_code < 200, err);
          return /^S3, which takes no writes since 20.*Z$/.test(metadata.waiting_for ?? '');
        },
      );
    const log = await until(
      () => stack.stow.logOf(0),
      (text) => text.includes('a dependency is away'),
    );
    for (const answer of answers) assert.ok(linesOf(log, answer).split('job begun').length <= 2, linesOf(log, answer));
    const copy = { body: { name: 'copy' } };
    await succeeded(stack.stow, await stack.stow.request('POST', `/1.0/instances/c2/backups/${good}`, copy));
    await allow();
    for (const answer of answers) await succeeded(stack.stow, answer);
    assert.doesNotMatch(await stack.stow.logOf(0), /"attempt":2/);
    await assertClean(stack);
  });
});
