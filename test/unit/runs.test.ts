/** Runs: who is chosen, in which order, how it is counted; for any fleet, and whatever comes of its children. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { gzipSync } from 'node:zlib';
import { type ApiError, JetStreamApiError, type JetStreamPublishOptions } from '@nats-io/jetstream';
import { TimeoutError } from '@nats-io/transport-node';
import fc from 'fast-check';
import { LxstowError } from '../../services/contract/errors.ts';
import {
  type Address,
  faultsOf,
  type Operation,
  type Run,
  type RunChild,
  type RunSelector,
} from '../../services/contract/schemas.ts';
import { assertAllOfIt } from '../../services/gateway/runs/runView.ts';
import type { Bucket } from '../../services/nats/bucket/bucket.ts';
import { outageKey } from '../../services/nats/bucketKeys.ts';
import type { Nats } from '../../services/nats/connection.ts';
import { runNoticeOf } from '../../services/notices/notice.ts';
import { newOperation } from '../../services/operations/operation.ts';
import type { OperationStore } from '../../services/operations/operationStore.ts';
import { createRun, type RunTools } from '../../services/runs/createRun.ts';
import { feedChild } from '../../services/runs/feeder/feeding.ts';
import {
  Fleet,
  fewestChildren,
  mostHandedBack,
  type OpenChild,
  type OpenRun,
} from '../../services/runs/feeder/openRuns.ts';
import { remotesAway } from '../../services/runs/feeder/remotesAway.ts';
import {
  countsOf,
  endOf,
  everything,
  isOpen,
  type MaySee,
  runOperation,
  shownRun,
  tally,
} from '../../services/runs/fold.ts';
import { addressKey, childId, chunkSize, chunksOf, dueMs, plan } from '../../services/runs/plan.ts';
import { markdownOf } from '../../services/runs/report.ts';
import type { RunStore } from '../../services/runs/runStore.ts';
import { checkNoSecrets, fitsPattern, select } from '../../services/runs/selector.ts';
import { traceOf } from '../../services/telemetry/trace.ts';

const names = fc.stringMatching(/^[ab-]{1,6}$/);
const addresses = fc.array(
  fc.record({
    remote: fc.constantFrom('r1', 'r2', 'r3'),
    project: fc.constantFrom('default', 'web'),
    instance: fc.stringMatching(/^[ab]{1,3}$/),
  }),
  { maxLength: 60 },
);
let runs = 0;
function uuid(): string {
  return `00000000-0000-4000-8000-${String(++runs).padStart(12, '0')}`;
}

function runOf(children: RunChild[], more: Partial<Run> = {}): Run {
  const at = new Date(Date.UTC(2026, 10, 28) + runs * 1000).toISOString();
  const id = uuid();
  return {
    ...{ id, plan: '00000000', chunks: chunksOf(children).length, status: 'Running', class: 'hand' },
    ...{ created_at: at, updated_at: at, request: { selector: { all: true } }, places: tally(children) },
    ...{ away: [], failures: [], excluded: 0, ...more },
  };
}

/** Each has what only it has, so that what is counted is what is there. */
function assertCounted({ run, chunks }: OpenRun): void {
  const children = chunks.flat().map(({ child }) => child);
  const [kept, counted] = [countsOf(Object.values(run.places)), countsOf(Object.values(tally(children)))];
  assert.deepEqual(kept, counted);
  const { total, ...each } = kept;
  assert.equal(total, children.length);
  assert.equal(
    Object.values(each).reduce((sum, count) => sum + count, 0),
    total,
  );
}

function operation(run: Pick<Run, 'id' | 'plan'>, child: RunChild, status: Operation['status']): Operation {
  const id = childId(run, child);
  const fresh = newOperation({ id, kind: 'backup', address: child }, new Date(0));
  const codes = { Pending: 105, Running: 103, Cancelling: 104, Success: 200, Failure: 400, Cancelled: 401 } as const;
  return {
    ...fresh,
    ...{ status, status_code: codes[status] },
    ...(status === 'Success' && { metadata: { bytes_stored: 7 } }),
    ...(status === 'Failure' && { err: 'no room', error_code: 's3-full' }),
  };
}

