import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { formatTraceparent, parseTraceparent, traceOf } from '../../services/telemetry/trace.ts';

const id = '4bf92f3577b34da6a3ce929d0e0e4736';
const parent = '00f067aa0ba902b7';

describe('a traceparent', () => {
  it('is understood, and goes on with the same id and flags under a new parent', () => {
    const trace = traceOf(`00-${id}-${parent}-01`);
    assert.deepEqual(trace, { id, flags: '01' });
    const next = formatTraceparent(trace);
    assert.match(next, new RegExp(`^00-${id}-[0-9a-f]{16}-01$`));
    assert.doesNotMatch(next, new RegExp(parent));
    assert.deepEqual(parseTraceparent(next), trace);
  });

  it('of a later version is read as far as we know it', () => {
    assert.deepEqual(parseTraceparent(`01-${id}-${parent}-01-more`), { id, flags: '01' });
  });

  for (const [why, header] of [
    ['missing', undefined],
    ['empty', ''],
    ['of version ff', `ff-${id}-${parent}-01`],
    ['with more than version 00 has', `00-${id}-${parent}-01-more`],
    ['with an id of zeros', `00-${'0'.repeat(32)}-${parent}-01`],
    ['with a parent of zeros', `00-${id}-${'0'.repeat(16)}-01`],
    ['in capitals', `00-${id.toUpperCase()}-${parent}-01`],
    ['too short', `00-${id.slice(1)}-${parent}-01`],
    ['sent twice', `00-${id}-${parent}-01, 00-${id}-${parent}-01`],
    ['with a line break', `00-${id}-${parent}-01\n`],
  ] as const) {
    it(`${why} is none: a new trace begins`, () => {
      assert.equal(parseTraceparent(header), undefined);
      const begun = traceOf(header);
      assert.match(begun.id, /^[0-9a-f]{32}$/);
      assert.notEqual(begun.id, id);
    });
  }
});
