/** Which backups all schedules expect to exist by now. */
import { mapInTurns } from '../../concurrency/mapInTurns.ts';
import type { Address } from '../../contract/schemas.ts';
import { type Expectation, type ExpectationOptions, expectationOf } from '../../fleet/expectations.ts';
import { hasEnded } from '../../runs/fold.ts';
import type { RunStore } from '../../runs/runStore.ts';
import { runRequest } from '../../schedules/scheduler.ts';
import type { ScheduleStore, StoredSchedule } from '../../schedules/scheduleStore.ts';
import type { MatchedInstances } from './matchedInstances.ts';

interface ExpectedBackupsOptions {
  schedules: ScheduleStore;
  runs: RunStore;
  matched: MatchedInstances;
  /** How long a run may take before its missing backups count as overdue. */
  patienceMs: number;
}

interface Known {
  revision: number;
  isOpen: boolean;
  atMs: number;
  expectation: Expectation;
}

/** How long results are kept: finding the last time of a rule takes milliseconds, and the result changes only as time passes. */
const knownForMs = 10_000;

export class ExpectedBackups {
  readonly #options: ExpectedBackupsOptions;
  #known = new Map<string, Known>();

  constructor(options: ExpectedBackupsOptions) {
    this.#options = options;
  }

  /** Throws nats-unavailable. */
  async current(now: Date): Promise<{ expectations: Expectation[]; schedules: StoredSchedule[] }> {
    const { schedules: store, runs, matched, patienceMs } = this.#options;
    const schedules = await store.list();
    const selectorOf = ({ schedule: { name, definition } }: StoredSchedule) =>
      runRequest(name, definition, '').selector;
    const matches = await matched.current(schedules.map(selectorOf));
    const isOpen = async ({ schedule: { last, name }, revision }: StoredSchedule) => {
      const before = this.#known.get(name);
      // A run that has ended does not change any more.
      const isOver = before?.revision === revision && !before.isOpen;
      const run = last && !isOver ? (await runs.find(last.run))?.run : undefined;
      return run !== undefined && !hasEnded(run);
    };
    const open = await Promise.all(schedules.map(isOpen));
    const known = await mapInTurns(schedules.entries(), ([index, stored]) => {
      const selector = selectorOf(stored);
      const each = { isOpen: open[index] ?? false, matches: (address: Address) => matches(selector, address) };
      return this.#expected(stored, { now, patienceMs, ...each });
    });
    this.#known = new Map(known.map((each) => [each.expectation.schedule, each]));
    return { expectations: known.map(({ expectation }) => expectation), schedules };
  }

  #expected({ schedule, revision }: StoredSchedule, options: ExpectationOptions): Known {
    const before = this.#known.get(schedule.name);
    const atMs = options.now.getTime();
    if (before?.revision === revision && before.isOpen === options.isOpen && atMs - before.atMs < knownForMs)
      return before;
    const known = { revision, isOpen: options.isOpen, atMs, expectation: expectationOf(schedule, options) };
    // Another call that has begun in the meantime need not find it again.
    this.#known.set(schedule.name, known);
    return known;
  }
}