describe('a selector', () => {
  it("takes patterns as a shell's", () => {
    fc.assert(
      fc.property(names, fc.stringMatching(/^[ab*?-]{0,8}$/), (name, pattern) => {
        const same = new RegExp(`^${pattern.replaceAll('*', '.*').replaceAll('?', '.')}$`);
        assert.equal(fitsPattern(name, pattern), same.test(name), `${name} ${pattern}`);
      }),
    );
    // Where a regular expression that steps back would take for ever.
    assert.equal(fitsPattern('a'.repeat(63), `${'*a'.repeat(31)}b`), false);
  });

  it('chooses what fits all that it says, and never what excludes itself', () => {
    const instances = ['web-1', 'web-2', 'db'].flatMap((name) =>
      ['default', 'shop'].map((project) => ({
        name,
        project,
        status: name === 'db' ? 'Stopped' : 'Running',
        config: {},
      })),
    );
    const own = { name: 'web-9', project: 'shop', status: 'Running', config: { 'user.lxstow.exclude': 'true' } };
    const chosen = (selector: object) => {
      const { chosen, excluded } = select([...instances, own], selector);
      return [chosen.map(({ project, name }) => `${project}/${name}`).join(' '), excluded];
    };
    assert.deepEqual(chosen({ all: true, projects: ['shop'] }), ['shop/web-1 shop/web-2 shop/db', 1]);
    assert.deepEqual(chosen({ instances: ['web-*'], exclude: ['*-2'], projects: ['default'] }), ['default/web-1', 0]);
    assert.deepEqual(chosen({ match: ['status=stopped'] }), ['default/db shop/db', 0]);
    assert.deepEqual(chosen({ instances: ['web-9'] }), ['', 1]);
  });

  it('of who may not see secrets compares none of them, and may ask who has one', () => {
    const open = ['user.backup=daily', 'status=running', 'environment.KEY', 'user.user-data', 'environmental=x'];
    checkNoSecrets({ match: open });
    for (const secret of ['environment.KEY=x', 'environment.KEY!=', 'cloud-init.user-data=x', 'user.meta-data=x'])
      assert.throws(() => checkNoSecrets({ match: [...open, secret] }), {
        code: 'forbidden',
        message: new RegExp(`the values of ${secret.replace(/!?=.*/, '')} may be secret`),
      });
  });
});

describe('a plan', () => {
  it('has each instance once, in chunks, with an operation of its own', () => {
    fc.assert(
      fc.property(addresses, (given) => {
        const children = plan(given);
        const key = ({ remote, project, instance }: Address) => `${remote}/${project}/${instance}`;
        assert.deepEqual(new Set(children.map(key)), new Set(given.map(key)));
        assert.equal(new Set(children.map(key)).size, children.length);
        assert.equal(new Set(children.map((child) => childId({ id: 'run', plan: '' }, child))).size, children.length);
        assert.deepEqual(chunksOf(children).flat(), children);
      }),
    );
    const many = plan(Array.from({ length: 1200 }, (_, i) => ({ remote: 'r', project: 'default', instance: `c${i}` })));
    assert.deepEqual(
      chunksOf(many).map(({ length }) => length),
      [chunkSize, chunkSize, 200],
    );
  });

  it('with the longest names and reasons is a value that NATS takes', () => {
    const child: RunChild = {
      ...{ remote: 'r'.repeat(63), project: 'p'.repeat(63), instance: 'i'.repeat(63), state: 'skipped' },
      ...{ backup: 'b'.repeat(128), reason: '🦆'.repeat(100), by: uuid(), since: new Date(0).toISOString() },
      error_code: 'attempts-exhausted',
    };
    const chunk = Array.from({ length: chunkSize }, () => child);
    assert.ok(Buffer.byteLength(JSON.stringify(chunk)) < 1024 * 1024 * 0.95);
    assert.deepEqual(faultsOf('run-plan.json', chunk), []);
  });
});

