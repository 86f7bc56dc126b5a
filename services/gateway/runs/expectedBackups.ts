/** Which backups all schedules expect to exist by now. */
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
    const expected = async (stored: StoredSchedule) => {
      const { last, name } = stored.schedule;
      const before = this.#known.get(name);
      // A run that has ended does not change any more.
      const isOver = before?.revision === stored.revision && !before.isOpen;
      const run = last && !isOver ? (await runs.find(last.run))?.run : undefined;
      const selector = selectorOf(stored);
      const isOpen = run !== undefined && !hasEnded(run);
      return this.#expected(stored, { now, patienceMs, isOpen, matches: (address) => matches(selector, address) });
    };
    const known = await Promise.all(schedules.map(expected));
    this.#known = new Map(known.map((each) => [each.expectation.schedule, each]));
    return { expectations: known.map(({ expectation }) => expectation), schedules };
  }

  #expected({ schedule, revision }: StoredSchedule, options: ExpectationOptions): Known {
    const before = this.#known.get(schedule.name);
    const atMs = options.now.getTime();
    if (before?.revision === revision && before.isOpen === options.isOpen && atMs - before.atMs < knownForMs)
      return before;
    return { revision, isOpen: options.isOpen, atMs, expectation: expectationOf(schedule, options) };
  }
}
