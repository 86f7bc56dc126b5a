/** A nudge tells a worker to read its operation again, after a cancel request. It may be lost: the worker reads at each heartbeat anyway. */
import type { Operation } from '../contract/schemas.ts';
import type { Nats } from '../nats/connection.ts';
import { nudgeSubject } from '../nats/subjects.ts';
import { listen } from '../nats/subscriptions.ts';

export function nudge(nats: Nats, remote: string, operation: string): void {
  nats.connection.publish(nudgeSubject(remote, operation));
}

/** Receives the nudges of a remote's operations by one subscription. */
export class Nudges implements Disposable {
  readonly #looks = new Map<string, () => void>();
  readonly #listening: Disposable;

  constructor(nats: Nats, remote: string) {
    this.#listening = listen(nats, nudgeSubject(remote, '*'), ({ subject }) =>
      this.#looks.get(subject.slice(subject.lastIndexOf('.') + 1))?.(),
    );
  }

  /** Calls `look` at each nudge of this operation, until disposed. */
  on({ id }: Pick<Operation, 'id'>, look: () => void): Disposable {
    this.#looks.set(id, look);
    const forget = () => {
      if (this.#looks.get(id) === look) this.#looks.delete(id);
    };
    return { [Symbol.dispose]: forget };
  }

  [Symbol.dispose](): void {
    this.#listening[Symbol.dispose]();
  }
}
