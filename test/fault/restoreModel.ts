/** Whatever others do at whatever moment of a restore, and whoever dies there: nothing that is not ours is touched, and its end is true. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import type { Operation } from '../../services/contract/schemas.ts';
import type { Instance } from '../simulator/state.ts';
import {
  type Act,
  type Event,
  elsewhere,
  identity,
  type Moment,
  openShared,
  ownInstances,
  picture,
  type Scenario,
  type Shared,
  target,
  World,
} from './restoreWorld.ts';

const events: Event[] = ['none', 'cancel', 'death', 'takeover', 'restart'];

/** Renames it if it is there, and its new name is free. */
const rename =
  (from: (world: World) => string, to: string): Act =>
  (world) => {
    const instance = world.find(from(world));
    if (!instance || instance.isRunning || world.find(to)) return false;
    void world.state.renameInstance(instance, to);
    const renamed = world.find(to);
    if (renamed && world.others.has(renamed.serial)) world.remember(renamed);
    return true;
  };
const change =
  (of: (world: World) => string, how: (world: World, instance: NonNullable<ReturnType<World['find']>>) => void): Act =>
  (world) => {
    const instance = world.find(of(world));
    if (!instance) return false;
    const isTheirs = world.others.has(instance.serial);
    how(world, instance);
    if (isTheirs && world.others.has(instance.serial)) world.remember(instance);
    return true;
  };
const names = {
  target: () => target,
  'the imported': (world: World) => world.imported,
  'the replaced': (world: World) => world.replaced,
};

const acts: Record<string, Act> = {
  nothing: () => true,
  'rename the original back': rename(() => elsewhere, target),
  'rename the target away': rename(() => target, 'moved'),
  'import the archive themselves': (world) => {
    if (world.find(target)) return false;
    world.remember(world.make(target));
    return true;
  },
};
/** Stops what has the name, renames it away, and starts another one in its place. */
acts['exchange the target'] = (world) => {
  const instance = world.find(target);
  // Before it was seen, the other one is what `replace` was asked for.
  const isSeen = !world.scenario.body.replace || world.operation.checkpoint?.givingWay !== undefined;
  if (!instance || world.find('moved') || !isSeen) return false;
  [instance.isRunning, instance.isFrozen] = [false, false];
  acts['rename the target away']?.(world);
  const other = world.make(target);
  other.isRunning = true;
  world.remember(other);
  return true;
};
for (const [name, of] of Object.entries(names)) {
  acts[`start ${name}`] = change(of, (_, instance) => {
    instance.isRunning = true;
  });
  acts[`delete ${name}`] = change(of, (world, instance) => {
    world.others.delete(instance.serial);
    void world.state.removeInstance(instance);
  });
  acts[`protect ${name}`] = change(of, (_, instance) => {
    instance.config['security.protection.delete'] = 'true';
  });
}

/** Keys that a restore sets for a time. */
function marksOf({ config }: Instance): string[] {
  return Object.keys(config).filter((key) => key.startsWith('user.lxstow') || key === 'boot.autostart');
}

/** What `replace` was asked for is gone, or is as it was, under the name that it had or that others gave it. */
function assertGivenWay(world: World, now: Instance | undefined, operation: Operation, act: string): void {
  const { status, err: why, checkpoint } = operation;
  if (status === 'Success' && (!now || now.name === world.replaced)) return;
  // The one that came in its place was taken away by others.
  if (!now && checkpoint?.swapped && /target/.test(act)) return;
  const at = world.find(target);
  if (now?.name === world.replaced && (!at || world.others.has(at.serial))) {
    assert.match(
      `${why} ${world.undone?.message}`,
      /(exists, as|is now named) lxstow-old-/,
      'nobody is told where it is',
    );
    return;
  }
  assert.ok(now, `what was to be replaced is gone: ${why}`);
  assert.notEqual(now.name, world.replaced, `it is put aside still: ${why} ${world.undone?.message}`);
  const { config } = now;
  assert.deepEqual(marksOf(now), [], why);
  if (act.startsWith('rename') || act.startsWith('exchange')) return;
  assert.equal(config['volatile.cloud-init.instance-id'], identity, why);
  assert.equal(config['volatile.apply_template'], undefined, why);
  assert.equal(now.isRunning, world.scenario.original === 'running' || /^start (target|the replaced)/.test(act), why);
}

