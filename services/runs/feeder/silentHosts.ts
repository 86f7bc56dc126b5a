/**
 * Hosts that the feeder hears nothing from. Finds out whether they are away, and which instances a host has that had not answered when a run was planned. A host may take long
 * to answer, and the others must not wait for it. So the feeder continues while the host is asked, and handles the answers between its rounds.
 */
import { asLxstowError, LxstowError } from '../../contract/errors.ts';
import type { Address } from '../../contract/schemas.ts';
import type { Bucket } from '../../nats/bucket/bucket.ts';
import type { Nats } from '../../nats/connection.ts';
import type { Log } from '../../telemetry/logger.ts';
import { chosenOn, type Heard } from '../candidates.ts';
import { count, withFailure } from '../fold.ts';
import { childId, chunksOf, longestReason, plan } from '../plan.ts';
import { missedFailure, missingFailure, whyEmpty } from '../unmatched.ts';
import type { Fleet, OpenRun } from './openRuns.ts';
import { remotesAway } from './remotesAway.ts';
import type { Records } from './runRecords.ts';

export interface SilentHostsOptions {
  nats: Nats;
  /** Where the leases are, and the records of outages. */
  leasesBucket: Bucket;
  inventoryTimeoutMs: number;
  /** How long a run waits for a host to list its instances. */
  patienceMs: number;
  log: Log;
}

interface Answers {
  /** Why hosts are away. */
  away: Map<string, string>;
  lists: List[];
}

/** The instances of a host that a run waits for, or why it does not list them. */
interface List {
  of: OpenRun;
  remote: string;
  heard: Heard | LxstowError;
}

export class SilentHosts {
  readonly #options: SilentHostsOptions;
  readonly #fleet: Fleet;
  readonly #records: Records;
  /** Called when `act` has something to do. */
  readonly #onAnswers: () => void;
  #isAsking = false;
  #answers: Answers | undefined;

  constructor(options: SilentHostsOptions, fleet: Fleet, records: Records, onAnswers: () => void) {
    this.#options = options;
    this.#fleet = fleet;
    this.#records = records;
    this.#onAnswers = onAnswers;
  }