describe('a child', () => {
  it('has an operation whose id only who reads the run knows', () => {
    const child = { remote: 'r', project: 'default', instance: 'c1' };
    const ids = ['a', 'b'].map((plan) => childId({ id: 'run', plan }, child));
    assert.equal(new Set(ids).size, 2);
  });

  it('is skipped for another backup only as long as that will be made', async () => {
    const child = { remote: 'r', project: 'default', instance: 'c1', state: 'pending' as const };
    const fed = async (other: Partial<Operation> | undefined) => {
      const store = new Map<string, Operation>();
      const queue = [uuid()];
      if (other) store.set(queue[0] ?? '', { ...operation(runOf([]), child, 'Pending'), ...other });
      const stored = (operation: Operation | undefined) => operation && { operation, revision: 1 };
      const operations = {
        find: async (id: string) => stored(store.get(id)),
        create: async (made: Operation) => stored(store.set(made.id, made).get(made.id)),
      } as unknown as OperationStore;
      const publish = async (_: string, __: string, { msgID, expect }: JetStreamPublishOptions) => {
        if (expect?.lastSubjectSequence === 0) throw new JetStreamApiError({ code: 400, err_code: 10071 } as ApiError);
        queue.push(msgID ?? '');
      };
      const header = { get: () => queue.at(-1) };
      const ask = async (_: string, question: () => unknown) => question();
      const nats = {
        ...{ ask, assertConnected: () => undefined, whileConnected: (use: () => unknown) => use(), js: { publish } },
        jsm: { streams: { getMessage: async () => ({ header, seq: 1, time: new Date(0) }) } },
      } as unknown as Nats;
      const [[each] = []] = new Fleet().add(runOf([child]), [[{ ...child }]]).chunks;
      assert.ok(each);
      const outcome = await feedChild({ nats, operations }, each);
      return outcome?.state ?? (queue.at(-1) === each.id ? 'queued' : 'lost');
    };
    const status = (status: Operation['status']) => ({ ...operation(runOf([]), child, status) });
    assert.equal(await fed(undefined), 'skipped');
    for (const alive of ['Pending', 'Running'] as const) assert.equal(await fed(status(alive)), 'skipped', alive);
    for (const over of ['Cancelling', 'Cancelled', 'Failure', 'Success'] as const)
      assert.equal(await fed(status(over)), 'queued', over);
    assert.equal(await fed({ kind: 'restore' }), 'queued');
  });

  it('does not heed an operation of another host, which may have any id', () => {
    const fleet = new Fleet();
    const child = { remote: 'r', project: 'default', instance: 'c1', state: 'pending' as const };
    const run = runOf([child]);
    const open = fleet.add(run, [[{ ...child }]]);
    for (const other of [{}, { instance: 'c2' }])
      assert.equal(fleet.see({ ...operation(run, child, 'Success'), ...other, remote: 'r2' }), undefined);
    assert.deepEqual(
      open.chunks[0]?.map(({ child, fed }) => [child.state, fed]),
      [['pending', false]],
    );
  });

  it('fails when another job had the id of its operation', () => {
    for (const other of [{ project: 'web' }, { instance: 'c2' }, { kind: 'delete' as const }]) {
      const fleet = new Fleet();
      const child = { remote: 'r', project: 'default', instance: 'c1', state: 'pending' as const };
      const run = runOf([child]);
      const open = fleet.add(run, [[{ ...child }]]);
      fleet.see({ ...operation(run, child, 'Success'), ...other });
      assert.deepEqual(
        open.chunks[0]?.map(({ child }) => [child.state, child.error_code]),
        [['failure', 'conflict']],
      );
      assertCounted(open);
    }
  });
});