/** Each scenario, with all acts and events at each call. */
export function model(title: string, scenarios: Scenario[]): void {
  describe(title, { timeout: 1_800_000 }, () => {
    let shared: Shared;
    before(async () => {
      shared = await openShared();
    });
    after(() => shared?.[Symbol.asyncDispose]());

    for (const scenario of scenarios) {
      it(`${scenario.name}, with one act and one event at each call to LXD`, async (t) => {
        const plain = new World(shared, scenario);
        const operation = await plain.run();
        assert.equal(operation.status, 'Success', operation.err);
        check(plain, operation, 'nothing', 'none');
        let runs = 0;
        const wrong: string[] = [];
        const ends: Record<string, number> = {};
        const first = plain.calls.findIndex((call) => call.startsWith(scenario.from ?? ''));
        for (const [call, name] of plain.calls.entries()) {
          if (call < first) continue;
          const whens = name.startsWith('GET') ? (['before'] as const) : (['before', 'after'] as const);
          for (const when of whens)
            for (const [act, does] of Object.entries(acts))
              for (const event of events) {
                const end = await once(scenario, { call, when }, act, does, event, wrong);
                if (end === undefined) break;
                runs += 1;
                ends[end] = (ends[end] ?? 0) + 1;
              }
        }
        assert.equal(wrong.length, 0, `${wrong.length} of ${runs} runs, the first: ${wrong[0]}`);
        t.diagnostic(`${plain.calls.length} calls, ${runs} runs: ${JSON.stringify(ends)}`);
      });
    }

    /** Undefined where the act cannot be done then. */
    async function once(scenario: Scenario, moment: Moment, act: string, does: Act, event: Event, wrong: string[]) {
      const world = new World(shared, scenario);
      const story = `${scenario.name}: ${act}, ${event}, ${moment.when} call ${moment.call}`;
      try {
        const operation = await world.run(moment, does, event);
        if (!world.acted) return undefined;
        check(world, operation, act, event);
        return operation.status === 'Failure' ? String(operation.error_code) : operation.status;
      } catch (error) {
        const there = world.state
          .allInstances()
          .map((each) => `${world.isOurs(each) ? 'ours' : 'theirs'} ${picture(each)}`);
        wrong.push(
          `${story}: ${error instanceof Error ? error.stack : error}\n${world.calls.join('\n')}\n${there.join('\n')}`,
        );
        return 'wrong';
      }
    }

    function check(world: World, operation: Operation, act: string, event: Event): void {
      const { state, scenario, original } = world;
      const all = state.allInstances();
      const isReplace = scenario.body.replace === true;
      const succeeded = operation.status === 'Success';
      const at = world.find(target);
      // What is others' is as they left it.
      for (const [serial, was] of world.others) {
        const now = all.find((each) => each.serial === serial);
        if (serial === original.serial && isReplace && scenario.original !== 'elsewhere') {
          assertGivenWay(world, now, operation, act);
          continue;
        }
        // LXD stops by name: what is exchanged between our change and the stop is stopped, and started again.
        const isBeforeStop = /^(PATCH|PUT) .*\/c1(\/state)?$/.test(world.happenedAt);
        if (
          act === 'exchange the target' &&
          isBeforeStop &&
          now?.name === target &&
          (now.isRunning || event === 'takeover')
        )
          continue;
        assert.ok(now, `an instance of others is gone: ${was}`);
        // LXD itself starts what ran where its archive was made.
        if (event === 'restart') now.isRunning = JSON.parse(was).isRunning;
        assert.equal(picture(now), was, `an instance of others has changed: ${operation.err}`);
      }
      if (succeeded) {
        assert.ok(
          world.calls.some((call) => call === 'POST /1.0/instances'),
          'nothing was imported',
        );
        const moved = world.find('moved');
        const handedOver = moved !== undefined && world.isOurs(moved) && marksOf(moved).length === 0;
        assert.ok(!at || world.isOurs(at) || handedOver, 'the target is another one');
        assert.ok(at || /target/.test(act), 'there is no target');
        if (at && act === 'nothing') {
          const runs = scenario.body.start === true || scenario.original === 'running';
          assert.equal(at.isRunning, runs);
          assert.equal(at.config['volatile.cloud-init.instance-id'], identity);
          assert.equal(at.config['volatile.apply_template'], undefined);
          assert.equal(at.config['boot.autostart'], undefined);
          assert.equal(at.config['user.lxstow.restored'], undefined);
        }
      }
      // What LXD makes of an upload whose sender is gone comes when the restore has ended: the janitor's.
      const isLate = event !== 'none' && world.happenedAt === 'POST /1.0/instances';
      for (const own of ownInstances(state).filter(({ name }) => name.endsWith(world.id))) {
        if (act === 'nothing' || act.startsWith('protect')) {
          const isKept = own.name === world.replaced && succeeded && act.startsWith('protect');
          assert.ok(
            isKept || isLate,
            `${own.name} is left: ${operation.status} ${operation.err} ${world.undone?.message}`,
          );
        }
        if (!act.startsWith('start')) assert.ok(!own.isRunning, `${own.name} runs`);
      }
    }
  });
}
