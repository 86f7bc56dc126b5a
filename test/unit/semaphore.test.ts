/** Semaphore: never more at a time, each in its turn, and none lost when somebody gives up. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { Semaphore } from '../../services/concurrency/semaphore.ts';
import { WaiterQueue } from '../../services/concurrency/waiterQueue.ts';

const never = new AbortController().signal;

describe('places', () => {
  it('are given in turn', async () => {
    const places = new Semaphore(2);
    const came: string[] = [];
    const visit = async (name: string) => {
      using _place = await places.take(never);
      came.push(name);
      await new Promise((resolve) => setImmediate(resolve));
    };
    await Promise.all(['a', 'b', 'c', 'd', 'e'].map(visit));
    assert.deepEqual(came, ['a', 'b', 'c', 'd', 'e']);
  });

  it('are kept by who gives up in the turn in which it is served, and nobody else is forgotten', async () => {
    const line = new WaiterQueue<string>();
    const [first, second] = [new AbortController(), new AbortController()];
    const [a, b] = [line.wait(first.signal), line.wait(second.signal)];
    line.serve('one');
    first.abort(new Error('gives up'));
    assert.equal(await a, 'one');
    assert.ok(line.serve('two'), 'the second waits no more');
    assert.equal(await b, 'two');
  });

  it('are all free again, whoever gave up while waiting', async () => {
    const property = fc.asyncProperty(
      fc.integer({ min: 1, max: 3 }),
      fc.array(fc.record({ turns: fc.nat(4), givesUpAfter: fc.option(fc.nat(4)) }), { maxLength: 12 }),
      async (most, visitors) => {
        const places = new Semaphore(most);
        const turn = async (count: number) => {
          for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve));
        };
        let inside = 0;
        const visit = async ({ turns, givesUpAfter }: (typeof visitors)[number]) => {
          const leaving = new AbortController();
          if (givesUpAfter !== null) void turn(givesUpAfter).then(() => leaving.abort(new Error('gives up')));
          using _place = await places.take(leaving.signal);
          inside += 1;
          assert.ok(inside <= most);
          await turn(turns);
          inside -= 1;
        };
        for (const { reason } of (await Promise.allSettled(visitors.map(visit))) as PromiseRejectedResult[])
          if (reason !== undefined) assert.match(String(reason), /gives up/);
        const all = await Promise.all(Array.from({ length: most }, () => places.take(never)));
        for (const place of all) place[Symbol.dispose]();
      },
    );
    await fc.assert(property);
  });
});