describe('the fleet', () => {
  const statuses = ['Pending', 'Running', 'Pending', 'Success', 'Failure', 'Cancelled', 'Cancelling'] as const;
  const steps = fc.array(fc.tuple(fc.nat(), fc.constantFrom(...statuses, ...(['feed', 'refuse'] as const))), {
    maxLength: 200,
  });

  it('counts each child in one state, whatever is heard of it and however often; what has ended stays', () => {
    fc.assert(
      fc.property(fc.array(addresses, { minLength: 1, maxLength: 3 }), steps, (given, heard) => {
        const fleet = new Fleet();
        const opened = given.map((each) => fleet.add(runOf(plan(each)), chunksOf(plan(each))));
        const ended = new Map<string, string>();
        for (const [at, what] of heard) {
          const all = opened.flatMap((open) => open.chunks.flat());
          const one = all[at % Math.max(1, all.length)];
          if (what === 'feed') fleet.next();
          else if (!one) continue;
          else if (what === 'refuse') fleet.unmarkFed(one);
          else fleet.see(operation(one.of.run, one.child, what));
          for (const { id, child } of all) {
            if (ended.has(id)) assert.equal(child.state, ended.get(id));
            if (!isOpen(child)) ended.set(id, child.state);
          }
        }
        for (const open of opened) {
          assertCounted(open);
          assert.deepEqual(faultsOf('run.json', open.run), []);
        }
      }),
    );
  });

  it('never has more on the queue than its slots can soon take, and ends with every child fed once', () => {
    fc.assert(
      fc.property(
        fc.array(addresses, { minLength: 1, maxLength: 3 }),
        fc.integer({ min: 1, max: 5 }),
        (given, slots) => {
          const fleet = new Fleet();
          const opened = given.map((each) => fleet.add(runOf(plan(each)), chunksOf(plan(each))));
          const [queued, fed] = [new Map<string, string[]>(), new Set<string>()];
          const byId = new Map(opened.flatMap((open) => open.chunks.flat()).map((each) => [each.id, each]));
          const hear = (id: string, status: Operation['status']) => {
            const each = byId.get(id);
            if (each) fleet.see(operation(each.of.run, each.child, status));
          };
          for (;;) {
            const next = fleet.next();
            for (const { id, child } of next) {
              assert.ok(!fed.has(id));
              fed.add(id);
              queued.set(child.remote, [...(queued.get(child.remote) ?? []), id]);
            }
            for (const ids of queued.values()) assert.ok(ids.length <= Math.max(2 * slots + 1, fewestChildren));
            if ([...queued.values()].every(({ length }) => length === 0)) break;
            for (const ids of queued.values()) {
              for (const id of ids.slice(0, slots)) hear(id, 'Running');
              const done = ids.shift();
              if (done) hear(done, 'Success');
            }
          }
          for (const open of opened) {
            assertCounted(open);
            const { running, pending } = countsOf(Object.values(open.run.places));
            assert.equal(running + pending, 0);
          }
        },
      ),
    );
  });

  it('gives each of several runs its turn, and what is done by hand before what is repeated', () => {
    const fleet = new Fleet();
    const of = (prefix: string) =>
      plan(Array.from({ length: 40 }, (_, i) => ({ remote: 'r', project: 'default', instance: `${prefix}${i}` })));
    const retry = fleet.add(runOf(of('r'), { class: 'retry' }), chunksOf(of('r')));
    const [one, two] = ['a', 'b'].map((prefix) => fleet.add(runOf(of(prefix)), chunksOf(of(prefix))));
    const first = fleet.next();
    assert.equal(first.length, fewestChildren);
    assert.equal(first.filter((each) => each.of === one).length, fewestChildren / 2);
    assert.equal(first.filter((each) => each.of === two).length, fewestChildren / 2);
    assert.equal(first.filter((each) => each.of === retry).length, 0);
  });

  it('goes on while some of its children wait for a limit or for their next attempt, but not without end', () => {
    const fleet = new Fleet();
    const children = plan(
      Array.from({ length: 60 }, (_, i) => ({ remote: 'r', project: 'default', instance: `c${i}` })),
    );
    fleet.add(runOf(children), chunksOf(children));
    const handBack = ({ of, child }: OpenChild, more: Partial<Operation>) =>
      fleet.see({ ...operation(of.run, child, 'Pending'), ...more });
    const held: OpenChild[] = [];
    for (let next = fleet.next(); next.length > 0; next = fleet.next()) {
      assert.ok(next.length <= fewestChildren);
      for (const [index, each] of next.entries())
        handBack(each, index % 2 === 0 ? { metadata: { waiting_for: 'remote r' } } : { attempt: 1 });
      held.push(...next);
    }
    assert.equal(held.length, mostHandedBack);
    // One begins at last, and another takes its place.
    const [first] = held;
    if (first) fleet.see(operation(first.of.run, first.child, 'Running'));
    assert.equal(fleet.next().length, fewestChildren - 1);
  });

  it('begins with what the last window left out, though jitter puts it last', () => {
    const fleet = new Fleet();
    const names = Array.from({ length: 9 }, (_, index) => `c${index}`);
    const addresses = names.map((instance) => ({ remote: 'r', project: 'default', instance }));
    const starts_at = '2026-11-28T03:00:00Z';
    const schedule = { name: 'nightly', slot: 'then', starts_at, jitter_seconds: 3600 };
    const last = addresses.toSorted((a, b) => dueMs({ schedule }, a) - dueMs({ schedule }, b)).at(-1);
    assert.ok(last);
    const children = plan(addresses, new Set([addressKey(last)]));
    fleet.add(runOf(children, { class: 'scheduled', schedule }), chunksOf(children));
    assert.deepEqual(
      fleet.next(Date.parse(starts_at)).map(({ child }) => child.instance),
      [last.instance],
    );
  });

  it('skips what another run has planned already, and says which', () => {
    const fleet = new Fleet();
    const children = plan([{ remote: 'r', project: 'default', instance: 'c1' }]);
    const first = fleet.add(runOf(children), chunksOf(children));
    const second = fleet.add(runOf(children), chunksOf(children));
    fleet.next();
    assert.deepEqual(
      second.chunks.flat().map(({ child }) => [child.state, child.by]),
      [['skipped', first.run.id]],
    );
    assert.equal(first.chunks[0]?.[0]?.child.state, 'pending');
  });

  it('leaves it to the queue if the other run may end without the backup', () => {
    const children = plan([{ remote: 'r', project: 'default', instance: 'c1' }]);
    const [child] = children;
    assert.ok(child);
    const starts_at = new Date(0).toISOString();
    const until = (hour: number) => ({
      schedule: { name: 's', slot: '', starts_at, jitter_seconds: 3600, window_ends: `2026-11-29T0${hour}:00:00.000Z` },
    });
    type Meanwhile = (of: OpenRun, fleet: Fleet) => unknown;
    const second = (first: Partial<Run>, then: Partial<Run>, meanwhile: Meanwhile = () => undefined) => {
      const fleet = new Fleet();
      const holder = fleet.add(runOf(children, first), [[{ ...child }]]);
      fleet.next(0);
      meanwhile(holder, fleet);
      const open = fleet.add(runOf(children, then), [[{ ...child }]]);
      const queued = fleet.next(0).length;
      return [open.chunks[0]?.[0]?.child.state, queued];
    };
    const cancel = ({ run }: OpenRun) => Object.assign(run, { status: 'Cancelling' });
    assert.deepEqual(second({}, {}, cancel), ['pending', 1]);
    const cancelChild: Meanwhile = ({ run }, fleet) => {
      for (const status of ['Running', 'Cancelling'] as const) fleet.see(operation(run, child, status));
    };
    assert.deepEqual(second({}, {}, cancelChild), ['pending', 1]);
    assert.deepEqual(second({}, {}), ['skipped', 0]);
    assert.deepEqual(second(until(5), {}), ['pending', 1]);
    assert.deepEqual(second(until(5), until(6)), ['pending', 0]);
    assert.deepEqual(second(until(5), until(5)), ['skipped', 0]);
    assert.deepEqual(second(until(6), until(5)), ['skipped', 0]);
    // Without jitter, the first run's child is on the queue already.
    assert.deepEqual(second({ schedule: { ...until(5).schedule, jitter_seconds: 0 } }, {}), ['skipped', 0]);
  });

  it('does not skip what is on the queue already, even if a later run was taken on first', () => {
    const fleet = new Fleet();
    const children = plan(['c1', 'c2'].map((instance) => ({ remote: 'r', project: 'default', instance })));
    const later = fleet.add(runOf(children), chunksOf(children));
    const earlier = fleet.add(runOf(children), chunksOf(children));
    const [queued] = children;
    assert.ok(queued);
    fleet.see(operation(earlier.run, queued, 'Pending'));
    fleet.next();
    const states = ({ chunks }: OpenRun) => chunks.flat().map(({ child }) => child.state);
    assert.deepEqual(
      [states(earlier), states(later)],
      [
        ['pending', 'skipped'],
        ['pending', 'pending'],
      ],
    );
  });
});

