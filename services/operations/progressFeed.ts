/** The progress of all running operations, as their workers tell it: what a gateway adds to the records that it shows. */
import { parseJson } from '../contract/json.ts';
import { check, type Operation, type Progress } from '../contract/schemas.ts';
import type { Feed } from '../nats/bucket/feed.ts';
import type { Nats } from '../nats/connection.ts';
import { parseProgressSubject, progressSubject } from '../nats/subjects.ts';
import { listen } from '../nats/subscriptions.ts';
import { isAtWork, withProgress } from './operationProgress.ts';
import type { OperationStore } from './operationStore.ts';

/** Of so many operations it remembers what was told last: some 4 kB each. */
const mostRemembered = 4096;
/** Records that are read at a time, of operations that have not changed since this gateway started. */
const mostReads = 16;

export class ProgressFeed implements Disposable {
  readonly #nats: Nats;
  readonly #operations: Pick<OperationStore, 'find'>;
  /** Running operations, that which was silent for longest first. */
  readonly #known = new Map<string, { operation: Operation; told?: Progress }>();
  readonly #reading = new Set<string>();
  readonly #listeners: ((operation: Operation) => void)[] = [];
  readonly #subscription: Disposable;

  constructor(nats: Nats, operations: Pick<OperationStore, 'find'>, changes: Pick<Feed<Operation>, 'onChange'>) {
    this.#nats = nats;
    this.#operations = operations;
    changes.onChange((operation) => this.#see(operation));
    this.#subscription = listen(nats, progressSubject('*', '*'), ({ subject, data }) => this.#hear(subject, data));
  }

  /** Calls `see` with each operation of which progress was told. */
  onProgress(see: (operation: Operation) => void): void {
    this.#listeners.push(see);
  }

  /** The operation with its latest progress. */
  latest(operation: Operation): Operation {
    return withProgress(operation, this.#known.get(operation.id)?.told);
  }

  [Symbol.dispose](): void {
    this.#subscription[Symbol.dispose]();
  }

  #see(operation: Operation): void {
    const { id } = operation;
    const told = this.#known.get(id)?.told;
    this.#known.delete(id);
    if (isAtWork(operation)) this.#remember({ operation, ...(told && { told }) });
  }

  #hear(subject: string, data: Uint8Array): void {
    const named = parseProgressSubject(subject);
    if (!named) return;
    try {
      const told = check('progress.json', parseJson(data, 'progress', 'bad-message'), 'progress', 'bad-message');
      const known = this.#known.get(named.operation)?.operation;
      if (known) this.#tell(known, named.remote, told);
      else void this.#read(named, told);
    } catch (error) {
      this.#nats.log.debug('progress that cannot be read', { subject, error });
    }
  }

  /** Ignores what a worker tells of another host's operation. */
  #tell(operation: Operation, remote: string, told: Progress): void {
    const { id } = operation;
    if (operation.remote !== remote) return;
    const shown = withProgress(operation, told);
    if (shown === operation) return;
    this.#known.delete(id);
    this.#remember({ operation, told });
    for (const see of this.#listeners) see(shown);
  }

  #remember(known: { operation: Operation; told?: Progress }): void {
    this.#known.set(known.operation.id, known);
    const [oldest] = this.#known.keys();
    if (this.#known.size > mostRemembered && oldest !== undefined) this.#known.delete(oldest);
  }

  async #read({ remote, operation: id }: { remote: string; operation: string }, told: Progress): Promise<void> {
    if (this.#reading.has(id) || this.#reading.size >= mostReads) return;
    this.#reading.add(id);
    try {
      const found = await this.#operations.find(id, remote);
      if (found) this.#tell(found.operation, remote, told);
    } catch (error) {
      this.#nats.log.debug('the record of an operation was not read', { operation: id, error });
    } finally {
      this.#reading.delete(id);
    }
  }
}
