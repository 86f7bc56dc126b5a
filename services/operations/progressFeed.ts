/** The progress of all running operations, as their workers publish it; a gateway adds it to the records that it shows. */
import { parseJson } from '../contract/json.ts';
import { check, type Operation, type Progress } from '../contract/schemas.ts';
import type { Feed } from '../nats/bucket/feed.ts';
import { operationKey } from '../nats/bucketKeys.ts';
import type { Nats } from '../nats/connection.ts';
import { parseProgressSubject, progressSubject } from '../nats/subjects.ts';
import { listen } from '../nats/subscriptions.ts';
import { isAtWork, withProgress } from './operationProgress.ts';
import { keyOf, type OperationStore } from './operationStore.ts';

/** The number of operations whose last progress is remembered: about 4 kB each. */
const mostRemembered = 4096;
/** Records that are read at a time, of operations that have not changed since this gateway started. */
const mostReads = 16;

export class ProgressFeed implements Disposable {
  readonly #nats: Nats;
  readonly #operations: Pick<OperationStore, 'find'>;
  /** Running operations by their keys, that which was silent for longest first. A worker may publish the progress of its host's operations only. */
  readonly #known = new Map<string, { operation: Operation; progress?: Progress }>();
  readonly #reading = new Set<string>();
  readonly #listeners: ((operation: Operation) => void)[] = [];
  readonly #subscription: Disposable;

  constructor(nats: Nats, operations: Pick<OperationStore, 'find'>, changes: Pick<Feed<Operation>, 'onChange'>) {
    this.#nats = nats;
    this.#operations = operations;
    changes.onChange((operation) => this.#see(operation));
    this.#subscription = listen(nats, progressSubject('*', '*'), ({ subject, data }) => this.#hear(subject, data));
  }

  /** Calls `see` with each operation whose progress was published. */
  onProgress(see: (operation: Operation) => void): void {
    this.#listeners.push(see);
  }

  /** The operation with its latest progress. */
  latest(operation: Operation): Operation {
    return withProgress(operation, this.#known.get(keyOf(operation))?.progress);
  }

  [Symbol.dispose](): void {
    this.#subscription[Symbol.dispose]();
  }

  #see(operation: Operation): void {
    const key = keyOf(operation);
    const progress = this.#known.get(key)?.progress;
    this.#known.delete(key);
    if (isAtWork(operation)) this.#remember({ operation, ...(progress && { progress }) });
  }

  #hear(subject: string, data: Uint8Array): void {
    const named = parseProgressSubject(subject);
    if (!named) return;
    try {
      const progress = check('progress.json', parseJson(data, 'progress', 'bad-message'), 'progress', 'bad-message');
      const known = this.#known.get(operationKey(named.remote, named.operation))?.operation;
      if (known) this.#passOn(known, progress);
      else void this.#read(named, progress);
    } catch (error) {
      this.#nats.log.debug('progress that cannot be read', { subject, error });
    }
  }

  #passOn(operation: Operation, progress: Progress): void {
    const shown = withProgress(operation, progress);
    if (shown === operation) return;
    this.#known.delete(keyOf(operation));
    this.#remember({ operation, progress });
    for (const see of this.#listeners) see(shown);
  }

  #remember(known: { operation: Operation; progress?: Progress }): void {
    this.#known.set(keyOf(known.operation), known);
    const [oldest] = this.#known.keys();
    if (this.#known.size > mostRemembered && oldest !== undefined) this.#known.delete(oldest);
  }

  async #read({ remote, operation: id }: { remote: string; operation: string }, progress: Progress): Promise<void> {
    const key = operationKey(remote, id);
    if (this.#reading.has(key) || this.#reading.size >= mostReads) return;
    this.#reading.add(key);
    try {
      const found = await this.#operations.find(id, remote);
      if (found) this.#passOn(found.operation, progress);
    } catch (error) {
      this.#nats.log.debug('the record of an operation was not read', { operation: id, error });
    } finally {
      this.#reading.delete(key);
    }
  }
}
