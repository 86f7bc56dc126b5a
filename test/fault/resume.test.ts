/** A worker dies in the middle of an upload, and another goes on: what is on the wires says how much was sent twice. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { openStack, type Stack, succeeded } from '../integration/stack.ts';
import { assertClean, assertOneBackup, assertRestores, readManifest, startWiredWorker } from './workers.ts';

const mib = 1024 * 1024;
/** Headers, requests, and what LXD's socket and the proxy hold. */
const slackBytes = 4 * mib;

describe('a worker that is killed in the middle of its upload', { timeout: 600_000 }, () => {
  let stack: Stack;
  const slots = { worker: { slots: 1, partsInFlight: 3 } };
  before(async () => {
    stack = await openStack('resume', { workers: 0 });
    await stack.launch('c1', { dataMiB: 250 });
  });
  after(() => stack?.[Symbol.asyncDispose]());

  it('has no more sent twice than the parts that were in flight, nor more read from LXD', async () => {
    await using first = await startWiredWorker(stack, slots);
    const killed = Promise.withResolvers<void>();
    first.wires.s3.after('up', 150 * mib, () => first.kill('SIGKILL').then(killed.resolve, killed.reject));
    const answer = await stack.stow.request('POST', '/1.0/instances/c1/backups?compression=none');
    await killed.promise;
    await using other = await startWiredWorker(stack, slots);
    const { id } = await succeeded(stack.stow, answer);

    const { name } = answer.body.metadata;
    const { archive } = await readManifest(stack, 'c1', name);
    const partBytes = Math.max(...archive.parts.map(({ size }) => size));
    const inFlight = slots.worker.partsInFlight * partBytes;
    const sent = first.wires.s3.bytes.up + other.wires.s3.bytes.up;
    const read = first.wires.lxd.bytes.down + other.wires.lxd.bytes.down;
    assert.ok(other.wires.s3.bytes.up < archive.size - 150 * mib + inFlight + slackBytes);
    assert.ok(sent <= archive.size + inFlight + slackBytes, `${sent - archive.size} bytes were sent twice`);
    // One part more is being filled while the others are on their way.
    assert.ok(
      read <= archive.rawSize + inFlight + 2 * partBytes + slackBytes,
      `${read - archive.rawSize} bytes were read twice`,
    );
    await assertOneBackup(stack, 'c1', name, id);
    await assertRestores(stack, 'c1', name, await stack.fingerprint('c1'));
    await assertClean(stack);
  });
});
