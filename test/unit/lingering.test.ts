import assert from 'node:assert/strict';
import { it } from 'node:test';
import { lingering } from '../../services/operations/attempt.ts';

it('a signal that lingers aborts with the reason of the other, 5 s later', ({ mock }) => {
  mock.timers.enable({ apis: ['setTimeout'] });
  const first = new AbortController();
  const reason = new Error('told so');
  const late = lingering(first.signal);
  mock.timers.tick(60_000);
  first.abort(reason);
  mock.timers.tick(4999);
  assert.equal(late.aborted, false);
  mock.timers.tick(1);
  assert.equal(late.reason, reason);
  assert.throws(
    () => lingering(first.signal),
    (error) => error === reason,
  );
});