  /** Asks each host about one of its instances, and the hosts that runs wait for about all; one round at a time. */
  ask(oneOfEach: Address[]): void {
    if (this.#isAsking) return;
    this.#isAsking = true;
    void this.#ask(oneOfEach)
      .then(
        (answers) => {
          this.#answers = answers;
          this.#onAnswers();
        },
        (error) => this.#options.log.warn('hosts are asked again', { error: asLxstowError(error) }),
      )
      .finally(() => {
        this.#isAsking = false;
      });
  }

  async #ask(oneOfEach: Address[]): Promise<Answers> {
    const { nats, leasesBucket, inventoryTimeoutMs } = this.#options;
    const unheard = this.#fleet.runs.flatMap((of) =>
      of.run.away.filter(({ planned }) => !planned).map(({ remote }) => ({ of, remote })),
    );
    const list = async ({ of, remote }: Omit<List, 'heard'>): Promise<List> => {
      const heard = chosenOn(nats, remote, of.run.request.selector, inventoryTimeoutMs);
      return { of, remote, heard: await heard.catch(asLxstowError) };
    };
    const [away, lists] = await Promise.all([
      remotesAway(nats, leasesBucket, oneOfEach),
      Promise.all(unheard.map(list)),
    ]);
    return { away, lists };
  }

  /** Records what the hosts have answered since the last call. Throws lease-lost when another gateway feeds the runs. */
  async act(): Promise<void> {
    const answers = this.#answers;
    if (!answers) return;
    this.#answers = undefined;
    for (const of of this.#fleet.runs) this.#note(of, answers.away);
    for (const { of, remote, heard } of answers.lists) {
      // The run may have ended or been cancelled in the meantime.
      const { away } = of.run;
      const waits = away.some((each) => each.remote === remote && !each.planned);
      if (!waits || this.#fleet.get(of.run.id) !== of) continue;
      if (heard instanceof LxstowError) this.#giveUpLate(of, remote, heard);
      else await this.#planLate(of, remote, heard);
    }
  }

  /** Records which of a run's hosts are away. */
  #note(of: OpenRun, reasons: Map<string, string>): void {
    const known = new Map(of.run.away.map((each) => [each.remote, each]));
    const now = new Date().toISOString();
    const away = of.run.away.filter(({ planned }) => !planned);
    for (const remote of this.#fleet.remotes(of)) {
      const reason = reasons.get(remote);
      if (reason === undefined || away.some((each) => each.remote === remote)) continue;
      away.push({ remote, since: known.get(remote)?.since ?? now, reason, planned: true });
    }
    if (JSON.stringify(away) !== JSON.stringify(of.run.away)) of.changed = true;
    of.run.away = away;
  }

  /** Adds children that the records did not name, skips those that the host lacks. */
  async #planLate(of: OpenRun, remote: string, heard: Heard): Promise<void> {
    const { run } = of;
    const known = new Map(this.#fleet.on(of, remote).map((each) => [each.id, each]));
    const meant = new Set(heard.addresses.map((address) => childId(run, address)));
    for (const [id, each] of known)
      if (!meant.has(id)) this.#fleet.settle(each, { state: 'skipped', reason: notThere(remote) });
    const more = heard.addresses.filter((address) => !known.has(childId(run, address)));
    for (const children of chunksOf(plan(more))) {
      await this.#records.addChunk(of, children);
      for (const child of children) count(run.places, child, 1);
      this.#fleet.addChunk(of, children);
    }
    run.away = run.away.filter((each) => each.remote !== remote);
    run.excluded += heard.excluded;
    this.#noteUnmatched(of, heard.known);
    // Write this before a child is queued, so that the next holder of the lease knows of it.
    await this.#records.write(of, false);
  }

  /** Removes the host's instances from the missing names; after the last host, what is still missing is a failure. */
  #noteUnmatched({ run, chunks }: OpenRun, known: ReadonlySet<string>): void {
    const children = chunks.flat().map(({ child }) => child);
    const there = children.filter(({ remote, reason }) => reason !== notThere(remote));
    // A gateway of an earlier version may have planned a host's children and left their names.
    const planned = new Set(there.map(({ instance }) => instance));
    const missing = run.missing?.filter((name) => !known.has(name) && !planned.has(name));
    const isLast = run.away.every(({ planned }) => planned);
    run.missing = isLast ? undefined : missing;
    // Absent if a host was given up: it may have what is missing.
    if (!isLast || !missing) return;
    run.failures = [
      ...(there.length === 0 ? [missedFailure(whyEmpty(run.excluded))] : []),
      ...missing.map((name) => missingFailure(name)),
    ].reduce(withFailure, run.failures);
  }

  /** Keeps waiting for the host, or, after `patienceMs`, fails its children. */
  #giveUpLate(of: OpenRun, remote: string, { message: reason, code }: LxstowError): void {
    const { run } = of;
    const since = run.away.find((each) => each.remote === remote)?.since ?? run.created_at;
    if (Date.now() - Date.parse(since) < this.#options.patienceMs) {
      run.away = run.away.map((each) => (each.remote === remote ? { ...each, reason } : each));
      return;
    }
    const given = `host ${remote} has not answered since ${since}: ${reason}`;
    run.failures = withFailure(run.failures, { remote, project: '', instance: '', reason: given, error_code: code });
    for (const each of this.#fleet.on(of, remote))
      this.#fleet.settle(each, { state: 'failure', reason: given.slice(0, longestReason), error_code: code });
    run.away = run.away.filter((each) => each.remote !== remote);
    run.missing = undefined;
    of.changed = true;
  }
}

/** Why a child that was planned from the records is skipped. */
function notThere(remote: string): string {
  return `planned from the records of host ${remote}, which no longer has it, or excludes it`;
}
