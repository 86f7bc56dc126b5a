/** Progress of running operations: told each second, merged into the record when it is shown, and never into another's. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { faultsOf, type Operation, type OperationMetadata, type Progress } from '../../services/contract/schemas.ts';
import type { Nats } from '../../services/nats/connection.ts';
import { progressSubject } from '../../services/nats/subjects.ts';
import { begin, newOperation, succeed } from '../../services/operations/operation.ts';
import { onlyMoved, progressOf, withProgress } from '../../services/operations/operationProgress.ts';
import { ProgressFeed } from '../../services/operations/progressFeed.ts';
import { createLogger } from '../../services/telemetry/logger.ts';

const at = (second: number) => new Date(Date.UTC(2026, 10, 29, 3, 0, second));
const id = '0b5a3c1e-7f0d-4c62-9d3b-000000000001';
const address = { remote: 'local', project: 'default', instance: 'c1' };
const running = begin(newOperation({ id, kind: 'backup', address }, at(0)), 'w1', at(1));
const told = (bytes_done: number, second: number, of: Operation = running) =>
  progressOf(of, { bytes_done }, at(second));

describe('progress', () => {
  it('is what moves, and nothing else', () => {
    const before: OperationMetadata = { stage: 'uploading', bytes_done: 1, warnings: ['w'] };
    assert.ok(onlyMoved(before, { ...before, bytes_done: 2, bytes_per_second: 3, create_backup_progress: '1MB' }));
    assert.ok(!onlyMoved(before, { ...before, stage: 'generating' }));
    assert.ok(!onlyMoved(before, { ...before, warnings: ['w', 'x'] }));
    const made = progressOf(running, { ...before, lxd_free_bytes: 4 }, at(2));
    assert.deepEqual(made, {
      owner: 'w1',
      attempt: 1,
      at: at(2).toISOString(),
      metadata: { bytes_done: 1, lxd_free_bytes: 4 },
    });
    assert.deepEqual(faultsOf('progress.json', made), []);
  });

  it('is shown of the attempt that told it, while that is at work and has recorded nothing since', () => {
    const shown = withProgress(running, told(5, 2));
    assert.deepEqual([shown.metadata.bytes_done, shown.updated_at], [5, at(2).toISOString()]);
    const next = begin({ ...running, status: 'Pending' }, 'w2', at(3));
    for (const other of [next, { ...running, updated_at: at(3).toISOString() }, succeed(running, at(1))])
      assert.equal(withProgress(other, told(5, 2)), other);
    assert.equal(withProgress(running, undefined), running);
  });
});

describe('what a gateway hears of progress', () => {
  /** A feed, and the ways in which it hears. */
  function heard(records: Operation[] = []) {
    let hear: (error: unknown, message: { subject: string; data: Uint8Array }) => void = () => undefined;
    let change: (operation: Operation) => void = () => undefined;
    let reads = 0;
    const connection = {
      subscribe: (_: string, options: { callback: typeof hear }) => {
        hear = options.callback;
        return { unsubscribe: () => undefined };
      },
    };
    const log = createLogger({ level: 'error', format: 'json' }, {});
    const find = async (wanted: string) => {
      reads++;
      const operation = records.find((each) => each.id === wanted);
      return operation && { operation, revision: 1 };
    };
    const onChange = (see: typeof change) => {
      change = see;
    };
    const onRefusedSubscription = () => ({ [Symbol.dispose]: () => undefined });
    const feed = new ProgressFeed(
      { connection, log, onRefusedSubscription } as unknown as Nats,
      { find },
      { onChange },
    );
    const events: number[] = [];
    feed.onProgress(({ metadata }) => void events.push(metadata.bytes_done ?? -1));
    return {
      ...{ feed, events },
      reads: () => reads,
      change: (operation: Operation) => change(operation),
      tell: (progress: Progress | string, remote = 'local', of = id) => {
        const data = Buffer.from(typeof progress === 'string' ? progress : JSON.stringify(progress));
        hear(undefined, { subject: progressSubject(remote, of), data });
      },
    };
  }

  it('is merged into what it shows, and told on', () => {
    const { feed, events, change, tell, reads } = heard();
    change(running);
    tell(told(5, 2));
    tell(told(7, 3));
    assert.deepEqual([feed.latest(running).metadata.bytes_done, events, reads()], [7, [5, 7], 0]);
    change({ ...running, updated_at: at(4).toISOString() });
    tell(told(9, 5));
    assert.deepEqual(events, [5, 7, 9]);
    const ended = succeed(running, at(6));
    change(ended);
    assert.equal(feed.latest(ended), ended);
    assert.equal(feed.latest(running), running);
  });

  it('is believed of no other host, and of no nonsense', () => {
    const { feed, events, change, tell } = heard();
    change(running);
    tell(told(5, 2), 'oslo');
    for (const nonsense of ['', '{', '[]', '{"owner":"w1"}']) tell(nonsense);
    tell({ ...told(5, 2), metadata: { bytes_done: -1 } });
    tell({ ...told(5, 2), metadata: { create_backup_progress: 'x'.repeat(1000) } });
    assert.deepEqual([feed.latest(running), events], [running, []]);
  });

  it('is of an operation from before it started: it reads the record, once', async () => {
    const { feed, events, tell, reads } = heard([running]);
    tell(told(5, 2));
    tell(told(6, 3));
    await new Promise(setImmediate);
    tell(told(7, 4));
    assert.deepEqual([feed.latest(running).metadata.bytes_done, events, reads()], [7, [5, 7], 1]);
  });

  it('is remembered of so many operations', () => {
    const { feed, change, tell } = heard();
    change(running);
    tell(told(5, 2));
    const others = Array.from({ length: 4096 }, (_, index) => ({ ...running, id: `other-${index}` }));
    for (const other of others) change(other);
    assert.equal(feed.latest(running), running);
  });
});
