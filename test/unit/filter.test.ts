import assert from 'node:assert/strict';
import { PassThrough, Readable } from 'node:stream';
import { describe, it } from 'node:test';
import type { Request } from 'express';
import fc from 'fast-check';
import { RE2JS } from 're2js';
import { isCode } from '../../services/contract/errors.ts';
import type { GatewayParts } from '../../services/gateway/gatewayParts.ts';
import { filtered, largestProgram, mostSteps, parseFilter, stepsAtOnce } from '../../services/gateway/http/filter.ts';
import { listShares, sendLines } from '../../services/gateway/http/lines.ts';
import { programSizeOf } from '../../services/gateway/http/patternSize.ts';

const c1 = {
  name: 'c1',
  status: 'Running',
  status_code: 103,
  ephemeral: false,
  profiles: ['default'],
  config: { 'image.os': 'Ubuntu', 'user.note': 'two words' },
  expanded_config: { 'image.os': 'Ubuntu' },
  devices: { root: { type: 'disk', path: '/' } },
  state: null,
};

describe('a filter', () => {
  const cases: [filter: string, matches: boolean][] = [
    ['name eq c1', true],
    ['name eq c', false],
    ['name eq c.*', true],
    ['name eq ^c', true],
    ['name eq (^c1$|^c1.*)', true],
    ['status eq running', true],
    ['status eq Running and name eq c1', true],
    ['status eq Stopped and name eq c1', false],
    ['status eq Stopped or name eq c1', true],
    ['name eq c1 or name eq c2 and status eq stopped', false],
    ['not status eq Stopped', true],
    ['NOT status EQ Running', false],
    ['status ne Stopped', true],
    ['status=running', true],
    ['status!=running', false],
    ['name=(c1|^c1.*)', true],
    ['name=c1 and not status=stopped', true],
    ['config.user.note eq "two words"', true],
    ["config.user.note='two words' and name=c1", true],
    ['expanded_config.image.os eq ubuntu', true],
    ['expanded_config.image.version eq ^$', true],
    ['expanded_config.image.version ne 20', true],
    ['devices.root.path eq /', true],
    ['status_code ge 103', true],
    ['status_code gt 103', false],
    ['status_code lt 104 and status_code le 103 and status_code eq 103 and status_code ne 1', true],
    ['ephemeral eq false', true],
    ['ephemeral=true', false],
    ['profiles eq ["default"]', true],
    ['nothing eq x', false],
    ['nothing ne x', false],
    ['state.network eq x', false],
    ['name eq (c1', false],
    ['constructor.name eq Object', false],
  ];
  for (const [filter, matches] of cases)
    it(`${filter}: ${matches}`, () => assert.equal(parseFilter(filter)(c1), matches));

  it('that is not there matches everything', () => assert.equal(parseFilter(undefined)(c1), true));

  for (const filter of ['', 'name', 'name eq', 'not', 'name like c1', 'name eq c1 name eq c2', 'name eq c1 and'])
    it(`${JSON.stringify(filter)} is refused`, () =>
      assert.throws(() => parseFilter(filter)(c1), { code: 'bad-request' }));

  it('on the order of what has none is refused', () => {
    assert.throws(() => parseFilter('name gt c')(c1), /gt is for numbers, and name is not a number/);
    assert.throws(() => parseFilter('status_code gt c')(c1), /number/);
  });

  it('of any text is a filter or refused', () => {
    const words = fc.constantFrom(
      'name',
      'eq',
      'ne',
      'gt',
      'and',
      'or',
      'not',
      '"',
      "'",
      '=',
      '!=',
      'c1',
      ' ',
      '(',
      '[',
      '\\',
      '{9}',
    );
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.array(words).map((each) => each.join(' ')),
        ),
        (text) => {
          try {
            assert.equal(typeof parseFilter(text)(c1), 'boolean');
          } catch (error) {
            assert.ok(isCode(error, 'bad-request'), String(error));
          }
        },
      ),
    );
  });

  it('that would keep a backtracking engine busy for ever does not', () => {
    const long = { name: `${'a'.repeat(3_000)}!` };
    for (const pattern of ['(a+)+$', '^(a|a)*$', '(a*)*b']) parseFilter(`name eq ${pattern}`)(long);
  });

  for (const pattern of [
    `${'(?:.?){1000}'.repeat(82)}`,
    '((a{1000}){1000})',
    '(((((a{30}){30}){30}){30}){30})',
    '\\Q[\\E(?:.?){1000}]',
    '[]](?:.?){1000}[a]',
    `${'\\pL'.repeat(300)}`,
    'x{1001}',
  ])
    it(`of a large program is refused before it is compiled: ${pattern.slice(0, 40)}`, () =>
      assert.throws(() => parseFilter(`name eq ${pattern}`), /patterns are too large: more than 1000 instructions/));

  it('of many patterns is refused when they are too large together', () => {
    const clause = 'name eq (?:.?){50}';
    assert.equal(parseFilter(clause)(c1), true);
    assert.throws(() => parseFilter([clause, clause, clause, clause].join(' or ')), /too large/);
  });

  it('counts no less than is compiled', () => {
    const atoms = [
      'a',
      'k',
      '.',
      '[a-z]',
      '[^\\]k]',
      '[]a]',
      '\\d',
      '\\pL',
      '\\.',
      '\\Qa[b\\E',
      '(',
      '(?:',
      ')',
      '|',
      '^',
      '$',
      '[[:alpha:]x]',
    ];
    const repeats = ['*', '+', '?', '*?', '{3}', '{2,5}', '{4,}', '{0,3}'];
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...atoms, ...repeats), { maxLength: 30 }), (parts) => {
        const pattern = parts.join('');
        const counted = programSizeOf(pattern);
        if (counted > 5000) return;
        let compiled: RE2JS;
        try {
          compiled = RE2JS.compile(pattern, RE2JS.CASE_INSENSITIVE);
        } catch {
          return;
        }
        assert.ok(counted >= compiled.programSize(), `${counted} < ${compiled.programSize()}`);
      }),
      { numRuns: 3000 },
    );
    assert.ok(programSizeOf('^(c1$|^c1.*)$') <= 50);
  });

  it('is refused where a value is too long for it, and for more objects than it may cost', async () => {
    const pattern = `(?:.?){${largestProgram / 10}}`;
    const size = programSizeOf(`^${pattern}$`);
    const [fits, many] = [Math.floor(stepsAtOnce / size), Math.ceil(mostSteps / stepsAtOnce) + 3];
    const named = (length: number) => ({ name: 'x'.repeat(length) });
    assert.throws(() => parseFilter(`name eq ${pattern}`)(named(fits + 1)), /too long for its pattern/);
    const items = Array.from({ length: many }, () => named(fits));
    await assert.rejects(filtered(items, `name eq ${pattern}`), /is too expensive/);
    assert.equal(
      (await filtered(items, `name eq ${'x'.repeat(fits)}`)).length,
      many,
      'what is no pattern costs nothing',
    );
  });

  it('lets others have their turn', async () => {
    const items = Array.from({ length: 400 }, () => ({ name: 'x'.repeat(50) }));
    const turns = await turnsDuring(() => filtered(items, 'name eq (?:.?){20}y'));
    assert.ok(turns > 1, `${turns} turns`);
  });

  it('lets others have their turn where a list is sent as lines, too, and costs no more in batches', async () => {
    const items = Array.from({ length: 400 }, () => ({ name: 'x'.repeat(50) }));
    const parts = { lists: listShares(), config: { gateway: { clientIdleTimeoutMs: 60_000 } } };
    const send = (filter: string, batches: object[][]) => {
      const response: object = Object.assign(new PassThrough(), { vary: () => response, type: () => response });
      const request = { query: { filter }, res: { locals: { client: { fingerprint: 'one' } } } };
      const all = Readable.from(batches);
      return sendLines(parts as unknown as GatewayParts, request as unknown as Request, response as never, all);
    };
    const turns = await turnsDuring(() => send('name eq (?:.?){20}y', [items]));
    assert.ok(turns > 1, `${turns} turns`);
    await assert.rejects(send('name eq (?:.?){30}y', Array(20).fill(items)), /is too expensive/);
  });
});

/** How often the event loop came round while something was done. */
async function turnsDuring(work: () => Promise<unknown>): Promise<number> {
  let turns = 0;
  const count = () => {
    turns++;
    next = setImmediate(count);
  };
  let next = setImmediate(count);
  await work().finally(() => clearImmediate(next));
  return turns;
}
