/** What a user gets when LXD is started again amid a backup or a restore: Success, in the first attempt. On a real LXD. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { openStack, type Stack, succeeded } from '../integration/stack.ts';
import { findLxd } from '../lab/findLxd.ts';
import type { Answer } from '../lab/lxstow.ts';
import { assertClean, assertRestores, linesOf, reaches } from './workers.ts';

const mib = 1024 * 1024;
const found = await findLxd(() => undefined);
const skip =
  found.available && !process.env.LXSTOW_LAB_LXD_SOCKET ? false : 'no LXD of our own, so none to start again';

describe('an LXD that is started again', { timeout: 1_800_000, skip }, () => {
  let stack: Stack;
  let good: string;
  before(async () => {
    const worker = { slots: 1, attempts: 2, bandwidth: '24MiB', sendAheadMiB: 0, lxdIdleTimeoutMs: 10_000 };
    stack = await openStack('restarts', { config: { worker } });
    await stack.launch('c1', { dataMiB: 64, pool: stack.pools.dir });
    good = await stack.backup('c1', '?compression=none');
  });
  after(() => stack?.[Symbol.asyncDispose]());

  async function startAgain(): Promise<void> {
    const { lxd } = stack.lab;
    assert.ok(lxd);
    await lxd.kill();
    await lxd.start();
  }

  async function endsWell(answer: Answer): Promise<void> {
    await succeeded(stack.stow, answer);
    const begun = [...linesOf(await stack.stow.logOf(0), answer).matchAll(/"attempt":(\d+)/g)].map(([, each]) => each);
    assert.deepEqual([...new Set(begun)], ['1'], linesOf(await stack.stow.logOf(0), answer));
    assert.ok(begun.length > 1, 'it was not cut');
    await assertClean(stack);
  }

  it('while it writes its copy', async () => {
    const answer = await stack.stow.request('POST', '/1.0/instances/c1/backups?compression=none');
    await reaches(stack, answer, 'generating');
    await startAgain();
    await endsWell(answer);
  });

  it('while its copy is read', async () => {
    const answer = await stack.stow.request('POST', '/1.0/instances/c1/backups?compression=none');
    await reaches(stack, answer, 'uploading', 24 * mib);
    await startAgain();
    await endsWell(answer);
    await assertRestores(stack, 'c1', answer.body.metadata.name, await stack.fingerprint('c1'));
  });

  it('while it takes an archive in', async () => {
    const body = { name: 'copy', pool: stack.pools.dir };
    const answer = await stack.stow.request('POST', `/1.0/instances/c1/backups/${good}`, { body });
    await reaches(stack, answer, 'restoring', 24 * mib);
    await startAgain();
    await endsWell(answer);
    await stack.remove('copy');
  });
});
