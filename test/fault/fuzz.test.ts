/** Whatever anybody sends or stores: an answer, a failed operation or a dead letter. Never a crash, never silence. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import fc from 'fast-check';
import type { Operation } from '../../services/contract/schemas.ts';
import { operationIdOf } from '../../services/jobs/jobs.ts';
import { openStack, type Stack, until } from '../integration/stack.ts';
import type { Daemon } from '../lab/processes.ts';
import { requestRaw } from '../lab/rawNats.ts';
import { anyManifest, anyMessage, anyRequest } from './anything.ts';
import { type RawAnswer, sendRaw } from './rawRequest.ts';
import { seed } from './truth.ts';
import { assertClean, assertNoInstance, assertRestores, manifestOf, readObject, writeObject } from './workers.ts';

const numRuns = Number(process.env.LXSTOW_LAB_FUZZ_RUNS ?? 300);
const parameters = { numRuns, seed, endOnFailure: true } as const;
/** Each of them fails at once: what is queued for so long is stuck. */
const longestQueueMs = 180_000;
/** What a process may grow by over hundreds of cases, garbage that is not collected yet included. */
const allowedGrowthBytes = 200 * 1024 * 1024;

describe('anything at all', { timeout: Math.max(1_800_000, numRuns * 1000) }, () => {
  let stack: Stack;
  let files: Map<string, string>;
  let nats: NatsConnection;
  before(async () => {
    say(`LXSTOW_LAB_FAULT_SEED=${seed} LXSTOW_LAB_FUZZ_RUNS=${numRuns}`);
    process.env.LXSTOW_LAB_LXD = 'none';
    stack = await openStack('fuzz', {
      config: { gateway: { bodyLimitBytes: 64 * 1024 }, worker: { slots: 4, attempts: 1 } },
    });
    nats = await connect({ servers: stack.nats.url });
    await stack.launch('c1');
    files = await stack.fingerprint('c1');
  });
  after(async () => {
    await nats?.close();
    await stack?.[Symbol.asyncDispose]();
  });

  function say(what: unknown): void {
    console.log(`fuzz: ${typeof what === 'string' ? what : JSON.stringify(what)}`);
  }

  /** Fails when the process has ended meanwhile, or has grown for good. */
  async function lives(name: string, daemon: Daemon, run: () => Promise<void>): Promise<void> {
    const before = { pid: daemon.pid, resident: residentBytes(daemon.pid) };
    await run();
    assert.ok(daemon.isRunning && daemon.pid === before.pid, `the ${name} died`);
    const grown = residentBytes(daemon.pid) - before.resident;
    say(`the ${name} has grown by ${Math.round(grown / 1e6)} MB`);
    assert.ok(grown < allowedGrowthBytes, `the ${name} has grown by ${grown} bytes`);
  }

  /** A backup, a restore and a deletion by somebody who does everything right. */
  async function works(): Promise<void> {
    const backup = await stack.backup('c1', '?compression=none');
    await assertRestores(stack, 'c1', backup, files);
    assert.equal((await stack.stow.request('DELETE', `/1.0/instances/c1/backups/${backup}`)).status, 200);
  }

  /** Waits until no job waits and none is worked on. */
  async function queueIsEmpty(): Promise<void> {
    const jsm = await jetstreamManager(nats);
    await until(
      async () => (await jsm.streams.info('LXSTOW_JOBS', { subjects_filter: '>' })).state,
      ({ messages }) => messages === 0,
      longestQueueMs,
    );
  }

  it('over HTTP is answered in an envelope, and never makes the gateway fail', async () => {
    const { stow } = stack;
    const statuses = new Map<number, number>();
    await lives('gateway', stow.gateway, async () => {
      await fc.assert(
        fc.asyncProperty(anyRequest, async ({ method, bytes }) => {
          for (const answer of await sendRaw(stow, bytes, method)) {
            statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
            assertEnvelope(answer);
          }
        }),
        parameters,
      );
    });
    say(Object.fromEntries([...statuses].sort()));
    const failures = (await stow.logOf('gateway')).split('\n').filter((line) => line.includes('"request failed"'));
    const causes = failures.map((line) => JSON.parse(line) as { status: number; error: string });
    assert.equal(
      causes.filter(({ status }) => status === 500).length,
      statuses.get(500) ?? 0,
      'a 500 whose cause is not in the log',
    );
    assert.deepEqual(causes, []);
    assert.ok(statuses.has(200) && statuses.has(400) && statuses.has(404), 'it has reached nothing');
    await queueIsEmpty();
    await works();
  });

  it('in the headers of a request over NATS is refused', async () => {
    const { url } = stack.nats;
    const to = 'lxstow.api.backups.list.local.default.c1';
    for (const line of ['Foo Bar: x', 'Naïve: x', 'Who: a\nb']) {
      const { code, error } = JSON.parse((await requestRaw(url, to, [line], '{}')) ?? '{}');
      assert.equal(code, 'bad-request');
      assert.match(error, /the message's headers cannot be read/);
      const look = JSON.stringify({ project: 'default', instance: 'c1' });
      const found = JSON.parse((await requestRaw(url, 'lxstow.ask.local.look', [line], look)) ?? '{}');
      assert.equal(found.instance, true);
    }
    await works();
  });

  it('on the queue ends as an operation, a dead letter, or both, and the queue goes on', async () => {
    const [worker] = stack.stow.workers;
    assert.ok(worker);
    const published: { id: string; sequence: number; told: string; data: Buffer }[] = [];
    await lives('worker', worker, async () => {
      await fc.assert(
        fc.asyncProperty(anyMessage, async ({ subject, data, messageId, headers }) => {
          const sent: [string, string][] = [...headers];
          if (messageId !== undefined) sent.push(['Nats-Msg-Id', messageId]);
          const lines = sent.map((pair) => pair.join(': '));
          // What the stream does not take is no job, and its publisher knows.
          const ack = JSON.parse((await requestRaw(stack.nats.url, subject, lines, data)) ?? '{}');
          if (ack.seq === undefined || ack.error || ack.duplicate) return;
          const isReadable = sent.every(([name]) => /^[!-~]*$/.test(name));
          const id = operationIdOf({ messageId: isReadable ? messageId : undefined, sequence: ack.seq });
          const told = `${subject} ${messageId} ${JSON.stringify(headers)} ${data.subarray(0, 300)}`;
          published.push({ id, sequence: ack.seq, told, data });
        }),
        parameters,
      );
      await queueIsEmpty();
    });
    say(`${published.length} of ${numRuns} were taken by the stream`);
    assert.ok(published.length > numRuns / 6, 'it has reached nothing');
    const operations = await allOperations();
    const letters = await deadLetters();
    const ends = new Map<string, number>();
    for (const { id, sequence, told, data } of published) {
      const [operation, letter] = [operations.get(id), letters.get(sequence)];
      const code = codeOf(operation);
      assert.ok(operation, `nobody can be told of ${told}`);
      assert.ok(operation.status_code >= 200, `${operation.status}: ${told}`);
      assert.notEqual(code, 'internal', `${operation.err}: ${told}`);
      if (code === 'bad-message') assert.ok(letter, `no dead letter: ${told}`);
      if (letter) assert.deepEqual(letter, data, `the dead letter is not what came: ${told}`);
      const end = `${operation.status} ${code ?? ''}${letter ? ' + dead letter' : ''}`;
      ends.set(end, (ends.get(end) ?? 0) + 1);
    }
    say(Object.fromEntries(ends));
    await works();
  });

  it('in the place of a manifest is refused, or was as good: nothing is restored but what was backed up', async () => {
    const { stow } = stack;
    const [worker] = stow.workers;
    assert.ok(worker);
    const backup = await stack.backup('c1', '?compression=gzip');
    const path = `/1.0/instances/c1/backups/${backup}`;
    const good = await readObject(stack, manifestOf('c1', backup));
    const ends = new Map<string, number>();
    const check = async (bytes: Buffer, straight: boolean) => {
      await writeObject(stack, manifestOf('c1', backup), bytes);
      const list = await stow.request('GET', '/1.0/instances/c1/backups');
      assert.equal(list.status, 200, list.text);
      const shown = await stow.request('GET', path);
      if (shown.status !== 200) assert.match(shown.body.error, /^manifest of c1|does not exist/);
      const operation = straight ? await restoreByNats(backup) : await restoreByHttp(path);
      const code = codeOf(operation);
      const end = operation ? `${operation.status} ${code ?? ''}` : 'refused';
      ends.set(end, (ends.get(end) ?? 0) + 1);
      if (operation?.status === 'Success') {
        assert.deepEqual(await stack.fingerprint('again'), files);
        await stack.remove('again');
      } else {
        const sane = /^(bad-manifest|archive-corrupt|not-found|bad-request|lxd-refused|lxd-failed)$/;
        if (operation) assert.match(String(code), sane, operation.err);
        await assertNoInstance(stack, 'again');
      }
    };
    await lives('worker', worker, () =>
      lives('gateway', stow.gateway, () =>
        fc.assert(fc.asyncProperty(anyManifest(good.toString()), fc.boolean(), check), {
          ...parameters,
          numRuns: Math.ceil(numRuns / 2),
        }),
      ),
    );
    say(Object.fromEntries(ends));
    assert.ok(
      ends.has('Success ') && ends.has('refused') && ends.has('Failure bad-manifest'),
      'it has reached nothing',
    );
    await writeObject(stack, manifestOf('c1', backup), good);
    await assertRestores(stack, 'c1', backup, files);
    assert.equal((await stow.request('DELETE', path)).status, 200);
    await assertClean(stack);
  });

  it('in the place of a manifest can be deleted, and the archive with it', async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat(), async (one) => {
        const backup = await stack.backup('c1', '?compression=none');
        const good = (await readObject(stack, manifestOf('c1', backup))).toString();
        const [bytes = ''] = fc.sample(anyManifest(good), { numRuns: 1, seed: one });
        await writeObject(stack, manifestOf('c1', backup), bytes);
        const answer = await stack.stow.request('DELETE', `/1.0/instances/c1/backups/${backup}`);
        assert.equal(answer.status, 200, answer.text);
        assert.deepEqual(
          (await stack.keys()).filter((key) => key.includes(backup)),
          [],
        );
      }),
      { ...parameters, numRuns: Math.ceil(numRuns / 50) },
    );
    await assertClean(stack);
  });

  async function restoreByHttp(path: string): Promise<Operation | undefined> {
    const answer = await stack.stow.request('POST', path, { body: { name: 'again' } });
    if (answer.status === 202) return (await stack.stow.finished(answer)) as Operation;
    assert.match(answer.body.error, /^manifest of c1|does not exist/);
    return undefined;
  }

  async function restoreByNats(backup: string): Promise<Operation> {
    const body = JSON.stringify({ backup, source: { instance: 'c1' } });
    const { seq } = await jetstream(nats).publish(
      'lxstow.jobs.local.restore.default.again.from.local.default.c1.unrestricted',
      body,
    );
    const id = operationIdOf({ messageId: undefined, sequence: seq });
    return until(
      async () => (await stack.stow.request('GET', `/1.0/operations/${id}`)).body.metadata as Operation,
      (operation) => operation?.status_code >= 200,
    );
  }

  async function allOperations(): Promise<Map<string, Operation>> {
    const answer = await stack.stow.request('GET', '/1.0/operations?all-projects=true&recursion=1');
    assert.equal(answer.status, 200, answer.text);
    const all = Object.values(answer.body.metadata as Record<string, Operation[]>).flat();
    return new Map(all.map((operation) => [operation.id, operation]));
  }

  /** The bodies of the dead letters, by the place that each message had in the queue. */
  async function deadLetters(): Promise<Map<number, Buffer>> {
    const jsm = await jetstreamManager(nats);
    const { first_seq: first, last_seq: last } = (await jsm.streams.info('LXSTOW_DEAD')).state;
    const found = new Map<number, Buffer>();
    for (let seq = first; seq <= last; seq++) {
      const message = await jsm.streams.getMessage('LXSTOW_DEAD', { seq });
      if (message) found.set(Number(message.header.get('Lxstow-Sequence')), Buffer.from(message.data));
    }
    return found;
  }
});

/** What Node's HTTP parser refuses by itself has no body; all else is LXD's envelope. */
function assertEnvelope({ status, headers, body }: RawAnswer): void {
  if (body === '') return;
  assert.match(headers.get('content-type') ?? '', /^application\/json/, `${status} ${body}`);
  const envelope = JSON.parse(body) as Record<string, unknown>;
  const fields = ['error', 'error_code', 'metadata', 'operation', 'status', 'status_code', 'type'];
  assert.deepEqual(Object.keys(envelope).sort(), fields);
  assert.equal(envelope.type === 'error' ? envelope.error_code : status, status);
}

/** In the API it is in the metadata. */
function codeOf(operation: Operation | undefined): string | undefined {
  return (operation?.metadata as { code?: string } | undefined)?.code;
}

function residentBytes(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024;
}