describe('a run', () => {
  const children: RunChild[] = [
    { remote: 'r1', project: 'default', instance: 'c1', state: 'success', bytes: 10 },
    { remote: 'r1', project: 'web', instance: 'c2', state: 'failure', reason: 'no *room*' },
    { remote: 'r2', project: 'web', instance: 'c3', state: 'skipped', reason: 'operation x is at work on it' },
    { remote: 'r2', project: 'web', instance: 'c4', state: 'pending' },
  ];
  const failures = [{ remote: 'r1', project: 'web', instance: 'c2', reason: 'no *room*' }];
  const run = runOf(children, { failures, status: 'Failure' });

  it('is shown as far as who asks may see it', () => {
    const at = new Date(Date.parse(run.created_at) + 10_000);
    const all = shownRun(run, everything, at);
    assert.deepEqual([all?.counts.total, all?.failures.length, all?.bytes], [4, 1, 10]);
    const own = shownRun(run, (_, project) => project === 'default', at);
    assert.deepEqual([own?.counts.total, own?.failures.length, own?.bytes], [1, 0, 10]);
    assert.deepEqual([all?.selector, own?.selector], [{ all: true }, { projects: ['default'] }]);
    assert.equal(
      shownRun(run, (_, project) => project === 'other', at),
      undefined,
    );
    assert.deepEqual(faultsOf('run-answers.json#/$defs/run', all), []);
    assert.deepEqual(faultsOf('nats-api.json#/$defs/operation', all && runOperation(all)), []);
  });

  it('does not show what its request names beyond that', () => {
    const projects = ['default', 'secret'];
    const [first] = children;
    const failures = [{ remote: 'r1', project: '', instance: '', reason: 'there is no instance top-secret' }];
    const selector = { projects, instances: ['c1', 'top-secret'], match: ['user.password=1'] };
    const schedule = { name: 'secretly', slot: '2026-11-28T03:00', starts_at: '2026-11-28T03:00:00Z' };
    const note = '2 earlier times of schedule secretly were missed';
    const how = { tags: { by: 'cron' }, instance_only: true };
    const keep = { keep_tags: ['secret=1'] };
    const request = { selector, ...how, keep };
    const named = runOf(first ? [first] : [], { failures, request, excluded: 3, schedule, note });
    const seen = (shown: string[]) => shownRun(named, (_, project) => shown.includes(project), new Date());
    assert.deepEqual([seen(projects)?.selector, seen(projects)?.schedule], [selector, schedule]);
    assert.equal(seen(projects)?.note, note);
    assert.deepEqual(seen(['default'])?.selector, { projects: ['default'] });
    assert.doesNotMatch(JSON.stringify(seen(['default'])), /secret|password/);
    assert.deepEqual([seen(['default'])?.options, seen(projects)?.options], [how, { ...how, keep }]);
    assert.deepEqual([seen(['default'])?.excluded, seen(projects)?.excluded], [0, 3]);
  });

  it('that may still get instances of a host that is away is whole only to who may use all that it may choose', () => {
    const away = [{ remote: 'r2', since: run.created_at, reason: 'no worker is up', planned: false }];
    const of = (selector: RunSelector) =>
      runOf([{ remote: 'r1', project: 'web', instance: 'c2', state: 'pending' }], { away, request: { selector } });
    const ofWeb: MaySee = (_, project) => project === 'web';
    assert.throws(() => assertAllOfIt(of({ all: true }), ofWeb), { code: 'forbidden' });
    assert.throws(() => assertAllOfIt(of({ all: true, projects: ['web', 'db'] }), ofWeb), { code: 'forbidden' });
    const ofHost: MaySee = (remote) => remote === 'r1';
    assert.throws(() => assertAllOfIt(of({ all: true, projects: ['web'] }), ofHost), { code: 'forbidden' });
    assert.doesNotThrow(() => assertAllOfIt(of({ all: true, projects: ['web'] }), ofWeb));
    assert.doesNotThrow(() => assertAllOfIt(of({ all: true }), everything));
  });

  it('waits for S3, whatever else is away at its host', async () => {
    const common = { since: run.created_at, code: 's3-unavailable', reason: 'why', allowed: 0, worker: 'w1' };
    const outages: Record<string, object> = {
      [outageKey('r1', 's3')]: { ...common, dependency: 's3' },
      [outageKey('r1', 'lxd', 'w2')]: { ...common, dependency: 'lxd' },
    };
    const entries = async (filter: string) =>
      Object.entries(outages)
        .filter(([key]) => fitsPattern(key, filter))
        .map(([key, value]) => ({ key, value: Buffer.from(JSON.stringify(value)) }));
    const answer = { project: true, instance: true };
    const nats = {
      ...{
        whileConnected: (use: () => unknown) => use(),
        connection: { request: async () => ({ json: () => answer }) },
      },
    } as unknown as Nats;
    const away = await remotesAway(nats, { entries } as unknown as Bucket, [
      { remote: 'r1', project: 'default', instance: 'c1' },
    ]);
    assert.match(away.get('r1') ?? '', /^it waits for /);
  });

  it('of a schedule waits for hosts of which nobody can tell what they had', async () => {
    const log = { warn: () => undefined };
    const nats = { assertConnected: () => undefined, log } as unknown as Nats;
    const store = { find: async () => undefined, create: async (head: Run) => head } as unknown as RunStore;
    const lastKnown = () => Promise.reject(new LxstowError('internal', 'no record'));
    const tools: RunTools = { nats, runs: store, inventoryTimeoutMs: 1, lastKnown };
    const request = { selector: { instances: ['c1', 'c*'] } };
    const occasion = { class: 'scheduled' as const, schedule: { name: 's', slot: '', starts_at: run.created_at } };
    const made = await createRun(tools, request, ['r1'], { trace: traceOf(undefined), occasion });
    assert.deepEqual(
      made.away.map(({ remote, planned }) => [remote, planned]),
      [['r1', false]],
    );
  });

  it('of a schedule also waits for hosts that may have instances which name the schedule', async () => {
    const web = { name: 'web', project: 'default', status: 'Running', config: {} };
    const page = gzipSync(JSON.stringify({ items: [web], more: false }));
    const request = async (subject: string) => {
      if (subject.includes('.r2.')) throw new TimeoutError();
      return { data: page };
    };
    const nats = {
      ...{ assertConnected: () => undefined, whileConnected: (use: () => unknown) => use(), connection: { request } },
    } as unknown as Nats;
    const created = Promise.withResolvers<RunChild[]>();
    const create = async (head: Run, children: RunChild[]) => {
      created.resolve(children);
      return head;
    };
    const store = { find: async () => undefined, create } as unknown as RunStore;
    const db = { remote: 'r2', project: 'default', instance: 'db', excluded: false, schedules: ['nightly'] };
    const tools: RunTools = { nats, runs: store, inventoryTimeoutMs: 1, lastKnown: async () => [db] };
    const occasion = { class: 'scheduled' as const, schedule: { name: 's', slot: '', starts_at: run.created_at } };
    const selector = { instances: ['web'], schedule: 'nightly' };
    const made = await createRun(tools, { selector }, ['r1', 'r2'], { trace: traceOf(undefined), occasion });
    assert.deepEqual(
      made.away.map(({ remote, planned }) => [remote, planned]),
      [['r2', false]],
    );
    assert.deepEqual((await created.promise).map(({ instance }) => instance).sort(), ['db', 'web']);
    const byName = await createRun(tools, { selector: { instances: ['web'] } }, ['r1', 'r2'], {
      trace: traceOf(undefined),
    });
    assert.deepEqual(byName.away, []);
  });

  it('that backs up everything is a Success, whatever was missed before', () => {
    const note = '2 earlier times of schedule nightly were missed';
    const done = children.map((child) => ({ ...child, state: 'success' as const }));
    assert.equal(endOf(runOf(done, { note })), 'Success');
  });

  it('that has ended is told of once, by the schema', () => {
    assert.deepEqual(faultsOf('run-answers.json#/$defs/notice', runNoticeOf(run)), []);
    assert.equal(runNoticeOf(runOf(children)), undefined);
  });

  it('is reported in Markdown that nothing in it can break', () => {
    const shown = shownRun(run, everything, new Date(Date.parse(run.created_at) + 10_000));
    assert.ok(shown);
    const text = markdownOf({ ...shown, children: children.map((child) => ({ ...child, operation: '' })) }, String);
    assert.match(text, /^# Backups: Failure, 1 of 4\n/);
    assert.match(text, /\n## Failed\n\n- c2 \(r1, web\): no \\\*room\\\*\n/);
    assert.match(text, /\n## Skipped\n\n- c3 /);
    assert.match(
      markdownOf({ ...shown, note: '2 were *missed*', children: [] }, String),
      /\n\n2 were \\\*missed\\\*\.\n/,
    );
  });
});
